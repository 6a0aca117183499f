"""Who does what among several processes, and what a launcher may ask for."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
from hypothesis import given
from hypothesis import strategies as st
from together import together
from trajectories import played

from agentopd.base.types import Lesson
from agentopd.learning.forecast import Forecast
from agentopd.parallel.episodes import known_elsewhere, own_episodes
from agentopd.parallel.launched import launched, processes_here, refuse_several
from agentopd.parallel.processes import ALONE, Processes
from agentopd.parallel.shares import shares

SCALE = sorted((Path(__file__).parents[1] / "configs" / "scale").glob("*.yaml"))

ITEMS = st.lists(st.tuples(st.integers(0, 5), st.integers(1, 40)), max_size=24)


@given(ITEMS, st.integers(1, 5))
def test_every_item_has_one_place_and_tasks_stay_together(
    items: list[tuple[int, int]], count: int
) -> None:
    numbered = list(enumerate(items))
    found = shares(numbered, count, lambda one: one[1][0], lambda one: one[1][1])
    assert len(found) == count
    assert Counter(one for share in found for one in share) == Counter(numbered)
    homes = {(one[1][0], n) for n, share in enumerate(found) for one in share}
    assert len(homes) == len({task for task, _ in items})
    assert all(share == sorted(share) for share in found)


@given(ITEMS, st.integers(1, 5))
def test_no_share_is_above_another_by_more_than_its_last_task(
    items: list[tuple[int, int]], count: int
) -> None:
    """What largest-first promises: the least loaded got each task."""
    found = shares(items, count, lambda one: one[0], lambda one: one[1])
    loads = [sum(work for _, work in share) for share in found]
    sizes = Counter[int]()
    for task, work in items:
        sizes[task] += work
    for share, load in zip(found, loads, strict=True):
        if share:
            smallest = min(sizes[task] for task, _ in share)
            assert load - smallest <= min(loads)


def test_equal_tasks_are_dealt_in_turn() -> None:
    assert shares([*"aabbccd"], 2, str, lambda _: 1.0) == [[*"aacc"], [*"bbd"]]


def test_a_process_learns_from_whole_tasks_of_about_as_many_tokens() -> None:
    episodes = [played([9] * size, episode=n, task=n // 2) for n, size in enumerate((30, 2, 9, 9))]
    homes = [own_episodes(Processes(rank, 2), episodes) for rank in (0, 1)]
    assert homes == [{0, 1}, {2, 3}]
    assert own_episodes(ALONE, episodes) == {0, 1, 2, 3}


def test_a_lesson_elsewhere_is_there_without_its_hidden_states() -> None:
    import torch

    lesson = Lesson(trajectory=played([9, 9]), hidden_NH=torch.ones(2, 3), untold_N=torch.ones(2))
    told = known_elsewhere(lesson)
    assert told.hidden_NH is not None and told.hidden_NH.is_meta
    assert told.hidden_NH.shape == (2, 3)
    assert told.untold_N is not None and torch.equal(told.untold_N, torch.ones(2))
    assert known_elsewhere(Lesson(trajectory=played([9]))).hidden_NH is None


def _ask(processes: Processes) -> list[object]:
    gathered = processes.gather([processes.rank] * processes.rank, told=lambda item: item + 10)
    someone = processes.any(processes.rank == 2), processes.any(False)
    try:
        processes.check_alike("the dice", lambda: str(processes.rank // 2))
    except ValueError as error:
        return [gathered, someone, str(error)]
    return [gathered, someone]


def test_three_processes_tell_one_another() -> None:
    different = (
        "the dice of process 2 is another than that of process 0: all must find the same files, of "
        "the same versions"
    )
    assert together(_ask, count=3) == [
        [[11, 12, 12], (True, False), different],
        [[1, 12, 12], (True, False), different],
        [[11, 2, 2], (True, False), different],
    ]


def test_one_alone_has_what_it_gives() -> None:
    assert ALONE.gather([1, 2], told=lambda item: -item) == [1, 2]
    assert (ALONE.any(True), ALONE.any(False), ALONE.first) == (True, False, True)
    with launched() as processes:
        assert processes is ALONE


@pytest.mark.parametrize("rank", ["0", "1"])
@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("ACCELERATE_USE_FSDP", "true", "FSDP shards weights"),
        ("ACCELERATE_USE_DEEPSPEED", "true", "DeepSpeed brings its own optimizer"),
        ("ACCELERATE_USE_MEGATRON_LM", "true", "Megatron-LM"),
        ("ACCELERATE_MIXED_PRECISION", "bf16", "student.dtype"),
        ("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR", "not compiled"),
    ],
)
def test_what_is_not_done_is_refused_by_the_first(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, why: str, rank: str
) -> None:
    for key, told in {
        "WORLD_SIZE": "2",
        "RANK": rank,
        "LOCAL_WORLD_SIZE": "2",
        name: value,
    }.items():
        monkeypatch.setenv(key, told)
    refusal = pytest.raises(ValueError, match=why) if rank == "0" else pytest.raises(SystemExit)
    with refusal, launched():
        raise AssertionError("it was not refused")


def test_a_command_that_is_one_processs_affair_says_so_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    refuse_several("eval")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert processes_here() == 4
    with pytest.raises(ValueError, match="agentopd eval was launched as 4 processes"):
        refuse_several("eval")
    monkeypatch.setenv("RANK", "3")
    with pytest.raises(SystemExit):
        refuse_several("eval")


def test_processes_of_one_machine_share_what_is_free_of_its_memory() -> None:
    """Each holds 40 already and comes to need 25 more; 100 less one's own 40 are free."""
    forecast = Forecast(
        held=40, student=40, teacher=0, moments=10, gradients=5, activations=5, tokens=64,
        logits=5, context=1,
    )  # fmt: skip
    forecast.check(100, sharing=2)
    with pytest.raises(ValueError, match="in 3 processes"):
        forecast.check(100, sharing=3)


def test_several_processes_do_not_share_a_gpu() -> None:
    for name in ("cpu", "cuda"):
        Processes(0, 4, 4).check_device(name)
    Processes(0, 2, 1).check_device("cuda:0")
    with pytest.raises(ValueError, match="4 processes of this machine would share it"):
        Processes(0, 4, 4).check_device("cuda:0")


@pytest.mark.parametrize("path", SCALE, ids=lambda path: path.name)
def test_accelerate_reads_the_configurations(path: Path) -> None:
    """torch starts the processes; nothing is asked for that is refused."""
    read = load_config_from_file(str(path))
    assert isinstance(read, ClusterConfig)
    assert read.num_processes > 1
    assert (str(read.distributed_type), read.use_cpu) == ("DistributedType.MULTI_GPU", False)
    assert read.mixed_precision == "no"
    assert f"accelerate launch --config_file configs/scale/{path.name} " in path.read_text()
