"""Constraints as Python writes them: the words of the file form, with an underscore where Python keeps the word.

Each word loads its own kind: an intent that bounds a number needs no rules about addresses.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import TypeAlias

from agentguard.errors import ConfigurationError
from agentguard.intent.constraint import Constraint, all_of
from agentguard.intent.presence import ANY, Absent, Not, OptionalValue
from agentguard.intent.step import arguments
from agentguard.intent.values import Eq, In, Max, Min, Prefix, constraint

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


def text(max: int | None = None, *, urls: str | Constraint | None = None, hosts: Iterable[str] = ()) -> Constraint:
    """Free text without links and without hidden characters.

    Args:
        max: the most characters.
        urls: None or "none", or `from_(...)`: a link that is, as a whole, one of these candidates may stand in it.
        hosts: exact hosts to which https links may stand in the text.
    """
    from agentguard.intent.provenance import From
    from agentguard.intent.texts import Text

    source = urls if isinstance(urls, From) else None
    if source is None and urls not in (None, "none"):
        raise ConfigurationError("urls is None or from_(...); where links may stand, name hosts: text(hosts=[...])")
    return Text(max, hosts if isinstance(hosts, str) else tuple(hosts), source)  # type: ignore[arg-type]  # refused by Text


def in_set(name: str, *, fold: str | None = None) -> Constraint:
    """The value is a member of a named set of the intent (`sets`). `fold="case"` ignores case."""
    from agentguard.intent.references import InSet

    return InSet(name, _fold(fold))


def date(on: object = "", *, min: object = "", max: object = "", month: int = 0, day: int = 0) -> Constraint:
    """The whole value is a date or a time: on this day, between two, or on this day of a month.

    Args:
        on: a date, or text such as "2027-03-31".
        min, max: dates or times, both included.
        month, day: numbers, either or both.
    """
    from agentguard.intent.dates import Date

    return Date(on, min, max, month, day)  # type: ignore[arg-type]  # made text by Date


def glob(pattern: str) -> Constraint:
    """The whole text matches: `*` within a segment between slashes, `**` for any number of segments."""
    from agentguard.intent.globs import Glob

    return Glob(pattern)


def regex(expression: str) -> Constraint:
    """The whole text matches an RE2 expression; needs the extra `agentguard[re2]`."""
    from agentguard.intent.globs import Regex

    return Regex(expression)


def path(under: str | os.PathLike[str]) -> Constraint:
    """An absolute path below this directory, also after its symbolic links were followed."""
    from agentguard.intent.paths import PathUnder

    return PathUnder(under)  # type: ignore[arg-type]  # made text by PathUnder


def url(hosts: Iterable[str], path: str = "", *, schemes: Iterable[str] = ("https",)) -> Constraint:
    """A URL with one reading.

    Args:
        hosts: exact hosts, or `*.host` for everything below one.
        path: a glob over its path; empty for any.
        schemes: https unless said otherwise.
    """
    from agentguard.intent.address import Url

    both = [value if isinstance(value, str) else tuple(value) for value in (hosts, schemes)]
    return Url(both[0], path, both[1])  # type: ignore[arg-type]  # text instead of a list is refused by Url


def email(domains: Iterable[str]) -> Constraint:
    """One e-mail address, in one of these domains."""
    from agentguard.intent.address import Email

    return Email(domains if isinstance(domains, str) else tuple(domains))  # type: ignore[arg-type]  # refused by Email


def template(sentence: str, /, **holes: object) -> Constraint:
    """The whole text is this sentence, and its holes hold: `template("Dinner at {place}", place=in_set("places"))`."""
    from agentguard.intent.templates import Template

    return Template(sentence, arguments(holes))


def each(value: object) -> Constraint:
    """Every element of a list does this; an empty list does."""
    from agentguard.intent.structures import Each

    return Each(constraint(value))


def items(min: int | None = None, max: int | None = None) -> Constraint:
    """A list with so many elements."""
    from agentguard.intent.structures import Items

    return Items(min, max)


def keys(entries: Mapping[str, object] | None = None, /, **more: object) -> Constraint:
    """A mapping with these keys; one that is not mentioned must be absent."""
    from agentguard.intent.structures import Keys

    return Keys(arguments({**(entries or {}), **more}))


def same_as(argument: str) -> Constraint:
    """The value equals another argument of the call."""
    from agentguard.intent.references import SameAs

    return SameAs(argument)


def is_(name: str) -> Constraint:
    """What the intent has under this name in `define`."""
    from agentguard.intent.references import Is

    return Is(name)


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
