"""A value from the vault that is fetched anew when it is old: one fetch at a time, in a thread of its own.

So a caller that is cancelled stops nobody else's fetch, and a synchronous caller shares one with an event loop.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import Any, Final, Generic, TypeAlias, TypeVar

from agentguard._drive import drive, wait_for
from agentguard.credentials.openbao.vault import Refused
from agentguard.errors import AgentguardError

T = TypeVar("T")
Fetch: TypeAlias = Callable[[], Coroutine[Any, Any, tuple[T, float] | Refused]]
WAIT: Final = 30.0  # seconds; a fetch is bounded by the client's deadlines
_PAUSE: Final = 1.0  # seconds after a fetch that failed


class Kept(Generic[T]):
    """Holds one value. Safe for threads and event loops, and after a fork.

    Args:
        fetch: returns the value and how many seconds it is fresh, or why there is none; it is driven, in a thread.
        clock: monotonic seconds.
    """

    def __init__(self, fetch: Fetch[T], clock: Callable[[], float]) -> None:
        self._fetch, self._clock = fetch, clock
        self._value: T | None = None
        self._failed = Refused("it was not asked for yet", outage=True)
        self._until = self._try_at = -math.inf
        self._pid, self._lock = os.getpid(), threading.Lock()
        self._flight: Future[None] | None = None

    @property
    def value(self) -> T | None:
        """The last value, however old."""
        return self._value

    async def get(self) -> T | Refused:
        """Return a fresh value, fetched if need be, or why there is none."""
        flight = self.renew()
        if flight is not None:
            try:
                await wait_for(flight, WAIT)
            except TimeoutError:
                pass  # what is held decides
        value = self._value
        return value if value is not None and self._clock() < self._until else self._failed

    def renew(self) -> Future[None] | None:
        """Start a fetch if the value is old, and return the one that runs; None if none is needed, or none so soon."""
        if self._pid != os.getpid():
            self._own()
        flight: Future[None] | None = None
        try:
            with self._lock:
                now = self._clock()
                if now < self._until or self._flight is not None or now < self._try_at:
                    return self._flight
                flight = self._flight = Future()
            threading.Thread(target=self._run, args=(flight,), name="agentguard-vault", daemon=True).start()
        except BaseException as error:  # a fetch that nobody ends would be waited for by everybody, for ever
            if flight is not None:
                self._land(flight, Refused("no thread is left to ask the vault", outage=True))
            if not isinstance(error, RuntimeError | MemoryError):
                raise
        return flight

    def forget(self, value: T) -> None:
        """Have it fetched anew, if it is still this one that is held."""
        with self._lock:
            if self._value is value:
                self._until = -math.inf

    def _own(self) -> None:
        """Begin in this process: a fork leaves the thread, and perhaps a lock that it held, in the parent."""
        self._pid, self._lock, self._flight = os.getpid(), threading.Lock(), None

    def _run(self, flight: Future[None]) -> None:
        outcome: tuple[T, float] | Refused = Refused("the vault was not asked to the end", outage=True)
        try:
            outcome = drive(self._fetch())
        except AgentguardError as error:
            outcome = Refused(str(error), outage=True)
        except Exception as error:  # its text may hold what was sent
            outcome = Refused(f"asking the vault failed ({type(error).__name__})", outage=True)
        finally:
            self._land(flight, outcome)

    def _land(self, flight: Future[None], outcome: tuple[T, float] | Refused) -> None:
        with self._lock:
            now = self._clock()
            if isinstance(outcome, Refused):
                self._failed, self._try_at = outcome, now + _PAUSE
            else:
                self._value, self._until = outcome[0], now + outcome[1]
            if self._flight is flight:
                self._flight = None
        with suppress(InvalidStateError):  # who began it was stopped, after its thread had begun
            flight.set_result(None)
