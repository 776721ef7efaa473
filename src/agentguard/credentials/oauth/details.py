"""Whether granted authorization details are no broader than those that were asked for (RFC 9396 section 6.1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

# RFC 9396 section 2.2: lists whose entries each allow something, so that fewer entries allow less.
_LISTS: Final = frozenset({"actions", "locations", "datatypes", "privileges"})


def plain(details: Sequence[Mapping[str, Any]]) -> str:
    """Return details as the JSON text that is sent."""
    return msgspec.json.encode(details, enc_hook=_mapping).decode()


def covered(granted: object, asked: Sequence[Mapping[str, Any]], *, enrichment: bool = False) -> bool:
    """Tell whether each granted entry lies within one that was asked for.

    A member that was asked for may not be missing, since its absence allows more; a list of actions, locations,
    datatypes or privileges may be shorter, everything else is the same.

    Args:
        granted: what the server says.
        asked: what it was asked for.
        enrichment: members that were not asked for are let through (RFC 9396 section 7.1).
    """
    if not isinstance(granted, list) or bool(granted) is not bool(asked):
        return False
    wanted = msgspec.json.decode(plain(asked))
    return all(any(_within(entry, other, enrichment) for other in wanted) for entry in granted)


def _within(entry: object, asked: dict[str, Any], enrichment: bool) -> bool:
    if not isinstance(entry, dict) or not entry.keys() >= asked.keys():
        return False
    if not enrichment and entry.keys() != asked.keys():
        return False
    return all(_narrower(name, entry[name], value) for name, value in asked.items())


def _narrower(name: str, granted: object, asked: object) -> bool:
    if name in _LISTS and isinstance(granted, list) and isinstance(asked, list):
        return bool(granted) and all(any(_same(one, other) for other in asked) for one in granted)
    return _same(granted, asked)


def _same(one: object, other: object) -> bool:
    # As JSON text: to Python 1, 1.0 and True are equal.
    return msgspec.json.encode(one, order="sorted") == msgspec.json.encode(other, order="sorted")


def _mapping(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError("no JSON")
