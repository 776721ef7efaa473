"""Leases: credentials obtained under their key, reused within it, refreshed at half life, ended with their task."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from agentguard._drive import driven, loop_running, run_shielded, wait_for
from agentguard.credentials.leaks import LiveSecrets
from agentguard.credentials.ledger import MemoryLedger
from agentguard.errors import CredentialUnavailable
from agentguard.model.lease import Credential, Grant, Issued, Lease, LeaseKey
from agentguard.model.record import Event
from agentguard.ports import Issuer, Ledger

Key: TypeAlias = tuple[LeaseKey, str]
Record: TypeAlias = Callable[[Event, Mapping[str, Any]], None]
_HALF: Final = 0.5
_JITTER: Final = 0.1
_AGAIN: Final = 1.0  # seconds until a refresh that failed is tried again
_LAST: Final = 5.0  # seconds before its expiry from which a kept credential is not handed out any more


@dataclass(slots=True, eq=False)
class Held:
    """A lease in use by at least one call, or kept for the next."""

    issued: Issued
    key: Key
    refresh_at: float
    single_use: bool
    users: int = 0
    retired: bool = False
    revoked: bool = False


@dataclass(frozen=True, slots=True)
class Use:
    """One call's share of a lease."""

    held: Held
    credential: Credential
    cached: bool


class Leases:
    """All leases of one guard. Safe for concurrent use by threads and event loops.

    Args:
        issuer: issues and revokes.
        ledger: knows every credential that may exist, before it is asked for.
        record: writes an audit record; a raise means that nothing may be issued.
        clock: seconds since the epoch.
    """

    def __init__(self, issuer: Issuer, ledger: Ledger, record: Record, clock: Callable[[], float]) -> None:
        self.secrets = LiveSecrets()
        self._issuer, self._ledger, self._record, self._clock = issuer, ledger, record, clock
        self._lock = threading.Lock()
        self._kept: dict[Key, Held] = {}
        self._all: dict[str, dict[str, Held]] = {}
        self._flights: dict[Key, Future[None]] = {}
        # INVARIANT: a lease that was asked for is in `_all`, in `_failed`, or gone; whatever stops a revocation, a
        # cancellation and the five seconds of a shield included, leaves it in `_failed`.
        self._failed: dict[str, Lease] = {}

    def open_task(self, task: str) -> None:
        """From now on leases may be held for this task."""
        with self._lock:
            self._all.setdefault(task, {})

    async def obtain(self, grant: Grant) -> Use:
        """Return a live credential for a grant: a kept one, or a new one that exactly one caller asks for.

        Raises:
            CredentialUnavailable: the issuer failed, the ledger or the audit log could not be written, or the task has
                ended meanwhile (then what was issued is revoked).
        """
        key = (grant.key, grant.task)
        if grant.single_use:
            return self._use(await self._issue(grant, key), cached=False)
        while True:
            held, flight, leads = self._look(key)
            if held is not None:
                return self._use(held, cached=True)
            if leads:
                return await self._lead(grant, key, flight)
            if driven() and loop_running():  # whoever asks may need this very loop: it is not waited for
                return self._use(await self._issue(grant, key), cached=False)
            await wait_for(flight)

    def _look(self, key: Key) -> tuple[Held | None, Future[None], bool]:
        with self._lock:
            held = self._kept.get(key)
            if held is not None and self._clock() < held.refresh_at and not held.revoked:
                held.users += 1
                return held, _NO_FLIGHT, False
            flight = self._flights.get(key)
            if flight is not None:
                return None, flight, False
            flight = self._flights[key] = Future()
            return None, flight, True

    async def _lead(self, grant: Grant, key: Key, flight: Future[None]) -> Use:
        """Ask for the credential on behalf of all who wait; a cancelled leader sends them round again."""
        failure = ""
        try:
            return self._use(await self._issue(grant, key), cached=False)
        except Exception as error:
            kept = self._still_good(key)
            if kept is not None:
                return self._use(kept, cached=True)
            failure = str(error) or type(error).__name__
            raise
        finally:
            with self._lock:
                self._flights.pop(key, None)
            if failure:
                flight.set_exception(CredentialUnavailable(failure))
            else:
                flight.set_result(None)

    def _still_good(self, key: Key) -> Held | None:
        """A refresh failed: the kept credential serves until shortly before its end, and those who wait find it."""
        now = self._clock()
        with self._lock:
            held = self._kept.get(key)
            if held is None or held.revoked or now >= held.issued.lease.expires_at - _LAST:
                return None
            held.users += 1
            held.refresh_at = min(now + _AGAIN, held.issued.lease.expires_at - _LAST)
            return held

    async def _issue(self, grant: Grant, key: Key) -> Held:
        now = self._clock()
        lease = self._issuer.prepare(grant, now)
        with self._lock:
            home = self._all.get(grant.task)
        try:
            # INVARIANT: the ledger knows the lease before the issuer is asked; a failure from here on: "may exist".
            await self._ledger.pending(lease)
            issued = await self._issuer.issue(grant, lease, now)
            self.secrets.add(issued)
            await self._ledger.active(issued.lease)
            self._record(Event.CREDENTIAL_ISSUED, _issued_fields(issued.lease))
            held, idle = self._keep(grant, key, issued, home)
        except BaseException as error:
            await self._shielded(lambda: self._end_lease(lease, "rolled_back"))
            if isinstance(error, Exception) and not isinstance(error, CredentialUnavailable):
                raise CredentialUnavailable(f"the issuer or the ledger failed: {type(error).__name__}") from None
            raise
        if idle is not None:
            await self._shielded(lambda: self._end(idle, "refreshed"))
        return held

    async def _shielded(self, work: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        """A cancelled caller ends after its clean-up; one that takes too long is owed, and asked for again."""

        async def whole() -> None:
            await work()

        suspends = getattr(self._issuer, "suspends", True) or getattr(self._ledger, "suspends", True)
        with suppress(TimeoutError):
            await run_shielded(whole, suspends=suspends)

    def _keep(self, grant: Grant, key: Key, issued: Issued, home: dict[str, Held] | None) -> tuple[Held, Held | None]:
        """Keep a new lease under its key; return it, and the older one if nobody uses that any more.

        `home` is where the task's leases were when this one was asked for: a task that ended, was parked or suspended
        meanwhile has another one, or none.
        """
        lease = issued.lease
        life = lease.expires_at - lease.issued_at
        half = lease.issued_at + life * random.uniform(_HALF - _JITTER / 2, _HALF + _JITTER / 2)  # noqa: S311  # jitter
        held, idle = Held(issued, key, half, grant.single_use, users=1), None
        with self._lock:
            if home is None or self._all.get(grant.task) is not home:
                raise CredentialUnavailable("the task ended or was stopped while its credential was being issued")
            home[lease.id] = held
            if not grant.single_use:
                older = self._kept.get(key)
                self._kept[key] = held
                if older is not None:
                    older.retired = True
                    idle = older if older.users <= 0 else None
        return held, idle

    def _use(self, held: Held, *, cached: bool) -> Use:
        return Use(held, Credential(held.issued), cached)

    async def release(self, use: Use) -> str:
        """End one call's share: the credential forgets its secret, a single-use or retired lease is revoked.

        Returns:
            `kept`, `revoked` or `failed`.
        """
        use.credential.release()
        held = use.held
        with self._lock:
            held.users -= 1
            ends = held.users <= 0 and (held.single_use or held.retired) and not held.revoked
        if held.revoked:
            return "revoked"
        return await self._end(held, "call_end") if ends else "kept"

    async def _end(self, held: Held, why: str) -> str:
        with self._lock:
            if held.revoked:
                return "revoked"
            held.revoked = True
            self._all.get(held.issued.lease.task, {}).pop(held.issued.lease.id, None)
            if self._kept.get(held.key) is held:
                del self._kept[held.key]
        return await self._end_lease(held.issued.lease, why)

    async def _end_lease(self, lease: Lease, why: str) -> str:
        done = False
        try:
            done = await self._revoke(lease, why)
        finally:
            if not done:
                with self._lock:
                    self._failed[lease.id] = lease
        return "revoked" if done else "failed"

    async def _revoke(self, lease: Lease, why: str, *, again: bool = False) -> bool:
        """Ask the issuer; a failure is recorded once, and never raised."""
        try:
            await self._issuer.revoke(lease)
            self.secrets.discard(lease.id)
            await self._ledger.revoked(lease)
        except Exception as error:
            if not again:
                with suppress(Exception):  # its row says "may exist" already
                    await self._ledger.failed(lease, type(error).__name__)
                fields = {"why": why, "error": type(error).__name__}
                self._try_record(Event.CREDENTIAL_REVOKE_FAILED, lease, fields)
            return False
        self._try_record(Event.CREDENTIAL_REVOKED, lease, {"why": why})
        return True

    def _try_record(self, event: Event, lease: Lease, fields: Mapping[str, Any]) -> None:
        """A failed record never keeps a credential alive."""
        try:
            self._record(event, {"lease": lease.id, "task": lease.task, **fields})
        except Exception:  # noqa: S110  # the next call finds the audit log unavailable and is denied
            pass

    async def revoke(self, lease_id: str, why: str) -> None:
        """Revoke one lease now, whoever uses it."""
        with self._lock:
            held = next((leases[lease_id] for leases in self._all.values() if lease_id in leases), None)
        if held is not None:
            await self._end(held, why)

    async def end_task(self, task: str, why: str = "task_end", *, reopen: bool = False) -> int:
        """Revoke every lease of a task and return how many; what is being issued for it meanwhile is rolled back."""
        with self._lock:
            home = self._all.pop(task, None)
            if reopen and home is not None:
                self._all[task] = {}
            leases = list(home.values()) if home else []
            for held in leases:
                if self._kept.get(held.key) is held:
                    del self._kept[held.key]
        try:
            return [await self._end(held, why) for held in leases].count("revoked")
        finally:
            with self._lock:
                self._failed.update({held.issued.lease.id: held.issued.lease for held in leases if not held.revoked})

    async def retry_failed(self) -> None:
        """Ask again for what could not be revoked; an expired lease is forgotten."""
        with self._lock:
            failed = list(self._failed.items())
        for identifier, lease in failed:
            expired = lease.expires_by <= self._clock()
            if expired or await self._revoke(lease, "retried", again=True):
                self.secrets.discard(identifier)
                with self._lock:
                    self._failed.pop(identifier, None)

    async def outstanding(self) -> int:
        """How many credentials may be alive now."""
        return len(await self._ledger.outstanding(self._clock()))

    def forget_all(self) -> None:
        """After a fork the leases belong to the parent: the child forgets them and revokes nothing."""
        self._lock = threading.Lock()
        self.secrets = LiveSecrets()
        if isinstance(self._ledger, MemoryLedger):
            self._ledger = MemoryLedger()
        self._kept, self._all, self._flights, self._failed = {}, {}, {}, {}


_NO_FLIGHT: Final[Future[None]] = Future()


def _issued_fields(lease: Lease) -> Mapping[str, Any]:
    return {
        "lease": lease.id,
        "task": lease.task,
        "issuer": lease.issuer,
        "audience": lease.key.audience,
        "scopes": list(lease.key.scopes),
        "resource": lease.key.resource,
        "tool": lease.key.tool,
        "type": lease.type,
        "fingerprint": lease.fingerprint,
        "expires_by": int(lease.expires_by),
    }
