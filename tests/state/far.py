"""Budgets in a store that has taken what it was asked for before it answers."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

import pytest

from agentguard.ports import Candidate, Exhausted, Reservation
from agentguard.state.budgets_memory import MemoryBudgets


class FarBudgets(MemoryBudgets):
    """Tell when something was taken, and answer when they are told to."""

    suspends = True

    def __init__(self) -> None:
        super().__init__()
        self.taken, self.answers = asyncio.Event(), asyncio.Event()

    async def reserve(self, levels: Sequence[Sequence[Candidate]], now: float) -> Reservation | Exhausted:
        found = await super().reserve(levels, now)
        self.taken.set()
        await self.answers.wait()
        return found

    async def cancelled(self, work: Coroutine[Any, Any, Any]) -> None:
        """Cancel some work, as asyncio does, between what it has taken and the answer."""
        running = asyncio.ensure_future(work)
        await self.taken.wait()
        running.cancel()
        await asyncio.sleep(0)
        self.answers.set()
        with pytest.raises(asyncio.CancelledError):
            await running
