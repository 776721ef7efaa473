"""The ledger: every credential that may exist, written before it is asked for."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Final

from agentguard.credentials.folded import Folded
from agentguard.model.lease import Ending, Lease, Secret
from agentguard.ports import Owed

_REVOKED: Final = Ending.REVOKED  # found faster than in its enumeration


class MemoryLedger:
    """The ledger of an issuer that lives in this process: when the process dies, no credential outlives its expiry.

    An issuer outside this process needs a ledger that survives it: `state: {sqlite: FILE}`.
    """

    suspends = False

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # Nobody asks here how far one came: all of them may be alive.
        self._rows: dict[str, Lease | Folded] = {}

    async def pending(self, lease: Lease) -> None:
        """A credential is about to be asked for, so it may exist from now on."""
        with self._lock:
            self._rows[lease.id] = lease

    async def active(self, lease: Lease, handle: Secret | None = None) -> None:
        """The credential exists; one that was prolonged has another end."""
        with self._lock:
            self._rows[lease.id] = lease

    async def failed(self, lease: Lease, why: str, *, irrevocable: bool = False) -> None:
        """It could not be revoked; the row stays until it was, or until it expired."""
        self._set(lease)

    async def ended(self, lease: Lease, ending: Ending) -> None:
        """The credential is gone, or ends by itself: then its row stays until it did."""
        if ending is _REVOKED:
            with self._lock:
                self._rows.pop(lease.id, None)
                if not self._rows:
                    self._rows = {}  # a table that was large stays large
        else:
            self._set(lease)

    async def outstanding(self, now: float) -> Sequence[Lease]:
        """Issued or possibly issued, not revoked, not expired for every verifier."""
        with self._lock:
            self._rows = {row.id: row for row in self._rows.values() if row.expires_by > now}
            return [row.lease() if isinstance(row, Folded) else row for row in self._rows.values()]

    def fold(self, folded: Folded) -> None:
        """Hold no second copy of a lease that is kept folded; the row says the same."""
        with self._lock:
            if folded.id in self._rows:
                self._rows[folded.id] = folded

    async def adopt(self, now: float) -> Sequence[Owed]:
        """Nothing: what another process held is not known here."""
        return ()

    async def beat(self, now: float) -> None:
        """Nobody else looks."""

    def _set(self, lease: Lease) -> None:
        with self._lock:
            self._rows[lease.id] = lease
