"""Makes DPoP proofs, well-formed and not, and requests with them, without the code that verifies or makes proofs."""

from __future__ import annotations

import base64
import hashlib
import itertools
from typing import Any, Final

from agentguard.keys import SigningKey
from agentguard.resource_server import DpopProofs, RequestRejected, RequestVerifier, TokenVerifier, VerifiedRequest
from tests.resource_server.forging import ABSENT, AUDIENCE, ISSUER, KEYS, NOW, sign, token

CLIENT: Final = SigningKey.generate()
URL: Final = f"{AUDIENCE}/refunds"
_numbers: Final = itertools.count(1)


def public(key: SigningKey = CLIENT) -> dict[str, str]:
    """The public members of a key, as a proof's header holds them."""
    return {name: value for name, value in key.public_jwk().items() if name in ("kty", "crv", "x", "y")}


def ath(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


def bound(key: SigningKey = CLIENT, **changes: Any) -> str:
    """An access token that is bound to a key."""
    return token(cnf={"jkt": key.kid}, **changes)


def proof(text: str, *, key: SigningKey = CLIENT, head: Any = None, **changes: Any) -> str:
    """A good proof for POST /refunds with some changes; ABSENT takes a claim or a header parameter away."""
    good = {"jti": f"proof-{next(_numbers):06}", "htm": "POST", "htu": URL, "iat": NOW, "ath": ath(text)}
    claims = {name: value for name, value in {**good, **changes}.items() if value is not ABSENT}
    header = {"typ": "dpop+jwt", "alg": key.algorithm, "jwk": public(key), **(head or {})}
    return sign(claims, {name: value for name, value in header.items() if value is not ABSENT}, key)


class Clock:
    """Seconds since the epoch that only a test moves."""

    def __init__(self, now: float = NOW) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def api(clock: Any = None, proofs: DpopProofs | None = None, **options: Any) -> RequestVerifier:
    """An API that takes bound tokens too."""
    tokens = options.pop("tokens", None) or TokenVerifier(KEYS, ISSUER, AUDIENCE)
    return RequestVerifier(tokens, dpop=proofs or DpopProofs(), clock=clock or Clock(), **options)


def send(
    verifier: RequestVerifier, text: str, *proofs: str, scheme: str = "DPoP", method: str = "POST", url: str = URL
) -> VerifiedRequest | RequestRejected:
    """Send a request; the refusal is returned, not raised."""
    headers = [("Authorization", f"{scheme} {text}"), *(("DPoP", one) for one in proofs)]
    try:
        return verifier.verify_request(method, url, headers)
    except RequestRejected as rejected:
        return rejected


def refused(outcome: Any, why: str, *, error: str = "invalid_dpop_proof", status: int = 401) -> RequestRejected:
    """Assert that a request was refused, for a reason that holds `why`."""
    assert isinstance(outcome, RequestRejected), outcome
    assert (outcome.error, outcome.status) == (error, status), outcome.why
    assert why in outcome.why, outcome.why
    return outcome


def passed(outcome: Any) -> VerifiedRequest:
    """Assert that a request passed."""
    assert isinstance(outcome, VerifiedRequest), outcome
    return outcome
