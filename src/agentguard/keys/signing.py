"""A private key that signs in this process."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from typing import Any, Final, NoReturn, Self

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from agentguard._jwk import PublicKey, public_key
from agentguard.errors import ConfigurationError
from agentguard.keys.pem import Path, Private, parsed_private, pem_of, read_private, write_private


class SigningKey:
    """A private key that signs tokens: ES256 (P-256), or EdDSA (Ed25519) by choice; a `Signer` that never waits.

    Its tokens name the algorithm `EdDSA`, which every verifier knows, not `Ed25519` of RFC 9864. The private part is
    in no repr and can be neither copied nor pickled.
    """

    __slots__ = ("_private", "_public", "sign")

    suspends: bool = False
    waits: bool = False

    sign: Callable[[bytes], bytes]
    """Return the raw JOSE signature of some bytes (RFC 7518 section 3.4, RFC 8037 section 3.1)."""

    def __init__(self, private: Private) -> None:
        if not _signs(private):
            raise ConfigurationError(_OTHER)
        # INVARIANT: the key lives in closures, so neither `vars` nor a traceback shows it.
        self._private: Callable[[], Private] = lambda: private
        self.sign = _signer(private)
        self._public = public_key(private.public_key())

    @classmethod
    def generate(cls, algorithm: str = "ES256") -> Self:
        """Make a new key.

        Args:
            algorithm: `ES256` or `EdDSA`.

        Raises:
            ConfigurationError: another algorithm.
        """
        if algorithm == "ES256":
            return cls(ec.generate_private_key(ec.SECP256R1()))
        if algorithm == "EdDSA":
            return cls(ed25519.Ed25519PrivateKey.generate())
        raise ConfigurationError(f"signing algorithm {algorithm!r}: write 'ES256' or 'EdDSA'")

    @classmethod
    def from_pem_file(cls, path: Path) -> Self:
        """Read an unencrypted PEM file (PKCS #8 or SEC 1) that only its owner can read.

        Raises:
            ConfigurationError: no such file, open to group or others, encrypted, or no P-256 or Ed25519 key.
        """
        private = read_private(path)
        if isinstance(private, str):
            how = "" if os.path.exists(path) else f"; {_MAKE_ONE} {os.fspath(path)}"
            raise ConfigurationError(f"signing key {os.fspath(path)!r}: {private}{how}")
        return cls(private)

    def write_pem_file(self, path: Path) -> None:
        """Write the key as PKCS #8 PEM to a new file that only its owner can read (mode 0600).

        Raises:
            ConfigurationError: the file exists already, or cannot be written.
        """
        problem = write_private(path, self._private)
        if problem:
            raise ConfigurationError(f"signing key {os.fspath(path)!r}: {problem}")

    @classmethod
    def from_pem(cls, pem: bytes) -> Self | str:
        """Return the key in some PEM text, or why there is none; nothing is raised, so the caller can drop the text."""
        private = parsed_private(pem)
        if isinstance(private, str):
            return private
        return cls(private) if _signs(private) else _OTHER

    def to_pem(self) -> bytes:
        """Return the private key as PKCS #8 PEM: a secret."""
        return pem_of(self._private)

    async def signature(self, data: bytes) -> bytes:
        """Return `sign(data)`: the port's way to ask."""
        return self.sign(data)

    @property
    def kid(self) -> str:
        """The key's id: its thumbprint (RFC 7638)."""
        return self._public.kid

    @property
    def algorithm(self) -> str:
        """`ES256` or `EdDSA`."""
        return self._public.algorithm

    @property
    def public(self) -> PublicKey:
        """The public half."""
        return self._public

    def public_jwk(self) -> dict[str, str]:
        """Return the public half as a JWK (RFC 7517)."""
        return self._public.jwk()

    def __repr__(self) -> str:
        return f"<SigningKey {self.algorithm} {self.kid}>"

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("a signing key can be neither copied nor pickled; use write_pem_file")


class _Es256(ec.ECDSA):
    """ECDSA with SHA-256 whose properties, which each signature asks for, are plain attributes."""

    algorithm = Prehashed(hashes.SHA256())
    deterministic_signing = False


def _signer(private: Private) -> Callable[[bytes], bytes]:
    if isinstance(private, ed25519.Ed25519PrivateKey):
        return private.sign
    algorithm, sha256 = _Es256(Prehashed(hashes.SHA256())), hashlib.sha256  # hashlib finds its hash faster

    def sign(data: bytes) -> bytes:
        # A SEQUENCE of two INTEGERs (RFC 3279 section 2.2.3), all so short that each length is one byte: r begins at 4,
        # s two behind its end. A first bit that is set has a zero before it; zeros that lead a number are left out.
        der = private.sign(sha256(data).digest(), algorithm)
        end = 4 + der[3]
        return der[4:end][-32:].rjust(32, b"\0") + der[end + 2 :][-32:].rjust(32, b"\0")

    return sign


def _signs(key: object) -> bool:
    p256 = isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP256R1)
    return p256 or isinstance(key, ed25519.Ed25519PrivateKey)


_MAKE_ONE: Final = "make one with: openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out"
_OTHER: Final = "a signing key is a P-256 (ES256) or Ed25519 (EdDSA) key; this is another"
