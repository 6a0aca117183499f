"""The sampler against the model by itself: one sequence, no cache, no neighbours."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from scripted import alone, random_model, toy_tokenizer
from transformers import MistralConfig, MistralForCausalLM

from agentopd.models.model import LanguageModel
from agentopd.rollout.sampler import Completion, Request, TransformersSampler

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
) -> Asked:
    """Play conversations as the pool does: whoever ends makes room for the next."""
    waiting, playing, asked = list(keys), dict[int, int](), Asked()
    contexts = {key: _texts(key)[0] for key in keys}
    while waiting or playing:
        while waiting and len(playing) < slots:
            playing[waiting.pop(0)] = 0
        requests = [Request(k, list(contexts[k]), (1, k, turn)) for k, turn in playing.items()]
        for request, answer in zip(
            requests, sampler.generate(requests, max_tokens, temperature), strict=True
        ):
            key, turn = request.key, playing[request.key]
            asked[key, turn] = list(request.ids), answer
            later = _texts(key)[turn + 1 :]
            contexts[key] = [*request.ids, *answer.ids, *(later[0] if later else [])]
            playing[key] += 1
            if not later:
                del playing[key]
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


@pytest.mark.parametrize("always", [True, False])
def test_moving_the_cache_changes_nothing(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch, always: bool
) -> None:
    moved = 0
    compact, arrange = TransformersSampler._compact, TransformersSampler._arrange

    def counting(self: TransformersSampler, *args: object) -> None:
        nonlocal moved
        moved += 1
        compact(self, *args)  # type: ignore[arg-type]

    def moving(self: TransformersSampler, requests: Sequence[Request]) -> dict[int, int]:
        known = {r.key for r in requests}
        keep = [i for i, row in enumerate(self._rows) if row.key in known]
        if always and keep:
            self._compact(keep, [], max(len(self._rows[i].fed) for i in keep))
        return arrange(self, requests)

    monkeypatch.setattr(TransformersSampler, "_compact", counting)
    monkeypatch.setattr(TransformersSampler, "_arrange", moving)
    asked = _converse(TransformersSampler(model), range(12), slots=6)
    _agree(model, asked)
    assert moved > (12 if always else 1)


def test_columns_that_nobody_needs_are_dropped(model: LanguageModel) -> None:
    """A long conversation ends; the short ones that stay do not carry its columns."""
    sampler = TransformersSampler(model)
    short, long = list(range(20, 24)), [30] * 300
    sampler.generate([Request(0, short, (0,)), Request(1, long, (1,))], 3, 1.0)
    answer = sampler.generate([Request(0, [*short, 25, 26], (2,))], 3, 1.0)[0]
    assert sampler._valid_RC.shape[1] < 30
    fresh = TransformersSampler(model).generate([Request(0, [*short, 25, 26], (2,))], 3, 1.0)[0]
    assert answer.ids == fresh.ids


def test_rows_that_nobody_needs_are_dropped(model: LanguageModel) -> None:
    sampler = TransformersSampler(model)
    requests = [Request(key, [20 + key], (key,)) for key in range(4)]
    sampler.generate(requests, 1, 1.0)
    sampler.generate(requests[:3], 1, 1.0)
    assert sampler._valid_RC.shape[0] == 3


def test_columns_of_a_history_that_was_rewritten_are_dropped(model: LanguageModel) -> None:
    """The rows stay the same ones, so nothing else would ever drop their columns."""
    sampler = TransformersSampler(model)
    for turn in range(20):
        requests = [Request(key, [30 + turn] * 25, (turn, key)) for key in range(2)]
        found = sampler.generate(requests, 2, 1.0)
        assert sampler._valid_RC.shape[1] < 2 * 25 + 64 + 25 + 2
        _agree(model, {(r.key, 0): (list(r.ids), c) for r, c in zip(requests, found, strict=True)})


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
    first = [40, 41, 42, 43, 44, 45]
    sampler.generate([Request(0, first, (0,)), Request(1, neighbour, (1,))], 5, 1.0)
    requests = [Request(0, changed, (2,)), Request(1, neighbour, (3,))]
    found = sampler.generate(requests, 5, 1.0)
    _agree(model, {(r.key, 0): (list(r.ids), c) for r, c in zip(requests, found, strict=True)})
    fresh = TransformersSampler(model).generate(requests, 5, 1.0)
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
    def answers(seed: int) -> list[list[int]]:
        requests = [Request(k, [20 + k, 30], (seed, k)) for k in range(6)]
        return [c.ids for c in TransformersSampler(model).generate(requests, 8, 1.0)]

    assert answers(1) == answers(1) != answers(2)


def test_tokens_are_drawn_as_often_as_the_model_says(model: LanguageModel) -> None:
    """Pearson's statistic over the tokens that are expected five times or more, and the rest."""
    context, draws = [50, 60, 70], 4_000
    requests = [Request(k, context, (7, k)) for k in range(draws)]
    drawn = [c.ids[0] for c in TransformersSampler(model).generate(requests, 1, 1.0)]
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
    request = Request(0, [20, 21, 22], (0,))
    first = sampler.generate([request], 4, 1.0)[0]
    old.module.load_state_dict(new.module.state_dict())
    sampler.sync(old)
    later = Request(0, [20, 21, 22, *first.ids, 30], (1,))
    answer = sampler.generate([later], 4, 1.0)[0]
    _agree(new, {(0, 0): (list(later.ids), answer)})


def test_there_is_no_answer_to_no_request(model: LanguageModel) -> None:
    assert TransformersSampler(model).generate([], 4, 1.0) == []


def test_a_sliding_window_is_refused_with_the_reason() -> None:
    named = random_model(TOKENIZER, use_sliding_window=True, sliding_window=8, max_window_layers=0)
    with pytest.raises(ValueError, match=r"layers of kind sliding_attention.*use a model of full"):
        TransformersSampler(named)


def test_a_sliding_window_that_no_layer_names_is_refused_too() -> None:
    config = MistralConfig(
        vocab_size=len(TOKENIZER),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        sliding_window=8,
    )
    module = MistralForCausalLM(config).eval()
    windowed = LanguageModel(module, TOKENIZER, "windowed", frozenset({0}))
    with pytest.raises(ValueError, match="sliding_attention"):
        TransformersSampler(windowed)
    config.sliding_window = None
    TransformersSampler(windowed)
