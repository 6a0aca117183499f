"""A real model taught with each sampler: seconds and tokens a second by stage, side by side.

    python tests/benchmarks/samplers.py MODEL [STEPS] [EPISODES]

It runs in an environment that has vLLM, as `make test-vllm` makes one. MODEL plays the front desk
as in configs/real/front_desk.yaml, one thread each; EPISODES are played before the first step and
after the last one. The same seed gives each sampler the same tasks, and other random numbers.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agentopd.base.console import quiet_libraries
from agentopd.running.reading import load_config
from agentopd.running.train import train

ROOT = Path(__file__).parents[2]
CONTEXT, PORT, LONGEST = 1024, 8747, 600
STAGES = ("rollout", "sync", "teacher", "learner")


def main() -> None:
    quiet_libraries()
    model = sys.argv[1]
    steps, episodes = (int(x) for x in [*sys.argv[2:4], *["4", "16"][len(sys.argv) - 2 :]])
    print(f"{'sampler':14}" + "".join(f"{stage:>10}" for stage in STAGES) + "  tokens/s   success")
    with _server(model) as url, tempfile.TemporaryDirectory() as scratch:
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


@contextmanager
def _server(model: str) -> Iterator[str]:
    """The address of a server that is ready, and gone at the end."""
    command = [sys.executable, "-m", "agentopd.serving.server", model, "--port", str(PORT)]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [*command, "--context", str(CONTEXT)], stdout=log, stderr=subprocess.STDOUT
        )
        try:
            _wait(process)
            yield f"http://127.0.0.1:{PORT}"
        finally:
            process.terminate()
            process.wait()


def _wait(process: subprocess.Popen[bytes]) -> None:
    for _ in range(LONGEST):
        assert process.poll() is None, "the server ended"
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/health", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(1)
    raise AssertionError(f"no server within {LONGEST} seconds")


if __name__ == "__main__":
    main()
