"""Blocking work: done in place for a synchronous caller, in a worker thread under an event loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import anyio.to_thread

from agentguard._drive import driven

T = TypeVar("T")


async def offloaded(work: Callable[[], T]) -> T:
    """Return what the work returns; whoever is cancelled leaves it to end by itself, so it has to be bounded."""
    if driven():
        return work()
    return await anyio.to_thread.run_sync(work, abandon_on_cancel=True)
