"""What a part says it adds to a method's equation is what it computes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from pydantic import Field

import agentopd.running.kinds  # noqa: F401  (every built-in part is known by its kind)
from agentopd.divergences.base import Divergence, Row
from agentopd.divergences.estimators import Estimator
from agentopd.signal.evidence import Evidence
from agentopd.signal.schedules import Schedule
from agentopd.weights.base import Weight

# N tokens, K categories; everything in float64

N, K = 6, 4


def evaluated(formula: str, known: Mapping[str, Any]) -> torch.Tensor:
    """The number that a formula in plain symbols stands for."""
    main, *definitions = re.split(r" with |; ", formula)
    names = dict(known)
    for definition in definitions:
        name, _, said = definition.partition(" = ")
        names[name] = _value(said, names)
    return _value(main, names)


def _value(formula: str, names: Mapping[str, Any]) -> Any:
    said = re.sub(r"1\[([^]]*)\]", r"one(\1)", formula)
    said = re.sub(r"\b(p|q|mu)\(y\)", r"\1_y", said)
    said = re.sub(r"\blog ([pq]|mu)_y", r"log(\1_y)", said)
    said = said.replace("||", ",").replace("^", "**")
    said = re.sub(r"(?<=[\w)]) (?=[\w(])", " * ", said)
    return eval(said, {"__builtins__": {}}, dict(names))


def _drawn() -> dict[str, Any]:
    """Two distributions at each of some tokens, the tokens drawn, and what a formula may say."""
    torch.manual_seed(0)
    p, q, mu = (torch.randn(N, K, dtype=torch.float64).softmax(-1) for _ in range(3))
    y = torch.randint(K, (N, 1))
    p_y, q_y, mu_y = (x.gather(1, y)[:, 0] for x in (p, q, mu))
    return {
        "p": p, "q": q, "p_y": p_y, "q_y": q_y, "mu_y": mu_y, "r": p_y / mu_y,
        "d": q_y.log() - p_y.log(),
        "log": torch.log, "exp": torch.exp, "sigmoid": torch.sigmoid,
        "min": lambda x, most: x.clamp(max=most),
        "max": lambda x, least: x.clamp(min=least),
        "top": lambda x, k: x.masked_fill(x < x.topk(k).values[:, -1:], 0.0),
        "clip": lambda x, low, high: x.clamp(low, high),
        "one": lambda condition: condition.double(),
        "sum": lambda x: x.sum(-1),
        "KL": lambda a, b: torch.xlogy(a, a / b).sum(-1),
        "H": lambda a: -(a * a.log()).sum(-1),
    }  # fmt: skip


class _Tokens:
    """As much of a micro-batch's tokens as estimators look at."""

    def __init__(self, behaviour_N: torch.Tensor) -> None:
        self.behaviour_N = behaviour_N


@pytest.mark.parametrize(
    "written",
    ["k1", {"kind": "k1", "stale": True}, "k2", {"kind": "k2", "corrected": False}, "rho_k3",
     "gated", {"kind": "gated", "beta": 1}, "importance", {"kind": "importance", "cap": 1.1},
     "truncated", "clipped", {"kind": "bounded", "floor": -0.5},
     {"kind": "bounded", "floor": -0.5, "ceiling": 0.2}],
    ids=str,
)  # fmt: skip
def test_an_estimators_formula_is_its_value(written: Any) -> None:
    estimator, known = Estimator.model_validate(written), _drawn()
    tokens: Any = _Tokens(known["mu_y"].log())
    found_N = estimator.per_token(known["p_y"].log(), known["q_y"].log(), tokens)
    torch.testing.assert_close(found_N, evaluated(estimator.formula, known))


@pytest.mark.parametrize("kind", ["k1", "truncated", "windowed", "gated", "importance"])
def test_an_estimators_ratio_is_what_its_gradient_is_multiplied_by(kind: str) -> None:
    estimator, known = Estimator.model_validate(kind), _drawn()
    live_N = known["p_y"].log().requires_grad_()
    ones_N = torch.ones(N, dtype=torch.float64)
    loss_N = estimator.surrogate(live_N, known["mu_y"].log(), ones_N)
    (gradient_N,) = torch.autograd.grad(loss_N.sum(), live_N)
    ratio_N = evaluated(estimator.ratio_formula, known) if estimator.ratio_formula else ones_N
    torch.testing.assert_close(-gradient_N, ratio_N)


@pytest.mark.parametrize(
    "written",
    ["reverse_kl", "forward_kl", "jsd", {"kind": "jsd", "beta": 0.3, "scaled": False},
     {"kind": "jsd", "beta": 0.3}, "skew", {"kind": "skew", "direction": "reverse"},
     "alpha", {"kind": "alpha", "form": "amari", "alpha": 0.3},
     *({"kind": "entropy_switched", "reading": x, "threshold": 1.2}
       for x in ("additive", "switch", "blended")),
     {"kind": "entropy_switched", "threshold": 1.2, "forward_top": 2}],
    ids=str,
)  # fmt: skip
def test_a_divergences_formula_is_its_value(written: Any) -> None:
    divergence, known = Divergence.model_validate(written), _drawn()
    entropy_N = known["H"](known["q"])
    found_N = divergence.value(known["p"].log(), known["q"].log(), Row(entropy_N))
    torch.testing.assert_close(found_N, evaluated(divergence.formula, known))


@pytest.mark.parametrize(
    "written",
    ["gap_gate", {"kind": "gap_gate", "variant": "entropy"},
     {"kind": "gap_gate", "variant": "soft_or", "beta": 2}, "evidence_ratio", "truncated_ratio",
     "entropy", {"kind": "entropy", "prefer": "low", "whose": "teacher"}, "cll",
     {"kind": "cll", "form": "exp", "whose": "teacher", "beta": 2},
     {"kind": "cll", "form": "threshold", "least": 0.1}],
    ids=str,
)  # fmt: skip
def test_a_weights_formula_is_its_value(written: Any) -> None:
    weight, known = Weight.model_validate(written), _drawn()
    advantage_N = torch.tensor([1.0, -1.0, 0.0, 2.0, -2.0, 1.0], dtype=torch.float64)
    opinions = {
        name: _Opinion(known[f"{name}_y"].log(), known["H"](known[name])) for name in ("p", "q")
    }
    evidence: Any = _Evidence(opinions, _Tokens(known["mu_y"].log()), advantage_N)
    names = known | {"A": advantage_N, "sign": torch.sign}
    torch.testing.assert_close(weight.raw(evidence), evaluated(weight.formula, names))


class _Opinion:
    def __init__(self, logprob_N: torch.Tensor, entropy_N: torch.Tensor) -> None:
        self.logprob_N, self.entropy_N = logprob_N, entropy_N


class _Evidence:
    def __init__(
        self, opinions: Mapping[str, _Opinion], tokens: _Tokens, advantage_N: torch.Tensor
    ) -> None:
        self.student, self.teacher = opinions["p"], opinions["q"]
        self.tokens, self.advantage_N = tokens, advantage_N
        self.gap_N = self.teacher.logprob_N - self.student.logprob_N


def test_a_part_of_ones_own_is_named_with_its_settings() -> None:
    class FirstTurns(Weight):
        """Early turns count more. Others less."""

        turns: int = Field(default=2, ge=1)

        def raw(self, evidence: Evidence) -> torch.Tensor:
            raise NotImplementedError

    assert FirstTurns(turns=3).formula == "FirstTurns(turns=3)"
    assert FirstTurns.remark() == "Early turns count more"
    assert FirstTurns().costs == ()


@pytest.mark.parametrize("kind", [x.kind for x in Schedule.members()])
def test_every_schedule_says_how_it_changes(kind: str) -> None:
    needed = {"linear": {"steps": 3}, "cosine": {"steps": 3},
              "step": {"boundaries": [2], "values": [1, 0.5]}}  # fmt: skip
    schedule = Schedule.model_validate({"kind": kind, **needed.get(kind, {})})
    assert not schedule.formula.startswith(kind)
    assert f"{schedule.factor(0):g}" in schedule.formula
