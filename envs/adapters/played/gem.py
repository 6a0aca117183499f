"""GEM's environments: `agentopd.make("gem:game:Mastermind-v0-easy")`.

What is mapped: the student reads what GEM's own prompts do, the board (`suffix`) behind the text,
and answers as they say, in `\\boxed{}`; an answer without one never reaches the game. One that
the game refuses, which ends a game of GEM's, costs a turn here: the game is put back to where it
was. GEM's turn limit, which it calls terminated and truncated at once, is a truncation.
Draws come from a random state of the episode's own (GEM seeds the process's). The reward is GEM's
but for refusals, which are paid nothing; an end paid 1 or more is a success.

Source: arXiv 2510.01051; the package `gem-llm`, 0.1. Its data sets (`math:`, `qa:`, `code:`,
`eval:`, `logic:`) are downloaded by it and are refused where they are not there.
"""

from __future__ import annotations

import copy
import difflib
import re
from typing import Any

from agentopd.environment.checks.subject import Caught
from agentopd.environment.contract import without_reasoning
from agentopd.envs.adapters import library
from agentopd.envs.adapters.isolation import Isolation
from agentopd.envs.adapters.played.base import SHOWN, Begun, Heard, Played
from agentopd.envs.puzzle import Outcome, Prompt

_LONGEST = 100
"""Answers where a game has no limit of its own."""
_SUCCESS = 1.0
_BOXED = re.compile(r"\\boxed\{")
_TAGGED = re.compile(r"<answer>.*</answer>", re.DOTALL)
_TERMINAL = "TERMINAL_STATE"
"""What the observation behind a single question holds."""
_RULES = """You play a game or solve a task; its rules follow.
You may think first inside <think></think>. End your answer with your move or solution inside \
\\boxed{}."""
_BRIEF = "One move or solution inside \\boxed{}."


def build(name: str, **options: Any) -> Gem:
    """The environment of `gem:ID`; see `Gem`."""
    return Gem(name, **options)


class Gem(Played):
    """An environment of GEM.

    Args:
        name: as GEM registers it, `game:Mastermind-v0-easy` or `rg:chain_sum` for example.
        max_turns: answers before the episode is truncated; the environment's own number if not
            given.
        prompt: the form of answers in full, or one line.
        shown: characters of an observation.
        game: options of the environment itself.

    Raises:
        ValueError: there is no such environment, it cannot be made here, or GEM is not installed.
    """

    action_between = None
    action_form = "\\boxed{{}}"

    def __init__(
        self,
        name: str,
        *,
        max_turns: int | None = None,
        prompt: Prompt = "full",
        shown: int = SHOWN,
        **game: Any,
    ) -> None:
        known = library("gem.envs.registration", "gem").ENV_REGISTRY
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
            hint = f"; did you mean gem:{close[0]}?" if close else ""
            raise ValueError(f"GEM has no environment {name!r}{hint}")
        self._options = game
        self._isolation = Isolation(0, numpy=True)
        self._game = self._made(name)
        limit = max_turns or int(getattr(self._game, "max_turns", 0) or 0) or self._single(name)
        tagged = name.startswith("qa:") or hasattr(self._game, "answer_key")
        self._form = _TAGGED if tagged and not name.startswith("math:") else _BOXED
        form = "<answer>{}</answer>" if self._form is _TAGGED else "\\boxed{{}}"
        self.action_form = form
        self.missing = f"No {form.replace('{}', '')} in the answer."
        rules: dict[Prompt, str] = {"full": _RULES, "brief": _BRIEF}
        if self._form is _TAGGED:
            rules = {key: text.replace("\\boxed{}", form) for key, text in rules.items()}
            rules = {key: text.replace("{}", "") for key, text in rules.items()}
        super().__init__(f"GEM's {name}", max_turns=limit, prompt=prompt, rules=rules, shown=shown)
        self._id, self._score = name, 0.0

    @staticmethod
    def _single(name: str) -> int:
        """The limit of what has none of its own: games go on, questions are asked once."""
        return _LONGEST if name.startswith("game:") else 1

    def _made(self, name: str) -> Any:
        """The environment, whose making may draw.

        Raises:
            ValueError: it cannot be made.
        """
        gem, words, made = library("gem", "gem"), library("nltk", "gem"), None
        download = words.download
        with self._isolation:
            # Some games fetch word lists when they are made.
            words.download = lambda *_, **__: False
            with Caught() as caught:
                made = gem.make(name, **self._options)
            words.download = download
        if caught.error or made is None:
            said = next(filter(None, str(caught.error).splitlines()), "")
            raise ValueError(
                f"{name} of GEM cannot be made here: {type(caught.error).__name__}: {said}"
            )
        return made

    def _begin(self, number: int) -> Begun:
        # Some games keep counters beyond a reset.
        self._isolation = Isolation(number, numpy=True)
        self._game = self._made(self._id)
        with self._isolation:
            text, told = self._game.reset(seed=number % 2**32)
        self._score = 0.0
        return Begun(
            task_id=f"gem/{self._id}/{number}",
            text=_with_board(text, told),
            skill=self._id,
        )

    def _act(self, command: str) -> Heard:
        before = copy.deepcopy(self._game)
        with self._isolation:
            text, reward, terminated, truncated, told = self._game.step(command)
        if (terminated or truncated) and float(reward) < 0:
            self._game = before
            problem = str(text).strip() or "The answer is refused."
            return Heard(problem, valid=False, outcome=Outcome(problem, mistake="refused action"))
        self._score += float(reward)
        solved = bool(terminated or truncated) and float(reward) >= _SUCCESS
        over = bool(terminated) and (solved or not truncated or self.turn_limit == 1)
        shown = "" if _TERMINAL in str(text) else _with_board(text, told)
        judged = "ends the task well" if solved else "ends the task badly"
        feedback = f"The answer {judged}." if terminated or truncated else ""
        return Heard(
            shown or ("Right." if solved else "Wrong."),
            reward=float(reward),
            over=over,
            truncated=bool(terminated or truncated) and not over,
            success=solved,
            outcome=Outcome(mistake="" if solved or not feedback else "fails", feedback=feedback),
        )

    def _read(self, answer: str) -> str | None:
        """The answer without its thoughts, if it holds the form that GEM reads."""
        said = without_reasoning(answer).strip()
        return said if self._form.search(said) else None

    def _plan(self) -> list[str]:
        """The right answer of a question; games tell none."""
        data = getattr(self._game, "data", None)
        found = data.get("answer") if isinstance(data, dict) else None
        found = getattr(self._game, "answer", None) if found is None else found
        found = found[0] if isinstance(found, list) and found else found
        return [str(found)] if isinstance(found, str | int | float) and str(found).strip() else []

    def _facts(self) -> dict[str, Any]:
        return {"score": self._score}

    def _metrics(self) -> dict[str, float]:
        return {"score": self._score}


def _with_board(text: Any, told: Any) -> str:
    """What is observed, with the board that GEM's own wrappers append."""
    suffix = told.get("suffix") if isinstance(told, dict) else None
    return "\n".join(str(part).strip() for part in (text, suffix) if part)
