"""Arguments and results as text for a span, where the application asked for them: bounded, and never by `repr`."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from datetime import date, time
from decimal import Decimal
from enum import Enum
from itertools import islice
from typing import Any, Final

from agentguard.model.canonical import Canonical, Digest, readable

MAX_CONTENT: Final = 4096
_MAX_ITEMS: Final = 100
_MAX_DEPTH: Final = 8
_MAX_NODES: Final = 1000
_MORE: Final = "..."


def arguments_text(arguments: Mapping[str, Canonical], secret: Collection[str]) -> str:
    """Return a call's arguments as JSON, without those that the tool calls secret; at most 4,096 characters."""
    return content_text({key: value for key, value in arguments.items() if key not in secret})


def content_text(value: object) -> str:
    """Return a value as JSON, at most 4,096 characters.

    What is no plain value is named by its type: a `repr` could hold anything, a credential too.
    """
    text = json.dumps(_plain(value, 0, iter(range(_MAX_NODES))), ensure_ascii=False, separators=(",", ":"))
    return text if len(text) <= MAX_CONTENT else text[: MAX_CONTENT - len(_MORE)] + _MORE


def _plain(value: object, depth: int, nodes: Iterator[int]) -> Any:
    """Copy as much of a value as can be shown; `nodes` bounds the work for values that are wide and deep."""
    if next(nodes, None) is None or depth > _MAX_DEPTH:
        return _MORE
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str) and not isinstance(value, Enum):
        return value[:MAX_CONTENT]
    if isinstance(value, Decimal | Digest):
        return readable(value)
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, Mapping):
        shown = islice(value.items(), _MAX_ITEMS)
        return {str(key)[:MAX_CONTENT]: _plain(item, depth + 1, nodes) for key, item in shown if isinstance(key, str)}
    if isinstance(value, list | tuple):
        return [_plain(item, depth + 1, nodes) for item in islice(value, _MAX_ITEMS)]
    return f"<{type(value).__name__}>"
