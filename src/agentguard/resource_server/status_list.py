"""Token Status List, the issuer's side (draft-ietf-oauth-status-list): which of many tokens still count, in one file.

A token carries `status: {status_list: {idx, uri}}`. What stands at its index is read from a signed list that anybody
may fetch, so the index must not say which token it belongs to: it is drawn at random.
"""

from __future__ import annotations

import heapq
import math
import secrets
import threading
import zlib
from array import array
from enum import IntEnum
from typing import Any, Final

from agentguard._dpop import base64url, compact_jwt
from agentguard.errors import ConfigurationError, Unavailable
from agentguard.keys import SigningKey

MEDIA_TYPE: Final = "application/statuslist+jwt"
MOST_INDEXES: Final = 1 << 24
BITS: Final = (1, 2, 4, 8)


class Status(IntEnum):
    """What a token is worth; other values are an application's own, and mean that it is not valid."""

    VALID = 0x00
    INVALID = 0x01
    SUSPENDED = 0x02


class StatusList:
    """The statuses of many tokens, packed as in section 4.1. Safe for threads.

    Args:
        bits: for each token: 1 (valid or not), 2, 4 or 8.
        size: how many tokens; the list shows no more than this, so choose it large (100,000 and up).

    Raises:
        ConfigurationError: the bits are others, or the size is out of range.
    """

    def __init__(self, bits: int = 1, size: int = 1 << 17) -> None:
        if bits not in BITS or isinstance(bits, bool):
            raise ConfigurationError(f"bits {bits!r}: write 1, 2, 4 or 8")
        if type(size) is not int or not 1 <= size <= MOST_INDEXES:
            raise ConfigurationError(f"size {size!r}: write a whole number from 1 to {MOST_INDEXES}")
        self.bits, self.size = bits, size
        self._packed = bytearray(math.ceil(size * bits / 8))
        self._free = array("I", range(size))
        self._taken: list[tuple[float, int]] = []
        self._lock = threading.Lock()

    def allocate(self, until: float, now: float) -> int:
        """Return an index for a new token; which one cannot be guessed.

        Args:
            until: seconds since the epoch from when on every verifier refuses the token by its `exp`, leeway
                included; then the index is used again.
            now: seconds since the epoch.

        Raises:
            Unavailable: every index is in use.
            ConfigurationError: `until` is no time.
        """
        if not math.isfinite(until):
            raise ConfigurationError("an index is for a token that ends: write its exp and the leeway as until")
        with self._lock:
            self._reclaim(now)
            if not self._free:
                raise Unavailable(f"all {self.size} indexes of the status list are in use; make another list")
            position = secrets.randbelow(len(self._free))
            self._free[position], self._free[-1] = self._free[-1], self._free[position]
            index = self._free.pop()
            heapq.heappush(self._taken, (until, index))
            return index

    def _reclaim(self, now: float) -> None:
        while self._taken and self._taken[0][0] <= now:
            _, index = heapq.heappop(self._taken)
            self._put(index, Status.VALID)
            self._free.append(index)

    def set(self, index: int, status: int) -> None:
        """Say what a token is worth from now on; verifiers see it when they fetch the list anew.

        Raises:
            ConfigurationError: the index is outside of the list, or the status does not fit its bits.
        """
        self._check(index)
        if isinstance(status, bool) or not 0 <= status < 1 << self.bits:
            raise ConfigurationError(f"status {status!r} does not fit {self.bits} bits")
        with self._lock:
            self._put(index, status)

    def get(self, index: int) -> int:
        """Return what a token is worth.

        Raises:
            ConfigurationError: the index is outside of the list.
        """
        self._check(index)
        return status_at(self._packed, self.bits, index)

    def _check(self, index: int) -> None:
        if type(index) is not int or not 0 <= index < self.size:
            raise ConfigurationError(f"index {index!r} is outside of the list; it has {self.size}")

    def _put(self, index: int, status: int) -> None:
        byte, shift = divmod(index * self.bits, 8)
        mask = ((1 << self.bits) - 1) << shift
        self._packed[byte] = self._packed[byte] & ~mask | status << shift

    def claim(self) -> dict[str, Any]:
        """Return the `status_list` member: bits, and the statuses in ZLIB's DEFLATE format (section 4.2)."""
        with self._lock:
            packed = bytes(self._packed)
        return {"bits": self.bits, "lst": base64url(zlib.compress(packed, 9)).decode("ascii")}

    def token(self, key: SigningKey, uri: str, now: float, *, ttl: int = 60, lifetime: int = 3600) -> str:
        """Return the Status List Token to serve at a URI, as `application/statuslist+jwt` (section 5.1).

        Args:
            key: signs; verifiers know its public half.
            uri: where it is served; tokens name it.
            now: seconds since the epoch.
            ttl: seconds after which verifiers fetch it anew: as long a revoked token may still pass.
            lifetime: seconds after which it must not be used any more.

        Raises:
            ConfigurationError: it is not 0 < ttl <= lifetime.
        """
        if not (type(ttl) is int and type(lifetime) is int and 0 < ttl <= lifetime):
            raise ConfigurationError("a status list needs whole seconds with 0 < ttl <= lifetime")
        issued = int(now)
        claims = {"sub": uri, "iat": issued, "exp": issued + lifetime, "ttl": ttl, "status_list": self.claim()}
        return compact_jwt(key, {"typ": "statuslist+jwt", "kid": key.kid}, claims)

    def __repr__(self) -> str:
        return f"<StatusList bits={self.bits} size={self.size} in_use={len(self._taken)}>"


def status_at(packed: bytes | bytearray, bits: int, index: int) -> int:
    """Return the status at an index of a packed list: least significant bits first (section 4.1)."""
    byte, shift = divmod(index * bits, 8)
    return packed[byte] >> shift & ((1 << bits) - 1)
