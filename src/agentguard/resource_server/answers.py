"""What servers answered, by what they were asked: one caller asks, those who come meanwhile wait for it.

INVARIANT: number and age are bounded, and a question that fails is never remembered as an answer.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import Any, Final, Generic, TypeVar

from agentguard._drive import wait_for

T = TypeVar("T")
# Asks; returns the answer and for how many seconds it is good, 0 for those who wait now only.
Ask = Callable[[], Awaitable[tuple[T, float]]]
_all: Final[weakref.WeakSet[Answers[Any]]] = weakref.WeakSet()


class Busy(Exception):
    """So many questions are open that no further one is asked."""


class Answers(Generic[T]):
    """Answers by key. Safe for threads and event loops.

    Args:
        most: answers that are kept, and questions that are open at once.
        clock: monotonic seconds.
    """

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._most, self._clock = most, clock
        self._kept: OrderedDict[str, tuple[T, float]] = OrderedDict()
        self._after_fork()
        _all.add(self)

    def _after_fork(self) -> None:
        """Wait for nobody of the parent process."""
        self._lock = threading.Lock()
        self._flights: dict[str, Future[T | None]] = {}

    async def get(self, key: str, ask: Ask[T], seconds: float) -> T:
        """Return what is kept, or ask, or wait for whoever asks already.

        Args:
            key: what is asked; never a credential.
            ask: asks; what it raises passes to whoever asks and to nobody else.
            seconds: how long to wait for another's question.

        Raises:
            TimeoutError: another's question took too long.
            Busy: too many questions are open.
        """
        until = self._clock() + seconds
        while True:
            kept, flight, leads = self._look(key)
            if flight is None:
                return kept  # type: ignore[return-value]  # an answer, as there is nothing to wait for
            if leads:
                return await self._lead(key, flight, ask)
            found = await wait_for(flight, max(0.0, until - self._clock()))
            if found is not None:
                return found

    def _look(self, key: str) -> tuple[T | None, Future[T | None] | None, bool]:
        with self._lock:
            answer, until = self._kept.get(key, (None, 0.0))
            if answer is not None and self._clock() < until:
                self._kept.move_to_end(key)
                return answer, None, False
            if key in self._flights:
                return None, self._flights[key], False
            if len(self._flights) >= self._most:
                raise Busy
            flight = self._flights[key] = Future()
            return None, flight, True

    async def _lead(self, key: str, flight: Future[T | None], ask: Ask[T]) -> T:
        """Ask on behalf of all who wait; a leader that fails or is cancelled sends them round again."""
        answer: T | None = None
        try:
            answer, seconds = await ask()
            self._keep(key, answer, seconds)
        finally:
            with self._lock:
                if self._flights.get(key) is flight:
                    del self._flights[key]
            flight.set_result(answer)
        return answer

    def _keep(self, key: str, answer: T, seconds: float) -> None:
        with self._lock:
            self._kept.pop(key, None)
            if seconds > 0:
                self._kept[key] = (answer, self._clock() + seconds)
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)

    def __len__(self) -> int:
        return len(self._kept)


def _after_fork() -> None:
    for answers in list(_all):
        answers._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
