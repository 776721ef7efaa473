"""What Cedar can hold of the values a decision point is shown; the rest is refused, never rounded.

Cedar has 64-bit whole numbers, decimals with four places, text, booleans, sets and records; no floats and no null.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final

from agentguard.policy.values import NotCarried

_LONG: Final = 1 << 63
_PLACES: Final = Decimal("0.0001")
_LARGEST: Final = Decimal(_LONG - 1) * _PLACES
# In Cedar's JSON these turn a record into an entity, an extension value or an expression.
_ESCAPES: Final = frozenset({"__entity", "__extn", "__expr"})


def record(values: Mapping[str, Any], path: str) -> dict[str, Any]:
    """Return a record in Cedar's JSON form, of plain values.

    A Decimal becomes a `decimal`, whatever its value, so that its type never depends on it; an int becomes a `Long`.
    A member that is null is left out: Cedar asks with `has`.

    Args:
        values: plain, as `values.plain` returns them.
        path: where they stand, for the error.

    Raises:
        NotCarried: a number with more than four places or out of range, null in a list, or a name that Cedar reads as
            an escape.
    """
    found = {}
    for name, value in values.items():
        if name in _ESCAPES:
            raise NotCarried(f"{path}.{name}", "is a name that Cedar reads as an escape")
        if value is not None:
            found[name] = value if type(value) is str else _value(value, f"{path}.{name}")
    return found


def _value(value: Any, path: str) -> Any:
    if type(value) is str:
        return value
    if isinstance(value, Decimal):
        return {"__extn": {"fn": "decimal", "arg": _decimal(value, path)}}
    if isinstance(value, dict):
        return record(value, path)
    if isinstance(value, list):
        return [_value(item, f"{path}[{index}]") for index, item in enumerate(value)]
    if value is None:
        raise NotCarried(path, "is null, which Cedar does not have")
    if type(value) is int and not -_LONG <= value < _LONG:
        raise NotCarried(path, "is a whole number that Cedar's Long does not hold")
    return value


def _decimal(value: Decimal, path: str) -> str:
    # Compared first: a number of hundreds of digits cannot be brought to four places within Decimal's precision.
    if abs(value) > _LARGEST:
        raise NotCarried(path, "is a number that Cedar's decimal does not hold")
    exact = value.quantize(_PLACES)
    if exact != value:
        raise NotCarried(path, "has more than the four decimal places of Cedar's decimal")
    return format(exact, "f")
