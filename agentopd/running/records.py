"""What a run writes: its folder, its trackers, whoever looks on. Of several processes the first
writes, and the others only wait where they must.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from agentopd.base.files import append_line, write_whole
from agentopd.base.trackers import Trackers
from agentopd.base.types import Trajectory
from agentopd.learning.learner import Update
from agentopd.parallel.processes import Processes, by_the_first
from agentopd.privilege.base import missing_keys
from agentopd.probes.collector import jsonable
from agentopd.probes.rollout import depths, rollout_probes
from agentopd.rollout.engine import disagreement
from agentopd.rollout.failures import failures, mixed_groups, unopened
from agentopd.running.clock import Clock
from agentopd.running.config import RunConfig
from agentopd.running.folder import METRICS, SUMMARY, forget_lines, open_folder
from agentopd.signal.groups import dead_groups
from agentopd.stored.scores import save_scores
from agentopd.stored.trajectories import save_trajectories

Watch = Callable[[dict[str, Any]], None]


class Records:
    """A run's folder, as the run writes it.

    Args:
        watch: called with each line of metrics.
    """

    def __init__(self, config: RunConfig, out: Path, watch: Watch, processes: Processes) -> None:
        self.config, self.out, self.watch, self.processes = config, out, watch, processes
        self.trackers = Trackers()

    @by_the_first
    def open(self) -> None:
        """Open the folder: only once all is ready, so that a mistyped option leaves none behind, a
        damaged file all as it is.
        """
        open_folder(self.config, self.out)

    def tracked(self) -> Trackers:
        """The trackers of this run, open to the end of the `with` block."""
        settings = self.config.model_dump(mode="json", exclude={"study"})
        names = self.config.track if self.processes.first else ()
        self.trackers = Trackers.start(names, self.out, settings)
        return self.trackers

    @by_the_first
    def line(self, line: dict[str, Any], **said: Any) -> None:
        """Keep a line of metrics; what is said with it is this machine's affair, and not kept."""
        line = jsonable(line)
        append_line(self.out / METRICS, json.dumps(line, allow_nan=False))
        self.trackers.log(line)
        self.watch({**line, **said})

    @by_the_first
    def step(self, step: int, trajectories: Sequence[Trajectory], update: Update) -> None:
        """Keep a step's trajectories, and what the models said of them where that is asked for."""
        name = f"step-{step:05d}.parquet"
        save_trajectories(trajectories, self.out / "trajectories" / name, update.payments)
        if self.config.save.scores_top_k:
            save_scores(update.scores, self.out / "scores" / name)

    @by_the_first
    def episode(self, described: dict[str, Any] | None) -> None:
        """Keep one episode for people to look at, where there is one to show."""
        if described is not None:
            write_whole(self.out / "episode.json", json.dumps(described, indent=1) + "\n")

    @by_the_first
    def summary(self, summary: dict[str, Any]) -> None:
        """Keep what the run came to."""
        write_whole(self.out / SUMMARY, json.dumps(summary, indent=2) + "\n")

    @by_the_first
    def begin_again(self, past: Sequence[dict[str, Any]] = ()) -> None:
        """Keep these lines of metrics alone: those before the checkpoint at which a run goes on."""
        if past:
            write_whole(self.out / METRICS, "".join(f"{json.dumps(line)}\n" for line in past))
        else:
            forget_lines(self.out)


def step_line(
    config: RunConfig,
    trajectories: list[Trajectory],
    update: Update,
    clock: Clock,
    *,
    done: int,
    unheard: int,
    beside: Mapping[str, float],
    started: Mapping[str, float],
    evaluation: dict[str, Any] | None,
) -> dict[str, Any]:
    """What a step was like, for its line of metrics, with the evaluation that stands after it.

    Args:
        done: how many steps there have been, with this one.
        unheard: episodes that the teacher was asked about and said nothing of.
        beside: numbers of the run's parts that stand beside the update's.
        started: how many environments were, where these are kept.
    """
    stages, tokens = clock.since_last_line()
    taught = bool(config.mix.distil_coefficient)
    line: dict[str, Any] = {
        "step": done - 1,
        "episodes": done * config.rollout.episodes,
        "seconds": clock.seconds - clock.stages["evaluate"],
        "train": {
            **rollout_probes(trajectories),
            "dead_groups": dead_groups(trajectories),
            **started,
        },
        "loss": update.loss,
        "probes": {**update.probes, "scalars": {**update.scalars, **beside}},
        "stages": stages,
        "tokens": tokens,
    }
    if any(schedule.reads_depth for schedule in config.schedule.values()):
        line["depth"] = depths(trajectories, update.probes.get("by_turn", {}))
    if update.skipped:
        line["skipped"] = update.skipped
    if failed := failures(trajectories):
        line |= {"failed": failed, "unopened": unopened(trajectories)}
    if taught and unheard:
        line["unheard"] = unheard
    first = _first_look(config, trajectories, taught) if done == 1 else []
    gap = update.scalars.get("sampler_gap", 0.0)
    if warnings := [*first, *disagreement(gap, config.student.dtype)]:
        line["warnings"] = warnings
    return line | {"evaluation": evaluation} if evaluation else line


def _first_look(config: RunConfig, trajectories: list[Trajectory], taught: bool) -> list[str]:
    """What the first step shows to be wrong with the whole run."""
    untold = missing_keys(config.privilege, trajectories) if taught else []
    return [warning for warning in (mixed_groups(trajectories), *untold) if warning]
