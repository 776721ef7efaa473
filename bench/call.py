"""What one guarded call costs, over the floor F that nobody can go below.

F is one raw Ed25519 signature of 500 bytes and one SDK span with 15 attributes, in the same process and run; the calls
are at depth 3 with 100 steps a level, and their audit log is in files. Run as `python -m bench.call [--json]`.
"""

from __future__ import annotations

import argparse
import contextvars
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from opentelemetry import trace

import agentguard
from agentguard import Guard
from bench import counts
from bench.floor import floor, provider, signature, span, synced
from bench.harness import Bar, Case, Ratio, compare, figure, number, valid, versions
from bench.naive import NaiveLog, naive
from bench.report import printed
from bench.workload import STEPS, chain, deciding, denied, durable, full, reused

# The names that these had before they moved; other benches of this folder call them.
from bench.workload import intent as intent
from bench.workload import read_again as read_again
from bench.workload import read_once as read_once

BARS: Final[Mapping[str, Bar]] = {
    "full_call_over_floor": Bar(1.75, 1.5),
    "reused_lease_over_floor": Bar(0.75),
    "decision_over_floor": Bar(0.12),
    "denied_call_over_floor": Bar(0.25),
    "denied_call_with_span_over_floor": Bar(0.75),
    "python_calls_full": Bar(160, 130),
}


def naive_call(folder: Path) -> tuple[Case, NaiveLog]:
    """The same work the obvious way, below no span of a task."""

    def read(customer: str, limit: int = 5, region: str = "eu") -> str:
        return customer

    log = NaiveLog(folder / "naive.jsonl")
    guarded = naive(read, "crm.read", log, STEPS, ["agent-1", "agent-2", "agent-3"])
    return lambda: contextvars.Context().run(guarded, "c-1", limit=10), log


def without_sdk(guard: Guard, task: Any, bare: Case, rounds: int) -> Mapping[str, Ratio]:
    """What is measured before the application has an SDK: no span is recorded."""
    cases = {"decision_over_floor": deciding(guard, task), "denied_call_over_floor": denied}
    return compare(bare, cases, rounds=rounds)


def with_sdk(tracer: trace.Tracer, bare: Case, obvious: Case, rounds: int) -> Mapping[str, Ratio]:
    """Calls with a span, and the pieces of the floor."""
    return compare(
        bare,
        {
            "full_call_over_floor": full,
            "reused_lease_over_floor": reused,
            "denied_call_with_span_over_floor": denied,
            "naive_call_over_floor": obvious,
            "signature_over_floor": signature(),
            "span_over_floor": span(tracer),
        },
        rounds=rounds,
    )


def on_disk(bare: Case, folder: Path, rounds: int) -> Mapping[str, Ratio]:
    """A call that waits for the disk, over F and over F with one synced line."""
    with synced(bare, folder) as bare_synced:
        found = compare(bare, {"durable_call_over_floor": durable, "synced": bare_synced}, rounds=rounds)
        over = compare(bare_synced, {"durable_call_over_synced_floor": durable}, rounds=rounds)
    # No bar rests on these two controls, and a disk differs from itself too much to make a run void.
    return {
        "durable_call_over_floor": found["durable_call_over_floor"],
        "durable_call_over_synced_floor": over["durable_call_over_synced_floor"],
        "disk_control": found["control"],
        "disk_synced_control": over["control"],
    }


def measure(guard: Guard, folder: Path, rounds: int) -> tuple[Mapping[str, Ratio], Mapping[str, counts.Counted]]:
    """Measure at depth 3: a task and two delegations below it."""
    tracer = provider().get_tracer("bench")
    bare, (obvious, log) = floor(tracer), naive_call(folder)
    try:
        with chain(guard) as task:
            without = without_sdk(guard, task, bare, rounds)
            trace.set_tracer_provider(provider())
            traced = with_sdk(tracer, bare, obvious, rounds)
            ours = compare(obvious, {"ours_over_naive": full}, rounds=rounds)
            stored = on_disk(bare, folder, rounds)
        numbers = counts.of_calls()
    finally:
        log.close()
    controls = {"control_without_sdk": without["control"], "control_naive": ours["control"]}
    return {**without, **traced, **stored, "ours_over_naive": ours["ours_over_naive"], **controls}, numbers


def report(rounds: int) -> Mapping[str, Any]:
    """All figures, with the bars they are held against; it is void when a baseline differs from itself."""
    with tempfile.TemporaryDirectory() as name, agentguard.local(audit=Path(name) / "audit") as guard:
        ratios, calls = measure(guard, Path(name), rounds)
    figures = {name: figure(ratio, BARS.get(name)) for name, ratio in ratios.items()}
    # CPU time hides the wait for the disk: the fastest batches by the clock on the wall show it.
    wall = number(ratios["durable_call_over_synced_floor"].wall, None, 3)
    numbers = {name: number(value, BARS.get(name), 0) for name, value in counts.figures_of(calls).items()}
    agree = all(one.agree for one in calls.values())
    ok = agree and all(valid(ratio) for name, ratio in ratios.items() if name.startswith("control"))
    figures = {**figures, "durable_call_over_synced_floor_wall": wall, **numbers}
    return {"valid": ok, "unit": "F", "figures": figures, "versions": versions()}


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.call", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--rounds", type=int, default=60)
    options = parser.parse_args()
    return printed(report(options.rounds), json_wanted=options.json)


if __name__ == "__main__":
    sys.exit(main())
