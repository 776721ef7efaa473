"""Leases: credentials obtained under their key, reused within it, refreshed at half life, ended with their task."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any, Final

from agentguard.credentials.held import Held
from agentguard.credentials.leaks import LiveSecrets
from agentguard.credentials.ledger import MemoryLedger
from agentguard.credentials.renewing import Renewing
from agentguard.ports import Owed

RECOVER_AT_ONCE: Final = 5.0  # seconds that opening may take for it
TEND_AT_ONCE: Final = 0.5  # seconds of the keeper's turn
RECOVER: Final = 30.0  # seconds between two looks for what dead processes left
FORGET: Final = 10.0  # seconds between two looks for what has expired in tasks that are still open


class Leases(Renewing):
    """All leases of one guard. Safe for concurrent use by threads and event loops.

    Args:
        issuer: issues and revokes.
        ledger: knows every credential that may exist, before it is asked for.
        record: writes an audit record; a raise means that nothing may be issued.
        append: writes one that shares its facts with others, as `record` does where there is none.
        clock: seconds since the epoch.
        grace: seconds past its expiry in which a tool that reads may still be given a kept credential while the broker
            is out of reach; 0 for never, at most the 30 that verifiers are granted. Each use is recorded.
        most: kept leases; the least recently used idle one beyond it is revoked.
        whole: how many of them are kept as they are; of the others, those that can be are folded.

    Raises:
        ConfigurationError: the grace is out of range.
    """

    def _start(self) -> None:
        super()._start()
        self._recover_at, self._forget_at = self._clock() + RECOVER, self._clock() + FORGET

    async def retry_failed(self) -> None:
        """Ask again for what could not be revoked; an expired lease is forgotten."""
        await self._revocations.retry()

    async def tend(self) -> None:
        """Say that this owner lives, prolong the parents of leases in use, forget what expired, retry what failed.

        Whoever calls this has stops to hear too, so nothing more is begun after a moment: a server that does not answer
        takes seconds each time, and what is left is the next turn's.
        """
        await self.beat()
        with suppress(Exception):
            await self._look_after()
        until = time.monotonic() + TEND_AT_ONCE
        for held in self._parents_due():
            if time.monotonic() < until:
                await self._prolong(held)
        for held in self._expired():
            await self._forget(held)
        await self._revocations.retry(TEND_AT_ONCE)

    async def beat(self) -> None:
        """Say that this owner lives; what a silent one holds is ended by others."""
        with suppress(Exception):  # a ledger that fails here fails louder when a credential is to be issued
            await self._ledger.beat(self._clock())

    async def _look_after(self) -> None:
        """Now and then: a process that died beside this one leaves its leases to whoever lives."""
        now = self._clock()
        if not 0 < self._recover_at - now <= RECOVER:  # the clock may have been set back
            self._recover_at = now + RECOVER
            self._revocations.adopt(await self._left_behind(now))

    def _parents_due(self) -> Iterable[Held]:
        """The one that waits longest first, as one that could not be prolonged comes again soon."""
        if self._parents is None:
            return ()
        now = self._clock()
        with self._lock:
            homes = [list(home.leases.values()) for home in self._all.values()]
        used = {id(held.parent): held.parent for home in homes for held in home if held.parent is not None}
        return sorted((held for held in used.values() if now >= held.refresh_at), key=lambda held: held.refresh_at)

    async def _prolong(self, held: Held) -> None:
        if await self._renewed(held.key, held.issued.lease.task) is None:
            held.put_off(self._clock())
        else:
            await self._let_go(held)  # nobody uses it for this

    def _expired(self) -> list[Held]:
        """Now and then: what is dead for every verifier and in nobody's use, in tasks that go on."""
        now = self._clock()
        if 0 < self._forget_at - now <= FORGET:
            return []
        self._forget_at = now + FORGET
        with self._lock:
            return [held for home in self._all.values() for held in self._kept.over(home, now)]

    async def _forget(self, held: Held) -> None:
        """INVARIANT: what is forgotten is with `_revocations`, which records that it expired and asks no server."""
        with self._lock:
            if not held.over(self._clock()):
                return
            self._revocations.owe(held.issued.lease, held.issued.handle)
            self._take_out(held)
            held.status = "expires"
        if held.parent is not None:
            await self._let_go(held.parent)

    async def recover(self) -> int:
        """Take over what dead processes left in the ledger, and end it; return how many leases that were."""
        rows = await self._left_behind(self._clock())
        self._revocations.adopt(rows)
        # The keeper goes on: a broker that is down must not hold up load().
        await self._revocations.retry(RECOVER_AT_ONCE)
        return len(rows)

    async def _left_behind(self, now: float) -> Sequence[Owed]:
        """INVARIANT: what another guard's brokers issued is left to a process that has them, where that can be told."""
        ledger: Any = self._ledger
        brokers = getattr(self._issuer, "brokers", None) if getattr(ledger, "by_broker", False) else None
        rows: Sequence[Owed] = await (ledger.adopt(now) if brokers is None else ledger.adopt(now, brokers))
        return rows

    async def outstanding(self) -> int:
        """How many credentials may be alive now."""
        return len(await self._ledger.outstanding(self._clock()))

    def forget_all(self) -> None:
        """After a fork the leases belong to the parent: the child forgets them and revokes nothing."""
        self.secrets = LiveSecrets()
        if isinstance(self._ledger, MemoryLedger):
            self._ledger = MemoryLedger()
        self._start()
