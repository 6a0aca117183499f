"""`agentopd prepare`: what is measured before a training, against definitions of its own."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import SOKOBAN, call, problem
from scripted import CHATML, NO_SYSTEM, STRIPS_THINKING, TRIMS, random_model, toy_tokenizer

from agentopd.environment.contract import TextEnv, actions, examples, parse_action, system_prompt
from agentopd.environment.registry import make
from agentopd.environment.settings import EnvSettings
from agentopd.models.model import LanguageModel
from agentopd.privilege import writer
from agentopd.privilege.environment import EnvFeedback, GroundTruth, OracleNext
from agentopd.privilege.view import EveryTurnView, SystemView
from agentopd.privilege.writing.skills import SkillSummary
from agentopd.rollout.policies import StudentRollout
from agentopd.rollout.transformers_sampler import TransformersSampler
from agentopd.running.evaluate import play_tasks
from agentopd.running.preparation.behaviour import Behaviour
from agentopd.running.preparation.capacity import Capacity, Shift
from agentopd.running.preparation.conversation import ChatForm, Conversed, chat_form
from agentopd.running.preparation.cost import Cost, measure_cost
from agentopd.running.preparation.findings import findings
from agentopd.running.preparation.habits import Baseline
from agentopd.running.preparation.report import Prepared, ToldSource
from agentopd.running.reading import parse_config


class Ways(TextEnv):
    """Go up three times; what is best is known at every turn, and in words of the toy tokenizer."""

    system_prompt = "rules"
    max_turns: int | None = 3

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.turns = 0
        told = {"oracle": "up left", "reference": "up left up", "guide": "why not up"}
        return "B1", {"task_id": str(seed), "success": False, **told}

    def step(self, action: str) -> Any:
        self.turns += 1
        good = parse_action(action) == "up"
        info = {"task_id": "", "success": good, "action_valid": True, "oracle": "left up"}
        return f"B{self.turns + 1}", float(good), False, self.turns == 3, info


ENV = EnvSettings(id="test_prepare:Ways")


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return random_model(toy_tokenizer())


@pytest.fixture(scope="module")
def capacity(model: LanguageModel) -> Capacity:
    rollout = StudentRollout(max_turn_tokens=6, max_context=512)
    played = play_tasks(ENV, model, TransformersSampler(model), rollout, 8, {})
    return Capacity.of(model, ENV, played)


def _logprob(model: LanguageModel, context: list[int], answer: str, action: str) -> float:
    """log P(the tokens of `action`, which ends `answer`) from one plain forward pass."""
    behind = model.tokenizer.encode(answer, add_special_tokens=False)
    count = len(model.tokenizer.encode(action, add_special_tokens=False))
    ids = torch.tensor([[*context, *behind]])
    with torch.no_grad():
        logprobs = model.module(input_ids=ids).logits[0].log_softmax(-1)
    return sum(
        float(logprobs[at - 1, ids[0, at]]) for at in range(ids.shape[1] - count, ids.shape[1])
    )


def test_the_best_action_is_asked_for_where_the_model_stood(capacity: Capacity) -> None:
    assert [q.turn for q in capacity.questions] == [0] * 6 + [2] * 6
    assert [q.action for q in capacity.questions] == ["up"] * 6 + ["left"] * 6
    for question, found in zip(capacity.questions, capacity.alone(), strict=True):
        context = question.trajectory.ids[: question.start].tolist()
        expected = _logprob(capacity.model, context, f"<action>{question.action}", question.action)
        assert found == pytest.approx(expected, abs=1e-4)


def test_told_it_reads_the_same_history_with_the_text_in_it(capacity: Capacity) -> None:
    told = capacity.told(OracleNext(), EveryTurnView())
    template = capacity.model.template
    for question, found in zip(capacity.questions, told, strict=True):
        assert found is not None
        ids = question.trajectory.ids[: question.start].tolist()
        stops = [m.stop for m in question.trajectory.messages if m.role == "user"]
        for turn in reversed(range(question.turn + 1)):
            told_ids = template.encode_content(_inserted(("up", "left", "left")[turn]))
            ids[stops[turn] : stops[turn]] = told_ids
        expected = _logprob(capacity.model, ids, f"<action>{question.action}", question.action)
        assert found == pytest.approx(expected, abs=1e-4)


def _inserted(action: str) -> str:
    return "\n\n" + writer.next_actions(action)


def test_a_shift_is_told_less_alone_by_turn(capacity: Capacity) -> None:
    alone = capacity.alone()
    shift = capacity.shift(GroundTruth(), SystemView(), alone)
    told = capacity.told(GroundTruth(), SystemView())
    assert shift is not None
    gains = [after - before for before, after in zip(alone, told, strict=True) if after is not None]
    assert shift.gain == pytest.approx(sum(gains) / 12)
    assert shift.first == pytest.approx(sum(gains[:6]) / 6)
    assert shift.later == pytest.approx(sum(gains[6:]) / 6)
    assert (shift.source, shift.view, shift.asked) == ("ground_truth", "system", 12)


def test_a_source_without_a_word_has_no_shift(capacity: Capacity) -> None:
    assert capacity.shift(EnvFeedback(), EveryTurnView(), capacity.alone()) is None


@pytest.mark.parametrize(
    ("template", "plain", "thinking", "system"),
    [
        (CHATML, (True, 1), (True, 1), True),
        (NO_SYSTEM, (True, 1), (True, 1), False),
        (STRIPS_THINKING, (True, 1), (True, 4), True),
    ],
)
def test_a_conversation_is_compared_with_the_tokenizers_own(
    template: str, plain: tuple[bool, int], thinking: tuple[bool, int], system: bool
) -> None:
    form = chat_form(random_model(toy_tokenizer(template)), ENV)
    assert (form.plain.exact, form.plain.segments) == plain
    assert (form.thinking.exact, form.thinking.segments) == thinking
    assert form.system == system
    assert ("<think>" in form.thinking.difference) == (thinking[1] > 1)
    assert form.stops == {"<|im_end|>": ["the chat template", "the tokenizer's eos_token"]}


def test_where_the_ids_differ_it_is_said_where(monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model(toy_tokenizer(TRIMS))
    monkeypatch.setattr(type(model.template), "encode_content", lambda self, text: [5, 6])
    found = chat_form(model, ENV).plain
    assert not found.exact
    assert found.difference.startswith("token ")


def test_cost_is_scaled_from_the_small_step(model: LanguageModel) -> None:
    config = parse_config(
        {
            "steps": 10,
            "student": {"path": "zoo:number-easy"},
            "env": {"id": "test_prepare:Ways"},
            "privilege": "ground_truth",
            "rollout": {"tasks": 32, "max_turn_tokens": 6},
            "evaluate": {"episodes": 16, "every": 5},
        }
    )
    fresh = random_model(toy_tokenizer())
    rollout = StudentRollout(max_turn_tokens=6, max_context=512)
    played = play_tasks(ENV, fresh, TransformersSampler(fresh), rollout, 8, {})
    cost = measure_cost(config, fresh, played, seconds=4.0)
    assert (cost.rollout, cost.evaluation, cost.measured) == (16.0, 8.0, 4)
    assert cost.step is not None and cost.run is not None and cost.step > 16.0
    # Ten steps, and evaluations before the first, after the fifth and after the tenth.
    assert cost.run == pytest.approx(10 * cost.step + 3 * 8.0)
    assert cost.peak > 2**20


BEHAVIOUR = Behaviour(
    success=0.5,
    interval=(0.3, 0.7),
    episodes=16,
    turns=4,
    invalid=0.0,
    cut=0.0,
    answer_tokens=10,
    usual_tokens=12,
    episode_tokens=300,
    context=300,
    ends={"terminated": 16},
    seconds=1.0,
)
CONVERSED = Conversed(turns=4, exact=True, segments=1, difference="")
SHIFT = Shift("skill_summary", "system", alone=-2, told=-1, first=1.0, later=1.0, asked=12)
GOOD = Prepared(
    model="zoo:sokoban-easy",
    env=SOKOBAN,
    chat=ChatForm(CONVERSED, CONVERSED, True, "", {"<|end|>": ["the chat template"]}),
    alone=BEHAVIOUR,
    habits=[],
    told=[ToldSource("skill_summary", [SHIFT], "system", BEHAVIOUR)],
    cost=Cost(1.0, 1.0, 1.0, 1.0, 100.0, 2**30, 4),
    large=False,
)
CONFIG = parse_config({"env": {"id": SOKOBAN}, "student": {"path": "zoo:sokoban-easy"}})


def _with(**changes: Any) -> Prepared:
    """The good one with other behaviour."""
    return replace(GOOD, alone=replace(BEHAVIOUR, **changes))


def _shifted(**changes: Any) -> Prepared:
    return replace(
        GOOD, told=[ToldSource("skill_summary", [replace(SHIFT, **changes)], "system", None)]
    )


MUTE = [ToldSource("skill_summary", [SHIFT], "system", None)]
OTHER = replace(SHIFT, source="ground_truth", view="every_turn", told=1.0)
BAD = [
    (_with(cut=1.0), "error", "rollout.max_turn_tokens=64"),
    (_with(cut=0.2), "warning", "rollout.max_turn_tokens=32"),
    (_with(invalid=1.0), "warning", "divergence=forward_kl"),
    (replace(_with(invalid=1.0), told=MUTE), "error", ""),
    (replace(_with(invalid=0.5), fewshot="env.options.prompt=fewshot"), "warning",
     "env.options.prompt=fewshot"),
    (_with(ends={"context_limit": 3}), "warning", "rollout.max_context=4096"),
    (_with(interval=(0.95, 1.0)), "note", ""),
    (_shifted(told=-2.0), "error", "teacher="),
    (_shifted(later=0.1), "warning", ""),
    (replace(GOOD, told=[*GOOD.told, ToldSource("ground_truth", [OTHER], "every_turn", None)]),
     "warning", "privilege=ground_truth view=every_turn"),
    (replace(GOOD, habits=[Baseline("constant", ("up",), 0.6, (0.4, 0.8), 16)]), "note", ""),
    (replace(GOOD, large=True), "warning", "learner.learning_rate=1e-5"),
    (replace(GOOD, cost=Cost(1.0, 1.0, 1.0, 1.0, 9_000.0, 0, 4)), "warning", "rollout.tasks=8"),
    (replace(GOOD, cost=Cost(1.0, 1.0, None, 1.0, None, 0, 4)), "note", ""),
    (replace(GOOD, told=[]), "note", ""),
]  # fmt: skip


def test_where_nothing_is_wrong_nothing_is_found() -> None:
    assert findings(GOOD, CONFIG) == []


@pytest.mark.parametrize(("found", "level", "change"), BAD)
def test_what_is_wrong_is_found_with_the_key_to_change(
    found: Prepared, level: str, change: str
) -> None:
    (finding,) = findings(found, CONFIG)
    assert finding.level == level
    assert finding.change.startswith(change) if change else finding.change == ""
    if change and not change.startswith("teacher"):
        parse_config(CONFIG.model_dump(mode="json"), finding.change.split())


def test_errors_come_first() -> None:
    found = replace(_with(invalid=1.0, interval=(0.95, 1.0)), large=True, told=MUTE)
    assert [f.level for f in findings(found, CONFIG)] == ["error", "warning", "note"]


def test_the_command_measures_and_writes(tmp_path: Path) -> None:
    file = tmp_path / "found.json"
    result = call(
        "prepare", "zoo:sokoban-easy", "--env", SOKOBAN, "-o", "prompt=brief", "-o", "max_turns=4",
        "--episodes", "3", "--set", "rollout.tasks=2", "--set", "threads=1", "--json", file,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    found = json.loads(file.read_text())
    assert found["chat"]["plain"] == {"turns": 4, "exact": True, "segments": 1, "difference": ""}
    assert found["alone"]["episodes"] == 3
    assert [told["source"] for told in found["told"]] == [
        "oracle_next", "ground_truth", "skill_summary",
    ]  # fmt: skip
    assert [h["kind"] for h in found["habits"]] == ["random", "constant", "mixture"]
    for table in ("chat template", "3 episodes", "log P(best action)", "seconds of a step"):
        assert table in result.stdout


def test_a_model_whose_answers_nobody_can_read_is_no_student_yet(tiny_model: Path) -> None:
    result = call(
        "prepare", tiny_model, "--env", "agentopd/FrozenLake-v0", "-o", "max_turns=2",
        "-o", "max_moves=2",
        "--episodes", "2", "--set", "rollout.max_turn_tokens=3", "--no-step",
    )  # fmt: skip
    assert result.exit_code == 1
    assert "error: 100 % of the answers hold no action" in result.stdout
    assert "change: env.options.prompt=fewshot" in result.stdout
    assert "seconds of a step" not in result.stdout
    assert "no environment" in problem(call("prepare", tiny_model, "--env", "agentopd/Nowhere-v0"))


FEWSHOT = ["FrozenLake", "Hanoi", "Countdown", "Mastermind", "Sokoban"]


@pytest.mark.parametrize("name", FEWSHOT)
def test_rules_with_turns_show_a_game_of_the_training_split_played_well(name: str) -> None:
    spec = f"agentopd/{name}-v0"
    taught, tested = (
        make(spec, {"prompt": "fewshot", "split": split}) for split in ("train", "test")
    )
    assert examples(taught) == examples(tested)
    env = make(spec, {"split": "train"})
    observation, info = env.reset(seed=1_000_003)
    assert 2 <= len(examples(tested)) <= 3
    for told, answer in examples(tested):
        assert told == observation
        assert parse_action(answer) == actions(env, info["oracle"])[0]
        observation, *_, info = env.step(answer)
    assert "think" not in system_prompt(tested)


def test_a_skill_is_asked_of_a_fresh_source(capacity: Capacity) -> None:
    first = capacity.told(SkillSummary(), SystemView())
    assert capacity.told(SkillSummary(), SystemView()) == first
