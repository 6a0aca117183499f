"""WebShop from the user's own copy of its data: `agentopd.make("webshop:data")`."""

from __future__ import annotations

from typing import Any

from agentopd.envs.adapters.webshop.env import WebShop


def build(name: str, **options: Any) -> WebShop:
    """The environment of `webshop:DATA`; see `WebShop`."""
    return WebShop(name, **options)
