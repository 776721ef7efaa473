"""What Cedar can hold of the values a decision point is shown; the rest is refused, never rounded.

Cedar has 64-bit whole numbers, decimals with four places, text, booleans, sets and records; no floats and no null.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final

from agentguard.policy.values import MAX_DEPTH, PRICE, Budget, NotCarried, text, whole_or_exact

_PLACES: Final = Decimal("0.0001")
_LARGEST: Final = Decimal((1 << 63) - 1) * _PLACES  # a decimal is a 64-bit number of its smallest places
# In Cedar's JSON these turn a record into an entity, an extension value or an expression.
_ESCAPES: Final = frozenset({"__entity", "__extn", "__expr"})


def record(values: Mapping[str, Any], path: str) -> dict[str, Any]:
    """Return a record in Cedar's JSON form.

    A Decimal or a float becomes a `decimal`, whatever its value, so that its type never depends on it; an int becomes a
    `Long`. A member that is null is left out: Cedar asks with `has`.

    Args:
        values: as a decision point may be shown them (`values.plain`).
        path: where they stand, for the error.

    Raises:
        NotCarried: a value that nobody is shown, a number with more than four places or out of range, null in a list,
            or a name that Cedar reads as an escape.
    """
    try:
        return _record(values, 0, Budget())
    except NotCarried as error:
        raise error.below(path) from None


def _record(values: Mapping[Any, Any], depth: int, budget: Budget) -> dict[str, Any]:
    if depth >= MAX_DEPTH:
        raise NotCarried("", f"is nested deeper than {MAX_DEPTH} levels")
    found: dict[str, Any] = {}
    spent = PRICE
    for name, value in values.items():
        if type(name) is str and name.isascii() and name not in _ESCAPES:  # most members; the rest takes its time
            if type(value) is str and value.isascii():
                found[name] = value
                spent += len(name) + len(value)
                continue
            if type(value) is list and (joined := _ascii(value)) is not None and depth + 1 < MAX_DEPTH:
                found[name] = list(value)
                spent += len(name) + joined + PRICE
                continue
        try:
            if name in _ESCAPES:
                raise NotCarried("", "is a name that Cedar reads as an escape")
            key = text(name, budget)
            if value is not None:
                found[key] = _value(value, depth + 1, budget)
        except NotCarried as error:
            raise error.below(str(name)) from None
    budget.spend(spent)
    return found


def _ascii(items: list[Any]) -> int | None:
    """How long texts of a list are together; None where one is none, or has other characters than ASCII."""
    if all(type(item) is str for item in items):
        joined = "".join(items)
        return len(joined) if joined.isascii() else None
    return None


def _value(value: Any, depth: int, budget: Budget) -> Any:
    if isinstance(value, str):
        return text(str.__str__(value), budget)
    if isinstance(value, Mapping):
        return _record(value, depth, budget)
    budget.spend(PRICE)
    if isinstance(value, list | tuple):
        if depth >= MAX_DEPTH:
            raise NotCarried("", f"is nested deeper than {MAX_DEPTH} levels")
        return [_item(item, index, depth, budget) for index, item in enumerate(value)]
    if value is None:
        raise NotCarried("", "is null, which Cedar does not have")
    if type(value) is bool:
        return value
    if isinstance(value, Decimal | float) or type(value) is int:
        exact = whole_or_exact(value)
        return {"__extn": {"fn": "decimal", "arg": _decimal(exact)}} if isinstance(exact, Decimal) else exact
    raise NotCarried("", f"is of type {type(value).__name__}; give text, numbers, booleans, lists or mappings")


def _item(value: Any, index: int, depth: int, budget: Budget) -> Any:
    try:
        return text(value, budget) if type(value) is str else _value(value, depth + 1, budget)
    except NotCarried as error:
        raise error.below(f"[{index}]") from None


def _decimal(value: Decimal) -> str:
    # Compared first: a number of hundreds of digits cannot be brought to four places within Decimal's precision.
    if abs(value) > _LARGEST:
        raise NotCarried("", "is a number that Cedar's decimal does not hold")
    exact = value.quantize(_PLACES)
    if exact != value:
        raise NotCarried("", "has more than the four decimal places of Cedar's decimal")
    return format(exact, "f")
