"""The equation of a method in plain symbols, put together from what each part adds to it.

    grad J = mean m T
      T    = -w grad Div
      ...

Symbols that no part explains: y is a token in its history h, k its turn, p the student's
probabilities, H an entropy, d = log q(y) - log p(y), grad the gradient by the student's weights.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from agentopd.base.types import Owner
from agentopd.privilege.base import NoPrivilege
from agentopd.running.config import RunConfig
from agentopd.signal.aggregate import IN_WORDS
from agentopd.units.stretches import TokenUnit
from agentopd.weights.base import Weight

_SYMBOL = re.compile(r"h~|p_0|[A-Za-z]+")
_OUTER = re.compile(r" [+-] |, | in | at | with ")
_FUNCTIONS = {"PG": "PG(x)", "u": "u[x]"}


def equation(config: RunConfig) -> dict[str, str]:
    """Each symbol that the gradient is made of, with its formula, the gradient first.

    A symbol stands behind the one that needs it; those that every method has are left out.
    """
    known, found = _known(config), dict[str, str]()
    waiting = ["grad J"]
    while waiting:
        symbol = waiting.pop(0)
        found[symbol] = known[symbol]
        needed = [x for x in dict.fromkeys(_SYMBOL.findall(known[symbol])) if x in known]
        waiting = [*waiting, *(x for x in needed if x not in (*found, *waiting))]
    return {_FUNCTIONS.get(symbol, symbol): formula for symbol, formula in found.items()}


def schedules(config: RunConfig) -> dict[str, str]:
    """What changes over the run: what each schedule multiplies, and by how much."""
    return {name: schedule.formula for name, schedule in config.schedule.items()}


def _known(config: RunConfig) -> Mapping[str, str]:
    """All that can be said; what of it is needed hangs on the mix."""
    mix, rl = config.mix, config.mix.rl_channel
    found = {"grad J": _gradient(config), "mean": IN_WORDS[config.unit.normalise]}
    found["m"] = _mask(config)
    found |= _teaching(config)
    if rl is not None:
        found["R"] = f"PG(A){rl.regularisers}"
        found["PG"] = rl.surrogate_formula
        found["A"] = rl.formula
        reward = "the environment's, summed over the episode"
        if mix.scored_by:
            reward = config.unit.score_formula if mix.scored_by == "unit" else "the score"
        found["reward"] = reward
    found["r"] = f"p(y) / mu(y){_later(config)}"
    found["mu"] = f"{config.rollout.formula}{_cooled(config)}"
    found["p_0"] = "the student before its first step"
    if config.inferred_reward is not None:
        found |= config.inferred_reward.symbols
    return found


def _gradient(config: RunConfig) -> str:
    """The top line; what a likelihood learns from says its mix."""
    formula = config.mix.formula
    formula = re.sub(r"\bC\b", _credit(config), formula)
    formula = re.sub(r"\bW\b", _spanned(config, "w"), formula)
    formula = formula if config.weight else re.sub(r"\bw ", "", formula)
    summed = f"({formula})" if _is_sum(formula) else formula
    whole = f"mean {summed}" if config.mix.imitation == "all" else f"mean m {summed}"
    beside = [term.formula for term in (config.gold, config.inferred_reward) if term is not None]
    return " + ".join([whole, *beside])


def _is_sum(formula: str) -> bool:
    """Whether a formula has more than one term, or is said of some tokens alone."""
    inner = formula
    while (flat := re.sub(r"\([^()]*\)", "", inner)) != inner:
        inner = flat
    return bool(_OUTER.search(inner))


def _value(config: RunConfig) -> str:
    """What is measured of a token: a divergence, or an estimator's advantage."""
    return "D" if config.divergence.returns == "advantage" else "Div"


def _credit(config: RunConfig) -> str:
    """What a token is credited with: its value, weighed, as the unit gives it."""
    return _spanned(config, f"w {_value(config)}" if config.weight else _value(config))


def _spanned(config: RunConfig, value: str) -> str:
    """What the unit makes of a value."""
    return value if isinstance(config.unit, TokenUnit) else f"u[{value}]"


def _teaching(config: RunConfig) -> dict[str, str]:
    """What comes from the teacher: its term T, the divergence, the weights."""
    unit, divergence = config.unit, config.divergence
    estimator, value, credit = divergence.estimated_by, _value(config), _credit(config)
    found = {"w": "1", **dict(_weights(config.weight))}
    found["u"] = f"{unit.formula} (unit: {unit.kind or type(unit).__name__})"
    if unit.returns(divergence) == "loss":
        plain = credit == f"w {value}"  # weights are detached
        found["T"] = f"-w grad {value}" if plain else f"-grad {credit}"
    else:
        ratio = estimator.ratio_formula if estimator else "r"
        found["T"] = " ".join(x for x in (ratio, credit, "grad log p(y)") if x)
    measured = estimator.formula if estimator else divergence.formula
    if divergence.target is not None:
        measured = re.sub(r"\bq\b", "Q", measured)
        found["Q"] = divergence.target.formula
    found[value] = measured if estimator else f"{measured}, over {divergence.support.formula}"
    if (plus := divergence.plus) is not None:
        further = _spanned(config, "w D" if config.weight else "D")
        found["T"] = f"{found['T']} + {plus.ratio_formula} {further} grad log p(y)"
        found["D"] = re.sub(r"\bq\b", "Q", plus.formula) if divergence.target else plus.formula
    found["d"] = "log q(y) - log p(y)"
    return {**found, "q": _teacher(config), "h~": _told(config)}


def _weights(weights: list[Weight]) -> Iterator[tuple[str, str]]:
    """w, and of several each by itself."""
    if not weights:
        return
    names = ["w"] if len(weights) == 1 else [f"w{n}" for n in range(1, len(weights) + 1)]
    if len(weights) > 1:
        yield "w", " ".join(names)
    for name, weight in zip(names, weights, strict=True):
        scale = f", then of mean 1 over each {weight.renormalise}" if weight.renormalise else ""
        yield name, f"{weight.formula}{scale} ({weight.kind or type(weight).__name__})"


def _mask(config: RunConfig) -> str:
    """Whose tokens are learnt from."""
    learnt = config.rollout.learns
    names = [f"the {o.name.lower()}" for o in (Owner.STUDENT, Owner.TEACHER) if o in learnt]
    return f"1 at the tokens that {' and '.join(names)} wrote, else 0"


def _teacher(config: RunConfig) -> str:
    """The teacher's probabilities."""
    told = any(not isinstance(source, NoPrivilege) for source in config.privilege)
    told = told and config.view.tells_teacher
    return f"{config.teacher.formula}, given {'h~' if told else 'h'}"


def _told(config: RunConfig) -> str:
    """The history with what is told in it."""
    told = " + ".join(source.kind or type(source).__name__ for source in config.privilege)
    return f"h with {told} in it (view: {config.view.kind or type(config.view).__name__})"


def _later(config: RunConfig) -> str:
    """When the importance ratio is other than 1."""
    if config.rollout.foreign and not config.rollout.recomputes:
        return ""
    epochs = config.learner.epochs
    return ", 1 in a step's only pass" if epochs == 1 else f", 1 in the first of {epochs} passes"


def _cooled(config: RunConfig) -> str:
    """How tokens are drawn, where not from the whole distribution as it is."""
    rollout = config.rollout
    said = [f"temperature {rollout.temperature:g}"] if rollout.temperature != 1 else []
    said += [f"top-p {rollout.top_p:g}"] if rollout.top_p != 1 else []
    said += [f"top-k {rollout.top_k}"] if rollout.top_k else []
    return f", at {', '.join(said)}" if said else ""
