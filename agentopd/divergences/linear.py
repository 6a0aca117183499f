"""Two models compared over the whole vocabulary, at flat memory.

Hidden states go in, numbers a token come out. Logits exist for one tile of tokens at a time, always
in the same memory; what is made of them is made of a few rows at once, which stay in the
processor's cache. The gradient is in closed form: the forward pass makes it already where it is
told how much each token counts, and otherwise the backward pass makes the logits once more, but for
those of the last tile, which are still there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from agentopd.divergences.question import Question
from agentopd.divergences.tiles import Strip, Tile, Tiles
from agentopd.models.head import Gradient, Head, Speaker
from agentopd.signal.evidence import Gathered, Measured, Opinion

# N tokens, R rows of a tile, H hidden size, V vocabulary


def measure(
    question: Question,
    student: Head,
    teacher: Speaker | None = None,
    reference: Speaker | None = None,
    coefficient_N: torch.Tensor | None = None,
) -> Measured:
    """What the models say of each token.

    Differentiable in the student's hidden states, output weights and bias, through the student's
    log-probability and entropy and the divergence.

    Args:
        coefficient_N: by how much each token's divergence counts in the loss, where nothing else
            of what is measured does. The gradient is then made in the same pass over the
            vocabulary. It is a promise that the backward pass checks: where the loss is another,
            its gradient takes a second pass, as it does without coefficients.

    Raises:
        ValueError: shapes, dtypes or token ids that do not fit together.
    """
    _check(question, student, teacher, reference, coefficient_N)
    live = (student.hidden_NH, student.weight_VH, student.bias_V)
    needed = [torch.is_grad_enabled() and x is not None and x.requires_grad for x in live]
    backward = _Backward(question, student, teacher, reference, needed)
    with torch.no_grad():
        measured = backward.measure(coefficient_N if any(needed) else None)
    if not any(needed):
        return measured
    said = measured.student
    logprob_N, entropy_N, divergence_N = _Differentiable.apply(
        backward, *live, said.logprob_N, said.entropy_N, measured.divergence_N
    )
    return replace(
        measured,
        student=replace(said, logprob_N=logprob_N, entropy_N=entropy_N),
        divergence_N=divergence_N,
    )


@torch.no_grad()
def opinion_of(speaker: Speaker, ids_N: torch.Tensor, temperature: float = 1.0) -> Opinion:
    """What one model alone says of each token.

    Raises:
        ValueError: a temperature that makes no distribution.
    """
    asked = Question(ids_N, None, temperature)
    tiles = Tiles(ids_N, speaker.detached(), None, None, temperature, asked.tile)
    measured = Gathered(tiles.tokens)
    for tile in tiles.first(len(tiles)):
        for strip in tile.strips(asked):
            measured.add(strip.rows, strip.measured)
    return measured.result().student


class _Backward:
    """What the backward pass needs to remember of the forward pass.

    Attributes:
        known: the coefficients that were promised, and the gradient they lead to.
        last: the last tile of the forward pass, which need not be made again.
        tiles, alone: of all models, and of the student without the others.
    """

    def __init__(
        self,
        question: Question,
        student: Head,
        teacher: Speaker | None,
        reference: Speaker | None,
        needed: Sequence[bool],
    ) -> None:
        own = student.detached()
        others = [None if x is None else x.detached() for x in (teacher, reference)]
        self.question, self.student, self.needed = question, own, needed
        self.tiles = self._tiles(own, *others)
        self.alone = self._tiles(own)
        self.known: tuple[torch.Tensor, Gradient] | None = None
        self.last: tuple[Tile, list[Strip]] | None = None

    def measure(self, coefficient_N: torch.Tensor | None) -> Measured:
        """The forward pass."""
        compared = self.question.divergence is not None and self.tiles.teacher is not None
        if coefficient_N is not None and compared:
            return self._measure_at_once(coefficient_N)
        tiles, measured = self.tiles, Gathered(self.tiles.tokens)
        for number, tile in enumerate(tiles.first(len(tiles)), 1):
            strips: list[Strip] = []
            for strip in tile.strips(self.question):
                measured.add(strip.rows, strip.measured)
                if number == len(tiles) and any(self.needed):
                    strips.append(strip.kept(measured.at(strip.rows)))
            if strips:
                self.last = tile, strips
        return measured.result()

    def _measure_at_once(self, coefficient_N: torch.Tensor) -> Measured:
        tiles, measured = self.tiles, Gathered(self.tiles.tokens)
        gradient = Gradient(self.student, self.needed)
        for tile in tiles.first(len(tiles)):
            for strip in tile.strips(self.question):
                measured.add(strip.rows, strip.measured)
                strip.differentiate(tile.student_RV, None, None, coefficient_N)
            gradient.add(tile.rows, tile.student_RV)
        self.known = coefficient_N.detach().clone(), gradient
        return measured.result()

    def gradient(
        self,
        logprob_N: torch.Tensor | None,
        entropy_N: torch.Tensor | None,
        divergence_N: torch.Tensor | None,
    ) -> list[torch.Tensor | None]:
        """By hidden states, weights and bias, from the gradients by what was measured."""
        if logprob_N is None and entropy_N is None and divergence_N is not None:
            promised = self._promised(divergence_N)
            if promised is not None:
                return promised
        losses = logprob_N, entropy_N, divergence_N
        gradient = Gradient(self.student, self.needed)
        asked, tiles = replace(self.question, ranks=False, keep=0), self.tiles
        if divergence_N is None:
            # What the student says by itself: the others' logits would be made for nothing.
            asked, tiles = replace(asked, divergence=None), self.alone
        for tile in tiles.first(len(tiles) - self._add_last(gradient, losses)):
            for strip in tile.strips(asked):
                strip.differentiate(tile.student_RV, *losses)
            gradient.add(tile.rows, tile.student_RV)
        return gradient.result()

    def _add_last(self, gradient: Gradient, losses: Sequence[torch.Tensor | None]) -> int:
        """Take in the tile that is still there, and let go of it; how many that are."""
        if self.last is None:
            return 0
        (tile, strips), self.last = self.last, None
        for strip in strips:
            strip.differentiate(tile.student_RV, *losses)
        gradient.add(tile.rows, tile.student_RV)
        return 1

    def _tiles(
        self, student: Head, teacher: Speaker | None = None, reference: Speaker | None = None
    ) -> Tiles:
        asked = self.question
        return Tiles(asked.ids_N, student, teacher, reference, asked.temperature, asked.tile)

    def _promised(self, divergence_N: torch.Tensor) -> list[torch.Tensor | None] | None:
        """The forward pass's gradient, which is given away; None if the loss is not the promised
        one times a number.
        """
        if self.known is None:
            return None
        (coefficient_N, gradient), self.known = self.known, None
        if torch.equal(coefficient_N, divergence_N):
            return gradient.result()
        most = coefficient_N.abs().argmax()
        scale = divergence_N[most] / coefficient_N[most]
        if not torch.allclose(coefficient_N * scale, divergence_N, rtol=1e-5, atol=0.0):
            return None
        return [x if x is None else x.mul_(scale) for x in gradient.result()]


class _Differentiable(torch.autograd.Function):
    """Hangs the backward pass on what was measured."""

    @staticmethod
    def forward(
        ctx: Any,
        backward: _Backward,
        hidden_NH: torch.Tensor,
        weight_VH: torch.Tensor,
        bias_V: torch.Tensor | None,
        logprob_N: torch.Tensor,
        entropy_N: torch.Tensor,
        divergence_N: torch.Tensor | None,
    ) -> tuple[torch.Tensor | None, ...]:
        ctx.set_materialize_grads(False)
        # Saved for torch's own check that nothing was changed in between.
        ctx.save_for_backward(hidden_NH, weight_VH, bias_V)
        ctx.backward_pass = backward
        measured = (logprob_N, entropy_N, divergence_N)
        return tuple(x if x is None else x.clone() for x in measured)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride] - the decorator's type
        ctx: Any, *losses_N: torch.Tensor | None
    ) -> tuple[torch.Tensor | None, ...]:
        assert ctx.saved_tensors
        return None, *ctx.backward_pass.gradient(*losses_N), None, None, None


def _check(
    question: Question,
    student: Head,
    teacher: Speaker | None,
    reference: Speaker | None,
    coefficient_N: torch.Tensor | None,
) -> None:
    tokens, vocabulary = len(student.hidden_NH), len(student.weight_VH)
    speakers: tuple[tuple[str, Speaker | None], ...] = (
        ("student", student),
        ("teacher", teacher),
        ("reference", reference),
    )
    for name, speaker in speakers:
        if speaker is None:
            continue
        speaker.check(name)
        if speaker.vocabulary != vocabulary:
            raise ValueError(
                f"the {name}'s vocabulary has {speaker.vocabulary} tokens and the student's "
                f"{vocabulary}, so their distributions cannot be compared: use a model of the "
                "student's family"
            )
        if speaker.tokens != tokens:
            raise ValueError(
                f"there are hidden states of {speaker.tokens} tokens of the {name} and of "
                f"{tokens} of the student: give both models' at the same tokens"
            )
    per_token = {"ids_N": question.ids_N, "coefficient_N": coefficient_N}
    for name, value_N in per_token.items():
        if value_N is not None and value_N.shape != (tokens,):
            raise ValueError(
                f"{name} is of shape {tuple(value_N.shape)}, but there are hidden states of "
                f"{tokens} tokens: give one number a token"
            )
    if tokens and not 0 <= question.ids_N.min() <= question.ids_N.max() < vocabulary:
        least, most = int(question.ids_N.min()), int(question.ids_N.max())
        raise ValueError(
            f"the token ids go from {least} to {most}, but the output layer scores those from 0 to "
            f"{vocabulary - 1}: the ids are another tokenizer's, or padding is among them"
        )
