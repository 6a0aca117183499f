"""Tasks as rows of a file: JSON lines, a JSON list or Parquet, read once in a process; and what
answers to them look like.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from agentopd.environment.contract import without_reasoning

_FORMS = ".jsonl, .json or .parquet"


@lru_cache(maxsize=8)
def read_rows(path: str) -> tuple[Mapping[str, Any], ...]:
    """The rows of a file.

    Raises:
        ValueError: it cannot be read, holds no rows, or is of another form.
    """
    try:
        found = _read(Path(path))
    except OSError as error:
        raise ValueError(f"the tasks cannot be read from {path}: {error.strerror}") from error
    except ValueError as error:
        raise ValueError(f"{path} holds no tasks: {error}") from error
    if not found or not all(isinstance(row, dict) for row in found):
        raise ValueError(f"{path} holds no tasks: it must have rows, each a table of its columns")
    return tuple(found)


def _read(path: Path) -> list[Any]:
    if path.suffix == ".parquet":
        from pyarrow import parquet

        return parquet.read_table(path).to_pylist()
    if path.suffix not in (".jsonl", ".json"):
        raise ValueError(f"write the rows as {_FORMS}")
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in text.splitlines() if line.strip()]
    rows = json.loads(text)
    return rows if isinstance(rows, list) else []


def read_answer(answer: str, forms: Sequence[re.Pattern[str]]) -> str | None:
    """An answer without its thoughts, if it has one of the forms, or where there are none says
    anything at all.
    """
    said = without_reasoning(answer).strip()
    if not forms:
        return said if any(letter.isalnum() for letter in said) else None
    return said if any(form.search(said) for form in forms) else None


def form_pattern(form: str) -> re.Pattern[str]:
    """What an answer in a form looks like, {} standing for what it says.

    Raises:
        ValueError: the form has no {}.
    """
    if "{}" not in form:
        raise ValueError(f"a form of answers holds {{}} where it says something, not {form!r}")
    before, _, after = form.partition("{}")
    return re.compile(re.escape(before) + r"\s*\S.*?" + re.escape(after), re.DOTALL)
