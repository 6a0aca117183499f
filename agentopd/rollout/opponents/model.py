"""An opponent that is a language model in this process: `opponent=zoo:NAME`, or a folder.

It answers as a student would: told the rules, then what the game says, turn by turn, in its own
chat template and over a cache of its own. It is loaded when it first sits down, once a process, and
never learns. Moves are asked for one at a time, so that equal seeds give equal bits.
"""

from __future__ import annotations

import threading
from functools import lru_cache
from itertools import count

from pydantic import Field, field_validator

from agentopd.base.console import quiet_libraries
from agentopd.base.types import Owner
from agentopd.environment.opponents import Asked, OpponentFailed, Player, Seat
from agentopd.models.chat import Conversation
from agentopd.models.folders import model_folder
from agentopd.models.model import LanguageModel, ModelSettings, load_model
from agentopd.rollout.opponents.speaking import Speaking
from agentopd.rollout.sampler import Request
from agentopd.rollout.transformers_sampler import TransformersSampler


class ModelOpponent(Speaking, kind="model"):
    """A language model that never learns.

    Args:
        model: its folder, or `zoo:NAME`.
    """

    model: str
    dtype: str = Field(default="float32", pattern="^(float32|bfloat16)$")
    device: str = "cpu"

    @field_validator("model")
    @classmethod
    def _is_there(cls, value: str) -> str:
        model_folder(value)
        return value

    @property
    def label(self) -> str:
        """See `Opponent.label`."""
        return self.model.rstrip("/").rpartition("/")[2]

    def sit(self, seat: Seat) -> Player:
        """See `Opponent.sit`.

        Raises:
            ValueError: there is no such model.
        """
        return _speaker(self.model, self.dtype, self.device).open(self, seat)


class Speaker:
    """A model and its sampler, shared by all who play with it.

    Args:
        model: whose weights may be moved between two episodes; `renew` says so.
    """

    def __init__(self, model: LanguageModel) -> None:
        self.model = model
        self._sampler = TransformersSampler(model)
        self._keys, self._lock = count(), threading.Lock()

    def open(self, settings: Speaking, seat: Seat) -> Player:
        """A player for one episode."""
        with self._lock:
            key = next(self._keys)
        return _ModelPlayer(self, settings, seat, key)

    def ask(self, request: Request) -> tuple[list[int], list[float]]:
        """The ids of an answer, and their log-probabilities."""
        with self._lock:
            # `answers` would forget what the conversation holds by now
            self._sampler.submit([request])
            found = []
            while not found:
                found = self._sampler.ready()
        return found[0].completion.ids, found[0].completion.logprobs

    def forget(self, key: int) -> None:
        """A conversation is over."""
        with self._lock:
            self._sampler.forget([key])

    def renew(self) -> None:
        """The model has other weights."""
        with self._lock:
            self._sampler.sync(self.model)


@lru_cache(maxsize=2)
def _speaker(path: str, dtype: str, device: str) -> Speaker:
    """The model at `path`, loaded once a process."""
    quiet_libraries()
    return Speaker(load_model(ModelSettings(path=path, dtype=dtype, device=device)))


class _ModelPlayer:
    """One episode's conversation; one that fills the model's context starts anew, with what was
    said first and last.
    """

    def __init__(self, speaker: Speaker, settings: Speaking, seat: Seat, key: int) -> None:
        self._speaker, self._settings, self._seat, self._key = speaker, settings, seat, key
        self._talk: Conversation | None = None
        self._first, self._answered = "", 0

    def answer(self, asked: Asked) -> str:
        """See `Player.answer`."""
        said, most = asked.observation, self._settings.max_turn_tokens
        self._first = self._first or said
        if self._talk is None:
            self._talk = self._begin(said)
        else:
            self._talk.observe(said)
            if not self._fits(self._talk):
                again = "\n".join(dict.fromkeys((self._first, said)))
                self._talk = self._begin(again)
        if not self._fits(self._talk):
            raise OpponentFailed(
                f"opponent {self._settings.label} has contexts of {self._speaker.model.positions:g}"
                f" tokens, and the game alone fills one: lower its max_turn_tokens from {most}, "
                "or let a model with longer ones play"
            )
        ids, logprobs = self._speaker.ask(
            Request(
                key=self._key,
                ids=self._talk.context,
                seed=(self._seat.seed, self._answered),
                max_tokens=most,
                temperature=self._settings.temperature,
            )
        )
        self._answered += 1
        return self._talk.answer(ids, logprobs, Owner.STUDENT)[0]

    def leave(self) -> None:
        """See `Player.leave`."""
        self._speaker.forget(self._key)

    def _begin(self, observation: str) -> Conversation:
        model = self._speaker.model
        talk = Conversation(model.template, model.stop_ids)
        talk.begin(self._seat.rules, observation, self._seat.examples)
        return talk

    def _fits(self, talk: Conversation) -> bool:
        most = len(talk.context) + self._settings.max_turn_tokens
        return most <= self._speaker.model.positions
