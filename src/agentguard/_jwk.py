"""Public keys as JWKs (RFC 7517): what is accepted, their ids (RFC 7638), and the one algorithm of each."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, TypeGuard

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from agentguard.errors import ConfigurationError

Public: TypeAlias = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | rsa.RSAPublicKey

# For each algorithm the kty and crv of its keys. A JWK without `alg` gets the first that fits.
_KINDS: Final[Mapping[str, tuple[str, str]]] = {
    "ES256": ("EC", "P-256"),
    "ES384": ("EC", "P-384"),
    "EdDSA": ("OKP", "Ed25519"),
    "Ed25519": ("OKP", "Ed25519"),
    "RS256": ("RSA", ""),
    "PS256": ("RSA", ""),
}
_PRIVATE_MEMBERS: Final = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A public key with its id and the one algorithm it is used with (RFC 8725 section 3.1)."""

    kid: str
    algorithm: str
    key: Public

    def jwk(self) -> dict[str, str]:
        """Return it as a JWK (RFC 7517)."""
        return {**members_of(self.key), "kid": self.kid, "alg": self.algorithm, "use": "sig"}


def members_of(key: Public) -> dict[str, str]:
    """The members of a public key that its thumbprint is made of (RFC 7518 section 6, RFC 8037 section 2)."""
    if isinstance(key, ed25519.Ed25519PublicKey):
        return {"crv": "Ed25519", "kty": "OKP", "x": _base64url(key.public_bytes_raw())}
    if isinstance(key, rsa.RSAPublicKey):
        of_rsa = key.public_numbers()
        return {"e": _number(of_rsa.e), "kty": "RSA", "n": _number(of_rsa.n)}
    point, curve = key.public_numbers(), f"P-{key.curve.key_size}"
    octets = (key.curve.key_size + 7) // 8  # leading zeros stay, as the curve says how long a coordinate is
    return {"crv": curve, "kty": "EC", "x": _number(point.x, octets), "y": _number(point.y, octets)}


def _number(value: int, octets: int = 0) -> str:
    return _base64url(value.to_bytes(octets or (value.bit_length() + 7) // 8, "big"))


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def public_key(key: Public) -> PublicKey:
    members = members_of(key)
    canonical = json.dumps(members, separators=(",", ":"), sort_keys=True).encode()
    kid = _base64url(hashlib.sha256(canonical).digest())
    return PublicKey(kid, only_algorithm(members["kty"], members.get("crv", "")), key)


def only_algorithm(kty: str, crv: str) -> str:
    return next((name for name, kind in _KINDS.items() if kind == (kty, crv)), "")


def from_jwk(entry: object, position: int) -> PublicKey:
    problem = _jwk_problem(entry)
    if not problem and isinstance(entry, dict):
        kty = entry["kty"]
        key = _parsed_jwk(kty, entry)
        if is_usable(key):
            return PublicKey(entry["kid"], entry.get("alg") or only_algorithm(kty, entry.get("crv", "")), key)
        problem = "its members make no key of its kind, or an RSA key under 2048 bits"
    raise ConfigurationError(f"key {position} of the JWK set: {problem}")


def _jwk_problem(entry: object) -> str:
    if not isinstance(entry, dict):
        return "not an object"
    kty, crv, kid = entry.get("kty"), entry.get("crv", ""), entry.get("kid")
    if kty == "oct" or not _PRIVATE_MEMBERS.isdisjoint(entry):
        return "private or symmetric key material; publish public keys only"
    if not isinstance(kid, str) or not 0 < len(kid) <= 256:
        return "its kid must be a text of 1 to 256 characters"
    operations = entry.get("key_ops", ["verify"])
    if entry.get("use", "sig") != "sig" or not isinstance(operations, list) or "verify" not in operations:
        return 'not for signatures; leave it out of this set, or write "use": "sig"'
    algorithm = entry["alg"] if "alg" in entry else only_algorithm(kty, crv) if isinstance(kty, str) else ""
    if not isinstance(algorithm, str) or _KINDS.get(algorithm) != (kty, crv):
        return f"its alg does not fit its kty and crv; known are {', '.join(_KINDS)}"
    return ""


def _parsed_jwk(kty: str, entry: Mapping[str, Any]) -> object:
    from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm  # loaded by the first key that comes as a JWK

    kinds: Mapping[str, Any] = {"EC": ECAlgorithm, "OKP": OKPAlgorithm, "RSA": RSAAlgorithm}
    try:
        return kinds[kty].from_jwk(dict(entry))
    except Exception:  # PyJWT's and cryptography's errors about the members; reported by position
        return None


def is_usable(key: object) -> TypeGuard[Public]:
    if isinstance(key, ec.EllipticCurvePublicKey):
        return isinstance(key.curve, (ec.SECP256R1, ec.SECP384R1))
    return isinstance(key, ed25519.Ed25519PublicKey) or (isinstance(key, rsa.RSAPublicKey) and key.key_size >= 2048)


def usable_keys(jwks: Mapping[str, Any], max_keys: int) -> tuple[list[PublicKey], list[str]] | str:
    """Return the keys of a set that can be used, with what is wrong with the others; or why the set is refused.

    A kid that two different keys share, or that came with private or symmetric material, is not used at all.
    """
    entries = jwks.get("keys")
    if not isinstance(entries, list) or len(entries) > max_keys:
        return f"the answer is no JWK set with at most {max_keys} keys"
    keys: dict[str, PublicKey] = {}
    spoiled: set[object] = set()
    problems: list[str] = []
    for position, entry in enumerate(entries):
        key = _parsed(entry, position)
        if isinstance(key, str):
            problems.append(key)
            spoiled |= _exposed(entry)
        elif keys.setdefault(key.kid, key).jwk() != key.jwk():
            problems.append(f"key {position} of the JWK set: another key has the same kid, so neither is used")
            spoiled.add(key.kid)
    usable = [key for kid, key in keys.items() if kid not in spoiled]
    return (usable, problems) if usable else "the JWK set holds no key that can be used"


def _parsed(entry: object, position: int) -> PublicKey | str:
    try:
        return from_jwk(entry, position)
    except ConfigurationError as error:
        return str(error)
    except Exception as error:  # members of other types than anyone would write
        return f"key {position} of the JWK set: {type(error).__name__}"


def _exposed(entry: object) -> set[object]:
    """The kid of private material: its public half cannot be trusted any more, wherever it stands."""
    if isinstance(entry, dict) and not _PRIVATE_MEMBERS.isdisjoint(entry) and isinstance(entry.get("kid"), str):
        return {entry["kid"]}
    return set()
