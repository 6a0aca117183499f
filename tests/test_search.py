"""How richly episodes search, counted by hand on short walks."""

from __future__ import annotations

from dataclasses import replace

import pytest
from trajectories import played

from agentopd.base.types import Trajectory
from agentopd.probes.search import search_probes


def walk(states: str, actions: str) -> Trajectory:
    """An episode that is shown a letter a turn, and answers with another."""
    episode = played(*([n] for n in range(len(states))))
    turns = tuple(
        replace(turn, observation=state, action=action)
        for turn, state, action in zip(episode.turns, states, actions, strict=True)
    )
    return replace(episode, turns=turns)


@pytest.mark.parametrize(
    ("states", "actions", "different", "revisits", "backtracks", "repeats"),
    [
        ("abcd", "rrrr", 4, 0, 0, 0),  # straight on
        ("abab", "rlrl", 2, 2, 2, 2),  # to and fro
        ("aaaa", "uuuu", 1, 0, 0, 3),  # against a wall
        ("aaaa", "udlr", 1, 0, 0, 0),  # each way against a wall
        ("abca", "rrrr", 3, 1, 0, 1),  # around
        ("aaba", "urlu", 2, 1, 1, 1),
        ("a", "r", 1, 0, 0, 0),
    ],
)
def test_a_walk_is_counted(
    states: str, actions: str, different: int, revisits: int, backtracks: int, repeats: int
) -> None:
    turns = len(states)
    assert search_probes([walk(states, actions)]) == {
        "states": different,
        "revisits": revisits / turns,
        "backtracks": backtracks / turns,
        "repeats": repeats / turns,
    }


def test_shares_are_of_all_turns_and_states_of_each_episode() -> None:
    found = search_probes(
        [walk("abab", "rlrl"), walk("ab", "rl"), replace(walk("a", "r"), turns=())]
    )
    assert found == {"states": 2.0, "revisits": 2 / 6, "backtracks": 2 / 6, "repeats": 2 / 6}


def test_what_was_seen_in_another_episode_is_new() -> None:
    assert search_probes([walk("ab", "rl")] * 3)["revisits"] == 0


def test_without_turns_there_is_nothing() -> None:
    nothing = {"states": 0.0, "revisits": 0.0, "backtracks": 0.0, "repeats": 0.0}
    assert search_probes([]) == search_probes([replace(walk("a", "r"), turns=())]) == nothing
