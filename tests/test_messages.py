"""A teacher's message between two attempts: who writes and reads it, and what is learnt of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from retries import STUDENT, bits, collect, ends_with, foreseen, marked, of, text
from scenes import ENV, Scene, assert_same, run_of, scene_of
from scribes import Scribe, attempts, ready

from agentopd.base.types import Owner, Trajectory
from agentopd.models.model import LanguageModel, ModelSettings, load_model
from agentopd.privilege.advice import Advice
from agentopd.privilege.texts import Text
from agentopd.privilege.view import SystemView
from agentopd.privilege.writing.earlier import Recollection
from agentopd.privilege.writing.hindsight import Message
from agentopd.rollout.acting.earlier import Place
from agentopd.running.reading import parse_config

MESSAGES: dict[str, Any] = {"recalls": ["episode", "privilege"], "attempts": 3}


_ALONE = ("rollout={kind: student, group: 8}",)


class Numbered:
    """Says of each episode how long it was; of every third one nothing. It is an `Adviser`."""

    sources: int = 1
    place: Place = "system"

    def __init__(self) -> None:
        self.heard: list[tuple[list[Trajectory], list[Trajectory]]] = []

    def of(
        self, about: Sequence[Trajectory], batch: Sequence[Trajectory], source: int | None = None
    ) -> dict[int, str]:
        """See `Adviser.of`."""
        self.heard.append((list(about), list(batch)))
        return {t.episode: f"up {len(t.ids) % 9} so" for t in about if t.episode % 3}


@pytest.fixture(scope="module")
def scene(tiny_model: Path) -> Scene:
    return scene_of(tiny_model)


@pytest.fixture
def asked(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Message, str], Scribe]:
    """Lets a scripted model write messages."""
    model = load_model(ModelSettings(path=str(tiny_model)))
    return lambda source, says: ready(source, model, says, monkeypatch)


def test_the_next_attempt_reads_the_message_and_nothing_is_learnt_of_it() -> None:
    found = collect(adviser=(adviser := Numbered()), **MESSAGES)
    before, after = of(found, 0), of(found, 1)
    assert [len(about) for about, _ in adviser.heard] == [len(after), len(of(found, 2))]
    for about, batch in adviser.heard:
        assert not any(t.success for t in about) and {t.episode for t in about} <= {
            t.episode for t in batch
        }
    for first, t in after.items():
        said = f"up {len(before[first].ids) % 9} so" if first % 3 else ""
        assert t.attempt and t.attempt.told.endswith(f" wait {said}")
        assert ends_with(t, "system", t.attempt.told)
        own = t.ids[t.trainable]
        answers = np.concatenate([t.ids[turn.start : turn.stop] for turn in t.turns])
        np.testing.assert_array_equal(own, answers)


@pytest.mark.parametrize("memory", ["last", "all"])
def test_of_all_attempts_or_of_the_last_alone(memory: str) -> None:
    found = collect(adviser=Numbered(), **MESSAGES, memory=memory)
    second, third = of(found, 1), of(found, 2)
    assert third
    for first, t in third.items():
        told, before = t.attempt, second[first].attempt
        assert told and before
        assert told.told.startswith(f"{before.told}\n\n") == (memory == "all")
        assert told.told.count("push") == (2 if memory == "all" else 1)
        assert text(of(found, 0)[first], "system") == "rules"


def test_foreseen_is_the_message_by_who_was_told_none_of_it() -> None:
    """Nothing is foreseen where there was no message; what is played stays as it was."""
    found = collect(adviser=Numbered(), **MESSAGES, learn=["first", "later", "feedback"])
    first, answered = of(found, 0), of(found, 0, "foreseen")
    assert answered.keys() == {n for n in of(found, 1) if n % 3}
    for n, t in answered.items():
        said = STUDENT.template.encode_content(f"up {len(first[n].ids) % 9} so")
        assert t.ids[t.trainable].tolist() == [*said, STUDENT.template.closing]
        assert set(t.owner[t.trainable]) == {Owner.DEMO}
    assert bits(collect(adviser=Numbered(), **MESSAGES)) == bits([t for t in found if t.acts])


def test_a_message_is_written_by_who_knows_the_solution(
    asked: Callable[[Message, str], Scribe],
) -> None:
    """The student is asked what will be said without it, and told no more than is written."""
    source = Message()
    scribe = asked(source, "look so well")
    (failed,) = attempts(["up"], reference="left wait")
    heard = Advice([source], SystemView()).of([failed], [failed])
    assert heard == {failed.episode: "Your teacher says: look so well"}
    (request,) = scribe.asked
    assert "> left wait" in request and "> up" in request
    recall = Recollection(STUDENT.template)
    rules, question, answer = recall.foretold(failed, heard[failed.episode], 200)
    assert answer == heard[failed.episode] and "left wait" not in rules + question
    told = recall.told(failed, {"privilege": answer}, ("episode", "privilege"), 200)
    assert told.endswith(answer) and "left wait" not in told
    assert recall.told(failed, {"privilege": ""}, ("privilege",), 200) == ""


def test_a_message_that_gives_the_solution_away_is_none(
    asked: Callable[[Message, str], Scribe],
) -> None:
    source = Message()
    asked(source, "do left\nwait so")
    (failed,) = attempts(["up"], reference="left wait")
    assert Advice([source], SystemView()).of([failed], [failed]) == {}
    assert source.scalars()["unread"] == 1


def test_a_step_counts_all_its_messages(asked: Callable[[Message, str], Scribe]) -> None:
    """Until the next one begins; of several sources each says its own, or one of them speaks."""
    source, batch = Message(), attempts(["up"], ["down"])
    asked(source, "so")
    advice = Advice([source, Text(text="wait")], SystemView())
    both = advice.of(batch[:1], batch)
    assert list(both.values()) == ["Your teacher says: so\nwait"]
    assert list(advice.of(batch[1:], batch, 1).values()) == ["wait"]
    advice.of(batch[1:], batch, 0)
    assert source.scalars()["asked"] == 2 and advice.sources == 2
    source.begin()
    assert source.scalars()["asked"] == 0


@pytest.mark.parametrize("row", ["rl2f", "sml"])
def test_all_solved_at_once_it_is_grpo(scene: Scene, row: str) -> None:
    """And so it is of one attempt at most: what is played is then `student`'s."""
    firsts = marked(scene.trajectories)
    found = scene.gradient(f"method={row}", trajectories=firsts, lessons=[])
    once = scene.gradient(f"method={row}", "rollout={kind: student, group: 8}", lessons=[])
    grpo = scene.gradient("method=grpo", lessons=[])
    assert torch.equal(found, grpo) and torch.equal(once, grpo)


def test_sml_is_rl2f_and_the_likelihood_of_the_messages(scene: Scene) -> None:
    step = [*marked(scene.trajectories), *marked(scene.trajectories[1:3], 1)]
    said = [foreseen(t) for t in step[4:6]]
    rl2f = scene.gradient("method=rl2f", trajectories=step, lessons=[])
    assert torch.equal(scene.gradient("method=sml", trajectories=step, lessons=[]), rl2f)
    both = scene.gradient("method=sml", trajectories=[*step, *said], lessons=[])
    nll = scene.gradient("mix=nll", trajectories=said, lessons=[])
    most, few = (sum(int(t.trainable.sum()) for t in x) for x in ([*step, *said], said))
    assert_same(both, rl2f * (most - few) / most + 0.1 * nll * few / most)


def test_the_rows_say_what_the_papers_do() -> None:
    rl2f, sml = (parse_config(ENV, [f"method={name}"]) for name in ("rl2f", "sml"))
    dumped: list[dict[str, Any]] = [x.rollout.model_dump(mode="json") for x in (rl2f, sml)]
    assert dumped[0].pop("learn") == ["first", "later"] and dumped[0]["attempts"] == 4
    assert dumped[1].pop("learn") == ["first", "later", "feedback"]
    assert dumped[0] == dumped[1] and rl2f.rollout.group == 8
    assert rl2f.mix.rl.discount == sml.mix.rl.discount == 0.7  # type: ignore[union-attr]
    assert rl2f.rollout.consults and rl2f.rollout.needs_teacher and not rl2f.rollout.foreign


@pytest.mark.parametrize("row", ["rl2f", "sage_hint"])
def test_what_who_acts_is_told_is_not_told_to_change_nothing(row: str) -> None:
    """Though no loss reads it; where nobody acts told, it is."""
    about = ("privilege", "teacher", "view")
    said = [parse_config(ENV, [f"method={row}", *more]).notices() for more in ((), _ALONE)]
    ours, alone = ([x for x in found if x.startswith(about)] for found in said)
    assert not ours and any(x.startswith("privilege") for x in alone)


def test_in_a_run_the_first_student_writes_and_what_it_cost_is_told(
    tiny_model: Path, tmp_path: Path
) -> None:
    """The teacher stays as the student was before its first step; no lesson is made of it."""
    small = "rollout.tasks=1", "rollout.group=2", "rollout.max_turns=2", "evaluate.episodes=1"
    run = run_of(tiny_model, tmp_path / "run", "method=rl2f", *small, "steps=1")
    before: LanguageModel = run.config.teacher.model
    step = run.roll_out(0)
    numbers = [t.attempt.number for t in step if t.attempt]
    assert max(numbers) == 3 and run.ask_teacher(step, 0) == []
    (source,) = run.config.privilege
    assert source.scalars()["asked"] == sum(n > 0 for n in numbers)
    run.learn(step, [], 0)
    assert run.config.teacher.model is before and before is not run.student
    run.close()
