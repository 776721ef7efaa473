"""Which handovers were redeemed: each is good once."""

from __future__ import annotations

import heapq
import threading
from typing import Final

MAX_KEPT: Final = 100_000


class MemoryRedemptions:
    """The memory of one process, or of the guards that are given the same one. Full means refuse, never forget.

    Args:
        shared: every guard that trusts the same issuers is given this very object.
        most: how many ids are kept at the same time.
    """

    suspends = False

    def __init__(self, *, shared: bool = False, most: int = MAX_KEPT) -> None:
        self.shared = shared
        self._most = most
        self.after_fork()
        self._known: set[str] = set()
        self._ends: list[tuple[float, str]] = []

    def after_fork(self) -> None:
        """In a child: another thread of the parent may have held the lock."""
        self._lock = threading.Lock()

    async def redeem(self, key: str, until: float, now: float) -> bool:
        """Take an id; False if it was taken, or if no more can be remembered."""
        with self._lock:
            while self._ends and self._ends[0][0] <= now:
                self._known.discard(heapq.heappop(self._ends)[1])
            if key in self._known or len(self._known) >= self._most:
                return False
            self._known.add(key)
            heapq.heappush(self._ends, (until, key))
            return True
