"""Arguments and results as text for a span, where the application asked for them: bounded, and never by `repr`.

What a guard's redactor takes out of records goes here too, and before a text is cut: half an address is one still.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from datetime import date, time
from decimal import Decimal
from enum import Enum
from itertools import islice
from typing import Any, Final, Protocol

from agentguard.model.canonical import Canonical, Digest, readable

MAX_CONTENT: Final = 4096
_MAX_LOOK: Final = 1 << 17  # characters of one value's texts
_MAX_ITEMS: Final = 100
_MAX_DEPTH: Final = 8
_MAX_NODES: Final = 1000
_MORE: Final = "..."


class Redacting(Protocol):
    """Takes personal data out of values of JSON; `audit.redaction.Redactor` is one."""

    def value(self, value: Any) -> Any: ...
    def member(self, name: str, value: Any) -> Any: ...


def arguments_text(
    arguments: Mapping[str, Canonical], secret: Collection[str], redactor: Redacting | None = None
) -> str:
    """Return a call's arguments as JSON, without those that the tool calls secret; at most 4,096 characters."""
    return content_text({key: value for key, value in arguments.items() if key not in secret}, redactor)


def content_text(value: object, redactor: Redacting | None = None) -> str:
    """Return a value as JSON, at most 4,096 characters.

    What is no plain value is named by its type: a `repr` could hold anything, a credential too.

    Args:
        value: anything.
        redactor: looks through it first; what it cannot look through is not shown.
    """
    plain = _plain(value, 0, _Left(cuts=redactor is None))
    shown = plain if redactor is None else redactor.value(plain)
    text = json.dumps(shown, ensure_ascii=False, separators=(",", ":"))
    return text if len(text) <= MAX_CONTENT else text[: MAX_CONTENT - len(_MORE)] + _MORE


class _Left:
    """How much more is shown of a value that is wide, deep or long.

    Args:
        cuts: whether a long text is cut; else it is taken whole, or not at all.
    """

    __slots__ = ("cuts", "nodes", "texts")

    def __init__(self, *, cuts: bool) -> None:
        self.cuts, self.nodes, self.texts = cuts, _MAX_NODES, _MAX_LOOK

    def text(self, text: str) -> str:
        text = text[:MAX_CONTENT] if self.cuts else text
        self.texts -= len(text)
        return text if self.texts >= 0 else _MORE


def _plain(value: object, depth: int, left: _Left) -> Any:
    """Copy as much of a value as can be shown."""
    left.nodes -= 1
    if left.nodes < 0 or depth > _MAX_DEPTH:
        return _MORE
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str) and not isinstance(value, Enum):
        return left.text(value)
    if isinstance(value, Decimal | Digest):
        return readable(value)
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, Mapping):
        shown = islice(value.items(), _MAX_ITEMS)
        return {left.text(key): _plain(item, depth + 1, left) for key, item in shown if isinstance(key, str)}
    if isinstance(value, list | tuple):
        return [_plain(item, depth + 1, left) for item in islice(value, _MAX_ITEMS)]
    return f"<{type(value).__name__}>"
