"""Parts of one's own: what is written is what another process finds, on every axis."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_line import call
from warm import python

from agentopd.base.objects import load_object, object_path
from agentopd.divergences.base import Divergence
from agentopd.running.reading import parse_config
from agentopd.units.base import Unit
from agentopd.units.stretches import TokenUnit

MINE = """
from agentopd.divergences.estimators import K1
from agentopd.divergences.kl import ReverseKL
from agentopd.divergences.support import SampledSupport
from agentopd.divergences.targets import Veto
from agentopd.environment.wrappers import InvalidLimit
from agentopd.mixes.advantages import Grpo
from agentopd.signal.schedules import Constant
from agentopd.mixes.shared import Auxiliary
from agentopd.privilege.writing.skills import SkillSummary
from agentopd.privilege.view import SystemView
from agentopd.rollout.policies import StudentRollout
from agentopd.teachers.copies import FrozenTeacher
from agentopd.units.rubric.induction import FactWriter
from agentopd.units.rubric.judges import FactVerifier
from agentopd.units.rubric.unit import RubricSpanUnit
from agentopd.weights.token import GapGate

class MyRollout(StudentRollout, kind="my_rollout"): ...
class MySource(SkillSummary, kind="my_source"): ...
class MyView(SystemView, kind="my_view"): ...
class MyTeacher(FrozenTeacher, kind="my_teacher"): ...
class MyUnit(RubricSpanUnit, kind="my_unit"): ...
class MyVerifier(FactVerifier, kind="my_verifier"): ...
class MyWriter(FactWriter, kind="my_writer"): ...
class MyDivergence(ReverseKL, kind="my_divergence"): ...
class MySupport(SampledSupport, kind="my_support"): ...
class MyEstimator(K1, kind="my_estimator"): ...
class MyTarget(Veto, kind="my_target"): ...
class MyWeight(GapGate, kind="my_weight"): ...
class MyMix(Auxiliary, kind="my_mix"): ...
class MyRl(Grpo, kind="my_rl"): ...
class MySchedule(Constant, kind="my_schedule"): ...
class MyWrapper(InvalidLimit, kind="my_wrapper"): ...
"""
CONFIG: dict[str, Any] = {
    "env": {"id": "agentopd/Sokoban-v0", "wrappers": [{"kind": "mine:MyWrapper", "limit": 3}]},
    "rollout": {"kind": "mine:MyRollout", "tasks": 2, "group": 2},
    "privilege": ["mine:MySource", {"kind": "shuffled", "of": "mine:MySource"}],
    "view": "mine:MyView",
    "teacher": "mine:MyTeacher",
    "unit": {
        "kind": "mine:MyUnit",
        "judge": {"kind": "mine:MyVerifier", "fact": "pushed"},
        "induce": "mine:MyWriter",
    },
    "divergence": {
        "kind": "mine:MyDivergence",
        "support": "mine:MySupport",
        "estimator": "mine:MyEstimator",
    },
    "weight": ["mine:MyWeight"],
    "mix": {"kind": "mine:MyMix", "rl": "mine:MyRl"},
    "schedule": {"distil": "mine:MySchedule"},
}
WRITE = """
import json, sys, yaml
from agentopd.running.reading import parse_config
data = json.loads(sys.stdin.read())
print(json.dumps(parse_config(data).model_dump(mode="json")))
"""


def run(folder: Path, *words: str, typed: str = "") -> str:
    """What another process says that is started in `folder`."""
    done = python(*words, cwd=folder, typed=typed)
    assert done.returncode == 0, done.stderr
    return done.stdout


def kinds(value: Any) -> list[str]:
    """Every `kind` in a configuration."""
    if isinstance(value, list):
        return [kind for each in value for kind in kinds(each)]
    if isinstance(value, dict):
        own = [value["kind"]] if isinstance(value.get("kind"), str) else []
        return own + [kind for each in value.values() for kind in kinds(each)]
    return []


def test_every_axis_is_found_again_by_another_process(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    written = run(tmp_path, "-c", WRITE, typed=json.dumps(CONFIG))
    own = {kind for kind in kinds(json.loads(written)) if ":" in kind}
    assert own == {kind for kind in kinds(CONFIG) if ":" in kind} | {
        *("mine:MySource", "mine:MyView", "mine:MyTeacher", "mine:MyWriter", "mine:MySupport"),
        *("mine:MyEstimator", "mine:MyWeight", "mine:MyRl", "mine:MySchedule"),
    }
    assert run(tmp_path, "-c", WRITE, typed=written) == written


class Named(TokenUnit, kind="test_named"):
    """Has a kind, which only this process knows."""


class Around:
    """Holds another class."""

    class Inner(TokenUnit):
        """Has none."""


@pytest.mark.parametrize("named", ["test_named", f"{__name__}:Named", f"{__name__}:Around.Inner"])
def test_what_is_written_names_the_module_and_the_class(named: str) -> None:
    found = parse_config({"env": {"id": "x"}, "unit": named})
    path = found.model_dump(mode="json")["unit"]["kind"]
    assert path == object_path(type(found.unit))
    assert load_object(path) is type(found.unit)
    assert type(found.fresh().unit) is type(found.unit)


def test_the_packages_own_parts_are_written_by_their_kind() -> None:
    found = parse_config({"env": {"id": "x"}, "unit": "turn"})
    assert found.model_dump(mode="json")["unit"]["kind"] == "turn"
    for member in (*Unit.members(), *Divergence.members()):
        if member.__module__.startswith("agentopd."):
            assert member.written() == member.kind


def test_a_class_in_a_function_lives_here_and_is_refused_elsewhere() -> None:
    class Local(TokenUnit):
        """Nobody else can find it."""

    found = parse_config({"env": {"id": "x"}, "unit": object_path(Local)})
    assert type(found.unit) is Local
    with pytest.raises(ValueError, match="inside a function, where no other process finds it"):
        load_object(f"{__name__}:f.<locals>.Gone")


def test_an_unknown_kind_says_how_ones_own_is_named() -> None:
    with pytest.raises(ValueError, match=r"no unit is called 'half'; .*named module:Class"):
        parse_config({"env": {"id": "x"}, "unit": "half"})


SCRIPT = """
import sys
from pathlib import Path
from agentopd.base.types import Trajectory
from agentopd.running.reading import parse_config
from agentopd.running.studies.study import compare
from agentopd.units.spans import Span
from agentopd.units.base import Unit

class FirstHalf(Unit, kind="first_half"):
    def spans(self, trajectory: Trajectory) -> list[Span]:
        return [Span(0, len(trajectory.ids) // 2, "first")]

if __name__ == "__main__":
    config = parse_config({
        "steps": 1, "threads": 1, "student": {"path": sys.argv[1]},
        "env": {"id": "agentopd/Sokoban-v0", "options": {"prompt": "brief", "max_turns": 2}},
        "rollout": {"tasks": 2, "max_turn_tokens": 4}, "evaluate": {"episodes": 2},
        "save": {"scores_top_k": 4},
        "study": {"seeds": [0], "arms": {"half": {"unit": "first_half"}}},
    })
    compare(config, Path("out"), workers=1)
"""


def test_a_part_of_a_script_is_found_by_every_command(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "halves.py").write_text(SCRIPT)
    run(tmp_path, "halves.py", str(tiny_model))
    folder = tmp_path / "out" / "arms" / "half" / "seed-0"
    written = yaml.safe_load((folder / "config.yaml").read_text())
    assert written["unit"]["kind"] == "halves:FirstHalf"
    monkeypatch.chdir(tmp_path)
    for words in (
        ["replay", folder, "--set", "divergence=forward_kl"],
        ["verdicts", folder],
        ["eval", folder, "--episodes", "1"],
        ["resume", folder, "steps=2"],
        ["resume", tmp_path / "out"],
    ):
        result = call(*words)
        if words[0] == "verdicts":
            assert "no verdicts" in result.stderr or result.exit_code == 0
            continue
        assert result.exit_code == 0, (words, result.output)
    (tmp_path / "halves.py").rename(tmp_path / "gone.py")
    monkeypatch.delitem(sys.modules, "halves")
    for child in [c for c in Unit._derived() if c.__name__ == "FirstHalf"]:
        monkeypatch.setattr(child, "__module__", "elsewhere")
    result = call("resume", folder, "steps=3")
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert "config.yaml: unit: 'halves:FirstHalf' names the module 'halves', which" in line
