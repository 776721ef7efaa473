"""Issuing credentials, and knowing of each one until it has ended."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from msgspec import Struct

from agentguard.model.credential import Issued
from agentguard.model.lease import Ending, Grant, Lease, LeaseState, Secret


@runtime_checkable
class Issuer(Protocol):
    """Issues short-lived credentials. Safe for concurrent use.

    `prepare` makes the lease's id and the latest time at which it ends before anything is asked for, so that the ledger
    can hold it first; it does no I/O. `issue` ends within `grant.deadline`, and what it returns ends no later than the
    prepared lease. A raise from `issue` means that a credential may exist, and `revoke` is called with the prepared
    lease and no handle: it ends what may exist, or says by when that ends by itself.
    `revoke` is idempotent; a raise means "not revoked yet, ask again". It works after a restart, from the lease and the
    handle of `Issued` alone.
    """

    suspends: bool
    remote: bool

    def prepare(self, grant: Grant, now: float) -> Lease: ...
    async def issue(self, grant: Grant, lease: Lease, now: float) -> Issued: ...
    async def revoke(self, lease: Lease, handle: Secret | None = None) -> Ending: ...


@runtime_checkable
class ParentIssuer(Issuer, Protocol):
    """An issuer that hangs a task's leases under one credential, so that one revocation ends them all.

    `parent` returns the grant (`parent=True`) of that credential, or None where there is none for this grant; it is
    obtained first, like any other, and passed to `issue_under`. `renew` prolongs a parent up to a time, and returns it
    with its new end, or None if it cannot be prolonged.
    """

    def parent(self, grant: Grant) -> Grant | None: ...
    async def issue_under(self, parent: Issued, grant: Grant, lease: Lease, now: float) -> Issued: ...
    async def renew(self, issued: Issued, until: float, now: float) -> Issued | None: ...


class Owed(Struct, frozen=True):
    """A row of the ledger that somebody has to end.

    Args:
        lease: as it was prepared or issued.
        state: how far it came.
        handle: what the issuer needs to revoke it, if it was issued and needs anything.
        attempts: how often that was tried.
    """

    lease: Lease
    state: LeaseState
    handle: Secret | None = None
    attempts: int = 0


@runtime_checkable
class Ledger(Protocol):
    """Every credential that may exist, from before it is asked for until it is provably gone.

    A raise from `pending` means that nothing may be issued; once it returned, the row survives this process. `ended`
    with REVOKED drops the row; with EXPIRES or WITH_PARENT it stays until the lease's end, or its parent's.
    `failed` notes an attempt to revoke that failed; `irrevocable` marks what is only swept from now on.
    `outstanding` is what may be alive: issued or possibly issued, not revoked, not expired for every verifier.
    `adopt` takes over the rows of owners that are dead, and of no others, and returns them, parents first. `beat` says
    that this owner lives.
    """

    suspends: bool

    async def pending(self, lease: Lease) -> None: ...
    async def active(self, lease: Lease, handle: Secret | None = None) -> None: ...
    async def failed(self, lease: Lease, why: str, *, irrevocable: bool = False) -> None: ...
    async def ended(self, lease: Lease, ending: Ending) -> None: ...
    async def outstanding(self, now: float) -> Sequence[Lease]: ...
    async def adopt(self, now: float) -> Sequence[Owed]: ...
    async def beat(self, now: float) -> None: ...
