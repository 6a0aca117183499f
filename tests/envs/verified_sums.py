"""An environment of verifiers: a question, answered once."""

import verifiers.v1 as vf  # pyright: ignore[reportMissingImports]


class SumsConfig(vf.TasksetConfig):
    """Whose sums are asked."""

    split: str = "train"


class SumsData(vf.TaskData):
    """A sum and what it is."""

    answer: str


class SumsTask(vf.Task[SumsData]):
    """Paid where the answer ends with the sum."""

    @vf.reward(weight=1.0)
    async def right(self, trace: vf.Trace) -> float:
        """Whether it is right."""
        return float(trace.last_reply.endswith(f"#### {self.data.answer}"))

    @vf.metric
    async def letters(self, trace: vf.Trace) -> float:
        """How long the answer is."""
        return float(len(trace.last_reply))


class SumsTaskset(vf.Taskset[SumsTask, SumsConfig]):
    """Six sums a split."""

    def load(self) -> list[SumsTask]:
        """The sums of the split."""
        first = 0 if self.config.split == "train" else 50
        return [
            SumsTask(
                SumsData(
                    prompt=f"What is {n} + 1?",
                    system_prompt="Add. End with #### NUMBER.",
                    answer=str(n + 1),
                ),
                self.config.task,
            )
            for n in range(first, first + 6)
        ]


__all__ = ["SumsTaskset"]
