"""Calls that wait for a person: what each of them holds meanwhile; shared by the tasks under one root."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

from agentguard.ports import Reservation

# The chain, the tool and the digest of the arguments: what is known of a call before it is matched.
CallKey: TypeAlias = tuple[str, str, str]


@dataclass(slots=True)
class Waiting:
    """One call that waits.

    Args:
        question: id of the question to the person.
        binding: what an answer is good for.
        expires_at: seconds since the epoch; an answer after it comes too late.
        reservation: what was reserved for the call, until it is made again or the question expires.
    """

    question: str
    binding: str
    expires_at: float
    reservation: Reservation | None = None


class WaitingCalls:
    """The calls of one root task that wait. Safe for concurrent use.

    INVARIANT: a reservation is handed out once, to whoever settles it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: dict[CallKey, Waiting] = {}

    def __bool__(self) -> bool:
        return bool(self._calls)

    def put(self, key: CallKey, waiting: Waiting) -> Reservation | None:
        """Let a call wait, in place of what waited under its key; return what that one had reserved."""
        with self._lock:
            before = self._calls.get(key)
            self._calls[key] = waiting
            return _taken(before)

    def find(self, key: CallKey) -> Waiting | None:
        """Return the call that waits under a key."""
        with self._lock:
            return self._calls.get(key)

    def take(self, key: CallKey) -> Reservation | None:
        """Return what a call had reserved, which whoever asks settles from now on; it waits on without."""
        with self._lock:
            return _taken(self._calls.get(key))

    def drop(self, key: CallKey) -> Reservation | None:
        """A call waits no longer; return what it had reserved."""
        with self._lock:
            return _taken(self._calls.pop(key, None))

    def lapsed(self, now: float) -> list[Reservation]:
        """Return what calls had reserved whose question has expired; they are told when they are made again."""
        with self._lock:
            late = [waiting for waiting in self._calls.values() if now >= waiting.expires_at]
            return [found for waiting in late if (found := _taken(waiting)) is not None]

    def clear(self) -> list[Reservation]:
        """Nothing waits any more; return what was reserved."""
        with self._lock:
            found = [reservation for waiting in self._calls.values() if (reservation := _taken(waiting)) is not None]
            self._calls.clear()
            return found

    def open(self, now: float) -> bool:
        """Whether a call waits whose question can still be answered."""
        with self._lock:
            return any(now < waiting.expires_at for waiting in self._calls.values())

    def items(self) -> list[tuple[CallKey, Waiting]]:
        """Return all that wait."""
        with self._lock:
            return list(self._calls.items())

    def restore(self, calls: Iterable[tuple[CallKey, Waiting]]) -> None:
        """Take over calls that waited in another process."""
        with self._lock:
            self._calls.update(calls)

    def renew(self) -> None:
        """In a forked child: the parent's calls wait there, and a lock that another thread held stays held."""
        self._lock = threading.Lock()
        self._calls = {}


def _taken(waiting: Waiting | None) -> Reservation | None:
    if waiting is None:
        return None
    reservation, waiting.reservation = waiting.reservation, None
    return reservation
