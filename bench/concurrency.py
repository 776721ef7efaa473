"""What many calls at once cost: a thousand asyncio tasks, and two threads.

Tasks are measured by the processor time of a call, over calls one after the other in the same event loop; every call
waits once, so that a thousand are in flight. Threads are measured by calls a second on the clock: what two have over
one, over what two threads have of the floor F, whose signature leaves the interpreter lock too. `python -m
bench.concurrency [--json]`.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from opentelemetry import trace

import agentguard
from bench.floor import floor, provider
from bench.harness import Bar, Case, Ratio, figure, summary, valid, versions
from bench.report import printed
from bench.workload import chain, full, reused, wait_once

TASKS: Final = 1000
EACH: Final = 2  # calls of each task in a round
ONE_BY_ONE: Final = 200
THREADS: Final = 2
SLICE: Final = 0.04  # seconds of one measurement of threads: many times the interpreter's switch interval
BARS: Final[Mapping[str, Bar]] = {
    "asyncio_1000_cpu_over_1": Bar(1.5, 1.25),
    "two_threads_over_floor_ratio": Bar(0.85, 0.95, least=True),
}
Activate = Callable[[], AbstractContextManager[Any]]


# a thousand tasks ----------------------------------------------------------------------------------------------------


async def _calls(count: int) -> None:
    for _ in range(count):
        await wait_once("c-1", limit=10)


async def _seconds(tasks: int, each: int) -> float:
    """Processor time of a call, with so many tasks that make so many calls each."""
    gc.collect()
    began = time.thread_time_ns()
    await asyncio.gather(*(_calls(each) for _ in range(tasks)))
    return (time.thread_time_ns() - began) / tasks / each / 1e9


async def crowd(rounds: int) -> Mapping[str, Ratio]:
    """One task and a thousand, in turn; one is measured against itself too."""
    crowded, control = [], []
    await _seconds(TASKS, 1)
    for turn in range(rounds):
        first, second = await _seconds(1, ONE_BY_ONE), await _seconds(1, ONE_BY_ONE)
        many = await _seconds(TASKS, EACH)
        third = await _seconds(1, ONE_BY_ONE)
        control.append(first / second if turn % 2 else second / first)
        crowded.append(many / statistics.mean((second, third)))
    return {"asyncio_1000_cpu_over_1": summary(crowded), "control_asyncio": summary(control)}


# two threads ---------------------------------------------------------------------------------------------------------


def per_second(case: Case, threads: int, size: int, activate: Activate) -> float:
    """Calls a second by the clock, over all threads; each makes so many."""
    ready, failed = threading.Barrier(threads + 1), list[BaseException]()

    def work() -> None:
        try:
            with activate():
                ready.wait()
                for _ in range(size):
                    case()
        except BaseException as error:
            failed.append(error)
            ready.abort()

    running = [threading.Thread(target=work) for _ in range(threads)]
    for thread in running:
        thread.start()
    ready.wait()
    began = time.perf_counter()
    for thread in running:
        thread.join()
    if failed:
        raise failed[0]
    return threads * size / (time.perf_counter() - began)


def _size(case: Case, activate: Activate) -> int:
    per_second(case, 1, 20, activate)
    return max(10, int(per_second(case, 1, 50, activate) * SLICE))


def side_by_side(activate: Activate, bare: Case, rounds: int) -> Mapping[str, Ratio]:
    """What two threads gain, over what they gain of the floor; the floor is measured against itself too.

    By the fastest slices: a neighbour on this machine takes a processor from two threads and none from one, so a
    median would measure the neighbours.
    """
    cases: Mapping[str, tuple[Case, Activate]] = {
        "floor": (bare, nullcontext), "control": (bare, nullcontext),
        "full": (full, activate), "reused": (reused, activate),
    }  # fmt: skip
    sizes = {name: _size(*entry) for name, entry in cases.items()}
    rates: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in cases}
    for turn in range(rounds):
        for name in cases if turn % 2 else reversed(list(cases)):
            case, inside = cases[name]
            for threads, found in zip((1, THREADS), rates[name], strict=True):
                found.append(per_second(case, threads, sizes[name], inside))
        gc.collect()
    gains = {name: max(two) / max(one) for name, (one, two) in rates.items()}
    paired = {name: [b / a for a, b in zip(one, two, strict=True)] for name, (one, two) in rates.items()}

    def over(name: str) -> Ratio:
        spread = summary([one / other for one, other in zip(paired[name], paired["floor"], strict=True)])
        return replace(spread, median=gains[name] / gains["floor"], fastest=gains[name] / gains["floor"])

    return {
        "two_threads_over_floor_ratio": over("full"), "two_threads_reused_over_floor_ratio": over("reused"),
        "two_threads_floor_gain": replace(summary(paired["floor"]), median=gains["floor"], fastest=gains["floor"]),
        "control_threads": over("control"),
    }  # fmt: skip


def report(rounds: int, only: str) -> Mapping[str, Any]:
    """The figures, with the bars they are held against; it is void when a baseline differs from itself."""
    trace.set_tracer_provider(provider())
    bare = floor(provider().get_tracer("bench"))
    ratios: dict[str, Ratio] = {}
    with tempfile.TemporaryDirectory() as name, agentguard.local(audit=Path(name)) as guard, chain(guard) as task:
        if only != "threads":
            ratios |= asyncio.run(crowd(rounds // 4))
        if only != "tasks":
            ratios |= side_by_side(task.activate, bare, rounds)
    figures = {name: figure(ratio, BARS.get(name)) for name, ratio in ratios.items()}
    ok = all(valid(ratio) for name, ratio in ratios.items() if name.startswith("control"))
    return {"valid": ok, "figures": figures, "versions": versions()}


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.concurrency", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--only", choices=("tasks", "threads"), default="")
    options = parser.parse_args()
    return printed(report(options.rounds, options.only), json_wanted=options.json)


if __name__ == "__main__":
    sys.exit(main())
