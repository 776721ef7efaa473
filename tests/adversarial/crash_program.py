"""A client that kills itself (SIGKILL) at a named point of a call; `test_crash.py` runs it and looks at what is left.

`python -m tests.adversarial.crash_program FOLDER PORT POINT sync|async named|opaque TTL`
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import anyio

from agentguard import Guard, Intent, current_call, guarded, step
from agentguard.audit.log import FileLog
from agentguard.model.lease import Ending, Lease, Secret
from agentguard.registry import OpenRegistry
from agentguard.state.sqlite import SqliteLedger
from agentguard.state.suspensions_memory import MemorySuspensions
from bench.authority import AUDIENCE, RemoteIssuer

KEY = b"a key of the tests, 32 bytes long"
POINTS = (
    "after the row", "before the answer is kept", "before execute", "during execute", "before revoke",
    "after revoke",
)  # fmt: skip


class Deadly:
    """Kills this process when its point is reached."""

    def __init__(self, point: str) -> None:
        self.point = point

    def __call__(self, point: str) -> None:
        if point == self.point:
            os.kill(os.getpid(), signal.SIGKILL)


class DeadlyLedger(SqliteLedger):
    deadly: Deadly

    async def pending(self, lease: Lease) -> None:
        await super().pending(lease)
        self.deadly("after the row")

    async def active(self, lease: Lease, handle: Secret | None = None) -> None:
        self.deadly("before the answer is kept")
        await super().active(lease, handle)

    async def ended(self, lease: Lease, ending: Ending) -> None:
        self.deadly("after revoke")
        await super().ended(lease, ending)


class DeadlyIssuer(RemoteIssuer):
    deadly: Deadly

    async def revoke(self, lease: Lease, handle: Secret | None = None) -> Ending:
        self.deadly("before revoke")
        return await super().revoke(lease, handle)


class DeadlyGate(MemorySuspensions):
    deadly: Deadly

    async def start(self, call: str, keys: Sequence[str], **how: Any) -> str:
        self.deadly("before execute")
        return await super().start(call, keys, **how)


def guard_of(folder: Path, issuer: RemoteIssuer, ledger: SqliteLedger, **rooms: Any) -> Guard:
    """A guard with files that outlive it."""
    return Guard(
        audit=FileLog(folder / "audit"),
        registry=OpenRegistry(),
        issuer=issuer,
        ledger=ledger,
        pseudonym_key=b"pseudonyms of the tests",
        **rooms,
    )


def act(issuer: RemoteIssuer) -> None:
    """What the tool does: the server counts it, if the token is alive."""
    call = current_call()
    assert call.credential is not None
    assert issuer.ask("/act", {"token": call.credential.token, "call": call.id})["ok"]


def main(folder: Path, port: int, point: str, mode: str, kind: str, ttl: float) -> None:
    deadly = Deadly(point)
    issuer = DeadlyIssuer(port, ttl=ttl, named=kind == "named")
    ledger = DeadlyLedger(folder / "state.db", KEY)
    gate = DeadlyGate()
    issuer.deadly = ledger.deadly = gate.deadly = deadly
    guard = guard_of(folder, issuer, ledger, suspensions=gate)

    @guarded("pay", effect="write", audience=AUDIENCE)
    def pay(account: str) -> str:
        act(issuer)
        deadly("during execute")
        return "paid"

    @guarded("pay", effect="write", audience=AUDIENCE)
    async def pay_soon(account: str) -> str:
        await anyio.to_thread.run_sync(act, issuer)
        deadly("during execute")
        return "paid"

    intent = Intent("Pay acme", step("pay", account="acme"))
    run: Callable[[], object] = lambda: _sync(guard, intent, pay)  # noqa: E731  # one of two
    if mode == "async":
        run = lambda: anyio.run(_async, guard, intent, pay_soon)  # noqa: E731  # the other
    run()
    guard.close()
    ledger.close()


def _sync(guard: Guard, intent: Intent, tool: Any) -> None:
    with guard.task("bot", on_behalf_of="alice", intent=intent):
        tool("acme")


async def _async(guard: Guard, intent: Intent, tool: Any) -> None:
    async with guard.task("bot", on_behalf_of="alice", intent=intent):
        await tool("acme")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4], sys.argv[5], float(sys.argv[6]))
