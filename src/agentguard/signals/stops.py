"""How the receiver of security events stops somebody."""

from __future__ import annotations

import functools
from typing import Protocol, runtime_checkable

import anyio.to_thread

from agentguard._drive import driven


@runtime_checkable
class Stops(Protocol):
    """Suspends subjects. Safe for concurrent use.

    Once `suspend` returned, nothing starts for the subject and its credentials are revoked; a raise means that this is
    not sure, and the event is delivered again.
    """

    async def suspend(self, *, subject: str, why: str) -> None: ...


class _Guard(Protocol):
    def suspend(self, *, subject: str, why: str) -> None: ...


class GuardStops:
    """Stops subjects by a guard, on a thread of its own under an event loop; the guard records each suspension.

    Args:
        guard: the guard whose `suspend` is called.
    """

    def __init__(self, guard: _Guard) -> None:
        self._guard = guard

    async def suspend(self, *, subject: str, why: str) -> None:
        """Suspend a subject; what the guard raises passes through."""
        work = functools.partial(self._guard.suspend, subject=subject, why=why)
        if driven():
            work()
        else:
            await anyio.to_thread.run_sync(work, abandon_on_cancel=True)
