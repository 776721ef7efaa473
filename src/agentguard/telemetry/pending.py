"""Questions to people that wait now, counted where a guard asks and where it hears the answer."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable
from typing import Final
from weakref import WeakSet

MOST: Final = 100_000
A_DAY: Final = 86_400.0  # no question stands longer


class Pending:
    """What one guard has asked and nobody has answered. Safe for concurrent use.

    A question that another process answers counts here until it would have expired.

    Args:
        monotonic: seconds that never jump.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._until: dict[Hashable, float] = {}
        _all.add(self)

    def begin(self, key: Hashable, seconds: float = A_DAY) -> None:
        """A question waits from now on, for so many seconds at most."""
        with self._lock:
            if len(self._until) < MOST:
                self._until[key] = self._monotonic() + seconds

    def end(self, key: Hashable) -> None:
        """A question waits no more; for one that did not, nothing happens."""
        with self._lock:
            self._until.pop(key, None)

    def clear(self) -> None:
        """Nobody waits here any more: the guard is closed."""
        with self._lock:
            self._until.clear()

    def count(self) -> int:
        """How many wait now; what has expired is forgotten."""
        now = self._monotonic()
        with self._lock:
            self._until = {key: until for key, until in self._until.items() if until > now}
            return len(self._until)


_all: Final[WeakSet[Pending]] = WeakSet()


def waiting() -> int:
    """Questions that wait now, of all guards of this process."""
    return sum(pending.count() for pending in list(_all))
