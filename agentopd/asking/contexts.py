"""Conversations that ask a model once, and fit into what it can read."""

from __future__ import annotations

from collections.abc import Callable

from agentopd.models.chat import Conversation
from agentopd.models.model import LanguageModel


def context(model: LanguageModel, system: str, asked: str) -> list[int]:
    """The ids of a conversation up to where the model is to reply."""
    conversation = Conversation(model.template, model.stop_ids)
    conversation.begin(system, asked)
    return conversation.context


def fitted(made: Callable[[int], list[int]], budget: int, room: float) -> list[int]:
    """The ids that `made` gives within a budget that leaves the whole of them in `room`.

    Args:
        made: the context with so many tokens for what is quoted in it.
        budget: the most tokens of what is quoted.
    """
    ids = made(budget)
    while budget and (over := len(ids) - room) > 0:
        budget = int(max(budget - over, 0))
        ids = made(budget)
    return ids
