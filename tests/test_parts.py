"""Parts: chosen by kind or by class path, written back as they were, refused with a reason."""

from __future__ import annotations

import gc

import pytest
from pydantic import BaseModel, SerializeAsAny, ValidationError

from agentopd.base.parts import Part, closest
from agentopd.base.types import Trajectory
from agentopd.units.base import Unit
from agentopd.units.spans import Span
from agentopd.units.stretches import TokenUnit, TurnUnit


class Fruit(Part, family="test fruit"):
    """A family of its own."""

    weight: float = 1.0


class Apple(Fruit, kind="test_apple"):
    """A member."""

    worms: int = 0


class Pear(Fruit, kind="test_pear"):
    """Another."""


class Crab(Apple, kind="test_crab"):
    """A member below a member."""


class Quince(Fruit):
    """Not registered: named by its path alone."""

    fuzzy: bool = True


class Basket(BaseModel):
    """Holds a part as a configuration does."""

    fruit: SerializeAsAny[Fruit]


class Halves(Unit):
    """A user's own unit: the first and the second half of an episode."""

    def spans(self, trajectory: Trajectory) -> list[Span]:
        middle, end = len(trajectory.ids) // 2, len(trajectory.ids)
        return [Span(0, middle, "first"), Span(middle, end, "second")]


class Vague(Unit):
    """A user's unit that forgot to say what its spans are."""


def _refused(value: object, family: type[Part] = Fruit) -> str:
    with pytest.raises(ValidationError) as caught:
        family.model_validate(value)
    return caught.value.errors()[0]["msg"].removeprefix("Value error, ")


def test_a_mapping_with_a_kind_is_the_part() -> None:
    found = Fruit.model_validate({"kind": "test_apple", "worms": 2})
    assert found == Apple(worms=2)
    assert type(found) is Apple


def test_a_kind_alone_is_the_part_with_its_defaults() -> None:
    assert Fruit.model_validate("test_pear") == Pear()


def test_members_of_members_are_members() -> None:
    assert {c.kind for c in Fruit.members()} == {"test_apple", "test_pear", "test_crab"}
    assert type(Fruit.model_validate("test_crab")) is Crab
    assert type(Apple.model_validate({"kind": "test_crab", "worms": 1})) is Crab


def test_a_class_itself_needs_no_kind() -> None:
    assert Apple.model_validate({"worms": 3}) == Apple(worms=3)
    assert Apple(worms=3).kind == "test_apple"


def test_a_class_of_a_users_own_is_named_by_its_path() -> None:
    found = Unit.model_validate({"kind": f"{__name__}:Halves", "reduce": "sum"})
    assert type(found) is Halves
    assert found.reduce == "sum"
    assert found.model_dump()["kind"] == f"{__name__}:Halves"


@pytest.mark.parametrize("part", [Apple(worms=2, weight=0.5), Crab(), Quince(fuzzy=False)])
def test_a_part_is_written_with_all_it_takes_to_read_it_back(part: Fruit) -> None:
    written = Basket(fruit=part).model_dump(mode="json")
    assert set(written["fruit"]) == {"kind", *type(part).model_fields}
    assert Basket.model_validate(written).fruit == part
    assert type(Basket.model_validate(written).fruit) is type(part)


def test_a_part_that_is_one_already_is_taken_as_it_is() -> None:
    apple = Apple(worms=1)
    assert Basket(fruit=apple).fruit is apple


def test_another_familys_part_is_refused() -> None:
    assert "instance of Fruit" in _refused(TokenUnit())


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("test_appel", "no test fruit is called 'test_appel'; did you mean 'test_apple'?"),
        ("zzz", "there are: test_apple, test_crab, test_pear"),
        ({"weight": 1.0}, "the test fruit needs a kind; there are: test_apple, test_crab"),
        ({"kind": ""}, "no test fruit is called ''"),
        ({"kind": "test_apple", "wroms": 1}, "unknown key 'wroms'; did you mean 'worms'?"),
        ("nowhere.at.all:Thing", "names the module 'nowhere.at.all', which cannot be imported"),
        (f"{__name__}:Missing", "has no 'Missing'"),
        (f"{__name__}:Halves", f"is not a test fruit: derive it from {__name__}.Fruit"),
        (f"{__name__}:_refused", "is not a test fruit"),
    ],
)
def test_what_is_no_part_is_refused_with_the_reason(value: object, says: str) -> None:
    assert says in _refused(value)


def test_a_part_that_lacks_a_method_is_refused_by_naming_it() -> None:
    assert "cannot be used before it defines spans" in _refused(f"{__name__}:Vague", Unit)


def test_two_parts_of_one_kind_are_refused_and_the_first_stays() -> None:
    gc.disable()  # the refused class must not be found even while it has not been collected
    try:
        with pytest.raises(ValueError, match="there are two unit parts of kind 'turn': rename one"):

            class Other(Unit, kind="turn"):
                """Takes a name that is taken."""

        assert Unit.of_kind("turn") is TurnUnit
    finally:
        gc.enable()


def test_two_families_may_use_one_kind() -> None:
    class Colour(Part, family="test colour"):
        """Another family."""

    class Painted(Colour, kind="test_apple"):
        """Its member."""

    assert Colour.of_kind("test_apple") is Painted
    assert Fruit.of_kind("test_apple") is Apple


def test_parts_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Apple().worms = 1  # type: ignore[misc]


def test_the_hint_lists_all_names_when_none_is_close() -> None:
    assert closest("tokem", ["turn", "token"]) == "did you mean 'token'?"
    assert closest("xyz", ["turn", "token"]) == "there are: token, turn"
