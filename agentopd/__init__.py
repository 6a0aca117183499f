"""On-policy distillation of language-model agents in multi-turn text environments."""

from agentopd.environment.contract import Text, TextEnv, parse_action
from agentopd.environment.registry import make, register, register_scheme

__all__ = ["Text", "TextEnv", "make", "parse_action", "register", "register_scheme"]

register("agentopd/Sokoban-v0", "agentopd.envs.sokoban.env:Sokoban")
register("agentopd/Desk-v0", "agentopd.envs.desk.env:Desk")
register("agentopd/FrozenLake-v0", "agentopd.envs.frozen_lake:FrozenLake")
register("agentopd/Mastermind-v0", "agentopd.envs.mastermind:Mastermind")
register("agentopd/Hanoi-v0", "agentopd.envs.hanoi:Hanoi")
register("agentopd/Countdown-v0", "agentopd.envs.countdown:Countdown")
register_scheme("textarena", "agentopd.envs.adapters.arena:build")
register_scheme("toy", "agentopd.envs.adapters.toys:build")
register_scheme("reasoning", "agentopd.envs.adapters.reasoning:build")
register_scheme("grid", "agentopd.envs.adapters.grid:build")
register_scheme("fiction", "agentopd.envs.adapters.fiction:build")
register_scheme("openenv", "agentopd.envs.adapters.remote:Remote")
register_scheme("appworld", "agentopd.envs.adapters.world_server:AppWorld")
