"""TextArena's games for two: `textarena:TicTacToe-v0?opponent=random`.

The student has one seat, an opponent the other (`agentopd.environment.opponents`). It plays inside
the environment: what it does is told to the student with what the game says, and the seed of an
episode fixes its chance as it does the game's. What an opponent thinks is told to nobody.

The reward is the game's own at its end: 1 for a win, 0 for a draw, -1 for a loss; a win is success,
and `info["outcome"]` tells all three apart. An answer of the student that the game refuses costs a
turn and never ends the episode, as in `agentopd.envs.adapters.arena`; the turn limit counts the
student's answers, and a game that is `unfinished` by then is paid as a loss: else whoever loses
would learn not to play. Whose fault what is: `info["metrics"]["opponent_refused"]` counts the
answers of the opponent that were refused, and an opponent that cannot go on raises
`OpponentFailed`.
"""

from __future__ import annotations

import inspect
import random
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

from agentopd.base.text import is_unicode
from agentopd.environment.contract import Info, TextEnv, parse_action
from agentopd.environment.opponents import (
    Asked,
    Host,
    Opponent,
    OpponentFailed,
    Player,
    Seat,
    read_opponent,
)
from agentopd.envs.adapters.arena_library import find_game
from agentopd.envs.adapters.duels.known import KNOWN
from agentopd.envs.adapters.duels.lore import Lore
from agentopd.envs.adapters.duels.table import Table
from agentopd.envs.puzzle import (
    EXAMPLE_FIRST,
    MAY_THINK,
    Outcome,
    Rules,
    check_choice,
    check_number,
    worked_example,
)

_MOST_SAID = 4_000
"""Characters of an opponent's move, which the student reads."""
_LONGEST = 1_000
"""Answers where neither the game nor what is known of it has a limit."""
_ANSWER = """You play a game against another player, one move a turn; its rules follow.
You may think first inside <think></think>. End your answer with your move inside \
<action></action>; its square brackets may be left out."""
_EXAMPLE = " For example\n<action>{}</action>."
_MISSING = "No <action></action> in the answer."
_OUTCOMES = {1: "win", 0: "draw", -1: "loss"}
_UNFINISHED = "unfinished"
_ENDED = {"win": "won", "draw": "drawn", "loss": "lost"}


class Duel(TextEnv):
    """A game of TextArena for two, of whom one is the student.

    Args:
        name: as TextArena registers it, without -raw and -train.
        opponent: who has the other seat; see `agentopd.environment.opponents.read_opponent`.
        seat: the student's, 0 or 1, of which the first begins in most games; `both` alternates by
            the episode's seed.
        max_turns: answers of the student before the episode is truncated; what is known of the
            game, or its own number, if not given.
        prompt: the game's own rules as first observation; or, of games that `KNOWN` knows, `brief`:
            one line as system prompt and the state in few words; or `fewshot`: the game's own
            rules, and turns of another game, played well.
        game: options of the game itself.

    Raises:
        ValueError: there is no such game, option or opponent, the game is not for two, or the
            opponent has to know more of it than is known.
    """

    stochastic = True
    """Best play does not win for certain, if the opponent plays well."""
    action_between = None

    def __init__(
        self,
        name: str,
        *,
        opponent: Any = None,
        seat: Literal[0, 1, "both"] = "both",
        max_turns: int | None = None,
        prompt: Rules = "full",
        **game: Any,
    ) -> None:
        check_choice("prompt", prompt, get_args(Rules))
        check_choice("seat", seat, (0, 1, "both"))
        self.name, self.skill = name, name.partition("-v")[0]
        self._type, self._options = find_game(name, game, players=2)
        if opponent is None:
            raise ValueError(f"{name} is for two: say who plays, as in opponent=random")
        self.opponent: Opponent = read_opponent(opponent)
        if self.opponent.blocking:
            self.metadata = {**self.metadata, "blocking": True}
        self.seats, self._brief = seat, prompt == "brief"
        self._shows = prompt == "fewshot"
        takes_limit = "max_turns" in inspect.signature(self._type).parameters
        if max_turns is not None:
            check_number("max_turns", max_turns, 1)
        self._knows = KNOWN.get(self.skill)
        self._table = self._set_up(0)
        self._check_known()
        own = int(self._options.get("max_turns") or 0) if takes_limit else 0
        known = self._knows.limit(self._table.game) if self._knows else 0
        self.max_turns = self.turn_limit = max_turns or known or own or _LONGEST
        self.system_prompt = self._prompt()
        if self._shows:
            twin = Duel(name, opponent="random", seat=0, max_turns=max_turns, **game)
            self.examples = worked_example(twin)
        self.seat: int = 0
        self.turns = 0
        self._host: Host | None = None
        self._player: Player | None = None
        self._playing = False

    def face(self, host: Host) -> None:
        """Know who brings an opponent that is the student, or a copy of it."""
        self._host = host

    def _set_up(self, seed: int) -> Table:
        table = Table(self.name, self._type, self._options, seed)
        self._lore: Lore | None = self._knows(table.game) if self._knows else None
        return table

    def _check_known(self) -> None:
        """Refuse an opponent that has to know more of the game than is known.

        Raises:
            ValueError: it has to.
        """
        if self.opponent.needs_policy and self._lore is None:
            raise ValueError(
                f"opponent {self.opponent.label} cannot play {self.name}: of that game no exact "
                f"player is known, only of {', '.join(KNOWN)}; take random, or a model"
            )
        if self.opponent.needs_legal and not self._legal():
            raise ValueError(
                f"opponent {self.opponent.label} cannot play {self.name}: the game does not say "
                "which moves are legal; let a model play, as in opponent=zoo:NAME"
            )
        if (self._brief or self._shows) and self._lore is None:
            raise ValueError(
                f"{self.name} has no brief prompt and no example: nobody knows how it is played "
                "well; leave prompt out"
            )

    def _prompt(self) -> str:
        if self._knows is None:
            return _ANSWER
        if self._brief:
            return self._knows.rules(self._table.game)
        told = _ANSWER + _EXAMPLE.format(self._knows.example)
        return told.replace(MAY_THINK, "") + EXAMPLE_FIRST if self._shows else told

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, Info]:
        """Start the game of `seed`; an opponent that begins has moved by then.

        Raises:
            ValueError: options are given, or the game cannot be set up.
            OpponentFailed: the opponent does not play.
        """
        super().reset(seed=seed)
        if options:
            raise ValueError(f"a game of TextArena takes no options at reset, got {options}")
        number = int(self.np_random.integers(2**31)) if seed is None else seed
        self.close()
        self.seat = number % 2 if self.seats == "both" else int(self.seats)
        self.task_id = f"{self.name}/{self.opponent.label}/{self.seat}/{number}"
        self._table = self._set_up(number)
        self._chance = random.Random(f"{self.name}/{number}")
        chance = self._chance.randrange(2**31)
        sitting = Seat(self.system_prompt, chance, tuple(self.examples))
        host = self._host if self.opponent.is_student else None
        self._player = host.sit(self.opponent, sitting) if host else self.opponent.sit(sitting)
        self.turns, self._refused, self._playing, self._late = 0, 0, True, False
        self._answered()
        told: Info = {"skill": self.skill}
        if self._knows:
            told["guide"] = self._knows.guide
        return self._shown(), self._info() | told

    def step(self, action: str) -> tuple[str, float, bool, bool, Info]:
        """Hand the game what stands in `<action>`, then let the opponent answer.

        Raises:
            ValueError: the episode is over, or none was begun.
            OpponentFailed: the opponent does not play.
        """
        if not self._playing:
            raise ValueError(f"no episode of {self.name} is being played: call reset() first")
        self.turns += 1
        content = parse_action(action)
        if content is None:
            outcome = Outcome(_MISSING, mistake="unreadable action")
            shown = self._complained(_MISSING)
        else:
            shown, outcome = self._play(content)
        over = self._table.over
        self._late = not over and self.turns >= self.turn_limit
        self._playing = not (over or self._late)
        info: Info = self._info() | {"action_valid": not outcome.problem}
        if self._lore:
            info["facts"] |= {**self._lore.unread, **outcome.facts}
        info["facts"]["well_formed"] = not outcome.problem
        info |= {"mistake": outcome.mistake, "feedback": outcome.problem or self._told(outcome)}
        return shown, self._score, over, self._late, info

    def legal_actions(self) -> Sequence[str] | None:
        """The legal moves, where the game or what is known of it tells them."""
        return self._legal() or None

    def close(self) -> None:
        """The opponent leaves."""
        if self._player is not None:
            self._player.leave()
        self._player = None

    def _play(self, content: str) -> tuple[str, Outcome]:
        """What the student is shown after a move, and what became of it."""
        if self._lore:
            self._lore.expect()
        if problem := self._table.move(content):
            return self._complained(problem), Outcome(problem, mistake="refused action")
        outcome = self._lore.judge(content) if self._lore else Outcome()
        self._answered()
        return self._shown(), outcome

    def _complained(self, problem: str) -> str:
        """What the student reads after an answer that changed nothing."""
        if self._brief and self._lore:
            return f"{problem}\n{self._lore.show(self.seat)}"
        return problem

    def _answered(self) -> None:
        """Let the opponent play until it is the student's turn, or the game is over."""
        for _ in range(_LONGEST):
            if self._table.over or self._table.mover == self.seat:
                return
            self._be_answered()
        raise OpponentFailed(f"{self._who} has moved {_LONGEST} times without an end")

    def _be_answered(self) -> None:
        """One move of the opponent, by itself or by chance in its place."""
        assert self._player is not None
        complaint = ""
        for _ in range(self.opponent.attempts):
            asked = Asked(complaint or self._shown(1 - self.seat), self._legal(), self._policy)
            content = parse_action(self._player.answer(asked))
            complaint = _unfit(content) or self._table.move(content or "")
            if not complaint:
                return
            self._refused += 1
        legal = list(self._legal())
        self._chance.shuffle(legal)
        if all(self._table.move(move) for move in legal):
            tries = f"{self.opponent.attempts} answers of one move"
            raise OpponentFailed(f"{self._who} was refused {tries}, the last: {complaint}")

    @property
    def _who(self) -> str:
        return f"the opponent of {self.name}, {self.opponent.label},"

    def _legal(self) -> tuple[str, ...]:
        if self._table.over:
            return ()
        return self._lore.legal() if self._lore else self._table.listed()

    def _policy(self, depth: int | None) -> Mapping[str, float]:
        return self._lore.policy(depth) if self._lore else {}

    def _shown(self, seat: int | None = None) -> str:
        """What a player reads next."""
        seat = self.seat if seat is None else seat
        if self._brief and self._lore:
            said = self._table.said(seat)
            lines = [f"They played {said}." if said else "", self._lore.show(seat)]
        else:
            lines = [self._table.heard(seat)]
        return "\n".join(filter(None, (*lines, self._table.ended)))

    def _told(self, outcome: Outcome) -> str:
        """What may honestly be said of a move, and of the end if it came."""
        if not self._table.over:
            return outcome.feedback
        ended = f"The game is {_ENDED[self._outcome]}: {self._table.ended}"
        return " ".join(filter(None, (outcome.feedback, ended)))

    @property
    def _score(self) -> float:
        """What the game gives; to who lets the turns run out as much as to who loses."""
        return -1.0 if self._late else self._table.reward(self.seat)

    @property
    def _outcome(self) -> str:
        """win, draw or loss, or unfinished; empty while the game goes on."""
        if self._late:
            return _UNFINISHED
        score = self._score
        return _OUTCOMES[(score > 0) - (score < 0)] if self._table.over else ""

    def _info(self) -> Info:
        over, outcome = self._table.over, self._outcome
        info: Info = {
            "task_id": self.task_id,
            "success": outcome == "win",
            "action_valid": True,
            "outcome": outcome,
            "facts": {"seat": self.seat, "outcome": outcome},
            "metrics": {
                "turns": float(self.turns),
                "score": self._score,
                **{name: float(outcome == name) for name in (*_OUTCOMES.values(), _UNFINISHED)},
                "opponent_refused": float(self._refused),
            },
        }
        if self._lore and not over:
            info["facts"] |= self._lore.facts()
            info["oracle"] = next(iter(self._lore.policy(None)))
        return info


def _unfit(content: str | None) -> str:
    """Why the move in an opponent's answer cannot be handed on: the student would have to read it.
    Empty where it can.
    """
    if content is None:
        return _MISSING
    if len(content) > _MOST_SAID:
        return f"Your move has more than {_MOST_SAID:,} characters."
    return "" if is_unicode(content) else "Your move is no Unicode text."
