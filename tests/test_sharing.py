"""What is read once: common beginnings, unchanged histories, and who has ended."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import takewhile

import numpy as np
import pytest
import torch
from scripted import alone, random_model, toy_tokenizer

from agentopd.models.model import LanguageModel
from agentopd.rollout import transformers_sampler
from agentopd.rollout.sampler import Completion, Request, answers
from agentopd.rollout.sharing import common, followers, longest_common
from agentopd.rollout.transformers_sampler import Row, TransformersSampler

TOKENIZER = toy_tokenizer()


@dataclass
class Calls:
    """What each call of the model was given: tokens of each conversation, padding left out."""

    read: list[dict[int, int]] = field(default_factory=list)

    def tokens(self, *keys: int) -> int:
        return sum(n for call in self.read for key, n in call.items() if not keys or key in keys)


@pytest.fixture
def endless() -> LanguageModel:
    return LanguageModel(random_model(TOKENIZER).module, TOKENIZER, "endless", frozenset())


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    found, feed = Calls(), TransformersSampler._feed

    def noting(self: TransformersSampler, rows: list[Row], first: int, width: int) -> torch.Tensor:
        found.read.append({row.key: min(width, len(row.left)) for row in rows})
        return feed(self, rows, first, width)

    monkeypatch.setattr(TransformersSampler, "_feed", noting)
    return found


def _words(seed: int, count: int) -> list[int]:
    return np.random.default_rng(seed).integers(len(TOKENIZER), size=count).tolist()


def _asked(sampler: TransformersSampler, requests: list[Request]) -> dict[int, Completion]:
    sampler.submit(requests)
    found: dict[int, Completion] = {}
    while len(found) < len(requests):
        found |= {answer.key: answer.completion for answer in sampler.ready()}
    return found


def _agree(model: LanguageModel, requests: list[Request], found: dict[int, Completion]) -> None:
    """With a forward pass of each conversation alone."""
    for request in requests:
        context, said = list(request.ids), found[request.key]
        hidden = alone(model, [*context, *said.ids])[len(context) - 1 : -1]
        plain = torch.log_softmax(model.logits(hidden).detach(), -1)[range(len(said.ids)), said.ids]
        np.testing.assert_allclose(said.logprobs, plain.numpy(), atol=1e-5, rtol=0)


def _brute(some: list[int], others: list[int]) -> int:
    pairs = takewhile(lambda pair: pair[0] == pair[1], zip(some, others, strict=False))
    return sum(1 for _ in pairs)


def test_common_beginnings_are_found_as_one_token_after_the_other_finds_them() -> None:
    random = np.random.default_rng(0)
    for _ in range(300):
        several = [random.integers(2, size=random.integers(1, 12)).tolist() for _ in range(9)]
        sought, *among = several
        assert [common(sought, x) for x in among] == [_brute(sought, x) for x in among]
        among.sort()
        number, most = longest_common(sought, among)
        assert most == max(_brute(sought, x) for x in among)
        assert (number == -1) if not most else _brute(sought, among[number]) == most
    assert longest_common([1], []) == (-1, 0)


def test_who_waits_shares_that_much_with_one_who_reads() -> None:
    random = np.random.default_rng(1)
    for _ in range(300):
        contexts = [random.integers(2, size=random.integers(1, 12)).tolist() for _ in range(8)]
        held = [int(random.integers(len(x))) for x in contexts]
        free = (random.random(8) < 0.8).tolist()
        found = followers(contexts, held, free)
        reads = [n for n in range(8) if n not in found]
        assert reads and all(free[n] for n in found)
        for n, saved in found.items():
            most = max(_brute(contexts[n], contexts[other]) for other in reads)
            assert saved <= min(most, len(contexts[n]) - 1) - held[n]
    assert followers([[5, 6, 7]] * 3, [0, 0, 0], [True, True, True]) == {1: 2, 2: 2}


def test_a_groups_request_is_read_once(endless: LanguageModel, calls: Calls) -> None:
    context = _words(0, 100)
    sampler = TransformersSampler(endless)
    calls.read.clear()
    requests = [Request(k, context, (k,), 6) for k in range(8)]
    found = _asked(sampler, requests)
    _agree(endless, requests, found)
    assert len({tuple(said.ids) for said in found.values()}) > 1
    assert calls.read[0] == {0: 100}
    # Then the last token of seven, and five more of each.
    assert calls.tokens() == 100 + 7 + 8 * 5
    assert len(calls.read) == 7


def test_rules_that_all_tasks_begin_with_are_read_once(
    endless: LanguageModel, calls: Calls
) -> None:
    rules = _words(1, 60)
    sampler = TransformersSampler(endless)
    calls.read.clear()
    tasks = [[*rules, *_words(2 + n, 20 + n)] for n in range(6)]
    requests = [Request(4 * n + m, ids, (n, m), 3) for n, ids in enumerate(tasks) for m in range(4)]
    _agree(endless, requests, _asked(sampler, requests))
    own = sum(len(ids) - len(rules) for ids in tasks)
    assert calls.tokens() <= len(rules) + own + 3 * 6 + 24 * 2 + 6
    assert calls.tokens() < sum(len(r.ids) for r in requests) / 5


def test_who_comes_later_takes_over_what_others_have_read(
    endless: LanguageModel, calls: Calls
) -> None:
    """Also while those are still writing."""
    rules = _words(1, 60)
    sampler = TransformersSampler(endless)
    first = [Request(0, [*rules, *_words(2, 10)], (0,), 9)]
    sampler.submit(first)
    calls.read.clear()
    for _ in range(3):
        sampler._step()
    later = [Request(1, [*rules, *_words(3, 8)], (1,), 2)]
    _agree(endless, later, _asked(sampler, later))
    assert calls.tokens(1) == 8 + 1
    _agree(endless, first, {0: sampler.ready()[0].completion})


def test_few_common_tokens_are_not_worth_a_call(endless: LanguageModel, calls: Calls) -> None:
    sampler = TransformersSampler(endless)
    calls.read.clear()
    requests = [Request(k, [*_words(0, 10), *_words(k, 9)], (k,), 1) for k in range(5)]
    _agree(endless, requests, _asked(sampler, requests))
    assert calls.read == [dict.fromkeys(range(5), 19)]


@pytest.mark.parametrize("broken_off", [True, False])
def test_who_reads_for_others_in_pieces_may_be_broken_off(
    endless: LanguageModel, calls: Calls, monkeypatch: pytest.MonkeyPatch, broken_off: bool
) -> None:
    """Another begins then; otherwise all wait until the last piece is read."""
    monkeypatch.setattr(transformers_sampler, "_MOST", 40)
    monkeypatch.setattr(transformers_sampler, "_CALL", 0)
    sampler = TransformersSampler(endless)
    calls.read.clear()
    requests = [Request(k, _words(0, 100), (k,), 1) for k in range(4)]
    sampler.submit(requests)
    sampler._step()
    assert calls.read == [{0: 40}]
    left = requests[1:] if broken_off else requests
    if broken_off:
        sampler.forget([0])
    found: dict[int, Completion] = {}
    while len(found) < len(left):
        found |= {answer.key: answer.completion for answer in sampler.ready()}
    _agree(endless, left, found)
    assert calls.tokens() == 40 * broken_off + 100 + len(left) - 1


def test_shared_or_not_the_answers_are_the_same_and_again_the_same_bits(
    endless: LanguageModel,
) -> None:
    context = _words(0, 90)
    requests = [Request(k, [*context, *_words(k // 4, 12)], (k,), 6) for k in range(12)]
    together, again = (answers(TransformersSampler(endless), requests) for _ in range(2))
    apart = [answers(TransformersSampler(endless), [request])[0] for request in requests]
    assert together == again
    assert [c.ids for c in together] == [c.ids for c in apart]


@pytest.mark.parametrize("changed", [0, 30, 79])
def test_a_history_that_is_rewritten_costs_what_follows_the_first_difference(
    endless: LanguageModel, calls: Calls, changed: int
) -> None:
    """As when thoughts are taken out of earlier answers."""
    sampler = TransformersSampler(endless)
    history = _words(0, 80)
    (said,) = _asked(sampler, [Request(0, history, (0,), 5)]).values()
    rewritten = [*history[:changed], *_words(9, 3), *history[changed + 2 :], *said.ids[3:]]
    start = common([*history, *said.ids], rewritten)
    assert changed <= start < changed + 3
    calls.read.clear()
    requests = [Request(0, rewritten, (1,), 4)]
    _agree(endless, requests, _asked(sampler, requests))
    assert calls.tokens() == len(rewritten) - start + 3


def test_one_straggler_of_many_writes_alone(endless: LanguageModel, calls: Calls) -> None:
    """Who has ended is in no later call, forgotten or not."""
    sampler = TransformersSampler(endless)
    calls.read.clear()
    requests = [Request(k, _words(k, 10), (k,), 60 if k == 17 else 4) for k in range(32)]
    sampler.submit(requests)
    found: dict[int, Completion] = {}
    while len(found) < 32:
        for answer in sampler.ready():
            found[answer.key] = answer.completion
            if answer.key % 2:
                sampler.forget([answer.key])
    _agree(endless, requests, found)
    assert [len(call) for call in calls.read] == [32] * 4 + [1] * 56
