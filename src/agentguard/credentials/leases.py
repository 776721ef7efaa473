"""Leases: credentials obtained under their key, reused within it, refreshed at half life, ended with their task."""

from __future__ import annotations

import math
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import Any, Final
from weakref import WeakValueDictionary

import anyio
from msgspec.structs import replace

from agentguard._drive import driven, loop_running, run_shielded, wait_for
from agentguard.credentials.flight import Flight
from agentguard.credentials.folded import Folded
from agentguard.credentials.held import Held, Key, Use, apart, key_of, refresh_time
from agentguard.credentials.kept import WHOLE, Home, Kept
from agentguard.credentials.leaks import LiveSecrets
from agentguard.credentials.ledger import MemoryLedger
from agentguard.credentials.revocation import ROLLED_BACK, Counted, Recorder, Revocations
from agentguard.errors import ConfigurationError, CredentialUnavailable, Unavailable
from agentguard.model.lease import LEEWAY, Credential, Grant, Issued, Lease
from agentguard.model.record import Event, Facts, Record
from agentguard.ports import Issuer, Ledger, ParentIssuer, waits

_ROUNDED: Final = 1.0  # seconds by which whole seconds may exceed what was asked for
_ISSUED: Final = Event.CREDENTIAL_ISSUED  # found faster than in its enumeration
_LOOK_SECONDS: Final = 1.0  # after which one who waits for another caller looks whether there still is one
_AT_ONCE: Final = 8  # revocations that one task's end asks for side by side
MOST_KEPT: Final = 10_000
RECOVER_AT_ONCE: Final = 5.0  # seconds that opening may take for it
RECOVER: Final = 30.0  # seconds between two looks for what dead processes left
FORGET: Final = 10.0  # seconds between two looks for what has expired in tasks that are still open


class Leases:
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
        self._recover_at, self._forget_at = self._clock() + RECOVER, self._clock() + FORGET
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

    # --- obtaining --------------------------------------------------------------------------------------------

    def obtain(self, grant: Grant) -> Coroutine[Any, Any, Use]:
        """Return a live credential for a grant: a kept one, or a new one that exactly one caller asks for.

        Raises:
            CredentialUnavailable: the issuer failed, the ledger or the audit log could not be written, or the task has
                ended meanwhile (then what was issued is revoked).
        """
        return self._issue(grant, grant.key) if grant.single_use else self._obtain_kept(grant)

    async def _obtain_kept(self, grant: Grant) -> Use:
        key = key_of(grant.key, grant.task, apart(grant.details_s256, reads=grant.reads))
        mine = Flight()
        while True:
            held, other = self._look(key, grant.task, mine)
            if held is not None:
                return Use(held, Credential(held.issued), cached=True)
            if other is None:
                return await self._lead(grant, key, mine)
            if driven() and loop_running():  # whoever asks may need this very loop: it is not waited for
                return await self._issue(grant, key)
            with suppress(TimeoutError):  # looked at again: whoever asks may have been stopped
                await wait_for(other, _LOOK_SECONDS)

    def reuse(self, key: Key, task: str) -> Use | None:
        """Return a kept credential that is not to be refreshed yet, or None: then `obtain` is asked.

        It is what `obtain` would return for every grant with this key, found before there is a grant.
        """
        with self._lock:
            held = self._kept.get(key, task)
            if held is None or held.revoked or self._clock() >= held.refresh_at:
                return None
            held.users += 1
        return Use(held, Credential(held.issued), cached=True)

    def _look(self, key: Key, task: str, mine: Flight) -> tuple[Held | None, Future[None] | None]:
        """Return what is kept, or whom to wait for; neither where it is this caller who asks now."""
        with self._lock:
            held, flight = self._kept.get(key, task), self._flights.get(key)
            if held is not None and not held.revoked:
                now = self._clock()
                # Whoever comes while another caller refreshes is served by what is still good.
                if now < held.refresh_at or (flight is not None and now < held.good_until()):
                    held.users += 1
                    return held, None
            if flight is not None:
                return None, flight.future
            self._flights[key] = mine
            return None, None

    async def _lead(self, grant: Grant, key: Key, mine: Flight) -> Use:
        """Ask for the credential on behalf of all who wait; a cancelled leader sends them round again."""
        failure: CredentialUnavailable | None = None
        try:
            renewed = await self._renewed(key, grant.task, grant.deadline) if grant.parent else None
            if renewed is not None:
                return Use(renewed, Credential(renewed.issued), cached=False)
            return await self._issue(grant, key)
        except Exception as error:
            kept = self._still_good(grant, key, error)
            if kept is not None:
                return Use(kept, Credential(kept.issued), cached=True)
            failure = CredentialUnavailable(str(error) or type(error).__name__)
            raise
        finally:
            with self._lock:
                del self._flights[key]
            mine.land(failure)

    def _still_good(self, grant: Grant, key: Key, error: Exception) -> Held | None:
        """A refresh failed: the kept credential serves until shortly before its end, and those who wait find it."""
        now, grace = self._clock(), 0.0
        if self._grace and grant.reads and isinstance(error, _Outage):
            grace = self._grace
        with self._lock:
            held = self._kept.get(key, grant.task)
            if held is None or held.revoked or now >= held.good_until(grace):
                return None
            held.users += 1
            held.put_off(now)
        if now >= held.good_until():
            fields = {"lease": held.issued.lease.id, "task": grant.task, "why": str(error)}
            try:
                self._record(Event.CREDENTIAL_GRACE, fields)
            except Exception:  # no record, no grace
                held.users -= 1
                return None
        return held

    async def _renewed(self, key: Key, task: str, deadline: float = math.inf) -> Held | None:
        """Prolong a parent by one more life, so that what hangs under it lives on; None where a new one is needed."""
        with self._lock:
            held = self._kept.get(key, task)
        if held is None or held.revoked or self._parents is None:
            return None
        now = self._clock()
        until = min(deadline, now + held.first_life())
        lease = held.issued.lease
        try:
            # INVARIANT: the ledger never says that a credential ends earlier than it does, so it hears first.
            await self._ledger.active(replace(lease, expires_at=max(lease.expires_at, until)), held.issued.handle)
            renewed = await self._parents.renew(held.issued, until, now)
            if renewed is None:
                return None
            await self._ledger.active(renewed.lease, renewed.handle)
            fields = {"lease": renewed.lease.id, "task": lease.task, "expires_by": int(renewed.lease.expires_by)}
            self._record(Event.CREDENTIAL_RENEWED, fields)
        except Exception:
            return None
        with self._lock:
            if held.revoked:
                return None
            held.issued, held.users, held.refresh_at = renewed, held.users + 1, refresh_time(renewed.lease, now)
        return held

    async def _issue(self, grant: Grant, key: Key) -> Use:
        """Ask for a credential, and keep it under its key.

        INVARIANT: the order: the ledger, the issuer, what texts are searched for, the ledger, the record.
        """
        parent = await self._parent(grant) if self._parents is not None else None
        now = self._clock()
        # A task that ends, is parked or suspended from here on has another home then, or none.
        home = self._all.get(grant.task)
        lease = self._issuer.prepare(grant, now)
        if parent is not None:
            lease = replace(lease, parent=parent.issued.lease.id)
        issued: Issued | None = None
        try:
            # INVARIANT: the ledger knows the lease before the issuer is asked; a failure from here on: "may exist".
            await self._ledger.pending(lease)
            if parent is None:
                issued = await self._issuer.issue(grant, lease, now)
            else:
                issued = await self._issue_under(parent, grant, lease, now)
            self.secrets.add(issued)
            if grant.max_ttl and issued.lease.expires_at > now + grant.max_ttl + _ROUNDED:
                raise CredentialUnavailable(
                    f"a policy lets the credential live {grant.max_ttl} seconds, and its issuer made a longer one"
                )
            await self._ledger.active(issued.lease, issued.handle)
            lease = issued.lease
            self._append(_issued_record(lease, home))
            # Nobody else is ever given one that is for one call.
            refresh_at = 0.0 if grant.single_use else refresh_time(lease, lease.issued_at)
            held = Held(issued, key, refresh_at, grant.single_use, users=1, parent=parent)
            with self._lock:
                if home is None or self._all.get(grant.task) is not home:
                    raise CredentialUnavailable("the task ended or was stopped while its credential was being issued")
                home.leases[lease.id] = held
                if (counts := self._revocations.counts.get(grant.task)) is not None:
                    counts.issued += 1
                idle = () if grant.single_use else self._kept.put(held)
        except BaseException as error:
            await self._shielded(partial(self._roll_back, lease, issued, parent))
            if isinstance(error, Exception) and not isinstance(error, CredentialUnavailable):
                raise _failure(error) from None
            raise
        try:
            for other in idle:
                await self._shielded(partial(self._end, other, "refreshed"))
        except BaseException:  # its caller does not get it; who comes next does
            await self._shielded(partial(self._let_go, held))
            raise
        return Use(held, Credential(issued), cached=False)

    async def _parent(self, grant: Grant) -> Held | None:
        """The credential that this one is to hang under; the lease is one more user of it."""
        above = self._parents.parent(grant) if self._parents is not None and not grant.parent else None
        return (await self.obtain(above)).held if above is not None else None

    async def _issue_under(self, parent: Held, grant: Grant, lease: Lease, now: float) -> Issued:
        assert self._parents is not None  # noqa: S101  # a parent is one of its issuer
        return await self._parents.issue_under(parent.issued, grant, lease, now)

    async def _roll_back(self, lease: Lease, issued: Issued | None, parent: Held | None) -> None:
        """What may exist ends; the parent has one user less."""
        try:
            await self._revocations.end(
                issued.lease if issued else lease, issued.handle if issued else None, ROLLED_BACK
            )
        finally:
            if parent is not None:
                await self._let_go(parent)

    async def _shielded(self, work: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        """A cancelled caller ends after its clean-up; one that takes too long is owed, and asked for again."""

        async def whole() -> None:
            await work()

        with suppress(TimeoutError):
            await run_shielded(whole, suspends=self._waits)

    # --- ending -----------------------------------------------------------------------------------------------

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

    async def replace(self, use: Use, grant: Grant) -> bool:
        """Put another credential into the use of a call whose target refused the one it has; tell whether it was kept.

        Nobody is given the refused one again. INVARIANT: the use is a share of one lease at every moment, and one that
        was released takes no other: the two exclude each other.

        Raises:
            CredentialUnavailable: as for `obtain`; or the call has ended meanwhile.
        """
        with self._lock:
            refused = use.held
            refused.retired = True
            self._kept.drop(refused)
        fresh = await self.obtain(grant)
        with self._lock:
            late = not use.credential.live
            if not late:
                use.held = fresh.held
                use.credential.take(fresh.held.issued)
        await self._shielded(partial(self._let_go, fresh.held if late else refused))
        if late:
            raise CredentialUnavailable("the call ended while another credential was being obtained for it")
        return fresh.cached

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

    async def _end(self, held: Held, why: str) -> str:
        mine = False
        try:
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
        """Revoke one lease now, whoever uses it."""
        with self._lock:
            held = next(filter(None, (self._kept.find(home, lease_id) for home in self._all.values())), None)
        if held is not None:
            await self._end(held, why)

    async def end_task(self, task: str, why: str = "task_end", *, reopen: bool = False) -> int:
        """Revoke every lease of a task and return how many; what is being issued for it meanwhile is rolled back."""
        leases: list[Held] = []
        try:
            with self._lock:
                home = self._all.get(task)
                if home is not None:
                    leases = self._kept.all_of(home)
                    for held in leases:
                        self._kept.drop(held)
                    # Last: whoever is stopped before this finds them here.
                    if reopen:
                        self._all[task] = Home()
                    else:
                        del self._all[task]
            await self._each(lambda held: self._end(held, why), list(filter(_stands_alone, leases)))
            for held in leases:
                if held.parent is not None:
                    await self._end_under(held, why)
        finally:
            for held in leases:
                if not held.revoked:
                    self._revocations.owe(held.issued.lease, held.issued.handle)
            if not reopen:  # what is revoked later is in no count of a task that ended
                self._revocations.counts.pop(task, None)
        return [held.status for held in leases].count("revoked")

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
        """A lease under a parent ended with it, or ends as soon as the parent can be ended."""
        if not held.issued.lease.parent:  # a copy of what lives on: its parent's end does not end it
            await self._end(held, why)
            return
        mine = False
        try:
            with self._lock:
                if held.revoked:
                    return
                mine = held.revoked = True
            if held.parent is not None and held.parent.status == "revoked":
                await self._revocations.gone(held.issued.lease, why)
                held.status = "revoked"
        finally:
            if mine and not held.status:
                held.status = "failed"
                self._revocations.owe(held.issued.lease, held.issued.handle)

    async def _each(self, work: Callable[[Held], Awaitable[Any]], leases: list[Held]) -> None:
        """One after the other, or side by side where that saves waiting."""
        if driven() or not self._waits or len(leases) < 2:
            for held in leases:
                await work(held)
            return
        limit = anyio.CapacityLimiter(_AT_ONCE)

        async def one(held: Held) -> None:
            async with limit:
                await work(held)

        async with anyio.create_task_group() as group:
            for held in leases:
                group.start_soon(one, held)

    # --- the keeper's work ------------------------------------------------------------------------------------

    async def retry_failed(self) -> None:
        """Ask again for what could not be revoked; an expired lease is forgotten."""
        await self._revocations.retry()

    async def tend(self) -> None:
        """Say that this owner lives, prolong the parents of leases in use, forget what expired, retry what failed."""
        with suppress(Exception):  # a ledger that fails here fails louder when a credential is to be issued
            await self._ledger.beat(self._clock())
            await self._look_after()
        for held in self._parents_due():
            await self._prolong(held)
        for held in self._expired():
            await self._forget(held)
        await self.retry_failed()

    async def _look_after(self) -> None:
        """Now and then: a process that died beside this one leaves its leases to whoever lives."""
        now = self._clock()
        if now >= self._recover_at:
            self._recover_at = now + RECOVER
            self._revocations.adopt(await self._ledger.adopt(now))

    def _parents_due(self) -> Iterable[Held]:
        if self._parents is None:
            return ()
        now = self._clock()
        with self._lock:
            homes = [list(home.leases.values()) for home in self._all.values()]
        used = {id(held.parent): held.parent for home in homes for held in home if held.parent is not None}
        return [held for held in used.values() if now >= held.refresh_at]

    async def _prolong(self, held: Held) -> None:
        if await self._renewed(held.key, held.issued.lease.task) is None:
            held.put_off(self._clock())
        else:
            await self._let_go(held)  # nobody uses it for this

    def _expired(self) -> list[Held]:
        """Now and then: what is dead for every verifier and in nobody's use, in tasks that go on."""
        now = self._clock()
        if now < self._forget_at:
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
        rows = await self._ledger.adopt(self._clock())
        self._revocations.adopt(rows)
        # The keeper goes on: a broker that is down must not hold up load().
        await self._revocations.retry(RECOVER_AT_ONCE)
        return len(rows)

    async def outstanding(self) -> int:
        """How many credentials may be alive now."""
        return len(await self._ledger.outstanding(self._clock()))

    def forget_all(self) -> None:
        """After a fork the leases belong to the parent: the child forgets them and revokes nothing."""
        self.secrets = LiveSecrets()
        if isinstance(self._ledger, MemoryLedger):
            self._ledger = MemoryLedger()
        self._start()


class _Outage(CredentialUnavailable):
    """The broker or the ledger is out of reach; it did not refuse."""


def _stands_alone(held: Held) -> bool:
    """Whether it hangs under no other lease. Not in a comprehension: a tracer that raises there passes a `finally`."""
    return held.parent is None


def _failure(error: Exception) -> CredentialUnavailable:
    if isinstance(error, Unavailable):
        return _Outage(f"the issuer or the ledger is out of reach: {error}")
    return _Outage(f"the issuer or the ledger failed: {type(error).__name__}")


def _issued_record(lease: Lease, home: Home | None) -> Record:
    key = lease.key
    fields: dict[str, Any] = {"lease": lease.id, "type": lease.type, "fingerprint": lease.fingerprint}
    if not lease.lasts:
        fields["expires_by"] = int(lease.expires_at + lease.verifier_leeway)
    if lease.jti or lease.name or lease.parent:
        fields |= {name: value for name in ("jti", "name", "parent") if (value := getattr(lease, name))}
    facts = home.facts.get(key) if home is not None else None
    if facts is None or facts["issuer"] != lease.issuer:
        facts = Facts(
            task=lease.task, issuer=lease.issuer, audience=key.audience, scopes=list(key.scopes),
            resource=key.resource, tool=key.tool,
        )  # fmt: skip
        if home is None or key.resource:  # there are as many as there are resources, and most come once
            return Record(_ISSUED, {**facts, **fields})
        home.facts[key] = facts
    return Record(_ISSUED, fields, facts)
