"""What the claims of a token have to be, for each kind of token that is accepted.

INVARIANT: as in `_jwt`: what is raised here says nothing of the claims, and never leaves that module.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from agentguard.errors import ConfigurationError
from agentguard.model.principal import MAX_ACTORS

MAX_LEEWAY: Final = 60
MAX_LIFETIME: Final = 86_400
_END_OF_TIME: Final = 253_402_300_799  # 9999-12-31T23:59:59Z
_ALWAYS: Final = frozenset({"iss", "aud", "iat", "exp"})
_CONTAINERS: Final = (str, list, dict)
_TEXTS: Final = ("sub", "jti", "client_id", "azp", "scope")
_NO_NAME: Final = re.compile(r"[\s>]")


class Refused(Exception):
    """A claim is not as it has to be; `why` holds nothing of it."""

    def __init__(self, why: str) -> None:
        self.why = why


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What one kind of token must look like (RFC 8725 section 3.12: rules of two kinds exclude each other).

    Args:
        typ: accepted `typ` header values in lower case; the empty string admits a token without one.
        issuer: exact `iss`.
        audience: exact `aud`.
        required: claims that must be there, beside `iss`, `aud`, `iat` and `exp`; an empty one counts as missing.
        leeway: seconds that clocks may differ, at most 60.
        max_lifetime: most seconds between `iat` and `exp`, at most 86,400.
        extra_audiences: accept a token that is also meant for others.
        thumbprint: exact `cnf.jkt` of the key whose proof came with the token (RFC 9449 section 6.1); empty refuses a
            token that is bound to a key.

    Raises:
        ConfigurationError: a bound is out of range, or the issuer, audience or typ is empty.
    """

    typ: frozenset[str]
    issuer: str
    audience: str
    required: frozenset[str]
    leeway: int = 30
    max_lifetime: int = 3600
    extra_audiences: bool = False
    thumbprint: str = ""
    needed: tuple[str, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "needed", tuple(sorted(_ALWAYS | self.required)))
        if not self.issuer or not self.audience:
            raise ConfigurationError("a token is verified against one issuer and one audience; give both, as text")
        if not self.typ or any(typ != typ.lower() for typ in self.typ):
            raise ConfigurationError("typ lists the accepted token types in lower case, for example {'at+jwt'}")
        if not 0 <= self.leeway <= MAX_LEEWAY:
            raise ConfigurationError(f"leeway {self.leeway!r}: write seconds from 0 to {MAX_LEEWAY}")
        if not 0 < self.max_lifetime <= MAX_LIFETIME:
            raise ConfigurationError(f"max_lifetime {self.max_lifetime!r}: write seconds from 1 to {MAX_LIFETIME}")


def check_claims(claims: Mapping[str, Any], profile: Profile, now: float) -> None:
    for name in profile.needed:
        value = claims.get(name)
        if not value and (value is None or type(value) in _CONTAINERS):
            raise Refused(f"the claim {name} is missing")
    if not isinstance(claims["iss"], str) or claims["iss"] != profile.issuer:
        raise Refused("the issuer is not the one expected here")
    _check_audience(claims["aud"], profile)
    _check_times(claims, profile, now)
    for name in _TEXTS:
        text = claims.get(name, "")
        if not (isinstance(text, str) and text.isprintable()):
            raise Refused(f"the claim {name} is no plain text")
    if "sub" in claims and not is_name(claims["sub"]):
        raise Refused("the subject is no name")
    if profile.thumbprint:
        if claims.get("cnf") != {"jkt": profile.thumbprint}:
            raise Refused("the token is not bound to the key of the proof")
    elif "cnf" in claims:
        raise Refused("the token is bound to a key whose proof is missing")
    _check_actors(claims)
    if "authorization_details" in claims:
        _check_details(claims["authorization_details"])


def _check_audience(audience: object, profile: Profile) -> None:
    entries = [audience] if isinstance(audience, str) else audience
    if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
        raise Refused("the audience is neither text nor a list of texts")
    if profile.audience not in entries:
        raise Refused("the token is for another audience")
    if len(entries) > 1 and not profile.extra_audiences:
        raise Refused("the token is for more than one audience")


def _check_times(claims: Mapping[str, Any], profile: Profile, now: float) -> None:
    for name in ("iat", "exp", "nbf"):
        # bool is an int to isinstance, and an absent nbf is fine.
        if name in claims and not (type(claims[name]) is int and 0 <= claims[name] <= _END_OF_TIME):
            raise Refused(f"the claim {name} is no whole number of seconds")
    issued, expires = claims["iat"], claims["exp"]
    if not 0 < expires - issued <= profile.max_lifetime:
        raise Refused("the lifetime of the token is out of bounds")
    # Written so that a `now` that is no number denies.
    if not expires > now - profile.leeway:
        raise Refused("the token has expired")
    if not max(issued, claims.get("nbf", 0)) <= now + profile.leeway:
        raise Refused("the token is not valid yet")


def _check_actors(claims: Mapping[str, Any]) -> None:
    if "act" not in claims:
        return
    actors, seen = actors_of(claims), {claims.get("sub")}
    for actor in actors:
        if not is_name(actor):
            raise Refused("an actor is no name")
        if actor in seen:
            raise Refused("the chain of actors has a cycle")
        seen.add(actor)


def actors_of(claims: Mapping[str, Any]) -> list[Any]:
    """Return the `sub` of every actor, the current one first (RFC 8693 section 4.1); at most 16."""
    actors: list[Any] = []
    level: Any = claims
    while "act" in level:
        level = level["act"]
        if not isinstance(level, dict) or len(actors) == MAX_ACTORS:
            raise Refused("the chain of actors is malformed or too long")
        if not level.keys().isdisjoint(("exp", "nbf", "aud")):
            raise Refused("an actor holds claims of the token")
        actors.append(level.get("sub"))
    return actors


def is_name(value: object) -> bool:
    """Tell whether a value can stand in a chain: printable, at most 256 characters, no space and no `>`."""
    return isinstance(value, str) and 0 < len(value) <= 256 and value.isprintable() and not _NO_NAME.search(value)


def _check_details(details: object) -> None:
    if not isinstance(details, list) or not all(isinstance(one, dict) for one in details):
        raise Refused("authorization_details is no list of objects")
    if not all(isinstance(one.get("type"), str) and one["type"] for one in details):
        raise Refused("an entry of authorization_details has no type")
