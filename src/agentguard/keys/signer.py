"""What signs tokens: a key of this process, or one that never leaves another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from agentguard._jwk import PublicKey
    from agentguard.keys.public import KeySet


@runtime_checkable
class Signer(Protocol):
    """One private key, wherever it is. Safe for concurrent use.

    `signature` returns the raw JOSE signature of some bytes: r and s of 32 bytes for ES256 (RFC 7518 section 3.4), 64
    bytes for EdDSA (RFC 8037 section 3.1). A raise (`Unavailable`) means that nobody holds a signature, and what is
    raised holds nothing of the bytes. `suspends` and `waits` mean what they mean for every port (see `ports.py`).
    """

    suspends: bool
    waits: bool

    @property
    def kid(self) -> str: ...
    @property
    def algorithm(self) -> str: ...
    @property
    def public(self) -> PublicKey: ...
    async def signature(self, data: bytes) -> bytes: ...


@runtime_checkable
class Signers(Protocol):
    """Keys that take turns: exactly one signs at a time, and others are published with it. Safe for concurrent use.

    `current` returns the one that signs at a time; a raise (`Unavailable`) means that none may. `published` returns
    the public halves that a verifier needs at that time: of the next key too, and of those whose tokens may live.
    """

    suspends: bool
    waits: bool

    async def current(self, now: float) -> Signer: ...
    def published(self, now: float) -> KeySet: ...
