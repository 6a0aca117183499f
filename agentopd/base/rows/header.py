"""What the file of a method's row says of itself, in the comment that it begins with.

# NAME, arXiv 1234.56789: what the method is, in sentences.
# group: self-distillation
# in short: one line of at most 60 characters
# inferred: what no paper says; nothing, where all of it is published
#   agentopd train configs/quickstart.yaml method=NAME

A row of one's own may leave all of it out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from agentopd.base.files import read_text
from agentopd.base.written import FOLDER, read_mapping

GROUPS = (
    "classic",
    "self-distillation",
    "agentic",
    "black box",
    "taught teachers",
    "industrial",
    "baselines",
)
"""Of the methods that come along, in the order in which they are listed."""
UNKNOWN = "-"
_FIELD = re.compile(r"# (group|in short|inferred): (.+)")
_ARXIV = re.compile(r"arXiv (\d{4}\.\d{4,5})")
_COMMAND = re.compile(r"#   (agentopd .+)")


@dataclass(frozen=True)
class Row:
    """A method's row: what its file says of itself, and its values on the axes.

    Attributes:
        name: of the method, as `method=` takes it.
        text: the file's prose, in one line.
        group, in_short, arxiv, inferred, command: `-` where the file does not say.
    """

    name: str
    values: dict[str, Any]
    text: str
    group: str = UNKNOWN
    in_short: str = UNKNOWN
    arxiv: str = UNKNOWN
    inferred: str = UNKNOWN
    command: str = UNKNOWN

    @classmethod
    def read(cls, path: Path, name: str = "") -> Row:
        """The row in a file.

        Raises:
            ConfigError: it cannot be read, or holds no mapping.
        """
        values = read_mapping(path)
        head = [*takewhile(lambda line: line.startswith("#"), read_text(path).splitlines())]
        said = {found[1]: found[2].strip() for line in head if (found := _FIELD.fullmatch(line))}
        commands = [found[1] for line in head if (found := _COMMAND.fullmatch(line))]
        prose = [x for x in head if not _FIELD.fullmatch(x) and not _COMMAND.fullmatch(x)]
        text = " ".join(" ".join(line.lstrip("# ") for line in prose).split())
        arxiv = _ARXIV.search(text)
        return cls(
            name=name or path.stem,
            values=values,
            text=text,
            group=said.get("group", UNKNOWN),
            in_short=said.get("in short", UNKNOWN),
            arxiv=arxiv[1] if arxiv else UNKNOWN,
            inferred=said.get("inferred", UNKNOWN),
            command=commands[0] if commands else UNKNOWN,
        )


def rows() -> Iterator[Row]:
    """All rows that come along, by group, those of none last, and by name."""
    found = [Row.read(path) for path in (FOLDER / "methods").glob("*.yaml")]
    order = {group: place for place, group in enumerate(GROUPS)}
    yield from sorted(found, key=lambda row: (order.get(row.group, len(order)), row.name))
