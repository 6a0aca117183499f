"""What a step will take of memory, said before the first one.

What is there already (libraries, weights, the teacher's copy, float32 masters) is measured; what
comes is derived: from the parameters that learn, and from what one short forward pass keeps. Of
models that have a shape and no weights all of it is derived.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from agentopd.divergences.question import Question
from agentopd.learning.learner import Learner
from agentopd.models.model import LanguageModel
from agentopd.models.recompute import layers_of

_FLOAT = 4
_SHORT, _LONG = 32, 96
"""Tokens of the two passes from whose difference a token's activations follow."""
_GIB = 2**30


@dataclass(frozen=True)
class Forecast:
    """Bytes at the peak of a step, which is in the learner: that of full micro-batches with a full
    tile of logits. Keys and values come on their own.

    Attributes:
        held: what the process holds before its first step; `student` and `teacher` are in it.
        student: the student's weights.
        teacher: weights of the teacher that are not the student's own.
        moments: the optimizer's, two numbers for each weight that learns.
        gradients: one float32 number for each weight that learns.
        activations: what the backward pass needs of one micro-batch of `tokens` tokens.
        logits: those of one tile of tokens, of all models that are compared, with the gradient by
            the output layer.
        context: keys and values of one token of one conversation while it is played, when neither
            gradients nor activations are there.
    """

    held: int
    student: int
    teacher: int
    moments: int
    gradients: int
    activations: int
    tokens: int
    logits: int
    context: int

    @property
    def peak(self) -> int:
        """All that is there at once when a micro-batch is learnt from."""
        return self.held + self.moments + self.gradients + self.activations + self.logits

    def record(self) -> dict[str, int | str]:
        """All numbers, and in words."""
        return {**asdict(self), "peak": self.peak, "said": str(self)}

    def check(self, room: int | None, sharing: int = 1) -> None:
        """Compare with the memory that there is for this process.

        Args:
            room: bytes, those in use included; None where it is not known.
            sharing: how many processes like this one come to share what is free of it.

        Raises:
            ValueError: it does not fit.
        """
        needed = self.held + sharing * (self.peak - self.held)
        if room is None or needed <= room:
            return
        among = f" in {sharing} processes" if sharing > 1 else ""
        raise ValueError(
            f"a step needs about {needed / _GIB:.1f} GiB{among} and there are {room / _GIB:.1f}: "
            f"{self}. Lower learner.tokens_per_batch, set learner.checkpoint_layers: true or "
            "learner.optimizer: adamw_8bit, or take a larger machine"
        )

    def __str__(self) -> str:
        def gib(size: float) -> str:
            return f"{size / _GIB:.2f}"

        return (
            f"{gib(self.peak)} GiB at the peak of a step = {gib(self.held)} held already (student "
            f"{gib(self.student)}, teacher {gib(self.teacher)}) + moments {gib(self.moments)} + "
            f"gradients {gib(self.gradients)} + activations {gib(self.activations)} (of "
            f"{self.tokens:,} tokens) + logits {gib(self.logits)}; a conversation that is played "
            f"takes {gib(1_000 * self.context)} per 1,000 tokens"
        )


def forecast(learner: Learner) -> Forecast:
    """What the learner's steps will take, on the student's device."""
    student = learner.student
    gpu = student.device.type == "cuda"
    held = memory_in_use(student.device)
    return _forecast(learner, learner.teacher.held(), student, gpu, held)


def forecast_of_shapes(
    learner: Learner, teacher: Iterable[torch.Tensor], passing: LanguageModel, gpu: bool
) -> Forecast:
    """The same where no tensor holds a number, on the meta device: what is held already is then the
    weights, and no library is counted.

    Args:
        teacher: its weights, the student's own among them where it shares them.
        passing: the student once more, so that a forward pass can be tried.
        gpu: whether it is to be a GPU.
    """
    student, reference = learner.student, learner.reference
    copies = [*student.module.parameters(), *student.module.buffers(), *teacher]
    copies += [] if reference is None else reference.module.parameters()
    held = sum(_bytes([*copies, *learner.optimizer.held]).values())
    return _forecast(learner, teacher, passing, gpu, held)


def _forecast(
    learner: Learner,
    teacher: Iterable[torch.Tensor],
    passing: LanguageModel,
    gpu: bool,
    held: int,
) -> Forecast:
    student, settings = learner.student, learner.settings
    learning = sum(held.numel() for held in learner.optimizer.held)
    return Forecast(
        held=held,
        student=sum(_storages(student).values()),
        teacher=_apart(learner, teacher),
        moments=learner.optimizer.moments_bytes(),
        gradients=_FLOAT * learning,
        activations=settings.tokens_per_batch * _activations(passing, settings.checkpoint_layers),
        tokens=settings.tokens_per_batch,
        logits=_logits(learner, gpu),
        context=_context(student),
    )


def memory_in_use(device: torch.device) -> int:
    """Bytes that this process holds on a device."""
    if device.type == "cuda":
        return torch.cuda.memory_reserved(device)
    return _kibibytes(Path("/proc/self/status"), "VmRSS") or 0


def memory_room(device: torch.device, root: Path = Path("/")) -> int | None:
    """Bytes that this process may come to hold on a device; None where nothing says so.

    On the CPU that is what it holds and what is free, in the machine and in the control groups it
    runs in, of either version.
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + memory_in_use(device)
    free = _kibibytes(root / "proc/meminfo", "MemAvailable")
    rooms = [*_groups(root), *([] if free is None else [free])]
    return min(rooms) + memory_in_use(device) if rooms else None


def _storages(model: LanguageModel) -> dict[int, int]:
    """Bytes of each piece of memory that holds weights; tied weights are one."""
    return _bytes((*model.module.parameters(), *model.module.buffers()))


def _bytes(tensors: Iterable[torch.Tensor]) -> dict[int, int]:
    return {_place(x.untyped_storage()): x.untyped_storage().nbytes() for x in tensors}


def _place(storage: torch.UntypedStorage) -> int:
    """The same for all tensors that share memory, while one of them is alive; not its address,
    which memory that is only planned has none of.
    """
    return storage._cdata


def _apart(learner: Learner, teacher: Iterable[torch.Tensor]) -> int:
    """What of the teacher's weights is not the student's."""
    if not learner.method.mix.distil_coefficient:
        return 0
    own, others = _storages(learner.student), _bytes(teacher)
    return sum(size for place, size in others.items() if place not in own)


def _activations(student: LanguageModel, recompute: bool) -> int:
    """Bytes a token that a forward pass keeps for the backward pass.

    Recomputed layers keep their inputs, and one of them at a time all that is in it.
    """
    kept = (_kept(student, _LONG) - _kept(student, _SHORT)) // (_LONG - _SHORT)
    if not recompute:
        return kept
    layers = len(layers_of(student.body))
    wide = student.output.weight
    return layers * wide.shape[1] * wide.element_size() + kept // layers


def _kept(student: LanguageModel, tokens: int) -> int:
    """Bytes that a forward pass over so many tokens keeps, beside the weights."""
    own, found = _storages(student), dict[int, torch.UntypedStorage]()

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if _place(storage) not in own:
            found[_place(storage)] = storage
        return tensor

    ids_1T = torch.zeros(1, tokens, dtype=torch.long, device=student.device)
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        student.hidden(ids_1T)
    return sum(storage.nbytes() for storage in found.values())


def _logits(learner: Learner, gpu: bool) -> int:
    """Bytes of one tile of all compared models, see `Head`, and of the output layer's gradient."""
    student, method = learner.student, learner.method
    weight_VH, vocabulary = student.output.weight, student.vocabulary
    rows = min(max(Question.tile // vocabulary, 1), learner.settings.tokens_per_batch)
    models = 1 + bool(method.mix.distil_coefficient) + (learner.reference is not None)
    # On a GPU a narrower model's logits are there in its own precision too.
    narrow = gpu and weight_VH.element_size() < _FLOAT
    each = _FLOAT + (weight_VH.element_size() if narrow else 0)
    by_weight = _FLOAT * vocabulary * weight_VH.shape[1] if weight_VH.requires_grad else 0
    return models * rows * vocabulary * each + by_weight


def _context(student: LanguageModel) -> int:
    """Bytes of one token's keys and values in all layers."""
    config = student.module.config.get_text_config()
    heads = config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    pairs = getattr(config, "num_key_value_heads", None) or heads
    number = student.output.weight.element_size()
    return 2 * config.num_hidden_layers * pairs * size * number


def _kibibytes(path: Path, name: str) -> int | None:
    """A line `name: 123 kB` of one of Linux's files, in bytes."""
    if not path.is_file():
        return None
    lines = (line.split() for line in path.read_text().splitlines())
    return next((int(x[1]) * 1024 for x in lines if x and x[0] == f"{name}:"), None)


def _groups(root: Path) -> Iterator[int]:
    """What is free in each control group around this process that has a limit."""
    listed = root / "proc/self/cgroup"
    for line in listed.read_text().splitlines() if listed.is_file() else ():
        _, kinds, inside = line.split(":", 2)
        if kinds and "memory" not in kinds.split(","):
            continue
        top = root / "sys/fs/cgroup" / ("memory" if kinds else "")
        names = _VERSION_1 if kinds else _VERSION_2
        place = top / inside.lstrip("/")
        for group in (place, *place.parents):
            yield from _free_in(group, *names)
            if group == top:
                break


_VERSION_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_VERSION_2 = ("memory.max", "memory.current", "inactive_file")


def _free_in(group: Path, limit: str, usage: str, cached: str) -> Iterator[int]:
    """What is free in one group: files that it can drop count as free."""
    if not ((group / limit).is_file() and (group / usage).is_file()):
        return
    most = (group / limit).read_text().strip()
    if most == "max":
        return
    statistics = group / "memory.stat"
    lines = statistics.read_text().splitlines() if statistics.is_file() else []
    dropped = next((int(x.split()[1]) for x in lines if x.startswith(f"{cached} ")), 0)
    yield max(int(most) - int((group / usage).read_text()) + dropped, 0)
