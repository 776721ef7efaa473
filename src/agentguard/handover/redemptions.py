"""Which handovers were redeemed: each is good once."""

from __future__ import annotations

import heapq
import threading
from typing import Final, Protocol, runtime_checkable

MAX_KEPT: Final = 100_000


@runtime_checkable
class Redemptions(Protocol):
    """Remembers ids that were used. Safe for concurrent use.

    `redeem` is one atomic step: it returns True for the first caller of a key and False for every later one, until
    `until`; a raise means that nobody may use it. `shared` says that all processes that could redeem the same
    handovers use the same memory; only then does an id that can be taken prove that nobody took it before.
    """

    suspends: bool
    shared: bool

    async def redeem(self, key: str, until: float, now: float) -> bool: ...


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
