"""What is known of single games of TextArena for two: who can play them exactly, and how.

A game without an entry in `KNOWN` is played all the same, against whoever needs to know no more
than the game says.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from agentopd.envs.adapters.duels.positions import Discs, Noughts, Piles, WildNoughts
from agentopd.envs.adapters.duels.search import HOPE, WON, Position, best, scores
from agentopd.envs.puzzle import Outcome


class Lore(ABC):
    """One episode of a game, followed from its start; what is asked is of who is to move.

    Args:
        game: TextArena's, just reset.
    """

    example: ClassVar[str]
    guide: ClassVar[str]
    unread: ClassVar[Mapping[str, bool]] = {"best": False, "kept": False}
    """The facts of a step that the game refused."""

    def __init__(self, game: Any) -> None:
        self.game = game

    @staticmethod
    @abstractmethod
    def rules(game: Any) -> str:
        """The rules in a line."""

    @staticmethod
    @abstractmethod
    def limit(game: Any) -> int:
        """Answers of one player that the game and some mistakes need at most."""

    @abstractmethod
    def show(self, seat: int) -> str:
        """The state in few words, for a student that does not read the game's own."""

    @abstractmethod
    def legal(self) -> tuple[str, ...]:
        """The legal moves."""

    @abstractmethod
    def policy(self, depth: int | None) -> Mapping[str, float]:
        """How likely an exact player makes each move, the best of its moves first."""

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """The facts of the state."""

    @abstractmethod
    def expect(self) -> None:
        """A move is about to be made: remember what `judge` compares with."""

    @abstractmethod
    def judge(self, content: str) -> Outcome:
        """What became of the move that the game took; called once, before anybody answers it."""


class BoardLore(Lore):
    """A game in which both see all and nothing is left to chance."""

    depth: int | None = None
    """How many moves are looked ahead; None for to the end."""

    def __init__(self, game: Any) -> None:
        super().__init__(game)
        self._before = self._position
        self._mover = 0
        self._scored: tuple[Position, int | None, dict[str, int]] | None = None

    @property
    def _position(self) -> Position:
        return self.read(int(self.game.state.current_player_id))

    def _scores(self, position: Position, depth: int | None = None) -> dict[str, int]:
        """Those of the last position that was asked for are kept."""
        depth = depth or self.depth
        if self._scored is None or self._scored[:2] != (position, depth):
            self._scored = position, depth, scores(position, depth)
        return self._scored[2]

    @abstractmethod
    def read(self, mover: int) -> Position:
        """Where the game stands, as the player of that number sees it."""

    def legal(self) -> tuple[str, ...]:
        """See `Lore.legal`."""
        return self._position.moves()

    def policy(self, depth: int | None) -> Mapping[str, float]:
        """See `Lore.policy`: of several best moves each is as likely."""
        position = self._position
        exact = (depth or self.depth) is None
        found = best(position, self._scores(position, depth), exact)
        return dict.fromkeys(found, 1 / len(found))

    def facts(self) -> dict[str, Any]:
        """See `Lore.facts`: what the state is worth to who is to move, with best play, and after
        how many moves of both; `open` where a search does not see the end.
        """
        position = self._position
        if not position.moves():
            return {}
        return _worth(max(self._scores(position).values()), exact=self.depth is None)

    def expect(self) -> None:
        """See `Lore.expect`."""
        self._before, self._mover = self._position, int(self.game.state.current_player_id)

    def judge(self, content: str) -> Outcome:
        """See `Lore.judge`."""
        now = self.read(1 - self._mover)
        found = self._scores(self._before)
        made = next(move for move in found if self._before.after(move) == now)
        most = max(found.values())
        right = [move for move, score in found.items() if score == most]
        before, after = _side(most), _side(found[made])
        kept = after == before
        facts = {"best": made in right, "kept": kept}
        if made in right:
            return Outcome(feedback=f"Nothing was better than {made}.", facts=facts)
        better = f"{right[0]} was better"
        if kept:
            mistake = "detour"
            said = {1: "wins later", -1: "loses sooner"}.get(before, "promises less")
            return Outcome(mistake=mistake, feedback=f"{made} {said}: {better}.", facts=facts)
        mistake = "gives away the win" if before > 0 else "loses"
        return Outcome(mistake=mistake, feedback=f"{made} {mistake}: {better}.", facts=facts)


def _side(score: int) -> int:
    """1 for a win, -1 for a loss, 0 for a draw or what is open."""
    return (score > HOPE) - (score < -HOPE)


def _worth(score: int, exact: bool) -> dict[str, Any]:
    if side := _side(score):
        return {"value": "win" if side > 0 else "loss", "moves_left": WON - abs(score)}
    return {"value": "draw" if exact else "open"}


class TicTacToe(BoardLore):
    """Searched to the end."""

    example = "4"
    guide = "Win if you can, else stop two in a line; take the middle, then corners."

    @staticmethod
    def rules(game: Any) -> str:
        """See `Lore.rules`."""
        return "Tic-tac-toe, cells 0 to 8 row by row: three of yours in a line win."

    @staticmethod
    def limit(game: Any) -> int:
        """See `Lore.limit`."""
        return 9

    def show(self, seat: int) -> str:
        """See `Lore.show`."""
        return f"You are {'OX'[seat]}.\n{_drawn(self.game)}"

    def read(self, mover: int) -> Position:
        """See `BoardLore.read`."""
        return Noughts(_drawn(self.game).replace("\n", ""), "OX"[mover])


class WildTicTacToe(BoardLore):
    """Searched to the end."""

    example = "X 4"
    guide = "Never leave two equal marks in a line with room for a third."

    @staticmethod
    def rules(game: Any) -> str:
        """See `Lore.rules`."""
        return "Wild tic-tac-toe, cells 0 to 8: set X or O; who ends a line of three equal wins."

    @staticmethod
    def limit(game: Any) -> int:
        """See `Lore.limit`."""
        return 9

    def show(self, seat: int) -> str:
        """See `Lore.show`."""
        return _drawn(self.game)

    def read(self, mover: int) -> Position:
        """See `BoardLore.read`."""
        return WildNoughts(_drawn(self.game).replace("\n", ""))


class Nim(BoardLore):
    """Searched to the end, or known by its theory where it is large."""

    example = "0 3"
    guide = "Leave piles whose sizes in binary have an even number of ones in every place."

    @staticmethod
    def rules(game: Any) -> str:
        """See `Lore.rules`."""
        return "Nim: '0 3' takes 3 objects from pile 0; who takes the last one wins."

    @staticmethod
    def limit(game: Any) -> int:
        """See `Lore.limit`."""
        return max(10, sum(game.initial_piles))

    def show(self, seat: int) -> str:
        """See `Lore.show`."""
        return " ".join(map(str, self.game.state.game_state["piles"]))

    def read(self, mover: int) -> Position:
        """See `BoardLore.read`."""
        return Piles(tuple(self.game.state.game_state["piles"]))


class ConnectFour(BoardLore):
    """Searched four moves ahead, of wide boards three."""

    example = "3"
    guide = "Win if you can, else stop three in a line; the middle columns make more lines."

    def __init__(self, game: Any) -> None:
        super().__init__(game)
        self.depth = 4 if game.num_cols < 10 else 3

    @staticmethod
    def rules(game: Any) -> str:
        """See `Lore.rules`."""
        last = game.num_cols - 1
        return f"Connect four: drop a disc into a column from 0 to {last}; four in a line win."

    @staticmethod
    def limit(game: Any) -> int:
        """See `Lore.limit`."""
        return int(game.num_rows * game.num_cols)

    def show(self, seat: int) -> str:
        """See `Lore.show`; in the blind game it is the own disc alone."""
        drawn = _drawn(self.game) if self.game.is_open else "The board is hidden."
        return f"You are {'XO'[seat]}.\n{drawn}"

    def read(self, mover: int) -> Position:
        """See `BoardLore.read`."""
        return Discs.of(self.game.state.game_state["board"], "XO"[mover])


def _drawn(game: Any) -> str:
    """A board row by row, empty cells as dots."""
    rows = game.state.game_state["board"]
    return "\n".join("".join(cell or "." for cell in row) for row in rows)
