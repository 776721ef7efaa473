"""The values that stand in an intent: frozen, exact, in NFC, and how they are shown to people."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from typing import Any, Final, TypeVar

from agentguard.errors import ConfigurationError, NotCanonical
from agentguard.model.canonical import Canonical, Digest, canonical, is_nfc, number, number_text
from agentguard.model.duration import UNITS

V = TypeVar("V", covariant=True)
_DECIMAL: Final = r"-?[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]{1,4})?"  # compiled by the first bound that is text
MAX_SHOWN: Final = 80


class FrozenMapping(Mapping[str, V]):
    """A mapping that does not change; equal to any mapping with the same entries, in any order."""

    __slots__ = ("_entries",)

    def __init__(self, entries: Mapping[str, V] | Iterable[tuple[str, V]] = ()) -> None:
        self._entries = dict(entries)

    def __getitem__(self, key: str) -> V:
        return self._entries[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __hash__(self) -> int:
        return hash(frozenset(self._entries.items()))

    def __repr__(self) -> str:
        return repr(self._entries)


def literal(value: object) -> Any:
    """Return a value as it is compared: canonical, its texts in NFC, its mappings frozen.

    Raises:
        ConfigurationError: it has no canonical form, or holds text that could never be compared.
    """
    try:
        exact = canonical(value)
    except NotCanonical as error:
        raise ConfigurationError(f"a value that cannot be compared: {error}") from None
    if not comparable(exact):
        raise ConfigurationError("text that is not in Unicode NFC is never equal to anything; write it in NFC")
    return _frozen(exact)


def _frozen(value: Canonical) -> Any:
    if isinstance(value, tuple):
        return tuple(map(_frozen, value))
    return FrozenMapping({key: _frozen(item) for key, item in value.items()}) if isinstance(value, dict) else value


def thawed(value: Any) -> Canonical:
    """Return the canonical value of a literal."""
    if isinstance(value, tuple):
        return tuple(map(thawed, value))
    return {key: thawed(item) for key, item in value.items()} if isinstance(value, FrozenMapping) else value


def comparable(value: object) -> bool:
    """Tell whether a canonical value may be compared: all its texts, and its keys, are in NFC."""
    match value:
        case str():
            return is_nfc(value)
        case tuple():
            return all(map(comparable, value))
        case dict():
            return all(isinstance(key, str) and is_nfc(key) and comparable(item) for key, item in value.items())
    return value is None or isinstance(value, bool | Decimal | Digest)


def scalar(value: object) -> bool:
    """Tell whether a literal is neither a list nor a mapping."""
    return not isinstance(value, tuple | FrozenMapping)


def decimal(value: object) -> Decimal:
    """Return a bound exactly; in an intent, text such as "0.01" is a number here.

    Raises:
        ConfigurationError: it is no finite number.
    """
    if isinstance(value, str) and re.fullmatch(_DECIMAL, value):
        value = Decimal(value)
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise ConfigurationError(f'{_shown_kind(value)} is no number; write one such as 50 or "0.01"')
    try:
        return number(value)
    except NotCanonical as error:
        raise ConfigurationError(f'{error.why}; write a number such as 50 or "0.01"') from None


def is_text(value: object) -> bool:
    """Tell whether a value is text that is not empty, whatever its annotation says."""
    return isinstance(value, str) and bool(value)


def is_list(value: object) -> bool:
    """Tell whether a value is a list or a tuple, whatever its annotation says."""
    return isinstance(value, list | tuple)


def count(value: object, what: str) -> int:
    """Return a whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigurationError(f"{what} is a whole number of at least 1")
    return value


def duration_text(value: float) -> str:
    """Return a duration as the file form writes it."""
    for unit in ("h", "m"):
        size = int(UNITS[unit])
        if value % size == 0:
            return f"{int(value // size)}{unit}"
    return f"{number_text(Decimal(repr(value)))}s"


def shown(value: object) -> str:
    """Return a literal for people, as one short line."""
    text = _plain(value)
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 1] + "…"


def _plain(value: object) -> str:
    match value:
        case Decimal():
            return number_text(value)
        case str():
            return quoted(value)
        case tuple():
            return f"[{', '.join(map(_plain, value))}]"
        case FrozenMapping():
            return f"{{{', '.join(f'{quoted(key)}: {_plain(item)}' for key, item in value.items())}}}"
    return "null" if value is None else str(value).lower()


def quoted(text: str) -> str:
    """Return text in double quotes, with escapes that JSON shares with YAML 1.2, or YAML's own above U+FFFF."""
    import json

    short = json.dumps(text, ensure_ascii=False)
    return "".join(char if char.isprintable() else _escape(ord(char)) for char in short)


def _escape(code: int) -> str:
    return f"\\u{code:04X}" if code < 0x10000 else f"\\U{code:08X}"


def _shown_kind(value: object) -> str:
    return shown(value) if isinstance(value, str) else f"a value of type {type(value).__name__}"
