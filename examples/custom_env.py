"""An environment of your own, registered and trained on.

It speaks as TextArena's game does, whose sentences `zoo:number-easy` has read, so that the skill
which the teacher is told, `guide`, means something to it. With steps=10 and evaluate.episodes=128
it went from 20 % to 84 % (2026-11-28, one core); both play the same fifty numbers.
"""

import sys
from pathlib import Path

from agentopd import TextEnv, parse_action, parse_config, register, train


class Guess(TextEnv):
    """Find a number from 1 to 50 in six guesses, told whether it is higher or lower."""

    system_prompt = "Guess the number from 1 to 50, told higher or lower."

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.number, self.turns = int(self.np_random.integers(1, 51)), 0
        info = {"task_id": f"guess/{self.number}", "success": False}
        return "Make a guess.", info | {"guide": "Guess the middle of what is left."}

    def step(self, action: str):
        self.turns += 1
        said = parse_action(action) or ""
        guess = int(said) if said.isdecimal() and len(said) < 4 else None
        solved = guess == self.number
        observation = "Say a number."
        if guess is not None:
            higher = guess < self.number
            observation = f"The target number is {'higher' if higher else 'lower'}."
        info = {"task_id": f"guess/{self.number}", "success": solved}
        info["action_valid"] = guess is not None
        return observation, float(solved), solved, not solved and self.turns >= 6, info


if __name__ == "__main__":
    register("my/Guess-v0", Guess)
    settings = {"env": {"id": "my/Guess-v0"}, "student": {"path": "zoo:number-easy"}}
    changes = ["steps=2", "rollout.tasks=8", "learner.learning_rate=1e-3", "evaluate.episodes=8"]
    config = parse_config(settings, changes)
    print(train(config, Path(sys.argv[1] if len(sys.argv) > 1 else "runs/custom_env")))
