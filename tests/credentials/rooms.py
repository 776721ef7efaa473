"""Leases with all their fakes, and brokers that behave in one way each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import anyio
from msgspec.structs import replace

from agentguard._drive import drive
from agentguard.credentials.leases import Leases
from agentguard.credentials.ledger import MemoryLedger
from agentguard.model.credential import Issued
from agentguard.model.lease import Ending, Grant, Lease, LeaseKey, Secret
from agentguard.model.principal import Agent, Chain, Subject
from agentguard.model.record import Event
from agentguard.testing import FakeClock, FakeIssuer


class Room:
    """Leases with all their fakes."""

    def __init__(self, issuer: Any = None, ledger: Any = None, **options: Any) -> None:
        self.issuer: Any = issuer or FakeIssuer()
        self.ledger, self.clock = ledger or MemoryLedger(), FakeClock()
        self.records: list[tuple[Event, Mapping[str, Any]]] = []
        self.full = False
        self.leases = Leases(self.issuer, self.ledger, self._record, self.clock, **options)
        self.leases.open_task("t")

    def _record(self, event: Event, fields: Mapping[str, Any]) -> None:
        if self.full:
            raise OSError(28, "No space left on device")
        self.records.append((event, fields))

    def events(self) -> list[str]:
        return [str(event) for event, _ in self.records]

    def outstanding(self) -> int:
        return drive(self.leases.outstanding())

    def nothing_is_left(self) -> bool:
        return not self.issuer.live and not self.outstanding() and not self.leases.secrets


def grant(
    task: str = "t", user: str = "alice", tool: str = "pay", agents: tuple[str, ...] = ("bot",), **fields: Any
) -> Grant:
    chain = Chain(Subject(user), tuple(map(Agent, agents)))
    key = LeaseKey("", chain.subject.sub, task, chain.names(), tool, "https://api.test", (), fields.pop("resource", ""))
    return Grant(key=key, chain=chain, task=task, intent_s256="s", **{"deadline": 4e9, **fields})


class Vault(FakeIssuer):
    """Hangs the leases of a task under one parent: whatever ends that ends them.

    Attributes:
        asked: ids that it was asked to revoke, in order.
        life: seconds that a parent lives; renewable while `renewable`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.asked: list[str] = []
        self.renewable = True
        self.renewed = 0

    def parent(self, grant: Grant) -> Grant | None:
        key = replace(grant.key, tool="", resource="", audience="https://vault.test")
        return replace(grant, key=key, parent=True, single_use=False, details_s256="")

    async def issue_under(self, parent: Issued, grant: Grant, lease: Lease, now: float) -> Issued:
        assert lease.parent == parent.lease.id
        if parent.lease.id not in self.live:
            raise PermissionError("the parent is dead")
        issued = await self.issue(grant, lease, now)
        return replace(issued, handle=Secret(f"handle of {lease.id}"))

    async def renew(self, issued: Issued, until: float, now: float) -> Issued | None:
        if not self.renewable or issued.lease.id not in self.live:
            return None
        self.renewed += 1
        return replace(issued, lease=replace(issued.lease, expires_at=until))

    async def revoke(self, lease: Lease, handle: Secret | None = None) -> Ending:
        if self.suspends:
            await anyio.sleep(0.001)
        if self.revoke_error is not None:
            raise self.revoke_error
        self.asked.append(lease.id)
        under = [other.id for other in self.live.values() if other.parent == lease.id]
        for identifier in (lease.id, *under):
            if self.live.pop(identifier, None) is not None:
                self.revoked.append(identifier)
        return Ending.REVOKED


class Stateless(FakeIssuer):
    """Cannot revoke what it issued: a JWT of an authorization server without a list of live ones."""

    async def revoke(self, lease: Lease, handle: Secret | None = None) -> Ending:
        if self.revoke_error is not None:
            raise self.revoke_error
        return Ending.EXPIRES
