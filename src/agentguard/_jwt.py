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
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from agentguard._json import NotStrictJSON, strict_json
from agentguard._jwt_claims import MAX_LEEWAY as MAX_LEEWAY
from agentguard._jwt_claims import MAX_LIFETIME as MAX_LIFETIME
from agentguard._jwt_claims import Profile as Profile
from agentguard._jwt_claims import Refused, check_claims
from agentguard._jwt_claims import actors_of as actors_of
from agentguard._jwt_claims import is_name as is_name
from agentguard.errors import TokenRejected
from agentguard.model.lease import MAX_TOKEN as MAX_TOKEN
from agentguard.model.principal import MAX_ACTORS as MAX_ACTORS

if TYPE_CHECKING:
    from jwt.api_jws import PyJWS

    from agentguard._jwk import PublicKey

T = TypeVar("T")
ACCESS_TOKEN: Final = frozenset({"at+jwt", "application/at+jwt"})
BAD_SIGNATURE: Final = "the signature does not verify"
# The last character of a segment has unused bits, which must be zero: one token has exactly one text (RFC 4648 s. 3.5).
_SEGMENT: Final = r"(?!\.)(?:[A-Za-z0-9_-]{4})*+(?:[A-Za-z0-9_-][AQgw]|[A-Za-z0-9_-]{2}[AEIMQUYcgkosw048])?"
_COMPACT: Final = re.compile(rf"{_SEGMENT}\.{_SEGMENT}\.(?!\Z){_SEGMENT}")


class Keys(Protocol):
    """Where public keys come from: a `KeySet`, or a cache of a remote one."""

    def find(self, kid: str) -> PublicKey | None: ...


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
        check_claims(claims, profile, now)
    except Refused as refused:
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
            raise Refused(key)
        if header.get("alg") != key.algorithm:
            raise Refused("the signature algorithm is not the one of its key")
        return key, strict_json(_payload(token, key))

    return _judged(judge)


def _judged(judge: Callable[[], T]) -> T | Rejection:
    try:
        return judge()
    except Refused as refused:
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
        raise Refused("the typ of the token is not the one expected here")
    return header


def _parsed_header(token: str, max_length: int = MAX_TOKEN) -> dict[str, Any]:
    if type(token) is not str or len(token) > max_length:
        raise Refused(f"a token is text of at most {max_length} characters")
    if not _COMPACT.fullmatch(token):
        raise Refused("a token is three parts of canonical base64url")
    segment = token[: token.index(".")]
    header = strict_json(_bytes(segment))
    if "crit" in header or "b64" in header:
        raise Refused("critical header extensions are not supported")
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
        raise Refused("the signature algorithm is not accepted")
    key = keys.find(kid) if isinstance(kid, str) and 0 < len(kid) <= 256 else None
    if key is None:
        raise Refused("the token names no known key")
    if algorithm != key.algorithm:
        raise Refused("the signature algorithm is not the one of its key")
    return _payload(token, key)


def _payload(token: str, key: PublicKey) -> bytes:
    signed, _, signature = token.rpartition(".")
    try:
        # The form was checked already, and PyJWT would look at each character again, one by one.
        good = _jws().get_algorithm_by_name(key.algorithm).verify(signed.encode("ascii"), key.key, _bytes(signature))
    except Exception:  # what cryptography raises on a malformed signature
        good = False
    if good is not True:
        raise Refused(BAD_SIGNATURE)
    return _bytes(signed[signed.index(".") + 1 :])


def _bytes(segment: str) -> bytes:
    return binascii.a2b_base64(segment.encode("ascii").translate(_STANDARD) + b"=" * (-len(segment) % 4))
