"""A collection of passages, its questions, and the search over it: BM25 by the package bm25s."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from agentopd.envs.adapters import library
from agentopd.envs.adapters.played.rows import read_rows
from agentopd.envs.adapters.search import small

SMALL = "small"


@dataclass(frozen=True)
class Passage:
    """What a search finds."""

    id: str
    title: str
    text: str


@dataclass(frozen=True)
class Question:
    """What is asked: the right answers, and the ids of the passages that hold them, if known."""

    id: str
    text: str
    answers: tuple[str, ...]
    supports: tuple[str, ...]


class Index:
    """Passages, searched by BM25 over their titles and texts.

    Args:
        passages: at least one.
        cache: a folder where the index is looked for and kept.
    """

    def __init__(self, passages: Sequence[Passage], cache: Path | None = None) -> None:
        self._bm25s = library("bm25s", "search")
        self.passages = passages
        self.by_id = {passage.id: passage for passage in passages}
        self._index = self._made(cache)

    def _made(self, cache: Path | None) -> Any:
        texts = [f"{passage.title}\n{passage.text}" for passage in self.passages]
        folder = None
        if cache is not None:
            digest = hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]
            folder = cache / f"bm25s-{self._bm25s.__version__}-{digest}"
            if folder.is_dir():
                return self._bm25s.BM25.load(str(folder), allow_pickle=False)
        index = self._bm25s.BM25()
        index.index(self._words(texts), show_progress=False)
        if folder is not None:
            index.save(str(folder), show_progress=False, allow_pickle=False)
        return index

    def _words(self, texts: Sequence[str]) -> Any:
        return self._bm25s.tokenize(list(texts), stopwords="en", show_progress=False)

    def find(self, query: str, most: int) -> list[Passage]:
        """The passages that share words with the query, the best first."""
        words = self._words([query])
        if not words.ids or not words.ids[0]:
            return []
        most = min(most, len(self.passages))
        found, scores = self._index.retrieve(words, k=most, show_progress=False, n_threads=0)
        pairs = zip(found[0], scores[0], strict=True)
        return [self.passages[int(number)] for number, score in pairs if score > 0]


@lru_cache(maxsize=4)
def index(name: str, cache: str | None) -> Index:
    """The index of `small`, or of the file `corpus.jsonl` (or .json, .parquet) in a folder.

    A passage's columns are `id`, `title` and `text`; or `id` and `contents`, whose first line is
    the title.

    Raises:
        ValueError: there is no such file, a row lacks a column, two share an id, or bm25s is not
            installed.
    """
    rows = small.corpus() if name == SMALL else read_rows(_file(name, "corpus"))
    passages = [_passage(number, row) for number, row in enumerate(rows)]
    if len({passage.id for passage in passages}) < len(passages):
        raise ValueError(f"two passages of {name} have one id: give each its own")
    return Index(passages, Path(cache) if cache else None)


@lru_cache(maxsize=16)
def questions(name: str, split: str) -> tuple[Question, ...]:
    """The questions of a split: those of `small`, or of the file `SPLIT.jsonl` in a folder.

    Its columns are `question`, `answers` (also `golden_answers`, `answer`) and, if there are any,
    `id` and `supports`, the ids of passages.

    Raises:
        ValueError: there is no such file, or a row lacks a column.
    """
    rows = small.questions(split) if name == SMALL else read_rows(_file(name, split))
    return tuple(_question(number, row) for number, row in enumerate(rows))


def _file(folder: str, stem: str) -> str:
    for ending in (".jsonl", ".json", ".parquet"):
        if (path := Path(folder) / f"{stem}{ending}").exists():
            return str(path)
    raise ValueError(
        f"there is no {stem}.jsonl in {folder}: a collection is a folder of corpus.jsonl and a "
        f"file of questions for each split; search:{SMALL} comes along"
    )


def _passage(number: int, row: Mapping[str, Any]) -> Passage:
    title, text = row.get("title"), row.get("text")
    if text is None and "contents" in row:
        first, _, text = str(row["contents"]).partition("\n")
        title = first.strip('" ')
    if text is None:
        raise ValueError(f"passage {number} has no text: its columns are {', '.join(row)}")
    return Passage(str(row.get("id", number)), str(title or ""), str(text))


def _question(number: int, row: Mapping[str, Any]) -> Question:
    columns = ("answers", "golden_answers", "answer")
    found = next((row[key] for key in columns if row.get(key)), None)
    if not row.get("question") or not found:
        raise ValueError(
            f"question {number} lacks a question or answers: its columns are {', '.join(row)}"
        )
    right = [found] if isinstance(found, str) else list(found)
    supports = tuple(map(str, row.get("supports") or ()))
    named = str(row.get("id", number))
    return Question(named, str(row["question"]), tuple(map(str, right)), supports)
