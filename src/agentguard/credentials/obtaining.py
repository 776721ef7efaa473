"""How leases begin: a kept credential is given again, or exactly one caller asks for a new one."""

from __future__ import annotations

import math
from collections.abc import Coroutine
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import Any, Final

from msgspec.structs import replace

from agentguard._drive import driven, loop_running, wait_for
from agentguard.credentials.ending import Endings
from agentguard.credentials.flight import Flight
from agentguard.credentials.held import Held, Key, Use, apart, key_of, refresh_time
from agentguard.credentials.kept import Home
from agentguard.credentials.revocation import ROLLED_BACK
from agentguard.errors import CredentialUnavailable, Unavailable
from agentguard.model.credential import Credential, Issued
from agentguard.model.lease import Grant, Lease
from agentguard.model.record import Event, Facts, Record

_ROUNDED: Final = 1.0  # seconds by which whole seconds may exceed what was asked for
_ISSUED: Final = Event.CREDENTIAL_ISSUED  # found faster than in its enumeration
LOOK_SECONDS: Final = 1.0  # after which one who waits for another caller looks whether there still is one


class Obtaining(Endings):
    """How the calls of one guard get their credentials."""

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
                return Use(held, Credential(held.issued, held), cached=True)
            if other is None:
                return await self._lead(grant, key, mine)
            if driven() and loop_running():  # whoever asks may need this very loop: it is not waited for
                return await self._issue(grant, key)
            with suppress(TimeoutError):  # looked at again: whoever asks may have been stopped
                await wait_for(other, LOOK_SECONDS)

    def reuse(self, key: Key, task: str) -> Use | None:
        """Return a kept credential that is not to be refreshed yet, or None: then `obtain` is asked.

        It is what `obtain` would return for every grant with this key, found before there is a grant.
        """
        with self._lock:
            held = self._kept.get(key, task)
            if held is None or held.revoked or self._clock() >= held.refresh_at:
                return None
            held.users += 1
        return Use(held, Credential(held.issued, held), cached=True)

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
                return Use(renewed, Credential(renewed.issued, renewed), cached=False)
            return await self._issue(grant, key)
        except Exception as error:
            kept = self._still_good(grant, key, error)
            if kept is not None:
                return Use(kept, Credential(kept.issued, kept), cached=True)
            failure = CredentialUnavailable(str(error) or type(error).__name__)
            raise
        finally:
            with self._lock:
                del self._flights[key]
            mine.land(failure)

    def _still_good(self, grant: Grant, key: Key, error: Exception) -> Held | None:
        """A refresh failed: the kept credential serves until shortly before its end, and those who wait find it."""
        now, grace = self._clock(), 0.0
        if self._grace and grant.reads and isinstance(error, CredentialUnavailable) and error.outage:
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
            await self._ledger.active(issued.lease, issued.handle)
            lease = issued.lease
            # After the ledger: a longer one may be one that its server cannot revoke.
            if grant.max_ttl and lease.expires_at > now + grant.max_ttl + _ROUNDED:
                raise CredentialUnavailable(
                    f"a policy lets the credential live {grant.max_ttl} seconds, and its issuer made a longer one"
                )
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
            ends_at = error.ends_at if isinstance(error, CredentialUnavailable) and issued is None else 0.0
            await self._shielded(partial(self._roll_back, lease, issued, parent, ends_at))
            if isinstance(error, Exception) and not isinstance(error, CredentialUnavailable):
                raise _failure(error) from None
            raise
        try:
            for other in idle:
                await self._shielded(partial(self._end, other, "refreshed"))
        except BaseException:  # its caller does not get it; who comes next does
            await self._shielded(partial(self._let_go, held))
            raise
        return Use(held, Credential(issued, held), cached=False)

    async def _parent(self, grant: Grant) -> Held | None:
        """The credential that this one is to hang under; the lease is one more user of it."""
        above = self._parents.parent(grant) if self._parents is not None and not grant.parent else None
        return (await self.obtain(above)).held if above is not None else None

    async def _issue_under(self, parent: Held, grant: Grant, lease: Lease, now: float) -> Issued:
        assert self._parents is not None  # noqa: S101  # a parent is one of its issuer
        return await self._parents.issue_under(parent.issued, grant, lease, now)

    async def _roll_back(self, lease: Lease, issued: Issued | None, parent: Held | None, ends_at: float) -> None:
        """What may exist ends, if not now then as late as its issuer says; the parent has one user less."""
        try:
            if ends_at > lease.expires_at:
                lease = replace(lease, expires_at=ends_at)
                self._revocations.owe(lease, None)  # whatever stops the next line
                with suppress(Exception):  # its row says an earlier end, but its records do not
                    await self._ledger.active(lease)
            await self._revocations.end(
                issued.lease if issued else lease, issued.handle if issued else None, ROLLED_BACK
            )
        finally:
            if parent is not None:
                await self._let_go(parent)


class _Outage(CredentialUnavailable):
    """The broker or the ledger is out of reach; it did not refuse."""

    outage = True


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
