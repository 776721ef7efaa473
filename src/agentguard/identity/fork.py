"""What a process proved about itself is not its child's: whoever holds such proof begins anew right after a fork."""

from __future__ import annotations

import os
import threading
from typing import Final, Protocol
from weakref import WeakSet

_SECONDS: Final = 1.0


class Forked(Protocol):
    """Something that asks an agent, one call at a time under a lock, and begins anew in a forked child."""

    @property
    def asking(self) -> threading.Lock: ...
    def begin(self) -> None: ...


_all: Final[WeakSet[Forked]] = WeakSet()
_stopped: Final[list[threading.Lock]] = []


def tell_of_forks(identity: Forked) -> None:
    """Let every fork wait a moment for a call that is being made, and call `begin()` in the child."""
    _all.add(identity)


def _before() -> None:
    # gRPC aborts a child that was forked in the middle of a call.
    for identity in list(_all):
        lock = identity.asking
        if lock.acquire(timeout=_SECONDS):
            _stopped.append(lock)


def _after_in_parent() -> None:
    while _stopped:
        _stopped.pop().release()


def _after_in_child() -> None:
    _stopped.clear()
    for identity in list(_all):
        identity.begin()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child)
