"""What one guarded call costs, over the floor F that nobody can go below.

F is one raw Ed25519 signature of 500 bytes and one SDK span with 15 attributes, in the same process and run.
Run as `python -m bench.call [--json]`.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

import agentguard
from agentguard import Denied, Guard, Intent, any_, between, guarded, step
from bench.harness import Case, Ratio, compare, figure, valid, versions

STEPS: Final = 100
BARS: Final[Mapping[str, float]] = {"full_call_over_floor": 1.75, "reused_lease_over_floor": 0.75}
API: Final = "https://crm.test"


class Nowhere(SpanExporter):
    """An exporter that does nothing."""

    def export(self, spans: Any) -> SpanExportResult:
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        return None


def provider() -> TracerProvider:
    made = TracerProvider()
    made.add_span_processor(BatchSpanProcessor(Nowhere(), max_queue_size=65_536, schedule_delay_millis=1000))
    return made


def floor(tracer: trace.Tracer) -> Case:
    sign, payload = Ed25519PrivateKey.generate().sign, b"x" * 500
    attributes = {f"attribute.{number}": f"value {number}" for number in range(15)}

    def run() -> None:
        sign(payload)
        with tracer.start_as_current_span("floor", attributes=attributes):
            pass

    return run


@guarded("crm.read", effect="read", audience=API, scopes=["crm:read"], lease="call")
def read_once(customer: str, limit: int = 5, region: str = "eu") -> str:
    """Read with a credential of its own."""
    return customer


@guarded("crm.list", effect="read", audience=API, scopes=["crm:read"])
def read_again(customer: str, limit: int = 5, region: str = "eu") -> str:
    """Read with the task's credential."""
    return customer


def intent() -> Intent:
    """Two steps that are used and many that are not."""
    bounds = {"customer": any_, "limit": between(1, 1000), "region": "eu"}
    others = [step(f"other.tool_{number}", customer="x") for number in range(STEPS - 2)]
    used = [step("crm.read", **bounds).times(10**9), step("crm.list", **bounds).times(10**9)]
    return Intent("Measure one call", *others, *used)


def denied() -> None:
    try:
        read_again("c-1", limit=5000)
    except Denied:
        return
    raise AssertionError("the call was not denied")


def cases() -> Mapping[str, Case]:
    return {
        "full_call_over_floor": lambda: read_once("c-1", limit=10),
        "reused_lease_over_floor": lambda: read_again("c-1", limit=10),
    }


def measure(guard: Guard, rounds: int) -> Mapping[str, Ratio]:
    """Measure at depth 3: a task and two delegations below it."""
    private = provider()
    with (
        guard.task("worker", on_behalf_of="alice", intent=intent(), ttl=3600) as task,
        task.delegate("second", intent=intent()) as second,
        second.delegate("third", intent=intent()),
    ):
        bare = floor(private.get_tracer("bench"))
        without = compare(bare, {"denied_call_over_floor": denied}, rounds=rounds)
        trace.set_tracer_provider(provider())
        traced = compare(bare, {**cases(), "denied_call_with_span_over_floor": denied}, rounds=rounds)
    return {**without, **traced, "control_without_sdk": without["control"]}


def report(rounds: int) -> Mapping[str, Any]:
    with tempfile.TemporaryDirectory() as folder, agentguard.local(audit=folder) as guard:
        ratios = measure(guard, rounds)
    figures = {name: figure(ratio, BARS.get(name)) for name, ratio in ratios.items()}
    ok = valid(ratios["control"]) and valid(ratios["control_without_sdk"])
    return {"valid": ok, "figures": figures, "versions": versions()}


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.call", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--rounds", type=int, default=60)
    options = parser.parse_args()
    result = report(options.rounds)
    if options.json:
        print(json.dumps(result, indent=1))
    else:
        for name, row in result["figures"].items():
            bar = f"  bar {row['bar']}" if row["bar"] else ""
            print(f"{name:36} {row['value']:6.2f} F  [{row['p10']:.2f} .. {row['p90']:.2f}]{bar}")
        print("valid" if result["valid"] else "VOID: the baseline differs from itself; run it again")
    return 0 if result["valid"] else 1


if __name__ == "__main__":
    sys.exit(main())
