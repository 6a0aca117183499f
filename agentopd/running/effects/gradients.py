"""How well each arm's gradient estimates the exact one, before any step, on the same episodes.

Exact is the gradient of the arm's divergence over the whole vocabulary; what looks at fewer tokens
estimates it. What the estimate is off by on average stays however many episodes there are (the bias
of Comedy-KL 2512.21852 and Revisit-OPD 2603.25562); its noise does not.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch

from agentopd.learning.learner import Learner
from agentopd.models.model import LanguageModel, load_model
from agentopd.privilege.base import gather
from agentopd.probes.collector import jsonable
from agentopd.rollout.failures import refuse_failures
from agentopd.rollout.transformers_sampler import TransformersSampler
from agentopd.running.cast import cast_of
from agentopd.running.config import RunConfig

# B batches, P trainable weights of the student

_UNCLIPPED = 1e30
_WEIGHTS = 2**20
"""Of a larger student as many weights, evenly spaced, stand for all."""


@dataclass(frozen=True)
class Estimate:
    """An arm's gradient beside the exact one; E is the expectation over batches of episodes.

    Attributes:
        bias: the norm of E[gradient - exact] over that of E[exact]; 0 where what is left after
            taking the noise away is less than nothing.
        bias_error: its standard error by the jackknife; where the bias is not told from 0, what it
            may be.
        noise: the root of the gradient's variance over its batches, over the norm of E[exact]: what
            one step's episodes are off by. The exact gradient has some too, as its episodes differ.
        cosine: between the gradient and the exact one of the same episodes, on average.
        batches, episodes: how many batches, of how many episodes each.

    Where no E[exact] is told from 0, what is divided by it is NaN.
    """

    bias: float
    bias_error: float
    noise: float
    cosine: float
    batches: int
    episodes: int

    def described(self) -> dict[str, Any]:
        """As JSON has it."""
        return jsonable(asdict(self))

    @classmethod
    def of(cls, found_BP: torch.Tensor, exact_BP: torch.Tensor, episodes: int) -> Estimate:
        """From the gradients of batches that were drawn independently, in the same order.

        Squared norms of means are means of products of different batches, which noise leaves as
        they are.
        """
        exact = _mean_norm(exact_BP)
        off_BP = found_BP - exact_BP
        bias, error = _mean_norm(off_BP), _jackknife(off_BP)
        spread = float(found_BP.double().square().sum(1).mean()) - _mean_norm(found_BP)
        cosine_B = torch.cosine_similarity(found_BP.double(), exact_BP.double())
        scale = math.sqrt(max(exact, 0.0)) or math.nan
        root = math.sqrt(max(bias, 0.0))
        return cls(
            bias=root / scale,
            bias_error=(error / (2 * root) if bias > error else math.sqrt(error)) / scale,
            noise=math.sqrt(max(spread, 0.0)) / scale,
            cosine=float(cosine_B.mean()),
            batches=len(found_BP),
            episodes=episodes,
        )


def measure_gradients(config: RunConfig, batches: int) -> Estimate | None:
    """Compare a run's first gradient with the exact one, on batches as large as its steps.

    Args:
        batches: each of other tasks, at least two; the tasks of the run's first steps.

    Returns:
        None where no teacher is asked.

    Raises:
        EveryEpisodeFailed: of one batch, no task could be played.
    """
    if not config.mix.distil_coefficient:
        return None
    rows = list(_gradients(config.fresh(), batches))
    found_BP, exact_BP = (torch.stack(side) for side in zip(*rows, strict=True))
    return Estimate.of(found_BP, exact_BP, config.rollout.episodes)


def looks_at_less(config: RunConfig) -> bool:
    """Whether a run's divergence looks at less than the whole vocabulary, or adds an estimate."""
    divergence = config.divergence
    partial = divergence.support.kind != "full" or divergence.plus is not None
    return bool(config.mix.distil_coefficient) and partial


def _gradients(config: RunConfig, batches: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The run's own gradient and the exact one, a batch at a time."""
    student = load_model(config.student)
    config.teacher.prepare(student)
    for source in config.privilege:
        source.prepare(student.template)
        source.meet(student, config.teacher)
    config.rollout.prepare(cast_of(config, student, config.teacher))
    exact = config.model_copy(update={"divergence": _whole(config)})
    looking = [_Looking(student, config.teacher, _unclipped(c)) for c in (config, exact)]
    sampler = TransformersSampler(student)
    for step in range(batches):
        played = _played(config, student, sampler, step)
        views = config.view.build(gather(config.privilege, played, begun=True), student.template)
        lessons = config.teacher.score(views)
        for learner in looking:
            learner.update(played, lessons, 0)
        yield looking[0].gradient_P, looking[1].gradient_P


def _played(
    config: RunConfig, student: LanguageModel, sampler: TransformersSampler, step: int
) -> Any:
    for source in config.privilege:
        source.begin()
    played = config.rollout.collect(config.env, student, sampler, config.seed, step)
    refuse_failures(played, f"of batch {step + 1}")
    return played


def _whole(config: RunConfig) -> Any:
    """The run's divergence over the whole vocabulary."""
    told = config.divergence.model_dump(mode="json")
    told |= {"support": {"kind": "full"}, "estimator": None, "plus": None}
    return type(config.divergence).model_validate(told)


def _unclipped(config: RunConfig) -> RunConfig:
    """With one pass over the episodes, whose gradient stays as long as it is."""
    learner = config.learner.model_copy(update={"clip": _UNCLIPPED, "epochs": 1})
    probe = config.probe.model_copy(update={"enabled": False})
    return config.model_copy(update={"learner": learner, "probe": probe})


class _Looking(Learner):
    """A learner that keeps its gradient and takes no step."""

    gradient_P: torch.Tensor

    def _apply(self, norm: float, step: int) -> str:
        held = self.optimizer.held
        every = math.ceil(sum(x.numel() for x in held) / _WEIGHTS)
        pieces = [torch.zeros_like(x) if x.grad is None else x.grad for x in held]
        self.gradient_P = torch.cat([x.detach().flatten()[::every].cpu() for x in pieces]).float()
        self.optimizer.zero_grad(set_to_none=True)
        return "its gradient is looked at and not followed"


def _mean_norm(rows_BP: torch.Tensor) -> float:
    """The squared norm of the rows' expectation, without bias: it may fall below 0."""
    total_P, count = rows_BP.double().sum(0), len(rows_BP)
    own = rows_BP.double().square().sum()
    return float((total_P.square().sum() - own) / (count * (count - 1)))


def _jackknife(rows_BP: torch.Tensor) -> float:
    """The standard error of `_mean_norm`, from leaving out a row at a time; 0 of two rows."""
    count = len(rows_BP)
    if count < 3:
        return 0.0
    products_BB = (rows_BP @ rows_BP.T).double()
    products_BB.fill_diagonal_(0.0)
    left_B = (products_BB.sum() - 2 * products_BB.sum(1)) / ((count - 1) * (count - 2))
    return math.sqrt(float((left_B - left_B.mean()).square().sum()) * (count - 1) / count)
