"""`agentopd train`, `compare`, `resume` and `report`."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from agentopd.base.console import quiet_libraries, stdout, table, warn, working
from agentopd.base.written import FOLDER, STORED, find_config, read_mapping, read_stored
from agentopd.commands.progress import Status, run_progress, study_progress
from agentopd.parallel.launched import launched, refuse_several

if TYPE_CHECKING:  # help and mistakes come before torch
    from agentopd.parallel.processes import Processes
    from agentopd.running.config import RunConfig


def train(named: Path, overrides: Sequence[str], out: Path | None, resume: bool) -> None:
    """Train, say what it changed, and write the report.

    Raises:
        ValueError: see `agentopd.running.train.train`.
        typer.Exit: with code 130 when Ctrl-C came.
    """
    with launched() as processes:
        path = find_config(named)  # what is not there, or no YAML, is told before torch is loaded
        read_mapping(path)
        with working("loading"):
            quiet_libraries()
            from agentopd.running.reading import load_config

            config = load_config(path, overrides)
        _train(config, out or _default_out(path), resume, processes)


def compare(
    named: Path,
    overrides: Sequence[str],
    out: Path | None,
    resume: bool,
    workers: int,
    engine: str,
) -> None:
    """Compare the arms of a study, and print them in a table.

    Raises:
        ValueError: see `agentopd.running.studies.study.compare`.
        typer.Exit: with code 130 when Ctrl-C came.
    """
    path = find_config(named)
    read_mapping(path)
    with working("loading"):
        quiet_libraries()
        from agentopd.running.reading import load_config

        config = load_config(path, overrides)
    _compare(config, out or _default_out(path), resume, workers, engine)


def study(named: str, overrides: Sequence[str], out: Path, workers: int, engine: str) -> None:
    """Run studies of pathologies, each with the causes measured; go on with those that have begun.

    Args:
        named: one that comes with agentopd, "all" of them, or a configuration's file or name.
        out: holds a folder for each.

    Raises:
        ValueError: see `agentopd.running.studies.study.compare`.
        typer.Exit: with code 130 when Ctrl-C came.
    """
    paths = pathologies()
    chosen = list(paths.values()) if named == "all" else [paths.get(named) or find_config(named)]
    for path in chosen:
        read_mapping(path)
    with working("loading"):
        quiet_libraries()
        from agentopd.running.reading import load_config

        configs = {path.stem: load_config(path, overrides) for path in chosen}
    for name, config in configs.items():
        begun = (out / name / STORED).is_file()
        _compare(config, out / name, begun, workers, engine, causes=True)
        _overview(out)


def pathologies() -> dict[str, Path]:
    """The studies of pathologies that come with agentopd, by name."""
    return {path.stem: path for path in sorted((FOLDER / "pathologies").glob("*.yaml"))}


def resume(out: Path, overrides: Sequence[str], workers: int, engine: str) -> None:
    """Go on with the run or the study in a folder, which knows its own settings.

    Args:
        overrides: of `steps`, `threads` and `sampler`, which alone may be others than before.

    Raises:
        ValueError: there is none, or something in its folder is damaged.
        typer.Exit: with code 130 when Ctrl-C came.
    """
    with launched() as processes:
        read_stored(out)
        with working("loading"):
            quiet_libraries()
            from agentopd.running.folder import kind_of
            from agentopd.running.reading import load_stored

            config, kind = load_stored(out, overrides), kind_of(out)
        if kind == "study":
            refuse_several("resume of a study")
            _compare(config, out, True, workers, engine)
        else:
            _train(config, out, True, processes)


def _train(config: RunConfig, out: Path, resume: bool, processes: Processes) -> None:
    from agentopd.looking.report import write_report
    from agentopd.running.folder import check_environments, starts_over
    from agentopd.running.train import train as run

    check_environments(config)  # a start that is refused is told in one line, without notices
    for notice in config.notices():
        warn(notice)
    if resume and starts_over(out):
        warn(f"{out} holds no checkpoint: it ended before its first one and starts over at step 1")
    console = stdout()
    with (
        _told_how_to_resume("train", out),
        run_progress(config.all_steps, config.rollout.episodes, console) as watch,
    ):
        summary = run(config, out, resume, watch, processes=processes)
    typer.echo(_change(summary))
    if processes.first:
        typer.echo(f"the report: {write_report(out)}")


def _compare(
    config: RunConfig, out: Path, resume: bool, workers: int, engine: str, causes: bool = False
) -> None:
    from agentopd.looking.report import write_report
    from agentopd.looking.report.finding import finding
    from agentopd.looking.report.shape import Summary
    from agentopd.running.effects.study import effects_tables, study_effects
    from agentopd.running.studies import study
    from agentopd.running.studies.engines import read_engine
    from agentopd.running.studies.mechanisms import study_mechanisms

    chosen = read_engine(engine)
    runs = _statuses(config)
    more = ["--workers", str(workers), *(["--engine", engine] if engine != "local" else [])]
    console = stdout()
    with (
        _told_how_to_resume("compare", out, *more),
        study_progress(runs, console) as watch,
    ):
        summary = study.compare(config, out, resume, workers, watch, chosen)
    if causes:
        with working("measuring the causes"):
            found = study_mechanisms(config, out)
        console.print(_mechanisms_table(found))
        with working("measuring the effects"):
            effects = study_effects(config, out)
        for shown in effects_tables(effects):
            console.print(shown)
    console.print(_arms_table(summary["arms"]))
    console.print(finding(Summary.model_validate(summary)), soft_wrap=True)
    typer.echo(f"the report: {write_report(out)}")
    typer.echo(f"the numbers: {out / 'summary.json'}")


def _statuses(config: RunConfig) -> dict[tuple[str, int], Status]:
    """How far each run of a study is; what its arms' notices say is told."""
    from agentopd.running.reading import arm_config

    if config.study is None:
        return {}
    configs = {
        (arm, seed): arm_config(config, arm, seed)
        for seed in config.study.seeds
        for arm in config.study.arms
    }
    for arm in config.study.arms:
        for notice in configs[arm, config.study.seeds[0]].notices():
            warn(f"arm {arm}: {notice}")
    return {key: Status(run.all_steps, run.rollout.episodes) for key, run in configs.items()}


def report(folder: Path) -> None:
    """Write a folder's report again; of a folder of studies, the page over all of them.

    Raises:
        ValueError: see `agentopd.looking.report.write_report`.
    """
    from agentopd.looking.report import write_report
    from agentopd.looking.studies import holds_studies

    if holds_studies(folder):
        _overview(folder)
    else:
        typer.echo(f"the report: {write_report(folder)}")


def _overview(folder: Path) -> None:
    from agentopd.looking.studies import write_overview

    typer.echo(f"the page over all studies: {write_overview(folder)}")


def _default_out(path: Path) -> Path:
    return Path("runs") / path.stem


@contextmanager
def _told_how_to_resume(command: str, out: Path, *more: str) -> Iterator[None]:
    """Turns an interruption into the command that goes on from there, and exit code 130."""
    from agentopd.base.stopping import Interrupted

    again = f"agentopd {shlex.join(['resume', str(out), *more])}"
    try:
        yield
    except Interrupted as stopped:
        done = f"after {stopped.step} steps" if command == "train" else "with every step saved"
        typer.echo(f"stopped {done}; to go on:\n  {again}", err=True)
        raise typer.Exit(130) from stopped
    except KeyboardInterrupt as stopped:
        if (out / "config.yaml").is_file():
            lost = "what came after the last checkpoint is lost"
            typer.echo(f"stopped at once, {lost}; to go on:\n  {again}", err=True)
        else:
            typer.echo("stopped before anything was written", err=True)
        raise typer.Exit(130) from stopped


def _change(summary: Mapping[str, Any]) -> str:
    """Success before and after, with the interval of the latter; and what changed nothing."""
    from agentopd.looking.report.finding import percent, span

    after = summary["evaluation"]
    tasks = f" of {after['episodes']} test tasks" if after else ""
    extent = f" (95 % interval {span(after['interval'])})" if after else ""
    before, end = percent(summary["success_before"]), percent(summary["success_after"])
    skipped = "".join(
        f"\n{count} of {summary['steps']} steps were skipped: {reason}"
        for reason, count in summary.get("skipped", {}).items()
    )
    return f"success{tasks}: {before} -> {end}{extent}{skipped}"


def _arms_table(arms: Mapping[str, Mapping[str, Any]]) -> Any:
    from agentopd.looking.report.finding import UNKNOWN, percent, span

    def count(value: int | None) -> str:
        return UNKNOWN if value is None else f"{value:,}"

    headings = (
        "arm", "before", "after", "95 % interval", "episodes",
        "student tokens", "teacher tokens", "seconds", "dead groups",
    )  # fmt: skip
    rows = [
        (
            name,
            percent(arm["success_before"]),
            percent(arm["success_after"]),
            span(arm["interval"]),
            count(arm["episodes"]),
            count(arm["student_tokens"]),
            count(arm["teacher_tokens"]),
            f"{arm['seconds']['total']:,.0f}",
            percent(arm["dead_groups"]),
        )
        for name, arm in arms.items()
    ]
    return table(headings, rows, numbers=len(headings) - 1)


def _mechanisms_table(found: Mapping[str, Mapping[str, Any]]) -> Any:
    """What students and teachers are to each other before any step."""
    from agentopd.looking.report.finding import UNKNOWN, percent

    def success(rate: Mapping[str, Any] | None) -> str:
        return UNKNOWN if rate is None else percent(rate["success"])

    def number(value: float | None, form: str) -> str:
        return UNKNOWN if value is None else format(value, form)

    headings = (
        "before any step", "alone", "told", "speaks as told", "best action, own words",
        "teacher's words", "turns",
    )  # fmt: skip
    rows = [
        (
            arm,
            success(row["alone"]),
            success(row["told"]),
            number(row["opening"], ".2g"),
            number(row["own"], ".2f"),
            number(row["other"], ".2f"),
            str(row["asked"]),
        )
        for arm, row in found.items()
    ]
    return table(headings, rows, numbers=len(headings) - 1)
