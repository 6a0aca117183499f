"""The report: honest, self-contained, and drawn from what the folder holds."""

from __future__ import annotations

import json
import math
import random
import re
from pathlib import Path
from typing import Any

import pytest

from agentopd.looking.report import write_report
from agentopd.looking.report.board import draw_board, split_board
from agentopd.looking.report.data import read_results, read_steps
from agentopd.looking.report.episode import show_episode, signed
from agentopd.looking.report.figure import ARM_COLOURS
from agentopd.looking.report.finding import caveat, finding, speed
from agentopd.looking.report.plots import probe_plots, stage_seconds
from agentopd.looking.report.shape import Arm, Episode, Habit, Run, Summary

BOARDS = (
    "#######\n#_____#\n#_.$_@#\n#_$___#\n#_.___#\n#######",
    "#######\n#_____#\n#_.$@_#\n#_$___#\n#_.___#\n#######",
    "#######\n#_____#\n#_*@__#\n#_$___#\n#_.___#\n#######",
    "#######\n#_____#\n#_+___#\n#_____#\n#_*___#\n#######",
)
HABITS = {"random legal action": 0.1, "always Up": 0.5}
ATTACK = "<script>alert('x')</script>"


def interval_of(success: float, episodes: int) -> list[float]:
    half = 1.96 * math.sqrt(success * (1 - success) / episodes)
    return [max(0.0, success - half), min(1.0, success + half)]


def step_of(step: int, goal: float, noise: random.Random) -> dict[str, Any]:
    gain = 1 - math.exp(-step / 12)
    success = 0.09 + (goal - 0.09) * gain + noise.uniform(-0.03, 0.03)
    turns, fade = range(10), 1 - 0.5 * gain
    by_turn: dict[str, list[float | None]] = {
        "count": [256 * math.exp(-turn / 5) for turn in turns],
        "log_ratio": [fade * (0.5 + 0.05 * turn + noise.uniform(0, 0.06)) for turn in turns],
        "divergence": [fade * (0.32 + 0.06 * turn + noise.uniform(0, 0.05)) for turn in turns],
        "student_entropy": [0.9 * fade - 0.02 * turn for turn in turns],
        "teacher_entropy": [0.45 - 0.01 * turn + noise.uniform(0, 0.03) for turn in turns],
        "overlap": [*(0.55 + 0.3 * gain - 0.02 * turn for turn in range(9)), None],
    }
    return {
        "step": step,
        "episodes": step * 64,
        "seconds": step * 7.3,
        "train": {"success": success, "reward": success, "turns": 7.2, "dead_groups": None},
        "loss": 0.4 * fade,
        "probes": {
            "by_turn": by_turn,
            "by_success": {"solved": {"divergence": 0.2}, "unsolved": {"divergence": 0.51}},
            "scalars": {"gradient_norm": 1.7, "leak_rate": 0.0},
        },
        "stages": {"rollout": 4.1, "privilege": 0.2, "teacher": 1.1, "learner": 1.6},
        "tokens": {"student": 2_800, "teacher": 9_100},
        "evaluation": None
        if step % 10
        else {"success": success, "episodes": 200, "interval": interval_of(success, 200)},
    }


def episode_of(arm: str) -> dict[str, Any]:
    noise = random.Random(arm)
    moves = ("left", "left", "down", "up")
    turns = [
        {
            "observation": board,
            "tokens": [
                {"text": text, "signal": noise.gauss(0.3, 0.8) * size, "divergence": noise.random()}
                for text, size in (
                    ("<action>", 0.05),
                    (move, 1.5),
                    ("</action>", 0.05),
                    ("<end>", 0.02),
                )
            ],
            "feedback": f"{move} brings you closer. {3 - i} to go.",
            "reward": float(i == 3),
        }
        for i, (board, move) in enumerate(zip(BOARDS, moves, strict=True))
    ]
    turns[1]["observation"] = f"You walked left.\n{BOARDS[1]}\nYour move?"
    turns[2]["tokens"] = [
        {"text": text, "signal": noise.gauss(-0.2, 0.5), "divergence": 0.2}
        for text in ("<think>", "The", " box", " is", " home", ".", "\n", "</think>")
    ] + turns[2]["tokens"]
    return {
        "arm": arm,
        "env": "agentopd/Sokoban-v0",
        "task": "sokoban/test/17",
        "success": True,
        "privilege": "Best from here: left, left, down, up.",
        "turns": turns,
    }


def write_run(folder: Path, arm: str, seed: int, goal: float) -> dict[str, Any]:
    """A run folder; returns its entry in the study's summary."""
    folder.mkdir(parents=True)
    noise = random.Random(f"{arm}/{seed}")
    steps = [step_of(step, goal, noise) for step in range(0, 41, 2)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps))
    (folder / "episode.json").write_text(json.dumps(episode_of(arm)))
    names = ("step", "episodes", "seconds")
    curve = [s["evaluation"] | {n: s[n] for n in names} for s in steps if s["evaluation"]]
    ends = {"success_before": curve[0]["success"], "success_after": curve[-1]["success"]}
    (folder / "summary.json").write_text(
        json.dumps({"run": True, "arm": arm, "seed": seed, **ends})
    )
    return {"seed": seed, "folder": f"arms/{arm}/seed-{seed}", "curve": curve, **ends}


def write_study(folder: Path, goals: dict[str, float], seeds: int = 2) -> Path:
    arms: dict[str, Any] = {}
    for number, (name, goal) in enumerate(goals.items()):
        runs = [write_run(folder / f"arms/{name}/seed-{s}", name, s, goal) for s in range(seeds)]
        after = sum(run["success_after"] for run in runs) / seeds
        arms[name] = {
            "success_before": 0.09,
            "success_after": after,
            "interval": interval_of(after, 200 * seeds),
            "episodes": 2560 * seeds,
            "student_tokens": 112_000 * seeds,
            "teacher_tokens": (364_000 + 20_000 * number) * seeds,
            "seconds": {
                "rollout": 328.0,
                "privilege": 16.0,
                "teacher": 88.0 + 60 * number,
                "learner": 128.0,
                "evaluate": 40.0,
                "total": 625.0 + 60 * number,
            },
            "seeds": list(range(seeds)),
            "dead_groups": None if number else 0.42,
            "skipped": {"the gradient is not finite": 1, "no <signal>": 2} if number else {},
            "overrides": {"unit": {"kind": name}, "mix.coefficient": 1.0},
            "runs": runs,
        }
    summary = {
        "name": "Which unit should a teacher grade?",
        "env": "agentopd/Sokoban-v0",
        "arms": arms,
        "teacher": {"success": 0.86, "interval": [0.8, 0.9], "note": "shown the best next move"},
        "habits": [
            {
                "kind": "random",
                "name": "random legal action",
                "success": 0.05,
                "interval": [0.02, 0.1],
            },
            {"kind": "constant", "name": "always Up", "success": 0.43, "interval": [0.36, 0.5]},
        ],
        "machine": {"cpu": "2 cores", "memory": "8 GiB", "gpu": None},
        "versions": {"agentopd": "0.1.0", "torch": "2.13.0"},
        "config": {"student": {"model": "zoo:nano"}, "unit": {"kind": "turn"}, "seeds": [0, 1]},
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    return write_study(folder, {"token": 0.41, "turn": 0.63})


@pytest.fixture(scope="module")
def page(study: Path) -> str:
    return write_report(study).read_text(encoding="utf-8")


def summary_of(**arms: tuple[float, tuple[float, float]]) -> Summary:
    return Summary(
        arms={
            name: Arm(success_before=0.1, success_after=after, interval=interval, seeds=(0, 1))
            for name, (after, interval) in arms.items()
        }
    )


def test_the_page_refers_to_nothing_outside_itself(page: str) -> None:
    assert not re.search(r"https?:|//[a-z]|<script|<link|@import|<iframe|<img", page)
    assert page.count('<svg class="plot"') == 2 + 2 * 4 + 1
    assert page.count("<html") == page.count("</html>") == 1


def test_skipped_steps_are_counted_and_explained(page: str) -> None:
    rows = re.findall(r"<td>(\d+ %|–)</td><td>(\d+)</td></tr>", page)
    assert rows == [("42 %", "0"), ("–", "3")]
    told = "changed no weight: turn, 1 × the gradient is not finite, 2 × no &lt;signal&gt;.</p>"
    assert told in page


def test_every_reference_inside_the_page_has_one_target(page: str) -> None:
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:url\(|href=")#([\w-]+)', page)) <= set(ids)


def test_every_arm_is_named_in_the_tables_and_in_the_plots(page: str) -> None:
    rows = re.findall(r'<th scope="row"><span class="dot"[^>]*></span>([^<]+)</th>', page)
    assert rows == ["token", "turn"] * 2
    for arm in ("token", "turn"):
        assert re.search(rf"<text[^>]*>{arm}</text>", page)


def test_habits_stand_below_the_arms_and_name_those_that_are_not_above_them(page: str) -> None:
    rows = re.findall(r'<tr class="habit"><th[^>]*>([^<]+)</th><td></td>\s*<td>([^<]+)</td>', page)
    assert rows == [("random legal action", "5 %"), ("always Up", "43 %")]
    assert "reads nothing (always Up, 43 %): token." in page
    assert re.search(r"<text[^>]*>best habit</text>", page)


def test_an_arm_is_above_a_habit_when_its_interval_is() -> None:
    arms = summary_of(token=(0.40, (0.35, 0.45)), turn=(0.60, (0.55, 0.65))).arms
    habits = [Habit(name=n, success=s, interval=(s - 0.1, s + 0.1)) for n, s in HABITS.items()]
    assert caveat(Summary(arms=arms, habits=tuple(habits[:1]))).endswith("10 %.")
    assert "always Up, 50 %): token and turn." in caveat(Summary(arms=arms, habits=tuple(habits)))


def test_the_plots_are_also_files(study: Path, page: str) -> None:
    files = {path.name for path in (study / "plots").glob("*.png")}
    assert {"success-by-episodes.png", "success-by-seconds.png", "stage-seconds.png"} <= files
    assert {"probe-0-token-divergence.png", "probe-1-turn-overlap.png"} <= files
    assert all((study / "plots" / name).read_bytes().startswith(b"\x89PNG") for name in files)


def test_the_page_follows_the_readers_colour_scheme(page: str) -> None:
    plots = "".join(re.findall(r'<svg class="plot".*?</svg>', page, re.DOTALL))
    assert "prefers-color-scheme: dark" in page
    assert {"var(--ink)", "var(--muted)", "var(--arm-0)", "var(--arm-1)"} <= set(
        re.findall(r"var\(--[\w-]+\)", plots)
    )
    assert not re.search(r"(fill|stroke): #(000000|ffffff)", plots)


def test_arms_whose_intervals_part_are_told_apart() -> None:
    said = finding(summary_of(token=(0.40, (0.35, 0.45)), turn=(0.60, (0.55, 0.65))))
    assert "Highest is turn, which solves 60 % (55\u201365 %)" in said
    assert "above token with 40 %" in said
    assert "not distinguishable" not in said


def test_arms_whose_intervals_overlap_are_not_distinguishable() -> None:
    said = finding(summary_of(token=(0.50, (0.45, 0.55)), turn=(0.58, (0.53, 0.63))))
    assert "not distinguishable" in said
    assert "Highest" not in said and "above" not in said


def test_the_finding_separates_close_arms_from_those_clearly_below() -> None:
    low, close, best = (0.2, (0.15, 0.25)), (0.55, (0.5, 0.6)), (0.6, (0.55, 0.65))
    said = finding(summary_of(token=low, turn=close, rubric=best))
    assert "not distinguishable from turn; it is above token" in said


def test_a_change_within_the_interval_is_not_distinguishable_from_no_change() -> None:
    assert "not distinguishable from no change" in finding(summary_of(turn=(0.12, (0.08, 0.17))))
    assert "raised" in finding(summary_of(turn=(0.4, (0.35, 0.45))))
    assert "lowered" in finding(summary_of(turn=(0.02, (0.01, 0.05))))


def test_nothing_is_told_apart_without_intervals() -> None:
    arms = {name: Arm(success_before=0.1, success_after=s) for name, s in (("a", 0.2), ("b", 0.8))}
    assert "may be chance" in finding(Summary(arms=arms))
    assert "may be chance" in finding(Summary(arms={"b": arms["b"]}))


def test_the_interval_before_the_training_counts_too() -> None:
    start = {"step": 0, "episodes": 0, "seconds": 0.0, "success": 0.1, "interval": (0.06, 0.16)}
    run = Run.model_validate({"curve": [start]})
    arm = Arm(success_before=0.1, success_after=0.19, interval=(0.15, 0.24), runs=(run,))
    assert "not distinguishable from no change" in finding(Summary(arms={"turn": arm}))


def test_seeds_that_cross_and_single_seeds_are_owned_up_to() -> None:
    def arm(after: float, interval: tuple[float, float], *seeds: float) -> Arm:
        runs = tuple(Run(seed=i, success_after=s) for i, s in enumerate(seeds))
        return Arm(
            success_after=after, interval=interval, runs=runs, seeds=tuple(range(len(seeds)))
        )

    apart = {"token": arm(0.4, (0.35, 0.45), 0.2, 0.6), "turn": arm(0.6, (0.55, 0.65), 0.5, 0.7)}
    said = caveat(Summary(arms=apart))
    assert "weakest seed of turn does no better than the strongest of token" in said
    assert "the seed's luck" in caveat(Summary(arms={"turn": arm(0.6, (0.55, 0.65), 0.6)}))
    calm = summary_of(token=(0.40, (0.35, 0.45)), turn=(0.60, (0.55, 0.65)))
    assert caveat(calm) == "Before its training the student solves 10 %."


def test_more_arms_than_colours_are_compared_row_by_row(tmp_path: Path) -> None:
    names = [f"arm {i}" for i in range(len(ARM_COLOURS) + 1)]
    study = write_study(tmp_path, {name: 0.2 + 0.05 * i for i, name in enumerate(names)})
    page = write_report(study).read_text(encoding="utf-8")
    (plot,) = re.findall(r'<svg class="plot"[^>]*aria-label="Success.*?</svg>', page, re.DOTALL)
    assert re.findall(r"<text[^>]*>(arm \d)</text>", plot) == names
    assert {path.name for path in (study / "plots").glob("success*")} == {"success-after.png"}


def test_a_run_folder_gets_a_page_of_its_own(study: Path) -> None:
    page = write_report(study / "arms/turn/seed-0").read_text(encoding="utf-8")
    assert "agentopd train config.yaml" in page
    assert "2,560" in page and "58.8 k" in page and "191 k" in page
    assert page.count('<svg class="plot"') == 2 + 4 + 1


def test_a_run_that_was_interrupted_is_reported_up_to_its_last_whole_line(tmp_path: Path) -> None:
    write_run(tmp_path / "run", "turn", 0, 0.6)
    (tmp_path / "run/summary.json").unlink()
    (tmp_path / "run/episode.json").unlink()
    metrics = tmp_path / "run/metrics.jsonl"
    whole = metrics.read_text().replace('"by_turn"', '"no_probes"')
    metrics.write_text(whole + '{"step": 42, "epi')
    assert len(read_steps(metrics)) == 21
    page = write_report(tmp_path / "run").read_text(encoding="utf-8")
    assert "Training raised the success of run" in page
    assert "token by token" not in page


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 0}\n{"ste\n{"step": 2}\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2 is not JSON"):
        write_report(tmp_path)


def test_a_study_without_any_optional_part_still_has_a_page(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text(
        '{"arms": {"turn": {}, "token": {"success_after": NaN}}}'
    )
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert "Nothing was evaluated" in page
    assert '<svg class="plot"' not in page


@pytest.mark.parametrize("content", [None, "{}", '{"arms": {}}'])
def test_a_folder_without_results_is_refused_with_advice(
    tmp_path: Path, content: str | None
) -> None:
    if content is not None:
        (tmp_path / "summary.json").write_text(content)
    with pytest.raises(ValueError, match=r"agentopd compare|run the study"):
        write_report(tmp_path)


def test_all_text_is_escaped(tmp_path: Path) -> None:
    folder = write_study(tmp_path, {"turn": 0.6}, seeds=1)
    path = folder / "summary.json"
    summary = json.loads(path.read_text())
    summary["name"] = summary["teacher"]["note"] = summary["config"]["note"] = ATTACK
    summary["arms"][f'_{ATTACK}"$x$'] = summary["arms"].pop("turn")
    path.write_text(json.dumps(summary))
    episode = episode_of("turn")
    episode["privilege"] = episode["task"] = episode["turns"][1]["feedback"] = ATTACK
    episode["turns"][0]["observation"] = ATTACK
    episode["turns"][1]["observation"] = f"{ATTACK}\n{BOARDS[0]}"
    episode["turns"][1]["tokens"][0]["text"] = ATTACK
    (folder / "arms/turn/seed-0/episode.json").write_text(json.dumps(episode))
    (folder / "arms/turn/seed-0/metrics.jsonl").unlink()
    page = write_report(folder).read_text(encoding="utf-8")
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 10


@pytest.mark.parametrize("board", BOARDS)
def test_a_drawn_board_has_the_boxes_goals_walls_and_player_of_its_text(board: str) -> None:
    svg = str(draw_board(board))
    assert svg.count('class="box"') == board.count("$") + board.count("*")
    assert svg.count("crate home") == board.count("*")
    assert svg.count('class="goal"') == sum(map(board.count, ".*+"))
    assert svg.count('class="player"') == 1
    walls = re.search(r'class="wall" d="([^"]*)"', svg)
    assert walls and walls[1].count("M") == board.count("#")


def test_every_board_of_the_episode_is_drawn(page: str) -> None:
    assert page.count('<svg class="board"') == 2 * len(BOARDS)
    assert page.count('class="box"') == 2 * sum(b.count("$") + b.count("*") for b in BOARDS)


def test_a_board_is_found_between_lines_of_text_and_nowhere_else() -> None:
    assert split_board(f"No move.\n{BOARDS[0]}\nYour turn.") == (
        "No move.",
        BOARDS[0],
        "Your turn.",
    )
    heading = "# Plan\n###\n---\nwalk @ home"
    assert split_board(heading) == (heading, "", "")


def test_blanks_left_of_the_walls_are_not_floor() -> None:
    svg = str(draw_board("  ###\n###@#\n#$ .#\n#####"))
    floor = re.search(r'class="floor" d="([^"]*)"', svg)
    assert floor and floor[1].count("M") == 4


def test_tokens_are_coloured_by_sign_and_size_of_the_signal(page: str) -> None:
    shown = show_episode(read_episode([-2.0, -1.0, 0.0, 1.0, None]))
    tokens = shown.turns[0].tokens
    assert [token.side for token in tokens] == ["less", "less", "none", "more", "none"]
    assert shown.scale == 2.0 and [t.strength for t in tokens] == [1.0, 0.5, 0.0, 0.5, 0.0]
    assert shown.turns[0].total == -2.0
    assert tokens[0].tip == "\u22122.0 nats" and tokens[4].tip == "no signal"
    assert re.search(r'class="token (more|less)" style="--strength:[\d.]+" tabindex="0"', page)


def test_one_extreme_token_does_not_make_all_others_pale() -> None:
    shown = show_episode(read_episode([*[0.5] * 99, 40.0]))
    assert shown.scale == 0.5 and {token.strength for token in shown.turns[0].tokens} == {1.0}


def read_episode(signals: list[float | None]) -> Episode:
    tokens = [{"text": "a", "signal": signal} for signal in signals]
    turns = [{"observation": "hello", "tokens": tokens}]
    return Episode.model_validate({**episode_of("token"), "turns": turns})


def test_signed_numbers_are_short() -> None:
    assert [signed(v) for v in (1.234, -0.35, -0.001)] == ["+1.2", "\u22120.35", "0"]


def test_time_outside_the_stages_is_shown_as_other() -> None:
    assert stage_seconds({"rollout": 6.0, "learner": 2.0, "total": 10.0})["other"] == 2.0
    assert "other" not in stage_seconds({"rollout": 6.0, "total": 6.0})


def test_a_probe_has_one_scale_for_all_arms(study: Path) -> None:
    plots = probe_plots(read_results(study))
    tops = {name: [p.figure.axes[0].get_ylim()[1] for p in drawn] for name, drawn in plots.items()}
    assert tops["token"] == tops["turn"]


def _arm(*curves: list[tuple[int, float]]) -> Arm:
    runs = [
        {"curve": [{"step": e, "episodes": e, "seconds": e, "success": s} for e, s in curve]}
        for curve in curves
    ]
    return Arm.model_validate({"runs": runs})


def test_episodes_to_half_are_interpolated_and_averaged_over_seeds() -> None:
    arm = _arm([(0, 0.1), (100, 0.4), (200, 0.6)], [(0, 0.25), (100, 0.75)])
    assert arm.episodes_to_half == pytest.approx((150 + 50) / 2)
    assert _arm([(0, 0.1), (100, 0.4)], [(0, 0.25), (100, 0.75)]).episodes_to_half is None
    assert _arm([(0, 0.6), (100, 0.9)]).episodes_to_half is None


def test_the_speed_names_the_fastest_first_and_who_never_got_there() -> None:
    arms = {
        "slow": _arm([(0, 0.0), (100, 1.0)]),
        "fast": _arm([(0, 0.0), (10, 1.0)]),
        "never": _arm([(0, 0.0), (100, 0.1)]),
    }
    told = speed(Summary.model_validate({"arms": {k: v.model_dump() for k, v in arms.items()}}))
    assert told.endswith("solved: fast 5 and slow 50. Not every seed of never got there.")
    assert speed(Summary.model_validate({"arms": {"never": arms["never"].model_dump()}})) == ""


def test_a_run_without_a_summary_counts_its_skipped_steps_by_its_lines(tmp_path: Path) -> None:
    noise = random.Random(0)
    lines = [step_of(step, 0.5, noise) for step in range(4)]
    lines[1]["skipped"], lines[3]["skipped"] = "dead", "broken"
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (arm,) = read_results(tmp_path).summary.arms.values()
    assert (arm.skipped, arm.skipped_steps) == ({"dead": 1, "broken": 1}, 2)
    assert Arm().skipped_steps is None
