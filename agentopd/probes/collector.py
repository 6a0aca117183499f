"""Probes summed over the micro-batches of a step, by turn and by success."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from agentopd.base.types import Lesson, Trajectory
from agentopd.parallel.processes import Processes
from agentopd.probes.answers import answer_probes, episode_probes
from agentopd.probes.settings import ProbeSettings
from agentopd.probes.token import token_probes
from agentopd.signal.evidence import Measured
from agentopd.signal.tokens import Tokens

# N values, P probes, C cells: a turn and whether its episode was solved

_TOLD = frozenset({"invalid", "cut", "turns", "truncated"})
"""Probes whose means over a step `rollout_probes` gives."""


class Collector:
    """What was seen in a step; without probes, nothing is.

    A value is of a token, of an answer or of an episode. NaN is no value: it counts nowhere.
    """

    def __init__(self, settings: ProbeSettings | None = None) -> None:
        self.settings = settings or ProbeSettings()
        self._sums: dict[str, dict[tuple[int | None, bool], list[float]]] = defaultdict(dict)

    def add_tokens(
        self,
        measured: Measured,
        tokens: Tokens,
        lessons: Sequence[Lesson],
        gates: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        """Take in what the models say of a micro-batch; nothing where no teacher was asked.

        Args:
            gates: each weight's values (N,) before they were renormalised, by its name, and those
                of an estimator that is a gate.
        """
        if not self.settings.enabled or measured.teacher is None:
            return
        found = token_probes(measured, lessons, self.settings.top)
        found |= {f"gate_{name}": value_N for name, value_N in (gates or {}).items()}
        solved = [lesson.trajectory.success for lesson in lessons]
        solved_N = torch.tensor(solved, device=tokens.ids_N.device)[tokens.lesson_N]
        self.add(found, solved_N, tokens.turn_N)

    def add_answers(self, trajectories: Sequence[Trajectory], lessons: Sequence[Lesson]) -> None:
        """Take in what can be read off a step's answers and episodes."""
        if not self.settings.enabled:
            return
        views = {x.trajectory.episode: x.view for x in lessons}
        turns = [turn.index for t in trajectories for turn in t.turns]
        solved = [t.success for t in trajectories for _ in t.turns]
        answers = [
            answer_probes(t, views.get(t.episode), self.settings.phrase) for t in trajectories
        ]
        self.add(_joined(answers), torch.tensor(solved), torch.tensor(turns))
        episodes = _joined([episode_probes(t) for t in trajectories])
        self.add(episodes, torch.tensor([t.success for t in trajectories]))

    def add(
        self,
        values: Mapping[str, torch.Tensor],
        solved_N: torch.Tensor,
        turn_N: torch.Tensor | None = None,
    ) -> None:
        """Take in values (N,) by name; without `turn_N` they belong to no turn."""
        if not values or not len(solved_N):
            return
        cell_N = solved_N.long() if turn_N is None else 2 * turn_N + solved_N.long()
        value_PN = torch.stack([value_N.double() for value_N in values.values()])
        missing_PN = value_PN.isnan()
        empty_PC = value_PN.new_zeros(len(values), int(cell_N.max()) + 1)
        total_PC = empty_PC.index_add(1, cell_N, value_PN.masked_fill(missing_PN, 0.0))
        count_PC = empty_PC.index_add(1, cell_N, (~missing_PN).double())
        for name, totals, counts in zip(values, total_PC.tolist(), count_PC.tolist(), strict=True):
            for cell, (total, count) in enumerate(zip(totals, counts, strict=True)):
                if count:
                    key = (None if turn_N is None else cell // 2, bool(cell % 2))
                    pair = self._sums[name].setdefault(key, [0.0, 0.0])
                    pair[0] += total
                    pair[1] += count

    def together(self, processes: Processes) -> Collector:
        """What all processes have taken in."""
        whole = Collector(self.settings)
        for sums in processes.gather([self._sums]):
            for name, cells in sums.items():
                for key, pair in cells.items():
                    whole._sums[name][key] = _summed([whole._sums[name].get(key, [0.0, 0.0]), pair])
        return whole

    def result(self) -> dict[str, Any]:
        """Means by turn, as lists, and by success; None where there was nothing to average.

        `by_turn` also holds `count`: the values of a turn that the probe with most of them had,
        which are its tokens where a teacher was asked.
        """
        by_turn = self._by_turn()
        means = {name: [_mean(pair) for pair in row] for name, row in by_turn.items()}
        counts = zip(*([pair[1] for pair in row] for row in by_turn.values()), strict=True)
        by_success = {
            label: {
                name: _mean(_summed(pair for (_, at), pair in cells.items() if at == solved))
                for name, cells in self._sums.items()
            }
            for label, solved in (("solved", True), ("unsolved", False))
        }
        return {
            "by_turn": {"count": [int(max(at)) for at in counts]} | means if means else {},
            "by_success": by_success if self._sums else {},
        }

    def means(self) -> dict[str, float]:
        """Means over the step, of what `rollout_probes` does not tell already."""
        found = {name: _mean(_summed(cells.values())) for name, cells in self._sums.items()}
        return {n: mean for n, mean in found.items() if mean is not None and n not in _TOLD}

    def _by_turn(self) -> dict[str, list[list[float]]]:
        """Sums and counts by turn of the probes whose values belong to turns."""
        turns = {turn for cells in self._sums.values() for turn, _ in cells if turn is not None}
        return {
            name: [
                _summed(pair for (at, _), pair in cells.items() if at == turn)
                for turn in range(max(turns) + 1)
            ]
            for name, cells in self._sums.items()
            if any(turn is not None for turn, _ in cells)
        }


def jsonable(value: Any) -> Any:
    """The same with None for numbers that JSON has no form for."""
    if isinstance(value, Mapping):
        return {key: jsonable(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _joined(pieces: Sequence[Mapping[str, Sequence[float]]]) -> dict[str, torch.Tensor]:
    names = pieces[0] if pieces else ()
    return {n: torch.tensor([v for p in pieces for v in p[n]], dtype=torch.float64) for n in names}


def _summed(pairs: Iterable[list[float]]) -> list[float]:
    known = list(pairs)
    return [sum(pair[0] for pair in known), sum(pair[1] for pair in known)]


def _mean(pair: list[float]) -> float | None:
    return pair[0] / pair[1] if pair[1] and math.isfinite(pair[0]) else None
