"""A real model taught with each sampler: seconds and tokens a second by stage, side by side.

    python tests/benchmarks/samplers.py MODEL [STEPS] [EPISODES]

It runs in an environment that has vLLM, as `make test-vllm` makes one. MODEL plays the front desk
as in configs/real/front_desk.yaml, one thread each; EPISODES are played before the first step and
after the last one. The same seed gives each sampler the same tasks, and other random numbers.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1]))

from live_vllm import serving

from agentopd.base.console import quiet_libraries
from agentopd.running.reading import load_config
from agentopd.running.train import train

ROOT = Path(__file__).parents[2]
CONTEXT = 1024
STAGES = ("rollout", "sync", "teacher", "learner")


def main() -> None:
    quiet_libraries()
    model = sys.argv[1]
    steps, episodes = (int(x) for x in [*sys.argv[2:4], *["4", "16"][len(sys.argv) - 2 :]])
    print(f"{'sampler':14}" + "".join(f"{stage:>10}" for stage in STAGES) + "  tokens/s   success")
    with serving(model, CONTEXT) as (url, _), tempfile.TemporaryDirectory() as scratch:
        for sampler in ("transformers", "vllm", f"{{kind: vllm_server, url: '{url}'}}"):
            kind = "vllm_server" if url in sampler else sampler
            changes = [
                *("study=null", "threads=1", f"student.path={model}", f"steps={steps}"),
                *(f"evaluate.episodes={episodes}", "evaluate.every=0", f"sampler={sampler}"),
                *(f"rollout.max_context={CONTEXT}", "save.trajectories_every=0"),
            ]
            lines: list[dict[str, Any]] = []
            config = load_config(ROOT / "configs" / "real" / "front_desk.yaml", changes)
            summary = train(config, Path(scratch) / kind, watch=lines.append)
            _print(kind, lines[1:], summary)


def _print(kind: str, lines: list[dict[str, Any]], summary: Mapping[str, Any]) -> None:
    """Means over the steps; a sync is counted apart from the rollout that it comes before."""
    count, last = len(lines), lines[-1]
    spent = {name: sum(x["stages"].get(name, 0.0) for x in lines) / count for name in STAGES}
    # the last step's is made for the evaluation that follows
    syncs = [x["probes"]["scalars"].get("sync_seconds", 0.0) for x in lines[1:-1]]
    spent["sync"] = sum(syncs) / max(len(syncs), 1)
    spent["rollout"] -= sum(syncs) / count
    tokens = sum(x["tokens"]["student"] for x in lines) / count
    low, high = last["evaluation"]["interval"]
    print(
        f"{kind:14}"
        + "".join(f"{spent[name]:9.2f}s" for name in STAGES)
        + f"  {tokens / spent['rollout']:8.1f}"
        + f"   {summary['success_before']:.2f} -> {summary['success_after']:.2f}"
        + f" [{low:.2f}, {high:.2f}]",
        flush=True,
    )


if __name__ == "__main__":
    main()
