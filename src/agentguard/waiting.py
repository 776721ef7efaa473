"""Calls that wait for a person: what each of them holds meanwhile; shared by the tasks under one root."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, TypeAlias

from agentguard.ports import Budgets, Reservation, Settlement

_log: Final = logging.getLogger("agentguard")
MOST: Final = 1_000  # calls of one root task that wait at the same time

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

    INVARIANT: a reservation is handed out once, to whoever settles it. Once they are shut, because the task ended or
    was parked with what waited then, a call that comes to wait gets its own reservation back, and what was written down
    is handed out to nobody here: whoever goes on with the task, or ends it, settles it.

    Attributes:
        calls: what waits, by its key; others only ask whether there is any, which every call does.
    """

    def __init__(self) -> None:
        self._lock, self._shut = threading.Lock(), False
        self.calls: dict[CallKey, Waiting] = {}

    def __bool__(self) -> bool:
        return bool(self.calls)

    def put(self, key: CallKey, waiting: Waiting) -> Reservation | None:
        """Let a call wait, in place of what waited under its key; return what has to be given back."""
        with self._lock:
            if self._shut:
                return _taken(waiting)
            before = self.calls.get(key)
            self.calls[key] = waiting
            return _taken(before)

    def find(self, key: CallKey) -> Waiting | None:
        """Return the call that waits under a key."""
        with self._lock:
            return self.calls.get(key)

    def take(self, key: CallKey) -> Reservation | None:
        """Return what a call had reserved, which whoever asks settles from now on; it waits on without."""
        with self._lock:
            return None if self._shut else _taken(self.calls.get(key))

    def drop(self, key: CallKey) -> Reservation | None:
        """A call waits no longer; return what it had reserved."""
        with self._lock:
            return None if self._shut else _taken(self.calls.pop(key, None))

    def lapsed(self, now: float) -> list[Reservation]:
        """Return what calls had reserved whose question has expired; they are told when they are made again."""
        with self._lock:
            late = [] if self._shut else [waiting for waiting in self.calls.values() if now >= waiting.expires_at]
            return [found for waiting in late if (found := _taken(waiting)) is not None]

    def full(self, now: float) -> bool:
        """Whether no more may wait; those whose question has expired, and that hold nothing, make room."""
        with self._lock:
            if len(self.calls) >= MOST:
                kept = {key: one for key, one in self.calls.items() if one.reservation or now < one.expires_at}
                self.calls = kept
            return len(self.calls) >= MOST

    def clear(self) -> list[Reservation]:
        """Nothing waits any more; return what was reserved."""
        with self._lock:
            self._shut = True
            found = [reservation for waiting in self.calls.values() if (reservation := _taken(waiting)) is not None]
            self.calls.clear()
            return found

    def open(self, now: float) -> bool:
        """Whether a call waits whose question can still be answered."""
        with self._lock:
            return any(now < waiting.expires_at for waiting in self.calls.values())

    def items(self) -> list[tuple[CallKey, Waiting]]:
        """Return all that wait."""
        with self._lock:
            return list(self.calls.items())

    def shut(self) -> None:
        """From here on nothing comes to wait: what waits is written down as it is."""
        with self._lock:
            self._shut = True

    def reopen(self) -> None:
        """Calls may come to wait again."""
        with self._lock:
            self._shut = False

    def restore(self, calls: Iterable[tuple[CallKey, Waiting]]) -> None:
        """Take over what waited when it was written down, in place of what waits here."""
        with self._lock:
            self.calls, self._shut = dict(calls), False

    def renew(self) -> None:
        """In a forked child: the parent's calls wait there, and a lock that another thread held stays held."""
        self._lock, self._shut = threading.Lock(), False
        self.calls = {}


async def give_back(budgets: Budgets, reservations: Iterable[Reservation]) -> None:
    """Settle what was reserved for calls that are not made. INVARIANT: each once; what fails stays counted."""
    for reservation in reservations:
        try:
            await budgets.settle(reservation, Settlement.NOT_RUN)
        except Exception as error:
            _log.error("reservation %s was not given back: %s", reservation.id, type(error).__name__)


def _taken(waiting: Waiting | None) -> Reservation | None:
    if waiting is None:
        return None
    reservation, waiting.reservation = waiting.reservation, None
    return reservation
