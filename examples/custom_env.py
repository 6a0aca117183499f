"""An environment of your own, registered and trained on: guess a number, told higher or lower."""

import sys
from pathlib import Path
from typing import Any

from agentopd import TextEnv, parse_action, register
from agentopd.running.reading import parse_config
from agentopd.running.train import train


class Guess(TextEnv):
    """Find a number from 1 to 9 in four guesses."""

    system_prompt = "Guess a number from 1 to 9: <action>5</action>."

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        super().reset(seed=seed)
        self.secret, self.turns = int(self.np_random.integers(1, 10)), 0
        return "Guess.", {
            "task_id": f"guess/{self.secret}",
            "success": False,
            "guide": "Halve what is left.",
        }

    def step(self, action: str):
        self.turns += 1
        guess = parse_action(action) or ""
        said = "higher" if guess < str(self.secret) else "lower"
        info = {
            "task_id": f"guess/{self.secret}",
            "success": guess == str(self.secret),
            "action_valid": guess.isdigit(),
        }
        return (
            said,
            float(info["success"]),
            info["success"],
            not info["success"] and self.turns >= 4,
            info,
        )


if __name__ == "__main__":
    register("my/Guess-v0", Guess)
    config = parse_config({"env": {"id": "my/Guess-v0"}, "steps": 2, "evaluate": {"episodes": 8}})
    print(train(config, Path(sys.argv[1] if len(sys.argv) > 1 else "runs/custom_env")))
