"""Blocking work of a store: done here for a synchronous caller, else in a thread, in turns."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Final, TypeVar

import anyio.to_thread

from agentguard._drive import driven
from agentguard.errors import Unavailable

T = TypeVar("T")
_LANES: Final = 64


async def offload(work: Callable[[], T], turn: Callable[[], AbstractContextManager[object]]) -> T:
    """Do blocking work.

    INVARIANT: work of a caller that was cancelled either is finished before any later work of the same turn, or is
    never done: a mark cannot appear after the one that waited for it has removed it.

    Args:
        work: may block; what it raises is passed on.
        turn: kept for the time of the work, so that later work waits for it.
    """
    if driven():
        with turn():
            return work()
    called_off = threading.Event()

    def unless_called_off() -> T:
        with turn():
            if called_off.is_set():
                raise Unavailable("the caller did not wait")
            return work()

    try:
        return await anyio.to_thread.run_sync(unless_called_off)
    except BaseException:
        called_off.set()
        raise


class Lanes:
    """Turns by name: what has one name is done one after the other, other names beside it.

    Args:
        timeout: seconds that a turn is waited for.
    """

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._locks = [threading.Lock() for _ in range(_LANES)]

    def of(self, name: str) -> Callable[[], AbstractContextManager[object]]:
        """The turn of a name."""
        lock = self._locks[hash(name) % _LANES]
        return lambda: _Turn(lock, self._timeout)


class _Turn:
    def __init__(self, lock: threading.Lock, timeout: float) -> None:
        self._lock, self._timeout = lock, timeout

    def __enter__(self) -> None:
        if not self._lock.acquire(timeout=self._timeout):
            raise Unavailable(f"other threads used the store for {self._timeout:g} s")

    def __exit__(self, *exc: object) -> None:
        self._lock.release()
