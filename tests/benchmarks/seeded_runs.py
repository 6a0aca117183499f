"""Digests of four short seeded runs: whether two states of the code compute the same bits.

    python tests/benchmarks/seeded_runs.py runs/before          # in one checkout
    python tests/benchmarks/seeded_runs.py runs/after runs/before/digests.json    # in the other

Three steps each, of the embedded models, over units, weights, mixes, supports, teachers and
environments that have little in common. On one machine the same code gives the same digests; from
one kind of processor to another the last bits of a sum may differ, so no test holds them.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pyarrow.parquet as pq
from safetensors.numpy import load_file

import agentopd
from agentopd.running.reading import load_config
from agentopd.running.train import train

CONFIGS = Path(agentopd.__file__).parent / "configs"
SHORT = (
    "threads=1",
    "steps=3",
    "evaluate.episodes=16",
    "evaluate.every=0",
    "rollout.tasks=8",
    "save={checkpoint_every: 1, trajectories_every: 1, scores_top_k: 4}",
)
GROUPS = ("rollout.tasks=4", "rollout.group=4")
RUNS: dict[str, tuple[str, tuple[str, ...]]] = {
    "token": ("quickstart", ()),
    "rubric": (
        "quickstart",
        (
            "unit=rubric_span",
            "weight=[entropy, {kind: gap_gate, renormalise: step}]",
            "divergence={kind: jsd, support: {kind: union_top_k, k: 8}}",
            "privilege=[skill_summary, env_feedback]",
            "view=every_turn",
            "teacher={kind: ema, rate: 0.1}",
        ),
    ),
    "additive": (
        "studies/hanoi",
        (
            *GROUPS,
            "mix={kind: additive, coefficient: 0.5}",
            "divergence={kind: reverse_kl, support: sampled}",
            "unit={kind: turn, use: weight}",
            "learner.epochs=2",
        ),
    ),
    "desk": (
        "studies/desk",
        (*GROUPS, "mix=multiplicative", "weight=step_sigmoid", "unit=decision_point"),
    ),
}


def digest_of(folder: Path) -> dict[str, str]:
    """Of each file of weights, and of the ids of each step."""
    found = {}
    for path in sorted(folder.glob("checkpoints/**/*.safetensors")):
        tensors = sorted(load_file(path).items())
        found[path.name] = _sha(*(name.encode() + t.tobytes() for name, t in tensors))
    for path in sorted(folder.glob("trajectories/*.parquet")):
        found[path.name] = _sha(json.dumps(pq.read_table(path)["ids"].to_pylist()).encode())
    return found


def _sha(*chunks: bytes) -> str:
    made = hashlib.sha256()
    for chunk in chunks:
        made.update(chunk)
    return made.hexdigest()[:16]


def main(out: Path, before: Path | None) -> int:
    """Run all, write the digests, compare; returns how many runs differ."""
    found: dict[str, Any] = {}
    for name, (config, changes) in RUNS.items():
        train(load_config(CONFIGS / f"{config}.yaml", [*SHORT, *changes]), out / name)
        found[name] = digest_of(out / name)
    (out / "digests.json").write_text(json.dumps(found, indent=2) + "\n")
    known = json.loads(before.read_text()) if before else found
    differing = [name for name in RUNS if known[name] != found[name]]
    for name in RUNS:
        print(f"{name:10}{'differs' if name in differing else 'the same'}  {found[name]}")
    return len(differing)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None))
