"""Honest measuring on a small, shared machine: ratios to a baseline, interleaved in one process, by thread CPU time.

Absolute times vary two- or threefold here from minute to minute; a ratio of neighbours measured in turn does not. Each
round runs a short batch of every case in alternating order; the figure is the median of the paired ratios, with its
10th and 90th percentile. The baseline is measured against itself too: when that is not 1, the run is void.
"""

from __future__ import annotations

import gc
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Final

Case = Callable[[], object]
PACKAGES = ("agentguard", "cryptography", "opentelemetry-sdk", "msgspec")


@dataclass(frozen=True, slots=True)
class Ratio:
    """A case over the baseline: median and spread of the paired ratios, and the ratio of the fastest batches."""

    median: float
    p10: float
    p90: float
    fastest: float
    microseconds: float


def compare(
    baseline: Case, cases: Mapping[str, Case], *, rounds: int = 60, batch_seconds: float = 0.005
) -> Mapping[str, Ratio]:
    """Measure cases against a baseline.

    Args:
        baseline: the floor.
        cases: what is measured, by name; `control` (the baseline again) is added.
        rounds: how many rounds; each runs every case once.
        batch_seconds: how long one batch takes, shorter than a scheduler's slice.
    """
    everything = {"baseline": baseline, "control": baseline, **cases}
    sizes = {name: _batch_size(case, batch_seconds) for name, case in everything.items()}
    times: dict[str, list[float]] = {name: [] for name in everything}
    names = list(everything)
    gc.collect()
    gc.disable()
    try:
        for turn in range(rounds):
            for name in names if turn % 2 else reversed(names):
                times[name].append(_batch(everything[name], sizes[name]))
            gc.collect()
    finally:
        gc.enable()
    return {name: _ratio(times[name], times["baseline"]) for name in everything if name != "baseline"}


_WARM: Final = 5


def _batch_size(case: Case, seconds: float) -> int:
    for _ in range(20):
        case()
    return max(1, int(seconds / max(_batch(case, 20), 1e-7)))


def _batch(case: Case, size: int) -> float:
    for _ in range(min(size, _WARM)):  # whoever came first after a collection would pay for cold caches
        case()
    began = time.thread_time_ns()
    for _ in range(size):
        case()
    return (time.thread_time_ns() - began) / size / 1e9


def _ratio(times: list[float], floor: list[float]) -> Ratio:
    paired = sorted(one / other for one, other in zip(times, floor, strict=True))
    tenth = len(paired) // 10
    return Ratio(
        median=statistics.median(paired),
        p10=paired[tenth],
        p90=paired[-1 - tenth],
        fastest=min(times) / min(floor),
        microseconds=min(times) * 1e6,
    )


def valid(control: Ratio) -> bool:
    """Tell whether the baseline measured against itself is one."""
    return 0.95 <= control.median <= 1.05


def versions() -> Mapping[str, Any]:
    """What was measured, and where."""
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        **{package: version(package) for package in PACKAGES},
    }


def figure(ratio: Ratio, bar: float | None) -> Mapping[str, Any]:
    """One figure of a report: its value, the bar it is held against, and whether it is met."""
    value = round(ratio.median, 3)
    return {
        "value": value,
        "bar": bar,
        "ok": bar is None or value <= bar,
        "p10": round(ratio.p10, 3),
        "p90": round(ratio.p90, 3),
        "fastest": round(ratio.fastest, 3),
        "microseconds": round(ratio.microseconds, 1),
    }
