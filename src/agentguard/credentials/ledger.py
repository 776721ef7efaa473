"""The ledger: every credential that may exist, written before it is asked for."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

from agentguard.model.lease import Lease, LeaseState


@dataclass(slots=True)
class _Row:
    lease: Lease
    state: LeaseState
    why: str = ""


class MemoryLedger:
    """The ledger of an issuer that lives in this process: when the process dies, no credential outlives its expiry."""

    suspends = False

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rows: dict[str, _Row] = {}

    async def pending(self, lease: Lease) -> None:
        """A credential is about to be asked for, so it may exist from now on."""
        with self._lock:
            self._rows[lease.id] = _Row(lease, LeaseState.PENDING)

    async def active(self, lease: Lease) -> None:
        """The credential exists."""
        with self._lock:
            self._rows[lease.id] = _Row(lease, LeaseState.ACTIVE)

    async def revoked(self, lease: Lease) -> None:
        """The credential is gone; its row is no longer needed."""
        with self._lock:
            self._rows.pop(lease.id, None)

    async def failed(self, lease: Lease, why: str) -> None:
        """It could not be revoked; the row stays until it was, or until it expired."""
        with self._lock:
            self._rows[lease.id] = _Row(lease, LeaseState.REVOKING, why)

    async def outstanding(self, now: float) -> Sequence[Lease]:
        """Issued or possibly issued, not revoked, not expired for every verifier."""
        with self._lock:
            for identifier in [i for i, row in self._rows.items() if row.lease.expires_by <= now]:
                del self._rows[identifier]
            return [row.lease for row in self._rows.values()]
