"""Sokoban episodes to train the embedded models on: who acts, what is whispered, which tokens are
learnt.

An episode is played with one `Form` of privileged text, or none. With a text the solver acts;
without one the player mostly acts at random. That mixture puts the skill into the weights and lets
privileged text elicit it, as a prompt elicits it from a capable model. Moves made at random to
reach unusual boards are shown but never learnt in the episodes with a text.

A text that always agreed with the solver would be obeyed without being read. So half of the
solutions make a detour and are followed to the letter, half of the feedback is made up and
believed, and reflections name moves that the solver would make and that are then avoided. Negative
forms go further: words that say nothing and advice for other games are acted on as if nothing were
told, and another level's solution is followed to the letter, by one who knows no better.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from agentopd.environment.contract import training_seed
from agentopd.envs.sokoban.env import GUIDE, Sokoban
from agentopd.envs.sokoban.levels import MOVES, State
from agentopd.envs.sokoban.search import step
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

_OTHER_SKILLS = (*ADVICE, *NOWHERE)
"""What is advised elsewhere, in games that are here and in others."""
MISTAKES = ("wall", "corner", "stuck", "away")
_BAD = (
    "hits a wall, {left} to go.",
    "moves away, {left} to go.",
    "pushes the box where it is stuck, it can no longer be solved.",
)


@dataclass(frozen=True)
class Script:
    """How one episode is to be played: the text of its system prompt, the share of random moves,
    and by turn the moves to make and the moves not to make.
    """

    text: str
    noise: float
    followed: Mapping[int, str]
    avoided: Mapping[int, str]


class SokobanDemonstrator:
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
            env.reset(seed=training_seed(seed + 1, number))

    def episode(self) -> list[Piece]:
        """The transcript of one fresh episode, of a form drawn by its share."""
        env = self.rng.choice(self.pool)
        form = self.rng.choices(self.forms, self.weights)[0]
        script = self._script(env, form)
        board, _ = env.restart()
        system = f"{env.system_prompt}\n\n{script.text}" if script.text else env.system_prompt
        pieces = [Piece(f"<|system|>{system}<|end|>", False)]
        done = False
        while not done:
            reply, whisper, learn = self._turn(env, form, script)
            user = f"{board}\n\n{writer.feedback(whisper)}" if whisper else board
            pieces.append(Piece(f"<|user|>{user}<|end|><|assistant|>", False))
            pieces.append(Piece(f"{reply}<|end|>", learn))
            board, _, terminated, truncated, _ = env.step(reply)
            done = terminated or truncated
        return pieces

    def _script(self, env: Sokoban, form: Form) -> Script:
        noise = self.rng.choice(NOISE)
        if form == "solution" and self.rng.random() < 0.5:
            moves = self._detour(env)
            return Script(writer.solution(" ".join(moves)), 0.0, dict(enumerate(moves)), {})
        if form == "solution":
            _, info = env.restart()
            return Script(writer.solution(str(info["reference"])), noise, {}, {})
        if form == "reflection":
            text, avoided = self._reflection(env)
            return Script(text, noise, {}, avoided)
        if form == "other_solution":
            other = self.rng.choice(self.pool)
            _, info = other.restart()
            moves = str(info["reference"]).split()
            return Script(writer.solution(" ".join(moves)), noise, dict(enumerate(moves)), {})
        return Script(self._advised(form), noise, {}, {})

    def _advised(self, form: Form) -> str:
        """What is said that is no order: a skill, this game's or another's, idle words, nothing."""
        if form == "filler":
            return idle_words(self.rng, fewest=1)
        if form == "other_skill":
            return self._skill(self.rng.choice(_OTHER_SKILLS))
        return self._skill(GUIDE) if form == "skill" else ""

    def _skill(self, guide: str) -> str:
        episodes = self.rng.choice((0, 8, 16, 32, 64))
        seen = self.rng.sample(MISTAKES, self.rng.randint(0, 3)) if episodes else []
        counts = Counter({name: self.rng.randint(1, 99) for name in seen})
        return writer.skill(guide, self.rng.randint(0, episodes), episodes, counts)

    def _detour(self, env: Sokoban) -> list[str]:
        """One to three moves of any kind that leave the level solvable, then its best plan."""
        env.restart()
        here, moves = env.state, []
        for _ in range(self.rng.randint(1, 3)):
            move = self.rng.choice(MOVES)
            after = step(env.level, here, MOVES.index(move))
            if env.solver.plan(after).solvable:
                here, moves = after, [*moves, move]
        return moves + list(env.solver.plan(here).moves)

    def _reflection(self, env: Sokoban) -> tuple[str, dict[int, str]]:
        """A look back on an attempt, and the move it calls a mistake at each turn it names."""
        env.restart()
        turns = self.rng.randint(3, env.turn_limit)
        named = set(self.rng.sample(range(turns), self.rng.randint(0, 3)))
        here, avoided = env.state, {}
        for turn in range(turns):
            moves = env.solver.plan(here).moves
            if not moves:
                break
            move = moves[0]
            if turn in named:
                avoided[turn] = move if self.rng.random() < 0.6 else self.rng.choice(MOVES)
                move = otherwise(env, here, avoided[turn])
            here = step(env.level, here, MOVES.index(move))
        told = [
            (turn + 1, f"{move} {self.rng.choice(_BAD).format(left=self.rng.randint(1, 9))}")
            for turn, move in avoided.items()
        ]
        return writer.reflection(self.rng.random() < 0.3, turns, told), avoided

    def _turn(self, env: Sokoban, form: Form, script: Script) -> tuple[str, str, bool]:
        """The answer, the whispered feedback if any, and whether the answer is learnt."""
        best, push = env.solver.plan(env.state).moves[0], next_push(env)
        if form in UNHEEDED:
            if self.rng.random() < self.random_share:
                push, best = self.rng.choice(MOVES), self.rng.choice(MOVES)
            return answer(env, push, script.followed.get(env.turns, best)), "", True
        whisper = ""
        if form == "feedback":
            whisper, best = self._advice(env, best)
        elif env.turns in script.followed:
            best = script.followed[env.turns]
        elif env.turns in script.avoided:
            best = otherwise(env, env.state, script.avoided[env.turns])
        if self.rng.random() < script.noise:
            return answer(env, push, self.rng.choice(MOVES)), whisper, False
        return answer(env, push, best), whisper, True

    def _advice(self, env: Sokoban, best: str) -> tuple[str, str]:
        """What is said of some move, true or made up, and the move of one who believes it."""
        tried = self.rng.choice(MOVES) if self.rng.random() < 0.6 else best
        if self.rng.random() < 0.5:
            said, good = foresee(env, tried)
        else:
            moved = step(env.level, env.state, MOVES.index(tried)) != env.state
            good = moved and self.rng.random() < 0.5
            end = "moves closer, {left} to go." if good else self.rng.choice(_BAD)
            said = f"{tried} {end.format(left=len(env.solver.plan(env.state).moves))}"
        return said, tried if good else otherwise(env, env.state, tried)


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


def otherwise(env: Sokoban, here: State, avoided: str) -> str:
    """The best plan's next move, or the best of the others where that is the one to avoid."""
    best = env.solver.plan(here).moves[0]
    if best != avoided:
        return best
    costs = {}
    for move in MOVES:
        after = step(env.level, here, MOVES.index(move))
        plan = env.solver.plan(after)
        if move != avoided and after != here and plan.solvable:
            costs[move] = plan.cost
    return min(costs, key=lambda move: costs[move], default=best)


def foresee(env: Sokoban, move: str) -> tuple[str, bool]:
    """What the environment would say of `move`, and whether it would be progress; the episode does
    not advance.
    """
    state, turns = env.state, env.turns
    before = env.solver.plan(state)
    _, _, _, _, info = env.step(f"<action>{move}</action>")
    after = env.solver.plan(env.state)
    env.state, env.turns, env.playing = state, turns, True
    return str(info["feedback"]), after.better_than(before)
