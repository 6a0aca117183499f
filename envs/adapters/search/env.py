"""Question answering with a local search: some searches, then an answer.

A turn is `search WORDS` or `answer TEXT` inside `<action>`; models that were trained on the form of
Search-R1 may write `<search>` and `<answer>`. Passages that were found stand in the observation, in
`<information>`. Success is an exact match in SQuAD's normal form; F1 is a fact and a metric.

Source: arXiv 2503.09516.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from agentopd.environment.contract import parse_action
from agentopd.envs.adapters.played.base import SHOWN, Begun, Heard, Played
from agentopd.envs.adapters.search.index import Passage, Question, index, questions
from agentopd.envs.adapters.search.scoring import contains, exact, overlap
from agentopd.envs.puzzle import SPLITS, Outcome, Prompt, Split, check_choice, check_number

Match = Literal["exact", "contains"]

_PASSAGE = 1_000
"""Characters of a passage that are shown."""
_FORM = "Write search WORDS or answer TEXT inside <action></action>."
_RULES = """You answer a question with the help of a search over a collection of passages.
Each turn either search, which shows the passages found, or answer, which ends the task; the \
answer is a few words, no sentence.
You may think first inside <think></think>. End each turn with one of these inside \
<action></action>, for example
<action>search height of the Eiffel Tower</action> or
<action>answer 330 metres</action>."""
_GUIDE = (
    "Search for what the question names; if that passage only leads to another name, search for "
    "that; answer with the words of the passage."
)


class Search(Played):
    """A question to answer.

    Args:
        name: a folder that holds `corpus.jsonl` and a file of questions for each split, see
            `agentopd.envs.adapters.search.index`; or `small`, a collection that comes along.
        split: whose questions are asked: seed n asks the question n modulo their number.
        most: passages that a search shows.
        match: whether an answer has to be a right one, or to contain one.
        max_turns: answers before the episode is truncated.
        prompt: the rules, or one line.
        cache: a folder where the index is kept for later runs.
        shown: characters of an observation.

    Raises:
        ValueError: there is no such collection or value, or bm25s is not installed.
    """

    def __init__(
        self,
        name: str,
        *,
        split: Split = "train",
        most: int = 3,
        match: Match = "exact",
        max_turns: int = 5,
        prompt: Prompt = "full",
        cache: str | None = None,
        shown: int = SHOWN,
    ) -> None:
        rules: dict[Prompt, str] = {"full": _RULES, "brief": _FORM}
        super().__init__(
            f"search:{name}", max_turns=max_turns, prompt=prompt, rules=rules, shown=shown
        )
        check_choice("split", split, SPLITS)
        check_choice("match", match, ("exact", "contains"))
        check_number("most", most, 1, 100)
        self._collection = name.rstrip("/").rpartition("/")[2]
        self._index, self._questions = index(name, cache), questions(name, split)
        if missing := [q.id for q in self._questions if not self._holds(q)]:
            raise ValueError(f"question {missing[0]} is supported by a passage that is not there")
        self.split, self._most, self._match = split, most, match
        self._asked: Question = self._questions[0]
        self._found: dict[str, Passage] = {}
        self._tried: set[str] = set()
        self._answer: str | None = None

    def _holds(self, question: Question) -> bool:
        return all(support in self._index.by_id for support in question.supports)

    def _begin(self, number: int) -> Begun:
        self._asked = self._questions[number % len(self._questions)]
        self._found, self._tried, self._answer = {}, set(), None
        return Begun(
            task_id=f"search/{self._collection}/{self.split}/{self._asked.id}",
            text=f"Question: {self._asked.text}",
            skill=self._collection,
            guide=_GUIDE,
        )

    def _read(self, answer: str) -> str | None:
        """The action, or what stands in Search-R1's tags in its form."""
        found = parse_action(answer)
        for tag in ("answer", "search"):
            if found is None and (said := parse_action(answer, tag)) is not None:
                found = f"{tag} {said}"
        return found

    def _act(self, command: str) -> Heard:
        verb, _, rest = command.partition(" ")
        rest = " ".join(rest.split())
        if verb.lower() not in ("search", "answer") or not rest:
            return Heard(_FORM, valid=False, outcome=Outcome(_FORM, mistake="unreadable action"))
        return self._answered(rest) if verb.lower() == "answer" else self._searched(rest)

    def _answered(self, text: str) -> Heard:
        self._answer = text
        matches = exact if self._match == "exact" else contains
        right = matches(text, self._asked.answers)
        feedback = f"The answer is {self._asked.answers[0]!r}; {text[:100]!r} is "
        feedback += "right." if right else "wrong."
        return Heard(
            "Right." if right else "Wrong.",
            reward=float(right),
            over=True,
            success=right,
            outcome=Outcome(mistake="" if right else "wrong answer", feedback=feedback),
        )

    def _searched(self, query: str) -> Heard:
        passages = self._index.find(query, self._most)
        fresh = [passage for passage in passages if passage.id not in self._found]
        left = self._left
        self._tried.update(id for id in left if self._index.by_id[id].title == query)
        self._found |= {passage.id: passage for passage in passages}
        lines = [f"({p.title}) {p.text[:_PASSAGE]}" for p in passages]
        text = "\n".join(lines) or "Nothing is found."
        gained = len(left) - len(self._left)
        if not passages:
            mistake = "nothing found"
        else:
            mistake = "" if gained or not self._asked.supports else "nothing new"
        feedback = f"{len(passages)} passages, {len(fresh)} of them new"
        if self._asked.supports:
            feedback += f"; {gained} that the answer needs, {len(self._left)} more to find"
        return Heard(
            f"<information>\n{text}\n</information>",
            outcome=Outcome(mistake=mistake, feedback=feedback + ".", facts={"gained": gained}),
        )

    @property
    def _left(self) -> list[str]:
        """The passages that the answer needs and that were not found."""
        return [support for support in self._asked.supports if support not in self._found]

    def _plan(self) -> Sequence[str]:
        if self._answer is not None:
            return []
        wanted = [self._index.by_id[id] for id in self._left if id not in self._tried]
        titles = [f"search {passage.title}" for passage in wanted if passage.title]
        left = self.turn_limit - self.turns
        return [*titles[: max(left - 1, 0)], f"answer {self._asked.answers[0]}"]

    def _facts(self) -> dict[str, Any]:
        found = len(self._asked.supports) - len(self._left)
        facts: dict[str, Any] = {"passages_read": len(self._found), "supports_found": found}
        return facts | {"supports": len(self._asked.supports), "f1": self._f1}

    @property
    def _f1(self) -> float:
        return 0.0 if self._answer is None else overlap(self._answer, self._asked.answers)

    def _metrics(self) -> dict[str, float]:
        return {"f1": self._f1, "passages_read": float(len(self._found))}
