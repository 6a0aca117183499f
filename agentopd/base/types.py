"""The records that travel from the environment to the learner.

Each holds the one before it, so nothing is ever zipped:

    Trajectory  what happened                    (rollout)
    Briefed     a trajectory and what the teacher may know of it (privilege)
    View        the teacher's context, and where the student's tokens stand in it (view)
    Lesson      what the teacher thinks of the student's tokens  (teacher)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum, StrEnum
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

# Shape letters: T tokens of a trajectory, N trainable tokens, H hidden size


class Owner(IntEnum):
    """Who produced a token."""

    TEMPLATE = 0
    """Prompt, observation or chat template."""
    STUDENT = 1
    TEACHER = 2
    DEMO = 3
    """A demonstration that was replayed: nobody sampled it."""
    MIXTURE = 4
    """Drawn from a mixture of the student's and the teacher's probabilities."""


class EndReason(StrEnum):
    """Why an episode ended."""

    TERMINATED = "terminated"
    """The environment says that the task is over, won or lost."""
    TRUNCATED = "truncated"
    """The environment's own limit."""
    TURN_LIMIT = "turn_limit"
    """The rollout's limit of turns."""
    TOKEN_LIMIT = "token_limit"
    """The rollout's limit of sampled tokens."""
    CONTEXT_LIMIT = "context_limit"
    """Another turn would not have fitted into the rollout's limit of tokens."""
    ERROR = "error"
    """The environment raised; `Trajectory.error` says what."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message of the conversation; its content, without the template's tags, is
    `ids[start:stop]`.
    """

    role: str
    start: int
    stop: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One answer of the agent and what came of it.

    `start` and `stop` bound the sampled tokens, closing token included; the reasoning ends and the
    rest of the answer starts at `act` (equal to `start` where there is none). `cut` tells that the
    answer hit the limit of tokens a turn. `info` is what the environment said after the step,
    privileged keys included.
    """

    index: int
    observation: str
    action: str
    start: int
    act: int
    stop: int
    cut: bool
    reward: float
    info: Mapping[str, Any]

    @property
    def valid(self) -> bool:
        """Whether the environment could read the action."""
        return bool(self.info.get("action_valid", True))


Record = Literal["played", "written", "untold", "foreseen", "joined", "bridge"]
"""What an episode is to an attempt at its task; see `Attempt.kind`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """Which of several attempts at one task an episode belongs to, and what was known by then.

    Attributes:
        number: counted from 0, the attempt that is told nothing.
        first: the episode number of that one, by which attempts that follow each other are found.
        kind: `played`: acted in the environment. `written`: what the student wrote of this attempt,
            an episode of one turn. `untold`: the answers of this attempt once more, in the history
            without what was told. `foreseen`: what was said of this attempt, as the answer that the
            student should have given when asked for it. `joined`: the attempt before and this one
            in one history, which goes on from the one to the other in the student's own words.
            `bridge`: this attempt up to one of its turns, and the teacher's turn in that one's
            place.
        told: of the attempts before, in the words that were read.
        version: of several that were written of one attempt, which, counted from 0.
    """

    number: int
    first: int
    kind: Record = "played"
    told: str = ""
    version: int = 0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trajectory:
    """One episode, token-exact: the ids the model saw and sampled, never text encoded again.

    A two-turn episode of a model whose template writes `<u>...<e>` for the user and `<a>...<e>` for
    the assistant (system message left out; T = 12):

        ids        <u> B1 <e> <a>  up <e> <u> B2 <e> <a> left <e>
        turn        -1  0   0   0   0   0   1  1   1   1    1   1
        trainable    .  .   .   .   x   x   .  .   .   .    x   x
        owner        0  0   0   0   1   1   0  0   0   0    1   1
        logprob      -  -   -   - -.7 -.0   -  -   -   - -1.2 -.0     (NaN where `-`)

    with `turns[0].start, .stop == 4, 6` and `turns[1].start, .stop == 10, 12`.

    Attributes:
        ids: (T,) int64 token ids.
        turn: (T,) int32, the turn a token belongs to; -1 before the first observation's text.
        trainable: (T,) bool, the tokens that are learnt from: those of the owners that the rollout
            names, the student's if it names none.
        owner: (T,) uint8 of `Owner`.
        logprob: (T,) float32, behaviour log-probability in nats at the sampling temperature, of
            whoever sampled the token; NaN where nothing was sampled.
        messages: system, user and assistant messages, in order, of every segment.
        segments: ranges of `ids` that are one sequence for the model, each up to the last token
            that was sampled in it. One, unless the chat template rewrites its history: then a new
            segment starts, with the whole rewritten conversation in front.
        task: the number of the task, by which a group is recognised; `seed` is what the environment
            was reset with.
        prompt: what the environment said on reset.
        error: why the episode could not be played, or not to its end; empty where it was.
        told: (T,) bool, the tokens that were sampled by who was told something that does not stand
            in `ids`, so that `logprob` is not that of the context in front of them, or by another
            model, from whose `logprob` no importance ratio begins; None where none was.
        attempt: None where a task is not attempted again.
    """

    ids: npt.NDArray[np.int64]
    turn: npt.NDArray[np.int32]
    trainable: npt.NDArray[np.bool_]
    owner: npt.NDArray[np.uint8]
    logprob: npt.NDArray[np.float32]
    messages: tuple[Message, ...]
    turns: tuple[Turn, ...]
    segments: tuple[tuple[int, int], ...]
    env: str
    episode: int
    task: int
    seed: int
    end: EndReason
    prompt: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""
    told: npt.NDArray[np.bool_] | None = None
    attempt: Attempt | None = None

    @property
    def acts(self) -> bool:
        """Whether it was played in the environment, and is no other record of what was."""
        return self.attempt is None or self.attempt.kind == "played"

    @property
    def success(self) -> bool:
        """Whether the task was solved."""
        return bool(self.turns and self.turns[-1].info.get("success", False))

    @property
    def reward(self) -> float:
        """The sum of the turns' rewards."""
        return sum(turn.reward for turn in self.turns)

    @property
    def student_tokens(self) -> int:
        """How many tokens the student produced, alone or with the teacher; none of them twice."""
        if self.attempt is not None and self.attempt.kind == "untold":
            return 0
        return int(np.isin(self.owner, (Owner.STUDENT, Owner.MIXTURE)).sum())

    @property
    def acted_tokens(self) -> int:
        """How many tokens the teacher produced, alone or with the student."""
        return int(np.isin(self.owner, (Owner.TEACHER, Owner.MIXTURE)).sum())

    @property
    def learnable(self) -> bool:
        """Whether it did not fail, and has tokens that are learnt from."""
        return self.end is not EndReason.ERROR and bool(self.trainable.any())


@dataclass(frozen=True, slots=True, kw_only=True)
class Privilege:
    """One piece of privileged text.

    Attributes:
        turn: the turn it is about; None when it is about the whole episode.
        quotes: whether who wrote it has read the student's answers: then words that it shares with
            them are quoted, and no secret that got out.
    """

    source: str
    text: str
    turn: int | None = None
    quotes: bool = False


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Briefed:
    """A trajectory and what the teacher may know of it.

    `available` is False where the source had nothing to say: then there is no lesson, which is not
    the same as a lesson without privileged text.
    """

    trajectory: Trajectory
    privileges: tuple[Privilege, ...]
    available: bool = True


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class View:
    """The teacher's context of one trajectory.

    Attributes:
        ids: the student's ids, verbatim and in order, with privileged ids inserted; all that was
            sampled, and of what was shown, what the view has not replaced. Or those of the answers'
            other record, see `TellingView.tells`.
        position: (T,) where student token `t` stands in `ids`, with the same id there; -1 where it
            was replaced.
        segments: the trajectory's segments, in positions of `ids`.
    """

    briefed: Briefed
    ids: npt.NDArray[np.int64]
    position: npt.NDArray[np.int64]
    segments: tuple[tuple[int, int], ...]

    @property
    def trajectory(self) -> Trajectory:
        """The student's trajectory."""
        return self.briefed.trajectory


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Listed:
    """What a teacher says of some tokens where it says no more than this, in nats at temperature 1.

    Attributes:
        logprob_N: of the trainable tokens.
        ids_NK: the teacher's likeliest tokens.
        logprob_NK: of these.
    """

    logprob_N: torch.Tensor
    ids_NK: torch.Tensor
    logprob_NK: torch.Tensor


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Lesson:
    """A trajectory ready to be learnt from, with the teacher's opinion where there is one.

    Attributes:
        hidden_NH: the teacher's last hidden states at the positions that predict the trainable
            tokens, in order; its next-token logits are `head(hidden)`, made a micro-batch at a
            time. None where the teacher says nothing in this form.
        listed: what the teacher says of a few tokens at each position, where it shows no hidden
            states.
        untold_N: log-probabilities in nats that the teacher gives these tokens when it is told
            nothing; None where nobody asked.
    """

    trajectory: Trajectory
    view: View | None = None
    hidden_NH: torch.Tensor | None = None
    listed: Listed | None = None
    untold_N: torch.Tensor | None = None

    @property
    def taught(self) -> bool:
        """Whether there is a teacher signal, in either form; an episode without one takes no part
        in the distillation term.
        """
        return self.hidden_NH is not None or self.listed is not None

    def emptied(self) -> Lesson:
        """The same without the teacher's signal, which is large."""
        return replace(self, hidden_NH=None, listed=None)
