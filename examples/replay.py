"""What other units and divergences would have made of the same episodes, without playing again."""

import sys
from pathlib import Path

from agentopd import load_config, replay, train

ARMS = {
    "turn": ["unit={kind: turn, use: weight}"],
    "forward": ["divergence=forward_kl"],
    "sampled": ["divergence.support=sampled"],
}

if __name__ == "__main__":
    out = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/replay")
    config = load_config(
        "configs/quickstart.yaml", ["steps=2", "evaluate.episodes=8", "save.scores_top_k=16"]
    )
    train(config, out)
    for name, arm in replay(out, ARMS).summary()["arms"].items():
        shares = "  ".join(f"{share:4.0%}" for share in arm["share_by_turn"])
        print(f"{name:8}  {shares}  correlation with the run {arm['correlation']:+.2f}")
