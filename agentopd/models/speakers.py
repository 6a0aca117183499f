"""Speakers that are no single output layer: several models in turn, and a few tokens' numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

import torch

from agentopd.base.types import Listed
from agentopd.models.head import Speaker

# N tokens, R rows of a tile, V vocabulary, K listed tokens

_LEAST_REST = 1e-8
"""The mass that listed tokens leave to all others at least: less is rounding."""
_BELOW = 1e-4
"""Nats; none of the others is nearer to the listed than this."""


@dataclass(frozen=True)
class InTurn:
    """Speakers one after another: the first of the first one's tokens, and so on."""

    parts: Sequence[Speaker]

    @property
    def tokens(self) -> int:
        """See `Speaker.tokens`."""
        return sum(part.tokens for part in self.parts)

    @property
    def vocabulary(self) -> int:
        """See `Speaker.vocabulary`."""
        return self.parts[0].vocabulary

    @property
    def whole(self) -> bool:
        """See `Speaker.whole`."""
        return all(part.whole for part in self.parts)

    def detached(self) -> InTurn:
        """See `Speaker.detached`."""
        return InTurn([part.detached() for part in self.parts])

    def check(self, name: str) -> None:
        """See `Speaker.check`.

        Raises:
            ValueError: a part's do not fit, or the parts' vocabularies differ.
        """
        for part in self.parts:
            part.check(name)
        if len({part.vocabulary for part in self.parts}) > 1:
            sizes = [part.vocabulary for part in self.parts]
            raise ValueError(f"the {name}s' vocabularies have {sizes} tokens: they must be one")

    def logits(self, rows: int) -> Callable[[slice], torch.Tensor]:
        """See `Speaker.logits`."""
        makers = [part.logits(rows) for part in self.parts]
        bounds = list(pairwise([0, *accumulate(part.tokens for part in self.parts)]))

        def make(tile: slice) -> torch.Tensor:
            found = []
            for maker, (start, stop) in zip(makers, bounds, strict=True):
                first, last = max(tile.start, start), min(tile.stop, stop)
                if first < last:
                    found.append(maker(slice(first - start, last - start)))
            # Models may live on several devices.
            near = [x.to(found[0].device, found[0].dtype) for x in found]
            return near[0] if len(near) == 1 else torch.cat(near)

        return make


@dataclass(frozen=True)
class ListedTokens:
    """What is known of a few tokens at each position.

    All that the listed tokens and the sampled one leave is spread evenly over the others. The sum
    of these is then right, each of them is not, and none is above the least likely of the listed:
    whoever looks at the likeliest tokens and at the sum of the rest finds what the model said.

    Args:
        ids_N: the sampled tokens.
        size: V.
    """

    listed: Listed
    ids_N: torch.Tensor
    size: int

    @property
    def tokens(self) -> int:
        """See `Speaker.tokens`."""
        return len(self.ids_N)

    @property
    def vocabulary(self) -> int:
        """See `Speaker.vocabulary`."""
        return self.size

    @property
    def whole(self) -> bool:
        """See `Speaker.whole`."""
        return False

    def detached(self) -> ListedTokens:
        """See `Speaker.detached`."""
        said = self.listed
        numbers = {"logprob_N": said.logprob_N.detach(), "logprob_NK": said.logprob_NK.detach()}
        return replace(self, listed=replace(said, **numbers))

    def check(self, name: str) -> None:
        """See `Speaker.check`.

        Raises:
            ValueError: an id is none of the vocabulary's.
        """
        ids_NK = self.listed.ids_NK
        if ids_NK.numel() and int(ids_NK.max()) >= self.size:
            raise ValueError(
                f"the {name} lists a token of id {int(ids_NK.max())}, and the vocabulary has "
                f"{self.size}: it has another tokenizer"
            )

    def logits(self, rows: int) -> Callable[[slice], torch.Tensor]:
        """See `Speaker.logits`; they are log-probabilities."""
        return self._rows

    def _rows(self, tile: slice) -> torch.Tensor:
        said, ids_R1 = self.listed, self.ids_N[tile, None]
        ids_RK, likely_RK = said.ids_NK[tile], said.logprob_NK[tile].double()
        own_R1 = said.logprob_N[tile, None].double()
        apart_R1 = ~(ids_RK == ids_R1).any(-1, keepdim=True)
        mass_R1 = likely_RK.exp().sum(-1, keepdim=True) + own_R1.exp() * apart_R1
        others_R1 = self.size - ids_RK.shape[1] - apart_R1.long()
        share_R1 = (1 - mass_R1).clamp(min=_LEAST_REST).log() - others_R1.clamp(min=1).log()
        if ids_RK.shape[1]:
            # Below the listed, whatever rounding makes of a rest that is hardly there.
            share_R1 = torch.minimum(share_R1, likely_RK.amin(-1, keepdim=True) - _BELOW)
        found_RV = share_R1.expand(-1, self.size).clone()
        found_RV.scatter_(1, ids_R1, own_R1).scatter_(1, ids_RK, likely_RK)
        return found_RV.float()
