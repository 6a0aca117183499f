"""A study's runs given to engines of others: answers, failures, stops, and the same bits."""

from __future__ import annotations

import importlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from givers import double, fail, kill, wait_for_word
from test_folder import small

from agentopd.base.stopping import Interrupted
from agentopd.base.written import ConfigError
from agentopd.running.studies.engine import Crew, Engine
from agentopd.running.studies.engines import read_engine
from agentopd.running.studies.leash import Leash, on_leash
from agentopd.running.studies.ray_engine import RayEngine
from agentopd.running.studies.slurm_engine import SlurmEngine
from agentopd.running.studies.study import compare, run_folder
from agentopd.running.studies.workers import Job, WorkerLost

ENGINES: dict[str, Engine] = {
    "submitit": SlurmEngine(executor="local"),
    "ray": RayEngine(cpus=1, retries=0),
}
Open = Callable[[int], AbstractContextManager[Crew]]


@pytest.fixture(params=ENGINES)
def crew(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Open]:
    """Opens a crew of so many, whose workers find this folder's modules; it leaves no leash."""
    pytest.importorskip(request.param)
    monkeypatch.chdir(Path(__file__).parent)
    yield lambda count: ENGINES[request.param].crew(count, tmp_path, {"AGENTOPD_TRIED": "yes"})
    assert not [*tmp_path.glob(".leash*")]


def jobs(*calls: tuple[Callable[..., Any], Any]) -> list[Job]:
    return [Job(f"arm {i}, seed 0", work, (argument,)) for i, (work, argument) in enumerate(calls)]


def nothing() -> None:
    return


def test_answers_come_in_the_order_of_the_jobs(crew: Open) -> None:
    never = threading.Event()
    with crew(2) as workers:
        found = workers.do(jobs(*((double, n) for n in range(3))), never, nothing)
    assert [doubled for doubled, _ in found] == [0, 2, 4]
    assert os.getpid() not in {pid for _, pid in found}


def test_a_failure_is_told_as_it_was_raised(crew: Open) -> None:
    with crew(1) as workers, pytest.raises(ValueError, match=r"^7 is wrong") as raised:
        workers.do(jobs((fail, 7), *[(double, 2)] * 9), threading.Event(), nothing)
    assert "in fail" in "".join(raised.value.__notes__)


def test_a_lost_worker_is_named_and_stops_the_others(crew: Open, tmp_path: Path) -> None:
    asked = threading.Event()
    with crew(2) as workers, pytest.raises(WorkerLost, match="arm 1, seed 0 is lost"):
        workers.do(jobs((wait_for_word, tmp_path), (kill, signal.SIGKILL)), asked, nothing)
    assert asked.is_set()


def test_who_is_asked_to_stop_saves_and_nothing_new_is_begun(crew: Open, tmp_path: Path) -> None:
    asked = threading.Event()

    def ask() -> None:
        if (tmp_path / "computing").is_file():
            asked.set()

    with crew(1) as workers, pytest.raises(Interrupted):
        workers.do(jobs((wait_for_word, tmp_path), *[(double, 1)] * 3), asked, ask)
    assert (tmp_path / "saved").is_file()


def test_a_crew_that_cannot_be_leaves_no_leash(tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    engine = SlurmEngine(executor="local", options={"slurm_acount": "us"})
    with pytest.raises(ConfigError, match="slurm_acount"), engine.crew(1, tmp_path, {}):
        pass
    assert not [*tmp_path.glob(".leash*")]


@pytest.mark.parametrize("how", ["asked", "silent", "gone"])
def test_who_works_stops_when_the_giver_says_so_or_is_no_more(tmp_path: Path, how: str) -> None:
    leash = Leash(tmp_path)
    with on_leash(leash.folder, "job", slack=1.5) as stop:
        assert not stop.is_set() and leash.begun("job")
        if how == "asked":
            leash.ask_to_stop()
        elif how == "gone":
            leash.loosen()
        assert stop.wait(10)


def test_who_works_goes_on_as_long_as_the_giver_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentopd.running.studies.leash._PULL", 0.2)
    leash = Leash(tmp_path)
    with on_leash(leash.folder, "job", slack=2.5) as stop:
        until = time.monotonic() + 5
        while time.monotonic() < until:
            leash.pull()
            assert not stop.wait(0.2)


def test_nothing_is_begun_on_a_leash_that_was_let_go(tmp_path: Path) -> None:
    leash = Leash(tmp_path)
    leash.loosen()
    with on_leash(leash.folder, "job") as stop:
        assert stop.is_set()


@pytest.mark.parametrize("name", ENGINES)
def test_a_study_comes_to_the_same_bits_wherever_it_runs(
    name: str, tiny_model: Path, tmp_path: Path, warm_workers: None
) -> None:
    pytest.importorskip(name)
    config = small(tiny_model, "study={seeds: [0], arms: {token: {}}}", "steps=1", "threads=1")
    folders = []
    for engine in (None, ENGINES[name]):
        out = tmp_path / (engine.kind if engine else "local")
        compare(config, out, workers=2, engine=engine)
        folders.append(run_folder(out, "token", 0) / "checkpoints" / "latest")
    weights = [folder / "student" / "model.safetensors" for folder in folders]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_a_run_whose_machine_is_lost_goes_on_at_another(tiny_model: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    cluster = importlib.import_module("ray.cluster_utils").Cluster()
    config = small(
        tiny_model,
        "study={seeds: [0, 1], arms: {token: {}}}",
        "steps=4",
        "threads=1",
        "save.checkpoint_every=1",
    )
    compare(config, tmp_path / "local", workers=2)
    cluster.add_node(num_cpus=1)
    lost = [cluster.add_node(num_cpus=1)]

    def lose(arm: str, seed: int, line: dict[str, Any]) -> None:
        if line["step"] == 1 and lost:
            cluster.remove_node(lost.pop(), allow_graceful=False)

    try:
        engine = RayEngine(address=cluster.address)
        compare(config, tmp_path / "ray", workers=2, watch=lose, engine=engine)
    finally:
        cluster.shutdown()
    for seed in (0, 1):
        weights = [
            run_folder(tmp_path / where, "token", seed) / "checkpoints/latest/student"
            for where in ("local", "ray")
        ]
        bits = [(folder / "model.safetensors").read_bytes() for folder in weights]
        assert not lost and bits[0] == bits[1]


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("rey", "did you mean 'ray'"),
        ("{kind: ray, cpu: 2}", "did you mean 'cpus'"),
        ("{kind: slurm, minutes: 0}", "greater than or equal to 1"),
        ("{kind: ray", "--engine {kind: ray"),
    ],
)
def test_an_engine_that_there_is_not_is_one_line(written: str, told: str) -> None:
    with pytest.raises(ConfigError) as raised:
        read_engine(written)
    assert told in str(raised.value) and "\n" not in str(raised.value)


def test_an_engine_is_written_as_parts_are() -> None:
    assert read_engine("local").threads(None, 1) >= 1
    slurm = read_engine("{kind: slurm, cpus: 4, partition: gpu, options: {slurm_account: us}}")
    assert isinstance(slurm, SlurmEngine) and slurm.partition == "gpu"
    assert slurm.threads(None, 8) == 4 and slurm.threads(2, 8) == 2


@pytest.mark.parametrize(("engine", "extra"), [(RayEngine(), "ray"), (SlurmEngine(), "slurm")])
def test_an_engine_that_is_not_installed_says_what_installs_it(
    engine: Engine, extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("ray_engine", "slurm_engine"):
        monkeypatch.setattr(f"agentopd.running.studies.{module}.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=rf"agentopd\[{extra}\]"), engine.crew(1, tmp_path, {}):
        pass
    assert not [*tmp_path.iterdir()]
