"""Time and memory of the fused linear divergence beside the plain one, and beside other libraries.

    python tests/benchmarks/linear_divergence.py --tokens 1024 --vocabulary 151936 --hidden 1024

Every number comes from a process of its own: forward and backward pass, with the gradients of the
hidden states and of the output weights. Memory is the most that was held above what was there
before, less the gradient of the weights. Two passes are what a loss takes whose weights depend on
the divergence. "Products" are the four matrix products that no exact form can do without, of our
tiles and with nothing done to the logits: what is left for any form to gain. TRL's chunked
divergence and, on a GPU, Liger's fused linear JSD join in where they are installed and know the
divergence. All forms take turns, so that a machine that grows slower slows all of them.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch

import agentopd.divergences.alpha
import agentopd.divergences.kl  # noqa: F401  (both are imported for the kinds they define)
from agentopd.divergences.base import Divergence, Row
from agentopd.divergences.linear import measure
from agentopd.divergences.logprobs import entropy
from agentopd.divergences.question import Question
from agentopd.divergences.tiles import Tiles
from agentopd.models.head import Gradient, Head, Logits

# N tokens, H hidden size, V vocabulary

DIVERGENCES: tuple[dict[str, Any], ...] = (
    {"kind": "reverse_kl"},
    {"kind": "forward_kl"},
    {"kind": "jsd"},
    {"kind": "skew"},
    {"kind": "alpha"},
    {"kind": "entropy_switched"},
)
SUPPORTS = ("full", "student_top_k", "teacher_top_k", "intersection_top_k", "union_top_k")
FORMS = ("naive", "one pass", "two passes", "products", "trl", "liger")
BETA = {"forward_kl": 0.0, "jsd": 0.5, "reverse_kl": 1.0}
"""What other libraries call a divergence by."""


def main() -> None:
    options = _options()
    if options.worker:
        print(json.dumps(_measured(options, json.loads(options.worker))))
        return
    others = [
        name
        for name, package in (("trl", "trl"), ("liger", "liger_kernel"))
        if find_spec(package) and (name == "trl" or options.device == "cuda")
    ]
    forms = [form for form in FORMS if form not in ("trl", "liger") or form in others]
    print(
        f"{options.tokens} tokens, vocabulary {options.vocabulary}, hidden {options.hidden}, "
        f"{options.device}, {options.threads} threads. Seconds and MB, each also by the naive's."
    )
    print(f"{'':44}" + "".join(f"{form:>30}" for form in forms))
    for dtype in options.dtypes:
        for divergence in DIVERGENCES:
            for support in SUPPORTS:
                name = f"{divergence['kind']} {support}"
                if options.only in name:
                    _print_row(options, dtype, {**divergence, "support": support}, name, forms)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--vocabulary", type=int, default=151_936)
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=2, help="turns; the fastest counts")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--only", default="", help="a part of 'DIVERGENCE SUPPORT', such as jsd")
    parser.add_argument("--worker", default="", help=argparse.SUPPRESS)
    return parser.parse_args()


def _print_row(
    options: argparse.Namespace, dtype: str, config: dict[str, Any], name: str, forms: list[str]
) -> None:
    known = [
        form
        for form in forms
        if form not in ("trl", "liger") or (config["support"] == "full" and config["kind"] in BETA)
    ]
    found: dict[str, list[tuple[float, float]]] = {form: [] for form in known}
    for _ in range(options.repeats):
        for form in known:
            turn = _worker(options, {"form": form, "dtype": dtype, "divergence": config})
            found[form] += [turn] if turn else []
    best = {form: (min(s for s, _ in turns), turns[0][1]) for form, turns in found.items() if turns}
    base, cells = best["naive"], []
    for form in forms:
        if form not in best:
            cells.append(f"{'failed' if form in known else '-':>30}")
            continue
        seconds, size = best[form]
        cells.append(
            f"{seconds:>9.2f} s {size:>7.0f} MB {seconds / base[0]:>4.2f} {size / base[1]:>4.2f}"
        )
    print(f"{dtype:9}{name:35}" + "".join(f"{cell:>30}" for cell in cells), flush=True)


def _worker(options: argparse.Namespace, job: dict[str, Any]) -> tuple[float, float] | None:
    environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads)}
    command = [sys.executable, __file__, *sys.argv[1:], "--worker", json.dumps(job)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        print(done.stderr.strip().splitlines()[-1], file=sys.stderr)
        return None
    seconds, size = json.loads(done.stdout.splitlines()[-1])
    return seconds, size


def _measured(options: argparse.Namespace, job: dict[str, Any]) -> tuple[float, float]:
    """Seconds, and MB of extra peak memory beyond the gradient of the output weights."""
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    dtype, device = getattr(torch, job["dtype"]), torch.device(options.device)
    heads = [
        Head(
            torch.empty(options.tokens, options.hidden, dtype=dtype, device=device).normal_(),
            torch.empty(options.vocabulary, options.hidden, dtype=dtype, device=device).normal_(
                0, 2 * options.hidden**-0.5
            ),
        )
        for _ in range(2)
    ]
    student, teacher = heads
    coefficient_N = torch.rand(options.tokens, device=device) / options.tokens
    divergence = Divergence.model_validate(job["divergence"])

    def step(tokens: int) -> tuple[float, float]:
        rows = slice(tokens)
        live = Head(
            student.hidden_NH[rows].clone().requires_grad_(), student.weight_VH.requires_grad_()
        )
        student.weight_VH.grad = None
        _wait(device)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        other = Head(teacher.hidden_NH[rows], teacher.weight_VH)
        before, began = _held(device), time.perf_counter()
        if job["form"] == "products":
            _multiply(live.detached(), other)
        else:
            _loss(job["form"], divergence, live, other, coefficient_N[rows]).backward()
        _wait(device)
        spent, peak = time.perf_counter() - began, _peak(device) - before
        gradient = student.weight_VH.numel() * student.weight_VH.element_size()
        return spent, (peak - gradient) / 1e6

    # Libraries load and compile on first use. Little is held then, so the peak is the next one's.
    step(8)
    return step(options.tokens)


def _loss(
    form: str, divergence: Divergence, student: Head, teacher: Head, coefficient_N: torch.Tensor
) -> torch.Tensor:
    if form == "naive":
        return (_naive(divergence, student, teacher) * coefficient_N).sum()
    if form == "trl":
        return (_trl(divergence, student, teacher) * coefficient_N).sum()
    if form == "liger":
        return _liger(divergence, student, teacher)
    ids_N = torch.zeros(len(coefficient_N), dtype=torch.long, device=coefficient_N.device)
    known_N = coefficient_N if form == "one pass" else None
    measured = measure(Question(ids_N, divergence), student, teacher, coefficient_N=known_N)
    assert measured.divergence_N is not None
    return (measured.divergence_N * coefficient_N).sum()


def _multiply(student: Head, teacher: Head) -> None:
    """The products of both models' logits and of both gradients."""
    ids_N = torch.zeros(len(student.hidden_NH), dtype=torch.long)
    rows = Tiles(ids_N, student, teacher, None, 1.0, Question(ids_N, None).tile).rows
    own, other = Logits(student, rows), Logits(teacher, rows)
    gradient = Gradient(student, (True, True, False))
    for start in range(0, len(ids_N), rows):
        part = slice(start, min(start + rows, len(ids_N)))
        other(part)
        gradient.add(part, own(part))


def _naive(divergence: Divergence, student: Head, teacher: Head) -> torch.Tensor:
    """All logits at once; the well-known divergences as they are commonly written."""
    p_NV = torch.log_softmax((student.hidden_NH @ student.weight_VH.T).float(), -1)
    with torch.no_grad():
        q_NV = torch.log_softmax((teacher.hidden_NH @ teacher.weight_VH.T).float(), -1)
    if divergence.support.kind == "full":
        common: dict[str, Callable[[], torch.Tensor]] = {
            "reverse_kl": lambda: (p_NV.exp() * (p_NV - q_NV)).sum(-1),
            "forward_kl": lambda: (q_NV.exp() * (q_NV - p_NV)).sum(-1),
            "jsd": lambda: _jsd(p_NV, q_NV),
        }
        if divergence.kind in common:
            return common[divergence.kind]()
    chosen = divergence.support.select(p_NV, q_NV)
    row = Row(entropy(q_NV))
    return divergence.value(chosen.student_NK, chosen.teacher_NK, row)


def _jsd(p_NV: torch.Tensor, q_NV: torch.Tensor) -> torch.Tensor:
    mixed_NV = torch.logaddexp(p_NV, q_NV) - torch.log(torch.tensor(2.0, device=p_NV.device))
    return 2 * ((p_NV.exp() * (p_NV - mixed_NV)) + (q_NV.exp() * (q_NV - mixed_NV))).sum(-1)


def _trl(divergence: Divergence, student: Head, teacher: Head) -> torch.Tensor:
    from trl.kernels.chunked_divergence import (  # pyright: ignore[reportMissingImports]
        ChunkedDivergenceFunction,
    )

    return ChunkedDivergenceFunction.apply(
        student.hidden_NH,
        student.weight_VH,
        None,
        teacher.hidden_NH,
        teacher.weight_VH,
        None,
        BETA[divergence.kind],
    )[0]


def _liger(divergence: Divergence, student: Head, teacher: Head) -> torch.Tensor:
    from liger_kernel.transformers.fused_linear_jsd import (  # pyright: ignore[reportMissingImports]
        LigerFusedLinearJSD,
    )

    fused = LigerFusedLinearJSD(jsd_beta=BETA[divergence.kind])
    return fused(student.hidden_NH, student.weight_VH, teacher.hidden_NH, teacher.weight_VH)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _held(device: torch.device) -> int:
    """Bytes held now."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def _peak(device: torch.device) -> int:
    """The most bytes held so far."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
