"""The local issuer: access tokens (RFC 9068) signed in this process, revocable at once.

Claims: `iss`, `sub`, `aud`, `client_id`, `iat`, `exp`, `jti`; `scope`; `act`, the delegation chain (RFC 8693 section
4.1); `authorization_details` (RFC 9396); `txn`, the root task; `tenant`; `intent_s256`, the hash of the intent; and
`agentguard_resource`, the one resource the token is for. The last three are our own (private claims, RFC 7519 section
4.3); the resource has our prefix because other issuers give `resource` other meanings.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import time
import weakref
from binascii import b2a_base64
from collections.abc import Callable, Mapping
from math import ceil, floor
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from agentguard.credentials.alive import Alive
from agentguard.errors import ConfigurationError, CredentialUnavailable, Unavailable
from agentguard.keys import KeySet, Signer, Signers, SigningKey
from agentguard.model.credential import Issued
from agentguard.model.lease import LEEWAY, MAX_TOKEN, Ending, Grant, Lease, LeaseKey, Secret
from agentguard.model.principal import MAX_ACTORS, Chain, checked_name

_MOST_BEGUN: Final = 64
_REVOKED: Final = Ending.REVOKED  # found faster than in its enumeration
MAX_LIFETIME: Final = 30  # exp + leeway stays within a minute of the issue
_SCOPE: Final = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+")
_URLSAFE: Final = bytes.maketrans(b"+/", b"-_")


_issuers: Final[weakref.WeakSet[LocalIssuer]] = weakref.WeakSet()


class _Begun(msgspec.Struct, frozen=True):
    """How all tokens of a chain begin that are signed by one key for one tool.

    Args:
        chain, intent_s256, header: what the lease key does not hold, and the tokens say.
        encoded: the header, and of the claims as many as are whole in base64.
        rest: those that are not: up to two bytes.
    """

    chain: Chain
    intent_s256: str
    header: bytes
    encoded: bytes
    rest: bytes


class _Own(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one token alone says."""

    iat: int
    exp: int
    jti: str
    authorization_details: tuple[Mapping[str, Any], ...] = ()


class LocalIssuer:
    """Issues `at+jwt` tokens that live 30 seconds (RFC 9068); implements the port `Issuer`. Safe for threads.

    What is live stands in memory, so a token is revoked the moment `revoke` returns. After a fork the child holds none
    of its parent's leases: it neither issues nor vouches for them.

    Args:
        key: signs; or keys that take turns (`KeyRing`, or a vault's), of which the one whose turn it is signs.
        issuer: the `iss` claim.
        lifetime: seconds from `iat` to `exp`, 1 to 30.
        monotonic: counts the seconds a lease has left; never the wall clock.

    Raises:
        ConfigurationError: the issuer is no name or the lifetime is out of range.
    """

    suspends: bool = False
    waits: bool = False
    remote: bool = False

    def __init__(
        self,
        key: SigningKey | Signers,
        issuer: str = "agentguard",
        lifetime: int = MAX_LIFETIME,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        if type(lifetime) is not int or not 0 < lifetime <= MAX_LIFETIME:
            raise ConfigurationError(f"lifetime {lifetime!r}: write whole seconds from 1 to {MAX_LIFETIME}")
        self._issuer = checked_name(issuer, "issuer")
        self._lifetime = lifetime
        self._key = key if isinstance(key, SigningKey) else None
        self._header = _header(key) if isinstance(key, SigningKey) else b""
        self._signers = None if isinstance(key, SigningKey) else key
        if self._signers is not None:
            self.suspends, self.waits = self._signers.suspends, self._signers.waits
            self.remote = self.waits
        self._alive, self._second = Alive(monotonic), 0
        self._begun: dict[LeaseKey, _Begun] = {}
        _issuers.add(self)

    @property
    def name(self) -> str:
        """The `iss` claim, and what its leases call it."""
        return self._issuer

    @property
    def keys(self) -> KeySet:
        """The public keys that verifiers need now; those of a ring change, so a verifier that lasts takes the ring."""
        return KeySet.of(self._key) if self._key is not None else self._turns.published(time.time())

    def prepare(self, grant: Grant, now: float) -> Lease:
        """Return the lease, with its `jti` and its end, before anything is minted.

        The token ends no later than the task, to the second.

        Raises:
            ConfigurationError: a scope is no scope-token (RFC 6749 section 3.3).
        """
        key = grant.key
        if key.scopes and not _scope_claim(key.scopes):
            raise ConfigurationError(
                f"scopes {key.scopes!r}: a scope is printable ASCII without space, quote, backslash"
            )
        # The lease knows the exact time; `iat` is its whole seconds, and the lifetime counts from there.
        expires_at = floor(now) + self._lifetime
        if grant.deadline < expires_at:
            expires_at = ceil(grant.deadline)
        # What ends in one second shares one number.
        second = self._second  # read once: another thread may set another one
        if second == expires_at:
            expires_at = second
        else:
            self._second = expires_at
        jti = self._alive.prepare(expires_at + LEEWAY - now)
        return Lease(id=jti, issuer=self._issuer, key=key, task=grant.task, issued_at=now, expires_at=expires_at)

    async def issue(self, grant: Grant, lease: Lease, now: float) -> Issued:
        """Mint the token of a prepared lease; it ends when the lease says, so the ledger is right about it.

        Raises:
            CredentialUnavailable: the task's end or the lease's has passed, the lease was revoked or is not of this
                issuer and grant, or the token would be one that no verifier accepts.
        """
        if not (now < grant.deadline and now < lease.expires_at):
            raise CredentialUnavailable("the time in which a credential may be issued has passed")
        if (lease.key is not grant.key and lease.key != grant.key) or lease.issuer != self._issuer:
            raise CredentialUnavailable("the lease was prepared for another grant")
        key = self._key
        issued = self._mint(grant, lease, key, self._header) if key else await self._minted(grant, lease, now)
        if not isinstance(issued, Issued):
            raise issued or CredentialUnavailable(
                f"no token could be made: at most {MAX_ACTORS} actors, {MAX_TOKEN} characters and JSON details"
            )
        if not self._alive.issue(lease.id):
            raise CredentialUnavailable("the lease was revoked, has expired or belongs to another process")
        return issued

    async def revoke(self, lease: Lease, handle: Secret | None = None) -> Ending:
        """End a lease, issued or only prepared; once more changes nothing.

        Raises:
            CredentialUnavailable: somebody else issued it, so it may be alive: a state that is shared holds such rows.
        """
        if lease.issuer != self._issuer:
            raise CredentialUnavailable(f"lease {lease.id} was issued by {lease.issuer}, not by {self._issuer}")
        self._alive.end(lease.id)
        return _REVOKED

    def revoked(self, iss: str, jti: str) -> bool:
        """Tell whether a token is not live: revoked, expired, or never issued here. Keyed as RFC 7519 says, by both."""
        return iss != self._issuer or not self._alive.holds(jti)

    def __repr__(self) -> str:
        return f"<LocalIssuer {self._issuer} {self._key.kid if self._key is not None else self._signers}>"

    @property
    def _turns(self) -> Signers:
        assert self._signers is not None  # noqa: S101  # an issuer without a key of its own has them
        return self._signers

    def _mint(self, grant: Grant, lease: Lease, key: SigningKey, header: bytes) -> Issued | None:
        try:
            begun, chain = self._begun.get(grant.key), grant.chain
            # INVARIANT: the key does not hold all that the claims say, so what it does not hold is compared.
            if (
                begun is None
                or begun.chain is not chain
                or begun.intent_s256 != grant.intent_s256
                or begun.header != header
            ):
                if len(chain.agents) > MAX_ACTORS:  # else no token of it was ever begun
                    return None
                begun = self._begin(grant, lease, header)
            own = _Own(int(lease.issued_at), int(lease.expires_at), lease.id, grant.authorization_details)
            claims = begun.rest + _encoded(own)[1:]
            signed = begun.encoded + b2a_base64(claims, newline=False).translate(_URLSAFE, b"=")
            token = signed + b"." + b2a_base64(key.sign(signed), newline=False).translate(_URLSAFE, b"=")
            if len(token) > MAX_TOKEN:
                return None
            return Issued(replace(lease, fingerprint=_sha256(token).hexdigest()[:16]), Secret(token.decode("ascii")))
        except Exception:  # the error's frames hold the payload, so it goes no further
            return None

    def _begin(self, grant: Grant, lease: Lease, header: bytes) -> _Begun:
        """Encode what all tokens under one lease key say; it is kept for the next of them."""
        shared = _shared(grant, lease)
        whole = len(shared) // 3 * 3
        encoded = header + b2a_base64(shared[:whole], newline=False).translate(_URLSAFE)
        begun = _Begun(grant.chain, grant.intent_s256, header, encoded, shared[whole:])
        if not grant.key.resource:  # there are as many as there are resources, and most come once
            if len(self._begun) >= _MOST_BEGUN:
                self._begun.clear()
            self._begun[grant.key] = begun
        return begun

    async def _minted(self, grant: Grant, lease: Lease, now: float) -> Issued | CredentialUnavailable | None:
        """Mint by the key whose turn it is; what must not be raised with its frames is returned."""
        try:
            key = await self._turns.current(now)
            if isinstance(key, SigningKey):
                return self._mint(grant, lease, key, _header(key))
            return await _signed_by(key, grant, lease)
        except Unavailable as error:
            return CredentialUnavailable(str(error))
        except Exception:
            return None


async def _signed_by(key: Signer, grant: Grant, lease: Lease) -> Issued | None:
    if len(grant.chain.agents) > MAX_ACTORS:
        return None
    own = _Own(int(lease.issued_at), int(lease.expires_at), lease.id, grant.authorization_details)
    signed = _header(key) + _base64url(_shared(grant, lease) + _encoded(own)[1:])
    token = signed + b"." + _base64url(await key.signature(signed))
    if len(token) > MAX_TOKEN:
        return None
    secret = Secret(token.decode("ascii"))
    return Issued(replace(lease, fingerprint=secret.fingerprint()), secret)


def _header(key: Signer) -> bytes:
    return _base64url(msgspec.json.encode({"alg": key.algorithm, "typ": "at+jwt", "kid": key.kid})) + b"."


def _shared(grant: Grant, lease: Lease) -> bytes:
    """What all tokens under one lease key say, as the beginning of a JSON object."""
    return _encoded(_shared_claims(grant, lease))[:-1] + b","


def _shared_claims(grant: Grant, lease: Lease) -> dict[str, Any]:
    key, chain = grant.key, grant.chain
    claims: dict[str, Any] = {
        "iss": lease.issuer,
        "sub": chain.subject.sub,
        "aud": key.audience,
        "client_id": f"agent:{chain.actor.name}",
        "txn": key.root,
        "intent_s256": grant.intent_s256,
    }
    if key.scopes:
        claims["scope"] = _scope_claim(key.scopes)
    if act := _actors(chain):
        claims["act"] = act
    if key.resource:
        claims["agentguard_resource"] = key.resource
    if key.tenant:
        claims["tenant"] = key.tenant
    return claims


@functools.lru_cache(maxsize=1024)
def _scope_claim(scopes: tuple[str, ...]) -> str:
    # A scope with a space in it would be two.
    return " ".join(scopes) if all(_SCOPE.fullmatch(scope) for scope in scopes) else ""


def _actors(chain: Chain) -> dict[str, object]:
    # An agent that works on its own account is the subject itself, not somebody who acts for it.
    if chain.subject.sub == f"agent:{chain.agents[0].name}":
        return Chain(chain.subject, chain.agents[1:]).act()
    return chain.act()


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError("no JSON")


_encoded: Final = msgspec.json.Encoder(enc_hook=_plain).encode
_sha256: Final = hashlib.sha256


def _base64url(data: bytes) -> bytes:
    return b2a_base64(data, newline=False).translate(_URLSAFE).rstrip(b"=")


def _after_fork() -> None:
    for issuer in list(_issuers):
        issuer._alive.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
