"""Verifies an access token and says who acts for whom, with which scopes."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from agentguard._jwt import ACCESS_TOKEN, Keys, Profile, Rejection, actors_of, examine
from agentguard.errors import ConfigurationError, TokenRejected

_REQUIRED: Final = frozenset({"sub", "client_id", "jti"})
_TEXTS: Final = ("agentguard_resource", "intent_s256", "txn", "tenant")


class InsufficientScope(TokenRejected):
    """The token is good, but not for this: `insufficient_scope` (RFC 6750 section 3.1), answered with 403.

    Args:
        scope: what the request needs, for the challenge; space-separated.
        why: a short description, safe to send to the caller.
    """

    def __init__(self, scope: str, why: str) -> None:
        self.scope = scope
        super().__init__("insufficient_scope", why)


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedToken:
    """What a verified access token says.

    Decide by `subject`, `actor`, the scopes and the details. The rest of the chain is history (RFC 8693 section 4.1).

    Args:
        subject: whom the call is for: `sub`.
        actor: who calls: the outermost `act`, or the subject if nobody acts for it.
        chain: from the subject to the actor, as the claims name them.
        scopes: what was granted.
        resource: the one resource the token is for (`agentguard_resource`), or empty.
        details: RFC 9396 `authorization_details`.
        client_id: the OAuth client.
        jti, issuer: together they name the token; the token's text does not.
        expires_at: seconds since the epoch.
        intent_s256: hash of the intent, or empty.
        txn: the root task, or empty.
        tenant: the tenant, or empty.
    """

    subject: str
    actor: str
    chain: tuple[str, ...]
    scopes: frozenset[str]
    resource: str
    details: tuple[Mapping[str, Any], ...]
    client_id: str
    jti: str
    issuer: str
    expires_at: int
    intent_s256: str
    txn: str
    tenant: str

    @property
    def chain_text(self) -> str:
        """`user:alice > support-bot > researcher`, for people: the same text as in the guard's records."""
        return " > ".join((self.chain[0], *(name.removeprefix("agent:") for name in self.chain[1:])))

    def require(self, scope: str = "", resource: str = "") -> None:
        """Return if the token carries every scope and is for the resource.

        Args:
            scope: one scope, or several separated by spaces: all of them are needed.
            resource: exact resource, with its variable parts percent-encoded.

        Raises:
            InsufficientScope: it does not; a `TokenRejected` that the middleware answers with 403.
            ConfigurationError: neither was given.
        """
        scopes = scope.split()
        if not scopes and not resource:
            raise ConfigurationError(
                'say what is required: require(scope="refunds:write") or require(resource="account/7")'
            )
        if not self.scopes.issuperset(scopes):
            raise InsufficientScope(" ".join(scopes), "the token does not carry the scope")
        if resource and self.resource != resource:
            raise InsufficientScope(" ".join(scopes), "the token is for another resource")


class TokenVerifier:
    """Verifies access tokens (RFC 9068) of one issuer for one audience. Safe for threads.

    Args:
        keys: the issuer's public keys.
        issuer: exact `iss`.
        audience: this API's origin, exact `aud`.
        revoked: told `(iss, jti)`, says whether the token was revoked; a raise, or anything but False, refuses it.
        leeway: seconds that clocks may differ, at most 60.
        max_lifetime: most seconds between `iat` and `exp`, at most 86,400.
        require_details: refuse a token without `authorization_details`.

    Raises:
        ConfigurationError: a bound is out of range, the issuer or audience is empty, or `revoked` is no plain function.
    """

    def __init__(
        self,
        keys: Keys,
        issuer: str,
        audience: str,
        *,
        revoked: Callable[[str, str], bool] | None = None,
        leeway: int = 30,
        max_lifetime: int = 3600,
        require_details: bool = False,
    ) -> None:
        if inspect.iscoroutinefunction(revoked):
            raise ConfigurationError("revoked is a plain function of (iss, jti); the middleware calls it on a thread")
        self._keys = keys
        self._revoked = revoked
        self._profile = Profile(
            typ=ACCESS_TOKEN,
            issuer=issuer,
            audience=audience,
            required=_REQUIRED | ({"authorization_details"} if require_details else set()),
            leeway=leeway,
            max_lifetime=max_lifetime,
        )

    @property
    def may_block(self) -> bool:
        """Whether `verify` calls `revoked`, which may wait."""
        return self._revoked is not None

    def verify(self, token: str, now: float | None = None) -> VerifiedToken:
        """Return what the token says.

        Args:
            token: the compact form, without `Bearer`.
            now: seconds since the epoch; the wall clock by default.

        Raises:
            TokenRejected: it does not pass; the text holds nothing of it.
        """
        outcome = self.examine(token, now)
        del token  # the traceback keeps this frame
        if isinstance(outcome, Rejection):
            raise outcome.raised()
        return outcome

    def examine(self, token: str, now: float | None = None) -> VerifiedToken | Rejection:
        """Return what the token says, or why it is refused; it never raises."""
        claims = examine(token, self._profile, self._keys, time.time() if now is None else now)
        if isinstance(claims, Rejection):
            return claims
        if not all(isinstance(claims.get(name, ""), str) for name in _TEXTS):
            return Rejection("a claim that must be text is not")
        return self._revocation(claims) or _verified(claims)

    def _revocation(self, claims: Mapping[str, Any]) -> Rejection | Literal[False]:
        if self._revoked is None:
            return False
        try:
            revoked: object = self._revoked(claims["iss"], claims["jti"])
        except Exception:  # deny by default: what cannot be checked is not accepted
            revoked = None
        if revoked is False:
            return False
        return Rejection("the token has been revoked" if revoked is True else "revocation could not be checked")


def _verified(claims: Mapping[str, Any]) -> VerifiedToken:
    chain = (claims["sub"], *reversed(actors_of(claims)))
    return VerifiedToken(
        subject=claims["sub"],
        actor=chain[-1],
        chain=chain,
        scopes=frozenset(claims.get("scope", "").split(" ")) - {""},
        resource=claims.get("agentguard_resource", ""),
        details=tuple(claims.get("authorization_details", ())),
        client_id=claims["client_id"],
        jti=claims["jti"],
        issuer=claims["iss"],
        expires_at=claims["exp"],
        intent_s256=claims.get("intent_s256", ""),
        txn=claims.get("txn", ""),
        tenant=claims.get("tenant", ""),
    )
