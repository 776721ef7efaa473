"""Taking members out of a result, where an obligation says so."""

from __future__ import annotations

import json
from collections.abc import Mapping, Set
from typing import Any, Final

REDACTED: Final = "[redacted by policy]"
_DEPTH: Final = 32
_PLAIN: Final = (type(None), bool, int, float)


def redacted(value: object, names: Set[str]) -> Any:
    """Return a result without the values of all members with one of these names, at any depth.

    Text that is JSON is looked into. What cannot be looked into (an object, other text, more than 32 levels) is
    replaced as a whole: nobody can tell what stands in it.

    Args:
        value: what the tool returned.
        names: of the members.
    """
    return _redacted(value, names, _DEPTH) if names else value


def _redacted(value: object, names: Set[str], depth: int) -> Any:
    if isinstance(value, Mapping) and depth:
        return {
            name: REDACTED if not isinstance(name, str) or name in names else _member(item, names, depth - 1)
            for name, item in value.items()
        }
    if isinstance(value, list | tuple) and depth and not hasattr(value, "_asdict"):
        parts = [_member(item, names, depth - 1) for item in value]
        return parts if isinstance(value, list) else tuple(parts)
    if type(value) in _PLAIN:
        return value
    return _text(value, names) if isinstance(value, str) else REDACTED


def _member(value: object, names: Set[str], depth: int) -> Any:
    """A member's own text has a name, which is not one of those; only text that is JSON could hold members itself."""
    if type(value) is str and value.lstrip()[:1] not in ("{", "["):
        return value
    return _redacted(value, names, depth)


def _text(value: str, names: Set[str]) -> str:
    try:
        tree = json.loads(value)
    except (ValueError, RecursionError):
        return REDACTED
    if isinstance(tree, dict | list):
        return json.dumps(_redacted(tree, names, _DEPTH), ensure_ascii=False)
    return REDACTED if isinstance(tree, str) else value
