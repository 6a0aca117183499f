"""Demonstrations in any environment that says in `info` what is best: told something, the oracle
acts; told nothing, mostly somebody who acts at random.

What is said of `agentopd.zoo.demonstrations.sokoban` holds here: the mixture puts a skill into the
weights that privileged text elicits, and half of the solutions make a detour and are followed to
the letter, so that they have to be read. Negative forms go further: a text that is told and not
heeded makes what a text says count, and not that there is one.
"""

from __future__ import annotations

import copy
import random
import sys
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping
from typing import Any, ClassVar

import gymnasium

from agentopd.environment.contract import (
    HELD_OUT_SEED,
    Info,
    actions,
    declared,
    system_prompt,
    written,
)
from agentopd.environment.registry import make
from agentopd.envs.sokoban.env import GUIDE
from agentopd.privilege import writer
from agentopd.zoo.demonstrations.episode import (
    ADVICE,
    NOISE,
    NOWHERE,
    UNHEEDED,
    Form,
    Piece,
    idle_words,
)


class Player(ABC):
    """How one environment is played.

    `env` is the environment itself, without its wrappers, and `info` what it said last.
    """

    pieces: ClassVar[tuple[str, ...]] = ()
    """What the tokenizer keeps apart, besides words and signs: see `train_tokenizer`."""

    @abstractmethod
    def other(self, env: Any, info: Info, rng: random.Random) -> str:
        """An action that somebody might try who knows the form of actions and no more."""

    @abstractmethod
    def thought(self, env: Any, info: Info, action: str) -> str:
        """The few words before `action`."""

    def text(self, rng: random.Random) -> str:
        """Some text to copy, of what actions have to be copied from observations."""
        raise NotImplementedError(f"{type(self).__name__} has nothing to copy")

    def best(self, env: Any, info: Info) -> str:
        """The action of one who has the skill; the oracle's, unless that knows more."""
        return actions(env, info["oracle"])[0]


class ToldDemonstrator:
    """Plays fresh training tasks of one environment.

    Args:
        env: an id, as `make` takes it.
        options: what its constructor is given.
        player: how it is played.
        shares: how often each form is played; normalised. Reflections are Sokoban's alone.
        random_share: the share of turns played at random where nothing is whispered.
        seed: of the tasks and of all choices.

    Raises:
        ValueError: there is no such environment, or reflections have a share.
    """

    most_turns: int = sys.maxsize
    """Where an episode is left that has not ended by then."""
    elsewhere: tuple[str, ...] = (GUIDE, *ADVICE, *NOWHERE)
    """Advice that is not heeded, but where it is the environment's own; Sokoban's first."""

    def __init__(
        self,
        env: str,
        options: Mapping[str, Any],
        player: Player,
        shares: Mapping[Form, float],
        random_share: float,
        seed: int,
    ) -> None:
        if "reflection" in shares:
            raise ValueError(f"nobody looks back on {env}: leave the share of reflections out")
        self.env: gymnasium.Env[str, str] = make(env, options)
        self.player = player
        self.forms: tuple[Form, ...] = tuple(shares)
        self.weights = tuple(shares.values())
        self.random_share = random_share
        self.rng = random.Random(f"demonstrations/{env}/{seed}")
        self.mistakes: dict[str, None] = {}

    def episode(self) -> list[Piece]:
        """The transcript of one fresh episode, of a form drawn by its share."""
        form = self.rng.choices(self.forms, self.weights)[0]
        if form == "copy":
            text = self.player.text(self.rng)
            said = Piece(f"<|user|>{text}<|end|><|assistant|>", False)
            return [said, Piece(f"{text}<|end|>", True)]
        task = self.rng.randrange(HELD_OUT_SEED)
        observation, info = self.env.reset(seed=task)
        text, plan = self._script(form, info)
        noise = self.random_share if form in UNHEEDED else self.rng.choice(NOISE)
        if form in ("solution", "other_solution"):  # may have been played through, or left
            observation, info = self.env.reset(seed=task)
        pieces = self._opening(text)
        done, turns = False, 0
        while not done and turns < self.most_turns:
            turns += 1
            to_the_letter = form == "other_solution" and bool(plan)
            best = plan.pop(0) if plan else self._best(info)
            whisper, best = self._whisper(form, info, best)
            stray, learnt = (False, True) if to_the_letter else self._strays(form, noise)
            action = self._other(info) if stray else best
            if action != best:
                plan = []
            pieces.append(Piece(f"<|user|>{observation}{whisper}<|end|><|assistant|>", False))
            reply = self._reply(info, action)
            pieces.append(Piece(f"{reply}<|end|>", learnt))
            observation, _, terminated, truncated, info = self.env.step(reply)
            done = terminated or truncated
            if info.get("mistake"):
                self.mistakes[info["mistake"]] = None
        return pieces

    def _opening(self, text: str) -> list[Piece]:
        """What stands before the first observation, `text` behind the rules."""
        return [Piece(f"<|system|>{system_prompt(self.env)}{text}<|end|>", False)]

    def _whisper(self, form: Form, info: Info, best: str) -> tuple[str, str]:
        """What is told before one answer, and the action of one who listens."""
        return self._advice(info, best) if form == "feedback" else ("", best)

    def _strays(self, form: Form, noise: float) -> tuple[bool, bool]:
        """Whether the next action is made at random, and whether the answer is learnt."""
        stray = self.rng.random() < noise
        return stray, form in UNHEEDED or not stray

    def _script(self, form: Form, info: Info) -> tuple[str, list[str]]:
        """What is added to the rules, and the actions to make first."""
        if form == "skill":
            return f"\n\n{self._skill(info['guide'])}", []
        if form == "other_solution":
            return self._elsewhere()
        if form in UNHEEDED and form != "none":
            return f"\n\n{self._idle(form, info)}", []
        if form != "solution":
            return "", []
        plan = actions(self.env, info["reference"])
        if self.rng.random() < 0.5:
            plan = self._detour(info)
        return f"\n\n{writer.solution(written(self.env, plan))}", plan

    def _skill(self, guide: str) -> str:
        episodes = self.rng.choice((0, 8, 16, 32, 64))
        known = list(self.mistakes)
        seen = self.rng.sample(known, self.rng.randint(0, min(3, len(known)))) if episodes else ()
        counts = Counter({name: self.rng.randint(1, 99) for name in seen})
        return writer.skill(guide, self.rng.randint(0, episodes), episodes, counts)

    def _idle(self, form: Form, info: Info) -> str:
        """A text that is told and not heeded."""
        if form == "filler":
            return idle_words(self.rng)
        others = [advice for advice in self.elsewhere if advice != info.get("guide")]
        return self._skill(self.rng.choice(others))

    def _elsewhere(self) -> tuple[str, list[str]]:
        """Another task's solution, which is followed to the letter where the right one is: nobody
        can tell them apart.
        """
        _, other = self.env.reset(seed=self.rng.randrange(HELD_OUT_SEED))
        plan = actions(self.env, other["reference"]) if "solution" in self.forms else []
        return f"\n\n{writer.solution(other['reference'])}", plan

    def _detour(self, info: Info) -> list[str]:
        """The whole of an episode, just begun, in which the first one or two actions are others."""
        plan: list[str] = []
        strays, done = self.rng.randint(1, 2), False
        while not done and len(plan) < self.most_turns:
            action = self._other(info) if len(plan) < strays else self._best(info)
            plan.append(action)
            _, _, terminated, truncated, info = self.env.step(self._reply(info, action))
            done = terminated or truncated
        return plan

    def _advice(self, info: Info, best: str) -> tuple[str, str]:
        """What the environment would say of some action, and the action of one who listens."""
        tried = self._other(info) if self.rng.random() < 0.6 else best
        *_, after = copy.deepcopy(self.env).step(self._reply(info, tried))
        said = f"\n\n{writer.feedback(after['feedback'])}"
        return said, best if after["mistake"] else tried

    def _best(self, info: Info) -> str:
        return self.player.best(self.env.unwrapped, info)

    def _other(self, info: Info) -> str:
        return self.player.other(self.env.unwrapped, info, self.rng)

    def _reply(self, info: Info, action: str) -> str:
        form = declared(self.env, "action_form", "<action>{}</action>")
        return f"<think>{self._thought(info, action)}</think>{form.replace('{}', action)}"

    def _thought(self, info: Info, action: str) -> str:
        return self.player.thought(self.env.unwrapped, info, action)
