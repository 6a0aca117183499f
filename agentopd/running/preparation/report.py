"""Everything that is measured of a model in an environment before its training."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from agentopd.environment.settings import EnvSettings
from agentopd.models.model import LanguageModel, load_model
from agentopd.privilege.base import Source
from agentopd.privilege.environment import GroundTruth, OracleNext
from agentopd.privilege.view import EveryTurnView, SystemView, ViewBuilder
from agentopd.privilege.whispered import Told, Whispered
from agentopd.privilege.writing.skills import SkillSummary
from agentopd.rollout.failures import EveryEpisodeFailed
from agentopd.rollout.kept import Shelf
from agentopd.running.config import RunConfig
from agentopd.running.defaults import is_large
from agentopd.running.preparation.behaviour import Behaviour, Player
from agentopd.running.preparation.capacity import Capacity, Shift
from agentopd.running.preparation.conversation import ChatForm, chat_form
from agentopd.running.preparation.cost import Cost, measure_cost
from agentopd.running.preparation.habits import Baseline, Baselines

Tell = Callable[[str], None]
"""Hears what is being measured."""


@dataclass(frozen=True)
class ToldSource:
    """What a source of privileged information does to the model.

    Attributes:
        shifts: by view, how much likelier the best action becomes; none without an oracle.
        view: the view in which `behaviour` was measured.
        behaviour: how the model acts when it is told; None where it cannot be told in time.
    """

    source: str
    shifts: list[Shift]
    view: str
    behaviour: Behaviour | None


@dataclass(frozen=True)
class Prepared:
    """A model in an environment, measured.

    `fewshot` is the setting that shows the model how to answer, where the environment has one that
    is not set.
    """

    model: str
    env: str
    chat: ChatForm
    alone: Behaviour
    habits: list[Baseline]
    told: list[ToldSource]
    cost: Cost | None
    large: bool
    fewshot: str | None = None

    def described(self) -> dict[str, Any]:
        """As JSON has it."""
        return {**asdict(self), "habits": [habit.described() for habit in self.habits]}


def prepare(
    config: RunConfig, episodes: int, step: bool = True, tell: Tell = lambda _: None
) -> Prepared:
    """Measure a run's student in its environment.

    Args:
        config: the run that is planned.
        episodes: held-out tasks that are played, alone and with each privilege.
        step: also measure a small step of learning.

    Raises:
        ValueError: the model or the environment cannot be used.
        EveryEpisodeFailed: no task could be played.
    """
    config = config.fresh()
    tell("loading")
    config.sampler.check(config.student)
    model = load_model(config.student)
    rollout = config.rollout
    if config.evaluate.temperature is not None:
        rollout = rollout.model_copy(update={"temperature": config.evaluate.temperature})
    with (
        config.sampler.open(model, rollout.max_context) as sampler,
        contextlib.closing(Shelf()) as shelf,
    ):
        rollout.reuse(shelf)
        return _measured(config, Player(model, sampler, rollout), episodes, step, tell)


def _measured(config: RunConfig, player: Player, episodes: int, step: bool, tell: Tell) -> Prepared:
    model, rollout, options = player.model, player.rollout, config.evaluate.options
    tell("conversing")
    chat = chat_form(model, config.env)
    tell(f"playing {episodes} episodes alone")
    trajectories, alone = player.play(config.env, episodes, options)
    tell("playing habits")
    habits = Baselines(config.env, config.env, model, rollout, options).measure(episodes)
    capacity = Capacity.of(model, config.env, trajectories)
    told = _told(config, player, capacity, episodes, tell)
    cost = None
    if step:
        tell("learning a small step")
        cost = measure_cost(config, model, trajectories, alone.seconds)
    return Prepared(
        model=config.student.path,
        env=config.env.id,
        chat=chat,
        alone=alone,
        habits=habits,
        told=told,
        cost=cost,
        large=is_large(config.student.path),
        fewshot=_fewshot(config.env),
    )


def _told(
    config: RunConfig, player: Player, capacity: Capacity, episodes: int, tell: Tell
) -> list[ToldSource]:
    """The run's own sources and the built-in ones that speak before an answer, each by itself."""
    tell("asking for the best action, told nothing")
    alone = capacity.alone()
    found = []
    for make in _sources(config):
        kind = make().kind
        tell(f"asking and playing, told {kind}")
        shifts = [
            shift
            for view in _views(config, make())
            if (shift := capacity.shift(_ready(make(), player.model, config), view, alone))
        ]
        best = max(shifts, key=lambda shift: shift.gain, default=None)
        views = {view.kind: view for view in _views(config, make())}
        view = views[best.view] if best else next(iter(views.values()))
        if capacity.questions and not shifts:
            continue
        behaviour = _acting_on(config, player, make(), view, episodes)
        if shifts or behaviour:
            found.append(ToldSource(kind, shifts, view.kind, behaviour))
    return found


def _sources(config: RunConfig) -> list[Callable[[], Source]]:
    """What makes each source anew: one that has lived remembers."""
    own = {source.kind: source for source in config.privilege if source.kind != "none"}
    built_in: list[Source] = [OracleNext(), GroundTruth(), SkillSummary()]
    chosen = {**{source.kind: source for source in built_in}, **own}
    return [_again(source) for source in chosen.values()]


def _again(source: Source) -> Callable[[], Source]:
    written = source.model_dump(mode="json")
    return lambda: Source.model_validate(written)


def _views(config: RunConfig, source: Source) -> list[ViewBuilder]:
    """Where a source's text may be put; the run's own view first."""
    if isinstance(source, OracleNext):  # in the rules it would tell the turns to come
        return [EveryTurnView()]
    views = (EveryTurnView(), SystemView())
    return [config.view, *[view for view in views if view.kind != config.view.kind]]


def _ready(source: Source, model: LanguageModel, config: RunConfig) -> Source:
    source.prepare(model.template)
    env = config.env.build()
    source.enter(env)
    env.close()
    return source


def _acting_on(
    config: RunConfig, player: Player, source: Source, view: ViewBuilder, episodes: int
) -> Behaviour | None:
    """How the model acts when it is told; None where it cannot be, or nothing is said."""
    if not isinstance(view, Told):
        return None
    source.prepare(player.model.template)
    settings = Whispered(**dict(config.env), sources=(source,), view=view)
    # Where a source has nothing to say of any task, no episode begins.
    with contextlib.suppress(EveryEpisodeFailed):
        return player.play(settings, episodes, config.evaluate.options)[1]
    return None


def _fewshot(env: EnvSettings) -> str | None:
    """The setting that adds worked examples to the rules, where that can be set."""
    if env.options.get("prompt") == "fewshot":
        return None
    try:
        EnvSettings(id=env.id, options={**env.options, "prompt": "fewshot"}).build().close()
    except ValueError:  # it has none
        return None
    return "env.options.prompt=fewshot"
