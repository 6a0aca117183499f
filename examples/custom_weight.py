"""A weight of your own: tokens count by how far teacher and student are apart."""

import sys
from pathlib import Path

import torch

from agentopd import Evidence, Weight, load_config, train


class Disagreement(Weight, kind="disagreement"):
    """|log q(y) - log p(y)| of the sampled token, in nats, and `most` where it is more.

    What both models agree on counts for nothing; one outlier does not count for all. By default the
    weights are then rescaled to a mean of 1 over each episode (`renormalise`).
    """

    most: float = 2.0

    def raw(self, evidence: Evidence) -> torch.Tensor:
        return evidence.gap_N.abs().clamp(max=self.most)


if __name__ == "__main__":
    changes = [
        "weight=[{kind: disagreement, most: 1}]",
        "steps=2",
        "rollout.tasks=8",
        "evaluate.episodes=8",
    ]
    config = load_config("configs/quickstart.yaml", changes)
    print(train(config, Path(sys.argv[1] if len(sys.argv) > 1 else "runs/custom_weight")))
