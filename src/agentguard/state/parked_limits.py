"""What may be kept of tasks that wait, the same in every store; and what was taken for nobody."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from typing import Final

from agentguard.errors import Unavailable
from agentguard.model.lease import Secret
from agentguard.ports import Parked

MAX_BYTES: Final = 4 << 20  # of one state
MAX_KEPT: Final = 10_000
AT_ONCE: Final = 100
AT_ONCE_BYTES: Final = 16 << 20  # sealed; one that alone is larger comes alone
UNREADABLE: Final = 30 * 86_400.0  # seconds after its end for which a task under another key waits for that key


def checked(parked: Parked) -> int:
    """Return the size of a task's state in bytes.

    Raises:
        Unavailable: it may not be kept: its end is no number, or its state is too long or no text.
    """
    name, size = repr(parked.id[:80]), _size(parked.state)
    if not math.isfinite(parked.expires_at):
        raise Unavailable(f"task {name} has an end that is no number; give it one")
    if size < 0:
        raise Unavailable(f"the state of task {name} holds characters that cannot be stored (a lone surrogate)")
    if size > MAX_BYTES:
        raise Unavailable(f"the state of task {name} is too long to be parked: {size} bytes; {MAX_BYTES} is the most")
    return size


def _size(state: Secret) -> int:
    """In a frame of its own: the error of the codec holds the text."""
    try:
        return len(state.reveal().encode())
    except UnicodeError:
        return -1


def too_many() -> Unavailable:
    """What to say when no more fit."""
    return Unavailable(f"{MAX_KEPT} tasks are parked already; nothing more is parked until some go on or expire")


def no_room(most: int) -> Unavailable:
    """What to say when there are few, but long ones."""
    return Unavailable(f"parked tasks take up {most} bytes already; nothing more is parked until some go on or expire")


def in_order(tasks: Iterable[Parked]) -> list[Parked]:
    """Return them by their ends, the first to end first."""
    return sorted(tasks, key=lambda parked: (parked.expires_at, parked.id))


class Undelivered:
    """What left the store for a caller that was cancelled before it had it: the next one in this process gets it.

    INVARIANT: each is given out by one atomic `pop`. A forked child has none: they are the parent's.
    """

    def __init__(self) -> None:
        self._pid, self._tasks = os.getpid(), dict[str, Parked]()

    def _own(self) -> dict[str, Parked]:
        if self._pid != os.getpid():
            self._pid, self._tasks = os.getpid(), {}
        return self._tasks

    def put(self, parked: Parked) -> None:
        """Keep it until somebody has it."""
        self._own()[parked.id] = parked

    def drop(self, id: str) -> None:
        """Something newer was parked under its id."""
        self._own().pop(id, None)

    def find(self, id: str, now: float) -> Parked | None:
        """Look at one that is in date."""
        found = self._own().get(id)
        return found if found is not None and found.expires_at > now else None

    def take(self, id: str, now: float) -> Parked | None:
        """Give out one that is in date."""
        found = self._own().get(id)
        return self._own().pop(id, None) if found is not None and found.expires_at > now else None

    def lapsed(self, now: float) -> list[Parked]:
        """Give out those that have expired, the first to end first, at most 100."""
        ended = in_order(parked for parked in list(self._own().values()) if parked.expires_at <= now)
        given = [self._own().pop(parked.id, None) for parked in ended[:AT_ONCE]]
        return [parked for parked in given if parked is not None]
