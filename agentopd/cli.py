"""The command `agentopd`: how each command is called; `agentopd.commands` holds what they do.

Only what help and errors need is imported here, so that both come at once.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from agentopd.base.console import MistakesToLines
from agentopd.commands import (
    acting,
    exporting,
    judging,
    listing,
    replaying,
    running,
    serving,
)
from agentopd.commands import parameters as given
from agentopd.commands.called.collect import collect
from agentopd.commands.called.methods import methods
from agentopd.commands.called.prepare import prepare
from agentopd.commands.called.study import study
from agentopd.commands.called.zoo import zoo
from agentopd.commands.keyboard import person
from agentopd.commands.place import place
from agentopd.environment.contract import HELD_OUT_SEED
from agentopd.parallel.launched import refuse_several

app = typer.Typer(
    cls=MistakesToLines,
    help="On-policy distillation of language-model agents in multi-turn text environments.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
_TRAIN, _LOOK, _ENVIRONMENTS, _MODELS = "Train", "Look", "Environments", "Models"
"""The panels of the help; they stand in the order of their first commands."""
app.add_typer(zoo, name="zoo", rich_help_panel=_MODELS)


@app.callback(invoke_without_command=True)
def main(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    traceback: Annotated[
        bool, typer.Option("--traceback", help="Show where an error comes from.")
    ] = False,
) -> None:
    """On-policy distillation of language-model agents in multi-turn text environments."""
    del traceback  # read by MistakesToLines
    _see_current_folder()
    # Torch reads it once: threads that spin while they wait for each other stand still together
    # wherever something else wants their cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if version:
        from importlib.metadata import version as installed

        typer.echo(f"agentopd {installed('agentopd')}")
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())
    elif context.invoked_subcommand not in ("train", "resume"):
        refuse_several(context.invoked_subcommand)


def _see_current_folder() -> None:
    """Let modules of the current folder be imported, as `python -m agentopd` does."""
    if not sys.flags.safe_path and not {"", os.getcwd()} & {*sys.path}:
        sys.path.insert(0, os.getcwd())


@app.command(rich_help_panel=_TRAIN)
def train(
    config: given.Config,
    overrides: given.Overrides = None,
    out: given.RunOut = None,
    resume: given.Resume = False,
) -> None:
    """Train a student.

    Ctrl-C finishes the step, saves it and stops; agentopd resume goes on from there.

    agentopd train configs/quickstart.yaml unit=turn unit.use=weight steps=50
    """
    running.train(config, overrides or [], out, resume)


@app.command(rich_help_panel=_TRAIN)
def compare(
    config: given.Config,
    overrides: given.Overrides = None,
    out: given.RunOut = None,
    resume: given.Resume = False,
    workers: given.Workers = 2,
    engine: given.Engine = "local",
) -> None:
    """Compare the arms of a config's study over its seeds.

    agentopd compare configs/quickstart.yaml steps=10 --out runs/short
    """
    running.compare(config, overrides or [], out, resume, workers, engine)


@app.command(rich_help_panel=_TRAIN)
def resume(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Of a run, a study, or several studies.")
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="steps, threads or sampler; steps=50 for more."),
    ] = None,
    workers: given.Workers = 2,
    engine: given.Engine = "local",
) -> None:
    """Go on with a run or a study; its folder knows the settings.

    agentopd resume runs/turn steps=100
    """
    running.resume(folder, overrides or [], workers, engine)


app.command(rich_help_panel=_TRAIN)(study)
app.command(rich_help_panel=_TRAIN)(prepare)
app.command(rich_help_panel=_TRAIN)(collect)
app.command(rich_help_panel=_TRAIN)(methods)


@app.command("eval", rich_help_panel=_LOOK)
def evaluate(
    model: given.Model,
    env: given.Environment = None,
    option: given.Options = None,
    wrapper: given.Wrappers = None,
    split: given.SplitName = None,
    episodes: given.Episodes = 128,
    seed: given.Seed = HELD_OUT_SEED,
    temperature: given.Temperature = None,
    top_p: given.TopP = None,
    top_k: given.TopK = None,
    max_turn_tokens: given.TurnTokens = None,
    max_turns: given.Turns = None,
    max_context: given.Context = None,
    slots: given.Slots = None,
    template_option: given.TemplateOptions = None,
    device: given.Device = "cpu",
    dtype: given.Dtype = None,
    threads: given.Threads = None,
    sampler: given.SamplerName = None,
    habits: given.Habits = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure how often a model solves an environment's tasks, as runs are measured.

    Of a run's folder, what is not given is as in the run: its test tasks, its wrappers, its limits.

    agentopd eval runs/turn --episodes 256

    agentopd eval zoo:sokoban-easy --env agentopd/Sokoban-v0 -o prompt=brief
    """
    own = acting.parse_options(option or [])
    options = own | ({"split": split} if split else {})
    others = {key: value for key, value in own.items() if key != "split"}
    settings = acting.Acting(
        model=model, env=place(env, options, wrapper or [], run=model, held_out=True),
        episodes=episodes, seed=seed, device=device, dtype=dtype, threads=threads,
        temperature=temperature, top_p=top_p, top_k=top_k, held_out=True, slots=slots,
        max_turn_tokens=max_turn_tokens, max_turns=max_turns, max_context=max_context,
        template_options=acting.parse_options(template_option or []), sampler=sampler,
        chosen_on=place(env, others, wrapper or [], run=model) if habits else None,
    )  # fmt: skip
    acting.evaluate(settings, as_json)


@app.command(rich_help_panel=_LOOK)
def play(
    model: given.Player,
    env: given.Environment = None,
    option: given.Options = None,
    wrapper: given.Wrappers = None,
    episodes: given.Episodes = 1,
    seed: given.Seed = 0,
    delay: given.Delay = 0.6,
    as_human: given.AsHuman = False,
    save: given.SaveText = None,
    raw: given.Raw = False,
    temperature: given.Temperature = None,
    top_p: given.TopP = None,
    top_k: given.TopK = None,
    max_turn_tokens: given.TurnTokens = None,
    max_turns: given.Turns = None,
    max_context: given.Context = None,
    template_option: given.TemplateOptions = None,
    device: given.Device = "cpu",
    sampler: given.SamplerName = None,
) -> None:
    """Watch a model act, or act yourself.

    agentopd play zoo:sokoban-easy --env agentopd/Sokoban-v0 -o prompt=brief

    agentopd play agentopd/Sokoban-v0 --as-human

    A person types an answer a line; ?oracle, ?facts, ?feedback and others, which
    ?help lists, tell what a teacher would be told. Ctrl-D ends the game.
    """
    if as_human or model == "human":
        where = model if as_human and model != "human" else env
        if as_human and env and model != "human":
            raise ValueError(f"{model} and {env} are two environments: leave out --env")
        options = acting.parse_options(option or [])
        person.play(place(where, options, wrapper or []), seed, episodes, raw, save)
        return
    if save is not None:
        raise ValueError("--save keeps what a person plays: say --as-human, or collect episodes")
    settings = acting.Acting(
        model=model, env=place(env, acting.parse_options(option or []), wrapper or [], run=model),
        episodes=episodes, seed=seed, device=device, sampler=sampler, held_out=False,
        temperature=temperature, top_p=top_p, top_k=top_k,
        max_turn_tokens=max_turn_tokens, max_turns=max_turns, max_context=max_context,
        template_options=acting.parse_options(template_option or []),
    )  # fmt: skip
    acting.watch(settings, delay)


@app.command(rich_help_panel=_LOOK)
def report(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Of a run, a study, or several studies.")
    ],
) -> None:
    """Write report.html again: of a run, of a study, or over all studies in a folder."""
    running.report(folder)


@app.command(rich_help_panel=_MODELS)
def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")],
    to: given.ExportTo,
    merge: given.Merge = False,
    base: given.BaseName = None,
) -> None:
    """Write a run's student, as of its last checkpoint, with a model card.

    transformers and vLLM load the folder: a model, or of a student with adapters these alone.

    agentopd export runs/lora --to exported --merge
    """
    exporting.export(run, to, merge, base)


@app.command(rich_help_panel=_LOOK)
def replay(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")],
    change: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Of unit, divergence, weight, mix or schedule, against the run; repeatable.",
        ),
    ] = None,
    arm: Annotated[
        list[str] | None,
        typer.Option(
            metavar="'NAME KEY=VALUE ...'",
            help="One more arm beside the run and that of --set; repeatable.",
        ),
    ] = None,
    step: Annotated[
        int | None,
        typer.Option(min=0, metavar="N", help="If not given, the last one with saved scores."),
    ] = None,
    rescore: Annotated[
        bool,
        typer.Option(
            "--rescore",
            help="Ask the models again, for another teacher, privilege or view: of the first step.",
        ),
    ] = False,
    as_json: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Also write the numbers.")
    ] = None,
    plot: Annotated[bool, typer.Option("--plot", help="Also draw RUN/replay/step-N.png.")] = False,
) -> None:
    """Show what other settings would have made of a run's saved episodes, turn by turn.

    A turn's share of the signal, its mean (positive where what was said is
    reinforced), and how far each arm agrees with the run. Scores are saved by
    a run with save.scores_top_k=16. Of a method's row all but its rollout is
    taken.

    agentopd replay runs/token --set unit=turn --arm "fkl divergence=forward_kl"

    agentopd replay runs/token --rescore --set method=opsd
    """
    replaying.replay(run, change or [], arm or [], step, rescore, as_json, plot)


@app.command(rich_help_panel=_LOOK)
def verdicts(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")],
    step: Annotated[
        int | None,
        typer.Option(min=0, metavar="N", help="If not given, the last one that was saved."),
    ] = None,
    episode: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="If not given, the first that failed.")
    ] = None,
) -> None:
    """Show what a run's rubric said of a step, and which tokens each verdict paid.

    First each criterion over the step: in how many turns it was judged, how
    often it was met in solved and in failed episodes, and what it paid a
    token. Then one episode turn by turn: each verdict with the text that was
    paid. What is paid is a reward with use: reward; else a weight, which
    grows where a criterion is not met, before the step's weights are brought
    to a mean of 1.

    agentopd verdicts runs/rubric --episode 12
    """
    judging.verdicts(run, step, episode)


@app.command(rich_help_panel=_ENVIRONMENTS)
def envs() -> None:
    """List the registered text environments."""
    listing.envs()


@app.command("check-env", rich_help_panel=_ENVIRONMENTS)
def check_env(
    spec: Annotated[str, typer.Argument(metavar="ID", help=given.NAMED_OR_RUN)],
    option: given.Options = None,
    wrapper: given.Wrappers = None,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict",
            help="More and longer episodes, compared with a process that hashes differently.",
        ),
    ] = False,
    seeds: Annotated[
        int | None,
        typer.Option(min=2, metavar="N", help="Tasks to try. If not given 20, with --strict 30."),
    ] = None,
    seconds: Annotated[
        float,
        typer.Option(
            metavar="S", help="Time in seconds from which a call counts as one that never returns."
        ),
    ] = 30.0,
) -> None:
    """Say what is wrong with an environment, and what to change.

    The exit code is 1 when something would break training, else 0.
    """
    env = place(spec, acting.parse_options(option or []), wrapper or [])
    listing.check_env(spec, env, strict, seeds, seconds)


@app.command("serve-env", rich_help_panel=_ENVIRONMENTS)
def serve_env(
    spec: Annotated[str, typer.Argument(metavar="ID", help=given.NAMED_OR_RUN)],
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="The address to listen on.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65_535, metavar="N", help="0 takes a free one.")
    ] = 8000,
    option: given.Options = None,
    wrapper: given.Wrappers = None,
    sessions: Annotated[int, typer.Option(min=1, metavar="N", help="Clients at a time.")] = 64,
    privileged: Annotated[
        bool,
        typer.Option(
            "--privileged", help="Also send what is for the teacher alone: oracle, feedback, ..."
        ),
    ] = False,
) -> None:
    """Serve an environment to OpenEnv clients over WebSocket.

    agentopd serve-env agentopd/Sokoban-v0 --port 8000 -o prompt=brief

    The other side is openenv's own client, or the environment openenv:ws://127.0.0.1:8000/ws.
    """
    env = place(spec, acting.parse_options(option or []), wrapper or [])
    serving.serve_env(env, host, port, sessions, privileged)
