"""Questions answered with a search over passages: `agentopd.make("search:small")`."""

from __future__ import annotations

from typing import Any

from agentopd.envs.adapters.search.env import Search


def build(name: str, **options: Any) -> Search:
    """The environment of `search:INDEX`; see `Search`."""
    return Search(name, **options)
