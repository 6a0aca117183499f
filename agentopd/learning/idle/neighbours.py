"""A method among its neighbours: the same with one thing changed, and whether that moves anything.

What moves no gradient of the synthetic steps changes nothing. None is the answer where there is no
telling: the change is refused, or a part cannot be tried.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any, Literal, get_args

import torch
from pydantic import SerializeAsAny

from agentopd.base.parts import Part
from agentopd.base.types import Trajectory
from agentopd.base.variations import Path, alike, default_of, others, replaced
from agentopd.divergences.base import Divergence
from agentopd.divergences.estimators import Estimator, Importance
from agentopd.divergences.kl import ForwardKL
from agentopd.learning.experiment import Laboratory
from agentopd.learning.method import AXES as METHOD_AXES
from agentopd.learning.method import Method
from agentopd.mixes.base import Mix
from agentopd.signal.evidence import Evidence
from agentopd.signal.schedules import Constant
from agentopd.units.base import Unit
from agentopd.units.rubric.criteria import Criterion
from agentopd.units.rubric.unit import RubricSpanUnit
from agentopd.units.spans import Span, SpanIndex
from agentopd.units.stretches import TokenUnit, TrajectoryUnit, TurnUnit
from agentopd.weights.base import Weight
from agentopd.weights.place import DepthDecay
from agentopd.weights.token import EntropyWeight, GapGate

# N tokens of a micro-batch

Axis = Literal[
    "teacher",
    "unit",
    "divergence",
    "weight",
    "schedule.distil",
    "schedule.rl",
    "schedule.strength",
]
"""What of a method may enter its loss, by its place in a configuration; what the teacher is told
counts to the teacher."""
AXES: tuple[Axis, ...] = get_args(Axis)

_TRIED = (*METHOD_AXES, "learner")


class Neighbourhood:
    """A method and what is near to it.

    Args:
        laboratory: where it is tried; one of its own if not given.

    Attributes:
        method: without its control, which takes the place of parts that are tried as they are.
    """

    def __init__(self, method: Method, laboratory: Laboratory | None = None) -> None:
        fields = {name: getattr(method, name) for name in _TRIED}
        self.method = Method.model_validate(fields)
        self.laboratory = laboratory or Laboratory.of(self.method)
        self.trial = self.laboratory.trial(self.method)
        self._read: dict[Axis, bool] = {}

    def moves(self, neighbour: Method | None) -> bool | None:
        """Whether it is another method; None where there is no telling."""
        if neighbour is None:
            return None
        return self.trial.differs(self.laboratory.trial(neighbour))

    def at(self, path: Path, value: Any) -> Method | None:
        """The method with another value at a path that begins with an axis; None if refused."""
        return at(self.method, path, value)

    def reads(self, axis: Axis) -> bool:
        """Whether something on that axis enters the loss; also where there is no telling."""
        if axis not in self._read:
            self._read[axis] = self._reads(axis)
        return self._read[axis]

    def under(self, mix: Mix) -> Neighbourhood | None:
        """The same method under another mix; None if refused."""
        found = self.at(("mix",), mix)
        return None if found is None else self.of(found)

    def of(self, method: Method) -> Neighbourhood:
        """A neighbour's own neighbourhood, on the same steps."""
        return Neighbourhood(method, self.laboratory)

    @cached_property
    def hears_teacher(self) -> bool:
        """Whether another teacher would make another gradient; also where there is no telling."""
        other = self.laboratory.with_another_teacher(self.method)
        return self.trial.differs(other) is not False

    def others(self, axis: Axis) -> list[Method]:
        """The method with other values on an axis, as far as they make sense; none of teachers."""
        if axis == "teacher":
            return []
        if axis.startswith("schedule."):
            return [self._scheduled(axis.removeprefix("schedule."), x) for x in (0.3, 0.8)]
        return list(self._sensible(axis))

    def _sensible(self, axis: Axis) -> Iterator[Method]:
        """The method with each other value on an axis that makes sense, made when asked for."""
        found = (self.at((axis,), value) for value in _values(axis, self.method))
        yield from (x for x in found if x is not None)

    def _reads(self, axis: Axis) -> bool:
        if axis == "teacher":
            # Which episodes have a lesson is the teacher's affair too, where it has its own term.
            fewer = self.laboratory.with_fewer_lessons(self.method)
            heard = self.method.mix.distils and self.trial.differs(fewer) is not False
            return heard or self.hears_teacher
        if axis.startswith("schedule."):
            less, more = (self.laboratory.trial(x) for x in self.others(axis))
            return less.differs(more) is not False
        neighbours = self._sensible(axis)
        first = next(neighbours, None)
        if first is None:  # where nothing else makes sense, there is no telling
            return True
        return any(self.moves(x) is not False for x in chain((first,), neighbours))

    def _scheduled(self, channel: str, factor: float) -> Method:
        schedule = {**self.method.schedule, channel: Constant(value=factor)}
        found = at(self.method, ("schedule",), schedule)
        assert found is not None, "a constant factor makes sense everywhere"
        return found


def at(method: Method, path: Path, value: Any) -> Method | None:
    """A method with another value at a path that begins with an axis; None if that is refused."""
    try:
        return replaced(method, path, value)
    except ValueError:
        # The parts themselves say what makes no sense.
        return None


def of_kind(part: type[Part], /, **settings: Any) -> Any | None:
    """A part with these settings, of those that it has; None if that is refused."""
    try:
        return part.model_validate({k: v for k, v in settings.items() if k in part.model_fields})
    except ValueError:
        return None


def values_at(part: Any, field: str) -> list[Any]:
    """What a written field of some settings may be instead: its default first."""
    default, found = default_of(part, field), others(part, field)
    return [default, *(x for x in found if not alike(x, default))]


@dataclass(frozen=True)
class Finding:
    """Something that changes nothing.

    Attributes:
        about: where it stands in the configuration.
        sentence: what is said of it.
        same: methods that have the same gradient in every step.
        whoever_teaches: whether the method has it under another teacher too.
    """

    about: Path
    sentence: str
    same: Sequence[Method] = ()
    whoever_teaches: bool = False


def name_of(part: Part) -> str:
    """What a part is called."""
    return part.kind or type(part).__name__


def shown(value: Any) -> str:
    """A value as a configuration writes it; of a part, its kind."""
    if isinstance(value, Part):
        return name_of(value)
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)


class OwnValues(Unit):
    """The spans of another unit, in which each token keeps its own value in the place of means.

    It has no kind, because no file names it.
    """

    of: SerializeAsAny[Unit]

    @classmethod
    def beside(cls, unit: Unit) -> OwnValues:
        """The one of that unit's spans."""
        return cls(of=unit, normalise=unit.normalise, budget=unit.budget)

    def spans(self, trajectory: Trajectory) -> list[Span]:
        """See `Unit.spans`."""
        return self.of.spans(trajectory)

    def credit(self, values_N: torch.Tensor, index: SpanIndex, evidence: Evidence) -> torch.Tensor:
        """See `Unit.credit`."""
        return values_N * index.scatter(values_N.new_ones(len(index.weight_S)), len(values_N))

    def learn(self, trajectories: Sequence[Trajectory]) -> None:
        """See `Unit.learn`."""
        self.of.learn(trajectories)

    def balance(self, spans: Sequence[Sequence[Span]]) -> float:
        """See `Unit.balance`."""
        return self.of.balance(spans)

    def returns(self, divergence: Divergence) -> Literal["loss", "advantage"]:
        """See `Unit.returns`."""
        return self.of.returns(divergence)


_WEIGHTS: tuple[list[Weight], ...] = (
    [],
    [EntropyWeight(renormalise=False)],
    [GapGate(renormalise=False)],
    [DepthDecay(gamma=0.5, renormalise=False)],
)


def _values(axis: Axis, method: Method) -> Iterable[Any]:
    """Other values on an axis, which bring out whether it is read."""
    if axis == "unit":
        return _units(method.unit)
    return _divergences(method.divergence) if axis == "divergence" else _WEIGHTS


def _units(unit: Unit) -> list[Unit]:
    """Other units, which average tokens in the same way."""
    same: dict[str, Any] = {"normalise": unit.normalise, "budget": unit.budget}
    other = (Criterion(name="other", fact="other"),)
    return [
        TokenUnit(**same),
        TurnUnit(**same, use="weight"),
        TurnUnit(**same),
        TrajectoryUnit(**same),
        RubricSpanUnit(**same, criteria=other),
        RubricSpanUnit(**same, criteria=other, use="reward"),
    ]


def _divergences(divergence: Divergence) -> Iterator[Divergence]:
    """Others of the same sort: of distributions, or of the sampled token."""
    same = {"support": divergence.support, "target": divergence.target}
    if not divergence.sampled:
        tried = [of_kind(kind, **same) for kind in Divergence.members()]
    else:
        estimators = [of_kind(kind) for kind in Estimator.members()]
        tried = [of_kind(type(divergence), **same, estimator=x) for x in estimators if x]
        tried += [of_kind(ForwardKL, **same, estimator=Importance())]
    yield from (x for x in tried if x is not None)
