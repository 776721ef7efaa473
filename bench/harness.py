"""Honest measuring on a small, shared machine: ratios to a baseline, interleaved in one process, by processor time.

Absolute times vary two- or threefold here from minute to minute; a ratio of neighbours measured in turn does not. Each
round runs a short batch of every case in alternating order; the figure is the median of the paired ratios, with its
10th and 90th percentile and the 95 % interval of the median. Two controls tell whether a run counts: the baseline
measured against itself has to be one, and the baseline with a tenth of spinning added has to be found slower.
"""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

from bench.machine import versions as versions

Case = Callable[[], object]
Clock = Callable[[], int]
SPUN: Final = 0.1  # share of the baseline that the positive control adds to it
DETECTED: Final = 0.04
NOISY: Final = 0.15  # by which the median and the fastest may disagree
_WARM: Final = 5
_RESAMPLES: Final = 1000


@dataclass(frozen=True, slots=True)
class Ratio:
    """A case over the baseline.

    Args:
        median, p10, p90: of the paired ratios.
        fastest: the ratio of the fastest batches.
        microseconds: of the fastest batch; for information only.
        low, high: the 95 % interval of the median, by bootstrap.
        wall: the ratio of the fastest batches by the clock on the wall.
        detected: of a control: whether work that was added on purpose was seen.
    """

    median: float
    p10: float
    p90: float
    fastest: float
    microseconds: float
    low: float = 0.0
    high: float = 0.0
    wall: float = 0.0
    detected: bool = True

    @property
    def noisy(self) -> bool:
        """Whether two estimators of the same ratio disagree."""
        return abs(self.fastest / self.median - 1) > NOISY


class Bar(NamedTuple):
    """What a figure is held against: a bound, and a goal beyond it; `least` where more is better."""

    bound: float
    goal: float | None = None
    least: bool = False

    def met(self, value: float) -> bool:
        """Tell whether a value keeps within the bound."""
        return value >= self.bound if self.least else value <= self.bound


def compare(
    baseline: Case, cases: Mapping[str, Case], *, rounds: int = 60, batch_seconds: float = 0.005,
    clock: Clock = time.thread_time_ns,
) -> Mapping[str, Ratio]:  # fmt: skip
    """Measure cases against a baseline.

    Args:
        baseline: the floor.
        cases: what is measured, by name; `control` (the baseline again) is added.
        rounds: how many rounds; each runs every case once.
        batch_seconds: how long one batch takes, shorter than a scheduler's slice.
        clock: nanoseconds of processor time; of the whole process where a case has its work done by threads.
    """
    spun = spinning(baseline, clock)
    everything = {"baseline": baseline, "control": baseline, **cases, "spun": spun}
    sizes = {name: batch_size(case, batch_seconds, clock) for name, case in everything.items()}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in everything}
    names = list(everything)
    gc.collect()
    gc.disable()
    try:
        for turn in range(rounds):
            for name in names if turn % 2 else reversed(names):
                times[name].append(batch(everything[name], sizes[name], clock))
            gc.collect()
    finally:
        gc.enable()
    ratios = {name: _ratio(times[name], times["baseline"]) for name in everything if name != "baseline"}
    return controlled(ratios)


def controlled(ratios: dict[str, Ratio]) -> Mapping[str, Ratio]:
    """Take the positive control out of the ratios, and say in the negative one what it found."""
    spun, control = ratios.pop("spun"), ratios["control"]
    return {**ratios, "control": replace(control, detected=spun.median - control.median >= DETECTED)}


def spinning(baseline: Case, clock: Clock = time.thread_time_ns) -> Case:
    """The baseline and a tenth of it again, in a loop that does nothing; calibrated by the fastest of several tries."""
    turns, size = 1000, batch_size(baseline, 0.002, clock)
    once = min(batch(baseline, size, clock)[0] for _ in range(10))
    loop = min(batch(lambda: _spin(turns), 10, clock)[0] for _ in range(10)) / turns
    wanted = max(1, round(SPUN * once / loop))

    def run() -> None:
        baseline()
        _spin(wanted)

    return run


def _spin(turns: int) -> None:
    for _ in range(turns):
        pass


def batch_size(case: Case, seconds: float, clock: Clock) -> int:
    for _ in range(20):
        case()
    return max(1, int(seconds / max(batch(case, 20, clock)[0], 1e-7)))


def batch(case: Case, size: int, clock: Clock) -> tuple[float, float]:
    for _ in range(min(size, _WARM)):  # whoever came first after a collection would pay for cold caches
        case()
    began, at = clock(), time.perf_counter_ns()
    for _ in range(size):
        case()
    return (clock() - began) / size / 1e9, (time.perf_counter_ns() - at) / size / 1e9


def _ratio(times: list[tuple[float, float]], floor: list[tuple[float, float]]) -> Ratio:
    cpu, under = [one for one, _ in times], [one for one, _ in floor]
    found = summary([one / other for one, other in zip(cpu, under, strict=True)])
    wall = min(one for _, one in times) / min(one for _, one in floor)
    return replace(found, fastest=min(cpu) / min(under), microseconds=min(cpu) * 1e6, wall=wall)


def summary(*groups: Sequence[float]) -> Ratio:
    """The median of paired ratios, and how they spread; `fastest` is the median, as single times are not known.

    Args:
        groups: the ratios, of each pair of processes by themselves.
    """
    ordered = sorted(one for paired in groups for one in paired)
    tenth, median = len(ordered) // 10, statistics.median(ordered)
    low, high = interval(*groups)
    return Ratio(
        median=median, p10=ordered[tenth], p90=ordered[-1 - tenth], fastest=median, microseconds=0.0,
        low=low, high=high,
    )  # fmt: skip


def interval(*groups: Sequence[float], seed: int = 1) -> tuple[float, float]:
    """The 95 % interval of the median, by bootstrap: what it would be in other samples like this one.

    Groups are drawn first and ratios in each of them then: ratios of one pair of processes share where its code and
    data lie, so many of them are not as good as a few of each of many pairs.
    """
    draw = random.Random(seed)

    def again() -> float:
        drawn = draw.choices(groups, k=len(groups))
        return statistics.median(one for paired in drawn for one in draw.choices(paired, k=len(paired)))

    medians = sorted(again() for _ in range(_RESAMPLES))
    return medians[_RESAMPLES // 40], medians[-1 - _RESAMPLES // 40]


def valid(control: Ratio) -> bool:
    """Tell whether the baseline measured against itself is one, and a tenth more of it was seen."""
    return 0.95 <= control.median <= 1.05 and control.detected


def figure(ratio: Ratio, bar: Bar | float | None) -> Mapping[str, Any]:
    """One figure of a report: its value, the bar it is held against, and whether it is met."""
    return {
        **number(ratio.median, bar, 3),
        "p10": round(ratio.p10, 3),
        "p90": round(ratio.p90, 3),
        "ci95": [round(ratio.low, 3), round(ratio.high, 3)],
        "fastest": round(ratio.fastest, 3),
        "microseconds": round(ratio.microseconds, 1),
        "noisy": ratio.noisy,
        **({} if ratio.detected else {"detected": False}),
    }


def number(value: float, bar: Bar | float | None = None, digits: int = 1) -> dict[str, Any]:
    """One figure that is no ratio: a count, a size, a rate."""
    held, shown = Bar(bar) if isinstance(bar, int | float) else bar, round(value, digits)
    more = {"goal": held.goal} if held is not None and held.goal is not None else {}
    least = {"at_least": True} if held is not None and held.least else {}
    return {
        "value": shown, "bar": held.bound if held else None, **more, **least, "ok": held is None or held.met(shown),
    }  # fmt: skip
