"""Grant (what was permitted), Lease (what was issued for it), and Credential (the secret, for one call)."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, NoReturn, Protocol

from msgspec import Struct

from agentguard.errors import CredentialUnavailable
from agentguard.model.principal import Chain

MAX_TOKEN: Final = 16 * 1024  # characters, of a token that is read or made
LEEWAY: Final = 30  # seconds a verifier may be behind; `expires_by` is exp + leeway


class LeaseKey(Struct, frozen=True, cache_hash=True):
    """What a lease may be reused for: nothing else ever shares it."""

    tenant: str
    subject: str
    root: str
    chain: tuple[str, ...]
    tool: str
    audience: str
    scopes: tuple[str, ...]
    resource: str


@dataclass(frozen=True, slots=True)
class SubjectToken:
    """What proves the subject to an authorization server: the subject token of RFC 8693 section 2.1.

    Args:
        secret: the token.
        type: its token type identifier (RFC 8693 section 3).
    """

    secret: Secret = field(repr=False)
    type: str


class Grant(Struct, frozen=True, kw_only=True):
    """What an issuer is asked for.

    Args:
        key: the lease key.
        chain: the delegation chain, for `sub` and the nested `act`.
        task: the task's id.
        intent_s256: hash of the intent, carried in the token.
        authorization_details: RFC 9396 details, or empty.
        details_s256: tells details apart, so that a lease serves only calls under the same ones; empty without any.
        single_use: one call only.
        reads: the tool only reads.
        deadline: seconds since the epoch after which nothing may be issued: the task's end, or what a policy lets.
        max_ttl: most seconds that the credential may live, where a policy says so; else 0.
        subject_token: what proves the subject, if there is such a thing.
        parent: this is a grant for the credential under which a task's leases at one broker hang.
    """

    key: LeaseKey
    chain: Chain
    task: str
    intent_s256: str
    authorization_details: tuple[Mapping[str, Any], ...] = ()
    details_s256: str = ""
    single_use: bool = False
    reads: bool = False
    deadline: float = 0.0
    max_ttl: int = 0
    subject_token: SubjectToken | None = None
    parent: bool = False


class LeaseState(StrEnum):
    """Where a lease is in its life; PENDING means that a credential may exist."""

    PENDING = "pending"
    ACTIVE = "active"
    REVOKING = "revoking"
    REVOKED = "revoked"
    EXPIRES = "expires"
    EXPIRED = "expired"
    IRREVOCABLE = "irrevocable"


class Ending(StrEnum):
    """What `Issuer.revoke` achieved.

    REVOKED: it is gone, or never was.
    EXPIRES: its server cannot revoke it; it ends by itself, by `Lease.expires_by`.
    WITH_PARENT: it cannot be ended alone and ends when its parent does.
    """

    REVOKED = "revoked"
    EXPIRES = "expires"
    WITH_PARENT = "with_parent"


class Placement(StrEnum):
    """How a credential is put on a request."""

    BEARER = "bearer"  # RFC 6750 section 2.1
    DPOP = "dpop"  # RFC 9449 section 7.1
    HEADER = "header"
    QUERY = "query"
    BASIC = "basic"  # RFC 7617
    LOGIN = "login"  # a name and a password, for a database


class Lease(Struct, frozen=True, kw_only=True):
    """What was issued: everything about a credential but its secret.

    Args:
        id: the lease's own id; the `jti` where the issuer lets us choose it.
        issuer: who issued it: the `iss`, or the broker's name.
        key: what it may be used for.
        task: the task that holds it.
        issued_at, expires_at: seconds since the epoch.
        fingerprint: first 16 base16 digits of the SHA-256 of the secret.
        type: what it is, for records: `at+jwt`, `access_token`, `login`, `static`, ...
        placement: how it is put on a request.
        name: the header's or query parameter's name, or the user name; never secret.
        jti: the id that its server gave it, where that is not `id`.
        parent: id of the lease under which it hangs, or empty.
        lasts: it does not end by itself at `expires_at`, so it must be revoked.
        verifier_leeway: seconds after `expires_at` in which a verifier may still accept it.
    """

    id: str
    issuer: str
    key: LeaseKey
    task: str
    issued_at: float
    expires_at: float
    fingerprint: str = ""
    type: str = "at+jwt"
    placement: Placement = Placement.BEARER
    name: str = ""
    jti: str = ""
    parent: str = ""
    lasts: bool = False
    verifier_leeway: int = LEEWAY

    @property
    def expires_by(self) -> float:
        """When every verifier refuses it, expiry and leeway; infinite for one that lasts."""
        return math.inf if self.lasts else self.expires_at + self.verifier_leeway


class Secret:
    """A text that shows itself nowhere: not in a repr, a format, a pickle, a copy or a debugger's `vars`.

    INVARIANT: no attribute is the text, so `vars`, `__slots__`, `asdict` and traceback locals hold none; what is kept
    is a method of it, which shows as an address and costs a sixth of a closure.
    """

    __slots__ = ("reveal",)

    reveal: Callable[[], str]
    """Return the text; call it only where it is sent."""

    def __init__(self, text: str) -> None:
        self.reveal = text.__str__

    def fingerprint(self) -> str:
        """16 base16 digits of its SHA-256."""
        return hashlib.sha256(self.reveal().encode()).hexdigest()[:16]

    def __repr__(self) -> str:
        return "<Secret>"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return "<Secret>"

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("a secret can be neither copied nor pickled")


class Prover(Protocol):
    """A key that a credential is bound to (RFC 9449); it stays where it was made."""

    def proof(self, method: str, url: str, token: str = "", nonce: str = "") -> str:
        """Return a new proof for one request: a `dpop+jwt` with a fresh `jti`."""
        ...


class Issued(Struct, frozen=True):
    """What an issuer returns.

    Args:
        lease: everything about the credential but its secret.
        secret: the token or password.
        handle: what `Issuer.revoke` needs beside the lease, if anything; kept sealed in the ledger.
        prover: the key it is bound to, or None for a bearer credential.
    """

    lease: Lease
    secret: Secret
    handle: Secret | None = None
    prover: Prover | None = None


class Shared(Protocol):
    """What holds a lease for the calls that share it."""

    @property
    def revoked(self) -> bool: ...
    @property
    def leaked(self) -> bool: ...


class _Alone:
    revoked = leaked = False


_ALONE: Final[Shared] = _Alone()


class Credential:
    """The credential of the running call; after the call it holds nothing.

    `token` raises `CredentialUnavailable` once the call has ended, also in a thread that outlived it, and once the
    lease was revoked, as when its task is suspended while the call runs.
    """

    __slots__ = ("_prover", "_secret", "_shared", "lease", "renewed_by")

    renewed_by: Callable[[str], Coroutine[Any, Any, None]] | None
    """How another is obtained, for a lease that was refused; the guard says so."""

    def __init__(self, issued: Issued, shared: Shared = _ALONE) -> None:
        self.renewed_by = None
        self._shared = shared
        self.lease = issued.lease
        self._secret: Secret | None = issued.secret
        self._prover = issued.prover

    def take(self, issued: Issued, shared: Shared = _ALONE) -> None:
        """Stand for this one from now on; the guard calls it."""
        self.lease, self._shared = issued.lease, shared
        self._secret = issued.secret
        self._prover = issued.prover

    @property
    def token(self) -> str:
        """The bearer token; never put it into a message, a result or a log.

        Raises:
            CredentialUnavailable: the call it was obtained for has ended, or it was revoked.
        """
        return self._revealed().reveal()

    @property
    def username(self) -> str:
        """The user name of a login, such as a database role's; empty for a token."""
        return self.lease.name if self.lease.placement in (Placement.LOGIN, Placement.BASIC) else ""

    @property
    def password(self) -> str:
        """The password of a login; never put it into a message, a result or a log.

        Raises:
            CredentialUnavailable: the call it was obtained for has ended, or it was revoked, or it is no login.
        """
        if self.lease.placement not in (Placement.LOGIN, Placement.BASIC):
            raise CredentialUnavailable(f"a credential of type {self.lease.type} has no password; read its token")
        return self._revealed().reveal()

    def _revealed(self) -> Secret:
        secret = self._secret
        if secret is None:
            raise CredentialUnavailable(
                "the call this credential was obtained for has ended; obtain it inside the call"
            )
        if self.leaked:
            raise CredentialUnavailable(
                "another call leaked this credential, so it was revoked; `await credential.renew()` obtains another one"
            )
        if self._shared.revoked:
            raise CredentialUnavailable(
                "this credential was revoked while its call runs: its task has ended or was stopped, or it leaked"
            )
        return secret

    def proof(self, method: str, url: str, nonce: str = "") -> str:
        """Return a DPoP proof for one request with this token, or "" for one that is bound to no key (RFC 9449).

        Raises:
            CredentialUnavailable: the call it was obtained for has ended, or it was revoked.
        """
        token = self.token
        return self._prover.proof(method, url, token, nonce) if self._prover is not None else ""

    async def renew(self, refused: str = "") -> None:
        """Let go of this one, because its target refused it or it ends, and stand for a new one.

        Args:
            refused: id of the lease that was refused; where this stands for another one by now, nothing is obtained.

        Raises:
            CredentialUnavailable: the call or its task has ended or is stopped, or no other credential could be had.
        """
        renewed_by = self.renewed_by
        if renewed_by is None or self._secret is None:
            raise CredentialUnavailable("this credential cannot be renewed; its call has ended")
        await renewed_by(refused or self.lease.id)

    @property
    def audience(self) -> str:
        """The origin it is for."""
        return self.lease.key.audience

    @property
    def live(self) -> bool:
        """Whether the call it belongs to is still running, and nobody revoked it."""
        return self._secret is not None and not self._shared.revoked

    @property
    def revoked(self) -> bool:
        """Whether it was revoked while its call runs: its task has ended or was stopped, or it leaked."""
        return self._secret is not None and self._shared.revoked

    @property
    def leaked(self) -> bool:
        """Whether it was revoked because another call that shares it leaked it; then `renew` obtains another one."""
        return self._secret is not None and self._shared.leaked

    def release(self) -> None:
        """Forget the secret."""
        self._secret = self._prover = self.renewed_by = None

    def __repr__(self) -> str:
        return f"<Credential {self.lease.id} for {self.audience}, {'live' if self.live else 'ended'}>"

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("a credential can be neither copied nor pickled")
