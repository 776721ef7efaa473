"""The token itself, held against what was asked: a JWT by its signature and claims, an opaque one by introspection.

INVARIANT: nothing here raises but a cancellation, and no text holds a token or its claims.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from agentguard._jwt import ACCESS_TOKEN, Keys, Profile, Rejection, actors_of, examine
from agentguard.credentials.oauth.answer import Answer, Asked, details_differ

_REQUIRED: Final = frozenset({"sub", "client_id", "jti"})  # RFC 9068 section 2.2


@dataclass(frozen=True, slots=True)
class Verified:
    """A token that is what was asked for.

    Args:
        expires_at: seconds since the epoch.
        type: `at+jwt`, or `access_token` for an opaque one.
        jti: the id its server gave it, if it says.
    """

    expires_at: float
    type: str
    jti: str = ""


def verify_access_token(answer: Answer, asked: Asked, issuer: str, keys: Keys, now: float) -> Verified | str:
    """Return what a JWT access token says, or in what it differs (RFC 9068 section 4)."""
    profile = access_token_profile(issuer, asked)
    claims = examine(answer.token.reveal(), profile, keys, now)
    if isinstance(claims, Rejection):
        return f"the token it issued does not verify: {claims.why}"
    return differing(claims, asked) or Verified(claims["exp"], "at+jwt", claims["jti"])


def access_token_profile(issuer: str, asked: Asked) -> Profile:
    """The strict profile of an access token that was asked for."""
    return _profile(issuer, asked.audience, asked.leeway, asked.max_lifetime, asked.thumbprint)


@functools.lru_cache(maxsize=256)
def _profile(issuer: str, audience: str, leeway: int, max_lifetime: int, thumbprint: str) -> Profile:
    return Profile(
        typ=ACCESS_TOKEN, issuer=issuer, audience=audience, required=_REQUIRED, leeway=leeway,
        max_lifetime=max_lifetime, thumbprint=thumbprint,
    )  # fmt: skip


def verify_introspection(document: Mapping[str, Any], answer: Answer, asked: Asked, now: float) -> Verified | str:
    """Return what a server says about an opaque token, or in what it differs (RFC 7662 section 2.2)."""
    if document.get("active") is not True:
        return "introspection does not say that the token it issued is active"
    audience, expires = document.get("aud"), document.get("exp")
    if audience not in (asked.audience, [asked.audience]):
        return "introspection names another audience, or none"
    if type(expires) is not int or not now < expires <= now + asked.max_lifetime + asked.leeway:
        return "introspection says no end of the token, or one that is out of bounds"
    if document.get("cnf") != ({"jkt": asked.thumbprint} if asked.thumbprint else None):
        return "introspection says that the token is bound to another key, or to none"
    jti = document.get("jti", "")
    if asked.subject == asked.client_id:  # RFC 7662 section 2.2: a client's own token has no resource owner to name
        document = {"sub": document.get("client_id"), **document}
    return differing(document, asked) or Verified(expires, "access_token", jti if isinstance(jti, str) else "")


def trust_answer(answer: Answer, asked: Asked, asked_at: float) -> Verified | str:
    """Return what the answer itself says about an opaque token: all that can be known without introspection."""
    lifetime = answer.lifetime or asked.default_lifetime
    if not lifetime:
        return "its answer has no expires_in, and the token does not say when it ends"
    if asked.details and not answer.details_said:
        return "its answer does not confirm the authorization_details"
    return Verified(asked_at + lifetime, "access_token")


def differing(claims: Mapping[str, Any], asked: Asked) -> str:
    """Return in what claims differ from what was asked, or nothing."""
    if asked.subject and claims.get("sub") != asked.subject:
        return "the token it issued is for another subject"
    if claims.get("client_id") != asked.client_id:
        return "the token it issued is another client's"
    if _actors(claims) != list(asked.actors):
        return "the act of the token it issued is not the chain of agents that act"
    scope = claims.get("scope", "")
    if not isinstance(scope, str) or not set(asked.scopes).issuperset(scope.split()):
        return "the scope of the token it issued is broader than what was asked for"
    details = claims.get("authorization_details")
    if asked.details and not details:
        return "the token it issued does not hold the authorization_details"
    return details_differ(details, asked)


def _actors(claims: Mapping[str, Any]) -> list[Any] | None:
    try:
        return actors_of(claims)
    except Exception:  # malformed, so it is no chain that was asked for
        return None
