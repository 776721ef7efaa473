"""Proof of possession of a key at the application level (DPoP, RFC 9449): the proofs.

A credential that is bound to a key is of no use to whoever only copied it. The key is made for one lease, stays in this
process and is written nowhere.
"""

from __future__ import annotations

import binascii
import functools
import hashlib
import secrets
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, NoReturn
from urllib.parse import urlsplit

import msgspec

from agentguard.keys import SigningKey

_PORTS: Final = {"http": 80, "https": 443}
_URLSAFE: Final = bytes.maketrans(b"+/", b"-_")


def compact_header(key: SigningKey, header: Mapping[str, Any]) -> bytes:
    """Return a header in its encoded form, to be used for many tokens; `alg` is the key's."""
    return base64url(msgspec.json.encode({"alg": key.algorithm, **header}))


def compact_jwt(key: SigningKey, header: bytes | Mapping[str, Any], claims: Mapping[str, Any]) -> str:
    """Return signed claims in compact form (RFC 7515 section 7.1); the header may be encoded already."""
    head = header if isinstance(header, bytes) else compact_header(key, header)
    signed = head + b"." + base64url(msgspec.json.encode(claims))
    return (signed + b"." + base64url(key.sign(signed))).decode("ascii")


def base64url(data: bytes) -> bytes:
    """Return the base64url form without padding (RFC 7515 section 2)."""
    return binascii.b2a_base64(data, newline=False).translate(_URLSAFE).rstrip(b"=")


class DpopKey:
    """A key that one credential is bound to; implements the `Prover` of `model.credential`. Safe for threads.

    Args:
        key: the key pair; a new ES256 one by default.
        clock: seconds since the epoch.
    """

    __slots__ = ("_clock", "_header", "_key")

    def __init__(self, key: SigningKey | None = None, *, clock: Callable[[], float] = time.time) -> None:
        self._key, self._clock = key or SigningKey.generate(), clock
        # INVARIANT: the members of the public half and nothing else; a proof travels with every request.
        jwk = {name: value for name, value in self._key.public_jwk().items() if name in _PUBLIC}
        self._header = compact_header(self._key, {"typ": "dpop+jwt", "jwk": jwk})

    @property
    def thumbprint(self) -> str:
        """What a bound token names in `cnf.jkt` (RFC 7638, RFC 9449 section 6.1)."""
        return self._key.kid

    def proof(self, method: str, url: str, token: str = "", nonce: str = "") -> str:
        """Return a new proof for one request (RFC 9449 section 4.2).

        Args:
            method: the request's method.
            url: where it goes; its query and fragment are left out.
            token: the access token that goes along, for `ath`; empty at a token endpoint.
            nonce: the last one that this server gave, or empty.
        """
        claims = {"jti": secrets.token_urlsafe(16), "htm": method, "htu": htu(url), "iat": int(self._clock())}
        if token:
            claims["ath"] = base64url(hashlib.sha256(token.encode()).digest()).decode("ascii")
        if nonce:
            claims["nonce"] = nonce
        return compact_jwt(self._key, self._header, claims)

    def __repr__(self) -> str:
        return f"<DpopKey {self.thumbprint}>"

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("a DPoP key can be neither copied nor pickled")


_PUBLIC: Final = frozenset({"kty", "crv", "x", "y"})


@functools.lru_cache(maxsize=256)
def htu(url: str) -> str:
    """Return the target URI of a proof: without query and fragment, in the normal form of RFC 3986 section 6.2.2."""
    return origin_of(url) + (urlsplit(url).path or "/")


@functools.lru_cache(maxsize=256)
def origin_of(url: str) -> str:
    """Return scheme, host and port of a URL; what a server says about nonces holds for its origin."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    authority = f"[{host}]" if ":" in host else host
    port = f":{parts.port}" if parts.port not in (None, _PORTS.get(parts.scheme)) else ""
    return f"{parts.scheme}://{authority}{port}"
