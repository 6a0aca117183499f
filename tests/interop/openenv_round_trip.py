"""Our two ends of the OpenEnv protocol against the package `openenv`'s, on loopback.

    python -m venv ELSEWHERE && ELSEWHERE/bin/pip install openenv
    python tests/interop/openenv_round_trip.py ELSEWHERE/bin/python

`openenv` brings hundreds of megabytes, so it lives in an environment of its own, and its ends run
in processes of that one: this file is started there with another first word. A line is printed for
everything that was shown, and the exit code is 0 if all of it was.
"""

# pyright: reportMissingImports=false
# The package `openenv` lives in another environment.
from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SPEC = "agentopd/Hanoi-v0"
EPISODES, STEPS, SESSIONS = 20, 300, 8


def main(python: str) -> None:
    """Both directions, and a pool of our own in front of theirs."""
    their_client_our_server(python)
    our_client_their_server(python)
    print("all of it holds")


def their_client_our_server(python: str) -> None:
    """openenv's client follows the oracle, and openenv's validation looks at the routes."""
    command = [sys.executable, "-m", "agentopd", "serve-env", SPEC, "--port", "0", "--privileged"]
    with started(command) as line:
        url = line.split(" at ")[1].split(";")[0]
        run = [python, __file__, "client", url.removesuffix("/ws").replace("ws://", "http://")]
        print(subprocess.run(run, check=True, capture_output=True, text=True).stdout, end="")


def our_client_their_server(python: str) -> None:
    """Our environment in front of openenv's server: text, JSON, errors, places, the pool."""
    from agentopd.environment.registry import make
    from agentopd.envs.adapters.remote import ServerError

    with started([python, __file__, "server"]) as line:
        text, pair, tools = json.loads(line)
        env = make(f"openenv:{text}", {"reset": {"limit": 8}})
        for seed in range(EPISODES):
            _guess(env, seed)
        print(f"ours, theirs: {EPISODES} episodes guessed, equal seeds play equal tasks")

        seen, reward, terminated, truncated, info = _after(env, "x" * 99)
        shown(not info["action_valid"] and "at most 50" in seen and not terminated, seen)
        shown((reward, truncated) == (0.0, False), reward)
        print(f"ours, theirs: a rejected action is an invalid one, told as {seen!r}")
        for _ in range(8):
            seen, reward, terminated, truncated, info = env.step("0")
        shown(truncated and not terminated, (terminated, truncated))
        print("ours, theirs: `truncated` in the metadata is a truncation")

        other = make(f"openenv:{text}")
        try:
            other.reset(seed=0)
        except ServerError as error:
            print(f"ours, theirs: {error}")
        else:
            raise AssertionError("a server of one place has taken two clients")
        env.close()
        other.reset(seed=0)
        began = time.perf_counter()
        for _ in range(STEPS):
            other.step("0")
        rate = STEPS / (time.perf_counter() - began)
        print(f"ours, theirs: the place is free after a close; {rate:.0f} steps a second")
        other.close()

        env = make(f"openenv:{pair}/ws")
        env.reset(seed=0)
        seen, reward, *_ = env.step('<think>{}</think><action>{"x": 2, "y": 3}</action>')
        shown((seen, reward) == ("2 + 3 = 5", 5.0), seen)
        seen = env.step('<action>{"x": 2}</action>')[0]
        print(f"ours, theirs: an action of two fields is JSON; without one of them: {seen!r}")
        env.close()
        _tools(tools)
        _pool(pair)


def _tools(address: str) -> None:
    """An MCP environment of one place: its tools are told, called, and called wrongly."""
    from agentopd.environment.check import check_env
    from agentopd.environment.registry import make

    env: Any = make(f"openenv:{address}")
    shown(env.reset(seed=0)[0] == "ready", env.system_prompt)
    shown("- echo(text (string), times (integer, optional)): Say it" in env.system_prompt, env)
    said = env.step('<action>{"tool_name": "echo", "arguments": {"text": "hi"}}</action>')
    shown((said[0], said[4]["action_valid"]) == ("hi", True), said)
    said = env.step('{"name": "echo", "arguments": {"text": "hi", "times": 2}}')
    shown(said[0] == "hihi", said)
    said = env.step('{"name": "shout", "arguments": {}}')
    shown(not said[4]["action_valid"], said)
    print(f"ours, theirs: MCP tools are listed and called; without the tool: {said[0]!r}")
    env.close()
    found = check_env(f"openenv:{address}", {"max_turns": 4}, seeds=3)
    shown("limits-instances" in {f.name for f in found}, found)
    shown(not any("CAPACITY" in f.message for f in found if f.level == "error"), found)
    print("ours, theirs: check-env needs one place, and says that there is one")


def _guess(env: Any, seed: int) -> None:
    """Solve the episode of a seed by halving, twice, and compare."""
    said = []
    for _ in range(2):
        low, high = 0, 100
        texts = [env.reset(seed=seed)[0]]
        while True:
            middle = (low + high) // 2
            text, _, terminated, _, info = env.step(str(middle))
            texts.append(text)
            if terminated:
                break
            low, high = (middle + 1, high) if text == "higher" else (low, middle - 1)
        shown(info["success"], texts)
        said.append(texts)
    shown(said[0] == said[1], said)


def _after(env: Any, action: str) -> Any:
    env.reset(seed=0)
    return env.step(action)


def _pool(address: str) -> None:
    """Several sessions wait at once, as they do in a rollout."""
    from agentopd.environment.registry import make
    from agentopd.rollout.calls import caller

    envs = [make(f"openenv:{address}") for _ in range(SESSIONS)]
    callers = [caller(env, 60.0) for env in envs]

    def everyone(calls: list[Any]) -> list[Any]:
        begun = [c.begin(call) for c, call in zip(callers, calls, strict=True)]
        return [call.result() for call in begun]

    everyone([lambda e=env: e.reset(seed=0) for env in envs])
    began = time.perf_counter()
    for n in range(STEPS // 10):
        action = f'<action>{{"x": {n}, "y": 1}}</action>'
        found = everyone([lambda e=env: e.step(action) for env in envs])  # noqa: B023
        shown({f[0] for f in found} == {f"{n} + 1 = {n + 1}"}, found)
    rate = SESSIONS * (STEPS // 10) / (time.perf_counter() - began)
    for closed in [c.end(env.close) for c, env in zip(callers, envs, strict=True)]:
        closed.result()
    print(f"ours, theirs: {SESSIONS} sessions at once on threads, {rate:.0f} steps a second")


def shown(holds: bool, found: Any) -> None:
    """Refuse to go on where something does not hold."""
    if not holds:
        raise AssertionError(found)


@contextmanager
def started(command: list[str]) -> Iterator[str]:
    """The first line that a command prints, while it runs."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline()
        finally:
            process.terminate()


def client(base_url: str) -> None:
    """In openenv's environment: its client against our server."""
    from importlib.metadata import version

    from openenv.cli._validation import validate_running_environment
    from openenv.core.generic_client import GenericEnvClient

    print(f"openenv {version('openenv')}")
    with GenericEnvClient(base_url=base_url).sync() as env:
        steps = 0
        for seed in range(EPISODES):
            result = env.reset(seed=seed, episode_id=f"e{seed}")
            again = env.reset(seed=seed, episode_id=f"e{seed}")
            shown(result.observation == again.observation, seed)
            count = 0
            while not result.done:
                told = result.observation["metadata"]
                best = f"<action>{told['oracle'].split()[0]}</action>"
                result = env.step({"text": best})
                count += 1
            shown(result.observation["metadata"]["success"] and result.reward == 1.0, result)
            shown(env.state() == {"episode_id": f"e{seed}", "step_count": count}, env.state())
            steps += count
        print(f"theirs, ours: {EPISODES} episodes solved by the oracle in {steps} steps")
        env.reset(seed=0)
        for wrong in ({"txt": "up"}, {"text": 3}, {}):
            try:
                env.step(wrong)
            except RuntimeError as error:
                said = str(error)
            else:
                raise AssertionError(wrong)
        print(f"theirs, ours: a wrong action gets {said!r}, and the session goes on")
        began = time.perf_counter()
        for n in range(STEPS):
            if n % 10 == 0:
                env.reset(seed=0)
            env.step({"text": "nonsense"})
        print(f"theirs, ours: {STEPS / (time.perf_counter() - began):.0f} steps a second")
    report = validate_running_environment(base_url, timeout_s=10.0)
    for criterion in report["criteria"]:
        verdict = "passed" if criterion["passed"] else "not passed"
        print(f"theirs, ours: openenv validate, {criterion['id']}: {verdict}")
    passed = {criterion["id"] for criterion in report["criteria"] if criterion["passed"]}
    shown({"health_endpoint", "metadata_endpoint", "schema_endpoint"} <= passed, passed)


def server() -> None:
    """In openenv's environment: three small environments on its server, their addresses as JSON."""
    import socket
    import threading

    import uvicorn

    addresses, servers = [], []
    for app in (guess_app(), pair_app(), tools_app()):
        bound = socket.socket()
        bound.bind(("127.0.0.1", 0))
        addresses.append(f"http://127.0.0.1:{bound.getsockname()[1]}")
        made = uvicorn.Server(uvicorn.Config(app, log_level="error"))
        servers.append(threading.Thread(target=made.run, kwargs={"sockets": [bound]}))
        servers[-1].start()
        while not made.started:
            time.sleep(0.01)
    print(json.dumps(addresses), flush=True)
    servers[0].join()


def guess_app() -> Any:
    """A number to guess, for one client at a time: one field of text."""
    import random

    from openenv.core.env_server import Action, Environment, Observation, State, create_fastapi_app
    from pydantic import Field

    class Guess(Action):
        message: str = Field(max_length=50)

    class Answer(Observation):
        prompt: str

    class Game(Environment[Guess, Answer, State]):
        def reset(
            self, seed: int | None = None, episode_id: str | None = None, limit: int = 99, **_: Any
        ) -> Answer:
            self.number, self.limit = random.Random(seed).randint(0, 100), limit
            self.turns = 0
            return Answer(prompt="guess", metadata={"task_id": f"guess/{seed}"})

        def step(self, action: Guess, timeout_s: float | None = None, **_: Any) -> Answer:
            self.turns += 1
            number = int(action.message)
            said = "found" if number == self.number else "higher"
            said = "lower" if number > self.number else said
            late = said != "found" and self.turns >= self.limit
            return Answer(
                prompt=said, done=said == "found" or late, reward=float(said == "found"),
                metadata={"truncated": late},
            )  # fmt: skip

        @property
        def state(self) -> State:
            return State(step_count=self.turns)

    return create_fastapi_app(Game, Guess, Answer)


def pair_app() -> Any:
    """Sums, for many clients: two fields, neither of them text."""
    from openenv.core.env_server import Action, Environment, Observation, State, create_fastapi_app

    class Pair(Action):
        x: int
        y: int

    class Answer(Observation):
        output: str

    class Adder(Environment[Pair, Answer, State]):
        SUPPORTS_CONCURRENT_SESSIONS = True

        def reset(self, seed: int | None = None, episode_id: str | None = None, **_: Any) -> Answer:
            return Answer(output="add")

        def step(self, action: Pair, timeout_s: float | None = None, **_: Any) -> Answer:
            total = action.x + action.y
            return Answer(output=f"{action.x} + {action.y} = {total}", reward=total)

        @property
        def state(self) -> State:
            return State()

    return create_fastapi_app(Adder, Pair, Answer, max_concurrent_envs=SESSIONS)


def tools_app() -> Any:
    """A tool that echoes, for one client at a time: an MCP environment."""
    from fastmcp import FastMCP
    from openenv.core.env_server import Observation, State, create_fastapi_app
    from openenv.core.env_server.mcp_environment import MCPEnvironment
    from openenv.core.env_server.mcp_types import CallToolAction, CallToolObservation

    class Echo(MCPEnvironment):
        def __init__(self) -> None:
            server = FastMCP("echo")

            @server.tool()
            def echo(text: str, times: int = 1) -> str:
                """Say it."""
                return text * times

            super().__init__(server)

        def reset(self, seed: int | None = None, episode_id: str | None = None, **_: Any) -> Any:
            return Observation(done=False, metadata={"message": "ready"})

        def _step_impl(self, action: Any, timeout_s: float | None = None, **_: Any) -> Any:
            raise ValueError("this is no call of a tool")

        @property
        def state(self) -> State:
            return State()

    return create_fastapi_app(Echo, CallToolAction, CallToolObservation)


if __name__ == "__main__":
    first, *rest = sys.argv[1:] or [""]
    roles: dict[str, Any] = {"client": client, "server": server}
    if first in roles:
        roles[first](*rest)
    elif Path(first).is_file():
        main(first)
    else:
        sys.exit(__doc__)
