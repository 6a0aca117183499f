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
from agentopd.commands import acting, judging, listing, replaying, running, serving
from agentopd.commands.place import place
from agentopd.environment.contract import HELD_OUT_SEED

app = typer.Typer(
    cls=MistakesToLines,
    help="On-policy distillation of language-model agents in multi-turn text environments.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
zoo = typer.Typer(no_args_is_help=True, help="The embedded models.")
app.add_typer(zoo, name="zoo")

_NAMED = (
    "A registered id; module:Class or module:ID of your own, such as maze:Maze or maze:me/Maze-v0; "
    "or scheme:NAME."
)
_NAMED_OR_RUN = _NAMED + " Of a run's folder, its environment in its wrappers."
_AS_IN_A_RUN = " If not given, as in a run."

Config = Annotated[
    Path,
    typer.Argument(
        metavar="CONFIG",
        help="A YAML file of settings, or one that comes with agentopd: quickstart, studies/desk.",
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE",
        help="Settings in place of the file's, such as steps=50, teacher=ema or learner.clip=0.5.",
    ),
]
RunOut = Annotated[
    Path | None, typer.Option(help="The folder to write; runs/NAME of CONFIG's name if not given.")
]
Workers = Annotated[int, typer.Option(min=1, help="Of a study: runs at a time.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with what was interrupted.")]
Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="A model's folder, zoo:NAME, or a run's folder (its last checkpoint)."
    ),
]
Player = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="A model's folder, zoo:NAME, a run's folder, or human: you play."
    ),
]
Environment = Annotated[
    str | None,
    typer.Option("--env", metavar="ID", help=_NAMED + " If not given, as in MODEL's run."),
]
Options = Annotated[
    list[str] | None,
    typer.Option(
        "--option", "-o", metavar="KEY=VALUE", help="For the environment's constructor; repeatable."
    ),
]
Wrappers = Annotated[
    list[str] | None,
    typer.Option(
        "--wrapper", metavar="YAML",
        help="Around the environment, as in a config: '{kind: parse, tag: answer}'; repeatable.",
    ),
]  # fmt: skip
Episodes = Annotated[int, typer.Option(min=1, help="Tasks to play, one episode each.")]
Seed = Annotated[
    int, typer.Option(min=0, max=2**62, help="The first task's; the others count up from it.")
]
Device = Annotated[str, typer.Option(help="cpu or cuda.")]
Dtype = Annotated[
    str | None, typer.Option(help="float32 or bfloat16, of the weights." + _AS_IN_A_RUN)
]
Threads = Annotated[
    int | None, typer.Option(min=1, max=1_024, help="Of torch; its own choice if not given.")
]
Temperature = Annotated[
    float | None, typer.Option(min=0, help="Of sampling; 0 takes the likeliest." + _AS_IN_A_RUN)
]
TurnTokens = Annotated[
    int | None, typer.Option(min=1, help="Tokens after which an answer is cut." + _AS_IN_A_RUN)
]
Turns = Annotated[
    int | None, typer.Option(min=1, help="Turns after which an episode is cut." + _AS_IN_A_RUN)
]
Context = Annotated[
    int | None, typer.Option(min=8, help="Tokens that end an episode." + _AS_IN_A_RUN)
]


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
    if version:
        from importlib.metadata import version as installed

        typer.echo(f"agentopd {installed('agentopd')}")
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


def _see_current_folder() -> None:
    """Let modules of the current folder be imported, as `python -m agentopd` does."""
    if not sys.flags.safe_path and not {"", os.getcwd()} & {*sys.path}:
        sys.path.insert(0, os.getcwd())


@app.command()
def train(
    config: Config, overrides: Overrides = None, out: RunOut = None, resume: Resume = False
) -> None:
    """Train a student.

    Ctrl-C finishes the step, saves it and stops; agentopd resume goes on from there.

    agentopd train configs/quickstart.yaml unit=turn unit.use=weight steps=50 --out runs/turn
    """
    running.train(config, overrides or [], out, resume)


@app.command()
def compare(
    config: Config,
    overrides: Overrides = None,
    out: RunOut = None,
    resume: Resume = False,
    workers: Workers = 2,
) -> None:
    """Compare the arms of a config's study over its seeds.

    agentopd compare configs/quickstart.yaml steps=10 --out runs/short
    """
    running.compare(config, overrides or [], out, resume, workers)


@app.command()
def resume(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Of a run or a study.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="steps or threads, such as steps=50 for more."),
    ] = None,
    workers: Workers = 2,
) -> None:
    """Go on with a run or a study; its folder knows the settings.

    agentopd resume runs/turn steps=100
    """
    running.resume(folder, overrides or [], workers)


@app.command("eval")
def evaluate(
    model: Model,
    env: Environment = None,
    option: Options = None,
    wrapper: Wrappers = None,
    split: Annotated[str | None, typer.Option(help="Short for -o split=NAME.")] = None,
    episodes: Episodes = 128,
    seed: Seed = HELD_OUT_SEED,
    temperature: Temperature = None,
    max_turn_tokens: TurnTokens = None,
    max_turns: Turns = None,
    max_context: Context = None,
    device: Device = "cpu",
    dtype: Dtype = None,
    threads: Threads = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure how often a model solves an environment's tasks, as runs are measured.

    Of a run's folder, what is not given is as in the run: its test tasks, its wrappers, its limits.

    agentopd eval runs/turn --episodes 256

    agentopd eval zoo:sokoban-easy --env agentopd/Sokoban-v0 --split test
    -o prompt=brief -o stop_when_stuck=true
    """
    options = acting.parse_options(option or []) | ({"split": split} if split else {})
    settings = acting.Acting(
        model=model, env=place(env, options, wrapper or [], run=model, held_out=True),
        episodes=episodes, seed=seed, device=device, dtype=dtype, threads=threads,
        temperature=temperature, held_out=True,
        max_turn_tokens=max_turn_tokens, max_turns=max_turns, max_context=max_context,
    )  # fmt: skip
    acting.evaluate(settings, as_json)


@app.command()
def play(
    model: Player,
    env: Environment = None,
    option: Options = None,
    wrapper: Wrappers = None,
    episodes: Episodes = 1,
    seed: Seed = 0,
    delay: Annotated[
        float, typer.Option(min=0, help="Seconds between what is shown on a terminal.")
    ] = 0.6,
    raw: Annotated[
        bool, typer.Option("--raw", help="Do not put what you type into <action></action>.")
    ] = False,
    temperature: Temperature = None,
    max_turn_tokens: TurnTokens = None,
    max_turns: Turns = None,
    max_context: Context = None,
    device: Device = "cpu",
) -> None:
    """Watch a model act, or act yourself.

    agentopd play zoo:sokoban-easy --env agentopd/Sokoban-v0 -o prompt=brief -o stop_when_stuck=true

    agentopd play human --env agentopd/Sokoban-v0
    """
    settings = acting.Acting(
        model=model, env=place(env, acting.parse_options(option or []), wrapper or [], run=model),
        episodes=episodes, seed=seed, device=device, temperature=temperature, held_out=False,
        max_turn_tokens=max_turn_tokens, max_turns=max_turns, max_context=max_context,
    )  # fmt: skip
    if model == "human":
        acting.play_yourself(settings, raw)
    else:
        acting.watch(settings, delay)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Of a run or a study.")],
) -> None:
    """Write report.html and plots of a run or a study again."""
    running.report(folder)


@app.command()
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
        int | None, typer.Option(min=0, help="If not given, the last one with saved scores.")
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

    A turn's share of the signal, its mean (positive where what was said is reinforced), and how far
    each arm agrees with the run. Scores are saved by a run with save.scores_top_k=16. Of a method's
    row all but its rollout is taken.

    agentopd replay runs/token --set unit=rubric_span --arm "forward divergence=forward_kl"
    agentopd replay runs/token --rescore --set method=opsd
    """
    replaying.replay(run, change or [], arm or [], step, rescore, as_json, plot)


@app.command()
def verdicts(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")],
    step: Annotated[
        int | None, typer.Option(min=0, help="If not given, the last one that was saved.")
    ] = None,
    episode: Annotated[
        int | None, typer.Option(min=0, help="If not given, the first that failed.")
    ] = None,
) -> None:
    """Show what a run's rubric said of a step, and which tokens each verdict paid.

    First each criterion over the step: in how many turns it was judged, how often it was met in
    solved and in failed episodes, and what it paid a token. Then one episode turn by turn: each
    verdict with the text that was paid. What is paid is a reward with use: reward; else a weight,
    which grows where a criterion is not met, before the step's weights are brought to a mean of 1.

    agentopd verdicts runs/rubric --episode 12
    """
    judging.verdicts(run, step, episode)


@app.command()
def envs() -> None:
    """List the registered text environments."""
    listing.envs()


@app.command()
def methods() -> None:
    """List the methods for method=NAME, and their values on the axes."""
    listing.methods()


@app.command("check-env")
def check_env(
    spec: Annotated[str, typer.Argument(metavar="ID", help=_NAMED_OR_RUN)],
    option: Options = None,
    wrapper: Wrappers = None,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict",
            help="More and longer episodes, compared with a process that hashes differently.",
        ),
    ] = False,
    seeds: Annotated[
        int | None, typer.Option(min=2, help="Tasks to try. If not given 20, with --strict 30.")
    ] = None,
    seconds: Annotated[
        float, typer.Option(help="Time from which a call counts as one that never returns.")
    ] = 30.0,
) -> None:
    """Say what is wrong with an environment, and what to change.

    The exit code is 1 when something would break training, else 0.
    """
    env = place(spec, acting.parse_options(option or []), wrapper or [])
    listing.check_env(spec, env, strict, seeds, seconds)


@app.command("serve-env")
def serve_env(
    spec: Annotated[str, typer.Argument(metavar="ID", help=_NAMED_OR_RUN)],
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="0 takes a free one.")] = 8000,
    option: Options = None,
    wrapper: Wrappers = None,
    sessions: Annotated[int, typer.Option(min=1, help="Clients at a time.")] = 64,
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


@zoo.command("list")
def zoo_list() -> None:
    """List the embedded models."""
    listing.zoo()


@zoo.command("build")
def zoo_build(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A model of `agentopd zoo list`.")],
    out: Annotated[
        Path | None, typer.Option(help="The folder to write; the embedded one's if not given.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="In place of the recipe's, for a trial.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Of torch.")] = None,
) -> None:
    """Train an embedded model again, from its seed."""
    listing.build(name, out, steps, threads)


@zoo.command("measure")
def zoo_measure(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A model of `agentopd zoo list`.")],
    episodes: Episodes = 512,
) -> None:
    """Measure an embedded model on held-out levels, alone and when told; prints JSON."""
    listing.measure(name, episodes)
