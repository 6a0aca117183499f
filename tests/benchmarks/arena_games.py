"""Which games of TextArena run here, how fast, and why the others do not: a page in Markdown.

    python tests/benchmarks/arena_games.py > docs/textarena.md

Every game is also given a thousand answers of chance. Takes some minutes on one core. Nothing is
downloaded.
"""

from __future__ import annotations

import datetime
import os
import platform
import sys
from importlib import metadata
from pathlib import Path

from agentopd.envs.adapters.arena_survey import page, survey

sys.path.insert(0, str(Path(__file__).parents[1]))
from garbage import some_answers

ANSWERS = 1_000


def main() -> None:
    """Print the page."""
    rows = list(survey(some_answers(ANSWERS)))
    machine = f"{os.cpu_count()} {platform.machine()} cores, Python {platform.python_version()}"
    print(
        f"# TextArena {metadata.version('textarena')} as `textarena:NAME`\n\n"
        f"Made by `python tests/benchmarks/arena_games.py`, {datetime.date.today()}, {machine}, "
        "one process.\n"
    )
    print(page(rows, ANSWERS), end="")


if __name__ == "__main__":
    main()
