"""AppWorld through its HTTP server: `appworld:http://HOST:PORT`, with the tasks as an option.

    appworld serve environment --port 8001     # in AppWorld's own environment, with its data

    env:
      id: appworld:http://127.0.0.1:8001
      options: {servers: 8, tasks: data/datasets/train.txt}
    rollout: {slots: 8}

A server holds one world, so an episode takes a server that is free and gives it back when it is
closed: there must be as many servers as slots, on consecutive ports or listed as `urls`. AppWorld's
requirements do not go together with a trainer's, hence the server; it runs a student's code in its
own process and belongs into a container.

Sources: arXiv 2407.18901; the routes /initialize, /execute, /task_completed, /evaluate and /close
of the package `appworld`, 0.1.3. AppWorld's data must be downloaded, and without it its server does
not start: this adapter was tried against a stand-in for the server only, never against AppWorld.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from agentopd.environment.contract import Info, TextEnv, parse_action, without_reasoning
from agentopd.envs.adapters.loopback import opener, unreachable

_RULES = """\
You act for a person in their apps by writing Python, which is run in a shell that keeps its state:
one piece of code in each answer, inside <action></action>, and you are shown what it prints.
Every app is called as apis.APP.API(name=value). What there is, is told by
apis.api_docs.show_app_descriptions(), apis.api_docs.show_api_descriptions(app_name=...) and
apis.api_docs.show_api_doc(app_name=..., api_name=...). The person's passwords are told by
apis.supervisor.show_account_passwords(). Lists come in pages. When you are done, call
apis.supervisor.complete_task(answer=...), with the answer where one was asked for."""
_FENCED = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)```", re.DOTALL)
_NO_CODE = "No <action></action> with code in the answer."
_FAILED = "Execution failed"


class WorldError(RuntimeError):
    """A server answered that it cannot do what it was asked."""


class World:
    """A server that is this process's alone until it is given back.

    Args:
        urls: of servers, any of which will do.
        seconds: for one answer.

    Raises:
        WorldError: all of them are taken.
    """

    def __init__(self, urls: Sequence[str], seconds: float) -> None:
        self.seconds = seconds
        for url in urls:
            if (claim := _claimed(url)) is not None:
                self.url, self._claim = url, claim
                self._http = opener(url)
                return
        raise WorldError(
            f"all {len(urls)} AppWorld servers are taken: set rollout.slots to at most as many, or "
            "start more and name them"
        )

    def ask(self, route: str, **data: Any) -> Any:
        """What the server puts out for a POST of `data`.

        Raises:
            WorldError: it refused, or answered something else.
            OSError: it cannot be reached, or not in time.
        """
        request = urllib.request.Request(
            f"{self.url}/{route}",
            json.dumps(data).encode(),
            {"Content-Type": "application/json"},
        )
        try:
            with self._http.open(request, timeout=self.seconds) as response:
                return json.load(response)["output"]
        except urllib.error.HTTPError as error:
            said = error.read(2_000).decode(errors="replace")
            raise WorldError(f"{request.full_url} answered {error.code}: {said}") from error
        except OSError as error:
            raise ConnectionError(unreachable(request.full_url, error)) from error
        except (ValueError, LookupError, TypeError) as error:
            raise WorldError(f"{request.full_url} answered no JSON with an output") from error

    def give_back(self) -> None:
        """Let others take the server."""
        self._claim.close()


class AppWorld(TextEnv):
    """A task of AppWorld: a person's request, done by code that calls their apps.

    Args:
        url: of the server, or of the first of several.
        servers: how many there are, on consecutive ports.
        urls: of the servers, where they are not on consecutive ports.
        tasks: their ids, or a file with one a line; seed n plays the task n modulo their number.
        max_turns: answers after which an episode is truncated.
        output_limit: characters of output that are shown; the middle of a longer one is left out.
        experiment: the first part of the name under which AppWorld keeps its files; the server's
            port is the other.
        initialize: more that is told to AppWorld, `{"random_seed": 7}` say.
        seconds: for one answer of the server, which gives a piece of code 100 by default.

    Raises:
        ValueError: an address is none, there are no tasks, or `tasks` cannot be read.
    """

    metadata: dict[str, Any] = {**TextEnv.metadata, "blocking": True}  # noqa: RUF012
    system_prompt = _RULES

    def __init__(
        self,
        url: str,
        *,
        tasks: str | Sequence[str],
        servers: int = 1,
        urls: Sequence[str] = (),
        max_turns: int = 40,
        output_limit: int = 4_000,
        experiment: str = "agentopd",
        initialize: Mapping[str, Any] | None = None,
        seconds: float = 110.0,
    ) -> None:
        self.urls = [_address(u) for u in urls] or _consecutive(_address(url), servers)
        self.tasks = _listed(tasks)
        self.max_turns, self.output_limit = max_turns, output_limit
        self._turn_limit = max_turns
        self._experiment, self._more = experiment, dict(initialize or {})
        self._seconds = seconds
        self._world: World | None = None
        self._task_id, self._turns = "", 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, Info]:
        """Start the task of `seed`, or the one that `options["task"]` names.

        Raises:
            WorldError, OSError: no server is free, or it cannot start the task.
        """
        super().reset(seed=seed)
        self.close()
        number = int(self.np_random.integers(2**31)) if seed is None else seed
        chosen = (options or {}).get("task")
        self._task_id = str(chosen or self.tasks[number % len(self.tasks)])
        self._turns = 0
        self._world = World(self.urls, self._seconds)
        name = f"{self._experiment}-{urlsplit(self._world.url).port}"
        with ExitStack() as failing:
            failing.callback(self._give_back)  # there would be no task to close
            told = self._ask("initialize", experiment_name=name, **self._more)
            failing.pop_all()
        person = told.get("supervisor") or {}
        lines = [f"{key}: {person[key]}" for key in sorted(person)]
        about = ["You act for", *lines, f"The time is {told.get('datetime')}", "The request:"]
        return "\n".join([*about, str(told.get("instruction"))]), self._info()

    def step(self, action: str) -> tuple[str, float, bool, bool, Info]:
        """Run the answer's code; at the end the server says what was achieved."""
        self._turns += 1
        code = code_of(action)
        if code is None:
            text, over = _NO_CODE, False
            told: Info = {"action_valid": False, "mistake": "no code", "feedback": _NO_CODE}
        else:
            text = str(self._ask("execute", code=code))
            over = bool(self._ask("task_completed"))
            failed = text.startswith(_FAILED)
            last = text.rstrip().rpartition("\n")[2]
            told = {"mistake": "failed code", "feedback": f"The code failed: {last}"}
            told = {"action_valid": True} | (told if failed else {})
        late = not over and self._turns >= self._turn_limit
        if over or late:
            told |= self._judged()
        reward = float(told.get("success", False))
        return shortened(text, self.output_limit), reward, over, late, self._info() | told

    def close(self) -> None:
        """End the task and give the server back."""
        if self._world is None:
            return
        try:
            self._ask("close")
        finally:
            self._give_back()

    def _give_back(self) -> None:
        if self._world is not None:
            self._world.give_back()
            self._world = None

    def _ask(self, route: str, **data: Any) -> Any:
        assert self._world is not None, "reset() comes first"
        return self._world.ask(route, task_id=self._task_id, **data)

    def _judged(self) -> Info:
        """What the server's tests say of the world as it was left; a fact a requirement."""
        found = self._ask("evaluate", suppress_errors=True)
        unmet = [str(test.get("requirement", "")) for test in found.get("failures") or []]
        met = [str(test.get("requirement", "")) for test in found.get("passes") or []]
        share = len(met) / max(len(met) + len(unmet), 1)
        feedback = "Not met: " + "; ".join(unmet) if unmet else "Every requirement is met."
        return {
            "success": bool(found.get("success")),
            "feedback": feedback,
            "facts": dict.fromkeys(met, True) | dict.fromkeys(unmet, False),
            "metrics": {"turns": float(self._turns), "requirements_met": share},
        }

    def _info(self) -> Info:
        return {
            "task_id": f"appworld/{self._task_id}",
            "success": False,
            "action_valid": True,
            "metrics": {"turns": float(self._turns)},
            "skill": "appworld",
        }


def code_of(answer: str) -> str | None:
    """The code in an answer: of its last `<action>`, or its last fenced block where it has none."""
    content = parse_action(answer)
    blocks = _FENCED.findall(without_reasoning(answer) if content is None else content)
    code = blocks[-1] if blocks else content
    return code.strip() or None if code is not None else None


def shortened(text: str, limit: int) -> str:
    """`text` without its middle, where it is longer than `limit` characters."""
    if len(text) <= limit:
        return text
    head = limit // 2
    left_out = len(text) - limit
    return f"{text[:head]}\n[{left_out} characters left out]\n{text[len(text) - limit + head :]}"


def _claimed(url: str) -> IO[str] | None:
    """A lock on the server of that address; None where somebody else has it.

    A file's lock, because every episode has an environment of its own and several runs may share
    the servers. It goes with the process, however that ends.
    """
    try:
        import fcntl
    except ImportError as error:
        raise ValueError("AppWorld's servers are shared by locks that only POSIX has") from error
    name = hashlib.sha256(url.encode()).hexdigest()[:16]
    claim = (Path(tempfile.gettempdir()) / f"agentopd-appworld-{name}.lock").open("a")
    try:
        fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        claim.close()
        return None
    return claim


def _address(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{url!r} is no address of a server: write appworld:http://HOST:PORT")
    return url.rstrip("/")


def _consecutive(url: str, servers: int) -> list[str]:
    if servers == 1:
        return [url]
    parts = urlsplit(url)
    if parts.port is None or servers < 1:
        raise ValueError(f"{servers} servers on consecutive ports need a first port, not {url!r}")
    return [
        f"{parts.scheme}://{parts.hostname}:{parts.port + n}{parts.path}" for n in range(servers)
    ]


def _listed(tasks: str | Sequence[str]) -> list[str]:
    if isinstance(tasks, str):
        try:
            tasks = Path(tasks).read_text(encoding="utf-8").split()
        except OSError as error:
            raise ValueError(
                f"the tasks of AppWorld cannot be read from {tasks}: {error.strerror}; name a file "
                "with one id a line, such as data/datasets/train.txt"
            ) from error
    if not tasks:
        raise ValueError("there are no tasks of AppWorld to play: list their ids in `tasks`")
    return [str(task) for task in tasks]
