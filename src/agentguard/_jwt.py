"""The one strict JWT profile: every token that agentguard reads passes here, and `jwt.decode` is called nowhere else.

PyJWT verifies the signature. What it would let through is refused before or after it: duplicate members, encodings
other than UTF-8, padding, times that are no integers, a `typ` of another kind of token, lifetimes without an end.

INVARIANT: when an error leaves this module, no frame, cause or context of it holds the token or its claims. So the
examination returns a `Rejection`, and `verify_jwt` raises only after it let go of the token.
"""

from __future__ import annotations

import binascii
import functools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from agentguard._json import NotStrictJSON, strict_json
from agentguard.errors import ConfigurationError, TokenRejected
from agentguard.model.lease import MAX_TOKEN as MAX_TOKEN
from agentguard.model.principal import MAX_ACTORS as MAX_ACTORS

if TYPE_CHECKING:
    from jwt.api_jws import PyJWS

    from agentguard._jwk import PublicKey

T = TypeVar("T")
MAX_LEEWAY: Final = 60
MAX_LIFETIME: Final = 86_400
ACCESS_TOKEN: Final = frozenset({"at+jwt", "application/at+jwt"})
BAD_SIGNATURE: Final = "the signature does not verify"
_END_OF_TIME: Final = 253_402_300_799  # 9999-12-31T23:59:59Z
_ALWAYS: Final = frozenset({"iss", "aud", "iat", "exp"})
_CONTAINERS: Final = (str, list, dict)
_TEXTS: Final = ("sub", "jti", "client_id", "azp", "scope")
# The last character of a segment has unused bits, which must be zero: one token has exactly one text (RFC 4648 s. 3.5).
_SEGMENT: Final = r"(?!\.)(?:[A-Za-z0-9_-]{4})*+(?:[A-Za-z0-9_-][AQgw]|[A-Za-z0-9_-]{2}[AEIMQUYcgkosw048])?"
_COMPACT: Final = re.compile(rf"{_SEGMENT}\.{_SEGMENT}\.(?!\Z){_SEGMENT}")


class Keys(Protocol):
    """Where public keys come from: a `KeySet`, or a cache of a remote one."""

    def find(self, kid: str) -> PublicKey | None: ...


class _Refused(Exception):
    def __init__(self, why: str) -> None:
        self.why = why


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why a token was refused, in words that are safe to send to whoever sent it.

    Args:
        why: a short description that holds no part of the token.
        error: the RFC 6750 section 3.1 code.
    """

    why: str
    error: str = "invalid_token"

    def raised(self) -> TokenRejected:
        """Return the error to raise, once the token itself is out of reach."""
        return TokenRejected(self.error, self.why)


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


def verify_jwt(token: str, profile: Profile, keys: Keys, now: float) -> Mapping[str, Any]:
    """Return the claims of a token that is signed by one of the keys and passes the profile (RFC 7519, RFC 8725).

    Args:
        token: the compact form.
        profile: what is accepted.
        keys: public keys by `kid`.
        now: seconds since the epoch.

    Raises:
        TokenRejected: it does not pass; the text holds nothing of it.
    """
    outcome = examine(token, profile, keys, now)
    del token  # the traceback keeps this frame
    if isinstance(outcome, Rejection):
        raise outcome.raised()
    return outcome


def examine(token: str, profile: Profile, keys: Keys, now: float) -> Mapping[str, Any] | Rejection:
    """Return the claims, or why the token is refused; it never raises, so a caller can drop the token first."""
    claims = signed_claims(token, profile.typ, keys)
    if isinstance(claims, Rejection):
        return claims
    return examine_claims(claims, profile, now) or claims


def examine_claims(claims: Mapping[str, Any], profile: Profile, now: float) -> Rejection | None:
    """Return why claims are refused, also such as did not come in a JWT (RFC 7662 section 2.2), or None."""
    try:
        _check_claims(claims, profile, now)
    except _Refused as refused:
        return Rejection(refused.why)
    except Exception:  # deny by default: whatever breaks here breaks on the claims
        return _MALFORMED
    return None


def signed_claims(
    token: str, typ: frozenset[str], keys: Keys, max_length: int = MAX_TOKEN
) -> Mapping[str, Any] | Rejection:
    """Return the claims of a JWT of some type that one of the keys signed, or why not; whoever asks judges the claims.

    Args:
        token: the compact form.
        typ: as in `Profile`.
        keys: public keys by `kid`.
        max_length: most characters.
    """
    return _judged(lambda: strict_json(_verified_payload(token, _header_of_typ(token, typ, max_length), keys)))


def self_signed_claims(
    token: str, typ: frozenset[str], key_of: Callable[[Mapping[str, Any]], PublicKey | str], max_length: int
) -> tuple[PublicKey, Mapping[str, Any]] | Rejection:
    """Return key and claims of a JWT that brings its own key, such as a DPoP proof (RFC 9449 section 4.2), or why not.

    That proves possession of the key and nothing else.

    Args:
        token: the compact form.
        typ: as in `Profile`.
        key_of: takes the key out of the header, or says why it is refused; its algorithm has to be the header's.
        max_length: most characters.
    """

    def judge() -> tuple[PublicKey, Mapping[str, Any]]:
        header = _header_of_typ(token, typ, max_length)
        key = key_of(header)
        if isinstance(key, str):
            raise _Refused(key)
        if header.get("alg") != key.algorithm:
            raise _Refused("the signature algorithm is not the one of its key")
        return key, strict_json(_payload(token, key))

    return _judged(judge)


def _judged(judge: Callable[[], T]) -> T | Rejection:
    try:
        return judge()
    except _Refused as refused:
        return Rejection(refused.why)
    except NotStrictJSON:
        return Rejection("the token is no strict JSON")
    except Exception:  # deny by default: whatever breaks here breaks on the token
        return _MALFORMED


_MALFORMED: Final = Rejection("the token is malformed")


_PYJWT: Final = ("ES256", "ES384", "RS256", "PS256", "EdDSA")
_ALGORITHMS: Final = frozenset({*_PYJWT, "Ed25519"})


@functools.cache
def _jws() -> PyJWS:
    # Loaded by the first token that is verified: who only issues tokens waits for none of it.
    from jwt.algorithms import OKPAlgorithm
    from jwt.api_jws import PyJWS

    # RFC 9864 names the curve; PyJWT knows the older name only. The one algorithm of a key decides, never the token's.
    jws = PyJWS(algorithms=list(_PYJWT))
    jws.register_algorithm("Ed25519", OKPAlgorithm())
    return jws


def kid_of(token: str) -> str | None:
    """Return the `kid` in a token's header, so that a remote key set can be looked at first; None if it is no token.

    Nothing is verified by this: it says which key the token claims to be signed with.
    """
    try:
        header = _parsed_header(token)
    except Exception:  # the token is refused for it when it is examined
        return None
    algorithm, kid = header.get("alg"), header.get("kid")
    known = isinstance(algorithm, str) and algorithm in _ALGORITHMS
    return kid if known and isinstance(kid, str) and 0 < len(kid) <= 256 else None


def _header(token: str, profile: Profile) -> dict[str, Any]:
    return _header_of_typ(token, profile.typ, MAX_TOKEN)


def _header_of_typ(token: str, typ: frozenset[str], max_length: int) -> dict[str, Any]:
    header = _parsed_header(token, max_length)
    if not _typ_fits(header, typ):
        raise _Refused("the typ of the token is not the one expected here")
    return header


def _parsed_header(token: str, max_length: int = MAX_TOKEN) -> dict[str, Any]:
    if type(token) is not str or len(token) > max_length:
        raise _Refused(f"a token is text of at most {max_length} characters")
    if not _COMPACT.fullmatch(token):
        raise _Refused("a token is three parts of canonical base64url")
    segment = token[: token.index(".")]
    header = strict_json(_bytes(segment))
    if "crit" in header or "b64" in header:
        raise _Refused("critical header extensions are not supported")
    return header


_STANDARD: Final = bytes.maketrans(b"-_", b"+/")


def _typ_fits(header: Mapping[str, Any], accepted: frozenset[str]) -> bool:
    if "typ" not in header:
        return "" in accepted
    typ = header["typ"]
    # Only ASCII letters fold in a media type; the Kelvin sign must not become a k.
    return isinstance(typ, str) and typ.isascii() and typ != "" and typ.lower() in accepted


def _verified_payload(token: str, header: Mapping[str, Any], keys: Keys) -> bytes:
    algorithm, kid = header.get("alg"), header.get("kid")
    if not isinstance(algorithm, str) or algorithm not in _ALGORITHMS:
        raise _Refused("the signature algorithm is not accepted")
    key = keys.find(kid) if isinstance(kid, str) and 0 < len(kid) <= 256 else None
    if key is None:
        raise _Refused("the token names no known key")
    if algorithm != key.algorithm:
        raise _Refused("the signature algorithm is not the one of its key")
    return _payload(token, key)


def _payload(token: str, key: PublicKey) -> bytes:
    signed, _, signature = token.rpartition(".")
    try:
        # The form was checked already, and PyJWT would look at each character again, one by one.
        good = _jws().get_algorithm_by_name(key.algorithm).verify(signed.encode("ascii"), key.key, _bytes(signature))
    except Exception:  # what cryptography raises on a malformed signature
        good = False
    if good is not True:
        raise _Refused(BAD_SIGNATURE)
    return _bytes(signed[signed.index(".") + 1 :])


def _bytes(segment: str) -> bytes:
    return binascii.a2b_base64(segment.encode("ascii").translate(_STANDARD) + b"=" * (-len(segment) % 4))


def _check_claims(claims: Mapping[str, Any], profile: Profile, now: float) -> None:
    for name in profile.needed:
        value = claims.get(name)
        if not value and (value is None or type(value) in _CONTAINERS):
            raise _Refused(f"the claim {name} is missing")
    if not isinstance(claims["iss"], str) or claims["iss"] != profile.issuer:
        raise _Refused("the issuer is not the one expected here")
    _check_audience(claims["aud"], profile)
    _check_times(claims, profile, now)
    for name in _TEXTS:
        text = claims.get(name, "")
        if not (isinstance(text, str) and text.isprintable()):
            raise _Refused(f"the claim {name} is no plain text")
    if "sub" in claims and not is_name(claims["sub"]):
        raise _Refused("the subject is no name")
    if profile.thumbprint:
        if claims.get("cnf") != {"jkt": profile.thumbprint}:
            raise _Refused("the token is not bound to the key of the proof")
    elif "cnf" in claims:
        raise _Refused("the token is bound to a key whose proof is missing")
    _check_actors(claims)
    if "authorization_details" in claims:
        _check_details(claims["authorization_details"])


def _check_audience(audience: object, profile: Profile) -> None:
    entries = [audience] if isinstance(audience, str) else audience
    if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
        raise _Refused("the audience is neither text nor a list of texts")
    if profile.audience not in entries:
        raise _Refused("the token is for another audience")
    if len(entries) > 1 and not profile.extra_audiences:
        raise _Refused("the token is for more than one audience")


def _check_times(claims: Mapping[str, Any], profile: Profile, now: float) -> None:
    for name in ("iat", "exp", "nbf"):
        # bool is an int to isinstance, and an absent nbf is fine.
        if name in claims and not (type(claims[name]) is int and 0 <= claims[name] <= _END_OF_TIME):
            raise _Refused(f"the claim {name} is no whole number of seconds")
    issued, expires = claims["iat"], claims["exp"]
    if not 0 < expires - issued <= profile.max_lifetime:
        raise _Refused("the lifetime of the token is out of bounds")
    # Written so that a `now` that is no number denies.
    if not expires > now - profile.leeway:
        raise _Refused("the token has expired")
    if not max(issued, claims.get("nbf", 0)) <= now + profile.leeway:
        raise _Refused("the token is not valid yet")


def is_name(value: object) -> bool:
    """Tell whether a value can stand in a chain: printable, at most 256 characters, no space and no `>`."""
    return isinstance(value, str) and 0 < len(value) <= 256 and value.isprintable() and not _NO_NAME.search(value)


_NO_NAME: Final = re.compile(r"[\s>]")


def _check_actors(claims: Mapping[str, Any]) -> None:
    if "act" not in claims:
        return
    actors, seen = actors_of(claims), {claims.get("sub")}
    for actor in actors:
        if not is_name(actor):
            raise _Refused("an actor is no name")
        if actor in seen:
            raise _Refused("the chain of actors has a cycle")
        seen.add(actor)


def actors_of(claims: Mapping[str, Any]) -> list[Any]:
    """Return the `sub` of every actor, the current one first (RFC 8693 section 4.1); at most 16."""
    actors: list[Any] = []
    level: Any = claims
    while "act" in level:
        level = level["act"]
        if not isinstance(level, dict) or len(actors) == MAX_ACTORS:
            raise _Refused("the chain of actors is malformed or too long")
        if not level.keys().isdisjoint(("exp", "nbf", "aud")):
            raise _Refused("an actor holds claims of the token")
        actors.append(level.get("sub"))
    return actors


def _check_details(details: object) -> None:
    if not isinstance(details, list) or not all(isinstance(one, dict) for one in details):
        raise _Refused("authorization_details is no list of objects")
    if not all(isinstance(one.get("type"), str) and one["type"] for one in details):
        raise _Refused("an entry of authorization_details has no type")
