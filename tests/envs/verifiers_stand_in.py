"""A stand-in of `verifiers.v1`: tasks, an environment that plays by asking a model's endpoint."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, ClassVar

from broken import Broken
from pydantic import BaseModel, ConfigDict


class _Of:
    """A class that may be written with parameters."""

    def __class_getitem__(cls, _: Any) -> Any:
        return cls


class TaskData(BaseModel):
    """What a task consists of."""

    model_config = ConfigDict(frozen=True)
    id: str | None = None
    image: str | None = None
    prompt: str | None = None
    system_prompt: str | None = None


class TasksetConfig(BaseModel):
    """Fields of a taskset's configuration."""

    model_config = ConfigDict(extra="forbid")
    id: str = ""
    task: Any = None


class AgentConfig(BaseModel):
    """Who plays."""

    harness: dict[str, str] = {}
    runtime: dict[str, str] = {}
    max_turns: int | None = None


class EnvConfig(BaseModel):
    """Fields of an environment's configuration."""

    model_config = ConfigDict(extra="forbid")
    id: str = ""
    taskset: dict[str, Any] = {}


class SingleAgentConfig(EnvConfig):
    """One agent."""

    agent: AgentConfig = AgentConfig()


class Task(_Of):
    """A task; hooks are marked by `reward` and `metric`."""

    NEEDS_CONTAINER: ClassVar[bool] = False

    def __init__(self, data: Any, config: Any) -> None:
        self.data = data

    @property
    def key(self) -> str:
        return hashlib.sha256(repr(self.data).encode()).hexdigest()

    @classmethod
    def toolsets(cls, config: Any) -> list[Any]:
        return []

    config = None


class Taskset(_Of):
    """Tasks in order."""

    INFINITE = False

    def __init__(self, config: Any) -> None:
        self.config = config

    @property
    def bounded(self) -> bool:
        return not self.INFINITE

    def __iter__(self) -> Iterator[Any]:
        return iter(self.load())

    def load(self) -> Any:
        raise NotImplementedError

    @classmethod
    def toolsets(cls, config: Any) -> list[Any]:
        return []


def reward(weight: float = 1.0) -> Any:
    """Marks what pays a task."""

    def marked(method: Any) -> Any:
        method.pays = weight
        return method

    return marked


def metric(method: Any) -> Any:
    """Marks what is counted of a task."""
    method.counts = True
    return method


class Harness(_Of):
    """The program of an agent."""

    def resolve_prompt(self, data: Any) -> tuple[Any, Any]:
        return data.system_prompt, data.prompt


class _Trace:
    """What is written down of an agent's run."""

    def __init__(self) -> None:
        self.rewards: dict[str, Any] = {}
        self.metrics: dict[str, float | None] = {}
        self.errors: list[Any] = []
        self.is_truncated, self.last_reply, self.turns = False, "", 0

    def record_reward(self, name: str, value: float, weight: float = 1.0) -> None:
        self.rewards[name] = SimpleNamespace(value=value * weight)

    @property
    def reward(self) -> float:
        return sum(paid.value for paid in self.rewards.values())


class _Talk:
    """An agent's conversation, a program's run for each turn."""

    def __init__(self, config: AgentConfig, ctx: Any, task: Any) -> None:
        self._harness = sys.modules[config.harness["id"]].Student()
        self._most, self._ctx, self._data, self.trace = config.max_turns, ctx, task.data, _Trace()
        self._said: list[Any] = []

    async def turn(self, text: str | None = None) -> Any:
        asked = self._data.prompt if text is None else text
        if self.trace.turns == self._most:
            self.trace.is_truncated = True
            return SimpleNamespace(terminated=True)
        self._said.append(_Message(role="user", content=Broken.hear("", asked)))
        data = self._data.model_copy(update={"prompt": self._said})
        url = self._ctx.client.base_url
        done = await self._harness.launch(self._ctx, self.trace, None, url, "", {}, data)
        if done.exit_code:
            raise RuntimeError(done.stderr)
        reply = _Completion.model_validate_json(done.stdout).choices[0]["message"]
        self._said.append(_Message(**reply))
        self.trace.last_reply = reply["content"]
        self.trace.turns += 1
        return SimpleNamespace(terminated=False, last_reply=reply["content"].strip())


class _Message(BaseModel):
    role: str
    content: str


class _Completion(BaseModel):
    choices: list[dict[str, Any]]


class _Agent:
    def __init__(self, config: AgentConfig, ctx: Any, traces: list[_Trace]) -> None:
        self._config, self._ctx, self._traces = config, ctx, traces

    @asynccontextmanager
    async def interaction(self, task: Any) -> AsyncIterator[_Talk]:
        talk = _Talk(self._config, self._ctx, task)
        yield talk
        self._traces.append(talk.trace)

    async def run(self, task: Any) -> None:
        async with self.interaction(task) as talk:
            await talk.turn()


class Env(_Of):
    """An environment: how one task becomes one episode."""

    def __init__(self, config: Any, taskset: Taskset) -> None:
        self.config, self.taskset = config, taskset

    async def run(self, task: Any, agents: Any) -> None:
        await agents.agent.run(task)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        Broken.started += 1
        try:
            yield
        finally:
            Broken.closed += 1

    async def run_episode(self, task: Any, ctx: Any) -> Any:
        traces: list[_Trace] = []
        roles = {k: v for k, v in self.config if isinstance(v, AgentConfig)}
        agents = {name: _Agent(config, ctx, traces) for name, config in roles.items()}
        errors = []
        try:
            await self.run(task, SimpleNamespace(**agents))
        except RuntimeError as error:
            errors.append(SimpleNamespace(type="EnvError", message=str(error)))
        for trace in traces:
            for name, hook in vars(type(task)).items():
                if hasattr(hook, "pays"):
                    trace.record_reward(name, await hook(task, trace), hook.pays)
                elif hasattr(hook, "counts"):
                    trace.metrics[name] = await hook(task, trace)
        return SimpleNamespace(errors=errors, traces=traces)


def _exported(name: str, kind: type) -> Any:
    __import__(name)
    module = sys.modules[name]
    found = [getattr(module, key) for key in module.__all__]
    return next((one for one in found if issubclass(one, kind)), None)


def env_config_type(name: str, env: str = "") -> Any:
    """The configuration of an environment's class."""
    found = _exported(name, Env)
    return vars(sys.modules[name])["GuessConfig"] if found else SingleAgentConfig


def resolve_env_config(described: Mapping[str, Any]) -> Any:
    """A configuration from plain values."""
    return env_config_type(described["taskset"]["id"]).model_validate(described)


def load_environment(config: Any) -> Any:
    """The environment of a configuration."""
    name = config.taskset["id"]
    fields = vars(sys.modules[name]).get("SumsConfig", TasksetConfig)
    taskset = _exported(name, Taskset)(fields.model_validate(config.taskset))
    return (_exported(name, Env) or Env)(config, taskset)


def contents() -> dict[str, Any]:
    """What the module `verifiers.v1` holds."""
    names = (
        "AgentConfig", "Env", "EnvConfig", "Harness", "Task", "TaskData", "Taskset",
        "TasksetConfig", "env_config_type", "load_environment", "metric", "resolve_env_config",
        "reward",
    )  # fmt: skip
    simple = ("EvalClientConfig", "ModelContext")
    others = {
        "HarnessConfig": object,
        "Agents": object,
        "Trace": object,
        "ProgramResult": lambda code, out, err: SimpleNamespace(
            exit_code=code, stdout=out, stderr=err
        ),
    }
    return (
        {name: globals()[name] for name in names} | dict.fromkeys(simple, SimpleNamespace) | others
    )
