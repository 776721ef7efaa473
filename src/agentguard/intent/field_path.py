"""Field paths: which fields of a result, or of a set's file, are meant. A path is a tuple of keys, never one text.

    $                 the whole
    address.street    a key, and a key below it
    [].iban           of each element of a list
    *.id              of each value of a mapping
    accounts.~keys    the keys of a mapping
    "a.b".c           a key that holds a dot

INVARIANT: a key is compared as a whole, so one with a dot in it, or one named `[]` or `*`, forges no path.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from typing import Any, Final, TypeAlias

from msgspec import Struct

from agentguard.errors import ConfigurationError
from agentguard.intent.literal import is_text, quoted
from agentguard.model.canonical import is_nfc

_KEY: Final = re.compile(r"[^\s.\[\]\"'*~$\x00-\x1f\x7f]+")
_QUOTED: Final = re.compile(r'"((?:[^"\\\x00-\x1f]|\\["\\])+)"')
_ESCAPE: Final = re.compile(r"\\(.)")
_EXAMPLES: Final = 'write keys joined by dots, such as address.street, [].iban, *.id, accounts.~keys, "a.b" or $'
_MAX_PARTS: Final = 32


class Wild(Enum):
    """A part of a path that is no key."""

    EACH = "[]"
    VALUES = "*"
    KEYS = "~keys"


Part: TypeAlias = "str | Wild"
# Shows a value as a mapping, a list, a tuple, or as it is.
View: TypeAlias = Callable[[Any], Any]


class FieldPath(Struct, frozen=True):
    """The parts of a path; none for the whole. Made by `field_path`."""

    parts: tuple[Part, ...]

    @property
    def keys_only(self) -> bool:
        """Whether it leads to one field at most."""
        return all(isinstance(part, str) for part in self.parts)

    def __str__(self) -> str:
        text = ""
        for part in self.parts:
            if part is Wild.EACH:
                text += "[]"
                continue
            word = part.value if isinstance(part, Wild) else part if _KEY.fullmatch(part) else _in_quotes(part)
            text += f".{word}" if text else word
        return text or "$"

    def select(self, value: Any, view: View = lambda value: value) -> Iterator[Any]:
        """Yield what stands in the fields of a value; nothing where the path leads nowhere."""
        for found, _ in self.places(value, view):
            yield found

    def places(self, value: Any, view: View) -> Iterator[tuple[Any, tuple[Mapping[Any, Any], ...]]]:
        """Yield each field with the mappings around it, the outermost first."""
        return _places(view(value), self.parts, (), view)


def _places(
    value: Any, parts: tuple[Part, ...], around: tuple[Mapping[Any, Any], ...], view: View
) -> Iterator[tuple[Any, tuple[Mapping[Any, Any], ...]]]:
    if not parts:
        yield value, around
        return
    part, rest = parts[0], parts[1:]
    if part is Wild.EACH:
        for item in value if isinstance(value, list | tuple) else ():
            yield from _places(view(item), rest, around, view)
    elif isinstance(value, Mapping):
        around = (*around, value)
        if part is Wild.KEYS:
            for key, item in value.items():
                below = view(item)
                yield key, (*around, below) if isinstance(below, Mapping) else around
        elif part is Wild.VALUES:
            for item in value.values():
                yield from _places(view(item), rest, around, view)
        elif part in value:
            yield from _places(view(value[part]), rest, around, view)


def field_path(text: object) -> FieldPath:
    """Read a field path.

    Raises:
        ConfigurationError: it is none; the error says how paths are written.
    """
    if isinstance(text, FieldPath):
        return text
    if not is_text(text) or not isinstance(text, str) or not is_nfc(text):
        raise ConfigurationError(f"a field path is text in NFC: {_EXAMPLES}")
    parts = list(_parts(text))
    if len(parts) > _MAX_PARTS:
        raise ConfigurationError(f"a field path has at most {_MAX_PARTS} parts")
    if Wild.KEYS in parts[:-1]:
        raise ConfigurationError(f"~keys stands at the end of a field path only, as keys hold nothing; {_EXAMPLES}")
    return FieldPath(tuple(parts))


def _parts(text: str) -> Iterator[Part]:
    at, first = 0, True
    if text.startswith("$"):
        at, first = 1, False
    while at < len(text):
        if text.startswith("[]", at):
            yield Wild.EACH
            at += 2
        else:
            at += _dot(text, at, first)
            part, at = _word(text, at)
            yield part
        first = False


def _dot(text: str, at: int, first: bool) -> int:
    if first:
        return 0
    if text[at] != ".":
        raise _no_path(text)
    return 1


def _word(text: str, at: int) -> tuple[Part, int]:
    for wild in (Wild.VALUES, Wild.KEYS):
        if text.startswith(wild.value, at):
            return wild, at + len(wild.value)
    if found := _QUOTED.match(text, at):
        return _ESCAPE.sub(r"\1", found[1]), found.end()
    if found := _KEY.match(text, at):
        return found[0], found.end()
    raise _no_path(text)


def _no_path(text: str) -> ConfigurationError:
    return ConfigurationError(f"{quoted(text)} is no field path; {_EXAMPLES}")


def _in_quotes(key: str) -> str:
    return '"' + key.replace("\\", "\\\\").replace('"', '\\"') + '"'
