"""Budgets in a store that has taken what it was asked for before it answers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from agentguard.ports import Candidate, Exhausted, Reservation
from agentguard.state.memory import MemoryBudgets


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
