"""Public keys by their ids."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Self

from agentguard._jwk import PublicKey, from_jwk
from agentguard.errors import ConfigurationError
from agentguard.keys.pem import Path, read_public
from agentguard.keys.signer import Signer


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
    def of(cls, *signing_keys: Signer) -> Self:
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
    def from_file(cls, path: Path) -> Self:
        """Read a JWK set (JSON), or one PEM key, whose kid is its thumbprint; a private key's public half is kept.

        Raises:
            ConfigurationError: the file cannot be read or holds no usable key.
        """
        loaded = read_public(path)
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
