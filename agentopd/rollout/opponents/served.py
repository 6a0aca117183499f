"""An opponent behind a server of OpenAI's chat interface: `opponent=http://HOST:PORT`.

The server keeps no state: each move is asked for with the whole conversation, at once for every
episode in play. Its `seed` goes with the request; whether equal seeds give equal games there is the
server's affair.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, ClassVar
from urllib.parse import urlsplit

from pydantic import Field

from agentopd.environment.contract import without_reasoning
from agentopd.environment.opponents import Asked, OpponentFailed, Player, Seat
from agentopd.rollout.opponents.speaking import Speaking
from agentopd.serving.http import HttpClient, Server, ServerError, ServerSettings
from agentopd.serving.models import served_model

_PATH = "/v1/chat/completions"


class ServedOpponent(Speaking, kind="server"):
    """A model that a server has.

    Args:
        server: its address, or a mapping with the name of its key's environment variable and its
            limits too; see `agentopd.serving.http.ServerSettings`.
        name: of the model there; the only one, if not given.
    """

    blocking: ClassVar[bool] = True

    server: Server
    name: str = ""
    max_turn_tokens: int = Field(default=256, ge=1)

    @property
    def label(self) -> str:
        """See `Opponent.label`."""
        return self.name or urlsplit(self.server.url).netloc

    def sit(self, seat: Seat) -> Player:
        """See `Opponent.sit`.

        Raises:
            OpponentFailed: the server does not answer, or has no such model.
        """
        try:
            client, model = _opened(self.server.model_dump_json(), self.name)
        except ServerError as error:
            raise OpponentFailed(f"opponent {self.label}: {error}") from error
        return _ServedPlayer(client, model, self, seat)


@lru_cache(maxsize=8)
def _opened(server: str, name: str) -> tuple[HttpClient, str]:
    """A client for a server, and its model's name; asked for once a process."""
    settings = ServerSettings.model_validate_json(server)
    address = settings.url.removesuffix("/v1")
    client = HttpClient(settings.model_copy(update={"url": address}))
    return client, served_model(client, name).name


@dataclass
class _ServedPlayer:
    """One episode's conversation."""

    client: HttpClient
    model: str
    settings: ServedOpponent
    seat: Seat
    messages: list[dict[str, str]] = field(default_factory=list)

    def answer(self, asked: Asked) -> str:
        self.messages += [] if self.messages else self._opening()
        self.messages.append({"role": "user", "content": asked.observation})
        try:
            said = self._said(self.client.json(_PATH, self.client.post(_PATH, self._body())))
        except ServerError as error:
            raise OpponentFailed(f"opponent {self.settings.label}: {error}") from error
        self.messages.append({"role": "assistant", "content": without_reasoning(said).strip()})
        return said

    def leave(self) -> None:
        """Nothing is held there."""

    def _opening(self) -> list[dict[str, str]]:
        """The rules and the examples, as a student would be told them."""
        rules = [{"role": "system", "content": self.seat.rules}] if self.seat.rules else []
        shown = (
            ({"role": "user", "content": seen}, {"role": "assistant", "content": answer})
            for seen, answer in self.seat.examples
        )
        return [*rules, *(message for pair in shown for message in pair)]

    def _body(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "messages": self.messages,
            "temperature": self.settings.temperature,
            "max_tokens": self.settings.max_turn_tokens,
            "seed": (self.seat.seed + len(self.messages)) % 2**31,
        }

    def _said(self, answer: Any) -> str:
        """The text of an answer; one without any is empty."""
        try:
            content = answer["choices"][0]["message"]["content"]
        except (KeyError, IndexError, TypeError):
            hint = "does it know OpenAI's chat interface, and is it the right server?"
            raise self.client.error(_PATH, "the answer holds no message", hint) from None
        return content if isinstance(content, str) else ""
