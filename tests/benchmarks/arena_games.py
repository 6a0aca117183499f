"""Which games of TextArena run here, how fast, and why the others do not: a page in Markdown.

    python tests/benchmarks/arena_games.py docs/textarena.md

Every game for one is also given a thousand answers of chance. Takes some minutes on one core.
Nothing is downloaded. What stands in the file under the heading `Games for two` stays.
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


HEADING = "\n## Games for two\n"


def main(file: Path) -> None:
    """Write the page anew, but for what was written by hand."""
    rows = list(survey(some_answers(ANSWERS)))
    machine = f"{os.cpu_count()} {platform.machine()} cores, Python {platform.python_version()}"
    title = (
        f"# TextArena {metadata.version('textarena')} as `textarena:NAME`\n\n"
        f"Made by `python tests/benchmarks/arena_games.py {file}`, {datetime.date.today()}, "
        f"{machine}, one process.\n\n"
    )
    _, heading, kept = file.read_text(encoding="utf-8").partition(HEADING)
    file.write_text(title + page(rows, ANSWERS) + heading + kept, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
