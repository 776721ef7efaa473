"""Several requests of one call that are refused with one credential go on with one other."""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine, Sequence
from threading import Event, Thread
from typing import Any

import anyio
import pytest

from agentguard import CredentialUnavailable, Intent, current_task, guard_tool, step
from agentguard._drive import drive
from agentguard.access import current_credential
from agentguard.credentials.held import Use
from agentguard.model.credential import Credential, Issued
from agentguard.model.lease import Grant, Lease
from agentguard.model.principal import Agent
from agentguard.registry import RegisteredAgent, Registry
from agentguard.state.suspensions_memory import MemorySuspensions
from agentguard.testing import FakeClock, FakeIssuer, fake_guard

AUDIENCE = "https://api.test"


class Gated(FakeIssuer):
    """Issues the second credential once it is told to; `stop` stops who asks for it, one time."""

    def __init__(self, *, suspends: bool = True, stop: type[BaseException] | None = None) -> None:
        super().__init__(suspends=suspends)
        self.asked, self.go, self.stop = Event(), Event(), stop

    async def issue(self, grant: Grant, lease: Lease, now: float) -> Issued:
        if self.issued:
            self.asked.set()
            if not self.suspends:
                assert self.go.wait(10)
            while not self.go.is_set():  # noqa: ASYNC110  # a thread may say it
                await anyio.sleep(0.001)
            stop, self.stop = self.stop, None
            if stop is not None:
                raise stop
        return await super().issue(grant, lease, now)


def in_call(issuer: FakeIssuer, body: Callable[[], Any]) -> Any:
    with fake_guard(issuer=issuer) as guard, guard.task("bot", on_behalf_of="ann", intent=Intent("x", step("call"))):
        return guard_tool(body, "call", audience=AUDIENCE)()


async def in_async_call(issuer: FakeIssuer, body: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    async with fake_guard(issuer=issuer) as guard:
        async with guard.task("bot", on_behalf_of="ann", intent=Intent("x", step("call"))):
            return await guard_tool(body, "call", audience=AUDIENCE)()


@pytest.mark.control("9 a refused credential is renewed once")
@pytest.mark.anyio
async def test_request_that_is_refused_while_another_has_the_credential_renewed_waits_for_that_one() -> None:
    issuer, tokens = Gated(), list[str]()

    async def body() -> None:
        async def refused(lease: str) -> None:
            await credential.renew(lease)
            tokens.append(credential.token)

        credential = current_credential()
        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(refused, credential.lease.id)
            while not issuer.asked.is_set():  # noqa: ASYNC110  # as above
                await anyio.sleep(0.001)
            issuer.go.set()
        await credential.renew("lease-1")  # that one is another by now
        with pytest.raises(CredentialUnavailable, match="just issued"):
            await credential.renew()

    await in_async_call(issuer, body)
    assert (len(set(tokens)), len(tokens), issuer.issued, issuer.live) == (1, 3, ["lease-1", "lease-2"], {})


def renewed(credential: Credential, outcomes: list[str]) -> None:
    """Ask for another credential, and note which it was or why there is none."""
    try:
        drive(credential.renew("lease-1"))
        outcomes.append(credential.lease.id)
    except CredentialUnavailable as error:
        outcomes.append(str(error))
    except KeyboardInterrupt:
        outcomes.append("stopped")


@pytest.mark.control("9 a refused credential is renewed once")
def test_requests_of_two_threads_that_are_refused_at_once_are_given_one_other_credential() -> None:
    issuer, outcomes = Gated(suspends=False), list[str]()

    def body() -> None:
        threads = [Thread(target=renewed, args=(current_credential(), outcomes)) for _ in range(2)]
        for thread in threads:
            thread.start()
        assert issuer.asked.wait(10)
        issuer.go.set()
        for thread in threads:
            thread.join()

    in_call(issuer, body)
    assert (outcomes, issuer.issued, issuer.live) == (["lease-2"] * 2, ["lease-1", "lease-2"], {})


@pytest.mark.parametrize("stop", [KeyboardInterrupt, PermissionError])
def test_request_that_waits_is_told_why_there_is_none_and_asks_itself_where_the_other_was_stopped(
    stop: type[BaseException],
) -> None:
    issuer, outcomes = Gated(suspends=False, stop=stop), list[str]()

    def body() -> None:
        threads = [Thread(target=renewed, args=(current_credential(), outcomes)) for _ in range(2)]
        threads[0].start()
        assert issuer.asked.wait(10)
        threads[1].start()
        while threads[1].is_alive() and not is_waited_for():
            time.sleep(0.001)
        issuer.go.set()
        for thread in threads:
            thread.join()

    def is_waited_for() -> bool:
        use: Use = current_credential().renewed_by.args[0].use  # type: ignore[union-attr]  # a partial of the call
        flight = use.renewing() if use.renewing is not None else None
        return flight is not None and flight._future is not None

    in_call(issuer, body)
    if stop is KeyboardInterrupt:
        assert sorted(outcomes) == ["lease-3", "stopped"]
    else:
        assert outcomes[0] == outcomes[1]
        assert "PermissionError" in outcomes[0]
    assert issuer.live == {}


@pytest.mark.anyio
async def test_renewal_that_was_cancelled_lets_the_next_request_have_another_credential() -> None:
    issuer = Gated()

    async def body() -> str:
        credential = current_credential()
        with anyio.move_on_after(0.05):
            await credential.renew()
        issuer.go.set()
        await credential.renew()
        return credential.lease.id

    assert (await in_async_call(issuer, body), issuer.live) == ("lease-3", {})


@pytest.mark.anyio
async def test_synchronous_request_does_not_wait_for_one_of_its_own_event_loop() -> None:
    issuer = Gated()

    async def body() -> None:
        credential = current_credential()
        async with anyio.create_task_group() as group:
            group.start_soon(credential.renew)
            while not issuer.asked.is_set():  # noqa: ASYNC110  # as above
                await anyio.sleep(0.001)
            with pytest.raises(CredentialUnavailable, match="another request of this call"):
                drive(credential.renew())
            issuer.go.set()

    await in_async_call(issuer, body)
    assert issuer.live == {}


class SuspendsAfterItsAnswer(MemorySuspensions):
    """The stop comes between the answer that nothing is stopped and what is done because of it."""

    then: Callable[[], None] | None = None

    async def suspended(self, keys: Sequence[str]) -> str:
        answer = await super().suspended(keys)
        then, self.then = self.then, None
        if then is not None:
            then()
        return answer


@pytest.mark.control("9 a stopped call sends nothing")
def test_call_that_is_stopped_while_it_renews_gets_no_other_credential() -> None:
    issuer, suspensions = FakeIssuer(), SuspendsAfterItsAnswer()
    guard = fake_guard(issuer=issuer, suspensions=suspensions)

    def body() -> None:
        credential, task = current_credential(), current_task().id
        suspensions.then = lambda: guard.suspend(task=task, why="test")
        with pytest.raises(CredentialUnavailable, match="stopped"):
            drive(credential.renew())
        assert not credential.live
        with pytest.raises(CredentialUnavailable, match="revoked"):
            _ = credential.token

    with guard, guard.task("bot", on_behalf_of="ann", intent=Intent("x", step("call"))):
        guard_tool(body, "call", audience=AUDIENCE)()
    assert issuer.live == {}


@pytest.mark.control("9 a refused credential is renewed once")
def test_call_that_could_not_be_given_another_credential_asks_for_none_again() -> None:
    class Fails(FakeIssuer):
        async def issue(self, grant: Grant, lease: Lease, now: float) -> Issued:
            asked.append(lease.id)
            if len(asked) > 1:
                raise CredentialUnavailable("no more today")
            return await super().issue(grant, lease, now)

    def body() -> None:
        credential = current_credential()
        for _ in range(2):
            with pytest.raises(CredentialUnavailable, match="no more today"):
                drive(credential.renew())

    asked: list[str] = []
    in_call(Fails(), body)
    assert asked == ["lease-1", "lease-2"]


@pytest.mark.control("9 a stopped task renews nothing")
def test_call_whose_agent_is_registered_no_longer_gets_no_other_credential() -> None:
    issuer, wall = FakeIssuer(), FakeClock()

    def body() -> None:
        credential = current_credential()
        wall.advance(61)
        with pytest.raises(CredentialUnavailable, match="may not go on: expired"):
            drive(credential.renew())

    owners = {"business": "ann@bank.test"}
    agent = RegisteredAgent(agent=Agent("bot", registered=True), owners=owners, purpose="x", expires=wall.now + 60)
    with fake_guard(
        issuer=issuer, registry=Registry([agent]), clock=wall
    ) as guard:  # the task itself counts on another clock
        with guard.task("bot", on_behalf_of="ann", intent=Intent("x", step("call"))):
            guard_tool(body, "call", audience=AUDIENCE)()
    assert issuer.issued == ["lease-1"]
