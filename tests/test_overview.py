"""The page over several studies: what it compares, what it says, and what it may not say."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from command_line import call
from tunnels import TASKS, Drawn, write_tunnel

from agentopd.base.statistics import Estimate
from agentopd.looking.report.data import read_results
from agentopd.looking.report.shape import Arm, Point, Run
from agentopd.looking.studies import holds_studies, write_overview
from agentopd.looking.studies.changes import Row, overall, row_of, shared_arms
from agentopd.looking.studies.drawn import curves, painted, scattered
from agentopd.looking.studies.folders import read_studies
from agentopd.looking.studies.predictors import predicted
from agentopd.looking.studies.words import caveats, extent, points, searched, verdict

BLIND = {
    "seen": Drawn(0.8, 0.31, {"student.path": "zoo:number-disarmed"}),
    "reverse_kl": Drawn(0.2, 0.002),
    "forward_kl": Drawn(0.6, 0.002, {"divergence": "forward_kl"}),
    "same": Drawn(0.2, 0.002),
}
DISARMED = {
    "token": Drawn(0.2, 0.05),
    "forward_kl": Drawn(0.5, 0.05),
    "grpo": Drawn(0.2),
    "worse": Drawn(0.01, 0.4),
}
ATTACK = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("tunnel")
    write_tunnel(found / "blind", BLIND, {"sick": "reverse_kl", "control": ["seen"]})
    write_tunnel(found / "disarmed", DISARMED, {"sick": "token"})
    write_tunnel(found / "old", {"a": Drawn(0.2), "b": Drawn(0.9)}, {"sick": "a"}, outcomes=False)
    write_tunnel(found / "unnamed", {"a": Drawn(0.2), ATTACK: Drawn(0.9)}, {})
    (found / "begun" / "arms").mkdir(parents=True)
    return found


@pytest.fixture(scope="module")
def rows(folder: Path) -> dict[str, Row]:
    found = read_studies(folder).finished
    return {name: row_of(name, results) for name, results in found.items()}


@pytest.fixture(scope="module")
def page(folder: Path) -> str:
    return write_overview(folder).read_text(encoding="utf-8")


def test_each_cell_is_the_change_against_the_sick_arm(rows: dict[str, Row]) -> None:
    row = rows["blind"]
    sick = row.cells["reverse_kl"]
    assert row.sick is sick and sick.change is None and sick.middle is not None
    for name in ("seen", "forward_kl", "same"):
        cell = row.cells[name]
        assert cell.change and cell.arm.success_after is not None
        gap = cell.arm.success_after - (sick.arm.success_after or 0)
        assert cell.change.value == pytest.approx(gap)
        assert cell.change.interval[0] <= gap <= cell.change.interval[1]
        assert sum(cell.seeds) / 2 == pytest.approx(gap)
    assert row.cells["forward_kl"].change and row.cells["forward_kl"].change.apart
    assert row.cells["same"].change and not row.cells["same"].change.apart
    assert row.cells["forward_kl"].chance == Estimate(1.0, (1.0, 1.0))


def test_the_arms_are_what_the_study_says_they_are(rows: dict[str, Row]) -> None:
    roles = {name: cell.role for name, cell in rows["blind"].cells.items()}
    assert roles == {"seen": "control", "reverse_kl": "sick", "forward_kl": "fix", "same": "fix"}


def test_a_mechanism_is_that_of_all_arms_which_share_it(rows: dict[str, Row]) -> None:
    cells = rows["blind"].cells
    assert cells["forward_kl"].mechanism == cells["reverse_kl"].mechanism
    assert cells["seen"].mechanism and cells["seen"].mechanism.opening == 0.31
    assert rows["disarmed"].cells["grpo"].mechanism is None


def test_tasks_are_paired_only_where_they_are_the_same(tmp_path: Path) -> None:
    """Two arms that solve the same tasks differ by nothing for sure, if these are the same."""
    arms = {"a": Drawn(0.5), "same": Drawn(0.5), "other": Drawn(0.5, None, {"env.options.x": 1})}
    summary = write_tunnel(tmp_path / "s", arms, {"sick": "a"}) / "summary.json"
    written = json.loads(summary.read_text())
    for arm in written["arms"].values():
        for run, sick in zip(arm["runs"], written["arms"]["a"]["runs"], strict=True):
            run |= {key: sick[key] for key in ("outcomes", "success_after")}
    summary.write_text(json.dumps(written))
    cells = row_of("s", read_results(tmp_path / "s")).cells
    assert cells["same"].change == Estimate(0.0, (0.0, 0.0))
    assert cells["other"].change and cells["other"].change.interval[1] > 0.1


def test_without_outcomes_by_task_the_intervals_are_wilson_s_and_said_to_be(
    rows: dict[str, Row], page: str
) -> None:
    cell = rows["old"].cells["b"]
    assert not cell.by_task and cell.middle is None and cell.chance is None
    assert cell.change and cell.change.interval[0] > 0
    a, b = (rows["old"].cells[name].arm for name in "ab")
    assert a.interval and b.interval and a.success_after and b.success_after
    below = np.hypot(b.success_after - b.interval[0], a.interval[1] - a.success_after)
    assert cell.change.interval[0] == pytest.approx(cell.change.value - below)
    assert "of old" in " ".join(caveats([rows["old"]], []))
    assert not any("outcomes" in note for note in caveats([rows["blind"]], []))
    assert page.count("†</small>") == 1


def test_an_arm_of_several_studies_is_told_over_all_of_them(rows: dict[str, Row]) -> None:
    chosen = [rows["blind"], rows["disarmed"]]
    assert shared_arms(chosen) == ["forward_kl"]
    found = overall(chosen, "forward_kl")
    assert found and found.studies == 2
    each = [row.cells["forward_kl"].change for row in chosen]
    assert found.change.value == pytest.approx(np.mean([e.value for e in each if e]))
    after = [run.success_after for row in chosen for run in row.cells["forward_kl"].arm.runs]
    assert found.middle.value == pytest.approx(np.mean(sorted(x or 0 for x in after)[1:3]))
    assert overall(chosen, "grpo") is None


def test_the_sentence_claims_no_more_than_the_intervals(rows: dict[str, Row]) -> None:
    said = verdict(rows["blind"])
    assert re.search(r"Without the cause: the effect is gone in seen \+\d+\.", said)
    assert re.search(r"Better: forward_kl \+\d+\. Not told apart from it: same\.", said)
    assert re.search(r"Worse: worse −\d+\.", verdict(rows["disarmed"]))
    assert "names no sick arm" in verdict(rows["unnamed"])


def test_a_control_in_which_the_effect_stays_is_said_to_be_none(tmp_path: Path) -> None:
    arms = {"sick": Drawn(0.2), "made_well": Drawn(0.2)}
    write_tunnel(tmp_path / "s", arms, {"sick": "sick", "control": ["made_well"]})
    row = row_of("s", read_results(tmp_path / "s"))
    assert "it cannot be told to be gone in made_well" in verdict(row)


def test_how_an_arm_searches_is_told_before_and_after_with_its_teacher(
    rows: dict[str, Row],
) -> None:
    row = rows["disarmed"]
    told, alone = (searched(row.cells[n], row.results.steps[n]) for n in ("token", "grpo"))
    assert told == ["states: 4.5 → 2.0, its teacher 3.2", "revisits: 25 % → 25 %"]
    assert alone == ["states: 4.5 → 2.0", "revisits: 25 % → 25 %"]
    assert searched(row.cells["token"], []) == []


def test_what_an_arm_did_beside_success_stands_with_it(folder: Path, tmp_path: Path) -> None:
    at = tmp_path / "blind"
    shutil.copytree(folder / "blind", at)
    change = {
        "before": {"thought": 4.0, "claims": 0.25, "cut": 0.0},
        "after": {"thought": 9.0, "claims": 0.75, "trained": {"success": 1.0, "interval": [0, 1]}},
        "kl_thought": 0.5,
        "kl_action": None,
    }
    again = change | {"after": change["after"] | {"thought": 10.0}, "kl_thought": 0.3}
    written = {"changes": {"seen": [change, again]}, "gradients": {"same": {"bias": 0.5}}}
    (at / "effects.json").write_text(json.dumps(written))
    effects = read_studies(tmp_path).effects["blind"]
    assert effects.brief("seen") == "as told 75 %, thought 9.5" and not effects.brief("same")
    assert effects.lines("seen") == [
        "begins as told 25 % → 75 %",
        "tokens of a thought 4.0 → 9.5",
        "tasks of its training 100 %",
        "KL from its start, on thoughts 0.4 nats",
    ]
    assert effects.lines("same") == ["bias of its first gradient 0.50"]
    page = write_overview(tmp_path).read_text(encoding="utf-8")
    assert "as told 75 %, thought 9.5" in page and "bias of its first gradient 0.50" in page
    (at / "effects.json").write_text(json.dumps({"changes": []}))
    with pytest.raises(ValueError, match=r"effects\.json is not what agentopd writes there"):
        write_overview(tmp_path)


def test_few_seeds_and_unfinished_studies_are_owned_up_to(rows: dict[str, Row]) -> None:
    told = " ".join(caveats([rows["blind"]], ["begun"]))
    assert "Fewer than 5 seeds (blind 2)" in told and "Not finished, and not shown: begun" in told


def test_every_click_has_its_target_and_nothing_lies_outside(page: str) -> None:
    targets = re.findall(r'\bid="([^"]+)"', page)
    assert len(targets) == len(set(targets))
    links = re.findall(r'href="([^"]+)"', page)
    assert links and {link.removeprefix("#") for link in links} <= set(targets)
    assert all(link.startswith("#") for link in links)
    assert not re.search(r"https?://|src=|@import|url\(", page)
    arms = len(BLIND) + len(DISARMED) + 4
    assert len([t for t in targets if t.startswith("study-")]) == arms
    assert page.count("One episode, token by token") == len(BLIND) + len(DISARMED) - 1
    assert page.count('class="curves"') == arms


def test_all_text_of_a_study_is_escaped(page: str) -> None:
    assert ATTACK not in page and "&lt;script&gt;" in page


def test_only_what_is_told_apart_is_coloured() -> None:
    assert painted(None).side == painted(Estimate(0.1, (-0.01, 0.2))).side == "none"
    assert painted(Estimate(0.1, (0.01, 0.2))).side == "more"
    assert painted(Estimate(-0.3, (-0.4, -0.1))).side == "less"
    strengths = [painted(Estimate(v, (v, v))).strength for v in (0.05, 0.2, 0.5, 0.9)]
    assert strengths == sorted(strengths) and strengths[-1] == 1 and strengths[0] > 0


def test_predictors_say_when_there_are_too_few_arms(rows: dict[str, Row], page: str) -> None:
    found = {p.predictor.name: p for p in predicted([*rows.values()])}
    told = found["speaks as told"]
    assert len(told.points) == 7 and told.causes == 4
    assert told.correlation is None and "8 arms of 5 different" in told.why
    assert "too few" in page


def test_predictors_are_ranked_with_the_gain(tmp_path: Path) -> None:
    """The better a student speaks as told, the more it gains, in arms that are drawn so."""
    arms = {f"arm{n}": Drawn(0.05 + 0.11 * n, 0.1 * n + 0.01) for n in range(9)}
    write_tunnel(tmp_path / "s", arms, {"sick": "arm0"})
    found = {p.predictor.name: p for p in predicted([row_of("s", read_results(tmp_path / "s"))])}
    told = found["speaks as told"]
    assert len(told.points) == told.causes == 9
    gains = [gain for _, gain in told.points]
    assert told.correlation and told.correlation.value > 0.9
    assert 0.5 < told.correlation.interval[0] <= told.correlation.interval[1] <= 1
    assert gains[8] == pytest.approx(np.mean([*map(int, _outcomes(tmp_path, "arm8"))]) - 0.1)
    assert {value for value, _ in found["overlap"].points} == {(30 * 0.8 + 10 * 0.4) / 40}
    assert {value for value, _ in found["depth"].points} == {5.5}
    assert found["depth"].correlation is None and found["depth"].why == "the same in all arms"


def _outcomes(folder: Path, arm: str) -> str:
    written = json.loads((folder / "s/summary.json").read_text())
    digits = "".join(run["outcomes"] for run in written["arms"][arm]["runs"])
    assert len(digits) == 2 * TASKS
    return digits


def test_curves_are_drawn_between_nothing_and_all() -> None:
    def arm(*ends: float) -> Arm:
        return Arm(
            runs=tuple(
                Run(
                    seed=seed,
                    curve=tuple(
                        Point(step=s, episodes=100 * s, seconds=0, success=y)
                        for s, y in ((0, 0.0), (2, end))
                    ),
                )
                for seed, end in enumerate(ends)
            )
        )

    found = curves(arm(0.5, 1.0), arm(0.0), width=100, height=100)
    assert found and found.last == 200
    assert found.seeds == ("0.0,100.0 100.0,50.0", "0.0,100.0 100.0,0.0")
    assert found.mean == "0.0,100.0 100.0,25.0" and found.sick == "0.0,100.0 100.0,100.0"
    assert curves(Arm(), None) is None
    assert scattered([(1, 5), (9, 7)], size=90) == [(30.0, 60.0), (60.0, 30.0)]
    assert scattered([]) == []


def test_numbers_are_short_and_signed() -> None:
    assert [points(v) for v in (0.361, -0.057, 0.002, -0.002)] == ["+36", "−6", "0", "0"]
    assert extent(Estimate(0.1, (-0.02, 0.2))) == "−2 to +20"


def test_a_folder_is_told_by_what_lies_in_it(folder: Path) -> None:
    assert holds_studies(folder)
    assert not holds_studies(folder / "blind") and not holds_studies(folder / "blind" / "arms")
    assert not holds_studies(folder / "nowhere")


def test_report_of_a_folder_of_studies_is_the_page_over_them(folder: Path) -> None:
    done = call("report", folder)
    assert done.exit_code == 0 and "the page over all studies" in done.output
    assert (folder / "report.html").is_file()


def test_nothing_finished_is_told_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "blind" / "arms").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"agentopd resume .*blind"):
        write_overview(tmp_path)
