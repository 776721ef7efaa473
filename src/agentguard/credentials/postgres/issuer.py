"""The issuer `PostgresRoles`: a login role for each lease, dropped when the lease ends."""

from __future__ import annotations

import logging
import math
import os
import re
import secrets
import time
import weakref
from collections.abc import Callable
from typing import Final, TypeVar
from urllib.parse import unquote, urlsplit

import anyio.to_thread
from msgspec.structs import replace

from agentguard._drive import driven
from agentguard.credentials.postgres.grants import Grants, GrantsForm, Privileges
from agentguard.credentials.postgres.roles import ISSUE, Limits, Roles
from agentguard.errors import ConfigurationError, CredentialUnavailable
from agentguard.model.credential import Issued
from agentguard.model.lease import Ending, Grant, Lease, Placement, Secret

_log: Final = logging.getLogger("agentguard")
_OWNER: Final = re.compile(r"[a-z0-9]{1,16}")
_ROLE: Final = re.compile(r"ag_[a-z0-9]{1,16}_[0-9a-f]{24}")

T = TypeVar("T")
_issuers: Final[weakref.WeakSet[PostgresRoles]] = weakref.WeakSet()


class PostgresRoles:
    """Issues logins at one PostgreSQL database; implements the port `Issuer`. Safe for threads.

    Each lease is a role of its own, with the privileges that the configuration lists for the tool's resource and
    scopes, and with nothing inherited. Revoking it ends its sessions and drops it; the role's name is enough for that,
    so a lost answer or a crash leaves nothing behind. PostgreSQL looks at VALID UNTIL only when somebody logs in, so a
    role counts as alive until it is dropped.

    Args:
        dsn: the admin's connection string, or what returns it (asked at each new connection). Its role needs CREATEROLE
            and every privilege it hands on WITH GRANT OPTION; a superuser is not needed.
        audience: the database as tools name it: `postgresql://db.example:5432/app`.
        grants: by resource, table and scope the privileges (see `Grants`).
        ttl: seconds in which the login is good, 10 to 3600.
        owner: names this installation in the roles' names, `ag_OWNER_...`: 1 to 16 of a-z and 0-9.
        connections: sessions that a role may have at once, 1 to 100.
        statement_timeout: seconds that a statement of the role may take unless it says otherwise.
        window: seconds after it was prepared in which a role may be created, by the server's clock, 6 to 60.

    Raises:
        ConfigurationError: a value is out of range, or the grants have a mistake.
    """

    suspends: bool = False
    waits: bool = True
    remote: bool = True

    def __init__(
        self, dsn: str | Secret | Callable[[], str], *, audience: str, grants: GrantsForm, ttl: int = 300,
        owner: str = "main", connections: int = 4, statement_timeout: float = 30.0, window: float = 10.0,
    ) -> None:  # fmt: skip
        _check_range("ttl", ttl, 10, 3600)
        _check_range("connections", connections, 1, 100)
        _check_range("statement_timeout", statement_timeout, 0.1, 3600)
        _check_range("window", window, ISSUE + 1, 60)
        if not _OWNER.fullmatch(owner):
            raise ConfigurationError(f"owner {owner!r}: write 1 to 16 characters of a-z and 0-9")
        self._audience, self._owner, self._ttl, self._window = audience, owner, ttl, window
        self._grants, self._address = Grants(grants), _address(audience)
        self._roles = Roles(_reader(dsn), self._address[2], Limits(int(connections), statement_timeout, window))
        self._linted = False
        _issuers.add(self)

    @property
    def name(self) -> str:
        """The database: the `issuer` of its leases."""
        return self._audience

    # --- the port ---------------------------------------------------------------------------------------------

    def prepare(self, grant: Grant, now: float) -> Lease:
        """Return the lease with its role's name and the end of its login, before the role is asked for.

        Raises:
            CredentialUnavailable: nothing is configured for the grant's audience, resource or scopes.
        """
        self._privileges(grant)
        unique = secrets.token_hex(12)
        return Lease(
            id=f"pg-{unique}", issuer=self._audience, key=grant.key, task=grant.task, issued_at=now,
            expires_at=math.ceil(min(now + self._ttl, grant.deadline)), type="login", placement=Placement.LOGIN,
            name=f"ag_{self._owner}_{unique}", lasts=True,
        )  # fmt: skip

    async def issue(self, grant: Grant, lease: Lease, now: float) -> Issued:
        """Create the role of a prepared lease.

        Raises:
            CredentialUnavailable: the task's end or the lease's has passed, the role was asked for or revoked already,
                the database cannot be reached or refuses, or nothing is configured for the grant.
        """
        if not (now < grant.deadline and now < lease.expires_at):
            raise CredentialUnavailable("the time in which a credential may be issued has passed")
        if lease.key != grant.key or lease.issuer != self._audience:
            raise CredentialUnavailable("the lease was prepared for another grant")
        role, privileges = _role_of(lease), self._privileges(grant)
        self._roles.expect(role)  # a caller may be cancelled before its thread begins, or asks
        return await _blocking(lambda: self._create(role, privileges, lease))

    async def revoke(self, lease: Lease, handle: Secret | None = None) -> Ending:
        """End the role's sessions and drop it, issued or only prepared; once more changes nothing.

        Raises:
            CredentialUnavailable: it could not be done, the role may still be created, or it was made at another server
                than the dsn leads to now; ask again.
        """
        if lease.issuer != self._audience:
            raise CredentialUnavailable(f"lease {lease.id} was issued by {lease.issuer}, not by {self._audience}")
        # INVARIANT: a role is dropped where it was made; another server would say that there is none. Behind several
        # brokers a lease's issuer is a name, under which another database may stand by now.
        if _address_or_none(lease.key.audience) != self._address:
            raise CredentialUnavailable(
                f"the role is of {lease.key.audience}, and this broker asks {self._audience} now; put it back under "
                "`tokens` until its leases have ended"
            )
        role = _role_of(lease)
        server = handle.reveal() if handle is not None else ""
        await _blocking(lambda: self._roles.end(role, lease.issued_at + self._window, server))
        return Ending.REVOKED

    # --- beside the port --------------------------------------------------------------------------------------

    async def check(self) -> tuple[str, ...]:
        """Return what roles may do beside their grants, because PUBLIC may: one line each, with its remedy."""
        return await _blocking(self._roles.findings)

    async def sweep(self, older: float = 3600.0) -> tuple[str, ...]:
        """Drop roles of this owner whose row in the ledger was lost, and return their names; at most 100 a call.

        Args:
            older: seconds since the end of their login; a task can still use an open session after that end.
        """
        prefix, moment = f"ag_{self._owner}_", time.time() - older
        listed = await _blocking(lambda: self._roles.ended_before(prefix, moment))
        names = [name for name in listed if _ROLE.fullmatch(name)]
        for name in names:
            await _blocking(lambda name=name: self._roles.end(name, 0.0))  # type: ignore[misc]  # bound now
        return tuple(names)

    def close(self) -> None:
        """Close the admin's connections; roles that live are not dropped by this."""
        self._roles.connections.close()

    def __repr__(self) -> str:
        return f"<PostgresRoles {self._audience}>"

    def _privileges(self, grant: Grant) -> tuple[Privileges, ...]:
        key = grant.key
        if _address_or_none(key.audience) != self._address:
            raise CredentialUnavailable(f"roles are made for {self._audience}, not for {key.audience}")
        return self._grants.of(key.resource, key.scopes, reads=grant.reads)

    def _create(self, role: str, privileges: tuple[Privileges, ...], lease: Lease) -> Issued:
        self._lint_once()
        password, server = self._roles.create(role, privileges, prepared=lease.issued_at, until=lease.expires_at)
        handle = Secret(server) if server else None
        return Issued(replace(lease, fingerprint=password.fingerprint()), password, handle)

    def _lint_once(self) -> None:
        """Say, before the first role is made, what every role may do."""
        if self._linted:
            return
        for line in self._roles.findings():
            _log.warning("roles at %s: %s", self._audience, line)
        self._linted = True

    def forget(self) -> None:
        """After a fork: the connections belong to the parent."""
        self._roles.forget()


async def _blocking(work: Callable[[], T]) -> T:
    """Work in place for a synchronous caller, else in a thread; it is bounded, so a cancelled caller waits for it.

    One that asyncio itself cancels does not: then the work goes on beside what comes next.
    """
    if driven():
        return work()
    return await anyio.to_thread.run_sync(work)


def _check_range(name: str, value: float, least: float, most: float) -> None:
    if type(value) not in (int, float) or not least <= value <= most:
        raise ConfigurationError(f"{name} {value!r}: write a number from {least:g} to {most:g}")


def _reader(dsn: str | Secret | Callable[[], str]) -> Callable[[], str]:
    if isinstance(dsn, Secret):
        return dsn.reveal
    if isinstance(dsn, str):
        return Secret(dsn).reveal
    if callable(dsn):
        return dsn
    raise ConfigurationError("dsn: write the admin's connection string, or a function that returns it")


def _role_of(lease: Lease) -> str:
    """INVARIANT: nothing but a role that was made here is created or dropped, whatever stands in a ledger."""
    if not _ROLE.fullmatch(lease.name):
        raise CredentialUnavailable(f"lease {lease.id} names no role that was made for a task")
    return lease.name


def _address(audience: str) -> tuple[str, int, str]:
    found = _address_or_none(audience)
    if found is None:
        raise ConfigurationError(f"audience {audience!r}: write postgresql://db.example:5432/app")
    return found


def _address_or_none(audience: str) -> tuple[str, int, str] | None:
    try:
        parts = urlsplit(audience)
        port = parts.port or 5432
    except ValueError:
        return None
    database = unquote(parts.path[1:])
    odd = parts.scheme != "postgresql" or parts.username is not None or parts.query or parts.fragment
    return None if odd or not parts.hostname or not database or "/" in database else (parts.hostname, port, database)


def _after_fork() -> None:
    for issuer in tuple(_issuers):
        issuer.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
