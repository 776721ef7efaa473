"""Key files: read whole, small and private to their owner; written once, never over another."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from typing import Any, Final, TypeAlias

from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from agentguard._json import NotStrictJSON, strict_json
from agentguard._jwk import PublicKey, is_usable, public_key

Path: TypeAlias = str | os.PathLike[str]
Private: TypeAlias = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey

MAX_FILE: Final = 1 << 20
# Not inherited, no waiting on a FIFO, no translated line ends; each where the system knows it.
SAFELY: Final = sum(getattr(os, flag, 0) for flag in ("O_CLOEXEC", "O_NONBLOCK", "O_BINARY"))


def read_bytes(path: Path, *, private: bool) -> bytes | str:
    try:
        fd = os.open(path, os.O_RDONLY | SAFELY)
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


def read_private(path: Path) -> Any | str:
    data = read_bytes(path, private=True)
    return data if isinstance(data, str) else parsed_private(data)


def parsed_private(data: bytes) -> Any | str:
    from cryptography.hazmat.primitives.serialization import load_pem_private_key  # a key that is made needs none of it

    try:
        return load_pem_private_key(data, password=None)
    except TypeError:
        return "it is encrypted; write it without a passphrase (openssl pkcs8 -topk8 -nocrypt) and chmod 600"
    except Exception:  # every other way in which it is no key
        return "it holds no private key in PEM form (PKCS #8 or SEC 1)"


def read_public(path: Path) -> PublicKey | dict[str, Any] | str:
    data = read_bytes(path, private=False)
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
        private = parsed_private(data)
        key = private if isinstance(private, str) else private.public_key()
    else:
        from cryptography.hazmat.primitives.serialization import load_pem_public_key

        try:
            key = load_pem_public_key(data)
        except Exception:  # whatever it is, it is no public key
            key = "it holds neither a JWK set nor a PEM key"
    if isinstance(key, str):
        return key
    return (
        public_key(key)
        if is_usable(key)
        else "write a P-256, P-384, Ed25519 or RSA (from 2048 bits) key; it is another"
    )


def write_private(path: Path, private: Callable[[], Private]) -> str:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | SAFELY, 0o600)
    except FileExistsError:
        return "it exists already; a key is never written over"
    except OSError as error:
        return f"cannot be written: {error.strerror}"
    try:
        with open(fd, "wb") as file:
            file.write(pem_of(private))
            file.flush()
            os.fsync(fd)
    except OSError as error:
        os.unlink(path)
        return f"cannot be written: {error.strerror}"
    return ""


def pem_of(private: Callable[[], Private]) -> bytes:
    """Return a private key as PKCS #8 PEM, which is a secret."""
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return private().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
