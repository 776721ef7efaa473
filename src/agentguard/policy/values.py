"""The values a decision point is shown: plain, bounded, and numbers without loss.

A value is text, a bool, an int, a Decimal, null, a list or a mapping with text keys. Each decision point turns it into
what its own language can hold, or refuses; nothing is rounded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from agentguard.model.canonical import is_nfc, jcs, number, number_text
from agentguard.model.decision import AccessRequest

MAX_DEPTH: Final = 16
MAX_SIZE: Final = 64 << 10  # characters, and 8 for everything that is no text
_EXACT: Final = 1 << 53  # I-JSON (RFC 7493 section 2.2): whole numbers that every parser reads alike
PRICE: Final = 8


class NotCarried(Exception):
    """A value cannot be shown to a decision point; the text names where it stands, never the value.

    Args:
        path: where it stands, for example `context.arguments.amount`.
        why: what is wrong with it.
    """

    def __init__(self, path: str, why: str) -> None:
        self.path, self.why = path, why
        super().__init__(f"{path or 'the value'} {why}")

    def below(self, name: str) -> NotCarried:
        """Return the same, said of what holds it."""
        joined = f"{name}{self.path}" if self.path.startswith("[") or not name else f"{name}.{self.path}"
        return NotCarried(joined if self.path else name, self.why)


@dataclass(slots=True)
class Budget:
    """What may still be shown of one request."""

    left: int = MAX_SIZE

    def spend(self, amount: int) -> None:
        """Take a part of it.

        Raises:
            NotCarried: it is used up.
        """
        self.left -= amount
        if self.left < 0:
            raise NotCarried("", f"is past the {MAX_SIZE >> 10} KiB that a decision point is shown")


def plain(value: object, path: str = "") -> Any:
    """Return a copy made of plain values; a float becomes the Decimal of its shortest form.

    Raises:
        NotCarried: another type, NaN, an infinity, text that is not in NFC, deeper than 16 levels, above 64 KiB.
    """
    try:
        return _plain(value, 0, Budget())
    except NotCarried as error:
        raise error.below(path) from None


def _plain(value: object, depth: int, budget: Budget) -> Any:
    """The path of what cannot be carried is put together on the way out: making it each time would cost most."""
    kind = type(value)
    if kind is str:
        return text(value, budget)
    budget.spend(PRICE)
    if value is None or kind is bool:
        return value
    if isinstance(value, float | Decimal) or kind is int:
        return whole_or_exact(value)
    if depth >= MAX_DEPTH:
        raise NotCarried("", f"is nested deeper than {MAX_DEPTH} levels")
    if isinstance(value, Mapping):
        found = {}
        for name, item in value.items():
            try:
                found[text(name, budget)] = _plain(item, depth + 1, budget)
            except NotCarried as error:
                raise error.below(str(name)) from None
        return found
    if isinstance(value, list | tuple):
        return [_item(item, index, depth, budget) for index, item in enumerate(value)]
    if isinstance(value, str):  # a subclass, such as a member of a StrEnum
        return text(str.__str__(value), budget)
    raise NotCarried("", f"is of type {kind.__name__}; give text, numbers, booleans, lists or mappings")


def _item(value: object, index: int, depth: int, budget: Budget) -> Any:
    try:
        return _plain(value, depth + 1, budget)
    except NotCarried as error:
        raise error.below(f"[{index}]") from None


def text(value: object, budget: Budget) -> str:
    """Return text in NFC.

    Raises:
        NotCarried: it is none, or too long.
    """
    if type(value) is not str or not (value.isascii() or is_nfc(value)):
        raise NotCarried("", "is or has a key that is no text in NFC")
    budget.spend(len(value))
    return value


def whole_or_exact(value: Any) -> int | Decimal:
    """Return a whole number that every parser reads alike, or an exact decimal.

    Raises:
        NotCarried: it is beyond 2^53, NaN, an infinity, or too large.
    """
    if type(value) is int:
        if abs(value) > _EXACT:
            raise NotCarried("", "is a whole number beyond 2^53 (RFC 7493 section 2.2)")
        return value
    try:
        return number(value)
    except Exception:
        problem = "is NaN, an infinity or a number too large"
    raise NotCarried("", problem)


def tree_of(request: AccessRequest) -> dict[str, Any]:
    """The request as one tree, in AuthZEN's members (Authorization API 1.0 section 5)."""
    return {
        "subject": request.subject, "action": request.action,
        "resource": request.resource, "context": request.context,
    }  # fmt: skip


def json_form(request: AccessRequest) -> dict[str, Any]:
    """The request as JSON carries it: every number one that every parser reads back as it is.

    Raises:
        NotCarried: a number that has no exact form there.
    """
    tree = plain(tree_of(request))
    return {name: _json(part, name) for name, part in tree.items()}


def _json(value: Any, path: str) -> Any:
    if type(value) is str:
        return value
    if isinstance(value, Decimal):
        return _json_number(value, path)
    if isinstance(value, list):
        return [_json(item, f"{path}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, dict):
        return {name: _json(item, f"{path}.{name}") for name, item in value.items()}
    return value


def _json_number(value: Decimal, path: str) -> int | float:
    if value == value.to_integral_value():
        if abs(value) <= _EXACT:
            return int(value)
    elif Decimal(repr(float(value))) == value:
        return float(value)
    raise NotCarried(path, "is a number that JSON does not carry exactly (RFC 7493 section 2.2)")


def digest_of(request: AccessRequest) -> str:
    """SHA-256 (base16) over all that stands in a request; two requests with one digest are the same question.

    Raises:
        NotCarried: it holds what no decision point is shown.
    """
    return hashlib.sha256(jcs(_tagged(plain(tree_of(request))))).hexdigest()


def _tagged(value: Any) -> Any:
    """A number is no text that looks like it, and 1 is no 1.0: a decision point may tell them apart."""
    if isinstance(value, Decimal):
        return {"$n": number_text(value)}
    if isinstance(value, list):
        return [_tagged(item) for item in value]
    if isinstance(value, dict):
        return {f"${name}" if name.startswith("$") else name: _tagged(item) for name, item in value.items()}
    return value
