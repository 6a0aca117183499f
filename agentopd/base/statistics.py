"""Success rates and their uncertainty: intervals of one rate, of differences, of rank correlations.

Aggregates are those of rliable (Agarwal et al., arXiv 2108.13264): the interquartile mean and the
probability of improvement, with percentile intervals of a stratified bootstrap. There a run is
trained on one task, and runs are redrawn task by task. Here a run is trained with one seed and
tried on many held-out tasks, so that its outcomes share the seed's luck: whole runs are redrawn
within their stratum, and tasks beside them. That errs to the wide side where chance between
episodes is large, and to the narrow side with two or three seeds.

S seeds, T tasks, B draws; float64 throughout.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Statistic = Callable[[Sequence[tuple[Array, Array]]], Array]
"""Of runs' scores, a pair `(..., S), (..., S')` a stratum, to one number `(...)`."""

_DRAWS = 4_000
_SEED = 20_211_026
_TAIL = 0.25
"""The share of the scores at either end that an interquartile mean leaves out."""
_ENDS = (2.5, 97.5)
"""The percentiles between which a 95 % interval lies."""


@dataclass(frozen=True)
class Estimate:
    """A number and its 95 % interval."""

    value: float
    interval: tuple[float, float]

    @property
    def apart(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.interval[0] > 0 or self.interval[1] < 0


@dataclass(frozen=True)
class Stratum:
    """Two arms of one study.

    Attributes:
        one, other: the outcomes `(S, T)` and `(S', T')` of each arm's runs: 1 where a task was
            solved, 0 elsewhere.
        same_tasks: column t is the same task in both: it is redrawn in both alike.
        same_seeds: row s has the same seed in both: likewise.

    Raises:
        ValueError: an arm has no outcome, or what is said to be the same differs in number.
    """

    one: Array
    other: Array
    same_tasks: bool = True
    same_seeds: bool = True

    def __post_init__(self) -> None:
        if not (self.one.ndim == self.other.ndim == 2 and self.one.size and self.other.size):
            raise ValueError(
                "an arm's outcomes must be a matrix, a row a seed and a column a task, with at "
                f"least one of each; these have the shapes {self.one.shape}, {self.other.shape}"
            )
        for axis, same in enumerate((self.same_seeds, self.same_tasks)):
            if same and self.one.shape[axis] != self.other.shape[axis]:
                raise ValueError(
                    f"{('seeds', 'tasks')[axis]} that are the same in two arms are as many in "
                    f"both; these have {self.one.shape[axis]} and {self.other.shape[axis]}: say "
                    f"same_{('seeds', 'tasks')[axis]}=False"
                )


def wilson(successes: int, trials: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's 95 % interval of a proportion; (0, 1) without trials."""
    if trials == 0:
        return 0.0, 1.0
    share = successes / trials
    scale = 1 + z * z / trials
    centre = (share + z * z / (2 * trials)) / scale
    margin = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials)) / scale
    return max(0.0, centre - margin), min(1.0, centre + margin)


def wilson_difference(one: Estimate, other: Estimate) -> Estimate:
    """The difference of two proportions that have Wilson's intervals, with the interval which
    Newcombe (1998, method 10) makes of those two.
    """
    gap = one.value - other.value
    below = math.hypot(one.value - one.interval[0], other.interval[1] - other.value)
    above = math.hypot(one.interval[1] - one.value, other.value - other.interval[0])
    return Estimate(gap, (gap - below, gap + above))


def interquartile_mean(scores: npt.ArrayLike) -> Array:
    """The mean along the last axis without the lowest and the highest quarter, each rounded down:
    of fewer than four scores it is their mean.
    """
    ordered = np.sort(np.asarray(scores, dtype=np.float64), axis=-1)
    cut = int(_TAIL * ordered.shape[-1])
    return ordered[..., cut : ordered.shape[-1] - cut].mean(-1)


def improvement(strata: Sequence[tuple[Array, Array]]) -> Array:
    """The probability that a run of one arm scores above a run of the other, ties counting half:
    the mean over strata of Mann and Whitney's U by the number of pairs. A `Statistic`.
    """
    found = [
        np.mean((np.sign(one[..., :, None] - other[..., None, :]) + 1) / 2, axis=(-1, -2))
        for one, other in strata
    ]
    return np.mean(found, axis=0)


def difference(strata: Sequence[tuple[Array, Array]]) -> Array:
    """By how much one arm's mean score is above the other's, as a mean over strata. A
    `Statistic`.
    """
    return np.mean([one.mean(-1) - other.mean(-1) for one, other in strata], axis=0)


def iqm_of_one(strata: Sequence[tuple[Array, Array]]) -> Array:
    """The interquartile mean over all runs of the first arm, of all strata. A `Statistic`."""
    return interquartile_mean(np.concatenate([one for one, _ in strata], axis=-1))


def bootstrapped(
    statistics: Sequence[Statistic],
    strata: Sequence[Stratum],
    draws: int = _DRAWS,
    seed: int = _SEED,
) -> list[Estimate]:
    """Statistics of the runs' scores, which are shares of solved tasks, each with its percentile
    interval over `draws` times redrawn runs and tasks.

    Raises:
        ValueError: there is no stratum.
    """
    if not strata:
        raise ValueError("nothing can be estimated from no stratum: give one study at least")
    generator = np.random.default_rng(seed)
    scores = [(s.one.mean(-1), s.other.mean(-1)) for s in strata]
    redrawn = [_redrawn(s, draws, generator) for s in strata]
    found = []
    for statistic in statistics:
        low, high = np.percentile(statistic(redrawn), _ENDS)
        found.append(Estimate(float(statistic(scores)), (float(low), float(high))))
    return found


def _redrawn(stratum: Stratum, draws: int, generator: np.random.Generator) -> tuple[Array, Array]:
    """The scores `(B, S), (B, S')` of redrawn runs on redrawn tasks."""
    (seeds, tasks), (others, elsewhere) = stratum.one.shape, stratum.other.shape
    runs_BS = generator.integers(seeds, size=(draws, seeds))
    counts_BT = _counts(tasks, draws, generator)
    other_BS = runs_BS if stratum.same_seeds else generator.integers(others, size=(draws, others))
    other_BT = counts_BT if stratum.same_tasks else _counts(elsewhere, draws, generator)
    return (
        np.take_along_axis(counts_BT @ stratum.one.T / tasks, runs_BS, -1),
        np.take_along_axis(other_BT @ stratum.other.T / elsewhere, other_BS, -1),
    )


def _counts(tasks: int, draws: int, generator: np.random.Generator) -> Array:
    """How often each task (B, T) is drawn."""
    drawn_BT = generator.integers(tasks, size=(draws, tasks)) + tasks * np.arange(draws)[:, None]
    counts = np.bincount(drawn_BT.ravel(), minlength=draws * tasks)
    return counts.reshape(draws, tasks).astype(np.float64)


def ranks(values: npt.ArrayLike) -> Array:
    """Ranks from 1; equal values share the mean of theirs."""
    _, place, count = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    return (last - (count - 1) / 2)[place]


def rank_correlation(one: npt.ArrayLike, other: npt.ArrayLike) -> float | None:
    """Spearman's: Pearson's of the ranks; None where one of the two is the same throughout."""
    first, second = (ranks(values) - np.mean(ranks(values)) for values in (one, other))
    scale = math.sqrt(float(first @ first) * float(second @ second))
    return float(first @ second) / scale if scale else None


def correlated(
    one: Sequence[float],
    other: Sequence[float],
    groups: Sequence[Hashable],
    draws: int = _DRAWS // 4,
    seed: int = _SEED,
) -> Estimate | None:
    """Spearman's rank correlation with its percentile interval over redrawn groups.

    Args:
        groups: the group of each pair of values: what shares a cause is drawn together.

    Returns:
        None where one of the two is the same throughout. Draws in which that is so count nothing.
    """
    value = rank_correlation(one, other)
    if value is None:
        return None
    members: dict[Hashable, list[int]] = {}
    for place, group in enumerate(groups):
        members.setdefault(group, []).append(place)
    places, first, second = [*members.values()], np.asarray(one), np.asarray(other)
    generator = np.random.default_rng(seed)
    found = []
    for drawn in generator.integers(len(places), size=(draws, len(places))):
        chosen = [place for group in drawn for place in places[group]]
        again = rank_correlation(first[chosen], second[chosen])
        found += [] if again is None else [again]
    low, high = np.percentile(found, _ENDS) if found else (-1.0, 1.0)
    return Estimate(value, (float(low), float(high)))
