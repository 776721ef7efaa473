"""The parameters of an intent file: typed, each given, each used, put into the parsed tree, never twice."""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from functools import partial
from typing import Any, Final

from msgspec import Struct

from agentguard.errors import ConfigurationError
from agentguard.intent.document import Path, nearest
from agentguard.intent.literal import decimal, literal, thawed
from agentguard.intent.mistakes import Notes

HOLE: Final = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def _date(value: object) -> object:
    if isinstance(value, datetime.date):
        return value
    return datetime.datetime.fromisoformat(value) if isinstance(value, str) else None


def _list(value: object) -> object:
    return list(value) if isinstance(value, list | tuple) and value else None


def _exact(kind: type) -> Callable[[object], object]:
    return lambda value: value if isinstance(value, kind) and (kind is bool or not isinstance(value, bool)) else None


# What a value of each type is compared as, None for a value of another type; and what stands in for one not given.
_TYPES: Final[Mapping[str, tuple[Callable[[object], Any], Any]]] = {
    "string": (_exact(str), "unknown"),
    "integer": (_exact(int), 1),
    "decimal": (decimal, Decimal(1)),
    "bool": (_exact(bool), False),
    "date": (_date, "2000-01-01"),
    "list": (_list, ["unknown"]),
}
_ORDERED: Final = ("integer", "decimal")


class FromParameter(str):
    """Text that a parameter brought: a value, never a word, a constraint or a pattern of the language."""

    __slots__ = ()


class MappingFromParameter(dict[str, Any]):
    """A mapping in a list that a parameter brought: a value too."""


class Parameter(Struct, frozen=True):
    """What an intent file says about a parameter: its type and, for numbers, its bounds."""

    type: str
    min: Decimal | None = None
    max: Decimal | None = None

    def value(self, given: object) -> Any:
        """Return a given value as it stands in the tree.

        Raises:
            ConfigurationError: it is of another type or out of bounds; the text does not show it.
        """
        wrong = ConfigurationError(f"{self.type} expected, a value of type {type(given).__name__} was given")
        try:
            typed = _TYPES[self.type][0](given)
        except ConfigurationError as error:
            raise ConfigurationError(f"{self.type} expected: {error}") from None
        except ValueError:
            raise ConfigurationError('date expected, as a date or as text such as "2027-03-31"') from None
        if typed is None:
            raise wrong
        if (self.min is not None and typed < self.min) or (self.max is not None and typed > self.max):
            raise ConfigurationError(f"the given value is out of bounds: {self.bounds}")
        # Text of a date stays as it was written; a date object becomes ISO text.
        made = _tree(given if isinstance(given, str) and self.type == "date" else typed)
        # A file's own whole number is an int, which counts: times, attempts, limits.
        return int(made) if self.type == "integer" else made

    @property
    def bounds(self) -> str:
        """The bounds, for people."""
        return ", ".join(
            f"{word} {bound}" for word, bound in (("min", self.min), ("max", self.max)) if bound is not None
        )


def _tree(value: object) -> Any:
    return _marked(thawed(literal(value)))


def _marked(value: Any) -> Any:
    """INVARIANT: what a parameter brought is told apart from what the file says, at any depth."""
    if isinstance(value, tuple):
        return list(map(_marked, value))
    if isinstance(value, dict):
        return MappingFromParameter({key: _marked(item) for key, item in value.items()})
    return FromParameter(value) if isinstance(value, str) else value


class Parameters:
    """The declared parameters of a file, with the values that were given for them."""

    def __init__(self, declared: object, given: Mapping[str, object], notes: Notes) -> None:
        self._notes = notes
        self._used: set[str] = set()
        self.unfilled: set[Path] = set()
        if not isinstance(declared, dict):
            notes.add(("params",), "write a mapping of name and type: params: {account: string}")
            declared = {}
        self._declared = {name: notes.take(("params", name), partial(_parameter, name, said), None)
                          for name, said in declared.items()}  # fmt: skip
        self._values = self._fill(given)

    def _fill(self, given: Mapping[str, object]) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for name, parameter in self._declared.items():
            if name not in given:
                self._notes.add(("params", name), f"no value was given; give one when you load the file: {name}=...")
            elif parameter is not None:
                values[name] = self._notes.take(("params", name), partial(_given, parameter, given[name]), None)
        for name in given:
            if name not in self._declared:
                known = nearest(name, self._declared)
                self._notes.add(("params",), f"a value was given for {name!r}, which is not declared here{known}")
        return {name: value for name, value in values.items() if value is not None}

    @property
    def names(self) -> tuple[str, ...]:
        """The declared names."""
        return tuple(self._declared)

    def replaced(self, node: Any, path: Path = ()) -> Any:
        """Return a tree with every `${name}` that is a whole scalar replaced, and `$${` as the text `${`."""
        if isinstance(node, dict):
            return {self._key(key, path): self.replaced(item, (*path, key)) for key, item in node.items()}
        if isinstance(node, list):
            return [self.replaced(item, (*path, index)) for index, item in enumerate(node)]
        if not isinstance(node, str) or "${" not in node:
            return node
        hole = HOLE.fullmatch(node)
        return self._value(hole[1], path) if hole else self._text(node, path)

    def note_unused(self) -> None:
        """Note every declared parameter that stands nowhere."""
        for name in self._declared:
            if name not in self._used:
                self._notes.add(
                    ("params", name), f"it is used nowhere; write ${{{name}}} where it belongs, or leave it out"
                )

    def _value(self, name: str, path: Path) -> Any:
        self._used.add(name)
        if name in self._values:
            return self._values[name]
        if name not in self._declared:
            self._notes.add(path, f"${{{name}}} is not declared under params{nearest(name, self._declared)}")
        parameter = self._declared.get(name)
        self.unfilled.add(path)
        return _TYPES[parameter.type][1] if parameter else "unknown"

    def _text(self, text: str, path: Path) -> str:
        if "${" in text.replace("$${", ""):
            self._notes.add(path, "${name} stands for a whole value, not for a part of one; write $${ for the text ${")
        return text.replace("$${", "${")

    def _key(self, key: str, path: Path) -> str:
        return self._text(key, path) if "${" in key else key


def _given(parameter: Parameter, value: object) -> Any:
    return parameter.value(value)


def _parameter(name: str, said: Any) -> Parameter:
    said = {"type": said} if isinstance(said, str) else said
    if not _NAME.fullmatch(name):
        raise ConfigurationError(f"{name!r} is no parameter name; write letters, digits and _")
    if not isinstance(said, dict) or said.get("type") not in tuple(_TYPES) or set(said) - {"type", "min", "max"}:
        raise ConfigurationError(f"write a type ({', '.join(_TYPES)}) or {{type: decimal, min: 0, max: 100}}")
    bounds = {key: decimal(said[key]) for key in ("min", "max") if key in said}
    if bounds and said["type"] not in _ORDERED:
        raise ConfigurationError(f"min and max are for {' and '.join(_ORDERED)}")
    if len(bounds) == 2 and bounds["min"] > bounds["max"]:
        raise ConfigurationError("min is over max, so no value would do; swap them")
    return Parameter(said["type"], **bounds)
