"""What a field of a record may hold, and the form in which it is recorded: pure rules."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Final

from agentguard.errors import AuditUnavailable

RESERVED: Final = frozenset({"v", "chain", "seq", "time", "event", "prev", "hash"})
MAX_TEXT: Final = 4096  # characters; a longer text is cut and marked with its digest
MAX_DEPTH: Final = 32
MAX_INT: Final = 1 << 53


def name_of(name: object, path: str) -> str:
    """Return the name of a field, or of a member at any depth, as it is recorded.

    Raises:
        AuditUnavailable: it is no text.
    """
    if isinstance(name, str):
        return _text(str.__str__(name))
    raise AuditUnavailable(f"field {path!r} holds a mapping with a key of type {type(name).__name__}; keys are text")


def clean(value: Any, path: str, depth: int = 0) -> Any:
    """Return a value as it is recorded: plain text, whole numbers, booleans, None, lists and dicts.

    Args:
        value: text, whole numbers below 2^53, booleans, None, lists and mappings with text as keys.
        path: the field that it stands in, for the error text.
        depth: how deep in it.

    Raises:
        AuditUnavailable: it cannot be recorded.
    """
    kind = type(value)
    if kind is str:
        return _text(value)
    if value is None or kind is bool:
        return value
    if isinstance(value, int):
        return _whole(int.__int__(value), path)
    if isinstance(value, str):
        return _text(str.__str__(value))
    if depth >= MAX_DEPTH:
        raise AuditUnavailable(f"field {path!r} is nested deeper than {MAX_DEPTH} levels, or holds itself")
    if isinstance(value, list | tuple):
        return [clean(item, path, depth + 1) for item in value]
    if kind is dict or isinstance(value, Mapping):
        return {name_of(name, path): clean(item, path, depth + 1) for name, item in value.items()}
    raise AuditUnavailable(
        f"field {path!r} holds a {kind.__name__}; a record takes text, whole numbers, booleans, lists and mappings: "
        "write any other value as text"
    )


def _whole(value: int, path: str) -> int:
    if -MAX_INT < value < MAX_INT:
        return value
    raise AuditUnavailable(f"field {path!r} holds a whole number beyond 2^53; write it as text")


def _text(text: str) -> str:
    """Text that RFC 8785 can carry: cut if it is long, U+FFFD for lone surrogates; the whole text's digest marks it."""
    if len(text) <= MAX_TEXT and text.isascii():
        return text
    try:
        encoded = text.encode()
        if len(text) <= MAX_TEXT:
            return text
        kept = text[:MAX_TEXT]
    except UnicodeEncodeError:
        encoded = text.encode("utf-8", "surrogatepass")
        kept = "".join("\ufffd" if "\ud800" <= char <= "\udfff" else char for char in text[:MAX_TEXT])
    return f"{kept}[{len(text)} characters, sha256:{hashlib.sha256(encoded).hexdigest()}]"
