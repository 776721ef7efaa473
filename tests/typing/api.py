"""What a type checker says about the public API; never executed, read by mypy only."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from decimal import Decimal
from typing import assert_type

import agentguard
from agentguard import (
    ITSELF,
    Credential,
    CurrentCall,
    Decision,
    Denied,
    Guard,
    GuardAuth,
    Intent,
    Task,
    User,
    at_most,
    current_call,
    current_credential,
    current_task,
    guarded,
    spec_of,
    step,
)
from agentguard.explanation import Explanation


@guarded
def bare(account: str, amount: Decimal) -> str:
    return f"{account} {amount}"


@guarded("refund.create", effect="write", audience="https://payments.test", scopes=["refunds:write"])
async def refund(account: str, amount: Decimal) -> int:
    return len(account)


@guarded("read.lines", effect="read")
def lines(count: int) -> Iterator[str]:
    yield str(count)


@guarded("read.alines", effect="read")
async def alines(count: int) -> AsyncIterator[bytes]:
    yield bytes(count)


class Desk:
    @guarded("desk.open")
    def open(self, name: str) -> bool:
        return bool(name)


def guarded_callables_keep_their_types() -> None:
    assert_type(bare("acme", Decimal(1)), str)
    assert_type(lines(3), Iterator[str])
    assert_type(alines(3), AsyncIterator[bytes])
    assert_type(Desk().open("x"), bool)
    bare("acme")  # type: ignore[call-arg]  # an argument is missing
    bare("acme", amount="5")  # type: ignore[arg-type]  # text is no Decimal


async def awaited() -> None:
    assert_type(await refund("acme", Decimal(1)), int)


def tasks() -> None:
    intent = Intent("Refund", step("refund.create", account="acme", amount=at_most("50")), reads=["read.*"])
    with agentguard.local() as guard:
        assert_type(guard, Guard)
        with guard.task("bot", on_behalf_of="alice", intent=intent, ttl="5m") as task:
            assert_type(task, Task)
            assert_type(current_task(), Task)
            with task.delegate("helper", reads=["read.lines"], ttl=30) as child:
                assert_type(child, Task)
        guard.task("bot", on_behalf_of=User.asserted("alice"), intent=intent)
        guard.task("bot", on_behalf_of=ITSELF, intent=intent)
        guard.task("bot", on_behalf_of=7, intent=intent)  # type: ignore[arg-type]  # nobody
        guard.task("bot", on_behalf_of="alice")  # type: ignore[call-arg]  # for what purpose
        assert_type(guard.explain(), Explanation)


async def async_tasks(guard: Guard, intent: Intent) -> None:
    async with guard, guard.task("bot", on_behalf_of="alice", intent=intent) as task:
        assert_type(task, Task)


def inside_a_tool() -> None:
    assert_type(current_call(), CurrentCall)
    assert_type(current_credential(), Credential)
    assert_type(current_credential().token, str)
    spec = spec_of(bare)
    if spec is not None:
        assert_type(spec.name, str)


def denials() -> None:
    try:
        bare("evil", Decimal(1))
    except Denied as denied:
        assert_type(denied.decision, Decision)
        assert_type(denied.reason, str)
        assert_type(denied.public, str)


def clients() -> None:
    import httpx

    assert_type(httpx.Client(auth=GuardAuth()), httpx.Client)
