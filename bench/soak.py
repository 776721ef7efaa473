"""Ten thousand tasks against a token server that fails now and then: nothing stays alive, nothing denied ever runs.

Run as `python -m bench.soak [--tasks 10000] [--faults 0.05] [--json]`. The token server runs in another process; it
drops answers, acts twice, is late, and says 5xx before and after it acted. Each task makes one call that its intent
admits, and one that it does not. Credentials come from the token exchange issuer (or `--issuer bench`), the ledger is a
file, and so is the audit log.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from agentguard import Denied, Guard, Intent, User, current_call, guarded, step
from agentguard._drive import drive
from agentguard.audit.log import FileLog
from agentguard.audit.verify import verify
from agentguard.errors import AuditBroken
from agentguard.model.lease import Secret, SubjectToken
from agentguard.model.principal import Proof, Subject
from agentguard.ports import Issuer
from agentguard.registry import OpenRegistry
from agentguard.state.sqlite import SqliteLedger
from bench.authority import AUDIENCE, FORM_TTL, HOST, Client, RemoteIssuer, authority
from bench.harness import versions

WORKERS: Final = 8
PATIENCE: Final = 90.0  # seconds in which what a lost answer left must have expired
WARM: Final = 0.2  # the share of tasks after which memory is looked at first
ID_TOKEN: Final = "urn:ietf:params:oauth:token-type:id_token"
INTENT: Final = Intent("Pay acme", step("pay", account="acme"))
BARS: Final[Mapping[str, float]] = {
    "outstanding": 0, "audit_chain_broken": 0, "audit_records_lost": 0, "deny_to_allow_flips": 0, "rss_growth_mb": 64,
}  # fmt: skip


def issuer_of(kind: str, port: int) -> Issuer:
    """The issuer that is measured."""
    if kind == "bench":
        return RemoteIssuer(port, ttl=FORM_TTL)
    from agentguard._http import Http
    from agentguard.credentials.oauth.actor import SignedActor
    from agentguard.credentials.oauth.client_auth import PrivateKeyJwt
    from agentguard.credentials.oauth.metadata import ServerMetadata
    from agentguard.credentials.oauth.rules import TokenRules
    from agentguard.credentials.oauth.server import AuthorizationServer
    from agentguard.credentials.oauth.token_exchange import TokenExchange
    from agentguard.keys import SigningKey

    name = f"http://{HOST}:{port}"
    metadata = ServerMetadata(issuer=name, token_endpoint=f"{name}/token", revocation_endpoint=f"{name}/revoke")
    client = PrivateKeyJwt("bench", SigningKey.generate(), name)
    http = Http(timeout=2.0, deadline=5.0, networks=["127.0.0.0/8"])
    server = AuthorizationServer(name, client, http, metadata=metadata)
    return TokenExchange(server, SignedActor(client), TokenRules(max_lifetime=FORM_TTL))


class Soak:
    """All tasks, and what became of them."""

    def __init__(self, guard: Guard, ask: Client) -> None:
        self.guard, self._ask = guard, ask
        self.counts: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._local = threading.local()
        subject_token = SubjectToken(Secret(secrets.token_urlsafe(32)), ID_TOKEN)
        self._user = User(subject=Subject("alice", proof=Proof.VERIFIED), subject_token=subject_token)

        @guarded("pay", effect="write", audience=AUDIENCE)
        def pay(account: str) -> bool:
            self._count(f"ran for {account}")
            call = current_call()
            assert call.credential is not None
            return bool(ask("/act", {"token": call.credential.token, "call": call.id})["ok"])

        self._pay = pay

    def _count(self, what: str) -> None:
        with self._lock:
            self.counts[what] += 1

    def task(self, number: int) -> None:
        """One task with two calls, in an order that varies."""
        with self.guard.task("bot", on_behalf_of=self._user, intent=INTENT):
            for account in ("acme", "evil") if number % 2 else ("evil", "acme"):
                try:
                    self._count("acted" if self._pay(account) else "acted with a dead credential")
                except Denied as denied:
                    self._count(f"{account} denied: {denied.reason}")


def rss_mb() -> float:
    """Resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def settle(guard: Guard, ledger: SqliteLedger, ask: Client) -> tuple[int, float]:
    """Wait until nothing is alive, and return how much still is; what nobody can revoke expires."""
    began = time.monotonic()
    while True:
        left = max(len(drive(ledger.outstanding(time.time()))), len(ask("/state")["alive"]))
        if not left or time.monotonic() - began > PATIENCE:
            return left, time.monotonic() - began
        assert guard.leases is not None
        drive(guard.leases.tend())
        time.sleep(0.5)


def audit(folder: Path, actions: list[str]) -> Mapping[str, int]:
    """Verify the log, and look for the record of every action."""
    permitted = set()
    for file in folder.glob("*.jsonl"):
        with file.open() as lines:
            permitted |= {record["call"] for record in map(json.loads, lines) if record["event"] == "call.permitted"}
    lost = len(set(actions) - permitted)
    try:
        found = verify(folder)
    except AuditBroken:
        return {"audit_chain_broken": 1, "audit_records_lost": lost, "audit_records": 0}
    return {"audit_chain_broken": 0, "audit_records_lost": lost, "audit_records": found.records}


def run(tasks: int, faults: float, kind: str, folder: Path, port: int) -> Mapping[str, Any]:
    """Run every task, wait for what is left to expire, and look at the files."""
    began, ask = time.monotonic(), Client(port)
    ledger = SqliteLedger(folder / "state.db", secrets.token_bytes(32))
    guard = Guard(
        audit=FileLog(folder / "audit"), registry=OpenRegistry(), issuer=issuer_of(kind, port), ledger=ledger,
        pseudonym_key=secrets.token_bytes(32),
    )  # fmt: skip
    soak, warm = Soak(guard, ask), int(tasks * WARM)
    with ThreadPoolExecutor(WORKERS) as pool:
        list(pool.map(soak.task, range(warm)))
        before = rss_mb()
        list(pool.map(soak.task, range(warm, tasks)))
    after, ran = rss_mb(), time.monotonic() - began
    left, waited = settle(guard, ledger, ask)
    state = ask("/state")
    guard.close()
    flips = soak.counts["ran for evil"] + soak.counts["acted with a dead credential"]
    return {
        "tasks": tasks, "outstanding": left, **audit(folder / "audit", state["actions"]), "deny_to_allow_flips": flips,
        "rss_growth_mb": round(after - before, 1), "rss_mb": round(after, 1), "calls_run": soak.counts["ran for acme"],
        "seconds": round(ran, 1), "seconds_to_settle": round(waited, 1),
        "ledger_kb": (folder / "state.db").stat().st_size // 1024,
        "outcomes": dict(soak.counts), "server": state["counts"],
    }  # fmt: skip


def report(tasks: int, faults: float, kind: str, seed: int) -> Mapping[str, Any]:
    """The figures, with the bars they are held against."""
    with tempfile.TemporaryDirectory() as folder, authority(faults=faults, seed=seed) as port:
        found = run(tasks, faults, kind, Path(folder), port)
    ok = all(found[name] <= bar for name, bar in BARS.items()) and found["calls_run"] > tasks / 2
    return {"valid": ok, "issuer": kind, "faults": faults, "figures": found, "bars": BARS, "versions": versions()}


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.soak", description=__doc__)
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument("--faults", type=float, default=0.05, help="share of the token server's answers that go wrong")
    parser.add_argument("--issuer", choices=("token_exchange", "bench"), default="token_exchange")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    result = report(options.tasks, options.faults, options.issuer, options.seed)
    if options.json:
        print(json.dumps(result, indent=1))
    else:
        for name, value in result["figures"].items():
            bar = f"  bar {result['bars'][name]}" if name in result["bars"] else ""
            print(f"{name:22} {value}{bar}")
        print("ok" if result["valid"] else "FAILED")
    return 0 if result["valid"] else 1


if __name__ == "__main__":
    sys.exit(main())
