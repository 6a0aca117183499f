"""A teacher on a server that tells log-probabilities alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from pydantic import Field, PrivateAttr

from agentopd.base.types import Lesson, Listed, View
from agentopd.models.model import LanguageModel, ModelSettings
from agentopd.models.passes import Reading
from agentopd.models.speakers import ListedTokens
from agentopd.serving.completions import Asking, CompletionServer, Told
from agentopd.serving.http import HttpClient, Server
from agentopd.serving.models import served_model
from agentopd.serving.output_layer import load_without_weights
from agentopd.signal.beside import Beside
from agentopd.teacher import Teacher, check_same_vocabulary, predicting

# N trainable tokens, K listed tokens


class LogprobsTeacher(Teacher, kind="logprobs"):
    """A model behind OpenAI's completions interface, by its log-probabilities of the student's
    tokens, and of its own likeliest.

    It is given token ids. What is not told is not made up: divergences are those of the sampled
    token, or of the teacher's `top` likeliest tokens and the rest; a token of which the server says
    nothing is learnt from in no channel. Such servers score at temperature 1, whatever they are
    asked, so that the rollout's has to be 1 too.

    Args:
        server: its address, `http://localhost:8000`, or a mapping with its limits.
        source: a folder with the model's tokenizer and config.json; no weights are read.
        name: the model's name at the server; the only one it has, if empty.
        top: how many likeliest tokens are asked for; servers limit it, vLLM by `--max-logprobs`.
        asking: `prompt_logprobs`, as vLLM has it; `echo`, as OpenAI's first interface had it: there
            the likeliest tokens need a server that can write them as ids.
        tokens_per_batch: tokens of one request.
    """

    server: Server
    source: ModelSettings
    name: str = ""
    top: int = Field(default=0, ge=0)
    asking: Asking = "prompt_logprobs"

    _server: CompletionServer | None = PrivateAttr(default=None)
    _student: LanguageModel | None = PrivateAttr(default=None)

    @property
    def local(self) -> bool:
        """See `Teacher.local`."""
        return False

    def check(self, beside: Beside) -> None:
        """See `Teacher.check`.

        Raises:
            ValueError: the method looks at more than is told, or at another temperature.
        """
        if beside.temperature not in (0.0, 1.0):
            raise ValueError(
                f"teacher: {self.kind} is a server that scores at temperature 1 alone, and "
                f"rollout.temperature is {beside.temperature}: student and teacher would be "
                "compared at different temperatures. Set rollout.temperature: 1, or serve the "
                "teacher by its hidden states, teacher: served"
            )
        if beside.looks_further:
            raise ValueError(
                f"{', '.join(beside.looks_further)}: that needs all of the teacher's distribution, "
                f"and teacher: {self.kind} tells {self._tells()} alone. Leave it out, or serve the "
                "teacher by its hidden states, teacher: served"
            )
        if beside.teacher_top is None or beside.teacher_top > self.top:
            raise ValueError(
                f"divergence: {beside.divergence} looks at tokens that teacher: {self.kind} does "
                f"not tell: that is {self._tells()}. Use support: sampled, or support: "
                "{kind: teacher_top_k, k: K} with teacher.top of K at least, or serve the teacher "
                "by its hidden states, teacher: served"
            )

    def prepare(self, student: LanguageModel) -> None:
        """See `Teacher.prepare`.

        Raises:
            ServerError: the server does not answer, or not as it is asked.
        """
        check_same_vocabulary(student, load_without_weights(self.source))
        client = HttpClient(self.server)
        model = served_model(client, self.name)
        self._student = student
        self._server = CompletionServer(client, model, self.asking, self.top, self.tokens_per_batch)
        probe_T = np.array(sorted(student.stop_ids)[:1] * 3, dtype=np.int64)
        (told,) = self._server.told([Reading(probe_T, np.arange(2))])
        if not told.known_N.all():
            raise client.error(
                "",
                f"it does not tell its log-probability of each token, and its {self.top} likeliest "
                "by their ids",
                "see `asking`, and lower `top`",
            )

    @property
    def positions(self) -> float:
        """See `Teacher.positions`; one is left for the token that servers must generate."""
        return self._prepared.model.positions - 1

    def held(self) -> Iterator[torch.Tensor]:
        """See `Teacher.held`."""
        return iter(())

    def score(self, views: Sequence[View]) -> list[Lesson]:
        """See `Teacher.score`.

        Raises:
            ServerError: the server gives no answer, or one of another form.
        """
        heard = [view for view in views if self.fits(view)]
        readings = [
            [Reading(view.ids[a:b], predicting(view, a, b)) for a, b in view.segments]
            for view in heard
        ]
        told = iter(self._prepared.told([one for several in readings for one in several]))
        lessons = {
            id(view): _lesson(view, [next(told) for _ in several])
            for view, several in zip(heard, readings, strict=True)
        }
        return [lessons.get(id(x)) or Lesson(trajectory=x.trajectory, view=x) for x in views]

    def speaker(self, lessons: Sequence[Lesson]) -> ListedTokens:
        """See `Teacher.speaker`."""
        assert self._student is not None, "prepare() comes first"
        device, said = self._student.device, [x.listed for x in lessons if x.listed is not None]
        listed = Listed(
            logprob_N=torch.cat([x.logprob_N for x in said]).to(device),
            ids_NK=torch.cat([x.ids_NK for x in said]).to(device),
            logprob_NK=torch.cat([x.logprob_NK for x in said]).to(device),
        )
        sampled = [x.trajectory.ids[x.trajectory.trainable] for x in lessons]
        ids_N = torch.from_numpy(np.concatenate(sampled)).to(device)
        return ListedTokens(listed, ids_N, self._student.vocabulary)

    @property
    def _prepared(self) -> CompletionServer:
        assert self._server is not None, "prepare() comes first"
        return self._server

    def _tells(self) -> str:
        likeliest = f" and its {self.top} likeliest tokens" if self.top else ""
        return f"the sampled token's log-probability{likeliest}"


def _lesson(view: View, told: Sequence[Told]) -> Lesson:
    """The lesson that a view's segments make; tokens of which nothing is known take no part."""
    trajectory = view.trajectory
    known_N = np.concatenate([part.known_N for part in told])
    if not known_N.any():
        return Lesson(trajectory=trajectory, view=view)
    kept_N = torch.from_numpy(known_N)
    listed = Listed(
        logprob_N=torch.cat([part.logprob_N for part in told])[kept_N],
        ids_NK=torch.cat([part.ids_NK for part in told])[kept_N],
        logprob_NK=torch.cat([part.logprob_NK for part in told])[kept_N],
    )
    trainable = trajectory.trainable.copy()
    trainable[trainable] = known_N
    return Lesson(trajectory=replace(trajectory, trainable=trainable), view=view, listed=listed)
