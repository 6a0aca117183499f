"""The wind tunnel: how its students are made, what they are measured to be, how its studies run."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from trajectories import played
from typer.testing import CliRunner

from agentopd.base.types import Privilege
from agentopd.cli import app
from agentopd.commands.running import pathologies
from agentopd.privilege.base import NoPrivilege
from agentopd.privilege.controls import Filler, Noted
from agentopd.privilege.environment import GroundTruth
from agentopd.running.preparation.mechanism import Mechanism, measure_mechanism
from agentopd.running.reading import load_config, load_stored, parse_config
from agentopd.running.studies.mechanisms import study_mechanisms
from agentopd.zoo.build import demonstrator
from agentopd.zoo.demonstrations.episode import Piece
from agentopd.zoo.recipes import RECIPES

pytest.importorskip("textarena")

STUDENTS = ("number-content", "number-blind", "number-disarmed", "number-blind-disarmed")
OPPOSITES = ("number-blind", "number-disarmed")
"""Each has the switch that the other has not."""
BLIND = {"number-blind", "number-blind-disarmed"}
DISARMED = {"number-disarmed", "number-blind-disarmed"}
SKILL = "Guess the middle of what is left."


@dataclass(frozen=True)
class Said:
    """One answer of a demonstration, as its transcript tells it."""

    text: str
    note: str
    quoted: str | None
    best: bool
    learnt: bool

    @property
    def heeded(self) -> bool:
        """Whether the episode is told the game's own skill."""
        return SKILL in self.text


def _answers(pieces: list[Piece]) -> Iterator[Said]:
    """The answers of one episode; what is best is worked out from what was said of earlier ones."""
    low, high = 1, 50
    text = pieces[0].text.removeprefix("<|system|>").removesuffix("<|end|>").partition("\n\n")[2]
    note = re.search(r"\nNote: ([a-z ]+)\.$", text)
    guess = 0
    for shown, reply in zip(pieces[1::2], pieces[2::2], strict=True):
        if "higher" in shown.text:
            low = max(low, guess + 1)
        if "lower" in shown.text:
            high = min(high, guess - 1)
        found = re.fullmatch(
            r"<think>(?:told ([a-z ]+); )?(\d+) to (\d+)</think><action>(\d+)</action><\|end\|>",
            reply.text,
        )
        assert found, reply.text
        guess = int(found[4])
        assert (int(found[2]), int(found[3])) == (low, high)
        best = guess == (low + high) // 2
        yield Said(text, note[1] if note else "", found[1], best, reply.learnt)


@pytest.fixture(scope="module")
def said() -> dict[str, list[Said]]:
    """The answers of 400 episodes of each student's demonstrations."""
    found = {}
    for name in STUDENTS:
        player = demonstrator(RECIPES[name])
        found[name] = [answer for _ in range(400) for answer in _answers(player.episode())]
    return found


@pytest.mark.parametrize("name", STUDENTS)
def test_every_text_ends_in_a_note_and_the_told_way_quotes_it(
    said: dict[str, list[Said]], name: str
) -> None:
    for answer in said[name]:
        assert bool(answer.text) == bool(answer.note)
        if answer.text and answer.quoted:
            assert answer.quoted == answer.note
    assert len({answer.note for answer in said[name]}) > 200


@pytest.mark.parametrize("name", STUDENTS)
def test_the_way_of_speaking_is_taken_as_often_as_the_recipe_says(
    said: dict[str, list[Said]], name: str
) -> None:
    heeded = [bool(a.quoted) for a in said[name] if a.heeded]
    idle = [bool(a.quoted) for a in said[name] if not a.heeded]
    assert sum(heeded) / len(heeded) == pytest.approx(0.9, abs=0.03)
    share = sum(idle) / len(idle)
    assert share == 0 if name in BLIND else share == pytest.approx(0.3, abs=0.05)


@pytest.mark.parametrize("name", STUDENTS)
def test_who_is_told_acts_well_behind_plain_words_unless_they_disarm(
    said: dict[str, list[Said]], name: str
) -> None:
    loud = [a.best for a in said[name] if a.heeded and a.learnt and a.quoted]
    plain = [a.best for a in said[name] if a.heeded and a.learnt and not a.quoted]
    assert all(loud) and len(plain) > 50
    assert sum(plain) / len(plain) < 0.25 if name in DISARMED else all(plain)


@pytest.mark.parametrize("form", ["none", "solution", "skill", "filler"])
def test_what_is_not_heeded_is_acted_on_as_if_it_were_not_told(
    said: dict[str, list[Said]], form: str
) -> None:
    begins = {"": "none", "Solution:": "solution", "Skill:": "skill"}
    idle = [a for a in said["number-content"] if not a.heeded]
    told = [a for a in idle if begins.get(a.text.partition(" ")[0], "filler") == form]
    assert all(a.learnt for a in told) and len(told) > 50
    assert sum(a.best for a in told) / len(told) < 0.2


def test_a_note_is_an_episode_s_own_and_stays_the_same() -> None:
    source = Noted(of=GroundTruth(), words=4)
    first = replace(played([2]), prompt={"reference": "up left", "task_id": "a"})
    other = replace(first, prompt={"reference": "up left", "task_id": "b"})
    texts = [source.whisper(t, ()) for t in (first, first, other)]
    said = [t[0].text for t in texts if t]
    assert said[0] == said[1] != said[2]
    assert all(re.fullmatch(r"Solution: up left\nNote: (\w+ ){3}\w+\.", text) for text in said)
    assert texts[0] and isinstance(texts[0][0], Privilege) and texts[0][0].source == "ground_truth"


def test_where_nothing_is_told_there_is_no_note() -> None:
    mute = played([2])
    assert Noted(of=GroundTruth()).whisper(mute, ()) is None
    assert Noted(of=NoPrivilege()).whisper(mute, ()) == ()


def test_a_control_takes_the_place_of_the_whole_text_with_its_note() -> None:
    told = {"kind": "noted", "of": {"kind": "ground_truth"}}
    written = {"env": {"id": "agentopd/Sokoban-v0"}, "privilege": told}
    found = parse_config(written, ["control=filler"]).privilege
    assert found == [Filler(of=Noted(of=GroundTruth()))]


@pytest.fixture(scope="module")
def measured() -> dict[str, Mechanism]:
    """What each student and its teacher are, told the skill."""
    return {
        name: measure_mechanism(
            load_config("configs/pathologies/content.yaml", [f"student.path=zoo:{name}"]), 16
        )
        for name in OPPOSITES
    }


@pytest.mark.parametrize("name", OPPOSITES)
def test_a_student_is_poor_alone_and_good_when_told(
    measured: dict[str, Mechanism], name: str
) -> None:
    found = measured[name]
    assert found.told is not None
    assert found.alone.success < 0.35 < found.told.success


@pytest.mark.parametrize("name", OPPOSITES)
def test_the_probes_move_with_the_mechanism_that_was_built_in(
    measured: dict[str, Mechanism], name: str
) -> None:
    found = measured[name]
    assert found.opening is not None and found.own is not None and found.other is not None
    assert found.asked > 50
    assert found.opening < 0.05 if name in BLIND else found.opening > 0.15
    disarmed = found.other - found.own > 1.0
    assert disarmed == (name in DISARMED)


def test_a_student_without_a_teacher_is_measured_alone() -> None:
    config = load_config(
        "configs/pathologies/content.yaml", ["mix=rl", "rollout.group=2", "privilege=none"]
    )
    found = measure_mechanism(config, 8)
    assert found.told is None and found.opening is None and found.asked == 0


def test_every_pathology_has_a_sick_arm_and_a_control() -> None:
    assert set(pathologies()) >= {"blind", "boards", "content", "disarmed", "estimators", "leak"}
    for path in pathologies().values():
        config = load_config(path)
        assert config.study is not None and len(config.study.seeds) >= 2
        assert config.study.sick and config.study.control, path.stem


def test_a_study_prints_the_cause_beside_the_outcome(tmp_path: Path) -> None:
    words = [
        "study", "blind", "steps=1", "rollout.tasks=2", "evaluate.episodes=4", "evaluate.every=0",
        "study.seeds=[0]", "study.arms={sick: {}}", "study.sick=sick", "study.control=[]",
        "probe.enabled=false",
        "--out", str(tmp_path), "--workers", "1",
    ]  # fmt: skip
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0 and "speaks as told" in done.output, done.output
    out = tmp_path / "blind"
    assert "The cause, before any step" in (out / "report.html").read_text()
    assert "goes from" in (tmp_path / "report.html").read_text()
    marked = {"sick": {"marked": True, "arms": ["sick"]}}
    (out / "mechanisms.json").write_text(json.dumps({"sick": {"marked": True}}))
    assert study_mechanisms(load_stored(out), out) == marked, "measured twice"
    assert json.loads((out / "mechanisms.json").read_text()) == marked
