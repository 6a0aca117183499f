"""Language models that play against the student: here, behind a server, or the student itself."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from http_servers import Asked, answering, free_port
from safetensors.torch import load_file

import agentopd
from agentopd.base.stopping import Interrupted
from agentopd.base.types import EndReason, Owner
from agentopd.environment.opponents import OpponentFailed, read_opponent
from agentopd.environment.settings import EnvSettings
from agentopd.models.model import LanguageModel, ModelSettings, load_model
from agentopd.rollout.opponents import model as models
from agentopd.rollout.opponents.model import Speaker
from agentopd.rollout.opponents.rival import Rival
from agentopd.rollout.policies import Rollout
from agentopd.rollout.transformers_sampler import TransformersSampler
from agentopd.running.reading import parse_config
from agentopd.running.train import train

pytest.importorskip("textarena")

NIM = "textarena:Nim-v0"


def make(name: str, options: dict[str, Any] | None = None) -> Any:
    return agentopd.make(name, options)


@pytest.fixture(scope="module")
def student(tiny_model: Path) -> LanguageModel:
    return load_model(ModelSettings(path=str(tiny_model)))


def against(opponent: Any, **options: Any) -> EnvSettings:
    return EnvSettings(id=NIM, options={"opponent": opponent, "prompt": "brief", **options})


def model_opponent(folder: Path, **more: Any) -> dict[str, Any]:
    return {"kind": "model", "model": str(folder), "max_turn_tokens": 5, **more}


def played(env: EnvSettings, student: LanguageModel, **limits: Any) -> Any:
    rollout = Rollout.model_validate(
        {"kind": "student", "tasks": 4, "max_turns": 3, "max_turn_tokens": 6} | limits
    )
    return rollout.collect(env, student, TransformersSampler(student), seed=0, step=0)


def test_a_model_plays_the_same_under_the_same_seed(tiny_model: Path, monkeypatch: Any) -> None:
    loaded = []
    monkeypatch.setattr(models, "load_model", lambda s: loaded.append(s) or load_model(s))
    models._speaker.cache_clear()
    told: list[str] = []
    answer = models._ModelPlayer.answer
    monkeypatch.setattr(
        models._ModelPlayer, "answer", lambda self, asked: told.append(answer(self, asked)) or ""
    )
    said: dict[int, list[str]] = {}
    for seed in (1, 1, 3):
        env = make(NIM, {"opponent": model_opponent(tiny_model), "prompt": "brief", "seat": 1})
        told.clear()
        _, info = env.reset(seed=seed)
        assert info["metrics"]["opponent_refused"] == len(told) == 2  # and a move of chance
        assert said.setdefault(seed, [*told]) == told
        env.close()
    assert said[1] != said[3]
    assert len(loaded) == 1


def test_no_token_of_the_opponent_is_the_students(tiny_model: Path, student: LanguageModel) -> None:
    episodes = played(against(model_opponent(tiny_model)), student)
    assert {t.end for t in episodes} == {EndReason.TURN_LIMIT}
    for t in episodes:
        own = [i for turn in t.turns for i in range(turn.start, turn.stop)]
        assert [i for i, owner in enumerate(t.owner) if owner != Owner.TEMPLATE] == own
        assert [i for i, taught in enumerate(t.trainable) if taught] == own
        assert t.turns[0].info["metrics"]["opponent_refused"] >= 0


def test_what_a_model_says_is_what_a_plain_conversation_would(student: LanguageModel) -> None:
    """Two players in one cache, turn about, say what each would alone."""
    from agentopd.environment.opponents import Asked as Move
    from agentopd.environment.opponents import Seat
    from agentopd.rollout.opponents.speaking import Speaking

    class Loud(Speaking):
        def sit(self, seat: Seat) -> Any:
            raise NotImplementedError

    settings = Loud(max_turn_tokens=6)
    talks = {seed: [f"up {seed}", "down", "left left"] for seed in (1, 2)}

    def ask(player: Any, text: str) -> str:
        return player.answer(Move(text, (), lambda depth: {}))

    alone = {}
    for seed, texts in talks.items():
        player = Speaker(student).open(settings, Seat("Sokoban", seed))
        alone[seed] = [ask(player, text) for text in texts]
    shared = Speaker(student)
    players = {seed: shared.open(settings, Seat("Sokoban", seed)) for seed in talks}
    together: dict[int, list[str]] = {1: [], 2: []}
    for turn in range(3):
        for seed, player in players.items():
            together[seed].append(ask(player, talks[seed][turn]))
    assert together == alone
    assert len({*map(tuple, alone.values())}) == 2


def test_a_full_context_starts_anew_with_what_was_said_first_and_last(
    tiny_model: Path, student: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    real = Speaker.ask

    def ask(self: Speaker, request: Any) -> Any:
        asked.append(len(request.ids))
        return real(self, request)

    monkeypatch.setattr(Speaker, "ask", ask)
    monkeypatch.setattr(LanguageModel, "positions", property(lambda self: 120))
    env = make(NIM, {"opponent": model_opponent(tiny_model), "prompt": "brief", "piles": [9, 9]})
    env.reset(seed=0)
    for _ in range(5):
        env.step(f"<action>{env.legal_actions()[0]}</action>")
    assert any(later < earlier for earlier, later in pairwise(asked))
    assert max(asked) + 5 <= 120
    monkeypatch.setattr(LanguageModel, "positions", property(lambda self: 20))
    with pytest.raises(OpponentFailed, match="the game alone fills one: lower its max_turn_tokens"):
        env.reset(seed=1)


def chat(says: Callable[[Mapping[str, Any]], Any], seen: list[Mapping[str, Any]]) -> Any:
    """A server with one model, which says so."""

    def answer(asked: Asked) -> None:
        if asked.path == "/v1/models":
            asked.say({"data": [{"id": "sage"}]})
            return
        seen.append(json.loads(asked.body))
        asked.say({"choices": [{"message": {"content": says(seen[-1])}}]})

    return answer


def test_a_server_plays_and_reads_its_own_side() -> None:
    seen: list[Mapping[str, Any]] = []
    said = "<think>hm</think><action>0 1</action>"
    with answering(chat(lambda body: said, seen)) as url:
        env = make(f"{NIM}?opponent={url}/v1&seat=1&prompt=brief")
        assert env.metadata["blocking"] and not make(f"{NIM}?opponent=random").metadata.get(
            "blocking"
        )
        shown, info = env.reset(seed=0)
        assert shown == "They played 0 1.\n2 4 5"
        shown = env.step("<action>1 1</action>")[0]
    first, second = seen
    assert shown == "They played 0 1.\n1 3 5"
    assert info["task_id"].startswith(f"Nim-v0/{url.removeprefix('http://')}/1/")
    assert first["messages"] == [
        {"role": "system", "content": env.system_prompt},
        {"role": "user", "content": "3 4 5"},
    ]
    assert second["messages"][2:] == [
        {"role": "assistant", "content": "<action>0 1</action>"},
        {"role": "user", "content": "They played 1 1.\n2 3 5"},
    ]
    assert (first["model"], first["temperature"], first["max_tokens"]) == ("sage", 1.0, 256)
    assert first["seed"] != second["seed"]


def test_a_server_that_fails_costs_the_episode_by_name(student: LanguageModel) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    server = {"kind": "server", "server": {"url": url, "patience": 0}}
    episodes = played(against(server), student, tasks=2)
    assert {t.end for t in episodes} == {EndReason.ERROR}
    for t in episodes:
        assert f"opponent {url.removeprefix('http://')}: {url}/v1/models: nothing" in t.error
        assert not t.success and not t.turns
    with (
        answering(lambda asked: asked.say({"data": [{"id": "a"}], "choices": 3})) as url,
        pytest.raises(OpponentFailed, match="the answer holds no message; does it know OpenAI's"),
    ):
        make(f"{NIM}?opponent={url}&seat=1").reset(seed=0)


def test_a_server_is_shown_the_examples() -> None:
    seen: list[Mapping[str, Any]] = []
    with answering(chat(lambda body: "<action>0 1</action>", seen)) as url:
        env = make(f"{NIM}?opponent={url}&seat=1&prompt=fewshot")
        env.reset(seed=0)
    roles = [message["role"] for message in seen[0]["messages"]]
    assert roles == ["system", *["user", "assistant"] * len(env.examples), "user"]
    assert seen[0]["messages"][2]["content"] == env.examples[0][1]


def test_an_empty_message_is_a_refused_answer() -> None:
    with answering(chat(lambda body: None, [])) as url:
        _, info = make(f"{NIM}?opponent={url}&seat=1").reset(seed=0)
    assert info["metrics"]["opponent_refused"] == 2.0


def test_self_is_brought_by_whoever_plays(student: LanguageModel) -> None:
    with pytest.raises(OpponentFailed, match="opponent self is the student, and nobody plays here"):
        make(f"{NIM}?opponent=self&seat=1").reset(seed=0)
    episodes = played(against({"kind": "self", "max_turn_tokens": 4}), student)
    assert {t.end for t in episodes} == {EndReason.TURN_LIMIT}
    assert sum(t.turns[-1].info["metrics"]["opponent_refused"] for t in episodes) > 0


def test_a_rival_is_the_student_of_the_last_multiple(tiny_model: Path) -> None:
    student = load_model(ModelSettings(path=str(tiny_model)))
    rival = Rival(student, every=2)
    start = {name: x.clone() for name, x in student.weights().items()}
    for step in range(4):
        with torch.no_grad():
            for weight in student.weights().values():
                weight.add_(1.0)
        rival.sync(student, step)
        behind = {0: 0.0, 1: 2.0, 2: 2.0, 3: 4.0}[step]
        for name, weight in rival.tensors().items():
            assert torch.allclose(weight, start[name] + behind, atol=1e-4), (step, name)


def _config(model: Path, *overrides: str) -> Any:
    data: dict[str, Any] = {
        "steps": 4,
        "threads": 1,
        "student": {"path": str(model)},
        "env": {"id": NIM, "options": {
            "prompt": "brief", "opponent": {"kind": "self", "every": 2, "max_turn_tokens": 4}}},
        "rollout": {"kind": "student", "tasks": 2, "max_turn_tokens": 5, "max_turns": 2},
        "teacher": {"kind": "ema", "rate": 0.3},
        "learner": {"learning_rate": 0.05},
        "evaluate": {"episodes": 2, "options": {"opponent": "random"}},
        "save": {"checkpoint_every": 0, "trajectories_every": 0},
    }  # fmt: skip
    return parse_config(data, overrides)


def test_a_run_against_itself_goes_on_to_the_same_weights(tiny_model: Path, tmp_path: Path) -> None:
    """Stopped after the third step, when the rival is a step behind."""

    def stop(line: dict[str, Any]) -> None:
        if line["step"] == 2:
            signal.raise_signal(signal.SIGINT)

    def tensors(name: str) -> dict[str, torch.Tensor]:
        files = (tmp_path / name / "checkpoints" / "latest").rglob("*.safetensors")
        return {f"{f.stem}/{n}": x for f in files for n, x in load_file(f).items()}

    config = _config(tiny_model)
    train(config, tmp_path / "whole")
    with pytest.raises(Interrupted):
        train(config, tmp_path / "halves", watch=stop)
    halfway = tensors("halves")
    name = next(n.removeprefix("rival/") for n in halfway if n.startswith("rival/"))
    assert not torch.equal(halfway[f"rival/{name}"], halfway[f"model/{name}"])
    train(config, tmp_path / "halves", resume=True)
    whole, halves = tensors("whole"), tensors("halves")
    assert whole.keys() == halves.keys()
    assert [name for name in whole if not torch.equal(whole[name], halves[name])] == []
    assert torch.equal(whole[f"rival/{name}"], whole[f"model/{name}"])  # renewed after the fourth


def test_a_run_against_others_saves_no_rival(tiny_model: Path, tmp_path: Path) -> None:
    train(_config(tiny_model, "env.options.opponent=random", "steps=1"), tmp_path / "run")
    files = {f.name for f in (tmp_path / "run/checkpoints/latest").rglob("*.safetensors")}
    assert "rival.safetensors" not in files and "teacher.safetensors" in files


def test_what_opponents_are_called_holds_no_path(tiny_model: Path) -> None:
    assert read_opponent(str(tiny_model)).label == tiny_model.name
    assert read_opponent("zoo:number-easy").label == "zoo:number-easy"
    assert read_opponent({"kind": "server", "server": "http://a:1", "name": "m"}).label == "m"
