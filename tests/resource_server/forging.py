"""Makes tokens, well-formed and not, without any of the code that reads them."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any, Final

import pytest

from agentguard.errors import TokenRejected
from agentguard.keys import KeySet, SigningKey
from agentguard.resource_server import TokenVerifier, VerifiedToken

NOW: Final = 1_800_000_000
ISSUER: Final = "https://as.bank.test"
AUDIENCE: Final = "https://payments.bank.test"
KEY: Final = SigningKey.generate()
ABSENT: Final = object()


def claims(**changes: Any) -> dict[str, Any]:
    """Claims of a good access token; ABSENT takes one away."""
    good = {
        "iss": ISSUER,
        "sub": "user:alice",
        "aud": AUDIENCE,
        "client_id": "agent:support-bot",
        "jti": "j-1",
        "iat": NOW,
        "exp": NOW + 30,
        "scope": "refunds:write",
        "act": {"sub": "agent:support-bot"},
    }
    return {name: value for name, value in {**good, **changes}.items() if value is not ABSENT}


def base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def header(key: SigningKey = KEY, **changes: Any) -> dict[str, Any]:
    """Header of a good access token; ABSENT takes a parameter away."""
    good = {"alg": key.algorithm, "typ": "at+jwt", "kid": key.kid}
    return {name: value for name, value in {**good, **changes}.items() if value is not ABSENT}


def sign(
    payload: bytes | Mapping[str, Any], head: bytes | Mapping[str, Any] | None = None, key: SigningKey = KEY
) -> str:
    """Sign whatever bytes or claims there are, under whatever header."""
    head = header(key) if head is None else head
    parts = [part if isinstance(part, bytes) else json.dumps(part).encode() for part in (head, payload)]
    signed = ".".join(base64url(part) for part in parts)
    return f"{signed}.{base64url(key.sign(signed.encode()))}"


def token(**changes: Any) -> str:
    """Sign good claims with some changes."""
    return sign(claims(**changes))


def actors(*names: str) -> dict[str, Any]:
    """Nest actors, the current one first (RFC 8693)."""
    claim: dict[str, Any] = {}
    for name in reversed(names):
        claim = {"sub": name, **({"act": claim} if claim else {})}
    return claim


KEYS: Final = KeySet.of(KEY)


def verifier(**options: Any) -> TokenVerifier:
    """Return the verifier under attack."""
    return TokenVerifier(options.pop("keys", KEYS), ISSUER, AUDIENCE, **options)


def refused(text: str, why: str = "", *, now: float = NOW, **options: Any) -> None:
    """Assert that a token is refused as invalid, for a reason that holds `why`."""
    with pytest.raises(TokenRejected) as caught:
        verifier(**options).verify(text, now)
    assert caught.value.error == "invalid_token"
    assert why in caught.value.why


def accepted(text: str, *, now: float = NOW, **options: Any) -> VerifiedToken:
    """Return what an accepted token says."""
    return verifier(**options).verify(text, now)
