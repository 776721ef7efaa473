"""Counts instead of times: how many functions a call runs. They are the same at each repetition, on every machine.

A Python function costs about as much everywhere, so their number is what a change of the code can be held to without
noise; so are the bytes that Python allocates. `python -m bench.counts` prints one JSON object;
`tests/test_perf_counts.py` holds the numbers from above.
"""

from __future__ import annotations

import gc
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import Any, Final, NamedTuple

from opentelemetry import trace

import agentguard
from bench import floor, workload
from bench.harness import Case
from bench.live_leases import allocated
from bench.scale import DEEP, a_guard, calling

WARM: Final = 60  # calls after which every cache is full
TIMES: Final = 20
EXCEPTIONS: Final = 6
LEASES: Final = (1000, 4000)
FEW_STEPS: Final = 100
MANY_STEPS: Final = 10_000


class Counted(NamedTuple):
    """Functions that ran, of Python and of C, and whether the repetitions agree.

    Housekeeping that falls due by the clock lands in a call now and then, on a busy machine more often: some
    repetitions may have more to do.
    """

    python: int
    c: int
    agree: bool


def counted(case: Case, times: int = TIMES) -> Counted:
    """Count what one run of a case calls, by `sys.setprofile`.

    Args:
        case: what is counted; it is warmed up before.
        times: how often it is counted, to see that the numbers agree.
    """
    for _ in range(WARM):
        case()
    gc.disable()  # a collection runs callbacks of its own
    try:
        found = [_once(case) for _ in range(times)]
    finally:
        gc.enable()
    (usual, often), *_ = Counter(found).most_common(1)
    return Counted(*usual, agree=often >= times - EXCEPTIONS)


def _once(case: Case) -> tuple[int, int]:
    python, c = 0, 0

    def profile(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal python, c
        python += event == "call"
        c += event == "c_call"

    sys.setprofile(profile)
    try:
        case()
    finally:
        sys.setprofile(None)
    return python, c - 1  # with the case's own function, and without the `setprofile` that ends it


def of_calls() -> Mapping[str, Counted]:
    """The calls that are measured, at depth 3 with 100 steps a level; the SDK's provider has to be set."""
    with tempfile.TemporaryDirectory() as folder, agentguard.local(audit=folder) as guard, workload.chain(guard):
        return {
            name: counted(case)
            for name, case in (("full", workload.full), ("reused", workload.reused), ("denied", workload.denied))
        }


def figures_of(calls: Mapping[str, Counted]) -> Mapping[str, int]:
    """The counts by the names of their figures."""
    return {f"{kind}_calls_{name}": getattr(found, kind) for kind in ("python", "c") for name, found in calls.items()}


def growing() -> Mapping[str, Counted]:
    """Full calls in a chain of one and of sixteen, and beside few and many steps for other tools."""
    wanted = {"depth_1": (1, 1), "depth_16": (DEEP, 1), "steps_100": (1, FEW_STEPS), "steps_10000": (1, MANY_STEPS)}
    with tempfile.TemporaryDirectory() as folder, a_guard(Path(folder)) as guard, ExitStack() as stack:
        return {
            name: counted(stack.enter_context(calling(guard, depth, steps))) for name, (depth, steps) in wanted.items()
        }


def memory() -> Mapping[str, float]:
    """Bytes that each further live lease takes beside its token, and what is left of it after its end."""
    few, many = LEASES
    small, large = allocated(few), allocated(many)
    added = large["alive"] * many - small["alive"] * few
    return {"bytes_per_live_lease": added / (many - few), "bytes_after_expiry": large["after"]}


def main() -> int:
    bytes_of = memory()  # first: other threads would allocate meanwhile
    trace.set_tracer_provider(floor.provider())
    calls, growth = of_calls(), growing()
    found = {**calls, **growth}
    print(json.dumps({
        "agree": all(one.agree for one in found.values()), "figures": figures_of(calls),
        "growth": {name: one.python for name, one in growth.items()}, "memory": bytes_of,
    }))  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
