"""Which model a server has, and token sequences cut into requests."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from agentopd.serving.http import HttpClient

_LISTED = "/v1/models"


@dataclass(frozen=True)
class ServedModel:
    """A model as its server names it; `positions` is how many tokens a context may have there,
    infinite where the server does not say.
    """

    name: str
    positions: float


def served_model(client: HttpClient, name: str) -> ServedModel:
    """The model of that name; the only one there is, if none is given.

    Raises:
        ServerError: the server does not answer, or has no such model, or several and none is named.
    """
    known = {model.name: model for model in served_models(client, patience=0)}
    if name not in known and (name or len(known) != 1):
        there = ", ".join(sorted(known)) or "none"
        raise client.error(
            _LISTED, f"no model {name!r}, but {there}", "name one of its models with `name`"
        )
    return known[name] if name else next(iter(known.values()))


def served_models(client: HttpClient, patience: float | None = None) -> list[ServedModel]:
    """All models that a server has; for `patience` see `HttpClient.post`.

    Raises:
        ServerError: the server does not answer, or not so.
    """
    answer = client.json(_LISTED, client.get(_LISTED, patience))
    listed = answer.get("data") if isinstance(answer, dict) else None
    if not isinstance(listed, list) or not all(isinstance(x, dict) and "id" in x for x in listed):
        raise client.error(_LISTED, "the answer lists no models", "is this the right server?")
    return [ServedModel(str(x["id"]), x.get("max_model_len") or math.inf) for x in listed]


def in_requests(lengths: Sequence[int], budget: int) -> list[slice]:
    """Neighbouring sequences that go into one request: of at most `budget` tokens together, or one
    that has more.
    """
    found, start, total = [], 0, 0
    for place, length in enumerate(lengths):
        if place > start and total + length > budget:
            found.append(slice(start, place))
            start, total = place, 0
        total += length
    return [*found, slice(start, len(lengths))] if lengths else []
