"""What the pages say exists: links, commands, options, configurations, names."""

from __future__ import annotations

import ast
import inspect
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

import agentopd
from agentopd.cli import app

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_PLACEHOLDER = re.compile(r"\b[A-Z][A-Z_]+\b")


def _named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _anchor(heading: str) -> str:
    """As the site makes it of a heading."""
    words = re.sub(r"[^\w\s-]", "", heading.replace("`", "")).strip().lower()
    return re.sub(r"[\s-]+", "-", words)


def _anchors(page: Path) -> set[str]:
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    return {_anchor(heading) for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE)}


def _broken(page: Path, target: str) -> str:
    """Why a relative link of a page leads nowhere; empty where it leads somewhere."""
    name, _, anchor = target.partition("#")
    found = (page.parent / name).resolve() if name else page
    if not found.exists():
        return "no such file"
    if page.parent.name == "docs" and not found.is_relative_to(ROOT / "docs"):
        return "not on the site"
    if anchor and anchor not in _anchors(found):
        return "no such heading"
    return ""


@pytest.mark.parametrize("page", PAGES, ids=_named)
def test_links_lead_somewhere(page: Path) -> None:
    targets = _LINK.findall(_FENCE.sub("", page.read_text(encoding="utf-8")))
    local = [target for target in targets if "://" not in target]
    assert [(t, why) for t in local if (why := _broken(page, t))] == []


def test_a_broken_link_is_seen() -> None:
    page = ROOT / "docs" / "index.md"
    assert _broken(page, "methods.md") == ""
    assert _broken(page, "methods.md#a-value-of-your-own") == ""
    assert _broken(page, "nothing.md") == "no such file"
    assert _broken(page, "../README.md") == "not on the site"
    assert _broken(page, "methods.md#nothing") == "no such heading"


def _leaves(nav: Any) -> Iterator[str]:
    if isinstance(nav, str):
        yield nav
    else:
        for entry in nav.values() if isinstance(nav, dict) else nav:
            yield from _leaves(entry)


def test_every_page_is_in_the_navigation_once() -> None:
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    assert sorted(_leaves(site["nav"])) == sorted(p.name for p in (ROOT / "docs").glob("*.md"))


def _commands(text: str) -> list[str]:
    """The lines of a page, or of a configuration's header, that call `agentopd`, and the calls in
    sentences.
    """
    lines = re.findall(r"^(?: {4}|#   )(agentopd .*)$", text, re.MULTILINE)
    return [*lines, *re.findall(r"`(agentopd [^`]+)`", re.sub(r"\n(?!\n)", " ", text))]


ALL_COMMANDS = [
    pytest.param(command, id=f"{_named(path)}: {command}"[:90])
    for path in [*PAGES, *CONFIGS]
    if path.name != "CHANGELOG.md"
    for command in _commands(path.read_text(encoding="utf-8"))
]


def _parse(command: str) -> tuple[str, dict[str, Any]]:
    """The command's name and its parameters, read by the command line itself, which runs nothing.

    Raises:
        click's UsageError: there is no such command, option or argument.
    """
    words = shlex.split(command, comments=True)[1:]
    group: Any = typer.main.get_command(app)
    while hasattr(group, "commands"):
        group = group.commands[words.pop(0)]
    context = group.make_context(group.name, words)
    return str(group.name), context.params


@pytest.mark.parametrize("command", ALL_COMMANDS)
def test_commands_name_what_exists(command: str) -> None:
    if len(shlex.split(command, comments=True)) == 2:  # named in a sentence, not called
        assert shlex.split(command)[1] in typer.main.get_command(app).commands  # type: ignore[attr-defined]
        return
    name, given = _parse(command)
    if name in ("train", "compare") and not _PLACEHOLDER.search(str(given["config"])):
        agentopd.load_config(ROOT / given["config"], given["overrides"] or [])


def test_wrong_commands_are_seen() -> None:
    with pytest.raises(KeyError):
        _parse("agentopd trian configs/quickstart.yaml")
    with pytest.raises(Exception, match="No such option"):
        _parse("agentopd train configs/quickstart.yaml --step 3")


def _blocks(page: Path, language: str) -> list[str]:
    return [
        code for name, code in _FENCE.findall(page.read_text(encoding="utf-8")) if name == language
    ]


@pytest.mark.parametrize("page", [*PAGES, *EXAMPLES], ids=_named)
def test_code_imports_from_the_public_face_alone(page: Path) -> None:
    sources = (
        [page.read_text(encoding="utf-8")] if page.suffix == ".py" else _blocks(page, "python")
    )
    for source in sources:
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ImportFrom) and node.module:
                if node.module.partition(".")[0] == "agentopd":
                    assert node.module == "agentopd"
                    assert {alias.name for alias in node.names} <= set(agentopd.__all__)
            elif isinstance(node, ast.Import):
                assert not [a.name for a in node.names if a.name.startswith("agentopd.")]


@pytest.mark.parametrize("page", PAGES, ids=_named)
def test_settings_are_yaml(page: Path) -> None:
    for block in _blocks(page, "yaml"):
        assert isinstance(yaml.safe_load(block), dict)


def test_the_reference_has_the_public_names() -> None:
    text = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^::: agentopd\.(\w+)$", text, re.MULTILINE)) == sorted(
        agentopd.__all__
    )


def _undocumented(name: str) -> Iterator[str]:
    """The public name, and those of its own members, that have no docstring of their own."""
    thing = getattr(agentopd, name)
    if not thing.__doc__:
        yield name
    for key, member in vars(thing).items() if isinstance(thing, type) else ():
        if key.startswith("_") or key in ("model_config", "model_post_init"):
            continue
        value = member.__func__ if isinstance(member, classmethod | staticmethod) else member
        spoken = inspect.isfunction(value) or isinstance(value, property)
        if spoken and not value.__doc__:
            yield f"{name}.{key}"


@pytest.mark.parametrize("name", agentopd.__all__)
def test_public_names_have_docstrings(name: str) -> None:
    assert list(_undocumented(name)) == []
