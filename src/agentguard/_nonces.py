"""The nonces that servers want to see in DPoP proofs (RFC 9449 sections 8 and 9); needs no cryptography."""

from __future__ import annotations

import os
import re
import threading
import weakref
from collections import OrderedDict
from typing import Final

MOST_ORIGINS: Final = 256
_all: Final[weakref.WeakSet[DpopNonces]] = weakref.WeakSet()
_NONCE: Final = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]{1,1024}")  # RFC 9449 section 8.1


class DpopNonces:
    """The last nonce of each server, by origin, so that none is ever sent to another. Safe for threads.

    Args:
        most: origins that are remembered; the least recently heard of is forgotten.
    """

    def __init__(self, most: int = MOST_ORIGINS) -> None:
        self._most = most
        self.after_fork()
        _all.add(self)

    def get(self, origin: str) -> str:
        """Return the nonce that this origin wants to see next, or an empty text."""
        with self._lock:
            return self._nonces.get(origin, "")

    def put(self, origin: str, nonce: str) -> None:
        """Remember what a server sent as `DPoP-Nonce`; what is none is passed over (RFC 9449 section 8.1)."""
        if not _NONCE.fullmatch(nonce):
            return
        with self._lock:
            self._nonces[origin] = nonce
            self._nonces.move_to_end(origin)
            if len(self._nonces) > self._most:
                self._nonces.popitem(last=False)

    def after_fork(self) -> None:
        """Start anew: another thread of the parent may have held the lock."""
        self._lock = threading.Lock()
        self._nonces: OrderedDict[str, str] = OrderedDict()


def _after_fork() -> None:
    for nonces in list(_all):
        nonces.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
