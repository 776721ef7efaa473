"""Durations as people write them: 500ms, 30s, 10m, 1h, 2d."""

from __future__ import annotations

import re
from datetime import timedelta
from decimal import Decimal
from typing import Final

from agentguard.errors import ConfigurationError

UNITS: Final = {
    "ms": Decimal("0.001"), "s": Decimal(1), "m": Decimal(60), "h": Decimal(3600), "d": Decimal(86400),
}  # fmt: skip
_TEXT: Final = r"([0-9]{1,12}(?:\.[0-9]{1,12})?)(ms|s|m|h|d)"  # compiled by the first duration that is text
_LONGEST: Final = 10**9


def seconds(value: object, what: str = "") -> float:
    """Return a duration in seconds.

    Args:
        value: seconds, a timedelta, or text such as `500ms`, `30s`, `10m`, `1h`, `2d`.
        what: what stands before the error text, such as `ttl: `.

    Raises:
        ConfigurationError: it is none of these, or not above zero.
    """
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, str):
        match = re.fullmatch(_TEXT, value)
        value = Decimal(match[1]) * UNITS[match[2]] if match else 0
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal) or not 0 < value <= _LONGEST:
        raise ConfigurationError(f'{what}no duration; write "10m", "90s", "1h" or a number of seconds above 0')
    return float(value)
