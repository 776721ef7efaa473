"""Tasks that wait in this process's memory: the reference implementation of the port."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from typing import Final

from agentguard.ports import Parked
from agentguard.state.parked_limits import AT_ONCE, MAX_KEPT, checked, in_order, no_room, too_many

MAX_TOTAL: Final = 128 << 20  # bytes of all states


class MemoryParkedTasks:
    """Parked tasks of one process; implements the port `ParkedTasks`. They end with it.

    INVARIANT: every method holds the one lock from its first look to its last change, so a task is given out once. A
    forked child starts with none, or both would go on with the same task.
    """

    suspends = False
    durable = False

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        self._pid, self._lock = os.getpid(), threading.Lock()
        self._tasks: dict[str, Parked] = {}
        self._sizes: dict[str, int] = {}

    def after_fork(self) -> None:
        """In a child: what waits is the parent's, and another thread of it may have held the lock."""
        if self._pid != os.getpid():
            self._start()

    async def park(self, parked: Parked) -> None:
        """Keep a task in place of what was kept under its id.

        Raises:
            Unavailable: it is not kept: its state is too long, or too much is kept.
        """
        size = checked(parked)
        self.after_fork()
        with self._lock:
            before = self._sizes.get(parked.id, 0)
            if parked.id not in self._tasks and len(self._tasks) >= MAX_KEPT:
                raise too_many()
            if sum(self._sizes.values()) - before + size > MAX_TOTAL:
                raise no_room(MAX_TOTAL)
            self._tasks[parked.id], self._sizes[parked.id] = parked, size

    async def find(self, id: str, now: float) -> Parked | None:
        """Return a task that is in date, and leave it, or None."""
        self.after_fork()
        with self._lock:
            found = self._tasks.get(id)
            return found if found is not None and found.expires_at > now else None

    async def take(self, id: str, now: float) -> Parked | None:
        """Return a task that is in date, once, or None."""
        self.after_fork()
        with self._lock:
            found = self._tasks.get(id)
            # A time that is no number is not before the end either.
            return self._pop(id) if found is not None and found.expires_at > now else None

    async def lapsed(self, now: float) -> Sequence[Parked]:
        """Return the tasks that have expired, each once, the first to end first, at most 100."""
        self.after_fork()
        with self._lock:
            ended = in_order(parked for parked in self._tasks.values() if parked.expires_at <= now)
            return [self._pop(parked.id) for parked in ended[:AT_ONCE]]

    def _pop(self, id: str) -> Parked:
        del self._sizes[id]
        return self._tasks.pop(id)
