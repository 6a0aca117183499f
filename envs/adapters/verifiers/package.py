"""What is asked of the package verifiers: its tasks, and an episode played by a model's endpoint.

The package is imported when it is used. Its own programs for agents are fetched from the network
and run in containers; the one here is a loop of a few lines in this process, by which the model is
shown a conversation and answers it.
"""

from __future__ import annotations

import itertools
import json
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from agentopd.environment.checks.subject import Caught
from agentopd.envs.adapters import library
from agentopd.envs.adapters.loopback import opener
from agentopd.envs.adapters.verifiers.endpoint import aside

_HARNESS = "agentopd_student"
_ENDLESS = 1_000
"""Tasks that are played of those that never end, unless their number is given."""
_LINE = 300
"""Characters of an error that are told."""
_LOCAL = (
    "only environments whose tasks lie on this machine's disk or are made in Python can be played: "
    "load the data set once where there is a network, or name a file of yours in the option taskset"
)


@dataclass(frozen=True)
class Result:
    """How an episode ended: rewards and metrics by name, and whether a limit stopped it."""

    reward: float
    rewards: Mapping[str, float]
    metrics: Mapping[str, float]
    truncated: bool


class Episodes:
    """The tasks of an environment, and episodes of them.

    Args:
        name: the module that exports its `Taskset`, as verifiers names it.
        taskset: fields of the taskset's own configuration.
        env: fields of the environment's.
        skip, limit: how many tasks are left out at first, and how many are taken.
        max_turns: calls of the model in an episode.

    Raises:
        ValueError: there is no such environment, a field is wrong, it has several agents, needs a
            container or tools, its tasks cannot be loaded, or verifiers is not installed.
    """

    def __init__(
        self,
        name: str,
        *,
        taskset: Mapping[str, Any],
        env: Mapping[str, Any],
        skip: int,
        limit: int | None,
        max_turns: int,
    ) -> None:
        self._package = library("verifiers.v1", "verifiers")
        _enter(self._package)
        agents: list[str] = []
        with Caught() as caught:
            kind = self._package.env_config_type(name, str(env.get("id", "")))
            agents = _agents(kind, self._package.AgentConfig)
            if len(agents) == 1:
                seat = {"harness": {"id": _HARNESS}, "runtime": {"type": "subprocess"}}
                described = {**env, "taskset": {**taskset, "id": name}}
                described[agents[0]] = {**seat, "max_turns": max_turns}
                config = self._package.resolve_env_config(described)
                self._env = self._package.load_environment(config)
        if caught.error:
            raise ValueError(f"verifiers' {name} cannot be made here: {_told(caught.error)}")
        if len(agents) != 1:
            raise ValueError(
                f"verifiers' {name} is played by {len(agents)} agents ({', '.join(agents)}): the "
                "student is one, and nobody is there for the others"
            )
        with Caught() as caught:
            self.tasks = self._loaded(skip, limit)
        if caught.error:
            raise ValueError(
                f"the tasks of verifiers' {name} cannot be loaded: {_told(caught.error)}; {_LOCAL}"
            )
        if not self.tasks:
            raise ValueError(
                f"verifiers' {name} has no tasks from number {skip} on: set skip lower"
            )
        self._refuse_tools(name)

    def _loaded(self, skip: int, limit: int | None) -> Sequence[Any]:
        tasks = self._env.taskset
        if limit is None and not tasks.bounded:
            limit = _ENDLESS
        return list(itertools.islice(tasks, skip, None if limit is None else skip + limit))

    def _refuse_tools(self, name: str) -> None:
        task = self.tasks[0]
        shared = self._env.taskset.toolsets(self._env.taskset.config)
        if task.NEEDS_CONTAINER or task.data.image:
            raise ValueError(f"verifiers' {name} works in a container, which a student of text has "
                             "not: play an environment of messages alone")  # fmt: skip
        if shared or task.toolsets(task.config):
            raise ValueError(f"verifiers' {name} offers tools, which a student of text has not: "
                             "play an environment of messages alone")  # fmt: skip

    async def play(self, task: Any, url: str) -> Result:
        """An episode of `task`, in which the model at `url` answers.

        Raises:
            RuntimeError: the environment failed.
        """
        client = self._package.EvalClientConfig(base_url=url, api_key_var="AGENTOPD_NO_KEY")
        context = self._package.ModelContext(model="student", client=client)
        async with self._env.serving():
            episode = await self._env.run_episode(task, context)
        failed = [*episode.errors, *(error for trace in episode.traces for error in trace.errors)]
        if failed:
            raise RuntimeError(f"{failed[0].type}: {failed[0].message}")
        trace = episode.traces[0]
        rewards = {key: reward.value for key, reward in trace.rewards.items() if reward}
        metrics = {key: float(n) for key, n in trace.metrics.items() if n is not None}
        return Result(float(trace.reward), rewards, metrics, bool(trace.is_truncated))


def _agents(config: Any, agent: Any) -> list[str]:
    """The names of an environment's agents, which are fields of its configuration."""
    return [key for key, field in config.model_fields.items() if isinstance(field.default, agent)]


def _told(error: BaseException) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:_LINE]}"


def _enter(package: Any) -> None:
    """Let verifiers find the student's program under its name."""
    if _HARNESS not in sys.modules:
        module = ModuleType(_HARNESS)
        vars(module).update(Student=_harness(package), __all__=["Student"])
        sys.modules[_HARNESS] = module


def _harness(package: Any) -> type:
    """A program that shows the model a conversation and takes its answer."""

    class Student(package.Harness[package.HarnessConfig]):
        APPENDS_SYSTEM_PROMPT = True
        SUPPORTS_RESUME = True
        EXECUTES_CODE = False
        NEEDS_CONTAINER = False

        async def launch(
            self,
            ctx: Any,
            trace: Any,
            runtime: Any,
            endpoint: str,
            secret: str,
            mcp_urls: Mapping[str, str],
            data: Any,
        ) -> Any:
            """Ask the model once; see verifiers' `Harness.launch`."""
            system, prompt = self.resolve_prompt(data)
            messages = [{"role": "system", "content": system}] if system else []
            if isinstance(prompt, str):
                messages.append({"role": "user", "content": prompt})
            else:
                messages += [m.model_dump(include={"role", "content"}) for m in prompt or ()]
            asked = {"model": ctx.model, "messages": messages}
            failed, text = await aside(lambda: _posted(endpoint, secret, asked))
            return package.ProgramResult(int(failed), "" if failed else text, text)

    return Student


def _posted(endpoint: str, secret: str, asked: Mapping[str, Any]) -> tuple[bool, str]:
    """Whether a call of the model is refused, and what is answered; waits for it.

    Raises:
        OSError: there is no answer.
    """
    request = urllib.request.Request(
        f"{endpoint}/chat/completions",
        json.dumps(asked).encode(),
        {"Content-Type": "application/json", "Authorization": f"Bearer {secret}"},
    )
    try:
        with opener(endpoint).open(request) as answered:
            return False, answered.read().decode()
    except urllib.error.HTTPError as error:
        return True, error.read().decode(errors="replace")
