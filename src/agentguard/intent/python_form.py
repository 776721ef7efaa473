"""Constraints as Python writes them: the words of the file form, with an underscore where Python keeps the word."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal
from typing import TypeAlias

from agentguard.errors import ConfigurationError
from agentguard.intent.constraint import Constraint, all_of
from agentguard.intent.kinds import Eq, In, Max, Min, Prefix, constraint
from agentguard.intent.presence import ANY, Absent, Not, OptionalValue
from agentguard.intent.text import Text

Number: TypeAlias = int | float | str | Decimal

any_: Constraint = ANY
absent: Constraint = Absent()


def eq(value: object, *, fold: str | None = None) -> Constraint:
    """The value equals this one; text is never equal to a number. `fold="case"` ignores case."""
    return Eq((value,), _fold(fold))


def in_(*values: object, fold: str | None = None) -> Constraint:
    """The value is one of these: `in_("a", "b")`, or `in_(names)` with one list. `fold="case"` ignores case."""
    if len(values) == 1 and isinstance(values[0], list | tuple | set | frozenset):
        values = tuple(sorted(values[0], key=repr)) if isinstance(values[0], set | frozenset) else tuple(values[0])
    return In(values, _fold(fold))


def at_least(bound: Number) -> Constraint:
    """A number of at least this; text such as "0.01" is read as a decimal."""
    return Min(bound)  # type: ignore[arg-type]  # made exact by Min


def at_most(bound: Number) -> Constraint:
    """A number from 0 to this."""
    return between(0, bound)


def between(low: Number, high: Number) -> Constraint:
    """A number from low to high, both included."""
    return all_of((Min(low), Max(high)))  # type: ignore[arg-type]  # made exact by Min and Max


def prefix(start: str) -> Constraint:
    """Text that starts with this."""
    return Prefix(start)


def text(max: int | None = None, *, urls: str | None = None, hosts: Iterable[str] = ()) -> Constraint:
    """Free text without links and without hidden characters.

    Args:
        max: the most characters.
        urls: None or "none": there is no other choice.
        hosts: exact hosts to which https links may stand in the text.
    """
    if urls not in (None, "none"):
        raise ConfigurationError("urls is None; where links may stand, name their hosts: text(hosts=[...])")
    return Text(max, hosts if isinstance(hosts, str) else tuple(hosts))  # type: ignore[arg-type]  # refused by Text


def optional(value: object) -> Constraint:
    """The argument is left out or equals its default, or this holds."""
    return OptionalValue(constraint(value))


def not_(value: object) -> Constraint:
    """The value does not do this; where it cannot tell, neither can `not_`."""
    return Not(constraint(value))


def _fold(fold: str | None) -> bool:
    if fold not in (None, "case"):
        raise ConfigurationError('fold is "case", or left out')
    return fold == "case"
