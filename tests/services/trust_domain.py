"""A SPIFFE trust domain: an X.509 authority, JWT signing keys, and the SVIDs they make."""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests.services.keys import ec_jwk

SKEW = timedelta(seconds=5)


class TrustDomain:
    """Keys in memory, new ones for each object."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._ca_key = ec.generate_private_key(ec.SECP256R1())
        self._ca = self._authority()
        self._jwt_keys: list[tuple[str, ec.EllipticCurvePrivateKey]] = []
        self.rotate_jwt_key()

    @property
    def ca_der(self) -> bytes:
        """The X.509 bundle as the Workload API sends it: concatenated DER."""
        return self._ca.public_bytes(Encoding.DER)

    @property
    def ca_pem(self) -> bytes:
        """The X.509 bundle for a TLS verifier."""
        return self._ca.public_bytes(Encoding.PEM)

    @property
    def jwks(self) -> bytes:
        """The JWT bundle: `use` is `jwt-svid` and every key has a `kid` (SPIFFE Trust Domain and Bundle, section 4)."""
        keys = [ec_jwk(key.public_key(), kid, use="jwt-svid") for kid, key in self._jwt_keys]
        return json.dumps({"keys": keys}).encode()

    def rotate_jwt_key(self) -> None:
        """Sign with a new key from now on; the one before stays in the bundle."""
        key = ec.generate_private_key(ec.SECP256R1())
        self._jwt_keys = [*self._jwt_keys[-1:], (secrets.token_hex(8), key)]

    def jwt_svid(self, spiffe_id: str, audience: Sequence[str], ttl: float, now: datetime) -> str:
        """A JWT-SVID (SPIFFE JWT-SVID, section 3)."""
        kid, key = self._jwt_keys[-1]
        times = {"iat": int(now.timestamp()), "exp": int(now.timestamp() + ttl)}
        claims = {"sub": spiffe_id, "aud": list(audience), **times, "jti": secrets.token_urlsafe(16)}
        return jwt.encode(claims, key, algorithm="ES256", headers={"kid": kid})

    def verify_jwt_svid(self, token: str, audience: str) -> dict[str, object]:
        """The claims of a JWT-SVID of this trust domain.

        Raises:
            jwt.PyJWTError: It is not one, or not for this audience, or expired.
        """
        keys = {kid: key.public_key() for kid, key in self._jwt_keys}
        kid = jwt.get_unverified_header(token).get("kid")
        if kid not in keys:
            raise jwt.InvalidTokenError("unknown kid")
        required = {"require": ["sub", "aud", "exp"]}
        return jwt.decode(token, keys[kid], algorithms=["ES256"], audience=audience, options=required)  # type: ignore[arg-type]  # PyJWT types its options as a closed dict

    def x509_svid(self, spiffe_id: str, ttl: float, now: datetime) -> tuple[bytes, bytes]:
        """An X.509-SVID and its private key, both DER (SPIFFE X509-SVID, sections 2 to 4)."""
        key = ec.generate_private_key(ec.SECP256R1())
        usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH])
        certificate = (
            _certificate(key.public_key(), x509.Name([]), self._ca.subject, now - SKEW, now + timedelta(seconds=ttl))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs=True), critical=True)
            .add_extension(usage, critical=False)
            .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(spiffe_id)]), critical=True)
            .sign(self._ca_key, hashes.SHA256())
        )
        private = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        return certificate.public_bytes(Encoding.DER), private

    def _authority(self) -> x509.Certificate:
        name, now = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.name)]), datetime.now(UTC)
        uri = x509.UniformResourceIdentifier(f"spiffe://{self.name}")
        return (
            _certificate(self._ca_key.public_key(), name, name, now - SKEW, now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(_key_usage(signs=False), critical=True)
            .add_extension(x509.SubjectAlternativeName([uri]), critical=False)
            .sign(self._ca_key, hashes.SHA256())
        )


def _certificate(
    key: ec.EllipticCurvePublicKey, subject: x509.Name, issuer: x509.Name, begins: datetime, ends: datetime
) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
    return builder.serial_number(x509.random_serial_number()).not_valid_before(begins).not_valid_after(ends)


def _key_usage(*, signs: bool) -> x509.KeyUsage:
    """A leaf signs data, an authority signs certificates and revocation lists: never both."""
    return x509.KeyUsage(
        digital_signature=signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=not signs,
        crl_sign=not signs,
        encipher_only=False,
        decipher_only=False,
    )
