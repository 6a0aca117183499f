"""`agentopd eval` and `agentopd play`: agents in an environment."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
import yaml
from rich.console import Console
from rich.text import Text

from agentopd.base.console import quiet_libraries, stdout, table, warn, working
from agentopd.base.written import last_stage, read_part
from agentopd.commands.place import stored

if TYPE_CHECKING:  # a command without an environment starts sooner
    from agentopd.base.types import Trajectory
    from agentopd.environment.contract import Summarise
    from agentopd.environment.settings import EnvSettings
    from agentopd.models.model import LanguageModel
    from agentopd.rollout.engine import InferenceEngine
    from agentopd.rollout.kept import Shelf
    from agentopd.rollout.policies import Rollout
    from agentopd.running.preparation.habits import Baseline

_CELLS = {
    "#": "bright_black",
    "_": "bright_black",
    ".": "bold magenta",
    "$": "bold yellow",
    "*": "bold green",
    "@": "bold cyan",
    "+": "bold cyan",
}
_SAMPLING = ("temperature", "top_p", "top_k")
_SHOWN = (*_SAMPLING, "max_turn_tokens", "max_turns", "max_context")


@dataclass(frozen=True, kw_only=True)
class Acting:
    """Who acts where; None stands for what a run would use, `held_out` for its evaluations.

    `chosen_on` are the tasks on which habits are chosen; None where none are played.
    """

    model: str
    env: EnvSettings
    episodes: int
    seed: int
    device: str
    held_out: bool
    temperature: float | None
    top_p: float | None
    top_k: int | None
    max_turn_tokens: int | None
    max_turns: int | None
    max_context: int | None
    slots: int | None = None
    dtype: str | None = None
    threads: int | None = None
    sampler: str | None = None
    chosen_on: EnvSettings | None = None
    template_options: Mapping[str, Any] = field(default_factory=dict)

    def weights(self) -> dict[str, Any]:
        """Which model is loaded and how; a run's as it was trained."""
        told = stored(self.model).get("student", {})
        dtype = self.dtype or told.get("dtype", "float32")
        options = {**told.get("template_options", {}), **self.template_options}
        return {
            "path": model_path(self.model),
            "device": self.device,
            "dtype": dtype,
            "template_options": options,
        }

    def engine(self) -> InferenceEngine:
        """What runs the model: what is given, or as in a run."""
        from agentopd.rollout.engine import InferenceEngine
        from agentopd.running import kinds  # noqa: F401  (every sampler is known by its kind)

        if self.sampler is not None:
            return read_part(InferenceEngine, self.sampler, f"--sampler {self.sampler}")
        return InferenceEngine.model_validate(stored(self.model).get("sampler", "transformers"))

    def limits(self) -> dict[str, Any]:
        """The settings of the rollout: those given, over those of a run's folder."""
        from agentopd.running.defaults import LARGE, is_large

        given = {name: getattr(self, name) for name in (*_SHOWN, "slots")}
        told = stored(self.model)
        default = {"kind": "student", **(LARGE["rollout"] if is_large(self.model) else {})}
        own = dict(told.get("rollout", default))
        if self.held_out:
            of_evaluations = {name: told.get("evaluate", {}).get(name) for name in _SAMPLING}
            own |= {name: value for name, value in of_evaluations.items() if value is not None}
        return own | {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True)
class _Played:
    """Episodes, who played them within which limits, and the environment's `summarise`."""

    trajectories: list[Trajectory]
    student: LanguageModel
    rollout: Rollout
    summarise: Summarise | None
    shelf: Shelf

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of the rollout that decide what an evaluation finds."""
        used = self.rollout.model_dump(mode="json")
        return {name: used[name] for name in _SHOWN}


def evaluate(acting: Acting, as_json: bool) -> None:
    """Play tasks and print how many were solved, and how many by habits that read nothing.

    Raises:
        ValueError: there is no such environment or model, one of them refuses what it is given, or
            no episode could be played.
    """
    with ExitStack() as kept:
        began = time.perf_counter()
        played = _play(acting, kept)
        seconds = time.perf_counter() - began
        from agentopd.rollout.failures import failures, outgrown, refuse_failures, some_failed
        from agentopd.running.evaluate import score_by_task

        refuse_failures(played.trajectories, "played")
        habits = _habits(acting, played)
    trajectories = played.trajectories
    found = score_by_task(trajectories, played.summarise)
    for said in (
        some_failed(failures(trajectories), found["episodes"], "played", found["unopened"]),
        outgrown(found["ends"], found["episodes"], "played"),
    ):
        if said:
            warn(said)
    if as_json:
        described = acting.env.model_dump(mode="json")
        about = {"model": acting.model, "env": acting.env.id}
        about |= {name: described[name] for name in ("options", "wrappers")}
        tokens = sum(t.student_tokens for t in trajectories)
        spent = {"student_tokens": tokens, "seconds": round(seconds, 3)}
        beside = {"habits": [habit.described() for habit in habits], **played.shelf.scalars()}
        record = about | {"seed": acting.seed} | played.settings | found | spent | beside
        typer.echo(json.dumps(record))
        return
    _print_measured(acting.model, found, seconds, habits)


def _print_measured(
    model: str, found: Mapping[str, Any], seconds: float, habits: Sequence[Baseline]
) -> None:
    """A table with a row for the model and one for each habit, and what it comes to."""
    from agentopd.looking.report.finding import percent, span

    headings = (
        "model", "success", "95 % interval", "episodes", "turns", "reward", "unreadable", "cut",
        "seconds",
    )  # fmt: skip
    row = (
        model,
        percent(found["success"]),
        span(found["interval"]),
        found["episodes"],
        f"{found['turns']:.1f}",
        f"{found['reward']:.2f}",
        percent(found["invalid"]),
        percent(found["cut"]),
        f"{seconds:.1f}",
    )
    beside = [(h.name, percent(h.success), span(h.interval), h.episodes, *[""] * 5) for h in habits]
    stdout().print(table(headings, [row, *beside], numbers=len(headings) - 1))
    if said := _against_habits(found, habits):
        stdout().print(said, soft_wrap=True)
    own = [f"{name} {value:.3g}" for name, value in found.items() if name.startswith("env/")]
    if own:
        stdout().print("  ".join(own))


def _against_habits(found: Mapping[str, Any], habits: Sequence[Baseline]) -> str:
    """That the success is no more than a habit's, if so."""
    from agentopd.looking.report.finding import overlap, percent

    best = max(habits, key=lambda habit: habit.success, default=None)
    if best is None or found["interval"][0] > best.interval[1]:
        return ""
    close = overlap(found["interval"], best.interval)
    where = "not distinguishable from" if close else "below"
    return f"The model is {where} a habit: {best.name}, {percent(best.success)}."


def _habits(acting: Acting, played: _Played) -> list[Baseline]:
    """What habits score on the tasks that were played; none where they are not asked for."""
    if acting.chosen_on is None:
        return []
    from agentopd.running.preparation.habits import Baselines

    with working("playing habits"):
        baselines = Baselines(
            acting.env, acting.chosen_on, played.student, played.rollout, {}, acting.seed
        )
        return baselines.measure(acting.episodes)


def watch(acting: Acting, delay: float) -> None:
    """Play episodes with a model and show them turn by turn.

    Raises:
        ValueError: see `evaluate`.
    """
    with ExitStack() as kept:
        trajectories = _play(acting, kept).trajectories
    console = stdout()
    pause = delay if console.is_terminal else 0.0
    for trajectory in trajectories:
        console.rule(str(trajectory.prompt.get("task_id", f"seed {trajectory.seed}")))
        for turn in trajectory.turns:
            show_text(console, turn.observation)
            time.sleep(pause)
            show_answer(console, turn.index, turn.action)
            feedback = str(turn.info.get("feedback", ""))
            show_outcome(console, turn.reward, turn.info, feedback)
            time.sleep(pause)
        if trajectory.error:
            console.print(trajectory.error, style="bold red")
        show_end(console, trajectory.success, len(trajectory.turns), trajectory.end.value)


def parse_options(given: Sequence[str]) -> dict[str, Any]:
    """Options of an environment or a chat template, from `key=value` with a YAML value.

    Raises:
        ValueError: one is not of that form.
    """
    options: dict[str, Any] = {}
    for option in given:
        key, equals, value = option.partition("=")
        if not equals or not key:
            raise ValueError(f"{option!r} is not an option; write key=value, such as max_turns=8")
        try:
            options[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ValueError(f"the value of option {key} is not YAML: {value!r}") from error
    return options


def model_path(named: str) -> str:
    """What `agentopd.models.model.load_model` takes; of a run's folder, its last checkpoint's
    student.

    Raises:
        ValueError: it is the folder of a run without a checkpoint, or of a study; or the checkpoint
            is damaged.
    """
    from agentopd.running.checkpoint import latest, student_folder

    folder = last_stage(Path(named))
    if named.startswith("zoo:") or (folder / "config.json").is_file():
        return named
    if (checkpoint := latest(folder / "checkpoints")) is not None:
        return str(student_folder(checkpoint))
    if (folder / "config.yaml").is_file():
        raise ValueError(
            f"{named} holds no checkpoint: let the run get that far, or name a run of the study, "
            f"such as {folder / 'arms' / 'NAME' / 'seed-0'}"
        )
    return named


def _play(acting: Acting, kept: ExitStack) -> _Played:
    """The episodes that the command asks for, and what `kept` closes."""
    from agentopd.environment.contract import declared

    env = acting.env.build()  # a mistake there is told before torch is loaded
    summarise = declared(env, "summarise", None)
    env.close()
    with working("loading"):
        quiet_libraries()
        import torch

        from agentopd.models.model import ModelSettings, load_model
        from agentopd.rollout.kept import Shelf
        from agentopd.rollout.policies import Rollout
        from agentopd.running.evaluate import play_tasks

        settings = ModelSettings.model_validate(acting.weights())
        if acting.threads is not None:
            torch.set_num_threads(acting.threads)
        engine = acting.engine()
        engine.check(settings)
        student = load_model(settings)
        shelf = kept.enter_context(closing(Shelf()))
        rollout = Rollout.model_validate(acting.limits()).reuse(shelf)
    with (
        working(f"playing {acting.episodes} episodes"),
        engine.open(student, rollout.max_context) as sampler,
    ):
        played = play_tasks(acting.env, student, sampler, rollout, acting.episodes, {}, acting.seed)
    return _Played(played, student, rollout, summarise, shelf)


def show_text(console: Console, text: str) -> None:
    """An observation; a board in it is coloured."""
    from agentopd.looking.report.board import split_board

    above, board, below = split_board(text)
    if above.strip():
        console.print(above.strip("\n"), soft_wrap=True)
    if board:
        drawn = Text()
        for symbol in board:
            drawn.append(symbol, _CELLS.get(symbol, ""))
        console.print(drawn)
    if below.strip():
        console.print(below.strip("\n"), soft_wrap=True)


def show_answer(console: Console, index: int, action: str) -> None:
    """Thought, then what is left of the answer."""
    from agentopd.environment.contract import split_reasoning

    thoughts, said = split_reasoning(action)
    thought = "\n".join(found.strip() for found in thoughts)
    if thought:
        console.print(thought, style="italic dim", soft_wrap=True)
    console.print(f"{index + 1}> {said.strip()}", style="bold", soft_wrap=True)


def show_outcome(
    console: Console, reward: float, info: Mapping[str, Any], feedback: str = ""
) -> None:
    """What became of an answer, with what may be said of it, if anything."""
    parts = [
        "" if info.get("action_valid", True) else "not understood",
        f"reward {reward:g}" if reward else "",
        feedback,
    ]
    told = "; ".join(part for part in parts if part)
    if told:
        console.print(f"   {told}", style="green" if reward > 0 else "dim", soft_wrap=True)


def show_end(console: Console, success: bool, turns: int, end: str) -> None:
    """How an episode ended, in a line."""
    counted = "1 turn" if turns == 1 else f"{turns} turns"
    if success:
        console.print(f"solved in {counted}", style="bold green")
    else:
        console.print(f"not solved in {counted} ({end.replace('_', ' ')})", style="bold red")
