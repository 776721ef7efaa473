"""Durations as people write them: 30s, 10m, 1h, 2d."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Final

from agentguard.errors import ConfigurationError

_TEXT: Final = re.compile(r"([0-9]{1,9})([smhd])")
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def seconds(value: object, what: str = "ttl") -> float:
    """Return a duration in seconds.

    Args:
        value: seconds, a timedelta, or text such as `30s`, `10m`, `1h`, `2d`.
        what: what it is the duration of, for the error text.

    Raises:
        ConfigurationError: it is none of these, or not above zero.
    """
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, str):
        match = _TEXT.fullmatch(value)
        value = int(match[1]) * _UNITS[match[2]] if match else -1
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 10**9:
        raise ConfigurationError(f'{what} is no duration above zero; write seconds, or text such as "30s", "10m", "1h"')
    return float(value)
