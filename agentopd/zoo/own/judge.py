"""Whether a student does what it is for: poor alone, good when told, and because of what is told.

It plays held-out tasks alone and told four things, at temperature 1. A student who is as good under
words that say nothing has learnt that there is a text, not what it says: a method that is tried on
it would look as if it taught.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from agentopd.base.statistics import wilson
from agentopd.base.types import Trajectory
from agentopd.environment.contract import HELD_OUT_SEED, actions
from agentopd.environment.settings import EnvSettings
from agentopd.models.model import LanguageModel
from agentopd.privilege import writer
from agentopd.privilege.base import Source
from agentopd.privilege.texts import without_slots
from agentopd.privilege.view import EveryTurnView, SystemView
from agentopd.privilege.whispered import Told, Whispered
from agentopd.rollout.failures import refuse_failures
from agentopd.rollout.policies import StudentRollout
from agentopd.rollout.transformers_sampler import TransformersSampler
from agentopd.running import kinds  # noqa: F401  (every source is known by its kind)
from agentopd.running.evaluate import play_tasks
from agentopd.zoo.demonstrations.episode import UNSEEN
from agentopd.zoo.demonstrations.own import Key
from agentopd.zoo.own.recipe import OwnRecipe

MOST = 0.5
"""How much of what the right text gains may be gained by other words."""
_OTHERS = 8
"""Tasks whose texts are told of others."""
_SOURCES: dict[Key, dict[str, Any]] = {
    "guide": {"kind": "skill_summary"},
    "reference": {"kind": "ground_truth"},
    "oracle": {"kind": "oracle_next"},
}


@dataclass(frozen=True)
class Success:
    """The share of tasks that were solved, its 95 % interval, and how many were played."""

    success: float
    interval: tuple[float, float]
    episodes: int

    @classmethod
    def of(cls, played: Sequence[Trajectory]) -> Success:
        """The success of episodes.

        Raises:
            EveryEpisodeFailed: all of them ended in errors.
        """
        refuse_failures(played, "of the measurement")
        solved = sum(t.success for t in played)
        return cls(solved / len(played), wilson(solved, len(played)), len(played))

    def row(self) -> tuple[str, str, int]:
        """Success, interval and number of tasks, for a table."""
        low, high = self.interval
        return f"{100 * self.success:.0f} %", f"{100 * low:.0f}–{100 * high:.0f} %", self.episodes

    def __str__(self) -> str:
        success, interval, _ = self.row()
        return f"{success} ({interval})"


@dataclass(frozen=True)
class Judged:
    """What a student does: alone, told what it is to heed, words that say nothing, another's."""

    told_what: Key
    alone: Success
    told: Success
    filler: Success
    another: Success

    @property
    def useless(self) -> str:
        """Why nothing can be learnt from telling this student anything; empty where it can."""
        if self.told.interval[0] > self.alone.interval[1]:
            return ""
        return (
            f"told its {self.told_what} the student is not better than alone: {self.told} and "
            f"{self.alone} of {self.told.episodes} held-out tasks. Give it more steps, or a larger "
            "share of random turns (random_share) where it is as good alone; look at what it does "
            "with agentopd play"
        )

    @property
    def misled(self) -> str:
        """Which other words do what the right ones do; empty where none does."""
        found = {"words that say nothing": self.filler, "another's text": self.another}
        gain = self.told.success - self.alone.success
        as_good = [
            f"{name} {one}"
            for name, one in found.items()
            if one.success - self.alone.success >= MOST * gain
        ]
        if not as_good or self.useless:
            return ""
        return (
            f"what the text says hardly counts: alone {self.alone}, told its {self.told_what} "
            f"{self.told}, told {' and told '.join(as_good)}. Give the negative forms a larger "
            "share (shares), or more steps"
        )

    def rows(self) -> list[tuple[str, Success]]:
        """What was measured, by name."""
        return [
            ("alone", self.alone),
            (f"told its {self.told_what}", self.told),
            ("told words that say nothing", self.filler),
            ("told another's text", self.another),
        ]

    def settings(self) -> str:
        """What a run says to tell its teacher the same."""
        view = " view=every_turn" if self.told_what == "oracle" else ""
        return f"privilege={_SOURCES[self.told_what]['kind']}{view}"

    def described(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


def judge(model: LanguageModel, recipe: OwnRecipe, told: Key, turn_tokens: int) -> Judged:
    """Let a student play held-out tasks, alone and told.

    Args:
        turn_tokens: the longest answer.

    Raises:
        EveryEpisodeFailed: no task could be played.
    """
    watched = _Watched(model, recipe, told, turn_tokens)
    return Judged(
        told_what=told,
        alone=Success.of(watched.play(recipe.env)),
        told=Success.of(watched.play(watched.telling(_SOURCES[told]))),
        filler=Success.of(watched.play(watched.telling({"kind": "filler", "of": _SOURCES[told]}))),
        another=Success.of(watched.misled()),
    )


@dataclass(frozen=True)
class _Watched:
    """A student, and where it plays."""

    model: LanguageModel
    recipe: OwnRecipe
    told: Key
    turn_tokens: int

    @property
    def view(self) -> Told:
        """Where it reads what it is told."""
        return EveryTurnView() if self.told == "oracle" else SystemView()

    def play(self, env: EnvSettings, first: int = 0, count: int | None = None) -> list[Trajectory]:
        """The student's episodes on held-out tasks from number `first` on."""
        recipe, model = self.recipe, self.model
        rollout = StudentRollout(max_turn_tokens=self.turn_tokens, max_turns=recipe.max_turns)
        episodes, seed = count or recipe.episodes, HELD_OUT_SEED + first
        sampler = TransformersSampler(model)
        return play_tasks(env, model, sampler, rollout, episodes, recipe.held_out, seed)

    def telling(self, described: dict[str, Any]) -> Whispered:
        """The environment, in which a source speaks."""
        source = Source.model_validate(described)
        source.prepare(self.model.template)
        return Whispered(**dict(self.recipe.env), sources=(source,), view=self.view)

    def misled(self) -> list[Trajectory]:
        """The student's episodes, told what is right elsewhere: advice for another game, or what
        is told of tasks of the training.
        """
        texts = [UNSEEN] if self.told == "guide" else self._of_others()
        played, first = list[Trajectory](), 0
        for number, text in enumerate(texts):
            last = self.recipe.episodes * (number + 1) // len(texts)
            told = {"kind": "text", "text": without_slots(text)}
            played += self.play(self.telling(told), first, last - first)
            first = last
        return played

    def _of_others(self) -> list[str]:
        env, texts = self.recipe.env.build(), list[str]()
        for seed in range(_OTHERS):
            _, info = env.reset(seed=seed)
            said = str(info.get(self.told) or "")
            if self.told == "oracle":
                texts.append(writer.next_actions((actions(env, said) or [""])[0]))
            else:
                texts.append(writer.solution(said))
        env.close()
        return texts
