"""The Desk environment: an assistant with eight apps, one call or one cell of Python a turn.

`gymnasium.make("agentopd/Desk-v0")` after `import agentopd`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, Literal, get_args

from agentopd.environment.contract import Info, TextEnv
from agentopd.envs.desk import words
from agentopd.envs.desk.actors import Actor, CallActor, Outcome
from agentopd.envs.desk.desk import Desk as Apps
from agentopd.envs.desk.desk import chosen
from agentopd.envs.desk.sandbox import CodeActor, Limits
from agentopd.envs.desk.state import Logins, State
from agentopd.envs.desk.tasks.library import (
    SPLITS,
    Split,
    known_among,
    scenario,
    scenario_goal_completion,
    select,
)
from agentopd.envs.desk.tasks.oracle import Oracle, Plan
from agentopd.envs.desk.tasks.task import Check, Progress, evaluate, progress
from agentopd.envs.desk.world import changes
from agentopd.envs.puzzle import check_choice, check_number

Mode = Literal["call", "code"]
Prompt = Literal["full", "apis", "brief"]


class Desk(TextEnv):
    """Do what a user asks for with the apps of a desk, and nothing else.

    Args:
        split: where tasks come from; `test-challenge` has templates of its own, the others share
            theirs and never a scenario. `dev` is `validation`. All draw names, titles and amounts
            from the same lists: a short instruction may come up again, in another world.
        mode: one call of an API a turn, or one cell of Python (needs the extra `desk-code`).
        apps: the apps the desk has, besides `supervisor` and `docs`; all where None. Tasks that
            need others are left out.
        difficulty: only tasks of this difficulty, 1 to 3.
        templates: only tasks of these templates.
        logins: a login gives a token that every later call of its app must show (`token`), a login
            opens its app (`session`), or apps are open.
        prompt: how to act (`full`), also every API (`apis`), or one line (`brief`) for models that
            were trained on the desk.
        max_turns: answers before the episode is truncated.
        observation: characters of an observation, of which the middle is left out if longer.
        partial: end with the part of the goals that are met as reward where the task failed
            without damage, instead of 0.
        limits: what a cell may use, in mode `code`: `Limits` or its fields by name. Cells of
            episodes in play run side by side, so a cell that computes for long hits the limit
            sooner where there are many.

    A seed plays a variant of a scenario: seeds 0 to 2 one, 3 to 5 the next (`info["scenario"]`).
    `reset(options={"template": NAME})` plays a template of your choice. The reward is 1 for a task
    of which all checks pass, else 0.

    Raises:
        ValueError: an option has no such value, no task is left, or the extra is missing.
    """

    def __init__(
        self,
        *,
        split: Split | Literal["dev"] = "train",
        mode: Mode = "call",
        apps: Sequence[str] | None = None,
        difficulty: Literal[1, 2, 3] | None = None,
        templates: Sequence[str] | None = None,
        logins: Logins = "token",
        prompt: Prompt = "full",
        max_turns: int = 20,
        observation: int = 2_000,
        partial: bool = False,
        limits: Limits | Mapping[str, Any] | None = None,
    ) -> None:
        check_choice("split", split, (*SPLITS, "dev"))
        check_choice("mode", mode, get_args(Mode))
        check_choice("logins", logins, get_args(Logins))
        check_choice("prompt", prompt, get_args(Prompt))
        check_choice("partial", partial, (True, False))
        if difficulty is not None:
            check_number("difficulty", difficulty, 1, 3)
        check_number("max_turns", max_turns, 1)
        check_number("observation", observation, 100)
        if mode == "call" and limits is not None:
            raise ValueError("limits are for cells of Python: leave them out, or use mode='code'")
        self.split: Split = "validation" if split == "dev" else split
        self.templates = select(self.split, apps, difficulty, templates)
        self.mode: Mode = mode
        self.action_between = "\n" if mode == "call" else None
        self.logins: Logins = logins
        self.turn_limit = self.max_turns = max_turns
        self.observation = observation
        self.partial = partial
        self._playing = False
        self._apps = chosen(apps)
        self._actor: Actor = CallActor() if mode == "call" else CodeActor(_limits(limits))
        if mode == "code":
            # A cell may take seconds, in a process of its own: many are waited for at once.
            self.metadata = {**self.metadata, "blocking": True}
        self.system_prompt = words.rules(prompt, mode, logins, self._apps)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, Info]:
        """Start the task of `seed`, of any template or the one in `options["template"]`.

        Raises:
            ValueError: the options hold anything else, or a template the environment leaves out.
        """
        super().reset(seed=seed)
        number = int(self.np_random.integers(2**31)) if seed is None else seed
        options = options or {}
        if unknown := set(options) - {"template"}:
            raise ValueError(f"reset takes the option 'template' only, not {sorted(unknown)}")
        templates = self.templates
        if (name := options.get("template")) is not None:
            known_among("template", [name], [template.name for template in templates])
            templates = tuple(t for t in templates if t.name == name)
        self.scenario = scenario(self.split, templates, number)
        self.task_id = f"{self.scenario.name}/{number}"
        self.task = self.scenario.task
        self._start = State(self.scenario.world, self._apps, self.logins)
        self._oracle = Oracle(self.task, self._start)
        return self.restart()

    def restart(self) -> tuple[str, Info]:
        """Play the same task again."""
        self.state = self._start.copy()
        self.turns = 0
        self._playing = True
        self._actor.begin(Apps(self.state))
        self._plan = self._oracle.plan(self.state)
        self._progress = self._measure()
        info = self._info(evaluate(self.task, self._start.world, self.state))
        if self._plan is not None:
            info["reference"] = "\n".join(self._actor.spell(self._plan))
        world = self.scenario.world
        shown = f"I am {world.name}. Today is {world.today}.\n{self.task.instruction}"
        return shown, info | {
            "skill": f"desk: {self.scenario.template.skill}",
            "guide": words.GUIDE,
        }

    def step(self, action: str) -> tuple[str, float, bool, bool, Info]:
        """Do what `action` says.

        An action that cannot be read changes nothing and costs the turn.

        Raises:
            ValueError: the episode is over, or none was begun.
        """
        if not self._playing:
            raise ValueError("no episode of Desk is being played: call reset() first")
        self.turns += 1
        before, reached = self._plan, self._progress
        outcome = self._actor.act(action)
        self._plan = self._oracle.plan(self.state)
        self._progress = self._measure()
        checks = evaluate(self.task, self._start.world, self.state)
        info: Info = self._info(checks) | {"action_valid": outcome.valid}
        closer = _length(self._plan) < _length(before)
        damaged = len(self._progress.stray) > len(reached.stray)
        info["facts"] |= {
            "well_formed": outcome.valid,
            "accepted": not outcome.problem,
            "moves_closer": closer,
            "damages": damaged,
            "keeps_solvable": self._plan is not None or before is None,
        }
        info["mistake"], said = self._comment(outcome, checks, closer, damaged, before)
        info["feedback"] = words.cut(said, words.LONGEST)
        terminated = self.state.completion is not None
        truncated = not terminated and self.turns >= self.turn_limit
        self._playing = not (terminated or truncated)
        shown = words.cut(outcome.shown, self.observation)
        return shown, self._reward(info, terminated), terminated, truncated, info

    @staticmethod
    def summarise(solved: Mapping[str, Sequence[bool]]) -> dict[str, float]:
        """AppWorld's scenario goal completion, of which an evaluation's success is the TGC.

        A scenario counts as far as its variants were played: three seeds in a row, from a multiple
        of three on, are all of one.
        """
        scenarios: dict[str, list[bool]] = {}
        for task_id, episodes in solved.items():
            scenarios.setdefault(task_id.rpartition("/")[0], []).extend(episodes)
        return {"sgc": scenario_goal_completion(scenarios)}

    def render(self) -> str:
        """What has changed since the start."""
        done = changes(self._start.world, self.state.world)
        return "\n".join(map(str, done)) or "nothing has changed"

    def close(self) -> None:
        """End the interpreter, where there is one."""
        self._actor.close()

    def _measure(self) -> Progress:
        return progress(self.task, self._start.world, self.state.world)

    def _reward(self, info: Info, terminated: bool) -> float:
        if info["success"] or not self.partial or not terminated or self._progress.stray:
            return float(info["success"])
        goals = len(self.task.goals)
        return (goals - len(self._progress.unmet)) / goals * 0.5 if goals else 0.0

    def _comment(
        self,
        outcome: Outcome,
        checks: list[Check],
        closer: bool,
        damaged: bool,
        before: Plan | None,
    ) -> tuple[str, str]:
        """The mistake's short name and what to say of the step."""
        if self.state.completion:
            return words.shortfall(checks), words.verdict(checks)
        if self._plan is None:
            left = "the task can no longer be solved."
        else:
            count = sum(map(len, self._plan))
            left = f"{count} {'call' if count == 1 else 'calls'} to go."
        if outcome.problem:
            what = "was refused" if outcome.valid else "could not be read"
            return outcome.problem, f"That {what} ({outcome.problem}); {left}"
        if damaged:
            stray = ", ".join(map(str, self._progress.stray))
            return "damage", f"That changed what nobody asked for ({stray}); {left}"
        if self._plan is None or before is None:
            return "", f"That is done; {left}"
        return ("", f"That helps; {left}") if closer else ("detour", f"That does not help; {left}")

    def _info(self, checks: list[Check]) -> Info:
        state, solved = self.state, all(check.passed for check in checks)
        unmet = len(self._progress.unmet)
        facts: dict[str, Any] = {
            "goals": len(self.task.goals),
            "goals_met": len(self.task.goals) - unmet,
            "collateral_damage": bool(self._progress.stray),
            "completed": state.completion is not None,
            "calls": state.calls,
            "errors": state.errors,
            "solvable": self._plan is not None,
        }
        if self._plan is not None:
            facts["calls_left"] = _length(self._plan)
        if state.logins != "open":
            protected = [name for name, app in self._apps.items() if app.protected]
            facts |= {f"logged_in_{name}": name in state.logged_in for name in protected}
        info: Info = {
            "task_id": self.task_id,
            "scenario": self.scenario.name,
            "success": solved,
            "action_valid": True,
            "facts": facts,
            "metrics": {
                "tgc": float(solved),
                "difficulty": float(self.scenario.template.difficulty),
                "calls": float(state.calls),
                "errors": float(state.errors),
            },
        }
        return info | {"oracle": self._actor.lines(self._plan)} if self._plan else info


def _length(plan: Plan | None) -> float:
    """Calls in a plan; infinitely many where there is none."""
    return float("inf") if plan is None else sum(map(len, plan))


def _limits(given: Limits | Mapping[str, Any] | None) -> Limits:
    if isinstance(given, Limits):
        return given
    if not isinstance(given, Mapping | None):
        raise ValueError(f"limits are fields of Limits by name, as {{'seconds': 2}}, not {given!r}")
    known_among("limit", given or (), [field.name for field in fields(Limits)])
    return Limits(**given or {})
