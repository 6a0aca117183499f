"""The Sokoban environment: one board a turn, one or several moves an answer.

`gymnasium.make("agentopd/Sokoban-v0")` after `import agentopd`.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, Literal, get_args

from agentopd.environment.contract import Info, TextEnv, parse_action
from agentopd.envs.puzzle import (
    EXAMPLE_FIRST,
    MAY_THINK,
    Rules,
    check_choice,
    check_number,
    worked_example,
)
from agentopd.envs.sokoban.collection import Collection, Wanted, open_collection
from agentopd.envs.sokoban.generate import SPLITS, LevelSpec, generate
from agentopd.envs.sokoban.levels import (
    DIRECTIONS,
    MOVES,
    Level,
    LevelError,
    State,
    parse_level,
)
from agentopd.envs.sokoban.search import SEARCH_LIMIT, Plan, Solver, step

GUIDE = "Go to the far side of the box, then push it to the goal. Keep the box out of corners."

_RULES = """You play Sokoban: push every box onto a goal.
# wall, _ floor, . goal, $ box, * box on a goal, @ you, + you on a goal.
You walk up, down, left or right; walking into a box pushes it, if the cell behind it is free. \
Boxes cannot be pulled.
You may think first inside <think></think>. End your answer with {amount} inside \
<action></action>, for example
<action>{example}</action>."""
_BRIEF = "Sokoban: push $ onto . with up, down, left, right."
_LETTERS = {move[0]: move for move in MOVES}
_TURNS = 12
_TURNS_UNKNOWN = 200
"""Answers on a level of one's own that no plan is known of."""
_SEPARATORS = str.maketrans(",;|", "   ")


class Sokoban(TextEnv):
    """Push every box onto a goal.

    Args:
        split: which boards `reset(seed=...)` draws from; splits never share a board, nor a mirror
            image of one. Where none is named, generated boards are those of `train`.
        levels: a file or folder of levels in the standard text format, played in place of generated
            ones: all of them, or those of `split` where one is named, and of what `spec` asks.
            `reset(seed=s)` plays number `s` modulo their count. Where `spec` has a difficulty band
            and they are more than 200, a random one in the band, as searching them all would cost
            too much. Files are read once a process, and again when they have changed.
        max_turns: answers before the episode is truncated. If not given, 12; on levels that were
            not generated twice as many as the best plan takes if those are more, and 200 where the
            search finds no plan. A rollout has a limit of its own beside it, `rollout.max_turns`.
        moves_per_turn: the most moves one answer may hold; those after the solving one are left.
        stop_when_stuck: end the episode, as lost, when the level provably can no longer be solved.
        prompt: the full rules, one line for models that were trained on the game, or the rules with
            some turns of a generated level of the training split, played well (`fewshot`).
        search_limit: states that the search for the oracle looks at before it gives up. From where
            it does, `info` has no oracle and says nothing on whether the level can be solved. With
            0 it never begins, and a step costs microseconds on a board of any size.
        **spec: the fields of `LevelSpec`: size, boxes, inner walls and the difficulty band. With
            `levels` those that are given choose among them; see `Wanted`.

    `reset(options={"level": TEXT})` plays a level of your own. The reward is 1 for solving the
    level, else 0. `playing` says whether an episode is under way.

    Raises:
        ValueError: an option has no such value.
    """

    def __init__(
        self,
        *,
        split: Literal["train", "validation", "test"] | None = None,
        levels: str | None = None,
        max_turns: int | None = None,
        moves_per_turn: int = 1,
        stop_when_stuck: bool = False,
        prompt: Rules = "full",
        search_limit: int = SEARCH_LIMIT,
        **spec: int,
    ) -> None:
        if split is not None:
            check_choice("split", split, SPLITS)
        check_choice("prompt", prompt, get_args(Rules))
        if max_turns is not None:
            check_number("max_turns", max_turns, 1)
        check_number("moves_per_turn", moves_per_turn, 1)
        check_number("search_limit", search_limit, 0)
        _check_fields(spec)
        self.spec_of_levels = LevelSpec() if levels else LevelSpec(**spec)
        self.split = split or "train"
        self.collection: Collection | None = None
        if levels:
            self.collection = open_collection(levels, split, Wanted(**spec), search_limit)
        self._turn_limit = max_turns
        """None where it depends on the level."""
        self.turn_limit = self.max_turns = max_turns or _TURNS
        self.moves_per_turn = moves_per_turn
        self.stop_when_stuck = stop_when_stuck
        self.search_limit = search_limit
        amount = "one move" if moves_per_turn == 1 else f"up to {moves_per_turn} moves"
        example = "up" if moves_per_turn == 1 else "up left"
        full = _RULES.format(amount=amount, example=example)
        self.system_prompt = _BRIEF if prompt == "brief" else full
        if prompt == "fewshot":
            plain = full.replace(MAY_THINK, "")
            self.system_prompt = plain + EXAMPLE_FIRST
            self.examples = worked_example(Sokoban(max_turns=_TURNS))
        self.playing = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, Info]:
        """Start the level of `seed`, or the one in `options["level"]`.

        Raises:
            ValueError: the options hold anything else, the level cannot be read or is solved
                already, or no level of the wanted difficulty exists.
        """
        super().reset(seed=seed)
        number = int(self.np_random.integers(2**31)) if seed is None else seed
        self.task_id, self.level, plan = self._choose(number, options or {})
        self._generated = not (self.collection or options)
        self.solver = Solver(self.level, self.search_limit)
        if plan and self.search_limit:
            self.solver.remember(self.level.start, plan)
        return self.restart()

    def restart(self) -> tuple[str, Info]:
        """Play the same level again; what its search has found is kept."""
        self.state: State = self.level.start
        self.turns = 0
        self.playing = True
        self.plan = self.solver.plan(self.state)
        if self._turn_limit is None:
            self.turn_limit = self.max_turns = self._turns_for(self.plan)
        info = self._info(self.plan, self.solved)
        told = {"reference": info["oracle"]} if "oracle" in info else {}
        return self.level.render(), info | told | {"skill": "sokoban", "guide": GUIDE}

    def _turns_for(self, plan: Plan) -> int:
        """Answers that suffice for the level, of which this is the best plan."""
        if self._generated:
            return _TURNS
        if plan.verdict == "unknown":
            return _TURNS_UNKNOWN
        return max(_TURNS, 2 * -(-len(plan.moves) // self.moves_per_turn))

    def step(self, action: str) -> tuple[str, float, bool, bool, Info]:
        """Play the moves of `action`.

        An action that cannot be read leaves the board as it is and costs the turn.

        Raises:
            ValueError: the episode is over, or none was begun.
        """
        if not self.playing:
            raise ValueError("no episode of Sokoban is being played: call reset() first")
        self.turns += 1
        before, start = self.plan, self.state
        moves, problem = self._parse(action)
        played, blocked = self._play(moves)
        # No move mends a lost level; searching it again would cost the most where it helps least.
        lost = before.verdict == "unsolvable"
        plan = self.plan = before if lost else self.solver.plan(self.state)
        solved = self.solved
        stuck = plan.verdict == "unsolvable"
        closer = plan.verdict == "solvable" and plan.better_than(before)
        info = self._info(plan, solved)
        facts = info["facts"]
        facts["well_formed"] = info["action_valid"] = not problem
        facts["moved"] = self.state != start
        facts["hit_wall"] = blocked
        facts["moves_closer"] = closer
        facts["keeps_solvable"] = not stuck or lost
        if problem:
            info["mistake"], info["feedback"] = "unreadable action", problem
        else:
            info["mistake"], came = self._comment(plan, before, solved, blocked, closer)
            info["feedback"] = f"{' '.join(played)} {came}"
        terminated = solved or (stuck and self.stop_when_stuck)
        truncated = not terminated and self.turns >= self.turn_limit
        self.playing = not (terminated or truncated)
        board = self.level.render(self.state)
        shown = f"{problem}\n{board}" if problem else board
        return shown, float(solved), terminated, truncated, info

    def legal_actions(self) -> Sequence[str]:
        """The moves that change the board."""
        ways = DIRECTIONS.items()
        return [move for move, way in ways if step(self.level, self.state, way) != self.state]

    def render(self) -> str:
        """The board as it stands."""
        return self.level.render(self.state)

    @property
    def solved(self) -> bool:
        """Whether every box is on a goal."""
        return self.state[1] <= self.level.goals

    def _choose(self, number: int, options: Mapping[str, Any]) -> tuple[str, Level, Plan | None]:
        """The task's name, its level, and the level's plan where it is known already."""
        plan = None
        if unknown := set(options) - {"level"}:
            raise ValueError(f"reset takes the option 'level' only, not {sorted(unknown)}")
        if (text := options.get("level")) is not None:
            level = parse_level(text)
            name = f"level/{level.key}"
        elif self.collection:
            place, level, plan = self.collection.draw(number)
            name = f"collection/{level.key}/{place}"
        else:
            level, plan = generate(self.spec_of_levels, number, self.split)
            name = f"{self.split}/{level.key}/{number}"
        if level.boxes <= level.goals:
            raise LevelError(f"{name}: every box is on a goal at the start; move one off its goal")
        return f"sokoban/{name}", level, plan

    def _play(self, moves: list[str]) -> tuple[list[str], bool]:
        """Play `moves` until the level is solved; those played, and whether one was blocked."""
        level, goals, blocked = self.level, self.level.goals, False
        for count, move in enumerate(moves, 1):
            after = step(level, self.state, DIRECTIONS[move])
            blocked |= after is self.state
            self.state = after
            if after[1] <= goals:
                return moves[:count], blocked
        return moves, blocked

    def _parse(self, action: str) -> tuple[list[str], str]:
        """The moves, or an empty list and what is wrong."""
        content = parse_action(action)
        if content is None:
            return [], "No <action></action> in the answer."
        if content in DIRECTIONS:
            return [content], ""
        words = content.lower().translate(_SEPARATORS).split()
        moves = [_LETTERS.get(word, word) for word in words]
        unknown = [m for m in moves if m not in DIRECTIONS]
        if unknown or not moves:
            shown = (unknown or [content])[0][:20]
            return [], f"{shown!r} is not a move: use up, down, left or right."
        if len(moves) > self.moves_per_turn:
            most = self.moves_per_turn
            return [], f"{len(moves)} moves in one answer; at most {most} are allowed."
        return moves, ""

    def _comment(
        self, plan: Plan, before: Plan, solved: bool, blocked: bool, closer: bool
    ) -> tuple[str, str]:
        """The mistake's short name, and the rest of the sentence that began with the moves."""
        if solved:
            return "", "solves it."
        if plan.verdict == "unsolvable":
            if before.verdict == "unsolvable":
                return "", "changes nothing, it can no longer be solved."
            if self.solver.cornered(self.state[1]):
                return "corner", "pushes the box where it is stuck, it can no longer be solved."
            return "stuck", "makes it impossible, it can no longer be solved."
        if not plan.solvable:
            return ("wall", "hits a wall.") if blocked else ("", "is done.")
        left = f"{len(plan.moves)} to go."
        if blocked:
            return "wall", f"hits a wall, {left}"
        if not before.solvable:
            return "", "is done."
        return ("", f"moves closer, {left}") if closer else ("away", f"moves away, {left}")

    def _info(self, plan: Plan, solved: bool) -> Info:
        boxes, verdict = self.state[1], plan.verdict
        facts: dict[str, Any] = {
            "boxes": len(boxes),
            "boxes_on_goal": len(boxes & self.level.goals),
        }
        info: Info = {
            "task_id": self.task_id,
            "success": solved,
            "action_valid": True,
            "facts": facts,
        }
        if verdict != "unknown":
            facts["solvable"] = verdict == "solvable"
        if verdict == "solvable":
            facts["pushes_left"] = plan.pushes
            facts["moves_left"] = len(plan.moves)
            info["oracle"] = " ".join(plan.moves)
        return info


def _check_fields(given: Mapping[str, int]) -> None:
    """Refuse what is no field of `LevelSpec`.

    Raises:
        ValueError: there is no such field, or it is no whole number.
    """
    known = [field.name for field in fields(LevelSpec)]
    for name, value in given.items():
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(known)}"
            raise ValueError(f"Sokoban has no option {name!r}; {hint}")
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError(f"Sokoban's option {name!r} is a whole number, not {value!r}")
