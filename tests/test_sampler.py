"""The sampler against the model by itself: one sequence, no cache, no neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Event

import numpy as np
import pytest
import torch
from scripted import alone, random_model, toy_tokenizer

from agentopd.models.model import LanguageModel
from agentopd.rollout import transformers_sampler
from agentopd.rollout.sampler import Completion, Request, answers
from agentopd.rollout.transformers_sampler import Row, TransformersSampler

Asked = dict[tuple[int, int], tuple[list[int], Completion]]
"""(conversation, turn) -> (context, answer)."""

TOKENIZER = toy_tokenizer()


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    """Stops at one of sixteen tokens, so that answers are of many lengths."""
    found = random_model(TOKENIZER)
    return LanguageModel(found.module, TOKENIZER, "random", frozenset(range(16)))


def _texts(key: int) -> list[list[int]]:
    """The prompt and the later observations of a conversation: 1 to 6 turns of 1 to 40 tokens."""
    random = np.random.default_rng(key)
    return [
        random.integers(len(TOKENIZER), size=n).tolist()
        for n in random.integers(1, 41, 1 + key % 6)
    ]


def _converse(
    sampler: TransformersSampler,
    keys: Sequence[int],
    slots: int,
    temperature: float = 1.0,
    max_tokens: int = 7,
    held: int = 0,
) -> Asked:
    """Play conversations as the pool does: whoever ends makes room for the next.

    Of those who have their answers, `held` are kept from going on until nobody else is left.
    """
    waiting, asked = list(keys), Asked()
    contexts = {key: list(_texts(key)[0]) for key in keys}
    turns, holding, under_way = dict.fromkeys(keys, 0), list[int](), dict[int, list[int]]()
    while waiting or holding or under_way:
        room = max(0, slots - len(under_way) - len(holding))
        coming, waiting = waiting[:room], waiting[room:]
        if not under_way or len(holding) > held:
            coming, holding = [*holding, *coming], []
        under_way |= {key: contexts[key] for key in coming}
        sampler.submit(
            [Request(k, contexts[k], (1, k, turns[k]), max_tokens, temperature) for k in coming]
        )
        for answer in sampler.ready():
            key, turn = answer.key, turns[answer.key]
            asked[key, turn] = under_way.pop(key), answer.completion
            later = _texts(key)[turn + 1 :]
            contexts[key] = [*asked[key, turn][0], *answer.completion.ids, *(later or [[]])[0]]
            turns[key] += 1
            if later:
                holding.append(key)
            else:
                sampler.forget([key])
    return asked


def _logprobs(model: LanguageModel, context: list[int], answer: list[int]) -> torch.Tensor:
    """(answer, V) from scratch."""
    hidden = alone(model, context + answer)[len(context) - 1 : -1]
    return model.logits(hidden).detach()


def _agree(model: LanguageModel, asked: Asked, temperature: float = 1.0) -> None:
    for context, answer in asked.values():
        logits = _logprobs(model, context, answer.ids)
        scratch = torch.log_softmax(logits / temperature, -1)
        own = scratch.gather(1, torch.tensor(answer.ids)[:, None]).squeeze(1)
        np.testing.assert_allclose(answer.logprobs, own.numpy(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_logprobs_are_those_of_a_forward_pass_from_scratch(
    model: LanguageModel, temperature: float
) -> None:
    asked = _converse(TransformersSampler(model), range(24), slots=8, temperature=temperature)
    assert len(asked) == sum(len(_texts(key)) for key in range(24))
    assert {len(answer.ids) for _, answer in asked.values()} == set(range(1, 8))
    _agree(model, asked, temperature)


@pytest.mark.parametrize(
    ("keys", "slots"), [(range(12), 1), (range(12), 5), (range(11, -1, -1), 12), ([3, 11], 2)]
)
def test_an_answer_depends_on_its_conversation_and_its_seed_alone(
    model: LanguageModel, keys: Sequence[int], slots: int
) -> None:
    """Neither on the slots, nor on the order, nor on the neighbours."""
    reference = _converse(TransformersSampler(model), range(12), slots=12)
    other = _converse(TransformersSampler(model), keys, slots)
    for place, (context, answer) in other.items():
        assert (context, answer.ids, answer.cut) == (
            reference[place][0],
            reference[place][1].ids,
            reference[place][1].cut,
        )
        np.testing.assert_allclose(answer.logprobs, reference[place][1].logprobs, atol=1e-5)


@pytest.mark.parametrize("held", [1, 3, 6])
def test_who_joins_and_leaves_when_changes_nothing(model: LanguageModel, held: int) -> None:
    """Conversations stay away for a while, so that rows are moved and lie idle between others."""
    asked = _converse(TransformersSampler(model), range(18), slots=8, held=held)
    reference = _converse(TransformersSampler(model), range(18), slots=8)
    assert asked.keys() == reference.keys()
    assert all(asked[place][1].ids == reference[place][1].ids for place in asked)
    _agree(model, asked)


def test_a_short_answer_is_given_while_a_long_one_is_written(model: LanguageModel) -> None:
    sampler = TransformersSampler(model)
    endless = LanguageModel(model.module, TOKENIZER, "endless", frozenset())
    sampler.sync(endless)
    sampler.submit([Request(0, [20, 21], (0,), 40), Request(1, [22], (1,), 3)])
    order = []
    for turn in range(4):
        (answer,) = sampler.ready()
        order.append(answer.key)
        assert len(answer.completion.ids) == 3
        more = [*[22] * (turn + 2), *answer.completion.ids]
        sampler.submit([Request(1, more, (1, turn), 3)])
    sampler.forget([1])
    (long,) = sampler.ready()
    assert order == [1, 1, 1, 1]
    _agree(endless, {(0, 0): ([20, 21], long.completion)})


def test_the_same_requests_in_the_same_order_give_the_same_bits(model: LanguageModel) -> None:
    first, second = (
        _converse(TransformersSampler(model), range(20), slots=6, held=2) for _ in range(2)
    )
    assert first == second


def test_many_may_come_at_once_while_others_stay_away(model: LanguageModel) -> None:
    """More than there was room for, and what is known of those who stay away is kept."""
    sampler = TransformersSampler(model)
    contexts = {key: [20 + key] * (key + 1) for key in range(60)}
    first = {key: contexts[key] for key in range(6)}
    for asked in (first, {key: contexts[key] for key in range(6, 60)}, first):
        requests = [Request(k, [*ids, 19 + k], (k,), 3) for k, ids in asked.items()]
        sampler.submit(requests)
        found = dict[int, Completion]()
        while len(found) < len(requests):
            found |= {answer.key: answer.completion for answer in sampler.ready()}
        _agree(model, {(r.key, 0): (list(r.ids), found[r.key]) for r in requests})
        first = {
            k: [*ids, 19 + k, *found[k].ids] if k in found else ids for k, ids in first.items()
        }


def test_two_temperatures_and_two_limits_share_a_batch(model: LanguageModel) -> None:
    requests = [
        Request(0, [20, 30], (0,), 9, 0.0),
        Request(1, [20, 30], (1,), 2, 0.5),
        Request(2, [20, 30], (2,), 5, 1.0),
    ]
    together = answers(TransformersSampler(model), requests)
    alone_ = [answers(TransformersSampler(model), [request])[0] for request in requests]
    for request, one, other in zip(requests, together, alone_, strict=True):
        assert (one.ids, one.cut) == (other.ids, other.cut)
        _agree(model, {(0, 0): (list(request.ids), one)}, request.temperature or 1.0)


def test_an_answer_that_is_broken_off_is_never_given(model: LanguageModel) -> None:
    sampler = TransformersSampler(model)
    endless = LanguageModel(model.module, TOKENIZER, "endless", frozenset())
    sampler.sync(endless)
    sampler.submit([Request(k, [20 + k], (k,), 5) for k in range(3)])
    woken = Event()
    woken.set()
    assert sampler.ready(woken) == []
    sampler.forget([1, 7])
    assert [answer.key for answer in sampler.ready()] == [0, 2]
    assert sampler.ready() == []
    sampler.submit([Request(1, [40, 41], (9,), 5)])
    _agree(endless, {(1, 0): ([40, 41], sampler.ready()[0].completion)})


def test_a_call_that_was_broken_off_is_made_again(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C may come when half of the layers have written; what they wrote is written anew."""
    sampler = TransformersSampler(model)
    sampler.submit([Request(k, [20 + k] * (k + 1), (k,), 5) for k in range(3)])
    layer = model.module.get_submodule("model.layers.1")
    with monkeypatch.context() as patch:
        patch.setattr(layer, "forward", _interrupted)
        with pytest.raises(KeyboardInterrupt):
            sampler.ready()
    found: dict[int, Completion] = {}
    while len(found) < 3:
        found |= {answer.key: answer.completion for answer in sampler.ready()}
    _agree(model, {(k, 0): ([20 + k] * (k + 1), found[k]) for k in found})


def _interrupted(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_a_conversation_is_answered_once_at_a_time(model: LanguageModel) -> None:
    sampler = TransformersSampler(model)
    sampler.submit([Request(4, [20], (0,), 5)])
    with pytest.raises(ValueError, match="conversation 4 is being answered: take that answer"):
        sampler.submit([Request(4, [20], (0,), 5)])
    with pytest.raises(ValueError, match="conversation 5 has no token"):
        sampler.submit([Request(5, [], (0,), 5)])


def test_memory_is_bounded_by_the_conversations_that_are_known(model: LanguageModel) -> None:
    """About twice what they hold, however many and however long those before them were."""
    sampler = TransformersSampler(model)
    many = [Request(k, [30] * (800 if k < 2 else 10), (k,), 2) for k in range(40)]
    sampler.submit(many)
    taken = 0
    while taken < len(many):
        taken += len(sampler.ready())
    assert sampler._cache.rows >= 40 and sampler._cache.columns >= 800
    sampler.forget(range(39))
    context = [30] * 10
    for turn in range(30):
        sampler.submit([Request(50, context, (turn,), 2)])
        context = [*context, *sampler.ready()[0].completion.ids, 31]
        assert sampler._cache.columns <= 2 * len(context) + 64 + 16
    sampler.forget([39])
    sampler.submit([Request(50, [*context, 40], (0,), 1)])
    sampler.ready()
    assert sampler._cache.rows <= 10
    sampler.forget([50])
    assert (sampler._cache.rows, sampler._cache.columns) == (0, 0)


@pytest.mark.parametrize("most", [16, 64])
def test_long_prompts_are_read_in_pieces(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    widths: list[int] = []
    feed = TransformersSampler._feed

    def noting(self: TransformersSampler, rows: list[Row], first: int, width: int) -> object:
        widths.append(width * len(rows))
        return feed(self, rows, first, width)

    monkeypatch.setattr(transformers_sampler, "_MOST", most)
    monkeypatch.setattr(TransformersSampler, "_feed", noting)
    asked = _converse(TransformersSampler(model), range(24), slots=8)
    _agree(model, asked)
    assert max(widths) <= most


@pytest.mark.parametrize(
    "changed",
    [
        [40, 41, 42],  # shorter
        [40, 41, 42, 43, 44, 45],  # the same again
        [40, 41, 50, 43, 44, 45, 46, 47, 48, 49],  # another history
        [60] * 30,
    ],
)
def test_a_context_that_does_not_continue_the_last_one_is_read_anew(
    model: LanguageModel, changed: list[int]
) -> None:
    sampler = TransformersSampler(model)
    neighbour = list(range(70, 90))
    first = [Request(0, [40, 41, 42, 43, 44, 45], (0,), 5), Request(1, neighbour, (1,), 5)]
    sampler.submit(first)
    begun = 0
    while begun < 2:
        begun += len(sampler.ready())
    requests = [Request(0, changed, (2,), 5), Request(1, neighbour, (3,), 5)]
    found = answers(sampler, requests)
    _agree(model, {(r.key, 0): (list(r.ids), c) for r, c in zip(requests, found, strict=True)})
    fresh = answers(TransformersSampler(model), requests)
    assert [c.ids for c in found] == [c.ids for c in fresh]


def test_temperature_nought_takes_the_likeliest_token_and_its_plain_logprob(
    model: LanguageModel,
) -> None:
    asked = _converse(TransformersSampler(model), range(8), slots=4, temperature=0)
    _agree(model, asked)
    for context, answer in asked.values():
        assert answer.ids == _logprobs(model, context, answer.ids).argmax(-1).tolist()


def test_an_answer_ends_with_its_first_stop_token_or_is_cut_at_the_limit(
    model: LanguageModel,
) -> None:
    asked = _converse(TransformersSampler(model), range(24), slots=8)
    for _, answer in asked.values():
        stops = [n for n, i in enumerate(answer.ids) if i in model.stop_ids]
        assert stops == ([] if answer.cut else [len(answer.ids) - 1])
        assert len(answer.ids) == 7 or not answer.cut
        assert len(answer.ids) == len(answer.logprobs)
    assert {answer.cut for _, answer in asked.values()} == {True, False}


def test_the_seed_decides(model: LanguageModel) -> None:
    def drawn(seed: int) -> list[list[int]]:
        requests = [Request(k, [20 + k, 30], (seed, k), 8) for k in range(6)]
        return [c.ids for c in answers(TransformersSampler(model), requests)]

    assert drawn(1) == drawn(1) != drawn(2)


def test_tokens_are_drawn_as_often_as_the_model_says(model: LanguageModel) -> None:
    """Pearson's statistic over the tokens that are expected five times or more, and the rest."""
    context, draws = [50, 60, 70], 4_000
    requests = [Request(k, context, (7, k), 1) for k in range(draws)]
    drawn = [c.ids[0] for c in answers(TransformersSampler(model), requests)]
    share = torch.softmax(_logprobs(model, context, [0])[0].double(), -1).numpy()
    expected, seen = share * draws, np.bincount(drawn, minlength=len(share))
    often = expected >= 5
    expected = np.append(expected[often], expected[~often].sum())
    seen = np.append(seen[often], seen[~often].sum())
    freedom = len(seen) - 1
    assert freedom > 5
    assert ((seen - expected) ** 2 / expected).sum() < freedom + 4 * (2 * freedom) ** 0.5


def test_after_a_sync_answers_come_from_the_new_weights() -> None:
    old, new = random_model(TOKENIZER), random_model(TOKENIZER, seed=1)
    sampler = TransformersSampler(old)
    sampler.submit([Request(0, [20, 21, 22], (0,), 4)])
    first = sampler.ready()[0].completion
    old.module.load_state_dict(new.module.state_dict())
    sampler.sync(old)
    later = Request(0, [20, 21, 22, *first.ids, 30], (1,), 4)
    (answer,) = answers(sampler, [later])
    _agree(new, {(0, 0): (list(later.ids), answer)})


def test_there_is_no_answer_to_no_request(model: LanguageModel) -> None:
    assert TransformersSampler(model).ready() == answers(TransformersSampler(model), []) == []
