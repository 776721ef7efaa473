"""What the audit log costs: syncs per call, bytes a record, and how fast a long log is verified and asked.

Run as `python -m bench.audit [--records 1000000] [--json]`. Syncs are counted, not timed: each call is a write, whose
decision has to be on the disk before its tool runs. Rates are ratios to hashing the same bytes in the same run.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from agentguard import Intent, guarded, step
from agentguard.audit import segment
from agentguard.audit.index import Index
from agentguard.audit.log import FileLog
from agentguard.audit.query import Question, ask
from agentguard.audit.verify import verify
from agentguard.model.record import Event, Facts, Record
from agentguard.testing import fake_guard
from bench.harness import versions

CALLS: Final = 20  # of each thread or task
AT_ONCE: Final = 64
INTENT: Final = Intent("Measure", step("bench.write").times(100_000), step("bench.awrite").times(100_000))
BARS: Final[Mapping[str, float]] = {
    "fsyncs_per_call_1": 1.0, "fsyncs_per_call_64_threads": 0.25, "fsyncs_per_call_64_tasks": 0.6,
    "query_seconds": 1.0,
}  # fmt: skip


@guarded("bench.write")
def write() -> None:
    """A write: its decision has to be on the disk."""


@guarded("bench.awrite")
async def awrite() -> None:
    """The same under an event loop."""


class Counted:
    """Counts the syncs of a log. Opening and rotating a file are syncs too: they are counted from `begin` on."""

    def __init__(self) -> None:
        self.count, self._lock = 0, threading.Lock()
        self._sync: Callable[[int], None] = segment._sync_file

    def __call__(self, descriptor: int) -> None:
        with self._lock:
            self.count += 1
        self._sync(descriptor)


def syncs(folder: Path, run: Callable[[Any], None], calls: int) -> float:
    """Syncs per call of some work under one guard."""
    counted = Counted()
    segment._sync_file = counted
    try:
        with fake_guard(audit=FileLog(folder), issuer=None) as guard:
            began = counted.count
            run(guard)
            return round((counted.count - began) / calls, 3)
    finally:
        segment._sync_file = counted._sync


def one_by_one(guard: Any) -> None:
    with guard.task("bot", on_behalf_of="alice", intent=INTENT):
        for _ in range(CALLS):
            write()


def by_threads(guard: Any) -> None:
    with guard.task("bot", on_behalf_of="alice", intent=INTENT) as task:

        def work(_: int) -> None:
            with task.activate():
                for _ in range(CALLS):
                    write()

        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(work, range(AT_ONCE)))


def by_tasks(guard: Any) -> None:
    async def work() -> None:
        for _ in range(CALLS):
            await awrite()

    async def whole() -> None:
        async with guard.task("bot", on_behalf_of="alice", intent=INTENT):
            await asyncio.gather(*(work() for _ in range(AT_ONCE)))

    asyncio.run(whole())


def fill(folder: Path, records: int) -> None:
    """Write a log of many calls by a few agents with a few tools."""
    log = FileLog(folder)
    for number in range(records // 2):
        agent, tool = f"agent-{number % 7}", f"tool.n{number % 101}"
        facts = Facts({
            "task": f"t{number // 50:x}", "root": f"t{number // 50:x}", "agent": agent, "subject": "u:0123456789abcdef",
            "subject_proof": "asserted", "agent_proof": "in_process", "delegation": ["u:0123456789abcdef", agent],
            "intent": "bench", "intent_s256": "x" * 43, "environment": "bench", "registration": "none", "tool": tool,
            "effect": "read", "credential": "none",
        })  # fmt: skip
        denied = number % 997 == 0
        fields = {"call": f"c{number:x}", "arguments_hash": f"{number:064x}", "outcome": "deny" if denied else "permit"}
        fields |= {"reason": "outside_intent" if denied else "declared"}
        log.append(Record(Event.CALL_DENIED if denied else Event.CALL_PERMITTED, fields, facts))
        log.append(Record(Event.CALL_COMPLETED, {"call": f"c{number:x}", "task": f"t{number // 50:x}", "tool": tool}))
    log.close()


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def long_log(folder: Path, records: int) -> Mapping[str, float]:
    """Rates on a long log, and its size."""
    fill(folder, records)
    files = sorted(folder.glob("audit-*.jsonl"))
    size = sum(file.stat().st_size for file in files)
    hashing = seconds(lambda: [hashlib.sha256(line).digest() for file in files for line in file.open("rb")])
    verifying = seconds(lambda: verify(folder))
    asked = [Question(agent="agent-3", outcome="deny"), Question(tool="tool.n5"), Question(outcome="deny")]
    with tempfile.TemporaryDirectory() as name, Index(folder, Path(name) / "index") as index:
        indexing = seconds(index.update)
        querying = max(seconds(lambda question=question: ask(index, folder, question, 100)) for question in asked)  # type: ignore[misc]  # bound now
    return {
        "records": records, "bytes_per_record": round(size / records, 1),
        "verify_over_hashing": round(verifying / hashing, 2), "verify_records_per_second": round(records / verifying),
        "index_records_per_second": round(records / indexing), "query_seconds": round(querying, 4),
    }  # fmt: skip


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Measure the audit log.")
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        values: dict[str, float] = {
            "fsyncs_per_call_1": syncs(home / "one", one_by_one, CALLS),
            "fsyncs_per_call_64_threads": syncs(home / "threads", by_threads, CALLS * AT_ONCE),
            "fsyncs_per_call_64_tasks": syncs(home / "tasks", by_tasks, CALLS * AT_ONCE),
            **long_log(home / "long", arguments.records),
        }
    figures = {
        key: {"value": value, "bar": BARS.get(key), "ok": value <= BARS.get(key, value)}
        for key, value in values.items()
    }
    if arguments.json:
        print(json.dumps({"valid": True, "figures": figures, "versions": versions()}, indent=1))
    else:
        for key, figure in figures.items():
            print(f"{key:32} {figure['value']:>12} {'' if figure['bar'] is None else 'at most ' + str(figure['bar'])}")
    return 0 if all(figure["ok"] for figure in figures.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
