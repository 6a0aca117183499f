"""A divergence of your own: total variation, which no single token can blow up."""

import sys
from pathlib import Path

import torch

from agentopd import Divergence, Row, load_config, train


class TotalVariation(Divergence, kind="total_variation"):
    """Half the sum of |p - q| over the vocabulary, between 0 and 1 (f-DISTILL 2307.15190)."""

    def value(self, p_NK: torch.Tensor, q_NK: torch.Tensor, row: Row) -> torch.Tensor:
        return (p_NK.exp() - q_NK.exp()).abs().sum(-1) / 2


if __name__ == "__main__":
    changes = ["divergence=total_variation", "steps=2", "rollout.tasks=8", "evaluate.episodes=8"]
    config = load_config("configs/quickstart.yaml", changes)
    print(train(config, Path(sys.argv[1] if len(sys.argv) > 1 else "runs/custom_divergence")))
