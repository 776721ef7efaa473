"""Clients of real brokers are killed at random moments: what is still alive afterwards, and is a record lost.

Run as `python -m bench.crash [--kills 50] [--json]`. Each client runs tasks through a proxy that delays, drops, cuts
and resets, and is killed with SIGKILL. A recovery with a clean connection follows; at the end the servers are asked
what is alive. What a server cannot revoke counts as outstanding until it has expired. Without the servers of `make
services-up` only the bench's own token server is used.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import secrets
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from agentguard._drive import drive
from agentguard.audit.log import FileLog
from agentguard.audit.repair import repair
from agentguard.audit.verify import verify
from agentguard.credentials.leases import Leases
from agentguard.errors import AuditBroken
from agentguard.model.record import Event, Record
from agentguard.state.sqlite import SqliteLedger
from bench.authority import Client, authority
from bench.crash_brokers import Broker, bench_broker, exchange_broker, issuer_of, openbao_broker, postgres_broker
from bench.harness import versions
from tests.services import endpoints, stack

LONGEST: Final = 0.8  # seconds from a client's start of work to its death, at most
PATIENCE: Final = 150.0
BARS: Final[Mapping[str, float]] = {"outstanding_after_recovery": 0, "audit_records_lost": 0, "audit_chain_broken": 0}


@dataclass(slots=True)
class Bench:
    """One broker with what its clients leave: a ledger and audit logs; and who recovers."""

    broker: Broker
    folder: Path
    key: bytes
    log: FileLog
    ledger: SqliteLedger
    issuer: Any
    leases: Leases
    counts: Counter[str] = field(default_factory=Counter)
    said: str = ""

    @classmethod
    def of(cls, broker: Broker, folder: Path) -> Bench:
        folder.mkdir(mode=0o700)
        key, log = secrets.token_bytes(32), FileLog(folder / "audit")
        ledger = SqliteLedger(folder / "state.db", key)

        def record(event: Event, fields: Mapping[str, Any]) -> None:
            log.append(Record(event, fields))

        issuer = issuer_of(broker.direct)
        return cls(broker, folder, key, log, ledger, issuer, Leases(issuer, ledger, record, time.time))

    def kill_one(self, port: int, after: float) -> None:
        """Start a client, kill it, and recover."""
        spec = {"folder": str(self.folder), "broker": self.broker.spec, "port": port, "key": self.key.hex()}
        with tempfile.TemporaryFile("w+") as words:
            client = subprocess.Popen(
                [sys.executable, "-m", "bench.crash_client"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=words, text=True,
            )  # fmt: skip
            assert client.stdin is not None
            assert client.stdout is not None
            client.stdin.write(json.dumps(spec))
            client.stdin.close()
            self.counts["started"] += client.stdout.readline() == "on\n"
            time.sleep(after)
            client.kill()
            client.wait()
            client.stdout.close()
            words.seek(0)
            self.said = (words.read() or self.said)[-500:]
        self.counts["kills"] += 1
        self.counts["recovered"] += drive(self.leases.recover())
        self.counts["alive_after_recovery"] += self.broker.alive()

    def outstanding(self) -> int:
        """What the server, or else the ledger, says is alive."""
        drive(self.leases.tend())
        return max(self.broker.alive(), len(drive(self.ledger.outstanding(time.time()))))

    def audit(self, actions: set[str]) -> Mapping[str, int]:
        """Repair what was torn, verify all, and look for the record of every action."""
        drive(self.leases.tend())
        self.log.close()
        torn, permitted = 0, set()
        for file in (self.folder / "audit").glob("*.jsonl"):
            torn += repair(file, time.time_ns) is not None
        for file in (self.folder / "audit").glob("*.jsonl"):
            with file.open() as lines:
                permitted |= {r["call"] for r in map(json.loads, lines) if r["event"] == Event.CALL_PERMITTED}
        found = {"torn": torn, "actions": len(actions & permitted)}
        try:
            verified = verify(self.folder / "audit")
        except AuditBroken:
            return {**found, "broken": 1}
        return {**found, "broken": 0, "records": verified.records, "unknown": verified.unknown}

    def close(self) -> None:
        """Close what was opened for the recovery."""
        self.ledger.close()
        self.issuer.close()


@contextmanager
def brokers(port: int, seed: int) -> Iterator[list[Broker]]:
    """Every broker there is; those whose tokens live longest first."""
    with ExitStack() as entered:
        services = endpoints.load()
        made = [bench_broker(port, named=named, seed=seed) for named in (True, False)]
        if services is not None and all(stack.answers(services).values()):
            tokens = [exchange_broker(services, form, seed=seed) for form in ("jwt", "opaque")]
            made = [*tokens, openbao_broker(services, seed=seed), postgres_broker(services, seed=seed), *made]
        yield [entered.enter_context(broker) for broker in made]


def run(kills: int, seed: int, folder: Path, port: int, only: str) -> Mapping[str, Any]:
    """Kill, recover, wait until what nobody can revoke has expired, and look at what is left."""
    draw, began = random.Random(seed), time.monotonic()
    with brokers(port, seed) as found, ExitStack() as closing:
        benches = [Bench.of(broker, folder / str(n)) for n, broker in enumerate(found) if only in broker.name]
        for bench in benches:
            closing.callback(bench.close)
        turns = [bench for bench in benches for _ in range(bench.broker.share)]
        rounds = sorted(itertools.islice(itertools.cycle(turns), kills), key=benches.index)
        for bench in rounds:
            bench.kill_one(port, draw.uniform(0.0, LONGEST))
        killing = time.monotonic() - began
        left = _settled(benches)
        state = Client(port)("/state")
        actions = set(state["actions"])
        audits = {bench.broker.name: bench.audit(actions) for bench in benches}
        return {
            "kills": sum(bench.counts["kills"] for bench in benches),
            "outstanding_after_recovery": sum(left.values()),
            "audit_records_lost": len(actions) - sum(one["actions"] for one in audits.values()),
            "audit_chain_broken": sum(one["broken"] for one in audits.values()),
            "actions": len(actions), "seconds": round(killing, 1),
            "seconds_to_settle": round(time.monotonic() - began - killing, 1),
            "brokers": {
                bench.broker.name: {
                    **bench.counts, "outstanding": left[bench.broker.name], "proxy": bench.broker.proxy.counts,
                    "audit": audits[bench.broker.name], **({"said": bench.said} if bench.said else {}),
                }
                for bench in benches
            },
        }  # fmt: skip


def _settled(benches: list[Bench]) -> Mapping[str, int]:
    until = time.monotonic() + PATIENCE
    while True:
        left = {bench.broker.name: bench.outstanding() for bench in benches}
        if not sum(left.values()) or time.monotonic() > until:
            return left
        time.sleep(1.0)


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.crash", description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="brokers whose name holds this text")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, authority() as port:
        figures = run(options.kills, options.seed, Path(folder), port, options.only)
    acted = all(one["audit"]["actions"] for one in figures["brokers"].values())
    ok = acted and all(figures[name] <= bar for name, bar in BARS.items())
    if options.json:
        print(json.dumps({"valid": ok, "figures": figures, "bars": BARS, "versions": versions()}, indent=1))
    else:
        for name, value in figures.items():
            for line in value.items() if isinstance(value, dict) else [("", value)]:
                print(f"{name:28} {line[0]:34} {line[1]}")
        print("ok" if ok else "FAILED")
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
