"""`agentopd envs`, `methods`, `check-env` and `zoo`: what there is, and whether it is sound."""

from __future__ import annotations

import importlib
import inspect
import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
import yaml

import agentopd
from agentopd.base.console import quiet_libraries, stdout, table, warn, working
from agentopd.commands.progress import build_progress

if TYPE_CHECKING:  # a command without an environment starts sooner
    from agentopd.environment.settings import EnvSettings


def envs() -> None:
    """Print the registered text environments, and the schemes that bring others."""
    from agentopd.environment.registry import env_ids, make, register_plugins

    for broken in register_plugins():
        warn(broken)
    rows = []
    for name in env_ids():
        try:
            env = make(name)
        except ValueError as error:
            reason = _first_line(str(error)).removeprefix(f"{name} cannot be built: ")
            rows.append((name, f"cannot be built: {reason}", ""))
            continue
        prompt = getattr(env.unwrapped, "system_prompt", "") or ""
        what = _first_line(inspect.getdoc(type(env.unwrapped)) or "")
        rows.append((name, what, _first_line(prompt)))
        env.close()
    stdout().print(table(("id", "what it is", "system prompt"), rows))
    stdout().print(table(("scheme", "what it brings"), _schemes()))


def _schemes() -> list[tuple[str, str]]:
    """Each scheme, and what the module of its builder says of itself."""
    from agentopd.environment.registry import scheme_modules

    rows = [("gym:", "Gymnasium's own registry, for environments of strings.")]
    for scheme, module in scheme_modules().items():
        try:
            says = _first_line(inspect.getdoc(importlib.import_module(module)) or "")
        except ImportError as error:
            says = f"cannot be used: {_first_line(str(error))}"
        rows.append((f"{scheme}:", says.replace("`", "")))
    return sorted(rows)


def methods() -> None:
    """Print the methods that have a row, by group: what each is, and three of its values."""
    from agentopd.base.rows.header import rows

    listed, group = [], ""
    for row in rows():
        if row.group != group:
            group = row.group
            listed.append((group.upper(), "", "", "", ""))
        said = (_kinds(row.values.get(axis)) for axis in ("privilege", "unit", "teacher"))
        listed.append((row.name, row.in_short, *said))
    made = table(("method", "what it is", "privilege", "unit", "teacher"), listed)
    stdout().print(made)


def method(name: str) -> None:
    """Print what there is to say of one method: its row, equation, flow and cost.

    Raises:
        ConfigError: there is no such row.
    """
    with working("reading"):
        quiet_libraries()
        from agentopd.looking.methods.page import page

        said = page(name)
    typer.echo(said, nl=False)


def _kinds(value: Any) -> str:
    """The first kind of an axis, and how many more there are."""
    if value is None:
        return "-"
    first = value[0] if isinstance(value, list) else value
    more = len(value) - 1 if isinstance(value, list) else 0
    if isinstance(first, Mapping) and isinstance(first.get("of"), list):
        return _kinds([*first["of"], *value[1:]])
    kind = first if isinstance(first, str) else str(first.get("kind", ""))
    return f"{kind} +{more}" if more else kind


def check_env(spec: str, env: EnvSettings, strict: bool, seeds: int | None, seconds: float) -> None:
    """Print how an environment breaks the contract, and call it `spec`.

    Raises:
        ValueError: see `agentopd.environment.check.check_env`.
        typer.Exit: with code 1 when there is an error among the findings.
    """
    from agentopd.environment.check import check_env as check

    with working(f"playing {spec}"):
        if env.wrappers:
            named, options = "agentopd.environment.settings:build", env.model_dump(mode="json")
        else:
            named, options = env.id, env.options
        findings = check(named, options, seeds, strict, seconds)
    colours = {"error": "red", "warning": "yellow", "note": "blue"}
    for finding in findings:
        level = typer.style(f"{finding.level}:", fg=colours[finding.level], bold=True)
        typer.echo(f"{level} {finding.name}: {finding.message}")
    if any(finding.level == "error" for finding in findings):
        raise typer.Exit(1)
    if not findings:
        typer.echo(f"{spec} keeps the contract")


def zoo() -> None:
    """Print the embedded models, and how each is evaluated where it was trained."""
    from agentopd.zoo.recipes import RECIPES

    rows, commands = [], []
    for name, recipe in RECIPES.items():
        folder = _models() / name
        size = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
        state = f"{size / 1e6:.1f} MB" if folder.is_dir() else "not built"
        rows.append((f"zoo:{name}", recipe.summary, state))
        if folder.is_dir():
            options = recipe.options | recipe.levels | {"split": "test"}
            words = [f"{key}={_yaml(value)}" for key, value in options.items()]
            given = [word for pair in (("-o", word) for word in words) for word in pair]
            limit = ("--max-turn-tokens", str(recipe.turn_tokens))
            commands.append(
                shlex.join(["agentopd", "eval", f"zoo:{name}", "--env", recipe.env, *given, *limit])
            )
    stdout().print(table(("model", "what it is", "size"), rows, numbers=1))
    for command in commands:
        typer.echo(command)  # as one line, to be copied


def build(name: str, out: Path | None, steps: int | None, threads: int | None) -> None:
    """Train an embedded model, or, where `name` is a file, a student for an environment of one's
    own.

    The model that its recipe starts from is built too, beside `out`, unless it is there.

    Raises:
        ValueError: see `agentopd.zoo.build.build` and `agentopd.zoo.own.build.build_own`; or `out`
            holds something already.
    """
    if name.endswith((".yaml", ".yml")):
        _build_own(Path(name), out or Path(name).with_suffix(""), steps, threads)
        return
    with working("loading"):
        quiet_libraries()
        import torch

        from agentopd.zoo.build import build as train
    folder = out or _models() / name
    _refuse_full(folder)
    if threads is not None:
        torch.set_num_threads(threads)
    with build_progress(stdout()) as report:
        record = train(name, folder, steps, report)
    typer.echo(f"{folder}: loss {record['loss']:.4f} after {record['minutes']} minutes")


def _build_own(path: Path, folder: Path, steps: int | None, threads: int | None) -> None:
    _refuse_full(folder)
    with working("loading"):
        quiet_libraries()
        import torch

        from agentopd.zoo.own.build import build_own
        from agentopd.zoo.own.recipe import read_recipe

        recipe = read_recipe(path)
    if threads is not None:
        torch.set_num_threads(threads)
    with build_progress(stdout()) as report:
        built = build_own(recipe, folder, steps, report)
    judged = built.judged
    typer.echo(f"{folder}: loss {built.loss:.4f} after {built.minutes} minutes")
    rows = [(name, *one.row()) for name, one in judged.rows()]
    stdout().print(table(("student", "success", "95 % interval", "tasks"), rows, numbers=3))
    if built.warning:
        warn(built.warning)
    given = f"student.path={folder} rollout.max_turn_tokens={built.turn_tokens}"
    typer.echo(f"train it with {given} {judged.settings()}")


def _refuse_full(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} holds something already; name another folder with --out")


def measure(name: str, episodes: int) -> None:
    """Print, as JSON, how well an embedded model plays alone and when told.

    Raises:
        ValueError: no embedded model has that name; or, after the figures, texts that help nobody
            make it play half as well as the skill does.
    """
    with working("measuring"):
        quiet_libraries()
        from agentopd.zoo.measure import measure as measured
        from agentopd.zoo.measure import too_easily_stirred

        found = measured(name, episodes)
    typer.echo(json.dumps(found, indent=2))
    if stirred := too_easily_stirred(found):
        raise ValueError(
            f"{name} is not to be shipped: told {' or '.join(stirred)}, it gains half of what the "
            "skill gains it or more, so that no control would show what a text is worth. Give the "
            "negative forms of its recipe larger shares, or more steps"
        )


def _models() -> Path:
    return Path(agentopd.__file__).parent / "zoo" / "models"


def _yaml(value: Any) -> str:
    """A value on one line, as `-o` reads it."""
    return yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix("...\n").strip()


def _first_line(text: str) -> str:
    return text.strip().split("\n")[0]
