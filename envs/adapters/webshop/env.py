"""WebShop: a product is searched for, looked at, chosen and bought, in words.

What is mapped: pages and buttons are those of WebShop's site, as lines of text, what can be clicked
in brackets. A command is `search[WORDS]` or `click[BUTTON]`; one that is not possible costs a turn,
as there. Buying ends the episode and is paid what the paper counts, from 0 to 1 (its score is a
hundred times the mean); success is 1. The search is BM25 by bm25s over names, descriptions and
options, where WebShop asks a Lucene index: the order of results is near to its own, not the same.

The oracle searches for the name of the product that the instruction was written for and buys it,
from wherever the episode stands, where that is paid 1.

Source: arXiv 2207.01206.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal

from agentopd.envs.adapters.played.base import SHOWN, Begun, Heard, Played
from agentopd.envs.adapters.webshop.products import Asked, Goal, Product, shop
from agentopd.envs.adapters.webshop.scoring import Score, matches, score
from agentopd.envs.puzzle import SPLITS, Outcome, Prompt, Split, check_choice, check_number

Page = Literal["search", "results", "item", "description", "features"]

_FOUND, _ON_A_PAGE = 50, 10
_BACK, _NEXT, _BEFORE, _BUY = "back to search", "next >", "< prev", "buy now"
_COMMAND = re.compile(r"(search|click)\s*\[(.+)\]", re.DOTALL | re.IGNORECASE)
_FORM = "Write search[WORDS] or click[BUTTON] inside <action></action>."
_NOTHING = "Nothing happens."
_RULES = """You buy a product in a web shop, as the instruction asks. Each turn is one command:
search[WORDS] searches the shop; click[BUTTON] clicks on something that is shown in brackets: a \
product's number, a value of a choice, Next >, < Prev, Back to Search, Description, Features.
click[Buy Now] buys what is shown, with the values that were clicked, and ends the task.
You may think first inside <think></think>. End your answer with one command inside \
<action></action>, for example
<action>search[red cotton shirt]</action> or
<action>click[Buy Now]</action>."""
_GUIDE = (
    "Search for the kind of product with its most telling words; open one whose name and price "
    "fit; click the value of every choice that the instruction names; then buy."
)


class WebShop(Played):
    """An instruction to buy something.

    Args:
        name: the folder of WebShop's data.
        split: the published splits, where there are more than 1,500 goals; seed n asks for the goal
            n modulo their number.
        goals: whether instructions are those that people wrote, or made ones.
        products: how many are sold, the first of the file; all if not given.
        max_turns: answers before the episode is truncated.
        prompt: the rules, or one line.
        admissible: whether `info` lists what can be clicked.
        cache: a folder where the search's index is kept for later runs.
        shown: characters of an observation.

    Raises:
        ValueError: the folder lacks a file, there is no such value, or bm25s or rapidfuzz is not
            installed.
    """

    def __init__(
        self,
        name: str,
        *,
        split: Split = "train",
        goals: Asked = "human",
        products: int | None = None,
        max_turns: int = 15,
        prompt: Prompt = "full",
        admissible: bool = True,
        cache: str | None = None,
        shown: int = SHOWN,
    ) -> None:
        rules: dict[Prompt, str] = {"full": _RULES, "brief": _FORM}
        super().__init__("WebShop", max_turns=max_turns, prompt=prompt, rules=rules, shown=shown)
        check_choice("split", split, SPLITS)
        check_choice("goals", goals, ("human", "made"))
        if products is not None:
            check_number("products", products, 1)
        self._shop = shop(name, goals, products, cache)
        self.split, self._kind, self._lists = split, goals, admissible
        if not self._shop.goals[split]:
            raise ValueError(
                f"there is no goal of the split {split!r} in {name}: take more products"
            )
        self._page: Page = "search"
        self._goal: Goal = self._shop.goals[split][0]
        self._results: Sequence[str] = ()
        self._number = 0
        self._item: Product | None = None
        self._chosen: dict[str, str] = {}
        self._score: Score | None = None
        self._best: tuple[str, ...] = ()

    def _begin(self, number: int) -> Begun:
        goals = self._shop.goals[self.split]
        self._goal = goals[number % len(goals)]
        self._results, self._number, self._item, self._score = (), 0, None, None
        self._page, self._chosen = "search", {}
        self._best = self._bought_best()
        return Begun(
            task_id=f"webshop/{self._kind}/{self.split}/{self._goal.id}",
            text=self._look(),
            skill="webshop",
            guide=_GUIDE,
        )

    def _act(self, command: str) -> Heard:
        found = _COMMAND.fullmatch(command)
        if found is None:
            return Heard(_FORM, valid=False, outcome=Outcome(_FORM, mistake="unreadable action"))
        verb, said = found[1].lower(), " ".join(found[2].split())
        if verb == "search":
            self._search(said)
        elif said.lower() not in self._buttons():
            outcome = Outcome(mistake="no such button", feedback=f"{said[:60]!r} is no button.")
            return Heard(f"{_NOTHING}\n{self._look()}", outcome=outcome)
        elif said.lower() == _BUY:
            return self._bought()
        else:
            self._click(said.lower())
        return Heard(self._look())

    def _search(self, words: str) -> None:
        found = self._shop.index.find(words, _FOUND)
        self._results, self._number = [passage.id for passage in found], 0
        self._page, self._item, self._chosen = "results", None, {}

    def _click(self, button: str) -> None:
        """Follow a button that is there, other than that which buys."""
        if button == _BACK:
            self._page, self._item, self._chosen = "search", None, {}
        elif self._page == "results":
            if button in (_NEXT, _BEFORE):
                self._number += 1 if button == _NEXT else -1
            else:
                self._item = self._shop.products[button.upper()]
                self._page, self._chosen = "item", {}
        elif button == _BEFORE:
            self._page = "results" if self._page == "item" else "item"
        elif button == "description":
            self._page = "description"
        elif button == "features":
            self._page = "features"
        else:
            assert self._item is not None
            names = [name for name, values in self._item.options.items() if button in values]
            self._chosen[names[0]] = button

    def _bought(self) -> Heard:
        assert self._item is not None
        wanted = self._shop.products[self._goal.asin]
        self._score = made = score(self._item, self._chosen, self._goal, wanted)
        success = made.reward > 1 - 1e-9
        feedback = (
            f"The purchase is paid {made.reward:.2f}: {made.attributes} of "
            f"{len(self._goal.attributes)} attributes, {made.options} of "
            f"{len(self._goal.options)} options, the price is "
            f"{'low enough' if made.in_price else 'too high'}, the kind counts {made.kind:g}."
        )
        return Heard(
            "You have bought it.",
            reward=made.reward,
            over=True,
            success=success,
            outcome=Outcome(mistake="" if success else "wrong purchase", feedback=feedback),
        )

    def _buttons(self) -> list[str]:
        """What can be clicked, in small letters."""
        if self._page == "search":
            return []
        if self._page == "results":
            turns = [_NEXT] * self._more + [_BEFORE] * (self._number > 0)
            return [_BACK, *turns, *(asin.lower() for asin in self._on_page)]
        if self._page != "item":
            return [_BACK, _BEFORE]
        assert self._item is not None
        values = [value for values in self._item.options.values() for value in values]
        return [_BACK, _BEFORE, *dict.fromkeys(values), "description", "features", _BUY]

    @property
    def _on_page(self) -> Sequence[str]:
        return self._results[self._number * _ON_A_PAGE : (self._number + 1) * _ON_A_PAGE]

    @property
    def _more(self) -> bool:
        return (self._number + 1) * _ON_A_PAGE < len(self._results)

    def _look(self) -> str:
        """The page."""
        lines = [f"Instruction: {self._goal.instruction}"]
        if self._page == "search":
            return "\n".join((*lines, "[Search]"))
        buttons = [_BACK, *[_NEXT] * (self._page == "results" and self._more)]
        buttons += [_BEFORE] * (self._page != "results" or self._number > 0)
        lines.append(" ".join(f"[{button.title()}]" for button in buttons))
        if self._page == "results":
            lines.append(f"Page {self._number + 1} (Total results: {len(self._results)})")
            for asin in self._on_page:
                product = self._shop.products[asin]
                lines.append(f"[{asin}] {product.name} | {product.price_tag}")
            return "\n".join(lines)
        assert self._item is not None
        if self._page == "description":
            return "\n".join((*lines, self._item.description))
        if self._page == "features":
            return "\n".join((*lines, *self._item.features))
        for name, values in self._item.options.items():
            shown = (f"[{v}] (chosen)" if self._chosen.get(name) == v else f"[{v}]" for v in values)
            lines.append(f"{name}: {' '.join(shown)}")
        lines += [self._item.name, f"Price: {self._item.price_tag}"]
        return "\n".join((*lines, "[Description] [Features] [Buy Now]"))

    def _bought_best(self) -> tuple[str, ...]:
        """The clicks on the wanted product's page that are paid 1; empty if there are none."""
        wanted, chosen = self._shop.products[self._goal.asin], {}
        for asked in self._goal.options:
            pairs = [
                (n, v) for n, values in wanted.options.items() for v in values if n not in chosen
            ]
            exact = [pair for pair in pairs if pair[1] == asked.lower()]
            close = [pair for pair in pairs if matches(*pair, asked)]
            if exact or close:
                name, value = (exact or close)[0]
                chosen[name] = value
        if score(wanted, chosen, self._goal, wanted).reward < 1 - 1e-9:
            return ()
        return (*chosen.values(), _BUY)

    def _plan(self) -> Sequence[str]:
        if not self._best:
            return []
        return [
            f"search[{step[1:]}]" if step.startswith("?") else f"click[{step}]"
            for step in self._way()
        ]

    def _way(self) -> list[str]:
        """The next buttons, a search as ? and its words; empty where the product is not found."""
        wanted = self._shop.products[self._goal.asin]
        if self._item is wanted:
            left = [step for step in self._best if step not in self._chosen.values()]
            return left if self._page == "item" else [_BEFORE, *left]
        if self._page == "results" and wanted.asin in self._results:
            return [*self._turned(self._results, self._number), wanted.asin.lower(), *self._best]
        words = " ".join(re.sub(r"[\[\]]", " ", wanted.name).split())
        found = [passage.id for passage in self._shop.index.find(words, _FOUND)]
        if wanted.asin not in found:
            return []
        back = [] if self._page == "search" else [_BACK]
        return [*back, f"?{words}", *self._turned(found, 0), wanted.asin.lower(), *self._best]

    def _turned(self, results: Sequence[str], number: int) -> list[str]:
        """The buttons from one page of results to that of the wanted product."""
        steps = results.index(self._goal.asin) // _ON_A_PAGE - number
        return [_NEXT if steps > 0 else _BEFORE] * abs(steps)

    def legal_actions(self) -> None:
        """Any words may be searched for: there is no list."""
        return None

    def _admissible(self) -> Sequence[str] | None:
        return [f"click[{button}]" for button in self._buttons()] if self._lists else None

    def _facts(self) -> dict[str, Any]:
        made = self._score
        facts: dict[str, Any] = {"page": self._page, "bought": made is not None}
        if made is not None:
            facts |= {"kind": made.kind, "in_price": made.in_price}
            facts |= {"attributes_met": made.attributes, "options_met": made.options}
        return facts

    def _metrics(self) -> dict[str, float]:
        return {"score": 100 * (self._score.reward if self._score else 0.0)}
