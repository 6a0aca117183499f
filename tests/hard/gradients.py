"""Every unit under every normalisation, mix, support and estimator that goes with it: the step's
gradient must depend neither on the micro-batches nor on the order of the episodes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from tempfile import mkdtemp
from typing import get_args

import torch
from hard.row import Row
from scenes import ENV, Scene, scene_of, taught

from agentopd.running.config import ConfigError
from agentopd.running.reading import parse_config
from agentopd.signal.aggregate import Normalise
from agentopd.zoo.build import blank_model
from agentopd.zoo.tokenizer import train_tokenizer

BOUND = 1e-4
CRITERIA = "criteria: [{name: tidy, fact: tidy, part: action}, {name: lost, fact: lost}]"
UNITS = (
    "token",
    "turn",
    "{kind: turn, reduce: sum}",
    "{kind: turn, reduce: last, part: action}",
    "{kind: turn, use: weight}",
    "{kind: decision_point, most: 1}",
    "{kind: decision_point, by: entropy, use: credit}",
    f"{{kind: rubric_span, {CRITERIA}}}",
    f"{{kind: rubric_span, use: credit, {CRITERIA}}}",
    f"{{kind: rubric_span, use: reward, {CRITERIA}}}",
    "trajectory",
)
MIXES: dict[str, tuple[str, ...]] = {
    "distil": ("mix={kind: distil, kl_coefficient: 0.1}",),
    "rl": ("mix=rl",),
    "auxiliary": ("mix={kind: auxiliary, coefficient: 0.5}",),
    "additive": ("mix={kind: additive, coefficient: 0.5}",),
    "multiplicative": ("mix=multiplicative", "weight=[{kind: gap_gate, renormalise: off}]"),
    "trust_ratio": ("mix=trust_ratio",),
    "reward": ("mix={kind: reward, reduce: sum}",),
    "routed": ("mix=routed",),
    "dead_group_fallback": ("mix=dead_group_fallback",),
}
SUPPORTS = (
    "full",
    "{kind: student_top_k, k: 5}",
    "{kind: teacher_top_k, k: 5, rest: renormalise}",
    "{kind: intersection_top_k, k: 9}",
    "{kind: union_top_k, k: 5, rest: raw}",
)
REVERSE = "kind: reverse_kl"
ESTIMATORS = (
    ("k1", REVERSE),
    ("k2", REVERSE),
    ("rho_k3", REVERSE),
    ("{kind: truncated, cap: 1.1}", REVERSE),
    ("{kind: clipped, epsilon: 0.1}", REVERSE),
    ("gated", REVERSE),
    ("reward_to_go", REVERSE),
    ("importance", "kind: forward_kl"),
)
"""An estimator, and what it estimates."""


def sweep(every: int = 1, workers: int = 2) -> list[Row]:
    """All that go together, or one in so many, in so many processes."""
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        found = list(pool.map(_worst, itertools.islice(_methods(), 0, None, every), chunksize=16))
    together = [error for error in found if error is not None]
    worst = max(together)
    tried = (
        f"{len(together):,} methods that go together, of {len(found):,} combinations: "
        "micro-batches of 64 tokens against one; episodes in reverse"
    )
    return [
        Row("gradients", tried, f"{worst:.1e}", f"relative difference < {BOUND:g}", worst < BOUND)
    ]


def _methods() -> Iterator[tuple[str, ...]]:
    compared = [
        f"divergence={{kind: {kind}, support: {support}}}"
        for kind in ("reverse_kl", "jsd")
        for support in SUPPORTS
    ]
    sampled = [f"divergence={{{kind}, support: sampled, estimator: {e}}}" for e, kind in ESTIMATORS]
    for unit, normalise, mix, divergence in itertools.product(
        UNITS, get_args(Normalise), MIXES.values(), [*compared, *sampled]
    ):
        yield f"unit={unit}", f"unit.normalise={normalise}", *mix, divergence, "rollout.group=4"


@cache
def _scene() -> Scene:
    torch.set_num_threads(1)
    tokenizer = train_tokenizer(["up down left right", "Sokoban: push $ onto .", "#_.$@_#"], 300)
    torch.manual_seed(0)
    folder = Path(mkdtemp()) / "model"
    blank_model(tokenizer, hidden=16, intermediate=32, layers=1, heads=2).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return scene_of(folder)


def _worst(method: tuple[str, ...]) -> float | None:
    """The largest relative difference; None where the parts do not go together."""
    try:
        parse_config(ENV, method)
    except ConfigError:
        return None
    scene, every = _scene(), slice(None)
    lessons = [x for n, x in enumerate(taught(scene.teacher, scene.trajectories)) if n % 4]
    gradients = []
    for tokens, order in ((8192, every), (64, every), (8192, slice(None, None, -1))):
        _, gradient, _ = scene.learn(
            *method,
            f"learner.tokens_per_batch={tokens}",
            lessons=lessons[order],
            trajectories=scene.trajectories[order],
        )
        if gradient is None:
            return None
        gradients.append(gradient)
    whole, *others = gradients
    return max(float((other - whole).norm() / whole.norm()) for other in others)
