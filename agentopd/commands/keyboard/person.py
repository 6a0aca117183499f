"""`agentopd play ENV --as-human`: a person plays an environment, line by line.

What a student reads is shown as it stands; what only a teacher would be told is told when asked
for. An environment that raises costs its episode, as in a rollout. No model is loaded.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console

from agentopd.base.console import stdout
from agentopd.base.files import append_line
from agentopd.base.text import raised
from agentopd.commands.acting import show_end, show_outcome, show_text
from agentopd.commands.keyboard.asides import ASIDE, Told, asked

if TYPE_CHECKING:  # a command without an environment starts sooner
    from agentopd.environment.settings import EnvSettings

_MORE = "\\"
"""At the end of a line: the answer goes on in the next one."""
_PROMPT = "> "
_HINT = (
    "Type an answer; ?oracle, ?facts and ?feedback tell what a teacher may know, ?help all there "
    "is to ask, ?quit or Ctrl-D ends."
)


@dataclass
class _Episode:
    """One episode as it was played: what was seen and answered, how it ended, and what was asked
    for `then`: restart, or next.
    """

    turns: list[dict[str, str]] = field(default_factory=list)
    success: bool = False
    reward: float = 0.0
    end: str = ""
    error: str = ""
    then: str = ""

    @property
    def counts(self) -> bool:
        """Whether it was played to its end, or as far as the environment let it be."""
        return bool(self.end or self.error)

    def line(self, system: str) -> str:
        """The episode as `agentopd collect --by FILE.jsonl` reads it."""
        about = {"system": system, "success": self.success, "reward": self.reward}
        return json.dumps({"turns": self.turns, **about}, ensure_ascii=False)


class _Stopped(Exception):
    """The person has had enough."""


def play(
    env: EnvSettings, seed: int, episodes: int, raw: bool = False, save: Path | None = None
) -> None:
    """Let the person at the keyboard play tasks, one after another; the end of the input, Ctrl-C
    or ?quit ends it.

    Args:
        raw: send what is typed as it stands, not in the environment's form of an action.
        save: a file to which each episode that ended is added, a line of JSON each.

    Raises:
        ValueError: there is no such environment, it refuses the options, or the file is none.
        typer.Exit: an episode ended by an error of the environment.
    """
    if save is not None and save.suffix != ".jsonl":
        raise ValueError(f"{save} cannot hold episodes as text: let its name end in .jsonl")
    console, played = stdout(), list[_Episode]()
    built = env.build()  # a mistake there is told first
    console.print(_HINT, style="dim", soft_wrap=True)
    try:
        while True:
            played.append(_Play(console, built, seed, raw).run())
            seed += played[-1].then != "restart"
            if save is not None and played[-1].end:
                append_line(save, played[-1].line(_rules(built)))
                console.print(f"saved in {save}", style="dim", soft_wrap=True)
            kept = not played[-1].error and built.metadata.get("reusable")
            if sum(episode.counts for episode in played) == episodes:
                if kept:
                    built.close()
                break
            built = built if kept else env.build()
    except (_Stopped, KeyboardInterrupt):
        console.print("stopped")
    ended = [episode for episode in played if episode.end]
    if len(ended) > 1:
        console.print(f"{sum(e.success for e in ended)} of {len(ended)} tasks solved")
    if any(episode.error for episode in played):
        raise typer.Exit(1)


def _rules(env: Any) -> str:
    from agentopd.environment.contract import system_prompt

    return system_prompt(env)


class _Play:
    """One episode at the keyboard."""

    def __init__(self, console: Console, env: Any, seed: int, raw: bool) -> None:
        from agentopd.environment.contract import TextEnv, declared

        self.console, self.env, self.seed, self.raw = console, env, seed, raw
        self.form: str = declared(env, "action_form", TextEnv.action_form)
        self.episode = _Episode()

    def run(self) -> _Episode:
        """Play to the end; what the environment raises ends the episode, in a line.

        Raises:
            _Stopped: the person has had enough.
        """
        try:
            self._played()
        except (_Stopped, KeyboardInterrupt):
            self._closed()
            raise
        except (Exception, SystemExit) as error:  # as in a rollout, whatever it raises
            self._fail(error)
        if self.episode.error or not self.env.metadata.get("reusable"):
            self._closed()
        return self.episode

    def _fail(self, error: BaseException) -> None:
        self.episode.error, self.episode.end = raised(error), ""
        hint = "agentopd check-env may say more"
        self.console.print(f"{self.episode.error} ({hint})", style="bold red", soft_wrap=True)

    def _closed(self) -> None:
        try:
            self.env.close()
        except (Exception, SystemExit) as error:  # as in `run`
            self._fail(error)

    def _played(self) -> None:
        observation, info = self.env.reset(seed=self.seed)
        self.console.rule(str(info.get("task_id", f"seed {self.seed}")))
        self.console.print(_rules(self.env), style="dim", soft_wrap=True)
        told = Told(self.env, info, info, observation)
        while not self.episode.end:
            show_text(self.console, told.observation)
            self.episode.then, answer = self._answer(told)
            if self.episode.then:
                return
            self._step(told, answer)
        show_text(self.console, told.observation)
        show_end(self.console, self.episode.success, len(self.episode.turns), self.episode.end)

    def _step(self, told: Told, answer: str) -> None:
        seen = told.observation
        observation, reward, terminated, truncated, info = self.env.step(answer)
        self.episode.turns.append({"observation": seen, "answer": answer})
        self.episode.reward += float(reward)
        self.episode.success = bool(info.get("success"))
        self.episode.end = "terminated" if terminated else "truncated" if truncated else ""
        told.heard(observation, info)
        show_outcome(self.console, float(reward), info)

    def _answer(self, told: Told) -> tuple[str, str]:
        """What is to be done instead of an answer, if anything, and the answer."""
        while True:
            typed = self._typed()
            if typed.startswith(ASIDE) and not typed.startswith(2 * ASIDE):
                aside = asked(typed, told)
                for line in aside.lines:
                    self.console.print(f"   {line}", style="cyan", soft_wrap=True)
                if aside.action == "quit":
                    raise _Stopped
                if aside.action == "again":
                    show_text(self.console, told.observation)
                elif aside.action:
                    return aside.action, ""
                continue
            said = typed.removeprefix(ASIDE) if typed.startswith(ASIDE) else typed
            written = self.form.partition("{}")[0]
            whole = self.raw or bool(written and written in said)
            return "", said if whole else self.form.replace("{}", said)

    def _typed(self) -> str:
        """What is typed, lines that go on put together.

        Raises:
            _Stopped: the input has ended.
        """
        lines = list[str]()
        while True:
            try:
                line = self.console.input(_PROMPT)
            except EOFError as error:
                raise _Stopped from error
            if not sys.stdin.isatty():
                self.console.print(line)  # what a terminal would show
            lines.append(line.removesuffix(_MORE))
            if not line.endswith(_MORE):
                return "\n".join(lines).strip()
