"""The form and the digest of plain arguments, made in one loop: the quick way of `canonical` and `digest`.

INVARIANT: it says what they say, or None; it never takes what they refuse. A test compares them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final

import msgspec

from agentguard.model.canonical import FEW, SHORT, SHORT_INT, Canonical, number, number_text
from agentguard.model.digests import jcs, tagged

_encoded: Final = msgspec.json.Encoder(order="sorted").encode
_sha256: Final = hashlib.sha256


class PlainForm:
    """For one tool: its defaults, in their canonical form and as they are digested.

    Args:
        defaults: canonical, by argument.
        parameters: names of all visible parameters; None where it takes any name.
    """

    __slots__ = ("_any_name", "_defaults", "_tagged")

    def __init__(self, defaults: Mapping[str, Canonical], parameters: frozenset[str] | None) -> None:
        self._defaults = dict(defaults)
        self._tagged: dict[str, Any] = tagged(self._defaults)
        names = {"$", *self._defaults} if parameters is None else parameters.union(self._defaults)
        self._any_name = not all(map(_is_plain_name, names))

    def of(self, given: Mapping[str, Any], shortest: int) -> tuple[dict[str, Canonical], str] | None:
        """Return the arguments, with the defaults of those that were left out, and their digest.

        None for what has to be walked, copied for the tool or searched for secrets: anything but a few short texts,
        numbers, bools and null.

        Args:
            given: the arguments by name.
            shortest: no text below this length can hold a secret; 0 where nothing is watched.

        Raises:
            NotCanonical: NaN, an infinity, or a number beyond the bounds.
        """
        if len(given) > FEW or (self._any_name and not all(map(_is_plain_name, given))):
            return None
        longest = shortest - 1 if 0 < shortest <= SHORT else SHORT
        arguments, digested = self._defaults.copy(), self._tagged.copy()
        for name, item in given.items():
            kind = type(item)
            if type(name) is not str:
                return None
            if kind is str:
                if len(item) > longest:
                    return None
                arguments[name] = digested[name] = item
            elif kind is int and -SHORT_INT < item < SHORT_INT:
                arguments[name], digested[name] = Decimal(item), {"$n": str(item)}
            elif item is None or kind is bool:
                arguments[name] = digested[name] = item
            elif kind is int or kind is Decimal or kind is float:
                exact = arguments[name] = number(item, name)
                digested[name] = {"$n": number_text(exact)}
            else:
                return None
        try:
            text = _encoded(digested)
        except ValueError:  # a lone surrogate has a digest too
            text = b"\xff"
        return arguments, _sha256(text if text.isascii() else jcs(digested)).hexdigest()


def _is_plain_name(name: str) -> bool:
    return type(name) is str and len(name) <= SHORT and name[:1] != "$"
