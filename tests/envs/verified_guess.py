"""An environment of verifiers that speaks itself: a number is guessed, higher or lower."""

import random
from collections.abc import Iterator

import verifiers.v1 as vf  # pyright: ignore[reportMissingImports]


class GuessData(vf.TaskData):
    """The number."""

    number: int


class GuessTask(vf.Task[GuessData]):
    """Judged by the environment."""


class GuessConfig(vf.EnvConfig):
    """Who guesses."""

    player: vf.AgentConfig = vf.AgentConfig()


class GuessEnv(vf.Env[GuessConfig]):
    """Answers each guess."""

    async def run(self, task: vf.Task, agents: vf.Agents) -> None:
        """Play until the number is named."""
        right = 0.0
        async with agents.player.interaction(task) as talk:
            segment = await talk.turn("Guess a number from 1 to 9.")
            while not segment.terminated:
                said = segment.last_reply
                if said == "break":
                    raise RuntimeError("the game is broken")
                if said == str(task.data.number):
                    right = 1.0
                    break
                segment = await talk.turn(f"Not {said}. Hint {random.randint(0, 9)}.")
        talk.trace.record_reward("right", right)


class GuessTaskset(vf.Taskset[GuessTask]):
    """Numbers without end."""

    INFINITE = True

    def load(self) -> Iterator[GuessTask]:
        """One after the other."""
        n = 0
        while True:
            yield GuessTask(GuessData(number=n % 9 + 1, system_prompt="A game."), self.config.task)
            n += 1


__all__ = ["GuessEnv", "GuessTaskset"]
