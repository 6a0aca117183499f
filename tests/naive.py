"""Divergences in probability space, straight from their definitions, one token at a time.

The same few lines serve numpy arrays, for finite differences, and tensors, for autograd. They share
nothing with the package: no logarithm of a probability is kept, no sum is rearranged.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

# V vocabulary, K categories; probabilities, not their logarithms

Array = npt.NDArray[np.float64]
Vector = Any  # an array or a tensor
Config = Mapping[str, Any]


def naive_value(
    config: Config,
    student_V: Vector,
    teacher_V: Vector,
    reference_V: Vector | None = None,
    inside_V: Vector | None = None,
) -> Vector:
    """The divergence that `config` describes, of logits (V,).

    Args:
        inside_V: the student's logits inside the target, where they are held fast.
    """
    p_V, q_V = softmax(student_V), softmax(teacher_V)
    reduce = _reduction(config.get("support", "full"), p_V, q_V)
    p_K, q_K = reduce(p_V), reduce(q_V)
    target = config.get("target")
    if target is not None:
        inner_K = p_K if inside_V is None else reduce(softmax(inside_V))
        if target["kind"] == "veto":
            q_K = q_K * inner_K ** target["beta"]
        else:
            assert reference_V is not None
            scale = target["scale"]
            q_K = q_K**scale * reduce(softmax(reference_V)) ** (1 - scale)
        q_K = q_K / q_K.sum()
    entropy = -_kl(q_V, q_V * 0 + 1)
    return _defined(config, p_K, q_K, float(entropy))


def differences(config: Config, student: Sequence[float], *others: Any) -> Array:
    """Central finite differences of the value by the student's logits, its target held fast."""
    base, step = np.array(student, dtype=np.float64), 1e-6
    teacher, reference = (np.array(x, dtype=np.float64) for x in others)
    live = (config.get("target") or {}).get("student") == "live"

    def value(logits: Array) -> float:
        return float(naive_value(config, logits, teacher, reference, None if live else base))

    units = np.eye(len(base)) * step
    return np.array([(value(base + u) - value(base - u)) / (2 * step) for u in units])


def autograd(config: Config, student: Sequence[float], *others: Any) -> tuple[float, Array]:
    """The value, and its gradient by the student's logits."""
    logits = torch.tensor(student, dtype=torch.float64, requires_grad=True)
    teacher, reference = (torch.tensor(x, dtype=torch.float64) for x in others)
    live = (config.get("target") or {}).get("student") == "live"
    value = naive_value(config, logits, teacher, reference, None if live else logits.detach())
    (gradient,) = torch.autograd.grad(value, logits, allow_unused=True)
    # Nothing is left to differentiate where nothing is compared.
    return value.item(), (torch.zeros_like(logits) if gradient is None else gradient).numpy()


def softmax(logits_V: Vector) -> Vector:
    """Probabilities of logits."""
    shifted = logits_V - float(_plain(logits_V).max())
    weight = shifted.exp() if isinstance(shifted, torch.Tensor) else np.exp(shifted)
    return weight / weight.sum()


def _log(x: Vector) -> Vector:
    return x.log() if isinstance(x, torch.Tensor) else np.log(x)


def _kl(p_K: Vector, q_K: Vector) -> Vector:
    has = p_K > 0
    with np.errstate(divide="ignore"):
        return (p_K[has] * (_log(p_K[has]) - _log(q_K[has]))).sum()


def _defined(config: Config, p_K: Vector, q_K: Vector, entropy: float) -> Vector:
    kind = config["kind"]
    if kind == "reverse_kl":
        return _kl(p_K, q_K)
    if kind == "forward_kl":
        return _kl(q_K, p_K)
    if kind == "jsd":
        b = config["beta"]
        m_K = (1 - b) * p_K + b * q_K
        own = b * _kl(q_K, m_K) + (1 - b) * _kl(p_K, m_K)
        return own / (b * (1 - b)) if config.get("scaled", True) else own
    if kind == "skew":
        a = config["alpha"]
        first_K, second_K = (q_K, p_K) if config["direction"] == "forward" else (p_K, q_K)
        return _kl(first_K, a * first_K + (1 - a) * second_K)
    if kind == "alpha":
        a, both = config["alpha"], (p_K > 0) & (q_K > 0)
        shared = (p_K[both] ** a * q_K[both] ** (1 - a)).sum()
        return (-_log(shared) if config["form"] == "renyi" else 1 - shared) / (a * (1 - a))
    assert kind == "entropy_switched"
    high = float(entropy > config["threshold"])
    if config["reading"] == "blended":
        high = 1 / (1 + math.exp((config["threshold"] - entropy) / config["width"]))
    low = 1.0 if config["reading"] == "additive" else 1 - high
    parts = [w * f for w, f in ((low, _kl(p_K, q_K)), (high, _kl(q_K, p_K))) if w]
    return parts[0] if len(parts) == 1 else parts[0] + parts[1]


def _reduction(support: Any, p_V: Vector, q_V: Vector) -> Any:
    """The function that makes categories of probabilities."""
    if support == "full":
        return lambda x_V: x_V
    k, rest = support["k"], support["rest"]
    tops = [set(np.argsort(-_plain(x_V), kind="stable")[:k].tolist()) for x_V in (p_V, q_V)]
    sets = {
        "student_top_k": tops[0],
        "teacher_top_k": tops[1],
        "intersection_top_k": tops[0] & tops[1],
        "union_top_k": tops[0] | tops[1],
    }
    chosen = sorted(sets[support["kind"]])
    others = [v for v in range(len(p_V)) if v not in chosen]

    def reduce(x_V: Vector) -> Vector:
        own_K = x_V[chosen]
        if rest == "raw":
            return own_K
        if rest == "renormalise":
            return own_K / own_K.sum() if chosen else own_K
        if not others:
            return own_K
        tail_1 = x_V[others].sum().reshape(1)
        join = torch.cat if isinstance(x_V, torch.Tensor) else np.concatenate
        return join([own_K, tail_1])

    return reduce


def _plain(x_V: Vector) -> Array:
    return x_V.detach().numpy() if isinstance(x_V, torch.Tensor) else x_V
