"""Environments of the package verifiers: `agentopd.make("verifiers:reverse_text")`."""

from __future__ import annotations

from typing import Any

from agentopd.envs.adapters.verifiers.env import Verified


def build(name: str, **options: Any) -> Verified:
    """The environment of `verifiers:ID`; see `Verified`."""
    return Verified(name, **options)
