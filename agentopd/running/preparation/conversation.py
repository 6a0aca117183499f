"""Whether a conversation has the ids of the model's own chat template, and how answers end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium

from agentopd.base.types import Owner
from agentopd.environment.contract import (
    HELD_OUT_SEED,
    Info,
    actions,
    declared,
    examples,
    legal_actions,
    system_prompt,
)
from agentopd.environment.settings import EnvSettings
from agentopd.models.chat import Conversation
from agentopd.models.model import LanguageModel

_TURNS = 4
_THOUGHT = "<think>\nI look.\n</think>\n\n"
_BEFORE, _AROUND = 8, 32
"""Characters that are shown before a difference, and in all."""


@dataclass(frozen=True)
class Conversed:
    """A conversation of some turns with the environment, best actions given as answers.

    Attributes:
        exact: whether at each turn the ids are those of `apply_chat_template(tokenize=True)`.
        difference: where they are not, or why a new segment began; empty elsewhere.
        segments: how many sequences the model is given of it; one where history is never rewritten.
    """

    turns: int
    exact: bool
    segments: int
    difference: str


@dataclass(frozen=True)
class ChatForm:
    """What a model's chat template makes of conversations.

    Attributes:
        plain: answers that are an action alone.
        thinking: the same with a thought in front.
        system: whether there is a system message; without one, rules stand in the user's first.
        opening: the thought that the generation prompt opens; empty where it opens none.
        stops: each token that ends an answer, and who says so.
    """

    plain: Conversed
    thinking: Conversed
    system: bool
    opening: str
    stops: dict[str, list[str]]


def chat_form(model: LanguageModel, env: EnvSettings) -> ChatForm:
    """Converse with `env` on a held-out task, and compare with the tokenizer."""
    template = model.template
    thought = _THOUGHT.removeprefix(template.opening) if template.opening else _THOUGHT
    closed = "\n</think>\n\n" if template.opening else ""
    return ChatForm(
        plain=_converse(model, env, closed),
        thinking=_converse(model, env, thought),
        system=template.has_system,
        opening=template.opening,
        stops=_stops(model),
    )


def best_action(env: gymnasium.Env[str, str], info: Info) -> str:
    """What may be played where `info` was told: the oracle's next action, or any legal one."""
    planned = actions(env, str(info.get("oracle") or ""))
    return next(iter([*planned, *legal_actions(env), "wait"]))


def _converse(model: LanguageModel, settings: EnvSettings, thought: str) -> Conversed:
    template, env = model.template, settings.build()
    form: str = declared(env, "action_form", "<action>{}</action>")
    conversation = Conversation(template, model.stop_ids)
    observation, info = env.reset(seed=HELD_OUT_SEED)
    opening = (system_prompt(env), observation, examples(env))
    messages = template.messages(*opening)
    conversation.begin(*opening)
    exact, difference, over, turns = True, "", False, 0
    while not over and turns < _TURNS:
        exact, difference = _compared(model, messages, conversation, difference)
        if not exact:
            break
        answer = thought + form.replace("{}", best_action(env, info))
        ids = [*template.encode_content(answer), template.closing]
        action, _ = conversation.answer(ids, [0.0] * len(ids), Owner.STUDENT)
        observation, _, terminated, truncated, info = env.step(action)
        turns, over = turns + 1, terminated or truncated
        messages = [
            *messages,
            {"role": "assistant", "content": template.opening + answer},
            {"role": "user", "content": observation},
        ]
        before, segments = conversation.context, len(conversation.starts)
        conversation.observe(observation)
        if len(conversation.starts) > segments and not difference:
            difference = _rewritten(model, before, messages)
    env.close()
    return Conversed(turns, exact, len(conversation.starts), difference)


def _compared(
    model: LanguageModel,
    messages: Sequence[dict[str, str]],
    conversation: Conversation,
    difference: str,
) -> tuple[bool, str]:
    """Whether the conversation has the tokenizer's own ids, and what is known to differ."""
    theirs: Any = model.tokenizer.apply_chat_template(
        [dict(m) for m in messages],
        tokenize=True,
        add_generation_prompt=True,
        return_dict=False,
        **model.template.options,
    )
    ours = conversation.context
    if ours == list(theirs):
        return True, difference
    first = _first_difference(ours, theirs)
    shown = [_shown(model, ids, first) for ids in (ours, theirs)]
    return False, f"token {first}: {shown[0]} here, {shown[1]} of the tokenizer"


def _rewritten(
    model: LanguageModel, before: Sequence[int], messages: Sequence[dict[str, str]]
) -> str:
    """What the template makes of what the model has seen."""
    seen, written = model.template.decode(before), model.template.render(messages)
    at = max(_first_difference(seen, written) - _BEFORE, 0)
    return f"the template rewrites {seen[at : at + _AROUND]!r} as {written[at : at + _AROUND]!r}"


def _first_difference(one: Sequence[Any], other: Sequence[Any]) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))


def _shown(model: LanguageModel, ids: Sequence[int], at: int) -> str:
    return str(model.tokenizer.convert_ids_to_tokens(list(ids[max(at - 2, 0) : at + 3])))


def _stops(model: LanguageModel) -> dict[str, list[str]]:
    """The tokens that end answers, each with who says so."""
    declared_ends: Any = getattr(model.module.generation_config, "eos_token_id", None)
    ends = declared_ends if isinstance(declared_ends, list) else [declared_ends]
    origins = {
        "the chat template": [model.template.closing],
        "generation_config.json": ends,
        "the tokenizer's eos_token": [model.tokenizer.eos_token_id],
    }
    return {
        str(model.tokenizer.convert_ids_to_tokens(stop)): [
            origin for origin, ids in origins.items() if stop in ids
        ]
        for stop in sorted(model.stop_ids)
    }
