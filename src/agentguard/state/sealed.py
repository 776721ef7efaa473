"""Revocation handles at rest: AES-256-GCM under a key of their own, tied to the lease they belong to."""

from __future__ import annotations

import os
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from agentguard.errors import ConfigurationError
from agentguard.model.lease import Secret

KEY_BYTES: Final = 32
_INFO: Final = b"agentguard ledger: revocation handles, version 1"
_VERSION: Final = b"\x01"
_NONCE: Final = 12


class Sealer:
    """Seals and opens handles. The lease's id is the associated data, so a handle fits no other row.

    Args:
        key: at least 32 bytes; what handles are sealed with is derived from it (HKDF, RFC 5869).

    Raises:
        ConfigurationError: it is shorter.
    """

    __slots__ = ("_cipher",)

    def __init__(self, key: Secret | bytes) -> None:
        secret = key.reveal().encode() if isinstance(key, Secret) else key
        if len(secret) < KEY_BYTES:
            raise ConfigurationError(
                f"the ledger's key has fewer than {KEY_BYTES} bytes; make one with: openssl rand -hex 32"
            )
        self._cipher = AESGCM(HKDF(SHA256(), 32, salt=None, info=_INFO).derive(secret))

    def seal(self, handle: Secret | None, lease: str) -> bytes | None:
        """Return the sealed handle of a lease."""
        if handle is None:
            return None
        nonce = os.urandom(_NONCE)
        return _VERSION + nonce + self._cipher.encrypt(nonce, handle.reveal().encode(), lease.encode())

    def open(self, sealed: bytes, lease: str) -> Secret | None:
        """Return the handle, or None if it was sealed under another key or for another lease."""
        if sealed[:1] != _VERSION:
            return None
        try:
            nonce, text = sealed[1 : 1 + _NONCE], sealed[1 + _NONCE :]
            return Secret(self._cipher.decrypt(nonce, text, lease.encode()).decode())
        except (InvalidTag, ValueError):
            return None
