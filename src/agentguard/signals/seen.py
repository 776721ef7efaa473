"""What was seen before, bounded."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Hashable


class Seen:
    """Remembers the latest entries. Safe for threads, and after a fork.

    Args:
        most: entries that are remembered; the oldest is forgotten.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._entries: OrderedDict[Hashable, None] = OrderedDict()
        self._pid, self._lock = os.getpid(), threading.Lock()

    def add(self, entry: Hashable) -> None:
        """Remember an entry."""
        with self._own_lock():
            self._entries[entry] = None
            while len(self._entries) > self._most:
                self._entries.popitem(last=False)

    def __contains__(self, entry: Hashable) -> bool:
        with self._own_lock():
            return entry in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    def _own_lock(self) -> threading.Lock:
        if self._pid != os.getpid():  # another thread of the parent may have held it
            self._pid, self._lock = os.getpid(), threading.Lock()
        return self._lock
