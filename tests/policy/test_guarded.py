"""Decision points below a guard: what they refuse does not run, and what cannot be carried out is refused too."""

from __future__ import annotations

import os
from decimal import Decimal
from pathlib import Path
from typing import Any

import anyio
import pytest

from agentguard import Denied, Intent, any_, guarded, step
from agentguard.policy.attributes import About, AttributeSource, gather
from agentguard.policy.cache import CachedPoint
from agentguard.policy.cedar import CedarPoint
from agentguard.testing import fake_guard

ran: list[str] = []
POLICY = """
@id("refunds") permit(principal, action == Action::"policy.refund", resource) when { context.purpose == "Refunds" };
@id("not-evil") forbid(principal, action, resource) when { context.arguments.account == "evil" };
"""


@guarded("policy.refund", effect="write", record=["account"])
def refund(account: str, amount: Decimal) -> str:
    ran.append(account)
    return "paid"


@guarded("policy.arefund", effect="write", record=["account"])
async def arefund(account: str) -> str:
    ran.append(account)
    return "paid"


@pytest.fixture(autouse=True)
def _nothing_ran() -> None:
    ran.clear()


def opened(guard: Any) -> Any:
    steps = step("policy.refund", account=any_, amount=any_), step("policy.arefund", account=any_)
    return guard.task("bot", on_behalf_of="alice", intent=Intent("Refunds", *(one.times(9) for one in steps)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "p.cedar").write_text(POLICY)
    return tmp_path


def test_tool_runs_only_where_the_policy_permits_it(folder: Path) -> None:
    with fake_guard(decision_points=[CedarPoint(folder)]) as guard, opened(guard):
        refund("acme", Decimal(1))
        with pytest.raises(Denied) as denied:
            refund("evil", Decimal(1))
    assert (ran, denied.value.reason, denied.value.decision.level) == (["acme"], "policy_denied", "cedar:not-evil")
    assert "evil" not in str(denied.value)


@pytest.mark.anyio
async def test_tool_of_an_event_loop_is_decided_and_a_reload_takes_effect(folder: Path) -> None:
    point = CachedPoint(CedarPoint(folder, interval=0), ttl=60)
    async with fake_guard(decision_points=[point]) as guard, opened(guard):
        with pytest.raises(Denied):
            await arefund("acme")
        (folder / "p.cedar").write_text("permit(principal, action, resource);")
        with anyio.fail_after(5):
            await arefund("acme")
        (folder / "p.cedar").write_text("forbid(principal, action, resource);")
        with pytest.raises(Denied):
            await arefund("acme")
    assert ran == ["acme"]


@pytest.mark.control("2 obligation that cannot be carried out is a deny")
def test_obligation_that_the_guard_does_not_carry_out_is_a_denial(tmp_path: Path) -> None:
    (tmp_path / "p.cedar").write_text('@redact("iban") @notify("nobody") permit(principal, action, resource);')
    with fake_guard(decision_points=[CedarPoint(tmp_path)]) as guard, opened(guard):
        with pytest.raises(Denied) as denied:
            refund("acme", Decimal(1))
    assert (ran, denied.value.reason) == ([], "policy_error")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_locks_that_others_held_at_a_fork_are_new_in_the_child(folder: Path) -> None:
    point = CachedPoint(CedarPoint(folder), ttl=60)
    source = AttributeSource("risk", lambda _: 3)
    held = [point._lock, point._point.files._lock, source._lock]  # type: ignore[attr-defined]  # a CedarPoint
    for lock in held:
        lock.acquire()
    child = os.fork()
    if child == 0:
        free = [point._lock, point._point.files._lock, source._lock]  # type: ignore[attr-defined]  # as above
        os._exit(0 if all(lock.acquire(timeout=1) for lock in free) else 1)
    for lock in held:
        lock.release()
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.anyio
async def test_many_calls_at_once_get_each_their_own_answer() -> None:
    source = AttributeSource("who", lambda about: about.subject, ttl=60)
    found: dict[int, Any] = {}

    async def one(number: int) -> None:
        found[number] = (await gather([source], About(subject=str(number % 5)))).values.get("who")

    with anyio.fail_after(10):
        for start in range(0, 100, 10):
            async with anyio.create_task_group() as group:
                for number in range(start, start + 10):
                    group.start_soon(one, number)
    assert all(value == str(number % 5) for number, value in found.items())
