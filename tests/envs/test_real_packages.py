"""The adapters on the real packages, each skipped where it is not installed: `make test-envs`."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from alfworld_games import write_games
from garbage import some_answers

from agentopd import make
from agentopd.environment.check import check_env
from agentopd.environment.contract import actions

pytestmark = [
    pytest.mark.envs,
    # Old syntax and open pipes in the packages themselves.
    pytest.mark.filterwarnings("ignore"),
]

JAVA = {"memory": 512}


def needs(module: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(
        importlib.util.find_spec(module) is None, reason=f"{module} is not installed"
    )


@pytest.fixture(scope="session")
def households(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Games of ALFWorld's format, other ones in each split."""
    folder = tmp_path_factory.mktemp("alfworld")
    package = importlib.util.find_spec("alfworld")
    assert package is not None and package.submodule_search_locations
    for split, numbers in (
        ("train", range(6)),
        ("valid_seen", range(6, 9)),
        ("valid_unseen", range(9, 12)),
    ):
        write_games(folder / split, Path(package.submodule_search_locations[0]), numbers)
    return str(folder)


@pytest.fixture(scope="session")
def sums(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Rows of sums, in SkyRL's columns."""
    rows = []
    for number in range(30):
        truth = {"method": "rule", "ground_truth": str(number * 7 + 1)}
        asked = [{"role": "user", "content": f"What is {number * 7} + 1?"}]
        rows.append({"prompt": asked, "reward_spec": truth, "reward_model": truth})
    path = tmp_path_factory.mktemp("rows") / "sums.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="session")
def story(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[str]]:
    """A story that TextWorld compiles for the Z-machine, and the way through it."""
    textworld = pytest.importorskip("textworld")
    options = textworld.GameOptions()
    options.seeds, options.nb_rooms, options.nb_objects, options.quest_length = 3, 3, 5, 3
    options.path = str(tmp_path_factory.mktemp("stories") / "made.z8")
    game = textworld.generator.make_game(options)
    return textworld.generator.compile_game(game, options), list(game.metadata["walkthrough"])


def follow(env: Any, seed: int) -> tuple[float, dict[str, Any]]:
    """What is earned by the oracle's first action of every turn, and the last info."""
    _, info = env.reset(seed=seed)
    earned = 0.0
    while "oracle" in info:
        action = env.action_form.replace("{}", actions(env, info["oracle"])[0])
        _, reward, *_, info = env.step(action)
        earned += reward
    return earned, info


def wins(spec: str, seeds: int = 5, **options: Any) -> None:
    env: Any = make(spec, options)
    for seed in range(seeds):
        earned, info = follow(env, seed)
        assert info["success"] and earned == pytest.approx(1), (seed, info["task_id"])
    env.reset(seed=0)
    for text in some_answers(40):
        *_, info = env.step(text)
        if env.turns >= env.max_turns or info["success"]:
            env.reset(seed=0)
    env.close()


def errors(spec: str, seeds: int = 3, **options: Any) -> list[str]:
    return [f.name for f in check_env(spec, options, seeds=seeds) if f.level == "error"]


def kill(env: Any) -> None:
    """End the game's Java machine behind the adapter's back."""
    process = env._machine.game._gateway.java_process
    process.kill()
    process.wait(10)


def dies_alone(env: Any) -> None:
    """A machine that dies costs its episode; the next one has a new machine."""
    _, info = env.reset(seed=0)
    first = info["oracle"].splitlines()[0]
    kill(env)
    with pytest.raises(Exception, match=r"(?i)java|network|connect|send"):
        env.step(f"<action>{first}</action>")
    assert follow(env, 0)[1]["success"]
    kill(env)
    env.close()


@needs("scienceworld")
def test_scienceworld() -> None:
    wins("science:find-animal", simplifications="easy", **JAVA)
    wins("science:lifespan-longest-lived", seeds=3, split="test", **JAVA)


@needs("scienceworld")
def test_a_machine_that_has_played_plays_as_a_new_one() -> None:
    """Of things without an order of their own too: this is what `reusable` promises."""

    def told(env: Any, seed: int) -> list[Any]:
        heard = [env.reset(seed=seed)]
        for command in ("teleport to art studio", "look around", "teleport to kitchen"):
            heard.append(env.step(f"<action>{command}</action>")[::4])
        return heard

    def fresh() -> Any:
        return make("science:find-animal", {"simplifications": "easy", **JAVA})

    used = fresh()
    for seed in (1, 0):
        told(used, seed)
    for seed in (0, 1):
        other = fresh()
        assert told(used, seed) == told(other, seed)
        other.close()
    used.close()


@needs("scienceworld")
def test_scienceworld_s_machine_may_die() -> None:
    dies_alone(make("science:find-animal", {"simplifications": "easy", **JAVA}))


@needs("textworld_express")
@pytest.mark.parametrize("game", ["coin", "cookingworld", "twc", "arithmetic", "simonsays"])
def test_textworldexpress(game: str) -> None:
    wins(f"express:{game}", max_turns=100, **JAVA)


@needs("textworld_express")
def test_textworldexpress_keeps_the_contract_without_its_ways() -> None:
    assert errors("express:coin", oracle=False, **JAVA) == []


@needs("textworld_express")
def test_textworldexpress_machine_may_die() -> None:
    dies_alone(make("express:simonsays", JAVA))


@needs("alfworld")
def test_alfworld(households: str) -> None:
    wins("alfworld:train", data=households)
    wins("alfworld:valid_unseen", data=households)
    assert errors("alfworld:train", data=households) == []


@needs("alfworld")
def test_alfworld_plays_compiled_games_too(story: tuple[str, list[str]], tmp_path: Path) -> None:
    source = Path(story[0])
    (tmp_path / "train").mkdir()
    for ending in (".z8", ".json"):
        path = source.with_suffix(ending)
        (tmp_path / "train" / path.name).write_bytes(path.read_bytes())
    wins("alfworld:train", seeds=1, data=str(tmp_path))


@needs("gem")
@pytest.mark.parametrize("name", ["game:Mastermind-v0-easy", "game:Minesweeper-v0-easy"])
def test_gem_s_games(name: str) -> None:
    assert errors(f"gem:{name}") == []


@needs("gem")
def test_gem_s_questions() -> None:
    wins("gem:rg:chain_sum")
    assert errors("gem:rg:chain_sum") == []


@needs("skyrl_gym")
@pytest.mark.parametrize("name", ["gsm8k", "gsm8k_multi_turn", "aime"])
def test_skyrl(name: str, sums: str) -> None:
    wins(f"skyrl:{name}", data=sums)
    assert errors(f"skyrl:{name}", data=sums) == []


@needs("verifiers")
def test_verifiers() -> None:
    wins("verifiers:verified_sums", forms=["#### {}"])
    assert errors("verifiers:verified_sums", forms=["#### {}"]) == []
    wins("verifiers:verified_guess", answer="number")


@needs("jericho")
def test_jericho(story: tuple[str, list[str]]) -> None:
    path, way = story
    env: Any = make(f"jericho:{path}")
    env.reset(seed=0)
    assert not env.step("<action>quit</action>")[4]["action_valid"]
    earned, info = 0.0, {}
    for command in way:
        _, reward, *_, info = env.step(f"<action>{command}</action>")
        earned += reward
    assert info["success"] and earned == pytest.approx(1)
    assert errors(f"jericho:{path}", varied=True) == []


@needs("nle")
@pytest.mark.parametrize("name", ["NetHackStaircase-v0", "NetHackScore-v0"])
def test_nethack(name: str) -> None:
    assert errors(f"nethack:{name}") == []


@needs("bm25s")
def test_search(tmp_path: Path) -> None:
    for split in ("train", "validation", "test"):
        wins("search:small", seeds=12, split=split)
    assert errors("search:small") == []


@needs("bm25s")
def test_an_index_is_kept(tmp_path: Path) -> None:
    from agentopd.envs.adapters.search.index import Index, Passage

    passages = [Passage("1", "Zebra", "It has stripes."), Passage("2", "Lion", "It roars.")]
    first = Index(passages, tmp_path)
    kept = list(tmp_path.iterdir())
    assert len(kept) == 1 and kept[0].name.startswith("bm25s-")
    again = Index(passages, tmp_path)
    for index in (first, again):
        assert [p.id for p in index.find("who roars", 2)] == ["2"]
        assert index.find("the of", 2) == [] == index.find("qqq", 2)
