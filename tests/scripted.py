"""Rollouts by script: a tokenizer of whole words, chat templates, an environment, a sampler."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Event
from typing import Any

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from agentopd.base.types import Trajectory
from agentopd.environment.contract import Info, TextEnv
from agentopd.models.chat import ChatTemplate
from agentopd.models.model import LanguageModel
from agentopd.rollout.pool import EpisodePool, Limits, Task
from agentopd.rollout.sampler import Answer, Completion, Request

_LOOP = "{% for m in messages %}"
_ASK = "{% if add_generation_prompt %}"
_CHATML_ASK = _ASK + "<|im_start|>assistant\n{% endif %}"

CHATML = (
    _LOOP + "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
) + _CHATML_ASK
LLAMA = (
    "{{ '<|begin_of_text|>' }}"
    + _LOOP
    + "{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + m.content + '<|eot_id|>' }}"
    + "{% endfor %}"
    + _ASK
    + "<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
NO_SYSTEM = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
)
NO_SYSTEM += CHATML
IGNORES_SYSTEM = CHATML.replace(_LOOP, "{% for m in messages if m.role != 'system' %}")
TRIMS = CHATML.replace("m.content", "m.content | trim")
STRIPS_THINKING = CHATML.replace("m.content", "m.content.split('</think>')[-1].lstrip('\n')")
SYSTEM_LAST = (
    _LOOP
    + "{% if m.role != 'system' %}{{ '<|im_start|>' + m.role + '\n' }}"
    + "{% if loop.last and messages[0].role == 'system' %}{{ messages[0].content + '\n' }}"
    + "{% endif %}{{ m.content + '<|im_end|>\n' }}{% endif %}{% endfor %}"
) + _CHATML_ASK
DEPENDS_ON_CONTENT = CHATML.replace("'\n' + m.content", "m.content | length ~ '\n' + m.content")

WORDS = (
    "system user assistant rules up down left right wait hint why so well 1 2 3 B1 B2 B3 B4 "
    "im_start im_end eot_id action think Turn"
)
CONTROL = (
    "<|im_start|>",
    "<|im_end|>",
    "<|eot_id|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|begin_of_text|>",
)


def toy_tokenizer(chat_template: str = CHATML) -> PreTrainedTokenizerFast:
    """Every word of `WORDS` is one token, every other character one of its own."""
    characters = [chr(c) for c in range(32, 127)] + ["\n"]
    known = dict.fromkeys(["[UNK]", *WORDS.split(), *characters])
    vocabulary = {word: i for i, word in enumerate(known)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\w+|[^\w]"), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in CONTROL])
    tokenizer.add_tokens(
        [AddedToken(tag, special=False, normalized=False) for tag in ("<think>", "</think>")]
    )
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>")
    wrapped.chat_template = chat_template
    return wrapped


def ids_of(tokens: str, tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """The ids of tokens that are written with blanks between them; ⏎ is a line break, ␣ a blank."""
    found = [
        tokenizer.convert_tokens_to_ids(t.replace("⏎", "\n").replace("␣", " "))
        for t in tokens.split()
    ]
    unknown = tokenizer.convert_tokens_to_ids("[UNK]")
    assert unknown not in found, f"not a token of the toy tokenizer in {tokens!r}"
    return [int(i) for i in found if isinstance(i, int)]


@dataclass
class ScriptedSampler:
    """Gives episode `key` its answers in order; token `n` of an answer has log-probability -n - 1.

    `asked` holds the requests as they came, one list a call, and `forgotten` the keys. An answer
    without a closing token is one that was cut. All answers have ended when they are asked for;
    `pick` says otherwise: of the requests under way, it chooses those whose answers are given next.
    """

    answers: Mapping[int, Sequence[Sequence[int]]]
    stop_ids: frozenset[int]
    asked: list[list[Request]] = field(default_factory=list)
    forgotten: list[int] = field(default_factory=list)
    pick: Callable[[Sequence[Request]], Sequence[Request]] = list
    under_way: dict[int, Request] = field(default_factory=dict)

    def submit(self, requests: Sequence[Request]) -> None:
        """Nobody asks again before the answer is there."""
        self.asked.append(list(requests))
        for request in requests:
            assert request.key not in self.under_way
            self.under_way[request.key] = request

    def ready(self, wake: Event | None = None, seconds: float | None = None) -> list[Answer]:
        """The next answer of each chosen episode, found by the number of its earlier ones."""
        chosen = self.pick(list(self.under_way.values()))
        return [Answer(r.key, self._completion(self.under_way.pop(r.key))) for r in chosen]

    def forget(self, keys: Sequence[int]) -> None:
        """What is under way is dropped."""
        self.forgotten += keys
        for key in keys:
            self.under_way.pop(key, None)

    def _completion(self, request: Request) -> Completion:
        ids = list(self.answers[request.key][request.seed[-1]])
        assert len(ids) <= request.max_tokens
        logprobs = [-float(n) for n in range(1, len(ids) + 1)]
        return Completion(ids, logprobs, ids[-1] not in self.stop_ids)

    def sync(self, student: LanguageModel) -> None:
        """A script has no weights."""


@dataclass
class ScriptedAuthor:
    """Stands in for the sampler of a model that is asked once: its replies are the test's own.

    `asked` holds what it was shown, in words; the last reply is given again and again.
    """

    model: LanguageModel
    replies: list[str]
    asked: list[str] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)

    def submit(self, requests: Sequence[Request]) -> None:
        (one,) = requests
        self.requests.append(one)

    def ready(self, wake: Event | None = None, seconds: float | None = None) -> list[Answer]:
        template = ChatTemplate(self.model.tokenizer)
        request = self.requests[-1]
        self.asked.append(template.decode(list(request.ids)))
        reply = self.replies[min(len(self.asked), len(self.replies)) - 1]
        ids = [*template.encode_content(reply), min(self.model.stop_ids)]
        return [Answer(request.key, Completion(ids, [0.0] * len(ids), False))]

    def forget(self, keys: Sequence[int]) -> None:
        pass

    def sync(self, student: LanguageModel) -> None:
        pass


Step = tuple[str, Any, bool, bool, Info] | BaseException


class ScriptedEnv(TextEnv):
    """Says `first`, then one of `steps` an action; an exception among them is raised.

    Args:
        first: the first observation and its info, or what `reset` raises.
    """

    def __init__(
        self,
        first: tuple[str, Info] | Exception,
        steps: Sequence[Step],
        system: str = "",
        examples: Sequence[tuple[str, str]] = (),
    ) -> None:
        self.first, self.steps, self.system_prompt = first, list(steps), system
        self.examples = examples
        self.actions: list[str] = []
        self.closed = False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        if isinstance(self.first, Exception):
            raise self.first
        return self.first

    def step(self, action: str) -> Any:
        self.actions.append(action)
        said = self.steps[len(self.actions) - 1]
        if isinstance(said, BaseException):
            raise said
        return said

    def close(self) -> None:
        self.closed = True


class Letters(TextEnv):
    """One word a turn; even random weights solve some of it, and the facts tell why."""

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, Info]:
        self.spoken = 0
        return f"Word {seed}.", {"task_id": str(seed), "success": False, "guide": "Say more."}

    def step(self, action: str) -> tuple[str, float, bool, bool, Info]:
        self.spoken += 1
        even = sum(map(ord, action)) % 2 == 0
        facts = {"even": even, "short": len(action) < 8, "thirds": sum(map(ord, action)) % 3}
        info = {"task_id": "", "success": even, "action_valid": True, "facts": facts}
        return "Again.", float(even), self.spoken == 2, False, info


def says(observation: str, **info: Any) -> Step:
    """A step that goes on."""
    return observation, 0.0, False, False, {"success": False, **info}


def ends(
    reward: float = 1.0, terminated: bool = True, truncated: bool = False, **info: Any
) -> Step:
    """A step that ends the episode, solved if terminated."""
    return "over", reward, terminated, truncated, {"success": terminated, **info}


def play(
    tokenizer: PreTrainedTokenizerFast,
    envs: Sequence[TextEnv],
    answers: Sequence[Sequence[str]],
    limits: Limits | None = None,
    slots: int = 8,
    stop: str = "<|im_end|>",
    pick: Callable[[Sequence[Request]], Sequence[Request]] = list,
) -> tuple[list[Trajectory], ScriptedSampler]:
    """Play one episode an environment; `answers` are tokens as in `ids_of`.

    Episodes 0, 1 are of task 0, episodes 2, 3 of task 1, and so on. `pick` is the sampler's.
    """
    stop_ids = frozenset(ids_of(stop, tokenizer))
    scripts = {e: [ids_of(a, tokenizer) for a in said] for e, said in enumerate(answers)}
    sampler = ScriptedSampler(scripts, stop_ids, pick=pick)
    waiting = iter(envs)
    pool = EpisodePool(
        env_id="scripted",
        make_env=lambda: next(waiting),
        template=ChatTemplate(tokenizer),
        stop_ids=stop_ids,
        limits=limits or Limits(turns=9, turn_tokens=40, context=999),
        slots=slots,
        temperature=1.0,
        seed=5,
    )
    return pool.play([Task(e, e // 2, 100 + e // 2) for e in range(len(envs))], sampler), sampler


def play_one(
    observations: Sequence[str],
    answers: Sequence[str],
    *,
    chat_template: str = CHATML,
    system: str = "",
    examples: Sequence[tuple[str, str]] = (),
    tokenizer: PreTrainedTokenizerFast | None = None,
    stop: str = "<|im_end|>",
    **info: Any,
) -> Trajectory:
    """One episode that ends with its last answer; `info` is what each step tells."""
    tokenizer = tokenizer or toy_tokenizer(chat_template)
    first, *later = observations
    steps = [*(says(o, **info) for o in later), ends(**info)]
    env = ScriptedEnv((first, {}), steps, system, examples)
    return play(tokenizer, [env], [answers], stop=stop)[0][0]


def random_model(
    tokenizer: PreTrainedTokenizerFast, stop: str | None = None, seed: int = 0, **config: Any
) -> LanguageModel:
    """A two-layer model whose weights are so large that every token of the context matters."""
    torch.manual_seed(seed)
    module = Qwen3ForCausalLM(
        Qwen3Config(
            **{
                "vocab_size": len(tokenizer),
                "hidden_size": 32,
                "intermediate_size": 48,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                "head_dim": 8,
                "initializer_range": 0.3,
                "tie_word_embeddings": False,
                **config,
            }
        )
    )
    end = tokenizer.eos_token_id if stop is None else tokenizer.convert_tokens_to_ids(stop)
    assert isinstance(end, int)
    return LanguageModel(module.eval(), tokenizer, "random", frozenset({end}))


def alone(model: LanguageModel, ids: Sequence[int]) -> torch.Tensor:
    """Last hidden states (T, H) of one sequence by itself, with its positions written out."""
    with torch.no_grad():
        output = model.module.get_decoder()(  # type: ignore[operator]
            input_ids=torch.tensor([list(ids)]), position_ids=torch.arange(len(ids))[None]
        )
    return output.last_hidden_state[0]
