"""Numbers of a run for trackers beside it: TensorBoard, Weights & Biases, Trackio.

They are accelerate's own trackers, so whatever is registered with it by name works too. A run's
folder stays the truth: a tracker that fails is told of once and left out, and the run goes on.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any

from agentopd.base.console import warn
from agentopd.base.files import write_whole

PROJECT = "agentopd"
_PACKAGES = {
    "tensorboard": ("tensorboard", "tensorboardX"),
    "wandb": ("wandb",),
    "trackio": ("trackio",),
}
"""The packages, one of which each tracker needs; the first is the one to install."""


def check_trackers(names: Sequence[str]) -> None:
    """Refuse a tracker that there is not, or whose package is not installed.

    Raises:
        ValueError: the message says which, and what installs it.
    """
    for name in names:
        packages = _PACKAGES.get(name)
        if packages and not any(find_spec(package) for package in packages):
            raise ValueError(
                f"track: {name} is not installed; install it with: pip install {packages[0]}"
            )
        if not packages and name not in _registered():
            raise ValueError(
                f"track: there is no tracker {name!r}; there are {', '.join(_PACKAGES)}, and what "
                "is registered in accelerate.tracking.LOGGER_TYPE_TO_CLASS"
            )


@dataclass
class Trackers(AbstractContextManager["Trackers"]):
    """The trackers of one run, open from `start` to the end of the `with` block."""

    alive: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def start(cls, names: Sequence[str], out: Path, settings: Mapping[str, Any]) -> Trackers:
        """Open each tracker and tell it the run's settings.

        Args:
            out: the run's folder; its name is the run's, and TensorBoard's files lie in it.
            settings: the run's configuration, as JSON has it.
        """
        found = cls()
        for name in names:
            found._try(name, lambda name=name: found._open(name, out, settings))
        return found

    def log(self, line: Mapping[str, Any]) -> None:
        """Send the numbers of a line of metrics, under the number of steps that are done."""
        told = {key: value for key, value in line.items() if key != "step"}
        numbers, done = dict(_numbers(told)), int(line["step"]) + 1
        for name, tracker in [*self.alive.items()]:
            self._try(name, lambda tracker=tracker: tracker.log(numbers, step=done))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        for name, tracker in [*self.alive.items()]:
            self._try(name, tracker.finish)
        self.alive.clear()

    def _open(self, name: str, out: Path, settings: Mapping[str, Any]) -> None:
        from accelerate import PartialState

        PartialState()  # accelerate's trackers ask it which process they are in
        tracker = _made(name, _registered()[name], out)
        tracker.start()
        tracker.store_init_configuration(dict(_settings(settings)))
        self.alive[name] = tracker

    def _try(self, name: str, call: Callable[[], None]) -> None:
        """Call a tracker; one that fails is told of and left out from then on."""
        try:
            call()
        except Exception as error:  # foreign code, over a network perhaps: it costs no run
            self.alive.pop(name, None)
            reason = (str(error).strip() or repr(error)).splitlines()[0]
            warn(f"track: {name} failed and gets no more numbers: {type(error).__name__}: {reason}")


def _registered() -> Mapping[str, Any]:
    """Accelerate's trackers by name."""
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    return {str(name): tracker for name, tracker in LOGGER_TYPE_TO_CLASS.items()}


def _made(name: str, kind: Any, out: Path) -> Any:
    """A tracker that has not started; in one project the runs go by their folders' names."""
    if name == "wandb":
        shown = {"name": out.name, "dir": str(out), "id": _identity(out), "resume": "allow"}
        return kind(PROJECT, **shown)
    if name == "trackio":
        return kind(PROJECT, name=out.name, resume="allow")
    if kind.requires_logging_directory:
        return kind(out.name, logging_dir=str(out / name))
    return kind(PROJECT)


def _identity(out: Path) -> str:
    """By which a run that goes on is known to be the same; kept in its folder."""
    path = out / "tracked.txt"
    if not path.is_file():
        write_whole(path, uuid.uuid4().hex[:12] + "\n")
    return path.read_text(encoding="utf-8").strip()


def _numbers(told: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, float]]:
    """Every number of a line of metrics by its path, as `train/success`; lists are left out."""
    for key, value in told.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{above}{key}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{above}{key}", float(value)


def _settings(told: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting by its path, such as `learner.clip`; lists as text."""
    for key, value in told.items():
        if isinstance(value, Mapping) and value:
            yield from _settings(value, f"{above}{key}.")
        else:
            plain = value is None or isinstance(value, bool | int | float | str)
            yield f"{above}{key}", ("" if value is None else value) if plain else str(value)
