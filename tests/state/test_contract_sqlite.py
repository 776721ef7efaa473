"""The contract of the stores, over a file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from agentguard.state.approvals_sqlite import SqliteApprovals
from agentguard.state.budgets_sqlite import SqliteBudgets
from agentguard.state.parked_sqlite import SqliteParkedTasks
from agentguard.state.redemptions_sqlite import SqliteRedemptions
from agentguard.state.suspensions_sqlite import SqliteSuspensions
from agentguard.testing import FakeClock
from tests.state.contract import (
    ApprovalsContract,
    BudgetsContract,
    ParkedTasksContract,
    RedemptionsContract,
    SuspensionsContract,
)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


class TestSqliteBudgets(BudgetsContract):
    @pytest.fixture
    def budgets(self, file: Path, clock: FakeClock) -> Iterator[SqliteBudgets]:
        made = SqliteBudgets(file, clock=clock)
        yield made
        made.close()


class TestSqliteSuspensions(SuspensionsContract):
    @pytest.fixture
    def suspensions(self, file: Path, clock: FakeClock) -> Iterator[SqliteSuspensions]:
        made = SqliteSuspensions(file, clock=clock)
        yield made
        made.close()


class TestSqliteApprovals(ApprovalsContract):
    @pytest.fixture
    def approvals(self, file: Path, clock: FakeClock) -> Iterator[SqliteApprovals]:
        made = SqliteApprovals(file, clock=clock)
        yield made
        made.close()


class TestSqliteRedemptions(RedemptionsContract):
    @pytest.fixture
    def redemptions(self, file: Path, clock: FakeClock) -> Iterator[SqliteRedemptions]:
        made = SqliteRedemptions(file, clock=clock)
        yield made
        made.close()


class TestSqliteParkedTasks(ParkedTasksContract):
    @pytest.fixture
    def parked_tasks(self, file: Path, clock: FakeClock) -> Iterator[SqliteParkedTasks]:
        made = SqliteParkedTasks(file, b"a key of the tests, 32 bytes long", clock=clock)
        yield made
        made.close()
