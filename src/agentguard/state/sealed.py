"""Secrets at rest: AES-256-GCM under keys of their own, tied to the row that they belong to."""

from __future__ import annotations

import os
from typing import Final, overload

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from agentguard.errors import ConfigurationError
from agentguard.model.lease import Secret

KEY_BYTES: Final = 32
HANDLES: Final = b"agentguard ledger: revocation handles, version 1"
TASKS: Final = b"agentguard parked tasks: states, version 1"
_NAME: Final = b"; the key's name"
_NAME_BYTES: Final = 8
_VERSION: Final = b"\x01"
_NONCE: Final = 12


class Sealer:
    """Seals and opens secrets. What one belongs to is the associated data, so it fits no other row.

    Args:
        key: at least 32 bytes; what secrets are sealed with is derived from it (HKDF, RFC 5869).
        kind: what is sealed; what was sealed as one kind does not open as another.

    Attributes:
        key_name: tells rows under this key from rows under another one; says nothing about the key.

    Raises:
        ConfigurationError: the key is shorter.
    """

    __slots__ = ("_cipher", "key_name")

    def __init__(self, key: Secret | bytes, kind: bytes = HANDLES) -> None:
        secret = key.reveal().encode() if isinstance(key, Secret) else key
        if len(secret) < KEY_BYTES:
            raise ConfigurationError(
                f"the key of the state has fewer than {KEY_BYTES} bytes; make one with: openssl rand -hex 32"
            )
        self._cipher = AESGCM(HKDF(SHA256(), 32, salt=None, info=kind).derive(secret))
        self.key_name = HKDF(SHA256(), _NAME_BYTES, salt=None, info=kind + _NAME).derive(secret).hex()

    @overload
    def seal(self, secret: Secret, owner: str) -> bytes: ...
    @overload
    def seal(self, secret: None, owner: str) -> None: ...
    def seal(self, secret: Secret | None, owner: str) -> bytes | None:
        """Return the sealed secret of a lease or a task."""
        if secret is None:
            return None
        nonce = os.urandom(_NONCE)
        return _VERSION + nonce + self._cipher.encrypt(nonce, secret.reveal().encode(), owner.encode())

    def open(self, sealed: bytes, owner: str) -> Secret | None:
        """Return the secret, or None if it was sealed under another key, as another kind or for another owner."""
        if sealed[:1] != _VERSION:
            return None
        try:
            nonce, text = sealed[1 : 1 + _NONCE], sealed[1 + _NONCE :]
            return Secret(self._cipher.decrypt(nonce, text, owner.encode()).decode())
        except (InvalidTag, ValueError):
            return None
