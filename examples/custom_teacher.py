"""A teacher of your own: the student, held near to where it began."""

import sys
from pathlib import Path

import torch

from agentopd import LanguageModel, Teacher, load_config, train


class AnchoredTeacher(Teacher, kind="anchored"):
    """Weights that are `share` of the way from the first student to the present one.

    It learns with the student, as a live teacher does, but is drawn back to its beginning.
    """

    copies_student = True
    share: float = 0.5

    def prepare(self, student: LanguageModel) -> None:
        self._model, self._first = student.frozen_copy(), student.frozen_copy()

    @torch.no_grad()
    def sync(self, student: LanguageModel, step: int) -> None:
        first, now = self._first.weights(), student.weights()
        for name, weight in self.model.weights().items():
            weight.copy_(torch.lerp(first[name], now[name], self.share))

    def tensors(self) -> dict[str, torch.Tensor]:
        first = {f"first.{name}": weight for name, weight in self._first.weights().items()}
        return self.model.weights() | first

    def restore(self, tensors: dict[str, torch.Tensor]) -> None:
        self.model.load_weights(tensors)
        self._first.load_weights({n: tensors[f"first.{n}"] for n in self._first.weights()})


if __name__ == "__main__":
    changes = [
        "teacher={kind: anchored, share: 0.3}",
        "steps=2",
        "rollout.tasks=8",
        "evaluate.episodes=8",
    ]
    config = load_config("configs/quickstart.yaml", changes)
    print(train(config, Path(sys.argv[1] if len(sys.argv) > 1 else "runs/custom_teacher")))
