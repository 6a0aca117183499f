"""Whether an embedded model reads what it is told, or is merely stirred by being told something.

On held-out levels a text disagrees with the best plan; counted is how often the first move does as
the text says.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from agentopd.environment.contract import HELD_OUT_SEED, parse_action, system_prompt, written
from agentopd.environment.registry import make
from agentopd.envs.sokoban.env import GUIDE, Sokoban
from agentopd.envs.sokoban.levels import MOVES
from agentopd.envs.sokoban.search import step
from agentopd.models.model import LanguageModel
from agentopd.privilege import writer
from agentopd.rollout.sampler import Request, answers
from agentopd.rollout.transformers_sampler import TransformersSampler
from agentopd.zoo.recipes import PLAYERS, Recipe


@dataclass(frozen=True)
class Told:
    """Text after the rules, text after the board, and the move that they speak of."""

    system: str
    user: str
    move: str


def obedience(model: LanguageModel, options: dict[str, Any], levels: int) -> dict[str, Any]:
    """How often the first move, sampled at temperature 1, is the one that a text speaks of.

    solution: which begins with another move than the best plans. hint: feedback that wrongly calls
    a move progress. warning, reflection: feedback and a look back that call the best move a
    mistake; here less is more.

    Returns:
        For each of these the share of `told`, and of the same moves when `untold`, which is to say
        told nothing but the skill.
    """
    envs = [Sokoban(split="test", **options) for _ in range(levels)]
    boards = [env.reset(seed=HELD_OUT_SEED + n)[0] for n, env in enumerate(envs)]
    rng = random.Random("obedience")
    skill = writer.skill(GUIDE, 0, 0, Counter())
    found: dict[str, Any] = {}
    for name, tell in _TELL.items():
        cases = [(e, b, tell(e, rng)) for e, b in zip(envs, boards, strict=True)]
        told = [(e, b, t) for e, b, t in cases if t is not None]
        moves = [t.move for _, _, t in told]
        asked = [(f"{e.system_prompt}{t.system}", f"{b}{t.user}") for e, b, t in told]
        plain = [(f"{e.system_prompt}\n\n{skill}", b) for e, b, _ in told]
        found[name] = {
            "told": _share(_first_moves(model, asked), moves),
            "untold": _share(_first_moves(model, plain), moves),
        }
    return found


def following(model: LanguageModel, recipe: Recipe, tasks: int) -> dict[str, Any]:
    """How often the first action, sampled at temperature 1, is that of a solution that begins with
    another one than the oracle's; in any environment whose demonstrations have a player.

    Returns:
        As `solution`, the share of `told`, and of the same actions when `untold`: see `obedience`.
    """
    rng, player = random.Random("following"), PLAYERS[recipe.player]()
    told, untold, tried = [], [], []
    for number in range(tasks):
        env = make(recipe.env, recipe.options | recipe.levels | {"split": "test"})
        observation, info = env.reset(seed=HELD_OUT_SEED + number)
        rules, best = system_prompt(env), player.best(env.unwrapped, info)
        action = player.other(env.unwrapped, info, rng)
        if action == best:
            continue
        plan = written(env, (action, info["reference"]))
        told.append((f"{rules}\n\n{writer.solution(plan)}", observation))
        skill = writer.skill(info["guide"], 0, 0, Counter())
        untold.append((f"{rules}\n\n{skill}", observation))
        tried.append(action)
    shares = [
        _share(_first_moves(model, prompts, recipe.turn_tokens), tried)
        for prompts in (told, untold)
    ]
    return {"solution": dict(zip(("told", "untold"), shares, strict=True))}


def _share(made: list[str], moves: list[str]) -> float:
    return sum(a == b for a, b in zip(made, moves, strict=True)) / max(len(moves), 1)


def _first_moves(model: LanguageModel, prompts: list[tuple[str, str]], most: int = 16) -> list[str]:
    template = model.template
    requests = [
        Request(n, template.encode(template.render(template.messages(system, user))), (n,), most)
        for n, (system, user) in enumerate(prompts)
    ]
    said = answers(TransformersSampler(model), requests)
    return [parse_action(template.decode(a.ids, skip_special_tokens=True)) or "" for a in said]


def _solution(env: Sokoban, rng: random.Random) -> Told | None:
    """A detour: another first move, and the best plan from there."""
    move = _other(env, rng)
    if move is None:
        return None
    after = step(env.level, env.state, MOVES.index(move))
    plan = " ".join((move, *env.solver.plan(after).moves))
    return Told(f"\n\n{writer.solution(plan)}", "", move)


def _hint(env: Sokoban, rng: random.Random) -> Told | None:
    move = _other(env, rng)
    if move is None:
        return None
    left = len(env.solver.plan(env.state).moves) - 1
    said = writer.feedback(f"{move} moves closer, {left} to go.")
    return Told("", f"\n\n{said}", move)


def _warning(env: Sokoban, rng: random.Random) -> Told | None:
    plan = env.solver.plan(env.state).moves
    said = f"{plan[0]} moves away, {len(plan) + 1} to go."
    return Told("", f"\n\n{writer.feedback(said)}", plan[0])


def _reflection(env: Sokoban, rng: random.Random) -> Told | None:
    plan = env.solver.plan(env.state).moves
    mistake = (1, f"{plan[0]} moves away, {len(plan) + 1} to go.")
    text = writer.reflection(False, env.turn_limit, [mistake])
    return Told(f"\n\n{text}", "", plan[0])


def _other(env: Sokoban, rng: random.Random) -> str | None:
    """A move that neither solves sooner nor spoils the level nor bumps into a wall."""
    best = env.solver.plan(env.state).cost
    fine = []
    for move in MOVES:
        after = step(env.level, env.state, MOVES.index(move))
        plan = env.solver.plan(after)
        if after != env.state and plan.solvable and plan.cost >= best:
            fine.append(move)
    return rng.choice(fine) if fine else None


_TELL: dict[str, Callable[[Sokoban, random.Random], Told | None]] = {
    "solution": _solution,
    "hint": _hint,
    "warning": _warning,
    "reflection": _reflection,
}
