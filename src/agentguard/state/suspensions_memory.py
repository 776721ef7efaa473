"""Who is stopped, in this process's memory: the reference implementation of the port."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from agentguard.ports import Stop


class MemorySuspensions:
    """Who is stopped, in one process. INVARIANT: `start` checks and marks under the lock that `suspend` takes."""

    suspends = False

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._lock = threading.Lock()
        self._clock = clock
        self._stopped: dict[str, Stop] = {}
        self._epoch = 0
        self._running: set[str] = set()

    def after_fork(self) -> None:
        """In a child: who was stopped stays stopped; what runs is the parent's, and so is whoever held the lock."""
        self._lock, self._running = threading.Lock(), set()

    async def start(self, call: str, keys: Sequence[str], *, reads: bool = False) -> str:
        """Mark a call as running and return "", or return the key that is suspended."""
        with self._lock:
            if self._stopped:
                for key in keys:
                    if key in self._stopped:
                        return key
            self._running.add(call)
            return ""

    async def finish(self, call: str) -> None:
        """The call no longer runs."""
        with self._lock:
            self._running.discard(call)

    async def suspend(self, key: str, why: str) -> None:
        """Stop a key; nothing starts under it after this returned."""
        with self._lock:
            self._epoch += 1
            self._stopped[key] = Stop(key, why, self._clock(), self._epoch)

    async def lift(self, key: str) -> None:
        """Let a key go on."""
        with self._lock:
            self._stopped.pop(key, None)

    async def suspended(self, keys: Sequence[str]) -> str:
        """Return the first suspended key, or ""."""
        with self._lock:
            if self._stopped:
                for key in keys:
                    if key in self._stopped:
                        return key
            return ""

    async def standing(self) -> Sequence[Stop]:
        """Return every stop that stands, the oldest first."""
        with self._lock:
            return sorted(self._stopped.values(), key=lambda stop: stop.epoch)

    async def news(self, since: int) -> tuple[int, Sequence[Stop]]:
        """Return the epoch, and the stops that were set after `since`."""
        with self._lock:
            return self._epoch, [stop for stop in self._stopped.values() if stop.epoch > since]
