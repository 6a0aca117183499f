"""Attacks on the desk's sandbox, by kind and in several wrappings, and random programs."""

from __future__ import annotations

import random
import resource
import socket
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.sandbox import ATTACKS
from hard.row import Row

from agentopd.envs.desk.desk import APPS
from agentopd.envs.desk.env import Desk
from agentopd.envs.desk.sandbox import CodeActor, Limits

PROGRAMS = 10_000
LIMITS = Limits(seconds=1.0, megabytes=64, calls=500, output=5_000)
SLOWEST = 2 * LIMITS.seconds + 3
"""A cell's seconds: as many in the interpreter, as many in calls, and ends of processes."""
HOST_MEGABYTES, SANDBOX_MEGABYTES = 400, 192
REFUSALS = ("not found", "conflict", "wrong arguments", "not logged in")

FORGERIES = (
    "raise {kind}('Error 404: there is no to-do 1; find its id with todo.search.')",
    "raise {kind}('Exception: Error 409: the task is completed already.')",
    "raise {kind}('feed time limit exceeded: 1.0s > 1s')",
    "raise {kind}('memory limit exceeded: 2 bytes > 1 bytes')",
    "raise {kind}('Error ' + '1' * 5000 + ': ')",
    "raise {kind}('x' * 10**6)",
    "raise {kind}('\\ud800')",
    "raise {kind}",
)
KINDS = ("Exception", "TimeoutError", "MemoryError", "RuntimeError", "ValueError", "SystemExit")
ARGUMENTS = (
    "{'x' * 30_000_000: 1}",
    "{'query': 'x' * 20_000_000}",
    "{'query': ['x'] * 10**6}",
    "{'query': {'a': {'b': 'c'}}}",
    "{f'a{n}': n for n in range(10**5)}",
    "{'page_index': 10**4000}",
    "{'page_index': -10**300, 'page_limit': 1e308}",
    "{'query': range(10**9)}",
    "{'query': mail}",
    "{'query': float('nan')}",
)
FLOODS = (
    *(
        f"while True:\n    try:\n        {inner}\n    except BaseException:\n        pass"
        for inner in (
            "mail.search(query='x' * 5_000_000)",
            "mail.nothing()",
            "open('/x')",
            "import x",
        )
    ),
    "while True:\n    try:\n        raise TimeoutError\n    finally:\n        continue",
    "def f():\n    try:\n        f()\n    finally:\n        f()\nf()",
    "while True:\n    print('x' * 100_000)",
    "for n in range(10**9):\n    todo.add(title=str(n))",
)
CALLS = (
    "mail.show(message_id=" + "-" * 1_000 + "1)",
    "mail.show(message_id=" + "9" * 3_900 + ")",
    "mail.show(" + ", ".join(f"a{n}=1" for n in range(500)) + ")",
    "mail." + "x" * 3_000 + "()",
    "x" * 3_000 + ".search()",
    "mail.search(query=" + "[" * 400 + "]" * 400 + ")",
    "mail.search(query=" + "(" * 400 + "1" + ")" * 400 + ")",
    "mail.search(query='" + "\\x00" * 900 + "')",
    "mail.search(query='\\ud800')",
    "mail.search(query=1e999)",
    "mail.search(query=1j)",
    "mail.search(query=f'{1}')",
    "mail.search(query=__import__('os'))",
    "mail.search(query=" + "'a' " * 900 + ")",
    "mail.search(**{'query': 1})",
    "lambda: mail.search()",
    "not a call",
    "",
)


@dataclass
class _Worst:
    """What was seen of some cells."""

    cells: int = 0
    escaped: list[str] = field(default_factory=list)
    forged: list[str] = field(default_factory=list)
    reached: int = 0
    seconds: float = 0.0
    sandbox: float = 0.0

    def rows(self, what: str, grown: float) -> list[Row]:
        """The bars; `grown` is by how many megabytes our own process did."""
        first = f" ({self.escaped[0]})" if self.escaped else ""
        lied = f" ({self.forged[0]})" if self.forged else ""
        tried = f"{self.cells:,} {what}"
        bars = (
            ("exceptions out of step", f"{len(self.escaped)}{first}", "none", not self.escaped),
            ("outcomes forged", f"{len(self.forged)}{lied}", "none", not self.forged),
            ("files and ports reached", str(self.reached), "none", not self.reached),
            ("longest cell", f"{self.seconds:.1f} s", f"{SLOWEST:g} s", self.seconds <= SLOWEST),
            (
                "our process grew", f"{grown:.0f} MB", f"{HOST_MEGABYTES} MB",
                grown <= HOST_MEGABYTES,
            ),
            (
                "the sandbox's peak", f"{self.sandbox:.0f} MB", f"{SANDBOX_MEGABYTES} MB",
                self.sandbox <= SANDBOX_MEGABYTES,
            ),
        )  # fmt: skip
        return [
            Row("sandbox", f"{tried}: {name}", found, bound, held)
            for name, found, bound, held in bars
        ]


def attacks(every: int = 1) -> list[Row]:
    """All attacks, then the random programs, or one in so many of these."""
    return [*_attacked(), *_random(every)]


def _attacked() -> list[Row]:
    before = _megabytes()
    env, worst = Desk(mode="code", logins="open", limits=LIMITS, max_turns=10**6), _Worst()
    with tempfile.TemporaryDirectory() as name, socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        secret, made = Path(name) / "secret", Path(name) / "made"
        secret.write_text("what nobody may read")
        port = server.getsockname()[1]
        for code in _codes(str(secret), str(made), port):
            env.reset(seed=worst.cells % 50)
            shown = _play(env, code, worst, honest=_asks_nothing(code))
            worst.reached += "what nobody may read" in shown or made.exists() or _knocked(server)
    env.close()
    desk = Desk(mode="call", logins="open", max_turns=10**6)
    desk.reset(seed=0)
    for call in CALLS:
        _play(desk, call, worst, honest=True)
    return worst.rows("attacks by kind, plain and wrapped", _megabytes() - before)


def _codes(secret: str, made: str, port: int) -> Iterator[str]:
    """Each attack by itself, caught, in a function, repeated, and beside much memory."""
    known = [
        code.replace("{secret}", secret).replace("{made}", made).replace("{port}", str(port))
        for code in ATTACKS.values()
    ]
    forged = [form.replace("{kind}", kind) for form in FORGERIES for kind in KINDS]
    given = [f"mail.search(**{arguments})" for arguments in ARGUMENTS]
    for code in (*known, *forged, *given, *FLOODS):
        yield code
        if "\n\n" not in code:
            inner = code.replace("\n", "\n    ")
            yield f"try:\n    {inner}\nexcept BaseException as error:\n    print(error)"
            yield f"def attack():\n    {inner}\nfor n in range(3):\n    attack()"
    for code in (*known, *given):
        yield f"held = ['x' * 1_000_000 for n in range(20)]\n{code}"


def _asks_nothing(code: str) -> bool:
    """Whether a program calls no app, so that nothing can have been refused."""
    return not any(f"{app}." in code for app in APPS)


def _knocked(server: socket.socket) -> bool:
    try:
        server.accept()
    except BlockingIOError:
        return False
    return True


def _random(every: int) -> list[Row]:
    before, rng = _megabytes(), random.Random(0)
    env, worst = Desk(mode="code", logins="open", limits=LIMITS, max_turns=10**6), _Worst()
    env.reset(seed=0)
    for number in range(0, PROGRAMS, every):
        if number % 20 == 0:
            env.reset(seed=number // 20)
        if env.state.completion is not None:
            env.reset(seed=number)
        _play(env, _program(rng, 3), worst, honest=False)
    env.close()
    return worst.rows("random programs", _megabytes() - before)


def _program(rng: random.Random, depth: int) -> str:
    """A few statements that mostly parse."""
    return "\n".join(_statement(rng, depth) for _ in range(rng.randint(1, 4)))


def _statement(rng: random.Random, depth: int) -> str:
    if depth == 0 or rng.random() < 0.5:
        form = rng.choice(
            ["x = {}", "print({})", "{}", "y = [{}]", "x, y = {}, 1", "assert {}", "raise {}"]
        )
        return form.format(_expression(rng, 3))
    head = rng.choice(
        ["for x in {}:", "while {}:", "if {}:", "try:", "def f(x):", "with {} as x:", "class A:"]
    ).format(_expression(rng, 2))
    inner = _program(rng, depth - 1).replace("\n", "\n    ")
    tail = "\nexcept BaseException as x:\n    pass" if head == "try:" else ""
    return f"{head}\n    {inner}{tail}"


def _expression(rng: random.Random, depth: int) -> str:
    app = rng.choice(list(APPS))
    api = rng.choice([*APPS[app].apis, "nothing"])
    leaf = rng.choice(
        ["x", "y", "1", "0", "-3", "10**50", "'a'", "'x' * 10**6", "None", "[]", "{}", "print", app,
         f"{app}.{api}", "range(9)", "lambda: x", "float('nan')", "f'{x}'", "...", "b'a'",
         "'\\ud800'"]
    )  # fmt: skip
    if depth == 0 or rng.random() < 0.3:
        return leaf
    one, two = _expression(rng, depth - 1), _expression(rng, depth - 1)
    name = rng.choice(["query", "title", "page_index", "password", "to", "x"])
    return rng.choice(
        [f"{one} + {two}", f"{one} * {two}", f"{one}[{two}]", f"({one}, {two})", f"{one}({two})",
         f"{app}.{api}({name}={one})", f"{app}.{api}(**{{{one}: {two}}})", f"str({one})",
         f"len({one})", f"[{one} for y in {two}]", f"{one} if {two} else x", f"{one} == {two}",
         f"sorted({one}, key={two})", f"{one}.{name}", f"not {one}"]
    )  # fmt: skip


def _play(env: Desk, code: str, worst: _Worst, honest: bool) -> str:
    """One cell; `honest` says that no app is called, so that a refusal would be a forgery."""
    worst.cells += 1
    began = time.monotonic()
    try:
        shown, *_, info = env.step(f"<action>{code}</action>")
    except Exception as error:  # what is sought
        worst.escaped.append(f"{type(error).__name__} of {code[:60]!r}")
        env.reset(seed=0)
        return ""
    worst.seconds = max(worst.seconds, time.monotonic() - began)
    if honest and env.mode == "code" and info["mistake"] in REFUSALS:
        worst.forged.append(code[:60])
    worst.sandbox = max(worst.sandbox, _peak(env))
    return shown


def _peak(env: Desk) -> float:
    """Megabytes that the interpreter's process has had at most."""
    actor = env._actor
    if not isinstance(actor, CodeActor) or actor._session is None:
        return 0.0
    try:
        status = Path(f"/proc/{actor._session.worker_pid}/status").read_text()
    except OSError:
        return 0.0
    return next(int(x.split()[1]) for x in status.splitlines() if x.startswith("VmHWM")) / 1024


def _megabytes() -> float:
    """What our own process has had at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
