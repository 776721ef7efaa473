"""The kinds that name something else: a `set`, a `define` (`is`), and another argument (`same_as`)."""

from __future__ import annotations

from typing import Any, Self, TypeVar

from msgspec.structs import replace

from agentguard.errors import ConfigurationError
from agentguard.intent.constraint import Constraint, Inner, Names
from agentguard.intent.literal import comparable, is_text
from agentguard.intent.membership import folded, folded_membership, membership
from agentguard.intent.params import FromParameter
from agentguard.intent.truth import CANNOT_TELL, FAIL, HOLD, MISSING, Facts, Test, Truth, of_any_element, some, value_of
from agentguard.model.call import ToolCall
from agentguard.model.canonical import same

T = TypeVar("T")


class InSet(Constraint, frozen=True):
    """`set: name`: one of the members of a named set, exactly; `fold: case` beside it ignores case."""

    name: str
    fold: bool = False
    members: tuple[Any, ...] | None = None  # neither compared nor shown
    word = "set"
    folds = True

    def __post_init__(self) -> None:
        _checked(self.word, self.name, "sets")

    def __eq__(self, other: object) -> bool:
        return (self.name, self.fold) == (other.name, other.fold) if isinstance(other, InSet) else NotImplemented

    def __hash__(self) -> int:
        return hash((self.name, self.fold))

    def __repr__(self) -> str:
        return f"InSet(name={self.name!r}, fold={self.fold!r})"

    @classmethod
    def read(cls, node: Any, inner: Inner) -> Self:
        return cls(_written(cls.word, node))

    def filled(self, names: Names) -> InSet:
        members = names.sets[self.name]
        if self.fold and not all(isinstance(value, str) for value in members):
            raise ConfigurationError(f"fold: case is for text only, and the set {self.name!r} holds other values")
        return replace(self, members=members)

    def test(self, argument: str) -> Test:
        members = _known(self.members, self.name)
        return folded_membership(members) if self.fold else membership(members)

    def counted_as(self, text: str) -> str:
        return folded(text) if self.fold else text

    def lifted(self, argument: str) -> Test:
        return some([of_any_element(self.test(argument)), self.test(argument)])

    def form(self) -> Any:
        return {"set": self.name, **({"fold": "case"} if self.fold else {})}

    def must(self) -> str:
        return f"be in the set {self.name}" + (" in any case" if self.fold else "")


class Is(Constraint, frozen=True):
    """`is: name`: what stands under this name in `define` holds."""

    name: str
    defined: Constraint | None = None  # neither compared nor shown
    word = "is"

    def __post_init__(self) -> None:
        _checked(self.word, self.name, "define")

    def __eq__(self, other: object) -> bool:
        return self.name == other.name if isinstance(other, Is) else NotImplemented

    def __hash__(self) -> int:
        return hash((Is, self.name))

    def __repr__(self) -> str:
        return f"Is(name={self.name!r})"

    @classmethod
    def read(cls, node: Any, inner: Inner) -> Self:
        return cls(_written(cls.word, node))

    def filled(self, names: Names) -> Is:
        return replace(self, defined=names.define[self.name].filled(names))

    @property
    def scalar(self) -> bool:
        return _known(self.defined, self.name).scalar

    def test(self, argument: str) -> Test:
        return _known(self.defined, self.name).test(argument)

    def open_test(self, argument: str) -> Test:
        return _known(self.defined, self.name).open_test(argument)

    def lifted(self, argument: str) -> Test:
        return _known(self.defined, self.name).lifted(argument)

    def form(self) -> Any:
        return {"is": self.name}

    def must(self) -> str:
        return f"be {self.name}" + ("" if self.defined is None else f", that is {self.defined.must()}")


class SameAs(Constraint, frozen=True):
    """`same_as: argument`: equals another argument of the call; where that one is missing it cannot tell."""

    other: str
    word = "same_as"

    def __post_init__(self) -> None:
        if not is_text(self.other):
            raise ConfigurationError("'same_as' takes the name of another argument: same_as: account")

    @classmethod
    def read(cls, node: Any, inner: Inner) -> Self:
        return cls(_written(cls.word, node))

    def test(self, argument: str) -> Test:
        other = self.other

        def judge(value: Any, call: ToolCall, facts: Facts) -> Truth:
            if value is MISSING:
                return FAIL
            wanted = value_of(other, call)
            if not comparable(wanted) or not comparable(value):  # MISSING is none of them
                return CANNOT_TELL
            return HOLD if same(value, wanted) else FAIL

        return judge

    def lifted(self, argument: str) -> Test:
        return some([self.test(argument), of_any_element(self.test(argument))])

    def form(self) -> Any:
        return {"same_as": self.other}

    def must(self) -> str:
        return f"equal the argument {self.other}"


def _checked(word: str, name: object, where: str) -> None:
    if not is_text(name):
        raise ConfigurationError(f"{word!r} takes the name of an entry of {where}: {word}: payees")


def _written(word: str, node: Any) -> Any:
    # INVARIANT: what the application passes is a value: it never chooses which rule holds.
    if isinstance(node, FromParameter):
        raise ConfigurationError(f"a parameter is a value, no name; write the name that {word!r} means into the file")
    return node


def _known(value: T | None, name: str) -> T:
    if value is None:
        raise ConfigurationError(f"{name!r} is not resolved; compile the intent that names it")
    return value
