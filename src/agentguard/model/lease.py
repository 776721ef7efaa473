"""Grant (what was permitted), Lease (what was issued for it), and Credential (the secret, for one call)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, NoReturn

from agentguard.errors import CredentialUnavailable
from agentguard.model.principal import Chain

LEEWAY: Final = 30  # seconds a verifier may be behind; `expires_by` is exp + leeway


@dataclass(frozen=True, slots=True)
class LeaseKey:
    """What a lease may be reused for: nothing else ever shares it."""

    tenant: str
    subject: str
    root: str
    chain: tuple[str, ...]
    tool: str
    audience: str
    scopes: tuple[str, ...]
    resource: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What an issuer is asked for.

    Args:
        key: the lease key.
        chain: the delegation chain, for `sub` and the nested `act`.
        task: the task's id.
        intent_s256: hash of the intent, carried in the token.
        authorization_details: RFC 9396 details, or empty.
        single_use: one call only.
        deadline: seconds since the epoch after which nothing may be issued: the task's end.
    """

    key: LeaseKey
    chain: Chain
    task: str
    intent_s256: str
    authorization_details: tuple[Mapping[str, Any], ...] = ()
    single_use: bool = False
    deadline: float = 0.0


class LeaseState(StrEnum):
    """Where a lease is in its life; PENDING means that a credential may exist."""

    PENDING = "pending"
    ACTIVE = "active"
    REVOKING = "revoking"
    REVOKED = "revoked"
    EXPIRED = "expired"
    IRREVOCABLE = "irrevocable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """What was issued: everything about a credential but its secret.

    Args:
        id: the `jti`.
        issuer: the `iss`.
        key: what it may be used for.
        task: the task that holds it.
        issued_at, expires_at: seconds since the epoch.
        fingerprint: first 16 base16 digits of the SHA-256 of the secret.
        type: `at+jwt` for the local issuer.
    """

    id: str
    issuer: str
    key: LeaseKey
    task: str
    issued_at: float
    expires_at: float
    fingerprint: str = ""
    type: str = "at+jwt"

    @property
    def expires_by(self) -> float:
        """When every verifier refuses it: expiry and the leeway."""
        return self.expires_at + LEEWAY


class Secret:
    """A text that shows itself nowhere: not in a repr, a format, a pickle, a copy or a debugger's `vars`.

    INVARIANT: the text lives in a closure, so `vars`, `__slots__`, `asdict` and traceback locals hold no text.
    """

    __slots__ = ("_reveal",)

    def __init__(self, text: str) -> None:
        self._reveal: Callable[[], str] = lambda: text

    def reveal(self) -> str:
        """Return the text; call it only where it is sent."""
        return self._reveal()

    def fingerprint(self) -> str:
        """16 base16 digits of its SHA-256."""
        return hashlib.sha256(self._reveal().encode()).hexdigest()[:16]

    def __repr__(self) -> str:
        return "<Secret>"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return "<Secret>"

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("a secret can be neither copied nor pickled")


@dataclass(frozen=True, slots=True)
class Issued:
    """What an issuer returns: the lease, and its secret."""

    lease: Lease
    secret: Secret


class Credential:
    """The credential of the running call; after the call it holds nothing.

    `token` raises `CredentialUnavailable` once the call has ended, also in a thread that outlived it.
    """

    __slots__ = ("_secret", "lease")

    def __init__(self, issued: Issued) -> None:
        self.lease = issued.lease
        self._secret: Secret | None = issued.secret

    @property
    def token(self) -> str:
        """The bearer token; never put it into a message, a result or a log.

        Raises:
            CredentialUnavailable: the call it was obtained for has ended.
        """
        secret = self._secret
        if secret is None:
            raise CredentialUnavailable(
                "the call this credential was obtained for has ended; obtain it inside the call"
            )
        return secret.reveal()

    @property
    def audience(self) -> str:
        """The origin it is for."""
        return self.lease.key.audience

    @property
    def live(self) -> bool:
        """Whether the call it belongs to is still running."""
        return self._secret is not None

    def release(self) -> None:
        """Forget the secret."""
        self._secret = None

    def __repr__(self) -> str:
        return f"<Credential {self.lease.id} for {self.audience}, {'live' if self.live else 'ended'}>"

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("a credential can be neither copied nor pickled")


@dataclass(slots=True)
class Uses:
    """How many running calls hold a lease; a retired lease is revoked when the last of them ends."""

    running: int = 0
    retired: bool = field(default=False)
