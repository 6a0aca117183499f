"""On-policy distillation of language-model agents in multi-turn text environments."""

from agentopd.env import Text, TextEnv, make, parse_action, register

__all__ = ["Text", "TextEnv", "make", "parse_action", "register"]

register("agentopd/Sokoban-v0", "agentopd.envs.sokoban.env:Sokoban")
register("agentopd/Desk-v0", "agentopd.envs.desk.env:Desk")
