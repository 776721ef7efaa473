"""Ending leases: the issuer is asked, and asked again, until each is gone or provably ends by itself."""

from __future__ import annotations

import logging
import math
import random
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any, Final, Protocol, TypeAlias

from msgspec import Struct

from agentguard.credentials.leaks import LiveSecrets
from agentguard.model.lease import Ending, Lease, LeaseState, Secret
from agentguard.model.record import Event
from agentguard.ports import Issuer, Ledger, Owed, waits

_log: Final = logging.getLogger("agentguard")
Recorder: TypeAlias = Callable[[Event, Mapping[str, Any]], None]
# Seconds before each further attempt. After the last of them the lease counts as irrevocable and is only swept.
PAUSES: Final = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0)
SWEEP: Final = 60.0
_LONGEST: Final = SWEEP * 1.1  # with its jitter
# Members that every call needs, found faster than in their enumerations.
_REVOKED: Final = Ending.REVOKED
_RECORD: Final = Event.CREDENTIAL_REVOKED
ROLLED_BACK: Final = "rolled_back"  # why a lease ends that no call ever had


class Counted(Protocol):
    """The leases of one task that were issued, and those that were revoked."""

    issued: int
    revoked: int


class _Debt(Struct, eq=False):
    """A lease that has to be ended and has not been."""

    lease: Lease
    handle: Secret | None
    attempts: int = 0
    next_at: float = 0.0
    waits: bool = False  # nobody can end it; it ends by itself, or with its parent
    busy: bool = False
    unseen: bool = False  # no call ever had it

    def put_off(self, now: float) -> bool:
        """Count a failed attempt; tell whether the lease is irrevocable from now on."""
        pause = PAUSES[self.attempts] if self.attempts < len(PAUSES) else SWEEP
        self.next_at = now + pause * random.uniform(0.9, 1.1)  # noqa: S311  # jitter
        self.attempts += 1
        return self.attempts == len(PAUSES) + 1


class Revocations:
    """Ends the leases of one guard. Safe for concurrent use by threads and event loops.

    INVARIANT: a lease that `end` was called for is in `_debts` or gone once `end` suspends or is left; whatever stops a
    revocation, a cancellation and the five seconds of a shield included, leaves it in `_debts`.

    Args:
        issuer: revokes.
        ledger: is told how each lease ends.
        secrets: what texts are searched for; a dead credential is no secret any more.
        record: writes an audit record.
        clock: seconds since the epoch.

    Attributes:
        counts: by open task what is counted there: each lease that was revoked, once, whoever ended it.
    """

    def __init__(
        self, issuer: Issuer, ledger: Ledger, secrets: LiveSecrets, record: Recorder, clock: Callable[[], float]
    ) -> None:
        self._issuer, self._ledger, self._secrets = issuer, ledger, secrets
        self._suspends = waits(issuer) or waits(ledger)
        self._record, self._clock = record, clock
        self._lock = threading.Lock()
        self._debts: dict[str, _Debt] = {}
        self.counts: dict[str, Counted] = {}

    def __len__(self) -> int:
        return len(self._debts)

    async def end(self, lease: Lease, handle: Secret | None, why: str, owed: _Debt | None = None) -> str:
        """End a lease now.

        Args:
            lease, handle: what is to be ended.
            why: for its record.
            owed: it was to be ended before.

        Returns:
            `revoked`, `expires` (its server cannot revoke it) or `failed` (it is asked for again).
        """
        # INVARIANT: where a revocation may suspend, it is a debt from its beginning. Where it cannot, nobody looks
        # meanwhile, and what stops it makes it one.
        debt = self._begun(lease, handle) if owed is None and self._suspends else owed
        try:
            try:
                ending = await self._issuer.revoke(lease, handle)
                if ending is _REVOKED:
                    self._secrets.discard(lease.id)
                await self._ledger.ended(lease, ending)
            except BaseException as error:
                debt = debt or self._begun(lease, handle)
                debt.unseen |= why == ROLLED_BACK
                if not isinstance(error, Exception):
                    raise
                await self._failed(debt, why, error)
                return "failed"
            if ending is not _REVOKED:
                debt = debt or self._begun(lease, handle)
                return self._left(debt, ending, why)
            # What `_settled` does for all others, without the way there.
            unseen = why == ROLLED_BACK
            if debt is not None:
                unseen |= debt.unseen
                self._drop(lease)
            if not unseen and (counts := self.counts.get(lease.task)) is not None:
                counts.revoked += 1
            try:
                self._record(_RECORD, {"lease": lease.id, "task": lease.task, "why": why})
            except Exception:  # noqa: S110  # as in `_try_record`
                pass
            if self._debts:
                await self._with_parent(lease)
            return "revoked"
        finally:
            if debt is not None:
                debt.busy = False

    def _begun(self, lease: Lease, handle: Secret | None) -> _Debt:
        with self._lock:
            debt = self._debts[lease.id] = _Debt(lease, handle, busy=True)
        return debt

    def owe(self, lease: Lease, handle: Secret | None) -> None:
        """Note a lease that is to be ended later: its parent could not be, or its end was stopped."""
        with self._lock:
            self._debts.setdefault(lease.id, _Debt(lease, handle)).busy = False

    async def gone(self, lease: Lease, why: str) -> None:
        """Note a lease that ended with its parent."""
        with self._lock:
            debt = self._debts[lease.id] = self._debts.get(lease.id) or _Debt(lease, None)
        try:
            await self._ledger.ended(lease, Ending.REVOKED)
        except Exception as error:
            await self._failed(debt, why, error)
        else:
            self._secrets.discard(lease.id)
            if not debt.unseen and (counts := self.counts.get(lease.task)) is not None:
                counts.revoked += 1
            self._settled(debt, Event.CREDENTIAL_REVOKED, {"why": why})

    async def retry(self, seconds: float = math.inf) -> None:
        """Ask again for what is due, parents first, then what waits longest; what all verifiers refuse is forgotten.

        Args:
            seconds: no further one is begun after so long; the rest stays due.
        """
        now, until = self._clock(), time.monotonic() + seconds
        with self._lock:
            due = [debt for debt in self._debts.values() if not debt.busy and self._due(debt, now)]
            for debt in due:
                debt.busy = True
        # Where time is short a server that does not answer keeps no other from its turn.
        due.sort(key=lambda debt: (bool(debt.lease.parent), debt.next_at))
        try:
            for debt in due:
                if time.monotonic() < until:
                    await self._again(debt)
                debt.busy = False
        finally:  # also those that were not come to, because one before them was stopped
            for debt in due:
                debt.busy = False

    def _due(self, debt: _Debt, now: float) -> bool:
        # One that is put off for longer than anything is was put off by a clock that has been set back since.
        put_off = 0 < debt.next_at - now <= _LONGEST
        return debt.lease.expires_by <= now or not (put_off or debt.waits)

    async def _again(self, debt: _Debt) -> None:
        if debt.lease.id not in self._debts:  # it ended with its parent meanwhile
            return
        if debt.lease.expires_by <= self._clock():
            with suppress(Exception):  # its row ends by its own time
                await self._ledger.ended(debt.lease, Ending.REVOKED)
            self._secrets.discard(debt.lease.id)
            self._settled(debt, Event.CREDENTIAL_EXPIRED, {"expires_by": int(debt.lease.expires_by)})
        else:
            await self.end(debt.lease, debt.handle, "retried" if debt.attempts else "recovered", debt)

    def adopt(self, rows: Iterable[Owed]) -> None:
        """Take over what a dead process left behind; `retry` ends it."""
        with self._lock:
            for row in rows:
                waits = row.state is LeaseState.EXPIRES
                # A new process asks anew: whatever stood in the way may be gone.
                self._debts.setdefault(row.lease.id, _Debt(row.lease, row.handle, waits=waits))

    def _left(self, debt: _Debt, ending: Ending, why: str) -> str:
        """Nobody can end it: it is never said to be revoked, and it is watched until it is dead."""
        debt.waits = True
        fields: dict[str, Any] = {"why": why, "ends": str(ending)}
        if not debt.lease.lasts:
            fields["expires_by"] = int(debt.lease.expires_by)
        self._try_record(Event.CREDENTIAL_EXPIRES, debt.lease, fields)
        return "expires"

    async def _with_parent(self, parent: Lease) -> None:
        with self._lock:
            under = [debt.lease for debt in self._debts.values() if debt.lease.parent == parent.id]
        for lease in under:
            await self.gone(lease, "parent_revoked")

    async def _failed(self, debt: _Debt, why: str, error: Exception) -> None:
        first, irrevocable = not debt.attempts, debt.put_off(self._clock())
        with suppress(Exception):  # its row says "may exist" already
            await self._ledger.failed(debt.lease, type(error).__name__, irrevocable=irrevocable)
        fields = {"why": why, "error": type(error).__name__}
        if first:
            self._try_record(Event.CREDENTIAL_REVOKE_FAILED, debt.lease, fields)
        if irrevocable:
            _log.error(
                "credential %s of %s could not be revoked in %d attempts (%s); it is tried every minute",
                debt.lease.id, debt.lease.issuer, debt.attempts, type(error).__name__,
            )  # fmt: skip
            self._try_record(Event.CREDENTIAL_IRREVOCABLE, debt.lease, {**fields, "attempts": debt.attempts})

    def _settled(self, debt: _Debt, event: Event, fields: Mapping[str, Any]) -> None:
        self._drop(debt.lease)
        self._try_record(event, debt.lease, fields)

    def _drop(self, lease: Lease) -> None:
        with self._lock:
            self._debts.pop(lease.id, None)
            if not self._debts:
                self._debts = {}  # a table that was large stays large

    def _try_record(self, event: Event, lease: Lease, fields: Mapping[str, Any]) -> None:
        """A failed record never keeps a credential alive."""
        try:
            self._record(event, {"lease": lease.id, "task": lease.task, **fields})
        except Exception:  # noqa: S110  # the next call finds the audit log unavailable and is denied
            pass
