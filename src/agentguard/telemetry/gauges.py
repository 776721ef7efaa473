"""Gauges that are read when metrics are collected, and cost a call nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import lru_cache, partial
from typing import Final
from weakref import WeakSet

from opentelemetry.metrics import CallbackOptions, Meter, Observation

from agentguard.telemetry import pending
from agentguard.telemetry import semconv as name


class Lag:
    """The records of one guard's audit log that are written and not on the disk yet.

    Args:
        behind: how many they are now; it may raise, then they are not counted.
    """

    def __init__(self, behind: Callable[[], int]) -> None:
        self._behind = behind
        _all.add(self)

    def count(self) -> int:
        """How many they are now."""
        with suppress(Exception):
            return int(self._behind())
        return 0


_all: Final[WeakSet[Lag]] = WeakSet()


def behind() -> int:
    """Records that are not on the disk yet, of all guards of this process."""
    return sum(lag.count() for lag in list(_all))


_READ: Final[Mapping[str, Callable[[], int]]] = {
    name.METRIC_AGENTGUARD_APPROVALS_PENDING: pending.waiting,
    name.METRIC_AGENTGUARD_AUDIT_LAG: behind,
}


@lru_cache(maxsize=8)
def observe(meter: Meter) -> None:
    """Let a meter read them, once: one is for all guards of the process, which would count over each other."""
    for metric, read in _READ.items():
        known = name.INSTRUMENTS[metric]
        meter.create_observable_gauge(metric, [partial(_observed, read)], known.unit, known.brief)


def _observed(read: Callable[[], int], options: CallbackOptions) -> Iterable[Observation]:
    del options
    return [Observation(read())]
