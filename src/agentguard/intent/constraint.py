"""What may be said about one argument, and how it combines: a list (any of), several keys in a mapping (all of)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, TypeAlias, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from agentguard.errors import ConfigurationError
from agentguard.intent.literal import FrozenMapping
from agentguard.intent.truth import (
    Test,
    every,
    of_any_element,
    some,
)

# Reads a constraint that stands inside another; the mistake is noted at its own place.
Inner: TypeAlias = "Callable[[object], Constraint]"
C = TypeVar("C", bound="Constraint")


class Names(Struct, frozen=True):
    """What an intent names: the members of its sets, and its defines.

    Args:
        sets: canonical values by the name of the set.
        define: constraints by name; they may use each other, never in a circle.
    """

    sets: Mapping[str, tuple[Any, ...]]
    define: Mapping[str, Constraint]


class Constraint(Struct, frozen=True):
    """A frozen value that says which values an argument may have; `|` makes any of two, `&` both of two.

    A kind of constraint is one subclass: its word, how it is read, what it tests, and how it is written and shown.
    """

    word: ClassVar[str] = ""
    folds: ClassVar[bool] = False  # whether `fold: case` may stand beside it
    alone: ClassVar[bool] = False  # whether nothing may stand beside it

    @classmethod
    def read(cls, node: Any, inner: Inner) -> Constraint:
        """Build the constraint from what stands behind its word in a file; raises ConfigurationError."""
        raise NotImplementedError

    @property
    def scalar(self) -> bool:
        """Whether it is about a single value, so that in `forbid` it looks at each element of a list."""
        return True

    @property
    def parts(self) -> tuple[Constraint, ...]:
        """What has to hold, one by one, for an explanation."""
        return (self,)

    def test(self, argument: str) -> Test:
        """Return the test, built once; `argument` is the argument it is for, empty inside a value."""
        raise NotImplementedError

    def open_test(self, argument: str) -> Test:
        """Return the test that looks only at what the constraint names, as a forbid does."""
        return self.test(argument)

    def lifted(self, argument: str) -> Test:
        """Return the test as `forbid` uses it: about a single value, it matches if any element of a list matches."""
        return of_any_element(self.open_test(argument)) if self.scalar else self.open_test(argument)

    def counted_as(self, text: str) -> str:
        """Return the one text that stands for all ways to write a value in which this constraint takes it."""
        return text

    def spellings(self) -> Iterator[Callable[[str], str]]:
        """Yield how a value is counted, for each kind here that takes several texts for one value.

        INVARIANT: whatever takes several texts for one value is asked, so that none of them has a counter of its own.
        """
        if type(self).counted_as is not Constraint.counted_as:
            yield self.counted_as
        for item in self.inside():
            yield from item.spellings()

    def inside(self) -> Iterator[Constraint]:
        """Yield the constraints that stand inside this one."""
        for name in self.__struct_fields__:
            yield from _constraints(getattr(self, name))

    def walk(self) -> Iterator[Constraint]:
        """Yield this constraint and all that stand inside it, at any depth."""
        yield self
        for item in self.inside():
            yield from item.walk()

    def filled(self: C, names: Names) -> C:
        """Return the constraint with what its sets and its defines stand for; without them it is returned as it is."""
        values = {name: getattr(self, name) for name in self.__struct_fields__}
        changed = {name: made for name, value in values.items() if (made := _filled(value, names)) is not value}
        return replace(self, **changed) if changed else self

    def form(self) -> Any:
        """Return the constraint as it stands in a file."""
        raise NotImplementedError

    def must(self) -> str:
        """Return what the argument must do, such as `be "acme"`."""
        raise NotImplementedError

    def __or__(self, other: object) -> Constraint:
        return any_of((self, other)) if isinstance(other, Constraint) else NotImplemented

    def __and__(self, other: object) -> Constraint:
        return all_of((self, other)) if isinstance(other, Constraint) else NotImplemented


def _constraints(value: Any) -> Iterator[Constraint]:
    if isinstance(value, Constraint):
        yield value
    elif isinstance(value, tuple | Mapping):
        for item in value if isinstance(value, tuple) else value.values():
            yield from _constraints(item)


def _filled(value: Any, names: Names) -> Any:
    if isinstance(value, Constraint):
        return value.filled(names)
    if not isinstance(value, tuple | Mapping) or not any(True for _ in _constraints(value)):
        return value
    if isinstance(value, tuple):
        return tuple(_filled(item, names) for item in value)
    return FrozenMapping({key: _filled(item, names) for key, item in value.items()})


class AnyOf(Constraint, frozen=True):
    """A list: one alternative that holds is enough. Made by `any_of`."""

    alternatives: tuple[Constraint, ...]
    word = "any of"
    alone = True

    @property
    def scalar(self) -> bool:
        return all(item.scalar for item in self.alternatives)

    def test(self, argument: str) -> Test:
        return some([item.test(argument) for item in self.alternatives])

    def open_test(self, argument: str) -> Test:
        return some([item.open_test(argument) for item in self.alternatives])

    def lifted(self, argument: str) -> Test:
        return some([item.lifted(argument) for item in self.alternatives])

    def form(self) -> Any:
        return [item.form() for item in self.alternatives]

    def must(self) -> str:
        return ", or ".join(item.must() for item in self.alternatives)


class AllOf(Constraint, frozen=True):
    """Several keys in one mapping: all of them hold. Made by `all_of`."""

    constraints: tuple[Constraint, ...]
    word = "all of"

    @property
    def scalar(self) -> bool:
        return all(item.scalar for item in self.constraints)

    @property
    def parts(self) -> tuple[Constraint, ...]:
        return self.constraints

    def test(self, argument: str) -> Test:
        return every([item.test(argument) for item in self.constraints])

    def open_test(self, argument: str) -> Test:
        return every([item.open_test(argument) for item in self.constraints])

    def lifted(self, argument: str) -> Test:
        single = [item.open_test(argument) for item in self.constraints if item.scalar]
        whole = [item.lifted(argument) for item in self.constraints if not item.scalar]
        return every([*whole, *([of_any_element(every(single))] if single else [])])

    def form(self) -> Any:
        merged: dict[str, Any] = {}
        for item in self.constraints:
            merged |= item.form()
        return merged

    def must(self) -> str:
        return " and ".join(item.must() for item in self.constraints)


def any_of(alternatives: Sequence[Constraint]) -> Constraint:
    """Return a constraint that holds if one of them holds; lists in lists are one list."""
    flat: list[Constraint] = []
    for item in alternatives:
        flat += item.alternatives if isinstance(item, AnyOf) else (item,)
    return flat[0] if len(flat) == 1 else AnyOf(tuple(flat))


def all_of(constraints: Sequence[Constraint]) -> Constraint:
    """Return a constraint that holds if all of them hold: what one mapping with several keys says.

    Raises:
        ConfigurationError: a kind stands there twice, a list or `any` is among them, `fold` is not on all, or `min` is
            over `max`.
    """
    flat: list[Constraint] = []
    for item in constraints:
        flat += item.constraints if isinstance(item, AllOf) else (item,)
    words = [item.word for item in flat]
    for item in flat:
        if item.alone and len(flat) > 1:
            raise ConfigurationError(f"{item.word!r} cannot stand beside other kinds; write it alone")
        if words.count(item.word) > 1:
            raise ConfigurationError(f"{item.word!r} is there twice; one mapping holds each kind once")
    if len({getattr(item, "fold", False) for item in flat if item.folds}) > 1:
        raise ConfigurationError("fold: case counts for all kinds beside it; write it on all of them or on none")
    bounds = {item.word: item.bound for item in flat if hasattr(item, "bound")}
    if "min" in bounds and "max" in bounds and bounds["min"] > bounds["max"]:
        raise ConfigurationError("min is over max, so nothing would ever hold; swap them")
    # Their order means nothing, so it is settled: two mappings with the same keys are one constraint.
    return flat[0] if len(flat) == 1 else AllOf(tuple(sorted(flat, key=lambda item: (item.word != "min", item.word))))
