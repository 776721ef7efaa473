"""Grant (what was permitted), Lease (what is issued for it), and Secret, which nothing shows by accident."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, NoReturn

from msgspec import Struct

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
