"""How leases end: released by their call, revoked with their task, or owed until that can be done."""

from __future__ import annotations

import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any, Final
from weakref import WeakValueDictionary

import anyio

from agentguard._drive import RELEASE_SECONDS, driven, run_shielded
from agentguard.credentials.flight import Flight
from agentguard.credentials.folded import Folded
from agentguard.credentials.held import Held, Key, Use
from agentguard.credentials.kept import WHOLE, Home, Kept
from agentguard.credentials.leaks import LiveSecrets
from agentguard.credentials.ledger import MemoryLedger
from agentguard.credentials.revocation import Counted, Recorder, Revocations
from agentguard.errors import ConfigurationError
from agentguard.model.lease import LEEWAY
from agentguard.model.record import Record
from agentguard.ports import Issuer, Ledger, ParentIssuer, waits

_AT_ONCE: Final = 8  # revocations that one task's end asks for side by side
MOST_KEPT: Final = 10_000


class Endings:
    """The leases of one guard that live, and how each of them ends; `Leases` says what is passed here."""

    def __init__(
        self, issuer: Issuer, ledger: Ledger, record: Recorder, clock: Callable[[], float], *,
        append: Callable[[Record], object] | None = None, grace: float = 0.0, most: int = MOST_KEPT, whole: int = WHOLE,
    ) -> None:  # fmt: skip
        if not 0 <= grace <= LEEWAY:
            raise ConfigurationError(f"grace {grace!r}: write seconds from 0 to {LEEWAY}")
        self.secrets = LiveSecrets()
        self._issuer, self._ledger, self._record, self._clock = issuer, ledger, record, clock
        self._append = append or (lambda made: record(made.event, made.whole()))
        self._parents = issuer if isinstance(issuer, ParentIssuer) else None
        self._waits, self._grace, self._most, self._whole = waits(issuer) or waits(ledger), grace, most, whole
        self._start()

    def _start(self) -> None:
        self._lock = threading.Lock()
        self._revocations = Revocations(self._issuer, self._ledger, self.secrets, self._record, self._clock)
        # INVARIANT: a lease that was asked for is in `_all`, with `_revocations`, or gone.
        self._all: dict[str, Home] = {}
        self._kept = Kept(self._most, self._whole, self._all, self._folded)
        self._flights: WeakValueDictionary[Key, Flight] = WeakValueDictionary()

    def _folded(self, folded: Folded) -> None:
        """All who know the lease share what is left of it; a ledger outside this process holds its row anyway."""
        self.secrets.fold(folded.id, folded)
        if isinstance(self._ledger, MemoryLedger):
            self._ledger.fold(folded)

    @property
    def ledger(self) -> Ledger:
        """Where every credential that may exist stands."""
        return self._ledger

    def open_task(self, task: str, counts: Counted | None = None) -> None:
        """From now on leases may be held for this task, and are counted there until it ends."""
        with self._lock:
            self._all.setdefault(task, Home())
            if counts is not None:
                self._revocations.counts[task] = counts

    async def release(self, use: Use) -> str:
        """End one call's share: the credential forgets its secret, a single-use or retired lease is revoked.

        Returns:
            `kept`, `revoked`, `expires` or `failed`.
        """
        mine = False
        try:  # as `_end` does it, without the way there
            with self._lock:
                use.credential.release()
                held = use.held
                held.users -= 1
                if held.revoked:
                    return held.status or "revoked"
                if held.users > 0 or not (held.single_use or held.retired):
                    return "kept"
                mine = True
                self._take_out(held)
            held.status = await self._revocations.end(held.issued.lease, held.issued.handle, "call_end")
        except BaseException:  # also one that came before the lock was had
            use.credential.release()
            raise
        finally:
            if mine:
                if not held.status:  # stopped, at whatever line
                    self._revocations.owe(held.issued.lease, held.issued.handle)
                if held.parent is not None:
                    await self._let_go(held.parent)
        return held.status

    async def _let_go(self, held: Held) -> None:
        """Someone who held it without a call needs it no longer: a lease under it, or whoever prolonged it."""
        with self._lock:
            held.users -= 1
            ends = held.users <= 0 and (held.single_use or held.retired)
        if ends:
            await self._end(held, "call_end")

    def _take_out(self, held: Held) -> None:
        """INVARIANT: whoever takes it out ends it, and nobody else does. The lock is held."""
        held.revoked = True
        lease = held.issued.lease
        home = self._all.get(lease.task)
        if home is not None:
            home.leases.pop(lease.id, None)
            if not home.leases:
                home.leases = {}  # as `Home.drop` does
        if not held.single_use:  # that was never kept
            self._kept.drop(held)

    async def _end(self, held: Held, why: str, *, taken: bool = False) -> str:
        mine = taken
        try:
            if not mine:
                with self._lock:
                    if held.revoked:
                        return held.status or "revoked"
                    mine = True
                    self._take_out(held)
            held.status = await self._revocations.end(held.issued.lease, held.issued.handle, why)
        finally:
            if mine:
                if not held.status:
                    self._revocations.owe(held.issued.lease, held.issued.handle)
                if held.parent is not None:
                    await self._let_go(held.parent)
        return held.status

    async def revoke(self, lease_id: str, why: str) -> None:
        """Revoke one lease that leaked now, whoever uses it; other calls may have it replaced."""
        with self._lock:
            held = next(filter(None, (self._kept.find(home, lease_id) for home in self._all.values())), None)
            if held is not None:
                held.leaked_in = self._all.get(held.issued.lease.task)
        if held is not None:
            await self._end(held, why)

    async def end_task(
        self, task: str, why: str = "task_end", *, reopen: bool = False, others: Sequence[str] = ()
    ) -> int:
        """Revoke every lease of a task and return how many; what is being issued for it meanwhile is rolled back.

        INVARIANT: all their calls lose theirs before the first server is asked, which may not answer.

        Args:
            task: its id.
            why: for the records.
            reopen: leases may be held for it again.
            others: tasks that end, or are stopped, together with it.
        """
        leases: list[Held] = []
        try:
            with self._lock:
                for one in (task, *others):
                    self._empty(one, leases, reopen=reopen)
            await self._each(lambda held: self._end(held, why, taken=True), list(filter(_stands_alone, leases)))
            for held in leases:
                if held.parent is not None:
                    await self._end_under(held, why)
        finally:
            for held in leases:
                if not held.status:
                    self._revocations.owe(held.issued.lease, held.issued.handle)
                    held.status = "failed"
            for one in () if reopen else (task, *others):  # what is revoked later is in no count of a task that ended
                self._revocations.counts.pop(one, None)
        return [held.status for held in leases].count("revoked")

    def _empty(self, task: str, leases: list[Held], *, reopen: bool) -> None:
        """Take all leases out of a task, to end them. The lock is held."""
        home = self._all.get(task)
        if home is None:
            return
        found = self._kept.all_of(home)
        leases += found
        for held in found:
            self._kept.drop(held)
            held.revoked = True
        # Last: whoever is stopped before this finds them here.
        if reopen:
            self._all[task] = Home()
        else:
            del self._all[task]

    def owe_task(self, task: str) -> None:
        """The end of a task was stopped, at whatever line: what it holds is ended by whoever asks again."""
        with self._lock:
            home = self._all.get(task)
            for held in self._kept.all_of(home) if home is not None else ():
                self._revocations.owe(held.issued.lease, held.issued.handle)
                self._take_out(held)
            self._all.pop(task, None)
            self._revocations.counts.pop(task, None)

    async def _end_under(self, held: Held, why: str) -> None:
        """A lease under a parent, taken out with it, ended with it, or ends as soon as the parent can be ended."""
        if not held.issued.lease.parent:  # a copy of what lives on: its parent's end does not end it
            await self._end(held, why, taken=True)
        elif held.parent is not None and held.parent.status == "revoked":
            await self._revocations.gone(held.issued.lease, why)
            held.status = "revoked"

    async def _each(self, work: Callable[[Held], Awaitable[Any]], leases: list[Held]) -> None:
        """One after the other, or side by side where that saves waiting.

        A server that does not answer is not asked on and on: the rest is owed.
        """
        until, failed = time.monotonic() + RELEASE_SECONDS, False
        if driven() or not self._waits or len(leases) < 2:
            for held in leases:
                if await work(held) == "failed" and time.monotonic() >= until:
                    return
            return
        limit = anyio.CapacityLimiter(_AT_ONCE)

        async def one(held: Held) -> None:
            nonlocal failed
            async with limit:
                if not failed or time.monotonic() < until:
                    failed = await work(held) == "failed"

        async with anyio.create_task_group() as group:
            for held in leases:
                group.start_soon(one, held)

    async def _shielded(self, work: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        """A cancelled caller ends after its clean-up; one that takes too long is owed, and asked for again."""

        async def whole() -> None:
            await work()

        with suppress(TimeoutError):
            await run_shielded(whole, suspends=self._waits)


def _stands_alone(held: Held) -> bool:
    """Whether it hangs under no other lease. Not in a comprehension: a tracer that raises there passes a `finally`."""
    return held.parent is None
