"""Verifies DPoP proofs: whoever presents a token holds the key that it is bound to (RFC 9449 section 4.3).

The numbers in comments are those of the checks in that section.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from agentguard._dpop import base64url, origin_of
from agentguard._jwk import PublicKey, from_jwk, public_key
from agentguard._jwt import Rejection, self_signed_claims
from agentguard.errors import ConfigurationError
from agentguard.resource_server.nonces import ServerNonces
from agentguard.resource_server.rejection import BAD_PROOF, UNAVAILABLE, WANTS_NONCE
from agentguard.resource_server.replays import MemoryReplays, Replays

MAX_PROOF: Final = 4096
ALGORITHMS: Final = ("ES256", "EdDSA", "Ed25519")
_KNOWN: Final = frozenset({"ES256", "ES384", "EdDSA", "Ed25519", "RS256", "PS256"})
_TYP: Final = frozenset({"dpop+jwt"})
_TOO_OLD: Final = "the DPoP proof is too old; make a new one for each request"
_JTI: Final = re.compile(r"[\x21-\x7e]{8,256}")
_METHOD: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}")
_URI: Final = re.compile(
    r"(?i:https?)://((?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{0,5})?)((?:/[!-\x22\x24-\x3e\x40-\x5b\x5d-~]*)?)"
)
_ESCAPE: Final = re.compile(r"%([0-9A-Fa-f]{2})")
_UNRESERVED: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


@dataclass(frozen=True, slots=True)
class Proof:
    """A proof that passed everything but the look whether it was used before.

    Args:
        thumbprint: of its key (RFC 7638).
        use: what no other proof may equal while this one could be accepted.
        until: seconds since the epoch, the last at which it is accepted.
        nonce: the one that the next proof has to hold, where this one's is about to end; else empty.
    """

    thumbprint: str
    use: str
    until: float
    nonce: str = ""


class DpopProofs:
    """Verifies the proofs that come with requests. Safe for threads and event loops.

    Args:
        algorithms: what proofs may be signed with, among ES256, ES384, EdDSA, Ed25519, RS256 and PS256.
        window: seconds that `iat` may lie in the past, 1 to 600.
        leeway: seconds that it may lie in the future, because clocks differ; at most 60.
        nonces: makes nonces; then every proof must hold one.
        replays: remembers used proofs; in this process by default.

    Raises:
        ConfigurationError: an algorithm or a bound is none of these.
    """

    def __init__(
        self,
        *,
        algorithms: Collection[str] = ALGORITHMS,
        window: int = 60,
        leeway: int = 30,
        nonces: ServerNonces | None = None,
        replays: Replays | None = None,
    ) -> None:
        if isinstance(algorithms, str) or not algorithms or not _KNOWN.issuperset(algorithms):
            raise ConfigurationError(f"algorithms {algorithms!r}: write a list of {', '.join(sorted(_KNOWN))}")
        if type(window) is not int or not 1 <= window <= 600:
            raise ConfigurationError(f"window {window!r}: write whole seconds from 1 to 600")
        if type(leeway) is not int or not 0 <= leeway <= 60:
            raise ConfigurationError(f"leeway {leeway!r}: write whole seconds from 0 to 60")
        self.algorithms = tuple(algorithms)
        self._window, self._leeway = window, leeway
        self._nonces, self._replays = nonces, MemoryReplays() if replays is None else replays

    def examine(self, headers: Sequence[str], method: str, url: str, token: str, now: float) -> Proof | Rejection:
        """Return the proof of a request, or why it is refused; it never raises.

        Args:
            headers: the value of every `DPoP` header.
            method: the request's method.
            url: where it was sent, as the client sees it.
            token: the access token it came with.
            now: seconds since the epoch.
        """
        if len(headers) != 1:  # 1
            return _bad("there is more than one DPoP header" if headers else "the DPoP header is missing")
        found = self_signed_claims(headers[0], _TYP, self._key, MAX_PROOF)  # 2, 4, 5, 6, 7
        if isinstance(found, Rejection):
            return _bad(f"the DPoP proof is refused: {found.why}")
        key, claims = found
        why = _incomplete(claims) or _elsewhere(claims, method, url) or self._untimely(claims["iat"], now)
        if why:
            return _bad(why)
        if self._nonces is not None and not self._nonces.accepts(claims.get("nonce"), now):  # 10
            return Rejection("the DPoP proof has no nonce, or one that has ended", WANTS_NONCE)
        if not hmac.compare_digest(claims["ath"].encode(), token_hash(token)):  # 12, first half; `cnf` is the other
            return _bad("the DPoP proof is for another token")
        thumbprint = public_key(key.key).kid
        until = claims["iat"] + self._window
        return Proof(thumbprint, _use(thumbprint, claims), until, self._next_nonce(claims.get("nonce"), now))

    async def replayed(self, proof: Proof, now: float) -> Rejection | None:
        """Return why a proof may not be used, or None and remember it. Ask last: only for a token that is accepted.

        Args:
            proof: passed `examine`.
            now: seconds since the epoch, as they are when this is asked: verifying the token may have taken long.
        """
        # INVARIANT: whoever asks for a proof that was used asks before it is forgotten.
        if not now <= proof.until:
            return _bad(_TOO_OLD)
        try:
            # What cannot be accepted any more need not be remembered.
            first: object = await self._replays.first_use(proof.use, self._window + self._leeway + 1.0)
        except Exception:  # deny by default: what cannot be remembered could be used again
            return Rejection("whether the DPoP proof was used before cannot be told at the moment", UNAVAILABLE)
        return None if first is True else _bad("the DPoP proof was used before; make a new one for each request")

    def nonce(self, now: float) -> str:
        """Return what the next proof has to hold, or an empty text."""
        return self._nonces.current(now) if self._nonces is not None else ""

    def _next_nonce(self, used: object, now: float) -> str:
        current = self.nonce(now)
        return "" if current == used else current

    def _key(self, header: Mapping[str, Any]) -> PublicKey | str:
        algorithm, jwk = header.get("alg"), header.get("jwk")
        if not isinstance(algorithm, str) or algorithm not in self.algorithms:  # 5
            return "its signature algorithm is not accepted"
        if not isinstance(jwk, dict):
            return "its header holds no jwk"
        try:
            # Its own kid means nothing here. `from_jwk` refuses private and symmetric members.  (7)
            return from_jwk({"alg": algorithm, **jwk, "kid": "dpop"}, 0)
        except ConfigurationError:
            return "its jwk is no public key that fits its algorithm"

    def _untimely(self, issued: int, now: float) -> str:
        """Check 11; written so that a `now` that is no number denies."""
        if not issued >= now - self._window:
            return _TOO_OLD
        return "" if issued <= now + self._leeway else "the DPoP proof is from the future; check the clock"


def token_hash(token: str) -> bytes:
    """Return the `ath` of an access token (RFC 9449 section 4.2)."""
    return base64url(hashlib.sha256(token.encode()).digest())


def _bad(why: str) -> Rejection:
    return Rejection(why, BAD_PROOF)


def _incomplete(claims: Mapping[str, Any]) -> str:
    """Check 3: the claims of section 4.2 are there, each in its form."""
    jti, issued = claims.get("jti"), claims.get("iat")
    if not isinstance(jti, str) or not _JTI.fullmatch(jti):
        return "the DPoP proof has no jti of 8 to 256 printable characters"
    if type(issued) is not int:
        return "the DPoP proof has no iat in whole seconds"
    for name in ("htm", "htu", "ath"):
        if not isinstance(claims.get(name), str) or not claims[name].isascii():
            return f"the DPoP proof has no {name}"
    return ""


def _elsewhere(claims: Mapping[str, Any], method: str, url: str) -> str:
    if not _METHOD.fullmatch(method) or claims["htm"] != method:  # 8; methods have a case (RFC 9110 section 9.1)
        return "the DPoP proof is for another method"
    wanted = normal_target(url)
    return "" if wanted and normal_target(claims["htu"]) == wanted else "the DPoP proof is for another URL"  # 9


def normal_target(url: str) -> str:
    """Return a URL without query and fragment in normal form (RFC 3986 sections 6.2.2 and 6.2.3), or "" for none.

    Dot segments stay: what a server makes of them differs, so such URLs are equal only as they are written.
    """
    bare = url.partition("#")[0].partition("?")[0]
    found = _URI.fullmatch(bare) if len(bare) <= MAX_PROOF else None
    if found is None:
        return ""
    try:
        origin = origin_of(f"{bare.partition(':')[0].lower()}://{found[1]}")
    except ValueError:  # a port or an address that is none
        return ""
    return origin + (_ESCAPE.sub(_unescaped, found[2]) or "/")


def _unescaped(escape: re.Match[str]) -> str:
    char = chr(int(escape[1], 16))
    return char if char in _UNRESERVED else f"%{escape[1].upper()}"


def _use(thumbprint: str, claims: Mapping[str, Any]) -> str:
    # NUL stands in none of the three, so no two proofs share a text.
    text = f"{thumbprint}\0{normal_target(claims['htu'])}\0{claims['jti']}"
    return hashlib.sha256(text.encode()).hexdigest()
