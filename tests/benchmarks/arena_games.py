"""Which games of TextArena run here, how fast, and why the others do not: a page in Markdown.

    python tests/benchmarks/arena_games.py > docs/textarena.md

Takes about two minutes on one core. Nothing is downloaded.
"""

from __future__ import annotations

import datetime
import os
import platform
from importlib import metadata

from agentopd.envs.adapters.arena_survey import page, survey


def main() -> None:
    """Print the page."""
    rows = list(survey())
    machine = f"{os.cpu_count()} {platform.machine()} cores, Python {platform.python_version()}"
    print(
        f"# TextArena {metadata.version('textarena')} as `textarena:NAME`\n\n"
        f"Made by `python tests/benchmarks/arena_games.py`, {datetime.date.today()}, {machine}, "
        "one process.\n"
    )
    print(page(rows), end="")


if __name__ == "__main__":
    main()
