"""Fakes of the ports, and a guard made of them."""

from __future__ import annotations

import itertools
from typing import Any

import anyio

from agentguard.errors import AuditUnavailable
from agentguard.guard import Guard
from agentguard.model.credential import Issued
from agentguard.model.lease import Ending, Grant, Lease, Secret
from agentguard.model.record import Position, Record
from agentguard.ports import Answer, Approval, ApprovalRequest, AuditSink
from agentguard.registry import OpenRegistry


class FakeClock:
    """Seconds that move only when told to; serves as wall clock and as monotonic clock."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        """Move forward."""
        self.now += seconds


class FakeIssuer:
    """Issues opaque secrets and remembers what is alive.

    Args:
        suspends: really suspend, as a client of a remote server would.
        issue_error, revoke_error: raised instead of doing it, while set.

    Attributes:
        live: leases that were issued and not revoked, by id.
        issued, revoked: ids, in order.
    """

    def __init__(self, *, suspends: bool = False, remote: bool = False) -> None:
        self.suspends, self.remote = suspends, remote
        self.issue_error: BaseException | None = None
        self.revoke_error: BaseException | None = None
        self.live: dict[str, Lease] = {}
        self.issued: list[str] = []
        self.revoked: list[str] = []
        self._numbers = itertools.count(1)

    def prepare(self, grant: Grant, now: float) -> Lease:
        """Name the lease."""
        number = next(self._numbers)
        return Lease(
            id=f"lease-{number}", issuer="fake", key=grant.key, task=grant.task, issued_at=now, expires_at=now + 30
        )

    async def issue(self, grant: Grant, lease: Lease, now: float) -> Issued:
        """Issue a secret of 48 characters that is easy to find in a log."""
        if self.suspends:
            await anyio.sleep(0.001)
        if self.issue_error is not None:
            raise self.issue_error
        self.live[lease.id] = lease
        self.issued.append(lease.id)
        return Issued(lease, Secret(f"canary-{lease.id}-".ljust(48, "x")))

    async def revoke(self, lease: Lease, handle: Secret | None = None) -> Ending:
        """Revoke; idempotent."""
        if self.suspends:
            await anyio.sleep(0.001)
        if self.revoke_error is not None:
            raise self.revoke_error
        if self.live.pop(lease.id, None) is not None:
            self.revoked.append(lease.id)
        return Ending.REVOKED


class FailingAudit:
    """An audit sink on a disk that is full.

    Args:
        inner: takes what is still written.
        after: how many records fit.
    """

    suspends = False

    def __init__(self, inner: AuditSink, after: int = 0) -> None:
        self.inner, self.after = inner, after

    def append(self, record: Record) -> Position:
        """Write, while there is room."""
        if self.after <= 0:
            raise AuditUnavailable("no space left on device")
        self.after -= 1
        return self.inner.append(record)

    async def flush(self, position: Position) -> None:
        """Nothing more to do."""
        await self.inner.flush(position)

    def close(self) -> None:
        """Close what is behind it."""
        self.inner.close()


class Answering:
    """An approver that gives one answer and remembers what it was asked."""

    suspends = False

    def __init__(self, answer: Answer = Answer.APPROVED, by: str = "ann") -> None:
        self.answer, self.by = answer, by
        self.asked: list[ApprovalRequest] = []

    async def ask(self, request: ApprovalRequest) -> Approval:
        """Give the answer."""
        self.asked.append(request)
        return Approval(self.answer, self.by, request.call)


def fake_guard(**rooms: Any) -> Guard:
    """Return a guard of fakes: an in-memory log, a FakeIssuer, every agent admitted; pass rooms to replace them."""
    from agentguard.audit.memory import MemoryLog

    defaults: dict[str, Any] = {
        "audit": MemoryLog(),
        "issuer": FakeIssuer(),
        "registry": OpenRegistry(),
        "environment": "test",
        "pseudonym_key": b"a key for tests only, 32 bytes..",
        "recall": True,
    }
    return Guard(**{**defaults, **rooms})
