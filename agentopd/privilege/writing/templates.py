"""What a model that writes privileged text is asked: templates in files, with slots.

A template is a YAML file with the keys `system`, `request` and `needs`. The request's `{slots}` are
filled with what is known of an episode; a paragraph, between blank lines, with a slot of which
nothing is known is left out, and nothing is asked where a slot of `needs` is empty.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from agentopd.asking.quoting import fair_share, shortened
from agentopd.base.parts import closest
from agentopd.base.written import read_mapping
from agentopd.models.chat import ChatTemplate

_FOLDER = Path(__file__).parent / "templates"
_SLOT = re.compile(r"\{(\w+)\}")
_KEYS = ("system", "request", "needs")

SLOTS = {
    "task": "the first observation",
    "guide": "advice that holds for every task of the environment",
    "episode": "the turns, what was seen and answered",
    "outcome": "whether the task was solved, and in how many turns",
    "feedback": "what the environment said of each turn",
    "truth": "the best next action of each turn",
    "reference": "a solution of the task",
    "peer": "what another attempt did that solved the task",
    "memory": "what was written before",
    "level": "how much a hint may give away",
    "turn": "the number of one turn, from 1",
    "observation": "what was seen in that turn",
    "answer": "what was answered in it",
    "next": "what was seen then",
    "most": "how much may be written",
}
"""What a template may speak of. What is long is shortened to fit."""
_LONG = frozenset({"task", "episode", "feedback", "reference", "peer", "memory", "next"})


@dataclass(frozen=True)
class Template:
    """A request to be filled in; see the module's docstring."""

    system: str
    request: str
    needs: frozenset[str]

    @classmethod
    def load(cls, name: str) -> Template:
        """The template of that name, or the one in the file at that path.

        Raises:
            ValueError: there is none, or it is none; the message says why.
        """
        known = {path.stem: path for path in _FOLDER.glob("*.yaml")}
        path = known.get(name, Path(name))
        if not path.is_file():
            raise ValueError(
                f"there is no template {name!r}; {closest(name, known)} (one of your own is a "
                "YAML file, named by its path)"
            )
        return cls._of(read_mapping(path), str(path))

    @classmethod
    def _of(cls, found: Mapping[str, object], path: str) -> Template:
        for key in found:
            if key not in _KEYS:
                raise ValueError(f"{path}: unknown key {key!r}; {closest(str(key), _KEYS)}")
        system, request, needs = (found.get(key) for key in _KEYS)
        if not (isinstance(system, str) and isinstance(request, str)):
            raise ValueError(f"{path}: `system` and `request` are texts, and both must be there")
        if not (needs is None or isinstance(needs, list)):
            raise ValueError(f"{path}: `needs` is a list of slots")
        needed = frozenset(map(str, needs or ()))
        for slot in {*_SLOT.findall(request), *needed}:
            if slot not in SLOTS:
                raise ValueError(f"{path}: unknown slot {{{slot}}}; {closest(slot, SLOTS)}")
        return cls(system.strip(), request.strip(), needed)

    def can_ask(self, slots: Mapping[str, str]) -> bool:
        """Whether all that it needs is known."""
        return all(slots.get(name) for name in self.needs)

    def filled(self, slots: Mapping[str, str], budget: int, template: ChatTemplate) -> str:
        """The request, with long slots of at most `budget` tokens together."""
        used = [name for name in dict.fromkeys(_SLOT.findall(self.request)) if slots.get(name)]
        long = [name for name in used if name in _LONG]
        share = fair_share([len(template.encode_content(slots[name])) for name in long], budget)
        said = dict(slots) | {name: shortened(slots[name], share, template) for name in long}
        paragraphs = re.split(r"\n\s*\n", self.request)
        return "\n\n".join(
            _SLOT.sub(lambda found: said[found[1]], paragraph)
            for paragraph in paragraphs
            if all(said.get(name) for name in _SLOT.findall(paragraph))
        )
