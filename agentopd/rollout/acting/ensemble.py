"""Several samplers as one: each request goes to the one of its actor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from threading import Event

from agentopd.base.types import Owner
from agentopd.models.model import LanguageModel
from agentopd.rollout.sampler import Answer, Request, Sampler


class Ensemble:
    """Lets a student, a teacher and both together answer in one pool. It is a `Sampler`.

    They work in turns: who has requests under way goes on until one of them is answered, and then
    it is the next one's turn. So what happens follows from what was asked, never from the clock.

    Args:
        actors: each actor's sampler; one conversation may go on in several of them.
    """

    def __init__(self, actors: Mapping[Owner, Sampler]) -> None:
        self._actors = dict(actors)
        self._asked: dict[Owner, set[int]] = {actor: set() for actor in actors}
        self._order = list(actors)

    def submit(self, requests: Sequence[Request]) -> None:
        """See `Sampler.submit`."""
        for actor, sampler in self._actors.items():
            own = [request for request in requests if request.actor is actor]
            if own:
                sampler.submit(own)
                self._asked[actor] |= {request.key for request in own}

    def ready(self, wake: Event | None = None, seconds: float | None = None) -> list[Answer]:
        """See `Sampler.ready`."""
        busy = next((actor for actor in self._order if self._asked[actor]), None)
        if busy is None:
            return []
        found = self._actors[busy].ready(wake, seconds)
        if found:
            self._order.remove(busy)
            self._order.append(busy)
        self._asked[busy] -= {answer.key for answer in found}
        return found

    def forget(self, keys: Sequence[int]) -> None:
        """See `Sampler.forget`."""
        for actor, sampler in self._actors.items():
            sampler.forget(keys)
            self._asked[actor] -= set(keys)

    def sync(self, student: LanguageModel) -> None:
        """See `Sampler.sync`; the others' models are not the student."""
        self._actors[Owner.STUDENT].sync(student)
