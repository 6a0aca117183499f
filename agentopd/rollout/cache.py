"""Keys and values of many conversations: a row each, every token in the column of its position.

So nothing is masked but the future. A call writes each row's new tokens behind its old ones; where
a row has fewer than its neighbours, what is written behind them is nobody's: no token looks at a
column beyond its own, and the row's next tokens overwrite it. For the same reason a call that is
broken off leaves nothing to mend, and a context is shortened by feeding it anew from there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import Cache
from transformers.cache_utils import CacheLayerMixin

# R rows (conversations), Q columns fed at once, C columns of the cache, D head size

_ROOM = 64


@dataclass
class Place:
    """Where the next call reads and writes.

    Attributes:
        rows: which rows take part.
        row_R1: their numbers, counted from the first of them.
        column_RQ: the columns their new tokens are written to.
        together: the same where it is the same for all rows, which is faster written; else None.
        columns: how many columns from the left are read.
        capacity: rows and columns that there is memory for.
    """

    rows: slice
    row_R1: torch.Tensor
    column_RQ: torch.Tensor
    together: slice | None
    columns: int
    capacity: tuple[int, int]


class RowCache:
    """The memory of a sampler; the buffers are made at the first call.

    `rows` and `columns` are what there is memory for: at most about twice what was last asked for.
    """

    def __init__(self, layers: int, device: torch.device) -> None:
        self.rows = self.columns = 0
        nowhere = torch.zeros(0, 0, dtype=torch.long, device=device)
        self.place = Place(slice(0, 0), nowhere, nowhere, None, 0, (0, 0))
        self._layers = [_Layer(self.place) for _ in range(layers)]
        self.cache = Cache(layers=list[CacheLayerMixin](self._layers))  # type: ignore[arg-type]

    def fit(self, rows: int, columns: int) -> None:
        """Make room for so many rows and columns, and give back what is far too much."""
        fitted = _fitted(self.rows, rows, 0), _fitted(self.columns, columns, _ROOM)
        if fitted != (self.rows, self.columns):
            self.rows, self.columns = self.place.capacity = fitted
            for layer in self._layers:
                layer.resize(*fitted)

    def at(self, first: int, column_RQ: torch.Tensor, columns: int, aligned: bool) -> None:
        """The next call is for the rows from `first` on; see `Place`.

        Args:
            aligned: whether `column_RQ` is the same for all rows.
        """
        assert columns <= self.columns and first + len(column_RQ) <= self.rows
        self.place.together = slice(columns - column_RQ.shape[1], columns) if aligned else None
        self.place.rows = slice(first, first + len(column_RQ))
        self.place.row_R1 = torch.arange(len(column_RQ), device=column_RQ.device)[:, None]
        self.place.column_RQ, self.place.columns = column_RQ, columns

    def swap(self, some: Sequence[int], others: Sequence[int], columns: int) -> None:
        """Exchange rows pairwise; only the first `columns` of each hold anything."""
        self.copy([*some, *others], [*others, *some], columns)

    def copy(self, target: Sequence[int], source: Sequence[int], columns: int) -> None:
        """Rows `target` become what rows `source` were, in their first `columns`."""
        for layer in self._layers:
            layer.copy(list(target), list(source), columns)


def _fitted(held: int, needed: int, room: int) -> int:
    if needed <= held <= 2 * needed + room:
        return held
    return needed + needed // 4 + room


class _Layer(CacheLayerMixin):
    """One layer's keys and values (R, heads, C, D), read and written at `place`."""

    is_sliding = False

    def __init__(self, place: Place) -> None:
        super().__init__()
        self._place = place

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Make buffers of the right kind."""
        rows, columns = self._place.capacity
        self.keys, self.values = (
            states.new_zeros(rows, states.shape[1], columns, states.shape[-1])
            for states in (key_states, value_states)
        )
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the new columns of the rows that take part; returns views of all they may see."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None and self.values is not None
        place = self._place
        keys, values = self.keys[place.rows], self.values[place.rows]
        if place.together is not None:
            keys[:, :, place.together] = key_states
            values[:, :, place.together] = value_states
        else:
            keys[place.row_R1, :, place.column_RQ] = key_states.transpose(1, 2)
            values[place.row_R1, :, place.column_RQ] = value_states.transpose(1, 2)
        return keys[:, :, : place.columns], values[:, :, : place.columns]

    def resize(self, rows: int, columns: int) -> None:
        """Another capacity; what lies within both is kept."""
        if self.is_initialized:
            assert self.keys is not None and self.values is not None
            self.keys, self.values = (
                _resized(buffer, rows, columns) for buffer in (self.keys, self.values)
            )

    def copy(self, target: list[int], source: list[int], columns: int) -> None:
        """See `RowCache.copy`."""
        if self.is_initialized:
            assert self.keys is not None and self.values is not None
            for buffer in (self.keys, self.values):
                buffer[target, :, :columns] = buffer[source, :, :columns]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Columns a query sees, and the first of them."""
        return self._place.columns, 0

    def get_seq_length(self) -> int:
        """Columns in front of the call's own, for the longest row."""
        return self._place.columns - self._place.column_RQ.shape[1]

    def get_max_length(self) -> int:
        """There is no maximum."""
        return -1


def _resized(buffer: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    fresh = buffer.new_zeros(rows, buffer.shape[1], columns, buffer.shape[3])
    rows, columns = min(rows, buffer.shape[0]), min(columns, buffer.shape[2])
    fresh[:rows, :, :columns] = buffer[:rows, :, :columns]
    return fresh
