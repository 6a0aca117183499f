"""Cells of Python in a sandbox: pydantic-monty, an interpreter in a process of its own.

The interpreter has no files, network, processes or imports beyond a few harmless modules; what a
cell can reach is the apps. Time, memory, calls and output are limited. Nothing here executes code
in our own process.
"""

from __future__ import annotations

import datetime
import importlib
import re
from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING, Any

from agentopd.environment.contract import parse_action
from agentopd.envs.desk.actors import MOST_CALLS, PROBLEMS, UNREADABLE, Outcome, cell
from agentopd.envs.desk.api import ApiError
from agentopd.envs.desk.calls import asked, names_bound
from agentopd.envs.desk.desk import Desk
from agentopd.envs.desk.jail import jailed
from agentopd.envs.desk.tasks.oracle import Plan
from agentopd.envs.puzzle import check_number

if TYPE_CHECKING:
    import pydantic_monty

_FENCE = re.compile(r"\A```(?:python)?[ \t]*\n(.*?)\n?```\Z", re.DOTALL)
_LONGEST = 20_000
_SECONDS = (0.01, 3_600)
_MEGABYTES = 16_384
_MANY = 10**9


@dataclass(frozen=True)
class Limits:
    """What a cell may use.

    Args:
        seconds: running time of a cell, calls of apps not counted; and the time since its start,
            calls counted, after which it can make no more.
        megabytes: memory of the interpreter.
        calls: calls of apps in an episode, since the interpreter was last started.
        output: characters kept of what a cell prints.

    Raises:
        ValueError: one of them is out of its bounds.
    """

    seconds: float = 2.0
    megabytes: int = 64
    calls: int = 1_000
    output: int = 10_000

    def __post_init__(self) -> None:
        check_number("limits.megabytes", self.megabytes, 1, _MEGABYTES)
        for name in ("calls", "output"):
            check_number(f"limits.{name}", getattr(self, name), 1, _MANY)
        number = isinstance(self.seconds, int | float) and not isinstance(self.seconds, bool)
        least, most = _SECONDS
        if not number or not least <= self.seconds <= most:
            raise ValueError(
                f"limits.seconds is a number from {least} to {most}, not {self.seconds!r}"
            )


class CodeActor:
    """One cell of Python a turn; variables stay from cell to cell, but for `print`.

    A cell that hits a limit ends the interpreter. The next one finds the apps as they are, but no
    variables. What was refused and what was limited is our own record of the cell, never read off
    what it says: a program may say anything.

    Raises:
        ValueError: the package pydantic-monty is not installed.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._monty = _load()
        self._pool: pydantic_monty.Monty | None = None
        self._session: pydantic_monty.MontySession | None = None

    def begin(self, desk: Desk) -> None:
        """Start an episode at a desk."""
        self._end_session()
        self._desk = desk
        self._shadowed: set[str] = set()

    def act(self, action: str) -> Outcome:
        """Run the cell in `action`."""
        content = parse_action(action)
        if content is None:
            return Outcome("No <action></action> in the answer.", False, UNREADABLE)
        fenced = _FENCE.match(content)
        code = (fenced[1] if fenced else content).strip()
        if not code or len(code) > _LONGEST:
            return Outcome(
                f"A cell has code, at most {_LONGEST} characters of it.", False, UNREADABLE
            )
        return self._run(code)

    def close(self) -> None:
        """End the interpreter's process."""
        self._end_session()
        if self._pool is not None:
            self._pool.__exit__(None, None, None)
            self._pool = None

    def spell(self, plan: Plan) -> list[str]:
        """The stages, one a cell."""
        return [cell(stage) for stage in plan]

    def lines(self, plan: Plan) -> str:
        """The next cell, of at most `MOST_CALLS`. Those after it print what is not known yet.

        Apps whose names the agent has given to something else are imported anew.
        """
        if not plan:
            return ""
        calls = plan[0][:MOST_CALLS]
        lost = sorted(self._shadowed & {call.app for call in calls})
        return (f"import {', '.join(lost)}\n" if lost else "") + cell(calls)

    def _run(self, code: str) -> Outcome:
        printed, watch = _Printed(self.limits.output), _Watch(self.limits)
        try:
            session = self._ready()
            self._shadowed |= names_bound(code) & {*self._desk.apps}
            watch.begin()
            # The value of a last expression would be brought over whole: None takes its place.
            step: Any = session.feed_start(
                f"{code}\nNone", inputs={"print": self._print}, print_callback=printed
            )
            while not isinstance(step, self._monty.MontyComplete):
                calls = self._calls_an_app(step)
                if over := watch.over(self._calls if calls else 0):
                    return self._ended(printed.before(over))
                step = self._carry_out(step, watch) if calls else step.resume_auto()
        except self._monty.MontySyntaxError as error:
            return Outcome(error.display(), False, UNREADABLE)
        except self._monty.MontyRuntimeError as error:
            said = printed.before(error.display())
            if not error.traceback():
                return self._ended(said)  # no line raised it: the interpreter itself did
            status = watch.refused.get(error.display("type-msg"))
            return Outcome(said, True, "exception" if status is None else PROBLEMS[status])
        except self._monty.MontyError as error:
            return self._ended(printed.before(f"{type(error).__name__}: {error}"))
        return Outcome(printed.text or "Nothing was printed.")

    def _calls_an_app(self, step: Any) -> bool:
        """Whether a cell waits for an app; unknown names are asked for in the same way."""
        asks = isinstance(step, self._monty.FunctionSnapshot) and not step.is_os_function
        return asks and str(step.function_name).partition(".")[0] in self._desk.apps

    def _carry_out(self, step: Any, watch: _Watch) -> Any:
        """Answer a call of an app for which the cell waits; what it waits for next."""
        self._calls += 1
        try:
            call = asked(str(step.function_name), step.args, step.kwargs)
            return step.resume({"return_value": self._desk.call(call)})
        except ApiError as error:
            watch.refused[f"Exception: {error}"] = error.status
            return step.resume({"exception": Exception(str(error))})

    def _ended(self, shown: str) -> Outcome:
        self._end_session()
        return Outcome(f"{shown}\nThe interpreter was restarted: no variables.", True, "limit")

    def _ready(self) -> pydantic_monty.MontySession:
        """The session, with the apps imported; the process starts with the first cell."""
        if self._session is not None:
            return self._session
        if self._pool is None:
            self._pool = self._start()
        today = datetime.datetime.fromisoformat(f"{self._desk.state.world.today} 09:00")
        session = self._pool.checkout(
            limits={
                "max_feed_duration_secs": self.limits.seconds,
                "max_memory": self.limits.megabytes << 20,
                "max_suspensions": _MANY,
                "max_recursion_depth": 200,
            },
            os_policy={"datetime": today, "sleep": "zero", "random_start": {"seed": 0}},
            external_modules={name: self._module(name) for name in self._desk.apps},
        )
        self._session = session.__enter__()
        self._calls = 0
        self._print = self._session.feed_run(f"import {', '.join(self._desk.apps)}\nprint")
        self._shadowed = set()
        return self._session

    def _start(self) -> pydantic_monty.Monty:
        """A process of its own for each episode: those in play would wait for a shared one.

        A second process takes over while one that crashed is still ending.
        """
        binary = self._monty._binary.find_monty_binary()
        pool = self._monty.Monty(
            binary_path=jailed(binary, self.limits.megabytes),
            min_processes=0,
            max_processes=2,
            max_checkouts_per_worker=1,
            checkout_timeout=60,
            request_timeout=self.limits.seconds + 8,
        )
        return pool.__enter__()

    def _module(self, app: str) -> pydantic_monty.ExternalModule:
        # What a session's functions would do nobody asks: `_go_on` answers every call itself.
        return self._monty.ExternalModule(dict.fromkeys(self._desk.state.apis(app), _unasked))

    def _end_session(self) -> None:
        if self._session is not None:
            self._session.__exit__(None, None, None)
            self._session = None


@dataclass
class _Watch:
    """What we know of a running cell by ourselves.

    Attributes:
        due: the time after which it may call nothing more.
        refused: what the calls that were refused raised in it, with their statuses.
    """

    limits: Limits
    due: float = 0.0
    refused: dict[str, int] = field(default_factory=dict)

    def begin(self) -> None:
        """The cell begins."""
        self.due = monotonic() + self.limits.seconds

    def over(self, calls: int) -> str:
        """What limit was hit; empty for none.

        Args:
            calls: made so far in the episode.
        """
        if monotonic() > self.due:
            return (
                f"TimeoutError: cell time limit exceeded, with calls of apps: "
                f"{self.limits.seconds:g}s"
            )
        most = self.limits.calls
        return f"RuntimeError: call limit exceeded: {most} calls of apps" if calls >= most else ""


@dataclass
class _Printed:
    """Keeps the first characters of what a cell prints."""

    most: int
    text: str = ""

    def __call__(self, stream: str, text: str) -> None:
        self.text += text[: self.most - len(self.text)]

    def before(self, said: str) -> str:
        """What was printed, then `said` on a line of its own."""
        return f"{self.text.rstrip()}\n{said}".lstrip()


def _unasked(*args: Any, **kwargs: Any) -> None:
    raise AssertionError("a call of an app was answered by nobody")


def _load() -> Any:
    try:
        return importlib.import_module("pydantic_monty")
    except ImportError as error:
        raise ValueError(
            "Desk's mode 'code' runs cells with pydantic-monty, which is not installed: "
            "pip install 'agentopd[desk-code]', or use mode='call'"
        ) from error
