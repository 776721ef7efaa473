"""Plain arguments bound, formed and digested in one loop: a quick way of `bind`, `canonical` and `digest`.

INVARIANT: it says what they say, or None; it never takes what they refuse. A test compares them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final

import msgspec

from agentguard.errors import NotCanonical
from agentguard.model.canonical import FEW, SHORT, SHORT_INT, Canonical, number, number_text
from agentguard.model.digests import jcs, tagged

_encoded: Final = msgspec.json.Encoder(order="sorted").encode
_sha256: Final = hashlib.sha256


class PlainForm:
    """For one tool: its defaults, in their canonical form and as they are digested.

    Args:
        defaults: canonical, by argument.
        names: all visible parameters; None where it takes any name.
        positional: those that may be passed by position, in order; None for a signature that only the binder knows:
            then arguments come bound, by name.
    """

    __slots__ = ("_any_name", "_defaults", "_names", "_positional", "_tagged", "binds")

    def __init__(
        self, defaults: Mapping[str, Canonical], names: frozenset[str] | None, positional: tuple[str, ...] | None
    ) -> None:
        self._defaults = dict(defaults)
        self._tagged: dict[str, Any] = tagged(self._defaults)
        self._any_name = names is None or not all(_is_plain_name(name, SHORT) for name in names.union(self._defaults))
        self.binds = positional is not None and not self._any_name
        self._names, self._positional = names, positional or ()

    def of(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], shortest: int
    ) -> tuple[dict[str, Any], dict[str, Canonical], str] | None:
        """Return what was given by name, the arguments with the defaults of those that were left out, their digest.

        None, and never an exception, for what does not bind, and for what has to be walked, copied for the tool or
        searched for secrets: anything but a few short texts, numbers, bools and null.

        Args:
            args: the arguments by position.
            kwargs: and those by name.
            shortest: no text or name below this length can hold a secret; 0 where nothing is watched.
        """
        given = kwargs.copy()
        if args:
            given = dict(zip(self._positional, args, strict=False))
            given.update(kwargs)
            if len(given) != len(args) + len(kwargs):  # too many, or one of them twice
                return None
        longest = shortest - 1 if 0 < shortest <= SHORT else SHORT
        # A name that the caller chose can hold a secret as a text can.
        if len(given) > FEW or (self._any_name and not all(_is_plain_name(name, longest) for name in given)):
            return None
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
            elif kind is Decimal or kind is float:
                try:
                    exact = arguments[name] = number(item)
                except NotCanonical:
                    return None
                digested[name] = {"$n": number_text(exact)}
            else:
                return None
        # What is left out has a default, and nothing else is there.
        if self.binds and arguments.keys() != self._names:
            return None
        try:
            text = _encoded(digested)
        except ValueError:  # a lone surrogate has a digest too
            text = b"\xff"
        return given, arguments, _sha256(text if text.isascii() else jcs(digested)).hexdigest()


def _is_plain_name(name: str, longest: int) -> bool:
    return type(name) is str and len(name) <= longest and name[:1] != "$"
