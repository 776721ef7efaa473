"""ES256 keys of the authorization server's clients, made anew at each `up`."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.services.endpoints import write_private


def write_client_key(kid: str, jwk: Path, pem: Path) -> None:
    """Write a new private key in both forms."""
    key = ec.generate_private_key(ec.SECP256R1())
    secret = key.private_numbers().private_value
    write_private(jwk, json.dumps({**ec_jwk(key.public_key(), kid), "d": _base64url(secret)}).encode())
    write_private(pem, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def public_jwk(path: Path) -> dict[str, Any]:
    """The public half of a private JWK in a file."""
    return {name: value for name, value in json.loads(path.read_bytes()).items() if name != "d"}


def ec_jwk(key: ec.EllipticCurvePublicKey, kid: str, use: str = "sig") -> dict[str, str]:
    """A P-256 public key as JWK (RFC 7518, section 6.2)."""
    numbers = key.public_numbers()
    point = {"x": _base64url(numbers.x), "y": _base64url(numbers.y)}
    return {"kty": "EC", "crv": "P-256", **point, "kid": kid, "use": use, "alg": "ES256"}


def _base64url(number: int) -> str:
    return base64.urlsafe_b64encode(number.to_bytes(32, "big")).rstrip(b"=").decode()
