"""On-policy distillation of language-model agents in multi-turn text environments.

Everything a user calls or derives from is a name of this package. Environments come at once; what
needs torch is imported when it is first used, so that `import agentopd` stays light.
"""

from __future__ import annotations

import importlib
import typing

from agentopd.environment.contract import Text, TextEnv, parse_action
from agentopd.environment.registry import make, register, register_scheme

if typing.TYPE_CHECKING:
    from agentopd.base.types import Lesson, Privilege, Trajectory, Turn
    from agentopd.divergences.base import Divergence, Row
    from agentopd.environment.check import check_env
    from agentopd.environment.settings import EnvSettings
    from agentopd.looking.replay.compare import replay
    from agentopd.looking.report import write_report
    from agentopd.mixes.base import Mix, Route
    from agentopd.mixes.channels import Channels
    from agentopd.models.model import LanguageModel
    from agentopd.privilege.base import Source
    from agentopd.rollout.policies import Rollout
    from agentopd.rollout.sampler import Sampler
    from agentopd.running.config import ConfigError, RunConfig
    from agentopd.running.reading import load_config, parse_config
    from agentopd.running.studies.study import compare
    from agentopd.running.train import train
    from agentopd.signal.evidence import Evidence
    from agentopd.teacher import Teacher
    from agentopd.units.base import Unit
    from agentopd.units.spans import Span
    from agentopd.weights.base import Weight

__all__ = [
    "Channels",
    "ConfigError",
    "Divergence",
    "EnvSettings",
    "Evidence",
    "LanguageModel",
    "Lesson",
    "Mix",
    "Privilege",
    "Rollout",
    "Route",
    "Row",
    "RunConfig",
    "Sampler",
    "Source",
    "Span",
    "Teacher",
    "Text",
    "TextEnv",
    "Trajectory",
    "Turn",
    "Unit",
    "Weight",
    "check_env",
    "compare",
    "load_config",
    "make",
    "parse_action",
    "parse_config",
    "register",
    "register_scheme",
    "replay",
    "train",
    "write_report",
]

_LATE = {
    "agentopd.base.types": ("Lesson", "Privilege", "Trajectory", "Turn"),
    "agentopd.divergences.base": ("Divergence", "Row"),
    "agentopd.environment.check": ("check_env",),
    "agentopd.environment.settings": ("EnvSettings",),
    "agentopd.looking.replay.compare": ("replay",),
    "agentopd.looking.report": ("write_report",),
    "agentopd.mixes.base": ("Mix", "Route"),
    "agentopd.mixes.channels": ("Channels",),
    "agentopd.models.model": ("LanguageModel",),
    "agentopd.privilege.base": ("Source",),
    "agentopd.rollout.policies": ("Rollout",),
    "agentopd.rollout.sampler": ("Sampler",),
    "agentopd.running.config": ("ConfigError", "RunConfig"),
    "agentopd.running.reading": ("load_config", "parse_config"),
    "agentopd.running.studies.study": ("compare",),
    "agentopd.running.train": ("train",),
    "agentopd.signal.evidence": ("Evidence",),
    "agentopd.teacher": ("Teacher",),
    "agentopd.units.base": ("Unit",),
    "agentopd.units.spans": ("Span",),
    "agentopd.weights.base": ("Weight",),
}
"""Where each name lives that is imported when it is first used; the imports above, for types, say
the same."""


if not typing.TYPE_CHECKING:  # a type checker would take every name for one that exists

    def __getattr__(name: str) -> typing.Any:
        """A late name, imported now and kept."""
        for module, names in _LATE.items():
            if name in names:
                value = getattr(importlib.import_module(module), name)
                globals()[name] = value
                return value
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names, and what any module has."""
    return sorted({*globals(), *__all__})


register("agentopd/Sokoban-v0", "agentopd.envs.sokoban.env:Sokoban")
register("agentopd/Desk-v0", "agentopd.envs.desk.env:Desk")
register("agentopd/FrozenLake-v0", "agentopd.envs.frozen_lake:FrozenLake")
register("agentopd/Mastermind-v0", "agentopd.envs.mastermind:Mastermind")
register("agentopd/FrontDesk-v0", "agentopd.envs.front_desk:FrontDesk")
register("agentopd/Hanoi-v0", "agentopd.envs.hanoi:Hanoi")
register("agentopd/Countdown-v0", "agentopd.envs.countdown:Countdown")
register_scheme("textarena", "agentopd.envs.adapters.arena:build")
register_scheme("toy", "agentopd.envs.adapters.toys:build")
register_scheme("reasoning", "agentopd.envs.adapters.reasoning:build")
register_scheme("grid", "agentopd.envs.adapters.grid:build")
register_scheme("fiction", "agentopd.envs.adapters.fiction:build")
register_scheme("science", "agentopd.envs.adapters.played.science:build")
register_scheme("express", "agentopd.envs.adapters.played.express:build")
register_scheme("alfworld", "agentopd.envs.adapters.played.alfworld:build")
register_scheme("gem", "agentopd.envs.adapters.played.gem:build")
register_scheme("skyrl", "agentopd.envs.adapters.played.skyrl:build")
register_scheme("verifiers", "agentopd.envs.adapters.verifiers:build")
register_scheme("webshop", "agentopd.envs.adapters.webshop:build")
register_scheme("jericho", "agentopd.envs.adapters.played.jericho:build")
register_scheme("search", "agentopd.envs.adapters.search:build")
register_scheme("nethack", "agentopd.envs.adapters.played.nethack:build")
register_scheme("openenv", "agentopd.envs.adapters.remote:Remote")
register_scheme("appworld", "agentopd.envs.adapters.world_server:AppWorld")
