"""Cells of Python in a sandbox: pydantic-monty, an interpreter in a process of its own.

The interpreter has no files, network, processes or imports beyond a few harmless modules; what a
cell can reach is the apps. Time, memory, calls and output are limited. Nothing here executes code
in our own process.
"""

from __future__ import annotations

import datetime
import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Any

from agentopd.environment.contract import parse_action
from agentopd.envs.desk.actors import MOST_CALLS, PROBLEMS, UNREADABLE, Outcome, cell
from agentopd.envs.desk.api import ApiError, Call
from agentopd.envs.desk.desk import Desk
from agentopd.envs.desk.tasks.oracle import Plan
from agentopd.envs.puzzle import check_number

if TYPE_CHECKING:
    import pydantic_monty

_FENCE = re.compile(r"\A```(?:python)?[ \t]*\n(.*?)\n?```\Z", re.DOTALL)
_LONGEST = 20_000
_LEAST_SECONDS = 0.001
_MOST_SECONDS = 3_600
_MOST_CALLS = 2**31
_MOST_MEGABYTES = 2**20
_OTHERS = 100
"""What may suspend a cell beside calls of apps: imports, files that are refused."""
_MEMORY = re.compile(r"MemoryError: memory limit exceeded: \d+ bytes > \d+ bytes")
"""How the last line reads where the memory is used up; of the other limits we know ourselves."""


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
        ValueError: one of them is no number above 0.
    """

    seconds: float = 2.0
    megabytes: int = 64
    calls: int = 1_000
    output: int = 10_000

    def __post_init__(self) -> None:
        most = {"megabytes": _MOST_MEGABYTES, "calls": _MOST_CALLS, "output": _MOST_CALLS}
        for name, greatest in most.items():
            check_number(f"limits.{name}", getattr(self, name), 1)
            if getattr(self, name) > greatest:
                raise ValueError(f"limits.{name} is at most {greatest}, not {getattr(self, name)}")
        number = isinstance(self.seconds, int | float) and not isinstance(self.seconds, bool)
        if not number or not 0 < self.seconds <= _MOST_SECONDS:
            raise ValueError(
                f"limits.seconds is a number above 0, at most {_MOST_SECONDS}, not {self.seconds!r}"
            )
        if self.seconds < _LEAST_SECONDS:
            raise ValueError(
                f"limits.seconds is at least {_LEAST_SECONDS}: in {self.seconds!r} no cell can run"
            )


class CodeActor:
    """One cell of Python a turn; variables stay from cell to cell.

    A cell that hits a limit ends the interpreter. The next one finds the apps as they are, but no
    variables.

    Raises:
        ValueError: the package pydantic-monty is not installed.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._budget = _Budget(limits.seconds, limits.calls)
        self._monty = _load()
        self._pool: pydantic_monty.Monty | None = None
        self._session: pydantic_monty.MontySession | None = None

    def begin(self, desk: Desk) -> None:
        """Start an episode at a desk."""
        self._end_session()
        self._desk = desk

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
        """The next cell, of at most `MOST_CALLS`. Those after it print what is not known yet."""
        return cell(plan[0][:MOST_CALLS]) if plan else ""

    def _run(self, code: str) -> Outcome:
        printed = _Printed(self.limits.output)
        try:
            session = self._ready()
            self._budget.begin()
            # The value of a last expression would be brought over whole: None takes its place.
            session.feed_run(f"{code}\nNone", print_callback=printed)
        except self._monty.MontySyntaxError as error:
            return Outcome(error.display(), False, UNREADABLE)
        except self._monty.MontyRuntimeError as error:
            said = error.display()
            last = said.rpartition("\n")[2]
            # A cell can raise what it likes: only what we counted and refused ourselves is so.
            spent = last == f"RuntimeError: suspension limit {self._suspensions} exceeded"
            if self._budget.over or spent or not error.traceback() or _MEMORY.fullmatch(last):
                return self._ended(printed.before(said))
            refusal = self._budget.refusal
            refused = refusal is not None and said.endswith(f"Exception: {refusal}")
            problem = PROBLEMS[refusal.status] if refusal and refused else "exception"
            return Outcome(printed.before(said), True, problem)
        except self._monty.MontyError as error:
            return self._ended(printed.before(f"{type(error).__name__}: {error}"))
        return Outcome(printed.text or "Nothing was printed.")

    @property
    def _suspensions(self) -> int:
        """Suspensions after which the interpreter stops a cell."""
        return self.limits.calls + _OTHERS

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
                # `_Budget` counts calls; a cell can catch its error, but not this one.
                "max_suspensions": self._suspensions,
                "max_recursion_depth": 200,
            },
            os_policy={"datetime": today, "sleep": "zero", "random_start": {"seed": 0}},
            external_modules={name: self._module(name) for name in self._desk.apps},
        )
        self._session = session.__enter__()
        self._session.feed_run(f"import {', '.join(self._desk.apps)}")
        return self._session

    def _start(self) -> pydantic_monty.Monty:
        """A process of its own for each environment: episodes in play would wait for a shared one.

        A second process takes over while one that crashed is still ending.
        """
        pool = self._monty.Monty(
            min_processes=0,
            max_processes=2,
            checkout_timeout=60,
            request_timeout=self.limits.seconds + 8,
        )
        return pool.__enter__()

    def _module(self, app: str) -> pydantic_monty.ExternalModule:
        apis = self._desk.state.apis(app)
        return self._monty.ExternalModule({name: self._function(app, name) for name in apis})

    def _function(self, app: str, api: str) -> Callable[..., Any]:
        # The session keeps this function: through it nothing may hold the actor, which would then
        # never be forgotten, nor its process ended.
        desk, budget = self._desk, self._budget

        def carry_out(*unnamed: Any, **arguments: Any) -> Any:
            budget.check()
            try:
                if unnamed:
                    raise ApiError(422, f"name the arguments of {app}.{api}.")
                return desk.call(Call(app, api, arguments))
            except ApiError as error:
                budget.refusal = error
                raise

        return carry_out

    def _end_session(self) -> None:
        self._budget.made = 0
        if self._session is not None:
            self._session.__exit__(None, None, None)
            self._session = None


@dataclass
class _Budget:
    """What calls of apps may take: seconds since their cell began, and how many of an interpreter.

    `over` tells that a call came too late or was one too many, `refusal` what an app refused last.
    """

    seconds: float
    calls: int
    due: float = 0.0
    made: int = 0
    over: bool = False
    refusal: ApiError | None = None

    def begin(self) -> None:
        """A cell begins."""
        self.due, self.over, self.refusal = monotonic() + self.seconds, False, None

    def check(self) -> None:
        """Count a call; refuse one that comes too late, or is one too many.

        Raises:
            TimeoutError: it does. The interpreter shows it to the cell as its own.
            RuntimeError: it is one too many, likewise.
        """
        self.made += 1
        if self.made > self.calls:
            self.over = True
            raise RuntimeError(f"call limit exceeded: {self.calls} calls of apps")
        if monotonic() > self.due:
            self.over = True
            raise TimeoutError(f"cell time limit exceeded, with calls of apps: {self.seconds:g}s")


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


def _load() -> Any:
    try:
        return importlib.import_module("pydantic_monty")
    except ImportError as error:
        raise ValueError(
            "Desk's mode 'code' runs cells with pydantic-monty, which is not installed: "
            "pip install 'agentopd[desk-code]', or use mode='call'"
        ) from error
