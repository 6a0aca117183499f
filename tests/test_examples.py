"""The programs we show people run as they stand."""

from __future__ import annotations

import ast
import io
import json
import re
import tokenize
from pathlib import Path
from typing import Any

import pytest
from warm import python

import agentopd

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
KINDS = ("divergence", "env", "mix", "rollout", "source", "teacher", "unit", "weight")


def _run(*words: str) -> None:
    """Run Python at the top of the checkout."""
    done = python(*words, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def _summary(run: Path) -> dict[str, Any]:
    return json.loads((run / "summary.json").read_text(encoding="utf-8"))


def _code_lines(source: str) -> set[int]:
    """The lines that hold code: no blank ones, no comments, no docstrings."""
    idle = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
    found: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in (*idle, tokenize.ENDMARKER):
            found |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        speaks = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        if speaks and ast.get_docstring(node):
            said = node.body[0]
            found -= set(range(said.lineno, (said.end_lineno or 0) + 1))
    return found


def test_code_is_told_from_what_explains_it() -> None:
    source = (
        '"""A module.\n\nTwo lines."""\n\nx = (\n    1\n)  # one\n# two\ndef f():\n    """F."""\n'
    )
    assert _code_lines(source) == {5, 6, 7, 9}


def test_there_is_one_of_each_kind() -> None:
    assert {f"custom_{kind}" for kind in KINDS} <= {path.stem for path in EXAMPLES}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_trains(path: Path, tmp_path: Path) -> None:
    assert len(_code_lines(path.read_text(encoding="utf-8"))) <= 30
    _run(str(path), str(tmp_path / "run"))
    summary = _summary(tmp_path / "run")
    assert summary["steps"] == 2
    assert not summary["errors"]
    assert not summary["notices"]


def _readme(number: int) -> str:
    """One of the first page's pieces of Python."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)[number]


def test_the_unit_on_the_first_page_trains(tmp_path: Path) -> None:
    code = _readme(0)
    assert len(code.strip().splitlines()) <= 16
    _run("-c", code.replace('"runs/last_turn"', repr(str(tmp_path / "run"))))
    assert _summary(tmp_path / "run")["steps"] == 2


def test_the_environment_on_the_first_page_keeps_the_contract(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "echo_of_the_readme.py").write_text(_readme(1), encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    found = agentopd.check_env("echo_of_the_readme:me/Echo-v0")
    assert [f for f in found if f.level == "error"] == []


def test_the_environment_of_the_examples_keeps_the_contract(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    found = agentopd.check_env("custom_env:Guess")
    assert [f for f in found if f.level == "error"] == []
