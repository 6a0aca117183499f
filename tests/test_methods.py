"""`agentopd methods`: rows by group, and what each row's own parts say of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from command_line import call, problem

from agentopd.base.rows.costs import Cost
from agentopd.base.rows.header import GROUPS, UNKNOWN, Row, rows
from agentopd.base.types import Owner
from agentopd.base.written import FOLDER
from agentopd.looking.methods.cost import bills, changing, costs, legend
from agentopd.looking.methods.equation import equation
from agentopd.looking.methods.flow import flow, legs_in_words
from agentopd.looking.methods.page import page
from agentopd.running.config import RunConfig
from agentopd.running.reading import load_config, method_names, stage_configs

ROOT = Path(__file__).parents[1]
GOLDEN = Path(__file__).parent / "golden"
ROWS = {row.name: row for row in rows()}
EACH = pytest.mark.parametrize("name", method_names())


@cache
def learnt(name: str) -> tuple[RunConfig, ...]:
    """The configurations of a row in which something is learnt: of its stages, or its own."""
    config = load_config("quickstart", [f"method={name}"])
    if not config.stages:
        return (config,)
    stages = legs_in_words(stage_configs(config))
    return tuple(stage for _, stage, leg in stages if leg.trains and stage.steps)


def of(*overrides: str) -> RunConfig:
    return load_config("quickstart", list(overrides))


@pytest.mark.parametrize("name", ["opd", "skill_sd", "qwen3_opd"])
def test_a_page_is_as_it_was_read_by_a_person(name: str) -> None:
    assert page(name) == (GOLDEN / f"method_{name}.txt").read_text(encoding="utf-8")


@EACH
def test_a_row_says_what_it_is(name: str) -> None:
    row = ROWS[name]
    assert row.group in GROUPS
    assert 10 < len(row.in_short) <= 60
    assert row.inferred not in ("", UNKNOWN)
    assert f"method={name}" in row.command
    assert re.fullmatch(r"\d{4}\.\d{4,5}|-", row.arxiv)


@EACH
def test_a_rows_equation_names_its_weights_and_its_teacher(name: str) -> None:
    for config in learnt(name):
        said = equation(config)
        assert next(iter(said)) == "grad J"
        text = " ".join(said.values())
        for weight in config.weight:
            assert weight.kind in text
        # It says who q is where it speaks of q: where the teacher is heard, or has acted.
        rest = " ".join(words for symbol, words in said.items() if symbol != "q")
        assert ("q" in said) == bool(re.search(r"\bq\b", rest)), said
        assert "q" in said or not config.mix.distil_coefficient
        assert "None" not in text


@EACH
def test_a_rows_flow_says_who_acts_and_what_is_learnt(name: str) -> None:
    for config in learnt(name):
        steps = dict(flow(config))
        assert {"acts", "scores", "learnt", "follows"} <= steps.keys()
        assert config.rollout.kind in steps["acts"]
        assert config.mix.kind in steps["learnt"]
        told = [x for x in steps if x.startswith("told to")]
        assert bool(told) == bool(config.mix.distil_coefficient or config.rollout.tells)


@EACH
def test_a_row_has_a_cost_beside_opd(name: str) -> None:
    for config in learnt(name):
        known = {bill.what: bill for bill in bills(costs(config))}
        assert {"student samples", "teacher reads", "student learns"} <= known.keys()
        writes = any(cost.who == "teacher" for x in config.privilege for cost in x.costs)
        asked = bool(config.mix.distil_coefficient) or (config.rollout.consults and writes)
        assert (known["teacher reads"].tokens != "0") == asked
        alone = Owner.STUDENT not in config.rollout.actors
        silent = config.rollout.replays or alone or name == "guided_opd"  # in its first step
        assert (known["student samples"].tokens == "0") == silent
    assert page(name).count("Cost of an episode") >= len(learnt(name))


def test_opd_costs_what_opd_costs() -> None:
    (config,) = learnt("opd")
    assert [(x.what, x.relative) for x in bills(costs(config))] == [
        ("student samples", "1"),
        ("teacher reads", "1"),
        ("student learns", "1"),
    ]


@pytest.mark.parametrize(
    ("overrides", "what", "tokens", "relative"),
    [
        (("mix=rl", "rollout.group=4"), "teacher reads", "0", "0"),
        (("learner.epochs=4",), "student learns", "4 L", "4"),
        (("method=opsd",), "teacher reads", "L + P", "1 + P/L"),
        (("method=hdpo",), "student samples", "S + f S", "1 + f"),
        (("method=gkd", "rollout.share=0.25"), "student samples", "0.75 S", "0.75"),
        (("method=gkd", "rollout.share=0.25"), "teacher samples", "0.25 S", ""),
        (("method=gkd", "rollout.per=token"), "teacher samples", "S", ""),
        (("teacher=trust_region",), "reference reads", "L", ""),
        (("method=rltf_sd",), "student samples", "S + n S", "1 + n"),
        (("method=rltf_sd",), "student learns", "L + 2 n L", "1 + 2 n"),
        (("method=rltf_sd", "learner.epochs=2"), "student learns", "2 L + 4 n L", "2 + 4 n"),
        (("method=rltf_sd", "rollout.attempts=3", "rollout.stop=never"), "student samples",
         "3 S", "3"),
        (("method=erl",), "student samples", "S + n S + n W", "1 + n + n W/S"),
        (("method=ra_opd_a",), "student samples", "S + n W", "1 + n W/S"),
        (("method=ra_opd_a",), "teacher reads", "L + n Q + P", "1 + n Q/L + P/L"),
        (("method=grpo", "mix.rl.kl_coefficient=0.1"), "reference reads", "L", ""),
        (("divergence.target=extrapolate",), "reference reads", "L", ""),
        (("privilege={kind: filler, of: diagnosis}",), "student samples",
         "S + W_diagnosis", "1 + W_diagnosis/S"),
    ],
)  # fmt: skip
def test_costs_follow_from_the_parts(
    overrides: tuple[str, ...], what: str, tokens: str, relative: str
) -> None:
    (found,) = (bill for bill in bills(costs(of(*overrides))) if bill.what == what)
    assert (found.tokens, found.relative) == (tokens, relative)


def test_a_reference_that_nobody_asks_costs_nothing() -> None:
    found = bills(costs(of("method=grpo", "divergence.target=extrapolate")))
    assert "reference reads" not in {bill.what for bill in found}


def test_what_schedules_move_is_said_to_be_of_the_first_step() -> None:
    (config,) = learnt("guided_opd")
    (said,) = changing(config)
    assert said.startswith("of the first step: schedule.share multiplies rollout.share by 1 -> 0")
    assert changing(of("method=atod")) == []  # its schedules move coefficients


def test_each_symbol_is_explained_once() -> None:
    (config,) = learnt("erl")
    said = [line.partition(":")[0] for line in legend(costs(config))]
    assert said == ["S", "n", "W", "Q"]


@pytest.mark.parametrize(
    ("teacher", "said"),
    [
        ("frozen", "the teacher stays as it is"),
        ("live", "the teacher moves with them"),
        ("{kind: ema, rate: 0.5}", "the teacher follows"),
        ("{kind: routed, teachers: {a: {kind: external, source: {path: m}}}, "
         "default: {kind: external, source: {path: n}}}", "the teacher stays as it is"),
        ("{kind: routed, teachers: {a: {kind: lagged}}, "
         "default: {kind: external, source: {path: n}}}", "the teacher follows"),
    ],
)  # fmt: skip
def test_a_teacher_follows_the_student_where_it_is_told_to(teacher: str, said: str) -> None:
    follows = dict(flow(of(f"teacher={teacher}")))["follows"]
    assert follows.partition("; ")[2].startswith(said)


def test_equal_costs_are_summed() -> None:
    twice = [Cost("teacher", "reads", "L", 0.5), Cost("teacher", "reads", "L", 1.5)]
    assert {x.what: x.tokens for x in bills(twice)}["teacher reads"] == "2 L"


@pytest.mark.parametrize(
    ("overrides", "symbol", "formula"),
    [
        (("method=opd",), "grad J", "mean m T"),
        (("method=opd",), "T", "-grad Div"),
        (("method=opd", "unit=trajectory", "unit.reduce=sum"), "T", "-grad u[Div]"),
        (("method=opd", "weight=entropy"), "T", "-w grad Div"),
        (("method=opd", "weight=[entropy, depth_decay]"), "w", "w1 w2"),
        (("method=opd", "divergence.support=sampled"), "T", "r D grad log p(y)"),
        (("method=veto",), "Div", "KL(p || Q), over the whole vocabulary"),
        (("method=veto",), "Q", "q p^0.8 / Z"),
        (("method=opd", "mix.kl_coefficient=0.1"), "grad J",
         "mean m (T - 0.1 grad KL(p_0 || p))"),
        (("method=skill_sd", "mix.coefficient=1"), "grad J", "mean m (R + T)"),
        (("method=rlsd",), "grad J", "mean m PG(A (0.5 + 0.5 w))"),
        (("method=rlsd", "unit=turn"), "grad J", "mean m PG(A (0.5 + 0.5 u[w]))"),
        (("method=openclaw_rl", "mix.rl.kl_coefficient=0"), "grad J", "mean m PG(A + w D)"),
        (("method=gkd",), "m", "1 at the tokens that the student and the teacher wrote, else 0"),
        (("method=grpo", "mix.rl.clip_high=0.3"), "PG(x)",
         "grad min(r x, clip(r, 0.8, 1.3) x)"),
        (("method=rltf_sd",), "grad J",
         "mean m (R in attempts as they were read, 0.1 R in answers learnt untold, "
         "0.1 grad log p(y) in feedback)"),
        (("method=mopd_mimo",), "PG(x)", "r 1[r >= 0.5] 1[r <= 2] x grad log p(y)"),
        (("divergence.target=extrapolate",), "Q", "q^1.25 p_0^-0.25 / Z"),
        (("divergence.target={kind: extrapolate, base: {path: mine}}",), "Q",
         "q^1.25 b^-0.25 / Z with b = the model mine"),
        (("unit.normalise=sequence_sum",), "mean",
         "the mean over episodes of the sum over an episode's tokens"),
        (("method=grpo", "learner.epochs=2"), "r", "p(y) / mu(y), 1 in the first of 2 passes"),
        (("method=grpo", "rollout.temperature=0.7"), "mu", "p, at temperature 0.7"),
    ],
)  # fmt: skip
def test_an_equation_is_put_together_from_the_parts(
    overrides: tuple[str, ...], symbol: str, formula: str
) -> None:
    assert equation(of(*overrides))[symbol] == formula


def test_a_row_of_ones_own_has_a_page(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("unit: {kind: token}\nmix: {kind: distil}\n")
    shown = call("methods", path).stdout
    assert shown.startswith(f"{path} (-, -)")
    assert "grad J = mean m T" in shown


def test_a_wrong_name_is_told_the_closest() -> None:
    assert "did you mean 'skill_sd'?" in problem(call("methods", "skil_sd"))


def test_old_rows_without_a_header_are_listed_last(tmp_path: Path) -> None:
    path = tmp_path / "old.yaml"
    path.write_text("# Old, arXiv 2401.00001: as it was.\n#   agentopd train x\nmix: {kind: rl}\n")
    row = Row.read(path)
    assert (row.group, row.in_short, row.arxiv) == (UNKNOWN, UNKNOWN, "2401.00001")
    assert row.command == "agentopd train x"
    assert row.text == "Old, arXiv 2401.00001: as it was."


def _table(page_of_docs: str, first: str) -> Iterator[list[str]]:
    """The cells of the rows of a page's tables whose first cell is of that form."""
    for line in (ROOT / "docs" / page_of_docs).read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|") and re.fullmatch(first, cells[0]):
            yield cells


def test_the_page_lists_every_row_as_its_file_does() -> None:
    listed = [x for x in _table("methods.md", r"`\w+`") if len(x) == 4 and x[1] in (*GROUPS, "-")]
    expected = [[f"`{x.name}`", x.group, x.in_short, x.arxiv] for x in rows()]
    missing = [f"| {' | '.join(x)} |" for x in expected if x not in listed]
    assert not missing, "docs/methods.md lacks:\n" + "\n".join(missing)
    assert listed == expected


def test_what_is_said_to_be_missing_is() -> None:
    cells = _table("missing_methods.md", r"[\w-]+(, \[arXiv .*)?")
    missing = [row[0].split(",")[0].lower().replace("-", "_") for row in cells][1:]
    assert "vold" in missing
    assert len(missing) == len(set(missing))
    there = {path.stem for path in (FOLDER / "methods").glob("*.yaml")} & {*missing}
    assert not there, f"docs/missing_methods.md: {sorted(there)} have rows: take them off"
