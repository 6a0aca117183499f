"""What a GPU is to show, in 8 minutes, on a machine that has torch, transformers, peft and
accelerate and no network: one table, and one JSON file.

    make gpu                                            # on the first GPU; writes runs/gpu.json
    PYTHONPATH=. python tests/gpu --device cpu --small  # the same script where there is no GPU

Each part is a process of its own with a limit of time; one that fails or is not there is told, and
the others go on. The exit code is 1 where a part failed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

HERE = Path(__file__).parent
PACKAGES = ("torch", "transformers", "peft", "accelerate", "liger-kernel", "trl")


@dataclass(frozen=True)
class Part:
    """One process.

    Attributes:
        limit: seconds.
    """

    name: str
    command: tuple[str, ...]
    limit: int


@dataclass(frozen=True)
class Outcome:
    """What it came to: its exit code, or None where its time ran out, and its last lines."""

    name: str
    code: int | None
    seconds: float
    said: list[str]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="sizes that a CPU is done with soon")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu.json"))
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        found = [_outcome(part) for part in _parts(asked.device, asked.small, Path(scratch))]
    told = {"machine": _machine(), "parts": [asdict(one) for one in found]}
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text(json.dumps(told, indent=1) + "\n")
    print(f"\nwritten to {asked.out}")
    return int(any(one.code != 0 for one in found))


def _parts(device: str, small: bool, scratch: Path) -> list[Part]:
    python, benchmarks = sys.executable, HERE.parent / "benchmarks"
    steps, levels = ("2", "8") if small else ("15", "128")
    sizes = ("64", "2048", "64") if small else ("4096", "151936", "1024")
    fused = [python, str(benchmarks / "linear_divergence.py"), "--device", device]
    for name, size in zip(("--tokens", "--vocabulary", "--hidden"), sizes, strict=True):
        fused += [name, size]
    fused += ["--only", "reverse_kl full", "--dtypes", "float32" if small else "bfloat16"]
    trained = [python, "-m", "agentopd", "train", "configs/quickstart.yaml"]
    trained += [f"student.device={device}", f"steps={steps}", f"evaluate.episodes={levels}"]
    shared = [python, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider"]
    shared += [str(HERE), str(HERE.parent / "test_linear_edges.py")]
    step = [python, str(HERE / "step.py"), "--device", device, *(["--small"] if small else [])]
    return [
        Part("tests", tuple(shared), 120),
        Part("quickstart", (*trained, "--out", str(scratch / "token")), 120),
        Part("divergence", tuple(fused), 90),
        Part("step of 0.6B", tuple(step), 120),
    ]


def _outcome(part: Part) -> Outcome:
    print(f"\n== {part.name}", flush=True)
    began = time.perf_counter()
    try:
        done = subprocess.run(
            part.command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=part.limit,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"},
        )
        code, text = done.returncode, done.stdout
    except subprocess.TimeoutExpired as late:
        code = None
        text = f"{(late.stdout or b'').decode(errors='replace')}\nno end after {part.limit} s"
    said = text.strip().splitlines()[-12:]
    print("\n".join(said), flush=True)
    return Outcome(part.name, code, round(time.perf_counter() - began, 1), said)


def _machine() -> dict[str, str]:
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    found = {
        "date": time.strftime("%Y-%m-%d"),
        "device": device,
        "python": platform.python_version(),
    }
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


if __name__ == "__main__":
    sys.exit(main())
