"""A credential that one call leaks is dead at once, and the calls that share it go on with another one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from threading import Event
from typing import Any

import anyio
import httpx
import pytest

from agentguard import CredentialUnavailable, Guard, GuardAuth, Intent, any_, current_credential, current_task, guarded
from agentguard import step as step_of
from agentguard._drive import drive
from agentguard.task_state import TaskState
from agentguard.testing import FakeIssuer, fake_guard

AUDIENCE = "https://api.test"
goes_on = pytest.mark.control("6 what one call leaked, others have replaced")
shared, gone = Event(), Event()
before_going_on: list[Callable[[], object]] = []


@guarded("leaked.read", effect="read", audience=AUDIENCE)
def read(leaks: bool) -> Any:
    """Leak the credential, or use it before and after another call leaked it."""
    if leaks:
        assert shared.wait(10)
        return current_credential().token
    credential = current_credential()
    old, lease = credential.token, credential.lease.id
    shared.set()
    assert gone.wait(10)
    assert not credential.live
    with pytest.raises(CredentialUnavailable, match=r"another call leaked this credential.*credential\.renew"):
        assert credential.token
    for each in before_going_on:
        each()
    return lease, current_credential().lease.id, old != credential.token


@contextmanager
def calls(issuer: FakeIssuer) -> Iterator[tuple[Guard, Callable[[], Any]]]:
    """A guard, and what runs two calls of one task at once, of which one leaks; the other one's outcome."""
    shared.clear()
    gone.clear()
    before_going_on.clear()

    def leak() -> None:
        assert read(leaks=True) == "[credential removed]"
        gone.set()

    def both() -> Any:
        with guard.task("bot", on_behalf_of="ann", intent=intent), ThreadPoolExecutor(2) as pool:
            other, one = pool.submit(copy_context().run, read, False), pool.submit(copy_context().run, leak)
            one.result(10)
            return other.result(10)

    intent = Intent("Leak", step_of("leaked.read", leaks=any_).times(9))
    with fake_guard(issuer=issuer) as guard:
        yield guard, both


@goes_on
def test_call_whose_credential_another_one_leaked_goes_on_with_a_new_one() -> None:
    issuer = FakeIssuer()
    with calls(issuer) as (guard, both):
        assert both() == ("lease-1", "lease-2", True)
    assert (issuer.revoked, issuer.live) == (["lease-1", "lease-2"], {})
    assert "leaked" in [record.get("why") for record in map(dict, guard.audit.records)]  # type: ignore[attr-defined]


@goes_on
@pytest.mark.parametrize("stop", ["ended", "suspended", "suspended and lifted"])
def test_call_that_was_stopped_after_the_leak_gets_no_other(stop: str) -> None:
    issuer = FakeIssuer()
    with calls(issuer) as (guard, both):
        if stop == "ended":
            before_going_on.append(lambda: drive(guard.close_task(current_task(), TaskState.ENDED, "over")))
        else:
            before_going_on.append(lambda: guard.suspend(agent="bot", why="stop"))
        if stop.endswith("lifted"):
            before_going_on.append(lambda: guard.lift("agent:bot"))
        with pytest.raises(CredentialUnavailable):
            both()
    assert issuer.live == {}


@goes_on
def test_call_that_is_suspended_while_another_credential_is_issued_for_it_gets_none() -> None:
    class Suspending(FakeIssuer):
        async def issue(self, *arguments: Any) -> Any:
            if self.issued:
                guard.suspend(agent="bot", why="stop")
                guard.lift("agent:bot")
            return await super().issue(*arguments)

    issuer = Suspending()
    with calls(issuer) as (guard, both), pytest.raises(CredentialUnavailable):
        both()
    assert issuer.live == {}


@goes_on
@pytest.mark.anyio
@pytest.mark.parametrize("blocking", [False, True])
async def test_request_in_an_event_loop_carries_a_new_credential_after_another_call_leaked_the_old_one(
    blocking: bool,
) -> None:
    issuer, sent = FakeIssuer(suspends=not blocking), list[str]()
    first, leaked = anyio.Event(), anyio.Event()

    def answer(request: httpx.Request) -> httpx.Response:
        headers = httpx.Headers(request.headers.raw)
        sent.append(headers["authorization"])
        return httpx.Response(200)

    @guarded("leaked.fetch", effect="read", audience=AUDIENCE)
    async def fetch(leaks: bool) -> Any:
        if leaks:
            await first.wait()
            return current_credential().token
        async with httpx.AsyncClient(auth=GuardAuth(), transport=httpx.MockTransport(answer)) as client:
            await client.get(AUDIENCE)
            first.set()
            await leaked.wait()
            with pytest.raises(CredentialUnavailable, match=r"which another call leaked; `await .*renew\(\)` first"):
                current_credential()
            if blocking:
                with httpx.Client(auth=GuardAuth(), transport=httpx.MockTransport(answer)) as other:
                    return other.get(AUDIENCE).status_code  # noqa: ASYNC212  # as the tool of somebody does
            return (await client.get(AUDIENCE)).status_code

    async def leak() -> None:
        assert await fetch(leaks=True) == "[credential removed]"
        leaked.set()

    intent = Intent("Leak", step_of("leaked.fetch", leaks=any_).times(9))
    async with fake_guard(issuer=issuer) as guard, guard.task("bot", on_behalf_of="ann", intent=intent):
        async with anyio.create_task_group() as group:
            group.start_soon(leak)
            assert await fetch(leaks=False) == 200
    assert len(set(sent)) == len(sent) == 2
    assert issuer.live == {}
