"""What adapters to questions map: rows of a file, forms of answers, a search over passages."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentopd.envs.adapters.played.rows import read_rows
from agentopd.envs.adapters.search import small
from agentopd.envs.adapters.search.scoring import contains, exact, overlap


def test_rows_are_read_in_three_forms(tmp_path: Path) -> None:
    from pyarrow import Table, parquet

    rows = [{"prompt": "a", "n": 1}, {"prompt": "b", "n": 2}]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    parquet.write_table(Table.from_pylist(rows), tmp_path / "rows.parquet")
    for ending in ("jsonl", "json", "parquet"):
        assert list(read_rows(str(tmp_path / f"rows.{ending}"))) == rows


@pytest.mark.parametrize("content", ["", "{", '"a"', "[1, 2]"])
def test_what_are_no_rows_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(content)
    with pytest.raises(ValueError, match="holds no tasks"):
        read_rows(str(path))


def test_skyrl_shows_a_row_and_hands_on_the_answer(build: Any) -> None:
    env = build("skyrl:gsm8k_multi_turn", data="FILES/train.jsonl", max_turns=3)
    shown, info = env.reset(seed=8)
    assert shown == "What is 2 + 1?" and env.system_prompt == "Add. End with #### NUMBER."
    assert info["oracle"] == info["reference"] == "3" and info["skill"] == "sums"
    assert env.action_form == "#### {}"
    again = build("skyrl:gsm8k", data="FILES/train.jsonl").reset(seed=2)[1]["task_id"]
    assert again.rpartition("/")[2] == info["task_id"].rpartition("/")[2], "the same row"
    shown, _, _, _, info = env.step("<think>#### 3</think>three")
    assert shown == "Answer in the form #### ...." and not info["action_valid"]
    shown, reward, _, _, info = env.step("So #### 4")
    assert (shown, reward, info["action_valid"]) == ("Think again.", 0.0, True)
    _, reward, terminated, truncated, info = env.step("<think>no</think>#### 3")
    assert (reward, terminated, truncated, info["success"]) == (1.0, True, False, True)
    assert info["metrics"]["steps"] == 2, "what could not be read never reached it"


def test_skyrl_s_last_turn_without_success_is_a_truncation(build: Any) -> None:
    env = build("skyrl:gsm8k_multi_turn", data="FILES/train.jsonl", max_turns=2)
    env.reset(seed=0)
    assert [env.step("#### 9")[2:4] for _ in range(2)] == [(False, False), (False, True)]
    once = build("skyrl:gsm8k", data="FILES/train.jsonl")
    once.reset(seed=0)
    _, _, *ends, info = once.step("#### 9")
    assert ends == [True, False] and info["mistake"] == "wrong answer"


def test_skyrl_takes_forms_of_ones_own(build: Any) -> None:
    env = build("skyrl:gsm8k", data="FILES/train.jsonl", forms=["<a>{}</a>", "<b>{}</b>"])
    env.reset(seed=0)
    assert env.step("<b> </b>")[4]["action_valid"] is False
    env = build("skyrl:gsm8k", data="FILES/train.jsonl", forms=["<a>{}</a>", "<b>{}</b>"])
    env.reset(seed=0)
    assert env.step("text <b>x\ny</b>")[4]["action_valid"] is True


def test_the_small_collection_splits_by_state_and_holds_its_answers() -> None:
    passages = {row["id"]: row for row in small.corpus()}
    assert len(passages) == 100
    states: dict[str, set[str]] = {}
    for split in ("train", "validation", "test"):
        rows = small.questions(split)
        states[split] = {row["state"] for row in rows}
        assert rows and len(rows) == 4 * len(states[split])
        for row in rows:
            text = " ".join(passages[support]["text"] for support in row["supports"])
            assert row["answers"][0] in text
            assert len(row["supports"]) == (2 if row["id"].endswith("two steps") else 1)
    assert sum(map(len, states.values())) == len(set.union(*states.values())) == 50


def test_a_question_of_two_steps_word_for_word(build: Any) -> None:
    env = build("search:small", most=1)
    seed = next(s for s in range(99) if env.reset(seed=s)[1]["task_id"].endswith("/two steps"))
    shown, info = env.reset(seed=seed)
    state = info["task_id"].split("/")[-2]
    asked = next(row for row in small.questions("train") if row["id"] == f"{state}/two steps")
    money = asked["answers"][0]
    assert shown == f"Question: {asked['question']}"
    plan = [f"search {state}", f"search Money of {state}", f"answer {money}"]
    assert info["oracle"].split("\n") == plan
    shown, *_, info = env.step(f"<action>search Money of {state}</action>")
    assert shown.startswith("<information>\n(Money of ") and money in shown
    assert info["facts"] == {
        "passages_read": 1, "supports_found": 1, "supports": 2, "f1": 0.0, "gained": 1,
        "well_formed": True,
    }  # fmt: skip
    assert info["feedback"] == "1 passages, 1 of them new; 1 that the answer needs, 1 more to find."
    shown, *_, info = env.step("<action>search zzz</action>")
    assert "Nothing is found." in shown and info["mistake"] == "nothing found"
    _, reward, terminated, _, info = env.step(f"<action>answer The {money.upper()}!</action>")
    assert (reward, terminated, info["success"]) == (1.0, True, True), "SQuAD's normal form"
    assert info["metrics"]["f1"] == 1 and "oracle" not in info


def test_the_tags_of_search_r1_are_read_too(build: Any) -> None:
    env = build("search:small")
    env.reset(seed=0)
    shown, *_, info = env.step("<think>First</think><search>Argentina</search>")
    assert info["action_valid"] and "Buenos Aires" in shown
    *_, info = env.step("<answer>Buenos Aires</answer>")
    assert info["success"]
    env.reset(seed=0)
    for wrong in ("<action>find it</action>", "<search> </search>", "<action>answer</action>"):
        shown, *_, info = env.step(wrong)
        assert shown == "Write search WORDS or answer TEXT inside <action></action>."
        assert not info["action_valid"]


def test_an_answer_may_contain_the_right_one(build: Any) -> None:
    for match, right in (("exact", False), ("contains", True)):
        env = build("search:small", match=match)
        env.reset(seed=0)
        *_, info = env.step("<action>answer it is Buenos Aires, I think</action>")
        assert info["success"] is right and 0 < info["facts"]["f1"] < 1


def test_a_collection_of_ones_own(build: Any, files: Path) -> None:
    corpus = [{"id": 7, "contents": '"Zebras"\nZebras have stripes.'}, {"text": "Lions roar."}]
    (files / "corpus.jsonl").write_text("\n".join(map(json.dumps, corpus)))
    asked = [
        {"question": "What have zebras?", "golden_answers": ["stripes", "bands"], "supports": [7]},
        {"question": "Who roars?", "answer": "lions"},
    ]
    (files / "test.json").write_text(json.dumps(asked))
    (files / "test.jsonl").unlink()
    env = build("search:FILES", split="test")
    _, info = env.reset(seed=0)
    assert info["oracle"] == "search Zebras\nanswer stripes"
    shown, *_ = env.step("<action>search stripes</action>")
    assert shown == "<information>\n(Zebras) Zebras have stripes.\n</information>"
    assert env.step("<action>answer bands</action>")[4]["success"]
    assert env.reset(seed=1)[1]["oracle"] == "answer lions"


@pytest.mark.parametrize(
    ("corpus", "asked", "message"),
    [
        ([{"id": 1, "title": "x"}], [{"question": "?", "answer": "a"}], "passage 0 has no text"),
        ([{"text": "x"}], [{"question": "?"}], "question 0 lacks a question or answers"),
        ([{"id": 1, "text": "x"}] * 2, [], "two passages of .* have one id"),
        (
            [{"id": 1, "text": "x"}],
            [{"question": "?", "answer": "a", "supports": [2]}],
            "question 0 is supported by a passage that is not there",
        ),
    ],
)
def test_a_collection_that_is_none_is_refused(
    build: Any, files: Path, corpus: list[Any], asked: list[Any], message: str
) -> None:
    (files / "corpus.jsonl").write_text("\n".join(map(json.dumps, corpus)))
    (files / "train.jsonl").write_text("\n".join(map(json.dumps, asked)))
    with pytest.raises(ValueError, match=message):
        build("search:FILES")


WORDS = st.lists(st.sampled_from(["red", "blue", "sky", "sea"]), max_size=5)


@given(WORDS, WORDS)
def test_f1_is_the_harmonic_mean_of_precision_and_recall(said: list[str], right: list[str]) -> None:
    same = sum(min(Counter(said)[w], Counter(right)[w]) for w in set(said))
    found = overlap(" ".join(said), [" ".join(right), "nothing else"])
    if not same:
        assert found == (1 if said == right else 0)
    else:
        precision, recall = same / len(said), same / len(right)
        assert found == pytest.approx(2 * precision * recall / (precision + recall))
    assert exact(" ".join(said), [" ".join(right)]) == (said == right)


@pytest.mark.parametrize(
    ("said", "right", "equal", "held"),
    [
        ("The Eiffel Tower!", "eiffel tower", True, True),
        ("an  apple, a day", "Apple day", True, True),
        ("in the Eiffel tower", "Eiffel Tower", False, True),
        ("towers", "tower", False, False),
    ],
)
def test_answers_are_compared_in_squads_normal_form(
    said: str, right: str, equal: bool, held: bool
) -> None:
    assert (exact(said, [right]), contains(said, [right])) == (equal, held)
