"""Cases 45 and 46: ways around the guard, and every kind of callable; revoked exactly once, at the real end."""

from __future__ import annotations

import asyncio
import copy
import functools
import gc
import pickle
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from agentguard import Denied, Guard, Intent, any_, current_credential, guarded, step
from agentguard.testing import FakeIssuer, fake_guard

API = "https://api.test"
touched: list[str] = []


@guarded("touch", audience=API, lease="call")
def touch(what: str) -> str:
    """Touch something."""
    touched.append(what)
    return current_credential().lease.id


@guarded("atouch", audience=API, lease="call")
async def atouch(what: str) -> str:
    """Touch something, asynchronously."""
    await asyncio.sleep(0)
    touched.append(what)
    return current_credential().lease.id


class Desk:
    """Methods of every kind."""

    @guarded("touch", audience=API, lease="call")
    def method(self, what: str) -> str:
        touched.append(what)
        return current_credential().lease.id

    @classmethod
    @guarded("touch", audience=API, lease="call")
    def above(cls, what: str) -> str:
        touched.append(what)
        return current_credential().lease.id

    @guarded("touch", audience=API, lease="call")
    @classmethod
    def below(cls, what: str) -> str:
        touched.append(what)
        return current_credential().lease.id

    @guarded("touch", audience=API, lease="call")
    @staticmethod
    def static(what: str) -> str:
        touched.append(what)
        return current_credential().lease.id


class Loud(Desk):
    """A subclass that overrides and calls up."""

    def method(self, what: str) -> str:
        return super().method(what)


class Callee:
    """A callable object."""

    def __call__(self, what: str) -> str:
        touched.append(what)
        return current_credential().lease.id


def free(what: str, suffix: str = "") -> str:
    """A plain function."""
    touched.append(what + suffix)
    return current_credential().lease.id


callee = guarded("touch", audience=API, lease="call")(Callee())
fixed = guarded("touch", audience=API, lease="call")(functools.partial(free, suffix="!"))
WAYS: dict[str, Callable[[str], Any]] = {
    "function": touch,
    "by keyword": lambda what: touch(what=what),
    "bound method": Desk().method,
    "method through the class": lambda what: Desk.method(Desk(), what),
    "subclass": Loud().method,
    "classmethod above": Desk.above,
    "classmethod below": Desk.below,
    "staticmethod": Desk.static,
    "callable object": callee,
    "partial": fixed,
    "partial of a guarded tool": functools.partial(touch),
    "copy": copy.copy(touch),
    "deepcopy": copy.deepcopy(touch),
    "pickle": pickle.loads(pickle.dumps(touch)),  # our own bytes
}


@pytest.fixture(autouse=True)
def _untouched() -> None:
    touched.clear()


@pytest.fixture
def issuer() -> FakeIssuer:
    return FakeIssuer()


@pytest.fixture
def guard(issuer: FakeIssuer) -> Iterator[Guard]:
    with fake_guard(issuer=issuer) as made:
        yield made


@pytest.mark.control("5 no way around the guard (case 45)")
@pytest.mark.parametrize("way", WAYS)
def test_case_45_every_way_to_call_a_tool_is_guarded(way: str, guard: Guard, issuer: FakeIssuer) -> None:
    with pytest.raises(Denied, match="no_task"):
        WAYS[way]("x")
    with guard.task("bot", on_behalf_of="alice", intent=Intent("narrow", step("touch", what="ok").times(9))):
        with pytest.raises(Denied, match="argument_violation"):
            WAYS[way]("evil")
        assert touched == []
        assert WAYS[way]("ok").startswith("lease-")
    assert len(touched) == 1
    assert issuer.issued == issuer.revoked


@pytest.mark.control("5 no way around the guard (case 45)")
def test_case_45_async_tool_is_guarded_and_returns_its_value(guard: Guard, issuer: FakeIssuer) -> None:
    async def work() -> str:
        async with guard.task("bot", on_behalf_of="alice", intent=Intent("narrow", step("atouch", what="ok"))):
            with pytest.raises(Denied):
                await atouch("evil")
            return await atouch("ok")

    assert asyncio.run(work()) == issuer.issued[0]
    assert issuer.issued == issuer.revoked


def test_case_45_the_original_stays_reachable_and_gets_no_credential(guard: Guard) -> None:
    from agentguard import CredentialUnavailable

    with pytest.raises(CredentialUnavailable):
        touch.__wrapped__("x")  # type: ignore[attr-defined]  # what functools.wraps leaves


# case 46 --------------------------------------------------------------------------------------------------


@guarded("gen", effect="read", audience=API, lease="call")
def gen(count: int) -> Iterator[str]:
    for _ in range(count):
        yield current_credential().lease.id


@guarded("agen", effect="read", audience=API, lease="call")
async def agen(count: int) -> AsyncIterator[str]:
    for _ in range(count):
        await asyncio.sleep(0)
        yield current_credential().lease.id


READS = Intent("reads", reads=["gen", "agen"])


def test_case_46_sync_tool_inside_a_running_loop_works_with_a_local_issuer(guard: Guard, issuer: FakeIssuer) -> None:
    async def work() -> str:
        with guard.task("bot", on_behalf_of="alice", intent=Intent("x", step("touch", what=any_))):
            return touch("ok")

    assert asyncio.run(work()) == "lease-1"
    assert issuer.issued == issuer.revoked


def test_case_46_generator_is_authorised_at_its_first_step_and_revoked_when_exhausted(
    guard: Guard, issuer: FakeIssuer
) -> None:
    with guard.task("bot", on_behalf_of="alice", intent=READS):
        stream = gen(3)
        assert issuer.issued == []
        assert next(stream) == "lease-1"
        assert list(issuer.live) == ["lease-1"]
        assert list(stream) == ["lease-1", "lease-1"]
        assert issuer.revoked == ["lease-1"]


@pytest.mark.control("5 a generator's call ends with it (case 46)")
@pytest.mark.parametrize("end", ["close", "collect", "throw", "task end"])
def test_case_46_generator_that_is_not_exhausted_is_revoked_exactly_once(
    end: str, guard: Guard, issuer: FakeIssuer
) -> None:
    task = guard.task("bot", on_behalf_of="alice", intent=READS)
    with task:
        stream: Any = gen(3)
        next(stream)
        if end == "close":
            stream.close()
        elif end == "throw":
            with pytest.raises(KeyError):
                stream.throw(KeyError("x"))
        elif end == "collect":
            del stream
            gc.collect()
        if end != "task end":
            assert issuer.revoked == ["lease-1"]
    assert issuer.revoked == ["lease-1"]


@pytest.mark.control("5 a generator's call ends with it (case 46)")
@pytest.mark.parametrize("end", ["exhaust", "close", "close elsewhere", "cancel"])
def test_case_46_async_generator_is_revoked_exactly_once(end: str, guard: Guard, issuer: FakeIssuer) -> None:
    async def work() -> None:
        async with guard.task("bot", on_behalf_of="alice", intent=READS):
            stream: Any = agen(3)
            assert await anext(stream) == "lease-1"
            if end == "exhaust":
                assert [part async for part in stream] == ["lease-1", "lease-1"]
            elif end == "close":
                await stream.aclose()
            elif end == "close elsewhere":
                await asyncio.create_task(stream.aclose())
            else:
                step_on = asyncio.create_task(anext(stream))
                await asyncio.sleep(0)
                step_on.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await step_on
            assert issuer.revoked == ["lease-1"]

    asyncio.run(work())
    assert issuer.revoked == ["lease-1"]


@pytest.mark.control("5 nothing leaks between two parts (case 46)")
def test_case_46_consumer_sees_no_credential_between_two_parts(guard: Guard) -> None:
    from agentguard import CredentialUnavailable

    with guard.task("bot", on_behalf_of="alice", intent=READS):
        for _ in gen(2):
            with pytest.raises(CredentialUnavailable):
                current_credential()


def test_case_46_generator_that_receives_values_and_exceptions_works_as_before(guard: Guard) -> None:
    @guarded("echo", effect="read")
    def echo() -> Iterator[str]:
        got = yield "start"
        try:
            got = yield f"got {got}"
        except KeyError:
            got = yield "caught"
        return got

    with guard.task("bot", on_behalf_of="alice", intent=Intent("x", reads=["echo"])):
        stream: Any = echo()
        assert next(stream) == "start"
        assert stream.send("a") == "got a"
        assert stream.throw(KeyError()) == "caught"
        with pytest.raises(StopIteration) as stop:
            stream.send("done")
        assert stop.value.value == "done"


def test_case_46_sync_function_that_returns_a_coroutine_keeps_its_call_open_until_it_is_awaited(
    guard: Guard, issuer: FakeIssuer
) -> None:
    @guarded("later", audience=API, lease="call")
    def later() -> Any:
        async def inner() -> str:
            await asyncio.sleep(0)
            return current_credential().lease.id

        return inner()

    async def work() -> str:
        async with guard.task("bot", on_behalf_of="alice", intent=Intent("x", step("later"))):
            waiting = later()
            assert list(issuer.live) == ["lease-1"]
            result: str = await waiting
            assert issuer.revoked == ["lease-1"]
            return result

    assert asyncio.run(work()) == "lease-1"


def test_case_46_tool_that_calls_a_guarded_tool_is_two_calls_with_a_credential_each(
    guard: Guard, issuer: FakeIssuer
) -> None:
    @guarded("outer", audience=API, lease="call")
    def outer() -> list[str]:
        before = current_credential().lease.id
        return [before, touch("x"), current_credential().lease.id]

    with guard.task("bot", on_behalf_of="alice", intent=Intent("x", step("outer"), step("touch", what="x"))):
        assert outer() == ["lease-1", "lease-2", "lease-1"]
    assert issuer.revoked == ["lease-2", "lease-1"]


@pytest.mark.control("5 a cancelled call is released")
@pytest.mark.parametrize("suspends", [False, True])
@pytest.mark.parametrize("cancels", [1, 2])
def test_case_46_lease_is_revoked_when_the_tool_is_cancelled_also_twice(suspends: bool, cancels: int) -> None:
    issuer, started = FakeIssuer(suspends=suspends), asyncio.Event()

    @guarded("slow", audience=API, lease="call")
    async def slow() -> None:
        started.set()
        await asyncio.sleep(10)

    async def work() -> None:
        with fake_guard(issuer=issuer) as guard:
            async with guard.task("bot", on_behalf_of="alice", intent=Intent("x", step("slow"))):
                call = asyncio.create_task(slow())
                await started.wait()
                for _ in range(cancels):
                    call.cancel()
                    await asyncio.sleep(0)
                with pytest.raises(asyncio.CancelledError):
                    await call
                assert issuer.live == {}

    asyncio.run(work())
    assert issuer.issued == issuer.revoked


@pytest.mark.anyio
async def test_case_46_lease_is_revoked_when_a_cancel_scope_ends_the_tool() -> None:
    import anyio

    issuer = FakeIssuer(suspends=True)

    @guarded("slow", audience=API, lease="call")
    async def slow() -> None:
        await anyio.sleep(10)

    with fake_guard(issuer=issuer) as guard:
        async with guard.task("bot", on_behalf_of="alice", intent=Intent("x", step("slow"))):
            with anyio.move_on_after(0.05):
                await slow()
            assert issuer.live == {}
    assert issuer.issued == issuer.revoked


def test_case_46_issuer_that_suspends_refuses_a_synchronous_task() -> None:
    from agentguard import ConfigurationError

    with fake_guard(issuer=FakeIssuer(suspends=True)) as guard, pytest.raises(ConfigurationError, match="async with"):
        with guard.task("bot", on_behalf_of="alice", intent=READS):
            pass


def test_case_46_port_that_suspends_although_it_promised_not_to_is_a_denial_before_the_tool_runs() -> None:
    issuer = FakeIssuer(suspends=False)
    with fake_guard(issuer=issuer) as guard:
        original = issuer.issue

        async def lying(*args: Any) -> Any:
            await asyncio.sleep(0)
            return await original(*args)

        issuer.issue = lying  # type: ignore[method-assign,assignment]  # the fake lies on purpose
        with guard.task("bot", on_behalf_of="alice", intent=Intent("x", step("touch", what="ok"))):
            with pytest.raises(Denied) as denied:
                touch("ok")
    assert denied.value.reason == "credential_unavailable"
    assert touched == []
