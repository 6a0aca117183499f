"""TextArena's games for two, played against inside the environment."""

from __future__ import annotations

import json
import pickle
import random
from typing import Any

import pytest
from garbage import many
from hypothesis import given, settings

from agentopd import make
from agentopd.environment.check import check_env
from agentopd.environment.opponents import (
    Asked,
    Opponent,
    OpponentFailed,
    Player,
    ScriptedOpponent,
    Seat,
    read_opponent,
)

textarena = pytest.importorskip("textarena")

# A board, piles, cards that are hidden, and games of which no more is known than they say.
GAMES = (
    "TicTacToe-v0?opponent=random",
    "TicTacToe-v0?opponent={kind: scripted, slips: 0.5}&prompt=brief",
    "WildTicTacToe-v0?opponent=random&prompt=brief",
    "Nim-v0?opponent=scripted",
    "KuhnPoker-v0?opponent=scripted",
    "Othello-v0-tiny?opponent=random",
    "PigDice-v0-50?opponent=random&seat=1",
)


def build(name: str, **options: Any) -> Any:
    return make(f"textarena:{name}", options)


def act(env: Any, *moves: str) -> list[tuple[str, float, bool, bool, dict[str, Any]]]:
    return [env.step(f"<action>{move}</action>") for move in moves]


class Lines(Opponent, kind="lines_of_tests"):
    """Says its lines one after another, whatever happens; keeps what it was asked."""

    lines: tuple[str, ...]

    def sit(self, seat: Seat) -> Player:
        player = _Reader(list(self.lines), seat)
        PLAYERS.append(player)
        return player


class _Reader:
    def __init__(self, lines: list[str], seat: Seat) -> None:
        self.lines, self.seat, self.asked, self.left = lines, seat, list[Asked](), 0

    def answer(self, asked: Asked) -> str:
        self.asked.append(asked)
        if not self.lines:
            raise OpponentFailed("opponent lines: it has none left")
        return self.lines.pop(0)

    def leave(self) -> None:
        self.left += 1


PLAYERS: list[_Reader] = []


def against(*lines: str, game: str = "TicTacToe-v0", **options: Any) -> tuple[Any, _Reader]:
    """A game against somebody who says so, and the one who says it."""
    env = build(game, opponent={"kind": f"{__name__}:Lines", "lines": list(lines)}, **options)
    env.reset(seed=0)
    return env, PLAYERS[-1]


@pytest.mark.parametrize("name", GAMES)
def test_the_checker_finds_no_error(name: str) -> None:
    errors = [found for found in check_env(f"textarena:{name}", seeds=6) if found.level == "error"]
    assert errors == []


def test_tic_tac_toe_word_for_word() -> None:
    lines = [f"<think>so</think><action>{n}</action>" for n in (4, 2, 8)]
    env, _ = against(*lines, seat=0, prompt="brief")
    shown, info = env.reset(seed=7)
    assert env.system_prompt.startswith("Tic-tac-toe, cells 0 to 8")
    assert shown == "You are O.\n...\n...\n..."
    assert info["facts"] == {"seat": 0, "outcome": "", "value": "draw"}
    assert (info["outcome"], info["success"], info["skill"]) == ("", False, "TicTacToe")
    told = [
        ("1", "They played 4.\nYou are O.\n.O.\n.X.\n...", "", "Nothing was better than 1.",
         {"value": "draw", "best": True, "kept": True}),
        ("3", "They played 2.\nYou are O.\n.OX\nOX.\n...", "", "Nothing was better than 3.",
         {"value": "draw", "best": True, "kept": True}),
        ("5", "They played 8.\nYou are O.\n.OX\nOXO\n..X", "loses", "5 loses: 6 was better.",
         {"value": "loss", "moves_left": 2, "best": False, "kept": False}),
    ]  # fmt: skip
    for move, said, mistake, feedback, facts in told:
        shown, reward, terminated, truncated, info = act(env, move)[0]
        assert (shown, info["mistake"], info["feedback"]) == (said, mistake, feedback), move
        assert facts.items() <= info["facts"].items()
        assert (reward, terminated, truncated, info["outcome"]) == (0.0, False, False, "")
    assert info["oracle"] in ("0", "6")


def test_a_win_a_draw_and_a_loss_are_told_apart() -> None:
    lines = {
        "win": (["3", "4"], ["0", "1", "2"], 1.0),
        "loss": (["3", "4", "5"], ["0", "1", "8"], -1.0),
        "draw": (["1", "3", "8", "6"], ["0", "4", "2", "7", "5"], 0.0),
    }
    for outcome, (theirs, ours, paid) in lines.items():
        env, _ = against(*(f"<action>{n}</action>" for n in theirs), seat=0)
        _, reward, terminated, truncated, info = act(env, *ours)[-1]
        assert (reward, terminated, truncated) == (paid, True, False)
        assert (info["outcome"], info["success"]) == (outcome, outcome == "win")
        counted = {name: info["metrics"][name] for name in ("win", "draw", "loss")}
        assert counted == {name: float(name == outcome) for name in counted}
        assert "oracle" not in info
        assert (
            info["feedback"]
            .split("The game is ")[1]
            .startswith({"win": "won", "draw": "drawn", "loss": "lost"}[outcome])
        )
        with pytest.raises(ValueError, match="call reset"):
            env.step("<action>6</action>")


def test_whoever_is_refused_costs_nobody_else() -> None:
    """An opponent's refused answers are counted as its own, and the student never reads them."""
    env, player = against("4", "<action>0</action>", "<action>4</action>", "<action>2</action>")
    env.reset(seed=0)
    player = PLAYERS[-1]
    shown, _, _, _, info = act(env, "0")[0]  # they have two tries: none is a move
    assert info["metrics"]["opponent_refused"] == 2.0
    assert info["action_valid"] and info["mistake"] == ""
    assert (
        shown.count("Player 1: [") == 1 and "invalid" not in shown and "Player 1: [0]" not in shown
    )
    assert [a.observation for a in player.asked[1:]] == ["No <action></action> in the answer."]
    board = shown.split("Current Board:")[1]
    assert board.count("X") == 1 and board.count("O") == 1  # a legal move of chance was made
    shown, _, terminated, _, info = act(env, "0")[0]
    assert shown == "cell 0 is already occupied."
    assert (info["mistake"], info["action_valid"], terminated) == ("refused action", False, False)
    assert len(player.asked) == 2  # nobody was asked for an answer to a refused move
    act(env, str(next(n for n in range(9) if str(n) in env.legal_actions())))
    assert "already occupied" not in player.asked[2].observation
    assert "Player 0: [0]" not in player.asked[2].observation


@pytest.mark.parametrize(
    ("move", "complaint"),
    [("4]" + "x" * 4_000, "Your move has more than 4,000 char"), ("[4]\ud800", "no Unicode text")],
)
def test_what_the_student_could_not_read_is_no_move(move: str, complaint: str) -> None:
    env, player = against(f"<action>{move}</action>", "<action>4</action>", seat=0)
    shown, _, _, _, info = act(env, "0")[0]
    assert complaint in player.asked[1].observation
    assert info["metrics"]["opponent_refused"] == 1.0
    assert "Player 1: [4]" in shown and len(shown.encode()) < 500


def test_an_opponent_without_a_move_costs_the_episode_by_its_name() -> None:
    env, _ = against(game="Breakthrough-v0-tiny", seat=0)
    with pytest.raises(OpponentFailed, match="opponent lines: it has none left"):
        act(env, "a2a3")
    env, _ = against("<action>z9</action>", "no", game="Breakthrough-v0-tiny", seat=0)
    with pytest.raises(OpponentFailed, match=r"opponent of Breakthrough-v0-tiny, .*refused 2 ans"):
        act(env, "a2a3")


def test_the_opponent_reads_its_own_side_of_the_game() -> None:
    env, player = against(
        "<action>call</action>", "<action>check</action>", game="KuhnPoker-v0", seat=1
    )
    act(env, "bet")
    seen = player.asked[0].observation
    assert "You are Player 0" in seen and player.asked[0].legal == ("fold", "call")
    card = env._table.game.state.game_state["player_cards"][1]
    shown, _ = env.reset(seed=0)
    assert "You are Player 1" in shown and f"Your card is: '{'JQK'[card]}'" in shown
    assert seen.count("Your card is") == shown.count("Your card is") == 1
    assert player.seat.rules == env.system_prompt


def test_an_opponent_that_begins_has_moved_when_the_episode_begins() -> None:
    env, player = against("<action>4</action>", seat=1)
    shown, info = env.reset(seed=0)
    assert "Player 0: [4]" in shown and info["facts"]["seat"] == 1
    assert env.legal_actions() == tuple("01235678")
    assert player.left == 1
    env.close()
    assert PLAYERS[-1].left == 1


def test_both_seats_alternate_by_the_seed() -> None:
    env = build("TicTacToe-v0?opponent=random")
    seats = [env.reset(seed=seed)[1]["facts"]["seat"] for seed in range(6)]
    assert seats == [0, 1, 0, 1, 0, 1]
    assert {build("TicTacToe-v0?opponent=random&seat=1").reset(seed=s)[1]["facts"]["seat"]
            for s in range(4)} == {1}  # fmt: skip


@pytest.mark.parametrize("name", ["TicTacToe-v0", "KuhnPoker-v0", "Othello-v0-tiny"])
def test_a_seed_fixes_the_opponent_whatever_else_draws(name: str) -> None:
    def episode(seed: int) -> list[Any]:
        env = build(f"{name}?opponent=random")
        told, over = [env.reset(seed=seed)], False
        while not over:
            random.random()
            told += act(env, env.legal_actions()[0])
            over = told[-1][2] or told[-1][3]
        return told

    before = pickle.dumps(random.getstate())
    first = episode(3)
    assert pickle.dumps(random.getstate()) != before  # the test's own draws, made again below
    assert episode(3) == first
    assert len({repr(episode(seed)[1][0]) for seed in range(3, 15, 2)}) > 1


def test_an_exact_player_never_loses_and_one_that_slips_does() -> None:
    lost = {}
    for slips in (0.0, 1.0):
        env = build("TicTacToe-v0", opponent={"kind": "scripted", "slips": slips})
        lost[slips] = 0
        for seed in range(20):
            rng = random.Random(seed)
            _, info = env.reset(seed=seed)
            over = False
            while not over:
                move = info["oracle"] if slips else rng.choice(env.legal_actions())
                _, _, terminated, truncated, info = act(env, move)[0]
                over = terminated or truncated
            lost[slips] += info["outcome"] == "win"
    assert lost[0.0] == 0 and lost[1.0] > 15


def test_the_oracle_of_nim_wins_what_can_be_won() -> None:
    env = build("Nim-v0?opponent=scripted")
    for seed in range(6):
        _, info = env.reset(seed=seed)
        worth = info["facts"]["value"]
        while "oracle" in info:
            *_, info = act(env, info["oracle"])[0]
        assert info["outcome"] == worth == {0: "win", 1: "loss"}[seed % 2]


def test_the_turn_limit_counts_the_answers_of_the_student() -> None:
    env = build("TicTacToe-v0?opponent=random", max_turns=2)
    env.reset(seed=0)
    results = [*act(env, "x"), env.step("")]
    assert [result[2:4] for result in results] == [(False, False), (False, True)]
    # no game is no better than a lost one, or it would be learnt
    assert [result[1] for result in results] == [0.0, -1.0]
    assert results[1][4]["outcome"] == "unfinished" and results[1][4]["success"] is False
    assert results[1][4]["metrics"]["unfinished"] == 1.0
    assert env.reset(seed=0)[1]["outcome"] == ""
    assert build("TicTacToe-v0?opponent=random").max_turns == 9
    assert build("PigDice-v0-50?opponent=random").max_turns == 50


@pytest.mark.parametrize("name", ["TicTacToe-v0?opponent=random", "Nim-v0?opponent=scripted",
                                  "KuhnPoker-v0?opponent=random&prompt=brief",
                                  "Stratego-v0?opponent=random"])  # fmt: skip
@settings(max_examples=25)
@given(texts=many())
def test_no_text_raises_and_every_answer_keeps_the_contract(name: str, texts: list[str]) -> None:
    env = build(name, max_turns=30)
    _, info = env.reset(seed=1)
    for text in texts:
        shown, reward, terminated, truncated, info = env.step(text)
        assert shown.encode() and not truncated
        assert reward == info["metrics"]["score"]
        assert json.loads(json.dumps(info)) == info
        if not info["action_valid"]:
            assert not terminated and info["feedback"]
        if terminated:
            env.reset(seed=1)


def test_turns_of_another_game_are_shown_to_both_sides() -> None:
    env, player = against("<action>4</action>", seat=1, prompt="fewshot")
    shown, _ = env.reset(seed=0)
    assert len(env.examples) >= 2 and "You may think" not in env.system_prompt
    asked, answer = env.examples[0]
    assert asked == build("TicTacToe-v0?opponent=random&seat=0").reset(seed=1_000_003)[0]
    assert answer == "<action>0</action>"
    assert PLAYERS[-1].seat.examples == tuple(env.examples)
    assert shown.startswith("You are Player 1") and player.seat.rules == env.system_prompt


def test_the_blind_game_shows_no_board() -> None:
    env = build("ConnectFour-v0-blind?opponent=random&prompt=brief&seat=0")
    assert env.reset(seed=0)[0] == "You are X.\nThe board is hidden."
    assert env.reset(seed=0)[1]["facts"]["value"] == "open"


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("KuhnPoker-v0", {}, "for two: name who plays against the student"),
        ("KuhnPoker-v0?seat=1", {}, "for two: say who plays"),
        ("GuessTheNumber-v0?opponent=random", {}, "a game for one player: leave opponent"),
        ("Poker-v0?opponent=random", {}, "nor for two"),
        ("Nim-v0?opponent=randm", {}, "did you mean 'random'"),
        ("Nim-v0?opponent=", {}, "for two: say who plays"),
        ("Nim-v0?opponent=3", {}, "an opponent is a name or a mapping"),
        ("Nim-v0?opponent", {}, "write options as KEY=VALUE"),
        ("Nim-v0?seat=0&seat=1", {}, "stands there twice"),
        ("Nim-v0?opponent=random", {"opponent": "self"}, "in its name and as an option"),
        ("Nim-v0?opponent=random&seat=2", {}, "seat is one of 0, 1, both, not 2"),
        ("Nim-v0?opponent=random&pile=3", {}, "has no option 'pile'; it takes: piles"),
        ("Nim-v0", {"opponent": {"kind": "scripted", "slips": 2}}, "opponent.slips: Input should"),
        ("Breakthrough-v0?opponent=random", {}, "does not say which moves are legal"),
        ("Othello-v0?opponent=scripted", {}, "of that game no exact player is known"),
        ("Othello-v0?opponent=random&prompt=brief", {}, "has no brief prompt and no example"),
        ("Nim-v0?opponent=random&prompt=long", {}, "prompt is one of full, brief, fewshot"),
        ("Debate-v0?opponent=random", {}, "cannot be played here"),
        ("Nim-v0?opponent=zoo:nobody", {}, "no embedded model is called 'zoo:nobody'"),
        ("Nim-v0?opponent=not/there", {}, "'not/there' is not a model folder"),
    ],
)
def test_what_cannot_be_played(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(name, **options)


def test_options_in_the_name_are_yaml() -> None:
    env = build("Nim-v0?opponent={kind: scripted, depth: 3}&piles=[1, 2]&seat=0")
    assert env.opponent == ScriptedOpponent(depth=3)
    assert "pile 1: 2" in env.reset(seed=0)[0]


def test_an_opponent_of_ones_own_is_named_as_every_part_is() -> None:
    found = read_opponent({"kind": f"{__name__}:Lines", "lines": ["a"], "attempts": 3})
    assert isinstance(found, Lines) and found.attempts == 3
    assert read_opponent(found) is found


def test_a_game_repeats_no_list_of_moves_that_still_holds() -> None:
    """High Society asks again after a tie and does not say which cards are left."""
    env = build("HighSociety-v0?opponent=random&seat=0")
    for seed in range(6):
        env.reset(seed=seed)
        over = False
        while not over:
            result = act(env, env.legal_actions()[0])[0]
            assert result[4]["action_valid"]
            over = result[2]
