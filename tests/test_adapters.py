"""What the adapters share: packages imported late, foreign code kept to itself."""

from __future__ import annotations

import pickle
import random
import subprocess
import sys
import threading

import numpy as np
import pytest

from agentopd import make
from agentopd.environment.registry import schemes
from agentopd.envs.adapters.isolation import Isolation

PACKAGES = [
    ("textarena:GuessTheNumber-v0", "textarena.envs.registration", "textarena"),
    ("reasoning:chain_sum", "reasoning_gym.factory", "reasoning"),
    ("grid:BabyAI-GoToRedBall-v0", "minigrid", "grid"),
    ("fiction:simple", "textworld.challenges", "fiction"),
    ("science:boil", "scienceworld", "science"),
    ("express:coin", "textworld_express", "express"),
    ("alfworld:train", "textworld", "alfworld"),
    ("gem:rg:chain_sum", "gem.envs.registration", "gem"),
    ("skyrl:gsm8k", "skyrl_gym", "skyrl"),
    ("jericho:story.z5", "jericho", "jericho"),
    ("nethack:NetHackScore-v0", "nle.env", "nethack"),
    ("search:small", "bm25s", "search"),
]


@pytest.mark.parametrize(("spec", "module", "extra"), PACKAGES)
def test_a_missing_package_is_named_with_what_to_install(
    spec: str, module: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    needed = {"data": "rows.jsonl"} if spec.startswith(("skyrl:", "alfworld:")) else {}
    with pytest.raises(ValueError, match=rf"pip install 'agentopd\[{extra}\]'"):
        make(spec, needed)


def test_no_package_is_imported_before_it_is_used() -> None:
    code = (
        "import sys, agentopd\n"
        "from agentopd.envs.adapters import arena, fiction, grid, reasoning, textualize, toys\n"
        "from agentopd.envs.adapters import search\n"
        "from agentopd.envs.adapters.played import alfworld, express, gem\n"
        "from agentopd.envs.adapters.played import jericho, nethack, science, skyrl\n"
        "late = ('textarena', 'nltk', 'reasoning_gym', 'minigrid', 'textworld', 'nle', 'py4j',\n"
        "  'scienceworld', 'textworld_express', 'alfworld', 'gem', 'skyrl_gym', 'jericho',\n"
        "  'bm25s')\n"
        "print([m for m in late if m in sys.modules])"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"


def test_the_schemes_are_registered() -> None:
    named = {"textarena", "toy", "reasoning", "grid", "fiction", "science", "express", "alfworld"}
    assert named | {"gem", "skyrl", "jericho", "nethack", "search"} <= set(schemes())


def drawn(isolation: Isolation) -> float:
    with isolation:
        return random.random()


def test_an_isolated_state_goes_on_from_block_to_block() -> None:
    one, other = Isolation(3), Isolation(3)
    first = drawn(one), drawn(one)
    assert first[0] != first[1]
    random.seed(99)
    assert (drawn(other), drawn(other)) == first
    assert drawn(Isolation(4)) != first[0]


def test_numpys_state_is_exchanged_where_it_is_asked_for() -> None:
    def numbers(isolation: Isolation) -> list[float]:
        with isolation:
            return np.random.random(2).tolist()

    np.random.seed(5)
    before = pickle.dumps(np.random.get_state())
    one, other = Isolation(3, numpy=True), Isolation(3, numpy=True)
    first = numbers(one), numbers(one)
    assert first[0] != first[1] and first == (numbers(other), numbers(other))
    assert pickle.dumps(np.random.get_state()) == before
    numbers(Isolation(3))
    assert pickle.dumps(np.random.get_state()) != before


def test_the_states_outside_are_put_back_even_after_an_error(
    capsys: pytest.CaptureFixture[str],
) -> None:
    isolation = Isolation(0)
    before = random.getstate()
    with pytest.raises(KeyError), isolation:
        random.random()
        print("swallowed")
        raise KeyError
    assert random.getstate() == before
    print("shown")
    assert capsys.readouterr().out == "shown\n"
    assert drawn(isolation) != drawn(Isolation(0)), "the failed block drew too"


def test_threads_wait_for_each_other() -> None:
    told: dict[int, list[float]] = {}

    def draw(seed: int) -> None:
        isolation = Isolation(seed)
        told[seed] = [drawn(isolation) for _ in range(300)]

    threads = [threading.Thread(target=draw, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed, numbers in told.items():
        isolation = Isolation(seed)
        assert numbers == [drawn(isolation) for _ in range(300)]
