"""The issuer: one token a task, and under it what the task's tools need.

auth/<mount>/login          the task's token          its end, auth/token/revoke-self, ends all that is below
  database/creds/<role>     a login made for the task
  secret/data/<path>        a static secret, lent to the task
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Final, TypeAlias

from msgspec.structs import replace

from agentguard._http import Http
from agentguard.credentials.openbao.database import Database
from agentguard.credentials.openbao.ending import end_lease, end_token, is_free, sealed
from agentguard.credentials.openbao.login import JwtLogin, log_in, prolong
from agentguard.credentials.openbao.static import StaticSecret
from agentguard.credentials.openbao.sweep import sweep
from agentguard.credentials.openbao.target import Received, ended_by, room_in
from agentguard.credentials.openbao.vault import ASKING, Refused, Vault
from agentguard.errors import ConfigurationError, CredentialUnavailable
from agentguard.model.credential import Issued
from agentguard.model.lease import Ending, Grant, Lease, LeaseKey, Secret

Target: TypeAlias = Database | StaticSecret
TASK_TOKEN: Final = "vault_token"  # noqa: S105  # the type of a lease


class OpenBaoIssuer:
    """Obtains credentials from OpenBao or Vault; implements the port `ParentIssuer`. Safe for concurrent use.

    The task's token is made by a login for this task alone, and it is refused, and revoked, if it is almighty or lives
    longer than `ttl`. A database role is refused if it lives longer. What is asked for is never asked for twice: an
    answer that is lost leaves a token that ends within `ttl`, or a lease that ends with its token.

    Args:
        http: sends.
        address: of the vault, for example `https://vault.example:8200`.
        login: how a task's token is had.
        targets: what there is for which audience and scopes.
        ttl: most seconds that a token or a lease may live unless it is renewed, 5 to 3600.
        namespace: of the vault; empty for the root namespace.

    Raises:
        ConfigurationError: address, namespace or ttl is wrong, or two targets are for the same audience and scopes.
    """

    suspends: bool = False
    waits: bool = True
    remote: bool = True

    def __init__(
        self,
        http: Http,
        address: str,
        *,
        login: JwtLogin,
        targets: Sequence[Target],
        ttl: int = 60,
        namespace: str = "",
    ) -> None:
        if type(ttl) is not int or not 5 <= ttl <= 3600:
            raise ConfigurationError(f"openbao ttl {ttl!r}: write whole seconds from 5 to 3600")
        self._vault = Vault(http, address, namespace)
        self._login, self._ttl = login, ttl
        self._targets = {(target.audience, frozenset(target.scopes)): target for target in targets}
        if len(self._targets) != len(targets) or not targets:
            raise ConfigurationError("openbao targets: write one for each audience and scopes, and at least one")
        # INVARIANT: what the vault gave and `issue` did not return is here, so `revoke` without a handle can end it.
        self._unreturned: dict[str, tuple[str, Secret]] = {}
        self._deadlines: dict[str, float] = {}

    @property
    def name(self) -> str:
        """The address, and the namespace if any: the `issuer` of its leases."""
        return self._vault.name

    def parent(self, grant: Grant) -> Grant | None:
        """Return the grant of the task's token, which all of the task's credentials from this vault hang under.

        Raises:
            CredentialUnavailable: there is nothing for this audience and these scopes, so nobody has to log in.
        """
        if grant.parent:
            return None
        self._target(grant)
        key = grant.key
        of_task = LeaseKey(key.tenant, key.subject, key.root, key.chain, "", self._vault.address, (), "")
        return Grant(
            key=of_task, chain=grant.chain, task=grant.task, intent_s256=grant.intent_s256, deadline=grant.deadline,
            parent=True,
        )  # fmt: skip

    def prepare(self, grant: Grant, now: float) -> Lease:
        """Return the lease as long as it may live at most.

        A token or a database role may outlive the task's end until it is revoked, so the task's end does not make it
        shorter here; our copy of a static secret does end then.

        Raises:
            CredentialUnavailable: there is nothing for this audience and these scopes.
        """
        target = None if grant.parent else self._target(grant)
        ends = now + self._ttl
        lease = Lease(
            id=secrets.token_hex(16), issuer=self.name, key=grant.key, task=grant.task, issued_at=now, expires_at=ends,
            type=TASK_TOKEN, name=self._login.role,
        )  # fmt: skip
        if target is None:
            return lease
        lease = replace(
            lease, type=target.type, placement=target.placement, name=target.label, verifier_leeway=target.leeway
        )
        return replace(lease, expires_at=min(ends, grant.deadline)) if isinstance(target, StaticSecret) else lease

    async def issue(self, grant: Grant, lease: Lease, now: float) -> Issued:
        """Log in for a task.

        Raises:
            CredentialUnavailable: the vault refused the login, or the token is not what it has to be; then `revoke`
                with the prepared lease ends it.
            Unavailable: the vault or the workload's identity is out of reach.
        """
        if not grant.parent:
            raise CredentialUnavailable("what the vault gives hangs under the task's token: use issue_under")
        seconds = self._seconds(grant, lease, now)
        token = await log_in(self._vault, self._login, self._ttl, seconds=seconds, now=now)
        self._hold(lease, "", sealed(self._vault, token.secret, provable=False))
        if token.problem:
            raise CredentialUnavailable(token.problem)
        handle = sealed(self._vault, token.secret, provable=await is_free(self._vault, token.secret, seconds))
        lease = ended_by(lease, Received(token.secret, token.role, token.entity, token.seconds), now)
        room_in(self._deadlines)[lease.id] = grant.deadline
        self._unreturned.pop(lease.id, None)
        return Issued(lease, token.secret, handle)

    async def issue_under(self, parent: Issued, grant: Grant, lease: Lease, now: float) -> Issued:
        """Read what there is for a grant's audience, with the task's token.

        Raises:
            CredentialUnavailable: the vault's policy or configuration does not give it, or it is not what it has to be.
            Unavailable: the vault is out of reach, sealed or a standby.
        """
        target, seconds = self._target(grant), self._seconds(grant, lease, now)
        received = target.read(
            await self._vault.ask("GET", target.reads, token=parent.secret, seconds=seconds, retry=target.repeatable),
            self._ttl,
        )
        if isinstance(received, Refused):
            raise received.error()
        if received.problem:
            self._hold(lease, received.jti, parent.handle or sealed(self._vault, parent.secret, provable=False))
            raise CredentialUnavailable(received.problem)
        lease = ended_by(lease, received, now)
        if isinstance(target, StaticSecret):
            return Issued(replace(lease, parent=""), received.secret)  # it does not end with the token
        return Issued(lease, received.secret, parent.handle)

    async def renew(self, issued: Issued, until: float, now: float) -> Issued | None:
        """Prolong a task's token, at most by `ttl` and to the task's end; None if its own end is reached.

        Raises:
            Unavailable: the vault is out of reach.
        """
        lease = issued.lease
        until = min(until, self._deadlines.get(lease.id, until), now + self._ttl)
        asked = int(until - now)
        if now + asked <= lease.expires_at:
            # It is good until then already; asking for less than it has would make it shorter.
            return issued if now < lease.expires_at else None
        seconds = await prolong(self._vault, issued.secret, asked)
        if seconds is None:
            return None
        if seconds > self._ttl:  # a periodic token takes no increment
            if issued.handle is not None:
                await end_token(self._vault, issued.handle)
            return None
        ends = now + seconds
        if seconds < asked and ends <= lease.expires_at + 1:  # its maximum is reached
            return None
        return replace(issued, lease=replace(lease, expires_at=ends))

    async def revoke(self, lease: Lease, handle: Secret | None = None) -> Ending:
        """End a token with all that hangs under it, or one lease; see `ending` for what each answer proves.

        Our copy of a static secret has ended when this returns; that its row stays until `expires_at`, as EXPIRES,
        says that nobody revoked the secret itself.

        Raises:
            CredentialUnavailable: the lease is not of this vault, or the policy forbids what has to be done.
            Unavailable: the vault is out of reach, sealed or a standby; ask again.
        """
        if lease.issuer != self.name:
            raise CredentialUnavailable(f"the lease is of {lease.issuer}, not of {self.name}")
        if lease.type == StaticSecret.type:
            return Ending.EXPIRES
        jti = lease.jti
        if handle is None:
            jti, handle = self._unreturned.get(lease.id, (jti, None))
        if lease.type == TASK_TOKEN:
            ending = await end_token(self._vault, handle) if handle else Ending.EXPIRES
        else:
            ending = await end_lease(self._vault, jti, handle) if handle and jti else Ending.WITH_PARENT
        self._unreturned.pop(lease.id, None)
        self._deadlines.pop(lease.id, None)
        return ending

    async def sweep(self, audience: str, *, login: JwtLogin, scopes: Sequence[str] = (), now: float) -> None:
        """End every lease of a database role at once, of all tasks and hosts: for operators, when tokens are lost.

        Args:
            audience, scopes: of the target.
            login: for a role whose policy allows `sys/leases/revoke-prefix/{mount}/creds/{role}` with sudo and update;
                no task's own role should.
            now: seconds since the epoch.

        Raises:
            CredentialUnavailable: there is no such database, or the policy forbids it.
            Unavailable: the vault is out of reach, or not all could be ended.
        """
        target = self._targets.get((audience, frozenset(scopes)))
        if not isinstance(target, Database):
            raise CredentialUnavailable(f"the vault has no database for {audience} with scopes {sorted(scopes)}")
        await sweep(self._vault, target, login, self._ttl, now)

    def __repr__(self) -> str:
        return f"<OpenBaoIssuer {self.name} {self._login.role}>"

    def _target(self, grant: Grant) -> Target:
        target = self._targets.get((grant.key.audience, frozenset(grant.key.scopes)))
        if target is None:
            scopes = " ".join(grant.key.scopes) or "none"
            raise CredentialUnavailable(
                f"the vault has nothing for {grant.key.audience} with scopes {scopes}: add a target with exactly these"
            )
        return target

    def _seconds(self, grant: Grant, lease: Lease, now: float) -> float:
        """How long may be asked: to the task's end, and less than the leeway in which the lease may end later."""
        if lease.issuer != self.name or lease.key != grant.key:
            raise CredentialUnavailable("the lease was prepared for another grant")
        seconds = min(ASKING, grant.deadline - now)
        if seconds <= 0:
            raise CredentialUnavailable("the time in which a credential may be issued has passed")
        return seconds

    def _hold(self, lease: Lease, jti: str, handle: Secret) -> None:
        room_in(self._unreturned)[lease.id] = jti, handle
