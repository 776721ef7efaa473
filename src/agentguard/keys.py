"""Signing keys and sets of public keys: one algorithm a key, private parts shown nowhere."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NoReturn, Self, TypeAlias

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from agentguard._json import NotStrictJSON, strict_json
from agentguard._jwk import PublicKey, from_jwk, is_usable, public_key
from agentguard.errors import ConfigurationError

_Path: TypeAlias = str | os.PathLike[str]
_Private: TypeAlias = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey

MAX_FILE: Final = 1 << 20
# Not inherited, no waiting on a FIFO, no translated line ends; each where the system knows it.
_SAFELY: Final = sum(getattr(os, flag, 0) for flag in ("O_CLOEXEC", "O_NONBLOCK", "O_BINARY"))


class SigningKey:
    """A private key that signs tokens: ES256 (P-256), or EdDSA (Ed25519) by choice.

    Its tokens name the algorithm `EdDSA`, which every verifier knows, not `Ed25519` of RFC 9864. The private part is
    in no repr and can be neither copied nor pickled.
    """

    __slots__ = ("_private", "_public", "sign")

    sign: Callable[[bytes], bytes]
    """Return the raw JOSE signature of some bytes (RFC 7518 section 3.4, RFC 8037 section 3.1)."""

    def __init__(self, private: _Private) -> None:
        if not (isinstance(private, ed25519.Ed25519PrivateKey) or _is_p256(private)):
            raise ConfigurationError("a signing key is a P-256 (ES256) or Ed25519 (EdDSA) key; this is another")
        # INVARIANT: the key lives in closures, so neither `vars` nor a traceback shows it.
        self._private: Callable[[], _Private] = lambda: private
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
    def from_pem_file(cls, path: _Path) -> Self:
        """Read an unencrypted PEM file (PKCS #8 or SEC 1) that only its owner can read.

        Raises:
            ConfigurationError: no such file, open to group or others, encrypted, or no P-256 or Ed25519 key.
        """
        private = _read_private(path)
        if isinstance(private, str):
            raise ConfigurationError(f"signing key {os.fspath(path)!r}: {private}")
        return cls(private)

    def write_pem_file(self, path: _Path) -> None:
        """Write the key as PKCS #8 PEM to a new file that only its owner can read (mode 0600).

        Raises:
            ConfigurationError: the file exists already, or cannot be written.
        """
        problem = _write_private(path, self._private)
        if problem:
            raise ConfigurationError(f"signing key {os.fspath(path)!r}: {problem}")

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


class KeySet:
    """Public keys by `kid`."""

    __slots__ = ("_keys",)

    def __init__(self, keys: Iterable[PublicKey]) -> None:
        self._keys: dict[str, PublicKey] = {}
        for key in keys:
            if key.kid in self._keys:
                raise ConfigurationError(f"two keys have the kid {key.kid!r}; a kid names one key")
            self._keys[key.kid] = key

    @classmethod
    def of(cls, *signing_keys: SigningKey) -> Self:
        """Return the public halves of some signing keys: the current one, and those that still overlap."""
        return cls(key.public for key in signing_keys)

    @classmethod
    def from_jwks(cls, jwks: object) -> Self:
        """Read a JWK set (RFC 7517 section 5).

        Raises:
            ConfigurationError: no keys, duplicate kids, private or symmetric keys, keys that are not for signatures,
                or an algorithm that does not fit its key.
        """
        entries = jwks.get("keys") if isinstance(jwks, Mapping) else None
        if not isinstance(entries, list) or not entries:
            raise ConfigurationError('a JWK set is an object with a list of keys: {"keys": [...]}')
        return cls([from_jwk(entry, position) for position, entry in enumerate(entries)])

    @classmethod
    def from_file(cls, path: _Path) -> Self:
        """Read a JWK set (JSON), or one PEM key, whose kid is its thumbprint; a private key's public half is kept.

        Raises:
            ConfigurationError: the file cannot be read or holds no usable key.
        """
        loaded = _read_public(path)
        if isinstance(loaded, str):
            raise ConfigurationError(f"key file {os.fspath(path)!r}: {loaded}")
        return cls.from_jwks(loaded) if isinstance(loaded, dict) else cls([loaded])

    def find(self, kid: str) -> PublicKey | None:
        """Return the key with this id, or None."""
        return self._keys.get(kid)

    def jwks(self) -> dict[str, list[dict[str, str]]]:
        """Return the set as JSON data, to publish (RFC 7517 section 5)."""
        return {"keys": [key.jwk() for key in self._keys.values()]}

    def __len__(self) -> int:
        return len(self._keys)

    def __repr__(self) -> str:
        return f"<KeySet {', '.join(self._keys)}>"


def _signer(private: _Private) -> Callable[[bytes], bytes]:
    if isinstance(private, ed25519.Ed25519PrivateKey):
        return private.sign
    algorithm = ec.ECDSA(hashes.SHA256())

    def sign(data: bytes) -> bytes:
        r, s = decode_dss_signature(private.sign(data, algorithm))
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")

    return sign


def _is_p256(key: object) -> bool:
    return isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP256R1)


def _read_bytes(path: _Path, *, private: bool) -> bytes | str:
    try:
        fd = os.open(path, os.O_RDONLY | _SAFELY)
    except OSError as error:
        return f"cannot be opened: {error.strerror}"
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or not 0 < status.st_size <= MAX_FILE:
            return "it is empty, larger than 1 MiB or no regular file"
        open_to_others = os.name == "posix" and status.st_mode & 0o077
        exposed = f"others can use the private key; run: chmod 600 {path}" if open_to_others else ""
        if private and exposed:
            return exposed
        data = os.read(fd, MAX_FILE)
        return exposed if exposed and b"PRIVATE KEY" in data else data
    finally:
        os.close(fd)


def _read_private(path: _Path) -> Any | str:
    data = _read_bytes(path, private=True)
    return data if isinstance(data, str) else _parsed_private(data)


def _parsed_private(data: bytes) -> Any | str:
    try:
        return serialization.load_pem_private_key(data, password=None)
    except TypeError:
        return "it is encrypted; write it without a passphrase (openssl pkcs8 -topk8 -nocrypt) and chmod 600"
    except Exception:  # every other way in which it is no key
        return "it holds no private key in PEM form (PKCS #8 or SEC 1)"


def _read_public(path: _Path) -> PublicKey | dict[str, Any] | str:
    data = _read_bytes(path, private=False)
    if isinstance(data, str):
        return data
    if data.lstrip()[:1] == b"{":
        try:
            return strict_json(data)
        except NotStrictJSON:
            return "it is no strict JSON: UTF-8, no duplicate members"
    return _parsed_public(data)


def _parsed_public(data: bytes) -> PublicKey | str:
    if b"PRIVATE KEY" in data:
        private = _parsed_private(data)
        key = private if isinstance(private, str) else private.public_key()
    else:
        try:
            key = serialization.load_pem_public_key(data)
        except Exception:  # whatever it is, it is no public key
            key = "it holds neither a JWK set nor a PEM key"
    if isinstance(key, str):
        return key
    return (
        public_key(key)
        if is_usable(key)
        else "write a P-256, P-384, Ed25519 or RSA (from 2048 bits) key; it is another"
    )


def _write_private(path: _Path, private: Callable[[], _Private]) -> str:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _SAFELY, 0o600)
    except FileExistsError:
        return "it exists already; a key is never written over"
    except OSError as error:
        return f"cannot be written: {error.strerror}"
    try:
        with open(fd, "wb") as file:
            file.write(private().private_bytes(*_PKCS8))
            file.flush()
            os.fsync(fd)
    except OSError as error:
        os.unlink(path)
        return f"cannot be written: {error.strerror}"
    return ""


_PKCS8: Final = (
    serialization.Encoding.PEM,
    serialization.PrivateFormat.PKCS8,
    serialization.NoEncryption(),
)
