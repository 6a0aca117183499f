"""Success on held-out tasks: the same tasks, with the same random numbers, for every model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from agentopd.base.statistics import wilson
from agentopd.base.types import EndReason, Trajectory
from agentopd.environment.contract import HELD_OUT_SEED, Summarise, declared
from agentopd.environment.settings import EnvSettings
from agentopd.models.model import LanguageModel, load_model
from agentopd.privilege.view import SystemView
from agentopd.privilege.whispered import Told, Whispered
from agentopd.probes.rollout import env_metrics, rollout_probes
from agentopd.probes.search import search_probes
from agentopd.rollout.failures import failures, most_frequent, refuse_failures, unopened
from agentopd.rollout.policies import Rollout
from agentopd.rollout.pool import Task
from agentopd.rollout.sampler import Sampler
from agentopd.rollout.transformers_sampler import TransformersSampler
from agentopd.running.config import RunConfig

# An evaluation's sampling is apart from any run's, whose seeds count from 0.
_SEED = 2**31 - 1


def play_tasks(
    env: EnvSettings,
    student: LanguageModel,
    sampler: Sampler,
    rollout: Rollout,
    episodes: int,
    options: dict[str, Any],
    seed: int = HELD_OUT_SEED,
) -> list[Trajectory]:
    """One episode on each of `episodes` tasks, with environment seeds `seed`, `seed + 1`, ..."""
    tasks = [Task(i, i, seed + i) for i in range(episodes)]
    return rollout.pool(env, student, _SEED, **options).play(tasks, sampler)


def measure(
    config: RunConfig,
    student: LanguageModel,
    sampler: Sampler,
    summarise: Summarise | None,
    where: str,
) -> dict[str, Any]:
    """A student's success on the run's held-out tasks, as `score_by_task` tells it.

    Args:
        where: in the run, for a message: "after 3 steps", say.

    Raises:
        EveryEpisodeFailed: no task could be played.
    """
    settings = config.evaluate
    rollout = config.rollout.model_copy(update=settings.sampling)
    played = play_tasks(config.env, student, sampler, rollout, settings.episodes, settings.options)
    refuse_failures(played, f"of the evaluation {where}")
    return score_by_task(played, summarise)


def untrained_success(config: RunConfig) -> dict[str, Any]:
    """What `measure` tells of the run's student before any step."""
    config.sampler.check(config.student)
    student = load_model(config.student)
    env = config.env.build()
    summarise = declared(env, "summarise", None)
    env.close()
    with config.sampler.open(student, config.rollout.max_context) as sampler:
        return measure(config.fresh(), student, sampler, summarise, "before the first step")


def depends_on(config: RunConfig) -> dict[str, Any]:
    """All that a student's evaluation depends on, as `measure` makes it, beside the student's
    weights: where it is equal in two runs, the same student is evaluated alike.
    """
    included = {"student", "env", "evaluate", "sampler", "threads"}
    found = config.model_dump(mode="json", include=included)
    found["student"].pop("path")
    rollout: dict[str, Any] = config.rollout.model_dump(mode="json", exclude={"tasks", "group"})
    if type(config.rollout).pool is Rollout.pool:  # which reads what all rollouts have, and no more
        rollout = {key: value for key, value in rollout.items() if key in Rollout.model_fields}
    return {**found, "rollout": rollout}


def score_by_task(
    trajectories: Sequence[Trajectory], summarise: Summarise | None = None
) -> dict[str, Any]:
    """What `score` tells; as `search/...` what `search_probes` does; and as `outcomes` each task's
    own: a digit a task in their order, 1 where it was solved.
    """
    search = {f"search/{name}": value for name, value in search_probes(trajectories).items()}
    outcomes = "".join(str(int(t.success)) for t in trajectories)
    return {**score(trajectories, summarise), **search, "outcomes": outcomes}


def score(trajectories: Sequence[Trajectory], summarise: Summarise | None = None) -> dict[str, Any]:
    """Success with its 95 % interval, reward and turns of played episodes; the shares of answers
    that could not be read and that were cut; how many episodes ended by an error, and by which, and
    how many by each `EndReason`; and, as `env/...`, the environment's own numbers.

    Args:
        summarise: what the environment declares under that name.
    """
    solved = sum(t.success for t in trajectories)
    played, answers = len(trajectories), rollout_probes(trajectories)
    return {
        "success": solved / max(played, 1),
        "interval": list(wilson(solved, played)),
        "episodes": played,
        "reward": sum(t.reward for t in trajectories) / max(played, 1),
        "turns": sum(len(t.turns) for t in trajectories) / max(played, 1),
        "invalid": answers["invalid"],
        "cut": answers["cut"],
        "errors": sum(bool(t.error) for t in trajectories),
        "reasons": most_frequent(failures(trajectories)),
        "unopened": unopened(trajectories),
        "ends": dict(Counter(t.end.value for t in trajectories)),
        **env_metrics(trajectories),
        **_summary(trajectories, summarise),
    }


def _summary(trajectories: Sequence[Trajectory], summarise: Summarise | None) -> dict[str, float]:
    solved: dict[str, list[bool]] = {}
    for trajectory in trajectories:
        if (task := trajectory.prompt.get("task_id")) is not None:
            solved.setdefault(str(task), []).append(trajectory.success)
    if summarise is None or not solved:
        return {}
    return {f"env/{name}": float(value) for name, value in summarise(solved).items()}


def teacher_success(config: RunConfig) -> dict[str, Any] | None:
    """How well the teacher itself acts on the held-out tasks, told what it is told at the start of
    a run.

    It acts in this process, whatever the run's sampler, which is the student's alone.

    None where that question has no answer: no teacher is asked, or none that could act, its text
    comes only after the fact, or it is not put where an actor could read it in time.
    """
    config = config.fresh()
    acts = bool(config.mix.distil_coefficient) and config.teacher.local
    if not acts or not isinstance(config.view, Told):
        return None
    student = load_model(config.student)
    config.teacher.prepare(student)
    actor = config.teacher.model
    for source in config.privilege:
        source.prepare(student.template)
    settings = Whispered(**dict(config.env), sources=tuple(config.privilege), view=config.view)
    options = config.evaluate.options
    played = play_tasks(
        settings,
        actor,
        TransformersSampler(actor),
        config.rollout,
        config.evaluate.episodes,
        options,
    )
    if any(t.end is EndReason.ERROR for t in played):
        return None
    found = score(played)
    told = ", ".join(source.kind for source in config.privilege)
    where = "in its system prompt" if isinstance(config.view, SystemView) else "before each answer"
    return {
        "success": found["success"],
        "interval": found["interval"],
        "note": f"the {config.teacher.kind} teacher, acting with {told} {where}",
    }
