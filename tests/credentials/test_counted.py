"""A task counts its leases where they begin and end: what its last record says is what the log says of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from threading import Barrier
from typing import Any

import pytest

from agentguard import Denied, Intent, any_, current_credential, guarded, step
from agentguard._drive import drive
from agentguard.audit.memory import MemoryLog
from agentguard.credentials.ledger import MemoryLedger
from agentguard.guard import Guard
from agentguard.model.lease import Lease, Secret
from agentguard.task import Task
from agentguard.testing import FakeClock, FakeIssuer, fake_guard

BANK = "https://bank.test"
BOTH = Barrier(2)


@guarded("look", effect="read", audience=BANK)
def look(name: str) -> str:
    return name


@guarded("wipe", effect="read", audience=BANK, lease="call")
def wipe(name: str) -> str:
    return name


@guarded("again", effect="read", audience=BANK)
def again(name: str) -> str:
    drive(current_credential().renew())
    return name


@guarded("leak", effect="read", audience=BANK)
def leak(name: str) -> str:
    BOTH.wait(5)
    return current_credential().token if name == "it" else name


@contextmanager
def opened(issuer: FakeIssuer, **options: Any) -> Iterator[tuple[Guard, Task]]:
    intent = Intent("Count", *(step(tool, name=any_).times(99) for tool in ("look", "wipe", "again", "leak")))
    with fake_guard(issuer=issuer, **options) as guard, guard.task("bot", on_behalf_of="a", intent=intent) as task:
        yield guard, task


def counted(guard: Guard) -> tuple[int, int]:
    """What the task's last record says, which is what stands in the log."""
    assert isinstance(guard.audit, MemoryLog)
    records = [dict(record) for record in guard.audit.records]
    said = Counter(record["event"] for record in records if record.get("why") != "rolled_back")
    (last,) = [record["counts"] for record in records if record["event"] == "task.ended"]
    assert (said["credential.issued"], said["credential.revoked"]) == (last["issued"], last["revoked"])
    return last["issued"], last["revoked"]


def test_leases_of_calls_and_of_a_task_are_counted_once_each() -> None:
    with opened(FakeIssuer()) as (guard, _):
        for _ in range(2):
            look("x")
            wipe("x")
    assert (3, 3) == counted(guard)


def test_lease_that_was_renewed_counts_and_so_does_the_one_that_it_was() -> None:
    with opened(FakeIssuer()) as (guard, _):
        again("x")
    assert (2, 2) == counted(guard)


def test_lease_that_was_refreshed_counts_and_so_does_the_one_that_it_was() -> None:
    clock = FakeClock(1000.0)
    with opened(FakeIssuer(), clock=clock) as (guard, _):
        look("x")
        clock.advance(25)
        look("x")
    assert (2, 2) == counted(guard)


def test_leaked_lease_counts_once_however_many_calls_have_it() -> None:
    with opened(FakeIssuer()) as (guard, _), ThreadPoolExecutor(2) as pool:
        look("x")
        calls = [pool.submit(copy_context().run, leak, name) for name in ("it", "other")]
        assert "other" in [call.result(9) for call in calls]
    assert (2, 2) == counted(guard)


def test_lease_that_could_be_revoked_only_later_counts_then() -> None:
    issuer, clock = FakeIssuer(), FakeClock(1000.0)
    with opened(issuer, clock=clock) as (guard, task):
        issuer.revoke_error = OSError()
        wipe("x")
        assert (1, 0) == (task.counts.issued, task.counts.revoked)
        issuer.revoke_error = None
        clock.advance(1)
        assert guard.leases is not None
        drive(guard.leases.retry_failed())
        drive(guard.leases.retry_failed())
    assert (1, 1) == counted(guard)


def test_lease_that_no_call_had_is_in_neither_count() -> None:
    class Full(MemoryLedger):
        full = True

        async def active(self, lease: Lease, handle: Secret | None = None) -> None:
            if self.full:
                raise OSError(28, "No space left on device")
            await super().active(lease, handle)

    issuer, ledger, clock = FakeIssuer(), Full(), FakeClock(1000.0)
    with opened(issuer, ledger=ledger, clock=clock) as (guard, _):
        for revocable in (True, False):
            issuer.revoke_error = None if revocable else OSError()
            with pytest.raises(Denied):
                wipe("x")
        issuer.revoke_error, ledger.full = None, False
        clock.advance(1)
        assert guard.leases is not None
        drive(guard.leases.retry_failed())
        wipe("x")
        assert {} == issuer.live
    records = [dict(record) for record in guard.audit.records]  # type: ignore[attr-defined]  # it is a MemoryLog
    (last,) = [record["counts"] for record in records if record["event"] == "task.ended"]
    assert (1, 1) == (last["issued"], last["revoked"])


def test_leases_of_a_sub_agent_are_counted_above_it_too() -> None:
    with opened(FakeIssuer()) as (_, task):
        wipe("x")
        with task.delegate("researcher", reads=["look"]):
            look("x")
        assert (2, 2) == (task.counts.issued, task.counts.revoked)


def test_leases_that_a_stop_ended_are_counted_by_the_task_that_goes_on() -> None:
    with opened(FakeIssuer()) as (guard, task):
        look("x")
        guard.suspend(agent="bot", why="it is looked into")
        assert (1, 1) == (task.counts.issued, task.counts.revoked)
        guard.lift("agent:bot")
        look("x")
    assert (2, 2) == counted(guard)
