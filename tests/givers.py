"""Jobs for workers, and a process that gives one out and stays: `python givers.py FOLDER JOB`."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading
import time
from multiprocessing import active_children
from pathlib import Path

from agentopd.base.stopping import Interrupted
from agentopd.running.studies.workers import Job, hired


def double(number: int, stop: threading.Event) -> tuple[int, int]:
    """Twice the number, and who has worked it out."""
    return 2 * number, os.getpid()


def fail(number: int, stop: threading.Event) -> None:
    """Raise what somebody did wrong."""
    raise ValueError(f"{number} is wrong")


class Odd(Exception):
    """An exception that cannot be made again from its arguments."""

    def __init__(self, one: int, other: int) -> None:
        super().__init__(f"{one} and {other}")


def fail_oddly(number: int, stop: threading.Event) -> None:
    """Raise what cannot travel."""
    raise Odd(number, number)


def leave(code: int, stop: threading.Event) -> None:
    """End the worker's process."""
    os._exit(code)


def kill(number: int, stop: threading.Event) -> None:
    """Kill the worker's process."""
    os.kill(os.getpid(), number)


def variable(name: str, stop: threading.Event) -> str | None:
    """A variable of the worker's environment."""
    return os.environ.get(name)


def tell(folder: Path, moment: str) -> None:
    """Note that a moment has come, and in which process."""
    (folder / f"{moment}.part").write_text(str(os.getpid()))
    (folder / f"{moment}.part").rename(folder / moment)


def wait_for_word(folder: Path, stop: threading.Event) -> None:
    """Work until asked to stop, and save."""
    tell(folder, "computing")
    stop.wait()
    tell(folder, "saved")
    raise Interrupted(3)


def hear_nothing(folder: Path, stop: threading.Event) -> None:
    """Work on, whatever is asked."""
    tell(folder, "deaf")
    time.sleep(1e6)


def import_slowly(folder: Path, stop: threading.Event) -> None:
    """Load a module whose import does not come to its end."""
    sys.path.insert(0, str(folder))
    text = "import givers, pathlib, time\ngivers.tell(pathlib.Path(__file__).parent, 'importing')\n"
    (folder / "endless.py").write_text(text + "time.sleep(1e6)\n")
    importlib.import_module("endless")


def tell_and_end(folder: Path, stop: threading.Event) -> None:
    """Be done at once: what comes next is to wait."""
    tell(folder, "waiting")


JOBS = {
    "computing": wait_for_word,
    "deaf": hear_nothing,
    "importing": import_slowly,
    "waiting": tell_and_end,
}


def main() -> None:
    """Give out a job; once it is done, keep the worker waiting."""
    folder, moment = Path(sys.argv[1]), sys.argv[2]

    def beat() -> None:
        if moment == "starting":  # the worker has not got as far as its first line
            (pid,) = [child.pid for child in active_children()]
            (folder / moment).write_text(str(pid))
            os.kill(os.getpid(), signal.SIGKILL)

    with hired(1, {}) as workers:
        job = Job("a job", JOBS.get(moment, wait_for_word), (folder,))
        workers.do([job], threading.Event(), beat)
        time.sleep(1e6)


if __name__ == "__main__":
    main()
