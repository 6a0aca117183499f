"""The long forms of what the tests hold in short: attacks, kills, damaged files, sweeps.

    make hard                                   # all, at most half an hour on two cores
    python tests/hard sandbox kills:4           # some, and of the kills a quarter

Prints one table, and ends with exit code 1 where a bound is not kept. Kills and full disks need
Linux and a C compiler.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

for name, value in (
    ("OMP_NUM_THREADS", "1"),
    ("OMP_WAIT_POLICY", "PASSIVE"),
    ("TOKENIZERS_PARALLELISM", "false"),
    ("HF_HUB_OFFLINE", "1"),
):
    os.environ.setdefault(name, value)
sys.path.insert(0, str(Path(__file__).parents[1]))

if __name__ == "__main__":
    from hard.table import main

    sys.exit(min(main(sys.argv[1:]), 1))
