"""Checks by playing: unreadable answers, the end, the oracle, success, cost."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import gymnasium

from agentopd.environment.checks.subject import (
    GUESSES,
    PATIENCE,
    Choose,
    Finding,
    Findings,
    Subject,
    as_action,
    attempt,
    by_oracle,
    plan_of,
    steps,
)
from agentopd.environment.checks.watch import short
from agentopd.environment.contract import Info, declared, turn_limit

_UNREADABLE = ("", "\x00", "x" * 20_000, "<action>", "<think>never closed")
_ODD = "\u221a \U0001f642 \u05d0\u0301 \u202e"
"""Perhaps an action somewhere, but nothing an environment may stumble over."""
_LONG = 16_000
"""Characters of an observation that fill a usual context with a turn or two."""
_SLOW = 0.05
"""Seconds of processor time a step that hold up the batch all other episodes wait in."""
_SHARE = 0.95
_IDLE = 2
"""Episodes that are played by unreadable answers alone."""
_STRAYED = 50
"""Turns of an episode that is led astray."""
_TRIED = 8
"""Answers that are tried, of each kind, to learn which can be read."""


def unreadable(subject: Subject) -> Findings:
    """An answer that cannot be read is flagged, raises nothing and ends nothing."""
    for action in (*_UNREADABLE, _ODD):
        with subject.opened() as env:
            env.reset(seed=0)
            result, failure = attempt(env, as_action(env, action) if action == _ODD else action)
            limit = turn_limit(env)
        if failure:
            yield failure
            return
        _, _, terminated, truncated, info = result
        if info["action_valid"]:
            if action != _ODD:
                message = (
                    f"step({short(action)}) counts as valid: set info['action_valid'] to False "
                    "where no action can be read from the answer"
                )
                yield Finding("error", "unreadable-valid", message)
                return
        elif terminated or (truncated and limit != 1):
            yield _ends(f"step({short(action)}), an answer that cannot be read, ends the episode")
            return


def thoughts(subject: Subject) -> Findings:
    """An action of the declared form is not read inside an unfinished thought."""
    seed = next((e.seed for e in subject.followed() if e.info.get("oracle")), None)
    if seed is None:
        return
    read: dict[str, bool] = {}
    for form in ("{}", "<think>{} would"):
        with subject.opened() as env:
            _, info = env.reset(seed=seed)
            best = plan_of(env, info)[0]
            # Who reads free text, and no form, cannot be asked this.
            written = as_action(env, best) if "think" in form else best
            result, failure = attempt(env, form.replace("{}", written))
        if failure:
            yield failure
            return
        read[form] = result[4]["action_valid"]
    if [*read.values()] == [False, True]:
        message = (
            "an action inside an unfinished <think> is played, so what the agent only thinks of "
            "counts: read actions with agentopd.parse_action, or leave out what "
            "agentopd.environment.contract.split_reasoning calls thoughts"
        )
        yield Finding("warning", "plays-thoughts", message)


def end(subject: Subject) -> Findings:
    """With unreadable answers alone the episode ends at the limit, neither before nor after."""
    with subject.opened() as env:
        env.reset(seed=0)
        # The limit may be the task's. Wrappers may declare that unreadable answers end it sooner.
        limits = (turn_limit(env), declared(env, "invalid_limit", None))
    limit = min((n for n in limits if n), default=None)
    episode = subject.played("unreadable", 0)
    turns = len(episode.turns)
    if limit and turns > limit:
        message = (
            f"the episode took {turns} turns or more, its limit is {limit}: truncate it there, and "
            "count the turns whose answer cannot be read too"
        )
        yield Finding("error", "turn-limit", message)
    elif not episode.over:
        if not limit:
            message = (
                f"after {turns} unreadable answers the episode still goes on: set max_turns and "
                "return truncated=True when it is reached"
            )
            yield Finding("warning", "endless", message)
    # Of one answer that ends it `unreadable` has told.
    elif limit and 1 < turns < limit:
        yield _ends(f"{turns} answers that cannot be read end the episode")
    elif turns > 1 and episode.turns[-1].result[2] and not limit:
        # Perhaps it is the time that ran out: without a declared limit nobody can tell.
        yield _ends(f"{turns} answers that cannot be read lose the episode")
    if turns == limit or (episode.over and not limit):
        yield from _late(subject)


def _late(subject: Subject) -> Findings:
    """With answers that can be read the episode does not go on after its limit either."""
    # The longest way to success leaves the most room on it.
    seed = max(subject.followed(), key=lambda episode: len(episode.turns)).seed
    with subject.opened() as env:
        env.reset(seed=seed)
        limit = turn_limit(env)
    for what, choose in _readable(subject, seed, limit or PATIENCE):
        turns, over = 0, False
        with subject.opened() as env:
            _, info = env.reset(seed=seed)
            for _, result in steps(env, info, choose, limit + 1 if limit else PATIENCE):
                turns, over = turns + 1, result[2] or result[3]
        if limit and turns > limit:
            message = (
                f"with {what} the episode took {turns} turns or more, its limit is {limit}: count "
                "every answer, whatever it is, and truncate the episode there"
            )
            yield Finding("error", "turn-limit", message)
            return
        if not limit and turns == PATIENCE and not over:
            message = (
                f"with {what} the episode still goes on after {turns} turns: set max_turns and "
                "return truncated=True when it is reached"
            )
            yield Finding("warning", "endless", message)
            return


def _readable(subject: Subject, seed: int, limit: int) -> Iterator[tuple[str, Choose]]:
    """Ways to play that can be read and do not solve the task, where that can be told."""
    yield (
        "one answer that can be read and others that cannot",
        lambda env, turn, info: "" if turn else by_oracle(env, turn, info),
    )
    yield (
        "an answer that can be read in the last turn",
        lambda env, turn, info: by_oracle(env, turn, info) if turn + 1 >= limit else "",
    )
    yield "answers that can be read", _astray(subject, seed)


def _astray(subject: Subject, seed: int) -> Choose:
    """Answers that can be read, but never the oracle's."""
    known = _known(subject, seed)

    def choose(env: gymnasium.Env[str, str], turn: int, info: Info) -> str | None:
        right = {as_action(env, action) for action in plan_of(env, info)[:1]}
        choices = [action for action in known if action not in right]
        return choices[turn % len(choices)] if choices else None

    return choose


def _known(subject: Subject, seed: int) -> list[str]:
    """Answers that can be read: of oracles, of the rules, and guesses."""
    episode = subject.played("oracle", seed)
    used = [turn.action for turn in episode.turns][:_TRIED]
    with subject.opened() as env:
        form = re.escape(as_action(env, "{}")).replace(r"\{\}", "([^<>\n]{1,40}?)")
        named = re.findall(form, f"{episode.rules}\n{episode.observation}")[:_TRIED]
        guesses = [as_action(env, text) for text in (*named, *GUESSES)]
        return _valid(env, seed, dict.fromkeys((*guesses, *used)))


def _valid(env: gymnasium.Env[str, str], seed: int, tried: Iterable[str]) -> list[str]:
    """Those of `tried` that `env` can read."""
    known: list[str] = []
    over = True
    for action in tried:
        if over:
            env.reset(seed=seed)
        _, _, terminated, truncated, info = env.step(action)
        over = terminated or truncated
        known += [action] if info["action_valid"] else []
    return known


def _ends(what: str) -> Finding:
    """A warning: it may be a rule of the game, and still costs whoever is about to learn it."""
    message = (
        f"{what}: unless it is a rule of the game, let them cost a turn each, truncate at "
        "max_turns, and terminate only where the task itself is over"
    )
    return Finding("warning", "unreadable-ends", message)


def oracle(subject: Subject) -> Findings:
    """Following the oracle solves every task."""
    planned = [episode for episode in subject.followed() if episode.info.get("oracle")]
    if not planned:
        message = (
            "no task has info['oracle'], so a teacher cannot be told the next actions: set it to "
            "the best actions from the current state, separated by spaces (or what action_between "
            "declares), if they are known"
        )
        yield Finding("warning", "no-oracle", message)
    failed = [episode for episode in planned if not episode.solved]
    if not failed:
        return
    with subject.opened() as env:
        by_chance = declared(env, "stochastic", False)
    if by_chance:
        yield _by_chance(len(planned), len(failed))
        return
    message = (
        f"following info['oracle'] fails on {len(failed)} of {len(planned)} seeds, first on "
        f"seed {failed[0].seed} with {short(failed[0].info['oracle'])}: after every step it has to "
        "hold the actions, in order, that solve the task from there within the turns that are "
        "left, separated by what action_between declares, a space by default; where chance decides "
        "what an action does, declare stochastic = True"
    )
    yield Finding("error", "oracle", message)


def _by_chance(planned: int, failed: int) -> Finding:
    """Best play may fail too where chance has a say: how often, only the environment knows."""
    if failed < planned:
        message = (
            f"following info['oracle'] succeeds on {planned - failed} of {planned} seeds; it "
            "declares stochastic, so that is no error, and nobody checks that more is impossible"
        )
        return Finding("note", "oracle-chance", message)
    message = (
        f"following info['oracle'] succeeds on none of {planned} seeds, which chance alone (it "
        "declares stochastic) would seldom do: let the oracle hold the best next action, or make "
        "the tasks easier"
    )
    return Finding("warning", "oracle-chance", message)


def success(subject: Subject) -> Findings:
    """`info["success"]` comes true when the task is solved, and stays true."""
    followed = subject.followed()
    if all(episode.info["success"] for episode in followed):
        message = (
            "info['success'] is true after every reset(), before anything is done: let it be false "
            "until the task is solved"
        )
        yield Finding("error", "success", message)
        return
    idle = [subject.played("unreadable", seed) for seed in subject.few[:_IDLE]]
    if all(episode.solved for episode in idle):
        message = (
            "info['success'] comes true although no answer can be read: let it be true only where "
            "the task is solved"
        )
        yield Finding("error", "success", message)
    for episode in followed:
        if episode.solved and not episode.turns[-1].result[4]["success"]:
            message = (
                f"info['success'] is true on seed {episode.seed} and false again after an answer "
                "that cannot be read: let it say whether the task is solved, from then on to the "
                "end"
            )
            yield Finding("error", "success", message)
            break
    lost, won = _last_rewards(subject)
    if lost and won and min(lost) > max(won):
        message = (
            f"episodes that end without success are paid {min(lost):g} or more by their last step, "
            f"those with success {max(won):g} or less: make info['success'] and the reward agree"
        )
        yield Finding("error", "success", message)


def _last_rewards(subject: Subject) -> tuple[list[float], list[float]]:
    """The last rewards of episodes that terminated: without success, and with it."""
    results = [episode.turns[-1].result for episode in subject.followed() if episode.turns]
    for seed in subject.few[:_IDLE]:
        choose = _astray(subject, seed)
        with subject.opened() as env:
            _, info = env.reset(seed=seed)
            results += [result for _, result in steps(env, info, choose, _STRAYED)]
    lost, won = list[float](), list[float]()
    for _, reward, terminated, _, info in results:
        if terminated:
            (won if info["success"] else lost).append(reward)
    return lost, won


def cost(subject: Subject) -> Findings:
    """Observations fit into a context, and a step takes little of a batch's time."""
    episodes = [subject.played("oracle", seed) for seed in subject.few]
    seen = [episode.observation for episode in episodes]
    seen += [turn.result[0] for episode in episodes for turn in episode.turns]
    taken = [turn.seconds for episode in episodes for turn in episode.turns]
    longest = max(map(len, seen))
    if longest > _LONG:
        message = (
            f"an observation is {longest:,} characters long and stays in the context of every "
            f"later turn: show only what is new, below {_LONG:,} characters, and page the rest"
        )
        yield Finding("warning", "long-observation", message)
    if taken and (late := sorted(taken)[int(_SHARE * (len(taken) - 1))]) > _SLOW:
        message = (
            f"one step in twenty takes {late * 1000:.0f} ms of computing or more, while the other "
            "episodes of the batch wait: move what can be computed once into reset() or the "
            "constructor"
        )
        yield Finding("note", "slow-step", message)
