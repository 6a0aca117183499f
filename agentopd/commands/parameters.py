"""What several commands take: arguments and options, each with its help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

NAMED = (
    "A registered id; module:Class or module:ID of your own, such as maze:Maze or maze:me/Maze-v0; "
    "or scheme:NAME."
)
NAMED_OR_RUN = NAMED + " Of a run's folder, its environment in its wrappers."
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
    Path | None,
    typer.Option(
        metavar="FOLDER", help="The folder to write; runs/NAME of CONFIG's name if not given."
    ),
]
Workers = Annotated[int, typer.Option(min=1, help="Of a study: runs at a time.")]
Engine = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="Of a study: local, ray, slurm, or one with settings: '{kind: ray, cpus: 2}'.",
    ),
]
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
        metavar="MODEL",
        help="A model's folder, zoo:NAME, a run's folder; with --as-human an environment.",
    ),
]
Environment = Annotated[
    str | None,
    typer.Option("--env", metavar="ID", help=NAMED + " If not given, as in MODEL's run."),
]
Options = Annotated[
    list[str] | None,
    typer.Option(
        "--option", "-o", metavar="KEY=VALUE", help="For the environment's constructor; repeatable."
    ),
]
TemplateOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--template-option",
        metavar="KEY=VALUE",
        help="For the chat template, such as enable_thinking=false; repeatable." + _AS_IN_A_RUN,
    ),
]
Wrappers = Annotated[
    list[str] | None,
    typer.Option(
        "--wrapper", metavar="YAML",
        help="Around the environment, as in a config: '{kind: parse, tag: answer}'; repeatable.",
    ),
]  # fmt: skip
Episodes = Annotated[int, typer.Option(min=1, metavar="N", help="Tasks to play, one episode each.")]
Seed = Annotated[
    int,
    typer.Option(
        min=0, max=2**62, metavar="N", help="The first task's; the others count up from it."
    ),
]
Device = Annotated[str, typer.Option(metavar="NAME", help="cpu or cuda.")]
Dtype = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="float32 or bfloat16, of the weights." + _AS_IN_A_RUN),
]
Threads = Annotated[
    int | None,
    typer.Option(min=1, max=1_024, metavar="N", help="Of torch; its own choice if not given."),
]
Temperature = Annotated[
    float | None,
    typer.Option(min=0, metavar="T", help="Of sampling; 0 takes the likeliest." + _AS_IN_A_RUN),
]
SamplerName = Annotated[
    str | None,
    typer.Option(
        "--sampler", metavar="YAML",
        help="What runs the model: transformers, vllm, or '{kind: vllm_server, url: ...}'."
        + _AS_IN_A_RUN,
    ),
]  # fmt: skip
TopP = Annotated[
    float | None,
    typer.Option(
        min=0, max=1, metavar="P", help="Sample from the likeliest tokens that hold P alone; 1 for "
        "all." + _AS_IN_A_RUN,
    ),
]  # fmt: skip
TopK = Annotated[
    int | None,
    typer.Option(
        min=0, metavar="K", help="Sample from the K likeliest tokens alone; 0 for all."
        + _AS_IN_A_RUN,
    ),
]  # fmt: skip
TurnTokens = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="Tokens after which an answer is cut." + _AS_IN_A_RUN),
]
Turns = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="Turns after which an episode is cut." + _AS_IN_A_RUN),
]
Context = Annotated[
    int | None, typer.Option(min=8, metavar="N", help="Tokens that end an episode." + _AS_IN_A_RUN)
]
Slots = Annotated[
    int | None, typer.Option(min=1, help="Environments that are open at once." + _AS_IN_A_RUN)
]
Changes = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Of the run that is planned, such as privilege=ground_truth; repeatable.",
    ),
]
Habits = Annotated[
    bool,
    typer.Option(
        help="Also measure what a random legal action, the best constant and the best two at "
        "random score, where the environment lists its actions."
    ),
]
SplitName = Annotated[str | None, typer.Option(metavar="NAME", help="Short for -o split=NAME.")]
Delay = Annotated[
    float, typer.Option(min=0, metavar="S", help="Seconds between what is shown on a terminal.")
]
AsHuman = Annotated[
    bool, typer.Option("--as-human", help="Play it yourself; MODEL is the environment.")
]
SaveText = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE.jsonl",
        help="Add what you play to a file, a line an episode, which agentopd collect reads.",
    ),
]
Raw = Annotated[
    bool, typer.Option("--raw", help="Do not put what you type into <action></action>.")
]
ExportTo = Annotated[
    Path, typer.Option("--to", metavar="FOLDER", help="The folder to write; new, or empty.")
]
Merge = Annotated[
    bool, typer.Option("--merge", help="Add a student's adapters to the weights of their base.")
]
BaseName = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="What others call the model that the run started from; its folder if not given.",
    ),
]
JsonFile = Annotated[
    Path | None, typer.Option("--json", metavar="FILE", help="Also write the numbers.")
]
