"""A stop while calls are in flight in four processes: what starts after it returned, and until when elsewhere.

Run as `python -m bench.stop [--rounds 5] [--json]`. One process suspends an agent under which all of them work, then
lets it go on, and again. Times of different processes are compared by the machine's one monotonic clock. What a tool
saw counts as its start, which is a little later than the gate: figures are upper bounds. PostgreSQL is measured with
the servers of `make services-up`; without them the run is not valid.
"""

from __future__ import annotations

import argparse
import json
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import psycopg
from psycopg import sql

from agentguard._drive import drive
from agentguard.state.ledger_postgres import PostgresLedger
from agentguard.state.postgres import PostgresStore
from agentguard.state.sqlite import SqliteLedger
from bench.harness import versions
from tests.services import endpoints, stack

PROCESSES: Final = 4
IN_FLIGHT: Final = 50
PAUSE: Final = 0.4  # seconds of work before each stop
WATCHED: Final = 1.6  # seconds after it
BARS: Final[Mapping[str, float]] = {
    "started_after_suspend": 0, "writes_started_elsewhere": 0, "p99_elsewhere_seconds": 1.0,
    "leases_revoked_seconds": 2.0, "leases_left": 0,
}  # fmt: skip

# A call may lose its credential to the stop before it comes to the gate.
REASONS: Final = frozenset({"suspended", "credential_unavailable"})


@dataclass(slots=True)
class Stopped:
    """One stop: when it was asked for, when it returned, what was marked as running then, and when it was lifted."""

    called: int
    returned: int
    marked: frozenset[str]
    looked: int
    lifted: int = 0
    held: int = 0
    left: int = 0
    revoked_after: float = 0.0


@dataclass(slots=True)
class Run:
    """The processes that share one store, and the stops among them; the first process suspends."""

    name: str
    spec: Mapping[str, Any]
    ledger: Any
    processes: list[subprocess.Popen[str]] = field(default_factory=list)
    stops: list[Stopped] = field(default_factory=list)
    found: list[Mapping[str, Any]] = field(default_factory=list)

    def start(self, stack: ExitStack) -> None:
        share, more = divmod(IN_FLIGHT, PROCESSES)
        for number in range(PROCESSES):
            process = subprocess.Popen(
                [sys.executable, "-m", "bench.stop_worker"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            self.processes.append(process)
            _say(process, json.dumps({**self.spec, "calls": share + (number < more)}))
        for process in self.processes:
            if _heard(process) != "ready":
                raise SystemExit(f"a process of {self.name} did not start")

    def stop_once(self) -> None:
        time.sleep(PAUSE)
        held = self._outstanding()
        _say(self.processes[0], "suspend")
        said = json.loads(_heard(self.processes[0]))
        one = Stopped(said["called"], said["returned"], frozenset(said["marked"]), said["looked"], held=len(held))
        until = one.returned + int(WATCHED * 1e9)
        while (left := held & self._outstanding()) and time.monotonic_ns() < until:
            time.sleep(0.02)
        one.left, one.revoked_after = len(left), (time.monotonic_ns() - one.returned) / 1e9
        time.sleep(max(0.0, (until - time.monotonic_ns()) / 1e9))
        _say(self.processes[0], "lift")
        one.lifted = json.loads(_heard(self.processes[0]))["lifted"]
        self.stops.append(one)

    def end(self) -> None:
        for process in self.processes:
            _say(process, "end")
        for process in self.processes:
            self.found.append(json.loads(_heard(process)))
            process.wait(20)

    def _outstanding(self) -> frozenset[str]:
        return frozenset(lease.id for lease in drive(self.ledger.outstanding(time.time())))

    # --- what happened ------------------------------------------------------------------------------------------

    def after(self, stop: Stopped, number: int, kind: str) -> list[float]:
        """Seconds after the stop at which calls of a process began that had not been let through before it."""
        found = self.found[number]
        asked = [
            reached
            for what, at, reached in found["asked"]
            if what == kind and stop.returned < at and reached < stop.lifted
        ]
        reached = [
            at
            for what, call, at in found["began"]
            if what == kind and stop.looked < at < stop.lifted and call not in stop.marked
        ]
        return [(at - stop.returned) / 1e9 for at in asked + reached]

    def late(self, kinds: Sequence[str], numbers: Sequence[int]) -> int:
        """How many calls of some processes started after a stop had returned."""
        return sum(len(self.after(stop, n, kind)) for stop in self.stops for n in numbers for kind in kinds)

    def last_read(self, moment: str) -> list[float]:
        """Of each stop and each other process: seconds from a moment of the stop to the start of its last read."""
        return sorted(
            max(((at - getattr(stop, moment)) / 1e9 for what, _, at in self.found[n]["began"] if what == "read"
                 and getattr(stop, moment) < at < stop.lifted), default=0.0)
            for stop in self.stops for n in range(1, PROCESSES)
        )  # fmt: skip

    def flowing(self) -> int:
        """The fewest calls that any process began in the moments before a stop: without any, nothing was measured."""
        least = int(PAUSE * 1e9)
        return min(
            sum(1 for _, _, at in one["began"] if 0 < stop.called - at < least)
            for stop in self.stops
            for one in self.found
        )

    def report(self) -> Mapping[str, Any]:
        reasons = {reason for one in self.found for reason in one["reasons"]}
        reads = self.last_read("returned")
        return {
            "stops": len(self.stops),
            "calls": sum(len(one["began"]) for one in self.found),
            "refused": sum(sum(one["reasons"].values()) for one in self.found), "reasons": sorted(reasons),
            "started_here": self.late(("read", "write"), [0]),
            "reads_started_elsewhere": self.late(["read"], range(1, PROCESSES)),
            "writes_started_elsewhere": self.late(["write"], range(1, PROCESSES)),
            "p99_elsewhere_seconds": round(_p99(reads), 3),
            "p99_elsewhere_seconds_from_its_call": round(_p99(self.last_read("called")), 3),
            "suspend_seconds": round(max(stop.returned - stop.called for stop in self.stops) / 1e9, 3),
            "fewest_calls_before_a_stop": self.flowing(),
            "leases_held": sum(stop.held for stop in self.stops), "leases_left": sum(s.left for s in self.stops),
            "leases_revoked_seconds": round(max(stop.revoked_after for stop in self.stops), 3),
        }  # fmt: skip


def _p99(ordered: Sequence[float]) -> float:
    return ordered[min(len(ordered) - 1, -(-99 * len(ordered) // 100) - 1)]


def _say(process: subprocess.Popen[str], text: str) -> None:
    assert process.stdin is not None
    process.stdin.write(text + "\n")
    process.stdin.flush()


def _heard(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@contextmanager
def database(services: endpoints.Services) -> Iterator[str]:
    """A database of this run's own, dropped at the end."""
    place, name = services.postgres, f"bench_stop_{secrets.token_hex(6)}"
    with psycopg.connect(place.dsn, autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        try:
            yield f"postgresql://{place.user}:{place.password}@{place.host}:{place.port}/{name}"
        finally:
            admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def measured(name: str, spec: Mapping[str, Any], ledger: Any, rounds: int) -> Mapping[str, Any]:
    run = Run(name, spec, ledger)
    with ExitStack() as stack:
        run.start(stack)
        for _ in range(rounds):
            run.stop_once()
        run.end()
    return run.report()


def measure(rounds: int, folder: Path) -> Mapping[str, Any]:
    key = secrets.token_bytes(32)
    with closing(SqliteLedger(folder / "state.db", key)) as ledger:
        sqlite = measured("sqlite", {"file": str(folder / "state.db"), "key": key.hex()}, ledger, rounds)
    services = endpoints.load()
    if services is None or not stack.answers(services)["postgres"]:
        return {"sqlite": sqlite}
    with database(services) as dsn, closing(PostgresStore(dsn)) as store:
        ledger_there = PostgresLedger(store, key)
        return {
            "sqlite": sqlite,
            "postgres": measured("postgres", {"dsn": dsn, "key": key.hex()}, ledger_there, rounds),
        }


def figures(stores: Mapping[str, Any]) -> Mapping[str, Any]:
    sqlite, postgres = stores["sqlite"], stores.get("postgres", {})
    elsewhere = sqlite["reads_started_elsewhere"] + sqlite["writes_started_elsewhere"]
    return {
        "started_after_suspend": sqlite["started_here"] + elsewhere + postgres.get("started_here", 0),
        "writes_started_elsewhere": sum(one["writes_started_elsewhere"] for one in stores.values()),
        "p99_elsewhere_seconds": postgres.get("p99_elsewhere_seconds"),
        "leases_revoked_seconds": max(one["leases_revoked_seconds"] for one in stores.values()),
        "leases_left": sum(one["leases_left"] for one in stores.values()),
        "in_flight": IN_FLIGHT, "processes": PROCESSES, **stores,
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.stop", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="stops in each store")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = figures(measure(options.rounds, Path(folder)))
    ok = "postgres" in found and all(found[name] <= bar for name, bar in BARS.items())
    ok = ok and all(found[name]["fewest_calls_before_a_stop"] for name in ("sqlite", "postgres"))
    ok = ok and all(
        "suspended" in found[name]["reasons"] and REASONS.issuperset(found[name]["reasons"])
        for name in ("sqlite", "postgres")
    )
    if options.json:
        print(json.dumps({"valid": ok, "figures": found, "bars": BARS, "versions": versions()}, indent=1))
    else:
        for name, value in found.items():
            for line in value.items() if isinstance(value, dict) else [("", value)]:
                print(f"{name:28} {line[0]:28} {line[1]}")
        print("ok" if ok else "FAILED")
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
