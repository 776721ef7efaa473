"""Which DPoP proofs were used: each is good for one request (RFC 9449 section 11.1)."""

from __future__ import annotations

import math
import os
import threading
import time
import weakref
from collections.abc import Callable
from typing import Final, Protocol

from agentguard.errors import ConfigurationError

MOST_PROOFS: Final = 100_000
_memories: Final[weakref.WeakSet[MemoryReplays]] = weakref.WeakSet()


class Replays(Protocol):
    """Remembers the proofs that were used. Safe for concurrent use; processes that serve one API share one.

    `first_use` returns True exactly once for a key within so many seconds, whoever asks at the same time. False is a
    replay. A raise means that it cannot be told, for example because the memory is full, and the request is refused.
    """

    async def first_use(self, key: str, seconds: float) -> bool: ...


class ReplaysFull(Exception):
    """No more proofs can be remembered; what would be forgotten could be used again."""


class MemoryReplays:
    """Remembers proofs in this process. Safe for threads and event loops.

    Only proofs of accepted tokens get here, so nobody without one can fill it. Each process has its own memory, so
    behind several workers a proof may pass once in each of them: share a `Replays` there.

    Args:
        most: proofs at once; one more is an error, never a proof that is forgotten.
        clock: monotonic seconds.

    Raises:
        ConfigurationError: `most` is no whole number from 1.
    """

    def __init__(self, most: int = MOST_PROOFS, *, clock: Callable[[], float] = time.monotonic) -> None:
        if type(most) is not int or most < 1:
            raise ConfigurationError(f"most {most!r}: write how many proofs are remembered, a whole number from 1")
        self._most, self._clock = most, clock
        self._lock = threading.Lock()
        self._until: dict[str, float] = {}
        self._seconds: dict[int, list[str]] = {}
        _memories.add(self)

    async def first_use(self, key: str, seconds: float) -> bool:
        """Return True for the first use of a key within so many seconds.

        Raises:
            ReplaysFull: it cannot be remembered.
        """
        with self._lock:
            now = self._clock()
            self._forget(now)
            if key in self._until:
                return False
            if len(self._until) >= self._most:
                raise ReplaysFull
            self._until[key] = now + seconds
            self._seconds.setdefault(math.ceil(now + seconds), []).append(key)
            return True

    def _forget(self, now: float) -> None:
        for second in [second for second in self._seconds if second <= now]:
            for key in self._seconds.pop(second):
                self._until.pop(key, None)

    def __len__(self) -> int:
        return len(self._until)


def _after_fork() -> None:
    for memory in list(_memories):
        memory._lock = threading.Lock()  # another thread of the parent may have held it


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
