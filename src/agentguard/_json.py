"""JSON that every parser reads alike (RFC 8259, I-JSON of RFC 7493)."""

from __future__ import annotations

import json
import re
from typing import Any, Final, NoReturn

import msgspec

MAX_JSON_DEPTH: Final = 32
_BRACKETS: Final = re.compile(r'"(?:[^"\\]|\\.)*+"?|([\[{])|([\]}])', re.DOTALL)
_LONGEST: Final = 10**20
_LOOKED_INTO: Final = frozenset({int, dict, list})
_DIGITS: Final = bytes(ord("0") if byte in b"0123456789" else ord(" ") for byte in range(256))
_MANY_DIGITS: Final = b"0" * 20  # where there is no such run, no number has 20 digits and a sign, or more
_DECODE: Final = msgspec.json.Decoder().decode
_ENCODE: Final = msgspec.json.Encoder().encode
_SURROGATE: Final = re.compile(r"\\u[dD][89abcdefABCDEF]")


class NotStrictJSON(ValueError):
    """A text is no JSON object that every parser reads alike."""


def strict_json(data: bytes) -> dict[str, Any]:
    """Parse a JSON object that every parser reads alike (RFC 8259, I-JSON of RFC 7493).

    Raises:
        NotStrictJSON: not UTF-8, a byte order mark, duplicate members, lone surrogates, NaN, infinities, whole numbers
            of more than 20 digits, deeper than 32 levels, or no object.
    """
    if (value := _plain(data)) is not None:
        return value
    try:
        text = data.decode("utf-8")
        _check_depth(text)
        value = _DECODER.decode(text)
        if _SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError):
        value = None
    if type(value) is not dict:
        raise NotStrictJSON("not a strict JSON object")
    return value


def _plain(data: bytes) -> dict[str, Any] | None:
    """What is its own shortest form holds no member twice, no odd escape and no odd number; most JSON of servers is."""
    if data.count(b"{") + data.count(b"[") > MAX_JSON_DEPTH:
        return None
    try:
        value = _DECODE(data)
        if type(value) is not dict or _ENCODE(value) != data:
            return None
        return value if _MANY_DIGITS not in data.translate(_DIGITS) or not _long(value) else None
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None


def _long(value: Any) -> bool:
    """Tell whether a whole number of more than 20 digits stands somewhere in a value."""
    kind = type(value)
    if kind is int:
        return not -_LONGEST // 10 < value < _LONGEST  # the sign counts as a digit
    if kind is dict:
        value = value.values()
    elif kind is not list:
        return False
    return any(type(item) in _LOOKED_INTO and _long(item) for item in value)


def _check_depth(text: str) -> None:
    if text.count("{") + text.count("[") <= MAX_JSON_DEPTH:
        return
    depth = 0
    for found in _BRACKETS.finditer(text):
        depth += 1 if found[1] else -1 if found[2] else 0
        if depth > MAX_JSON_DEPTH:
            raise NotStrictJSON


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise NotStrictJSON
    return members


def _integer(digits: str) -> int:
    if len(digits) > 20:
        raise NotStrictJSON
    return int(digits)


def _float(digits: str) -> float:
    value = float(digits)
    if value - value != 0:
        raise NotStrictJSON
    return value


def _constant(name: str) -> NoReturn:
    raise NotStrictJSON


_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_unique, parse_int=_integer, parse_float=_float, parse_constant=_constant
)
