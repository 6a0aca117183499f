"""Sokoban episodes to train the embedded models on: who acts, what is whispered, which tokens are
learnt.

An episode is played with one `Form` of privileged text, or none. With a text the solver acts;
without one the player mostly acts at random. That mixture puts the skill into the weights and lets
privileged text elicit it, as a prompt elicits it from a capable model. Moves made at random to
reach unusual boards are shown but never learnt in the episodes with a text.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from agentopd.envs.sokoban.env import GUIDE, Sokoban
from agentopd.envs.sokoban.levels import MOVES
from agentopd.envs.sokoban.search import Verdict, step
from agentopd.privilege import writer

Form = Literal["none", "skill", "solution", "feedback", "reflection"]
MISTAKES = ("wall", "corner", "stuck", "away")
_NOISE = (0.0, 0.15, 0.5)


@dataclass(frozen=True)
class Piece:
    """Some text of an episode's transcript, and whether its tokens are training targets."""

    text: str
    learnt: bool


class Demonstrator:
    """Plays episodes on a pool of levels.

    Args:
        shares: how often each form is played; normalised.
        random_share: the share of turns played at random where nothing is whispered.
        seed: of the levels and of all choices.
        levels: size of the pool.
    """

    def __init__(
        self,
        shares: Mapping[Form, float],
        random_share: float,
        seed: int,
        levels: int = 6_000,
        min_moves: int = 3,
        max_moves: int = 12,
    ) -> None:
        self.forms: tuple[Form, ...] = tuple(shares)
        self.weights = tuple(shares.values())
        self.random_share = random_share
        self.rng = random.Random(f"demonstrations/{seed}")
        self.pool = [
            Sokoban(
                prompt="brief",
                max_turns=14,
                stop_when_stuck=True,
                min_moves=min_moves,
                max_moves=max_moves,
            )
            for _ in range(levels)
        ]
        for number, env in enumerate(self.pool):
            env.reset(seed=1_000_000 * (seed + 1) + number)

    def episode(self) -> list[Piece]:
        """The transcript of one fresh episode, of a form drawn by its share."""
        env = self.rng.choice(self.pool)
        form = self.rng.choices(self.forms, self.weights)[0]
        board, info = env.restart()
        system = env.system_prompt
        if form in ("skill", "solution", "reflection"):
            system += "\n\n" + self._episode_text(form, str(info["reference"]))
        pieces = [Piece(f"<|system|>{system}<|end|>", False)]
        noise = self.rng.choice(_NOISE)
        done = False
        while not done:
            reply, whisper, learn = self._turn(env, form, noise)
            user = f"{board}\n\n{writer.feedback(whisper)}" if whisper else board
            pieces.append(Piece(f"<|user|>{user}<|end|><|assistant|>", False))
            pieces.append(Piece(f"{reply}<|end|>", learn))
            board, _, terminated, truncated, _ = env.step(reply)
            done = terminated or truncated
        return pieces

    def _episode_text(self, form: Form, plan: str) -> str:
        if form == "solution":
            return writer.solution(plan)
        if form == "skill":
            episodes = self.rng.choice((0, 8, 16, 32, 64))
            seen = self.rng.sample(MISTAKES, self.rng.randint(0, 3)) if episodes else []
            counts = Counter({name: self.rng.randint(1, 99) for name in seen})
            return writer.skill(GUIDE, self.rng.randint(0, episodes), episodes, counts)
        turns = self.rng.randint(3, 14)
        success = self.rng.random() < 0.3
        told = [
            (self.rng.randint(1, turns), self._comment()) for _ in range(self.rng.randint(0, 3))
        ]
        return writer.reflection(success, turns, sorted(told))

    def _comment(self) -> str:
        ends = (
            "hits a wall, 5 to go.",
            "moves away, 7 to go.",
            "pushes the box where it is stuck, it can no longer be solved.",
        )
        return f"{self.rng.choice(MOVES)} {self.rng.choice(ends)}"

    def _turn(self, env: Sokoban, form: Form, noise: float) -> tuple[str, str, bool]:
        """The answer, the whispered feedback if any, and whether the answer is learnt."""
        plan = env.solver.plan(env.state).moves
        best, push = plan[0], next_push(env)
        if form == "none":
            if self.rng.random() < self.random_share:
                return answer(env, self.rng.choice(MOVES), self.rng.choice(MOVES)), "", True
            return answer(env, push, best), "", True
        whisper = ""
        if form == "feedback":
            tried = self.rng.choice(MOVES) if self.rng.random() < 0.6 else best
            whisper, good = foresee(env, tried)
            best = tried if good else best
        if self.rng.random() < noise:
            return answer(env, push, self.rng.choice(MOVES)), whisper, False
        return answer(env, push, best), whisper, True


def answer(env: Sokoban, push: str, move: str) -> str:
    """What a model of the zoo says in a turn: where the goal lies from the box, the push it wants,
    the move.
    """
    box, goal = box_and_goal(env)
    (box_row, box_column), (goal_row, goal_column) = (
        divmod(box, env.level.width),
        divmod(goal, env.level.width),
    )
    vertical = "same" if goal_row == box_row else "down" if goal_row > box_row else "up"
    horizontal = (
        "same" if goal_column == box_column else "right" if goal_column > box_column else "left"
    )
    return f"<think>{vertical} {horizontal} push {push}</think><action>{move}</action>"


def box_and_goal(env: Sokoban) -> tuple[int, int]:
    """The box the best plan pushes next, and the goal nearest to it."""
    here = env.state
    pushed = min(here[1])
    for move in env.solver.plan(here).moves:
        after = step(env.level, here, MOVES.index(move))
        if after[1] != here[1]:
            pushed = next(iter(here[1] - after[1]))
            break
        here = after
    row, column = divmod(pushed, env.level.width)
    nearest = min(
        env.level.goals,
        key=lambda g: (abs(g // env.level.width - row) + abs(g % env.level.width - column), g),
    )
    return pushed, nearest


def next_push(env: Sokoban) -> str:
    """The direction of the best plan's next push."""
    here = env.state
    for move in env.solver.plan(here).moves:
        after = step(env.level, here, MOVES.index(move))
        if after[1] != here[1]:
            return move
        here = after
    return MOVES[0]


def foresee(env: Sokoban, move: str) -> tuple[str, bool]:
    """What the environment would say of `move`, and whether it would be progress; the episode does
    not advance.
    """
    state, turns = env.state, env.turns
    before = env.solver.plan(state)
    _, _, _, _, info = env.step(f"<action>{move}</action>")
    after = env.solver.plan(env.state)
    env.state, env.turns = state, turns
    return str(info["feedback"]), after.verdict is Verdict.SOLVABLE and after.cost < before.cost
