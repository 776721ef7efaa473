"""The nonces that an API demands in DPoP proofs (RFC 9449 section 9): a proof that was made in advance is of no use.

A nonce is a time and its HMAC, so nothing is stored and every process with the same key accepts it.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Callable
from typing import Any, Final, NoReturn

from agentguard._dpop import base64url
from agentguard.errors import ConfigurationError

_LABEL: Final = b"agentguard dpop nonce "


class ServerNonces:
    """Makes and checks the nonces of one API; they rotate, and each is good for one to two windows.

    Args:
        window: seconds after which a new nonce is given out, 1 to 3600.
        key: at least 32 bytes, the same in all processes that serve the API; a new random one by default.

    Raises:
        ConfigurationError: the window is out of range, or the key too short.
    """

    __slots__ = ("_mac", "_window")

    def __init__(self, window: int = 120, key: bytes | None = None) -> None:
        if type(window) is not int or not 1 <= window <= 3600:
            raise ConfigurationError(f"window {window!r}: write whole seconds from 1 to 3600")
        secret = os.urandom(32) if key is None else bytes(key)
        if len(secret) < 32:
            raise ConfigurationError("the key of the nonces needs at least 32 random bytes: os.urandom(32)")
        self._window = window
        # INVARIANT: the key lives in a closure, so neither `vars` nor a traceback shows it.
        self._mac: Callable[[bytes], bytes] = lambda data: hmac.digest(secret, _LABEL + data, hashlib.sha256)

    def current(self, now: float) -> str:
        """Return the nonce that proofs shall hold from now on.

        Args:
            now: seconds since the epoch.
        """
        return self._of(int(now // self._window))

    def accepts(self, nonce: object, now: float) -> bool:
        """Tell whether a nonce is the current one or the one before it."""
        if not isinstance(nonce, str) or not nonce.isascii():
            return False
        step = int(now // self._window)
        return any(hmac.compare_digest(nonce, self._of(one)) for one in (step, step - 1))

    def _of(self, step: int) -> str:
        data = step.to_bytes(8, "big", signed=True)
        return base64url(data + self._mac(data)[:16]).decode("ascii")

    def __repr__(self) -> str:
        return f"<ServerNonces window={self._window}>"

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("the key of nonces can be neither copied nor pickled; give it to each process")
