"""A teacher that tells log-probabilities alone, against the same model loaded here."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from http_servers import Asked, answering
from model_server import serving
from scenes import ENV, Scene, assert_same, disturbed, episodes, scene_of
from test_served_teacher import taught_by

from agentopd.base.types import Listed
from agentopd.base.written import ConfigError
from agentopd.models.model import ModelSettings, load_model
from agentopd.models.passes import Reading
from agentopd.models.speakers import InTurn, ListedTokens
from agentopd.running.reading import parse_config
from agentopd.serving.completions import CompletionServer
from agentopd.serving.http import HttpClient, ServerError, ServerSettings
from agentopd.serving.models import ServedModel
from agentopd.teacher import Teacher
from agentopd.teachers.external import ExternalTeacher

TOP = 12
SAMPLED = [
    f"divergence={{kind: reverse_kl, support: sampled, estimator: {estimator}}}"
    for estimator in ("k1", "truncated", "k2", "rho_k3", "gated", "reward_to_go")
] + ["divergence={kind: forward_kl, support: sampled, estimator: importance}"]
LISTED = [
    f"divergence={{kind: {kind}, support: {{kind: teacher_top_k, k: {k}, rest: {rest}}}}}"
    for kind in ("reverse_kl", "forward_kl", "jsd", "skew")
    for k in (3, TOP)
    for rest in ("tail", "renormalise")
] + [
    "divergence={kind: forward_kl, support: {kind: teacher_top_k, k: 5, rest: raw}}",
    "divergence={kind: reverse_kl, target: veto, support: {kind: teacher_top_k, k: 5}}",
    "divergence={kind: reverse_kl, target: extrapolate, support: {kind: teacher_top_k, k: 5}}",
]


@dataclass(frozen=True)
class Twins:
    """One step under the same teacher, loaded here and on a server that tells log-probabilities."""

    here: Scene
    there: Scene
    folder: str


def _teacher(url: str, folder: str, **settings: Any) -> Teacher:
    server = {"url": url, "patience": 0.0}
    told = {"kind": "logprobs", "server": server, "source": {"path": folder}, "top": TOP}
    return Teacher.model_validate(told | settings)


@pytest.fixture(scope="module", params=["prompt_logprobs", "echo"])
def twins(
    request: pytest.FixtureRequest, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Twins]:
    student = scene_of(tiny_model).student
    folder = tmp_path_factory.mktemp("teacher")
    disturbed(load_model(ModelSettings(path=str(tiny_model))), 2).save(folder)
    local = ExternalTeacher(source=ModelSettings(path=str(folder)))
    local.prepare(student)
    played = episodes(student.vocabulary)
    with serving(local.model) as (url, _):
        served = _teacher(url, str(folder), asking=request.param, tokens_per_batch=64)
        served.prepare(student)
        here, there = (
            Scene(student, teacher, played, taught_by(teacher, student, played))
            for teacher in (local, served)
        )
        yield Twins(here, there, str(folder))


@pytest.mark.parametrize("method", [*SAMPLED, *LISTED])
def test_on_what_is_told_it_is_the_model_here(twins: Twins, method: str) -> None:
    expected, by_expected, _ = twins.here.learn(method)
    found, by_found, _ = twins.there.learn(method)
    assert expected.loss is not None and found.loss is not None
    assert by_expected is not None and by_found is not None
    assert abs(found.loss - expected.loss) <= 1e-4 * max(1.0, abs(expected.loss))
    assert_same(by_found, by_expected, within=1e-4)


def test_what_is_not_told_is_in_no_record(twins: Twins) -> None:
    update, _, _ = twins.there.learn(SAMPLED[0])
    unknown = {"teacher_entropy", "entropy_gap", "overlap", "overlap_advantage"}
    assert not unknown & (update.scalars.keys() | update.probes["by_turn"].keys())
    mass = []
    for lesson in twins.here.lessons:
        assert lesson.hidden_NH is not None
        q_NV = twins.here.teacher.model.logits(lesson.hidden_NH).softmax(-1)
        mass.append(q_NV.topk(TOP).values.sum(-1))
    assert update.scalars["teacher_mass"] == pytest.approx(float(torch.cat(mass).mean()), abs=1e-5)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["divergence=reverse_kl"], "looks at tokens that teacher: logprobs does not tell"),
        (["divergence={kind: jsd, support: {kind: union_top_k, k: 3}}"], "does not tell"),
        (["divergence={kind: jsd, support: {kind: student_top_k, k: 3}}"], "does not tell"),
        (["divergence={kind: jsd, support: {kind: teacher_top_k, k: 13}}"], "its 12 likeliest"),
        (["divergence={kind: entropy_switched, support: {kind: teacher_top_k, k: 3}}"], "all of"),
        ([SAMPLED[0], "weight={kind: entropy, whose: teacher}"], "weight: entropy"),
        ([SAMPLED[0], "weight=overlap"], "weight: overlap"),
        ([SAMPLED[0], "save.scores_top_k=8"], "save.scores_top_k"),
        ([SAMPLED[0], "rollout.temperature=0.7"], "temperature 1 alone"),
    ],
)
def test_what_needs_more_is_refused_when_it_is_read(overrides: list[str], said: str) -> None:
    teacher = {"kind": "logprobs", "server": "http://127.0.0.1:1", "source": {}, "top": TOP}
    with pytest.raises(ConfigError, match=said):
        parse_config({**ENV, "teacher": teacher}, overrides)
    parse_config({**ENV, "teacher": teacher}, [SAMPLED[0], "weight={kind: entropy}"])


def test_a_place_is_known_where_everything_asked_for_is_told(twins: Twins) -> None:
    ids_T = twins.there.lessons[3].trajectory.ids
    rows: list[Any] = [None, *({str(i): {"logprob": -1.0, "rank": 1}} for i in ids_T[1:].tolist())]
    rows[2], rows[5] = None, {str(ids_T[5] + 1): {"logprob": -2.0, "rank": 2}}
    rows[7][str(ids_T[7])]["logprob"] = math.nan
    rows[9][str(ids_T[9])]["logprob"] = -9999.0
    with answering(lambda asked: asked.say({"choices": [{"prompt_logprobs": rows[:-1]}]})) as url:
        client, model = HttpClient(ServerSettings(url=url)), ServedModel("m", math.inf)
        server = CompletionServer(client, model, "prompt_logprobs", 0, 4_096)
        (told,) = server.told([Reading(ids_T, np.arange(len(ids_T) - 1))])
    assert (~told.known_N).nonzero()[0].tolist() == [1, 4, 6, 8, len(ids_T) - 2]
    assert set(told.logprob_N[torch.from_numpy(told.known_N)].tolist()) == {-1.0}


def test_a_lesson_leaves_out_what_is_not_told(
    twins: Twins, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = twins.there.lessons
    read = CompletionServer._read

    def forgetful(self: CompletionServer, reading: Reading, choice: Any) -> Any:
        told = read(self, reading, choice)
        known_N = np.arange(len(told.known_N)) % 4 != 1
        return replace(told, known_N=known_N)

    monkeypatch.setattr(CompletionServer, "_read", forgetful)
    lessons = taught_by(twins.there.teacher, twins.here.student, twins.here.trajectories)
    for lesson, before in zip(lessons, whole, strict=True):
        was, now = before.trajectory.trainable, lesson.trajectory.trainable
        assert now.sum() == sum(n % 4 != 1 for n in range(was.sum())) and not (now & ~was).any()
        assert lesson.listed is not None and len(lesson.listed.logprob_N) == now.sum()
    found = twins.there.gradient(SAMPLED[0], lessons=lessons)
    cut = [
        replace(x, trajectory=y.trajectory)
        for x, y in zip(twins.here.lessons, lessons, strict=True)
    ]
    kept = []
    for lesson, narrow in zip(twins.here.lessons, cut, strict=True):
        assert lesson.hidden_NH is not None
        chosen = narrow.trajectory.trainable[lesson.trajectory.trainable]
        kept.append(replace(narrow, hidden_NH=lesson.hidden_NH[torch.from_numpy(chosen)]))
    assert_same(found, twins.here.gradient(SAMPLED[0], lessons=kept), within=1e-4)


def test_a_server_that_tells_nothing_is_refused(twins: Twins) -> None:
    def silent(asked: Asked) -> None:
        if asked.path == "/v1/models":
            asked.say({"data": [{"id": "teacher"}]})
        else:
            asked.say({"choices": [{"prompt_logprobs": [None, None, None]}]})

    with answering(silent) as url, pytest.raises(ServerError, match="does not tell its log-prob"):
        _teacher(url, twins.folder).prepare(twins.here.student)


@pytest.mark.parametrize("answer", [{}, [], {"choices": [{}]}, {"choices": []}])
def test_an_answer_of_another_form_is_told(twins: Twins, answer: Any) -> None:
    def strange(asked: Asked) -> None:
        asked.say({"data": [{"id": "teacher"}]} if asked.path == "/v1/models" else answer)

    with answering(strange) as url, pytest.raises(ServerError, match="the answer holds no"):
        _teacher(url, twins.folder).prepare(twins.here.student)


def test_another_vocabulary_is_refused(twins: Twins) -> None:
    with pytest.raises(ValueError, match="have different vocabularies"):
        _teacher("http://127.0.0.1:1", "zoo:sokoban-easy").prepare(twins.here.student)


def test_the_rest_is_below_what_is_listed_and_sums_to_one() -> None:
    """Also of a token that is nearly certain, whose rest is a rounding."""
    logits_NV = torch.randn(6, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    logits_NV[3:] *= 30
    q_NV = logits_NV.log_softmax(-1)
    top, ids_N = q_NV.topk(5), torch.arange(6)
    own_N = q_NV.gather(1, ids_N[:, None]).squeeze(1)
    listed = Listed(logprob_N=own_N.float(), ids_NK=top.indices, logprob_NK=top.values.float())
    said = ListedTokens(listed, ids_N, 40)
    found_NV = said.logits(6)(slice(0, 6))
    assert torch.equal(found_NV.topk(5).indices, top.indices)
    assert (found_NV.gather(1, ids_N[:, None]).squeeze(1) - own_N).abs().max() < 1e-5
    assert (found_NV[:3].logsumexp(-1).abs() < 1e-5).all()
    assert (found_NV[3:].logsumexp(-1) < 1e-5).all()
    together = InTurn([said, said])
    assert torch.equal(together.logits(4)(slice(4, 8)), torch.cat([found_NV[4:], found_NV[:2]]))
    with pytest.raises(ValueError, match="lists a token of id"):
        replace(said, size=int(top.indices.max())).check("teacher")
