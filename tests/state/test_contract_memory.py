"""The contract of the stores, over this process's memory."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from agentguard.handover.redemptions import MemoryRedemptions
from agentguard.ports import Candidate, Exhausted, Reservation
from agentguard.state.approvals_memory import MemoryApprovals
from agentguard.state.budgets_memory import MemoryBudgets
from agentguard.state.parked_memory import MemoryParkedTasks
from agentguard.state.suspensions_memory import MemorySuspensions
from agentguard.testing import FakeClock
from tests.state.contract import (
    ApprovalsContract,
    BudgetsContract,
    ParkedTasksContract,
    RedemptionsContract,
    SuspensionsContract,
)


class Clocked(MemoryBudgets):
    """In memory the caller's clock is the store's."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__()
        self.clock = clock

    async def reserve(self, levels: Sequence[Sequence[Candidate]], now: float) -> Reservation | Exhausted:
        return await super().reserve(levels, self.clock())


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


class TestMemoryBudgets(BudgetsContract):
    @pytest.fixture
    def budgets(self, clock: FakeClock) -> MemoryBudgets:
        return Clocked(clock)


class TestMemorySuspensions(SuspensionsContract):
    @pytest.fixture
    def suspensions(self) -> MemorySuspensions:
        return MemorySuspensions()


class TestMemoryApprovals(ApprovalsContract):
    @pytest.fixture
    def approvals(self) -> MemoryApprovals:
        return MemoryApprovals()


class TestMemoryRedemptions(RedemptionsContract):
    @pytest.fixture
    def redemptions(self) -> MemoryRedemptions:
        return MemoryRedemptions()


class TestMemoryParkedTasks(ParkedTasksContract):
    @pytest.fixture
    def parked_tasks(self) -> MemoryParkedTasks:
        return MemoryParkedTasks()
