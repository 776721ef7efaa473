"""Tasks: opening, whom they act for, delegation, and what is left at their end."""

from __future__ import annotations

import asyncio
import contextvars
import copy
import gc
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from decimal import Decimal
from typing import Any, ClassVar

import anyio
import pytest

from agentguard import ITSELF, ConfigurationError, Denied, Guard, Intent, User, any_, current_task, guarded, step
from agentguard._drive import drive
from agentguard.audit.memory import MemoryLog
from agentguard.model.principal import Agent, Proof, Subject
from agentguard.registry import RegisteredAgent, Registry
from agentguard.running import Running, undecided
from agentguard.state.suspensions_memory import MemorySuspensions
from agentguard.task_state import TaskState
from agentguard.testing import FakeClock, FakeIssuer, fake_guard
from agentguard.tool import Tool
from tests.tools import apay, everything, pay, ran, read_account, refund


@pytest.fixture(autouse=True)
def _nothing_ran() -> None:
    ran.clear()


@pytest.fixture
def issuer() -> FakeIssuer:
    return FakeIssuer()


@pytest.fixture
def guard(issuer: FakeIssuer) -> Iterator[Guard]:
    with fake_guard(issuer=issuer) as made:
        yield made


def records(guard: Guard) -> list[dict[str, Any]]:
    assert isinstance(guard.audit, MemoryLog)
    return [dict(record) for record in guard.audit.records]


def opened(guard: Guard) -> dict[str, Any]:
    return next(record for record in records(guard) if record["event"] == "task.opened")


# for whom -------------------------------------------------------------------------------------------------


def test_leaving_out_on_behalf_of_is_an_error(guard: Guard) -> None:
    with pytest.raises(TypeError, match="ITSELF"):
        guard.task("bot", intent=everything())
    with pytest.raises(TypeError):
        guard.task("bot", on_behalf_of=None, intent=everything())  # type: ignore[arg-type]  # on purpose
    with pytest.raises(TypeError):
        guard.task("bot", on_behalf_of=7, intent=everything())  # type: ignore[arg-type]  # on purpose


def test_text_is_an_asserted_user_and_every_record_says_so_without_the_name(guard: Guard) -> None:
    with guard.task("bot", on_behalf_of="alice", intent=everything()) as task:
        assert task.chain.text() == "user:alice > bot"
    record = opened(guard)
    assert record["subject_proof"] == "asserted"
    assert record["registration"] == "none"
    assert record["subject"].startswith("u:")
    assert "alice" not in str(records(guard))


def test_agent_that_works_for_itself_has_itself_as_subject(guard: Guard) -> None:
    with guard.task("nightly", on_behalf_of=ITSELF, intent=everything()) as task:
        assert task.chain.text() == "agent:nightly > nightly"
    assert opened(guard)["subject_proof"] == "itself"


class Users:
    suspends = False

    async def verify(self, token: str, now: float) -> Subject:
        if token != "good":
            raise ValueError("bad token")
        return Subject("alice", "https://id.test", "acme", Proof.VERIFIED)


@pytest.mark.control("2 a user's token is verified before anything opens")
def test_verified_user_needs_a_token_that_verifies() -> None:
    with fake_guard(users=Users()) as guard:
        with guard.task("bot", on_behalf_of=User.verified("good"), intent=everything()) as task:
            assert (task.chain.subject.proof, task.chain.subject.tenant) == (Proof.VERIFIED, "acme")
        with pytest.raises(Denied) as denied, guard.task("bot", on_behalf_of=User.verified("bad"), intent=everything()):
            pass
        assert denied.value.reason == "user_unverified"
        assert [r["reason"] for r in records(guard) if r["event"] == "task.denied"] == ["user_unverified"]


def test_guard_that_verifies_no_users_refuses_a_verified_one(guard: Guard) -> None:
    with pytest.raises(Denied, match="users"), guard.task("bot", on_behalf_of=User.verified("x"), intent=everything()):
        pass
    assert "x" not in repr(User.verified("xyz-secret"))


# opening --------------------------------------------------------------------------------------------------


@pytest.mark.control("7 a second root is refused")
def test_second_task_inside_an_open_one_is_refused(guard: Guard) -> None:
    with guard.task("bot", on_behalf_of="alice", intent=everything()):
        with pytest.raises(Denied, match="delegate") as denied:
            with guard.task("bot", on_behalf_of="bob", intent=everything()):
                pass
    assert denied.value.reason == "already_in_task"


def test_task_that_was_not_opened_gives_nothing(guard: Guard) -> None:
    guard.task("bot", on_behalf_of="alice", intent=everything())
    with pytest.raises(Denied, match="no_task"):
        refund("acme", Decimal(5))


def test_task_that_ended_cannot_be_opened_again(guard: Guard) -> None:
    task = guard.task("bot", on_behalf_of="alice", intent=everything())
    with task:
        pass
    with pytest.raises(ConfigurationError, match="ended"), task:
        pass


def test_something_else_than_an_intent_is_a_clear_error(guard: Guard) -> None:
    with pytest.raises(TypeError, match="Intent"):
        guard.task("bot", on_behalf_of="alice", intent={"reads": ["*"]})  # type: ignore[arg-type]  # on purpose


def registered(name: str, **fields: Any) -> RegisteredAgent:
    return RegisteredAgent(
        agent=Agent(name, registered=True), owners={"business": "ann@bank.test"}, purpose="x", **fields
    )


def test_unknown_agent_is_denied_recorded_and_the_known_ones_are_named() -> None:
    with fake_guard(registry=Registry([registered("bot")])) as guard:
        with pytest.raises(Denied, match="bot") as denied:
            guard.task("robot", on_behalf_of="alice", intent=everything())
        assert denied.value.reason == "unknown_agent"
        assert [r["reason"] for r in records(guard) if r["event"] == "task.denied"] == ["unknown_agent"]


@pytest.mark.control("2 the registry is asked")
@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"status": "suspended"}, "suspended"),
        ({"status": "retired"}, "suspended"),
        ({"expires": 1.0}, "expired"),
        ({"not_before": 4e9}, "expired"),
        ({"environments": frozenset({"prod"})}, "not_allowed"),
        ({"purposes": {"other": None}}, "not_allowed"),
    ],
)
def test_agent_that_is_not_fit_opens_no_task(fields: dict[str, Any], reason: str) -> None:
    with fake_guard(registry=Registry([registered("bot", **fields)])) as guard, pytest.raises(Denied) as denied:
        with guard.task("bot", on_behalf_of="alice", intent=everything()):
            pass
    assert denied.value.reason == reason


@pytest.mark.control("2 the registry is asked at every call")
@pytest.mark.parametrize("expiring", ["bot", "helper"])
def test_registration_that_ends_while_the_task_runs_stops_every_call_under_it(expiring: str) -> None:
    wall = FakeClock()
    agents = [
        registered("bot", **({"expires": wall.now + 60} if expiring == "bot" else {})),
        registered("helper", **({"expires": wall.now + 60} if expiring == "helper" else {})),
    ]
    ran.clear()
    with (
        fake_guard(registry=Registry(agents), clock=wall) as guard,  # the task itself counts on another clock
        guard.task("bot", on_behalf_of="alice", intent=everything()) as task,
        task.delegate("helper", intent=everything()),
    ):
        assert read_account("acme")
        ran.clear()
        wall.advance(61)
        with pytest.raises(Denied) as denied:
            read_account("acme")

    assert (denied.value.reason, denied.value.decision.level, ran) == ("expired", expiring, [])


@pytest.mark.control("2 a task ends at its time")
def test_call_at_the_very_moment_at_which_its_task_ends_is_denied() -> None:
    clock = FakeClock()
    with fake_guard(clock=clock, monotonic=clock) as guard:
        with guard.task("bot", on_behalf_of="alice", intent=everything(), ttl=60):
            clock.advance(59)
            assert read_account("acme")
            ran.clear()
            clock.advance(1)
            with pytest.raises(Denied) as denied:
                read_account("acme")
    assert (denied.value.reason, ran) == ("expired", [])


@pytest.mark.control("8 the gate looks last")
@pytest.mark.parametrize(("what", "reason"), [("stop", "suspended"), ("time", "expired")])
def test_call_whose_task_is_stopped_or_over_while_it_is_marked_as_running_does_not_run(what: str, reason: str) -> None:
    clock = FakeClock()

    class Meanwhile(MemorySuspensions):
        async def start(self, call: str, keys: Sequence[str], *, reads: bool = False) -> str:
            found = await super().start(call, keys, reads=reads)
            if what == "stop":
                task.why_stopped = "test"
            else:
                clock.advance(60)
            return found

    with fake_guard(clock=clock, monotonic=clock, suspensions=Meanwhile()) as guard:
        with guard.task("bot", on_behalf_of="alice", intent=everything(), ttl=60) as task:
            with pytest.raises(Denied) as denied:
                read_account("acme")
    assert (denied.value.reason, ran) == (reason, [])


@pytest.mark.control("9 a stopped task gets no credential")
def test_call_that_the_gate_would_refuse_obtains_no_credential() -> None:
    issuer = FakeIssuer()
    with fake_guard(issuer=issuer) as guard, guard.task("bot", on_behalf_of="alice", intent=everything()):
        guard.suspend(agent="bot", why="test")
        with pytest.raises(Denied) as denied:
            pay("acme")
    assert (denied.value.reason, issuer.issued, ran) == ("suspended", [], [])


@pytest.mark.parametrize("error", [asyncio.CancelledError, OSError])
def test_call_that_was_marked_as_running_and_never_heard_of_it_is_marked_no_longer(error: type[BaseException]) -> None:
    class Unheard(MemorySuspensions):
        async def start(self, call: str, keys: Sequence[str], *, reads: bool = False) -> str:
            await super().start(call, keys, reads=reads)
            raise error

    stops = Unheard()
    with (
        fake_guard(suspensions=stops) as guard,
        guard.task("bot", on_behalf_of="alice", intent=everything()),
        pytest.raises((error, Denied)),
    ):
        read_account("acme")
    assert not stops._running


@pytest.mark.control("9 what ended runs no more")
@pytest.mark.parametrize("fails", [False, True])
def test_call_that_ended_is_not_marked_as_running_any_more(fails: bool) -> None:
    class Marks(MemorySuspensions):
        running: ClassVar[list[str]] = []

        async def start(self, call: str, keys: Sequence[str], *, reads: bool = False) -> str:
            self.running.append(call)
            return await super().start(call, keys, reads=reads)

        async def finish(self, call: str) -> None:
            self.running.remove(call)
            await super().finish(call)

    @guarded("account.read", effect="read")
    def read(account: str) -> str:
        assert len(marks.running) == 1
        if fails:
            raise LookupError(account)
        return account

    marks = Marks()
    with fake_guard(suspensions=marks) as guard, guard.task("bot", on_behalf_of="alice", intent=everything()):
        with pytest.raises(LookupError) if fails else nullcontext():
            read("acme")
        assert marks.running == []


@pytest.mark.control("2 the registry is asked")
def test_every_link_needs_the_tool_or_may_hand_it_on() -> None:
    agents = [
        registered("bot", tools=frozenset({"refund"}), hand_on={"helper": frozenset({"account.read"})}),
        registered("helper", tools=frozenset({"account.*", "refund"})),
        registered("other", tools=frozenset({"account.*"})),
    ]
    reads: Any = {"reads": ["account.read"]}
    with fake_guard(registry=Registry(agents)) as guard:
        with guard.task("bot", on_behalf_of="alice", intent=everything()) as task:
            with pytest.raises(Denied, match="not_allowed"):
                read_account("acme")
            with task.delegate("helper", **reads):
                assert read_account("acme")
            with task.delegate("other", **reads), pytest.raises(Denied) as denied:
                read_account("acme")
    assert (denied.value.reason, denied.value.decision.level) == ("not_allowed", "bot")


@pytest.mark.control("3 an agent's ceiling holds whatever the intent says")
def test_ceiling_of_any_agent_in_the_chain_narrows() -> None:
    from agentguard.intent import compile_intent

    ceiling = compile_intent(Intent("ceiling", step("refund", account=any_, amount=any_)), ceiling=True)
    with fake_guard(registry=Registry([registered("bot", ceiling=ceiling)])) as guard:
        with guard.task("bot", on_behalf_of="alice", intent=everything()):
            assert refund("acme", Decimal(5))
            with pytest.raises(Denied) as denied:
                pay("acme")
    assert (denied.value.reason, denied.value.decision.level) == ("outside_intent", "ceiling:bot")


@pytest.mark.control("2 an agent's call limit holds over its tasks")
def test_call_limit_of_an_agent_counts_over_all_its_tasks_in_a_window() -> None:
    clock = FakeClock()
    with fake_guard(registry=Registry([registered("bot", calls=(2, 60.0))]), clock=clock, monotonic=clock) as guard:
        for _ in range(2):
            with guard.task("bot", on_behalf_of="alice", intent=everything()):
                refund("acme", Decimal(1))
        with guard.task("bot", on_behalf_of="alice", intent=everything()), pytest.raises(Denied) as denied:
            refund("acme", Decimal(1))
        assert denied.value.reason == "budget_exhausted"
        clock.advance(61)
        with guard.task("bot", on_behalf_of="alice", intent=everything()):
            assert refund("acme", Decimal(1))


# delegation -----------------------------------------------------------------------------------------------


def test_delegation_needs_to_say_what_the_sub_agent_may_do(guard: Guard) -> None:
    with guard.task("bot", on_behalf_of="alice", intent=everything()) as task:
        with pytest.raises(TypeError, match="reads"):
            task.delegate("helper")
        with pytest.raises(TypeError, match="not both"):
            task.delegate("helper", reads=["account.read"], intent=everything())


def test_intent_may_name_what_a_sub_agent_gets(guard: Guard) -> None:
    helper = Intent("help", reads=["account.read"])
    intent = Intent("x", step("refund", account="acme", amount=any_), reads=["account.read"], agents={"helper": helper})
    with guard.task("bot", on_behalf_of="alice", intent=intent) as task, task.delegate("helper") as child:
        assert read_account("acme")
        with pytest.raises(Denied):
            refund("acme", Decimal(1))
        assert current_task() is child
        assert child.chain.text() == "user:alice > bot > helper"


def test_steps_can_be_handed_on_and_stay_narrower(guard: Guard) -> None:
    with guard.task("bot", on_behalf_of="alice", intent=everything()) as task:
        with task.delegate("helper", steps=[step("refund", account="acme", amount=5)]):
            assert refund("acme", Decimal(5))
            with pytest.raises(Denied):
                refund("acme", Decimal(5))


@pytest.mark.control("3 a sub-agent's task ends with its parent")
def test_sub_agent_that_outlives_its_parent_is_denied(guard: Guard, issuer: FakeIssuer) -> None:
    intent = Intent("x", step("pay", account="acme").times(5))
    with guard.task("bot", on_behalf_of="alice", intent=intent) as task:
        child = task.delegate("helper", steps=[step("pay", account="acme").times(5)])
        with child:
            pay("acme")
            context = contextvars.copy_context()
            guard_closed = asyncio.run(_close(guard, task))
            assert guard_closed
            assert issuer.live == {}
            with pytest.raises(Denied, match="task_ended"):
                context.run(pay, "acme")
    assert child.state is TaskState.ENDED


@pytest.mark.control("8 a sub-agent's task that ends first revokes only its own")
def test_sub_agent_that_ends_first_revokes_only_its_own_leases(guard: Guard, issuer: FakeIssuer) -> None:
    intent = Intent("x", step("pay", account="acme").times(5))
    with guard.task("bot", on_behalf_of="alice", intent=intent) as task:
        pay("acme")
        own = set(issuer.live)
        with task.delegate("helper", steps=[step("pay", account="acme").times(5)]):
            pay("acme")
            assert (len(own), len(issuer.live)) == (1, 2)
        assert set(issuer.live) == own
        pay("acme")
    assert issuer.live == {}


async def _close(guard: Guard, task: Any) -> bool:
    await guard.close_task(task, TaskState.ENDED, "test")
    return True


# the end --------------------------------------------------------------------------------------------------


@pytest.mark.control("8 every lease ends with its task")
@pytest.mark.parametrize("how", ["return", "exception", "interrupt", "system exit", "generator close"])
def test_every_lease_is_revoked_however_the_task_is_left(how: str, guard: Guard, issuer: FakeIssuer) -> None:
    errors = {"exception": ValueError, "interrupt": KeyboardInterrupt, "system exit": SystemExit}

    def work() -> Iterator[None]:
        with guard.task("bot", on_behalf_of="alice", intent=everything()):
            pay("acme")
            assert len(issuer.live) == 1
            yield
            if how in errors:
                raise errors[how]

    stream: Any = work()
    next(stream)
    if how == "generator close":
        stream.close()
    elif how in errors:
        with pytest.raises(errors[how]):
            next(stream)
    else:
        list(stream)
    assert issuer.live == {}
    assert guard.outstanding() == 0
    assert records(guard)[-1]["event"] == "task.ended"


@pytest.mark.control("8 every lease ends with its task")
@pytest.mark.anyio
async def test_every_lease_is_revoked_when_the_task_times_out_or_is_cancelled() -> None:
    import anyio

    issuer = FakeIssuer(suspends=True)

    @guarded("apay", audience="https://payments.test")
    async def apay() -> None: ...

    with fake_guard(issuer=issuer) as guard:
        with anyio.move_on_after(0.1):
            async with guard.task("bot", on_behalf_of="alice", intent=Intent("x", step("apay"))):
                await apay()
                assert len(issuer.live) == 1
                await anyio.sleep(10)
        assert issuer.live == {}


@pytest.mark.control("8 the keeper ends what is overdue")
def test_task_past_its_time_is_ended_by_the_keeper_and_holds_nothing() -> None:
    clock, issuer = FakeClock(), FakeIssuer()
    with fake_guard(clock=clock, monotonic=clock, issuer=issuer) as guard:
        with guard.task("bot", on_behalf_of="alice", intent=everything(), ttl="1m") as task:
            pay("acme")
            clock.advance(61)
            guard.keeper.tick()
            assert task.state is TaskState.ENDED
            assert issuer.live == {}
            with pytest.raises(Denied):
                pay("acme")


def test_leases_are_reused_within_their_key_and_refreshed_at_half_life() -> None:
    clock, issuer = FakeClock(), FakeIssuer()
    with fake_guard(clock=clock, monotonic=clock, issuer=issuer) as guard:
        with guard.task("bot", on_behalf_of="alice", intent=everything()):
            assert (pay("acme"), pay("acme", amount=2)) == ("lease-1", "lease-1")
            clock.advance(20)
            assert pay("acme") == "lease-2"
            assert issuer.revoked == ["lease-1"]
    assert issuer.live == {}


@pytest.mark.control("8 leases are never shared")
def test_two_users_two_tasks_and_two_agents_never_share_a_lease(issuer: FakeIssuer) -> None:
    with fake_guard(issuer=issuer) as guard:

        def use(user: str, agent: str) -> list[str]:
            def inner() -> list[str]:
                with guard.task(agent, on_behalf_of=user, intent=everything()) as task:
                    first = pay("acme")
                    with task.delegate("helper", steps=[step("pay", account="acme").times(5)]):
                        return [first, pay("acme"), pay("acme")]

            return contextvars.Context().run(inner)

        with ThreadPoolExecutor(8) as pool:
            used = list(pool.map(lambda n: use(f"user{n % 3}", f"agent{n % 2}"), range(40)))
    firsts = [leases[0] for leases in used]
    children = [leases[1] for leases in used]
    assert len({*firsts, *children}) == 80
    assert all(leases[1] == leases[2] for leases in used)
    assert issuer.live == {}
    assert sorted(issuer.issued) == sorted(issuer.revoked)


def test_hundred_concurrent_misses_of_one_key_make_one_issue() -> None:
    issuer = FakeIssuer(suspends=True)

    @guarded("apay", audience="https://payments.test", lease="task")
    async def apay() -> None: ...

    async def work() -> None:
        with fake_guard(issuer=issuer) as guard:
            async with guard.task("bot", on_behalf_of="alice", intent=Intent("x", step("apay").times(200))):
                await asyncio.gather(*(apay() for _ in range(100)))

    asyncio.run(work())
    assert issuer.issued == ["lease-1"]
    assert issuer.live == {}


def test_cancelled_leader_does_not_poison_those_who_wait() -> None:
    issuer = FakeIssuer(suspends=True)

    @guarded("apay", audience="https://payments.test", lease="task")
    async def apay() -> str:
        return "paid"

    async def work() -> list[str]:
        with fake_guard(issuer=issuer) as guard:
            async with guard.task("bot", on_behalf_of="alice", intent=Intent("x", step("apay").times(9))):
                leader = asyncio.create_task(apay())
                await asyncio.sleep(0)
                followers = [asyncio.create_task(apay()) for _ in range(3)]
                await asyncio.sleep(0)
                leader.cancel()
                return await asyncio.gather(*followers)

    assert asyncio.run(work()) == ["paid"] * 3
    assert issuer.live == {}


# attempts -------------------------------------------------------------------------------------------------


class Reader:
    """Reads when it is called."""

    async def __call__(self) -> list[Any]:
        return [read_account("acme")]


def accounts() -> Iterator[Any]:
    assert (yield read_account("acme")) == "sent"
    with suppress(KeyError):
        yield read_account("acme")
    yield read_account("acme")


async def aaccounts() -> AsyncIterator[Any]:
    assert (yield read_account("acme")) == "sent"
    with suppress(KeyError):
        yield read_account("acme")
    yield read_account("acme")


def test_task_is_bound_to_whatever_a_function_only_begins(guard: Guard) -> None:
    def steps(stream: Any) -> list[Any]:
        first = next(stream)
        with pytest.raises(Denied, match="no_task"):  # whoever steps it has no task by it
            current_task()
        return [first, stream.send("sent"), stream.throw(KeyError("thrown")), *stream]

    async def asteps(stream: Any) -> list[Any]:
        first = await anext(stream)
        with pytest.raises(Denied, match="no_task"):
            current_task()
        rest = [await stream.asend("sent"), await stream.athrow(KeyError("thrown"))]
        return [first, *rest, *[part async for part in stream]]

    with guard.task("bot", on_behalf_of="alice", intent=everything()) as task, ThreadPoolExecutor(1) as pool:
        works: list[Callable[[], list[Any]]] = [
            lambda: steps(task.bind(accounts)()),
            lambda: asyncio.run(asteps(task.bind(aaccounts)())),
            lambda: asyncio.run(task.bind(Reader())()) * 3,
        ]
        for work in works:
            assert pool.submit(work).result() == [{"account": "acme"}] * 3


@pytest.mark.control("3 a retry is not a new call, and has an end")
def test_same_call_may_be_tried_again_after_the_tool_raised_and_keeps_its_idempotency_key(guard: Guard) -> None:
    from agentguard import current_call

    keys: list[str] = []
    fail = [True, True, False]

    @guarded("flaky")
    def flaky(n: int) -> str:
        keys.append(current_call().idempotency_key)
        if fail.pop(0):
            raise ConnectionError
        return "done"

    with guard.task("bot", on_behalf_of="alice", intent=Intent("x", step("flaky", n=any_).attempts(3))):
        for _ in range(2):
            with pytest.raises(ConnectionError):
                flaky(1)
        with pytest.raises(Denied):
            flaky(2)  # another call: the step was used up by the first
        assert flaky(1) == "done"
        with pytest.raises(Denied):
            flaky(1)
    assert len(set(keys)) == 1
    assert len(keys) == 3


def test_call_of_another_task_is_no_other_attempt_at_the_ceiling() -> None:
    from agentguard import current_call
    from agentguard.intent import compile_intent

    keys: list[str] = []
    fail = [True, True]

    @guarded("flaky")
    def flaky(n: int) -> str:
        keys.append(current_call().idempotency_key)
        if fail.pop(0):
            raise ConnectionError
        return "done"

    ceiling = compile_intent(Intent("c", step("flaky", n=any_).times(2, "1h").attempts(3)), ceiling=True)
    intent = Intent("x", step("flaky", n=any_).attempts(3))
    with fake_guard(registry=Registry([registered("bot", ceiling=ceiling)])) as guard:
        for user in ("alice", "carol"):
            with guard.task("bot", on_behalf_of=user, intent=intent), pytest.raises(ConnectionError):
                flaky(1)
        with guard.task("bot", on_behalf_of="dave", intent=intent), pytest.raises(Denied) as denied:
            flaky(1)
    assert len(set(keys)) == 2
    assert (denied.value.reason, denied.value.decision.level) == ("budget_exhausted", "ceiling:bot")


# threads, forks, exits ------------------------------------------------------------------------------------


@pytest.mark.control("3 parallel calls never overspend")
def test_parallel_calls_never_overspend(guard: Guard) -> None:
    intent = Intent("x", step("refund", account="acme", amount=any_).times(10).total(amount=25))
    done: list[str] = []

    def spend() -> None:
        for _ in range(5):
            try:
                done.append(refund("acme", Decimal(3)))
            except Denied as error:
                assert error.reason == "budget_exhausted"

    with guard.task("bot", on_behalf_of="alice", intent=intent) as task:
        threads = [threading.Thread(target=task.bind(spend)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(done) == 8  # 8 x 3 = 24; a ninth would make 27


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_who_was_stopped_stays_stopped_in_a_forked_child(guard: Guard) -> None:
    guard.revoke_all("stop")
    child = os.fork()
    if child == 0:
        try:
            os._exit(int(drive(guard.suspensions.start("call", ["all"])) != "all"))
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_forked_child_has_no_task_no_lease_and_a_log_of_its_own(guard: Guard, issuer: FakeIssuer) -> None:
    with guard.task("bot", on_behalf_of="alice", intent=everything()):
        pay("acme")
        child = os.fork()
        if child == 0:
            code = 1
            try:
                pay("acme")
            except Denied as error:
                code = 0 if error.reason == "task_ended" and guard.outstanding() == 0 else 2
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert len(issuer.live) == 1
        assert pay("acme") == "lease-1"


def test_forked_child_calls_a_tool_while_another_thread_of_the_parent_made_what_is_kept_of_one(guard: Guard) -> None:
    began, goes_on = threading.Event(), threading.Event()

    class Waits(Tool):
        @property
        def binder(self) -> Any:  # type: ignore[override]  # what its plain form is made of
            began.set()
            goes_on.wait(20)
            return vars(self)["binder"]

    known = read_account.__agentguard__  # type: ignore[attr-defined]  # its declaration
    other, fresh = Waits(known.fn, known.spec, known.binder), Tool(known.fn, known.spec, known.binder)
    thread = threading.Thread(target=lambda: other.plain)
    thread.start()
    try:
        assert began.wait(5)
        child = os.fork()
        if child == 0:
            signal.alarm(5)  # one that hangs ends by it
            os._exit(0 if fresh.plain.binds in (True, False) else 1)
        _, status = os.waitpid(child, 0)
    finally:
        goes_on.set()
        thread.join(10)
    assert status == 0


def test_guard_that_nobody_closed_is_closed_when_the_interpreter_exits() -> None:
    program = """
import agentguard
from agentguard import Intent, guarded, step
from agentguard.testing import FakeIssuer, fake_guard

class Loud(FakeIssuer):
    async def revoke(self, lease, handle=None):
        print("revoked", lease.id)
        return await super().revoke(lease)

@guarded("pay", audience="https://payments.test")
def pay(): pass

guard = fake_guard(issuer=Loud())
task = guard.task("bot", on_behalf_of="alice", intent=Intent("x", step("pay")))
task.__enter__()
pay()
print("leaving")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.split("\n") == ["leaving", "revoked lease-1", ""], done.stderr


def test_closed_guard_opens_no_task_and_ends_those_that_are_open() -> None:
    guard, issuer = fake_guard(), FakeIssuer()
    guard = fake_guard(issuer=issuer)
    task = guard.task("bot", on_behalf_of="alice", intent=everything())
    with task:
        pay("acme")
        guard.close()
        assert issuer.live == {}
        with pytest.raises(Denied):
            pay("acme")
    with pytest.raises(ConfigurationError, match="closed"):
        guard.task("bot", on_behalf_of="alice", intent=everything())
    guard.close()


@pytest.mark.control("8 every lease ends with its task")
@pytest.mark.parametrize("how", ["close", "async with"])
@pytest.mark.parametrize("loop", ["asyncio", "trio"])
def test_guard_that_is_closed_under_a_loop_revokes_what_is_left_with_ports_that_suspend(
    how: str, loop: str, caplog: pytest.LogCaptureFixture
) -> None:
    issuer = FakeIssuer(suspends=True)

    async def main() -> None:
        guard = fake_guard(issuer=issuer)
        await guard.task("bot", on_behalf_of="alice", intent=everything()).__aenter__()
        await apay("acme")
        if how == "close":
            guard.close()
        else:
            async with guard:
                pass

    anyio.run(main, backend=loop)
    assert issuer.live == {}
    assert len(issuer.revoked) == 1
    assert not caplog.records


def test_exhausted_step_falls_through_to_the_next_that_admits_the_call(guard: Guard) -> None:
    narrow, wide = step("refund", account="acme", amount=any_), step("refund", account=any_, amount=any_).times(2)
    with guard.task("bot", on_behalf_of="alice", intent=Intent("x", narrow, wide)):
        for _ in range(3):
            assert refund("acme", Decimal(1))
        with pytest.raises(Denied, match="budget_exhausted"):
            refund("acme", Decimal(1))


# what fails while it is given back ------------------------------------------------------------------------------------


class Stuck(FakeIssuer):
    async def revoke(self, lease: Any, handle: Any = None) -> Any:
        import anyio

        await anyio.sleep(60)


@guarded("wipe2", effect="destructive", audience="https://api.test")
async def wipe2() -> str:
    return "done"


@guarded("pay2", audience="https://api.test")
async def pay2() -> str:
    return "done"


@pytest.mark.control("8 a failed revoke never reaches the caller")
@pytest.mark.anyio
async def test_revocation_that_hangs_never_reaches_the_caller_and_the_outcome_is_recorded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("agentguard._drive.RELEASE_SECONDS", 0.05)
    guard = fake_guard(issuer=Stuck(suspends=True))
    async with guard.task("bot", on_behalf_of="alice", intent=Intent("x", step("wipe2"))):
        assert await wipe2() == "done"
    assert "call.completed" in [record["event"] for record in records(guard)]


@pytest.mark.control("8 a failed revoke never reaches the caller")
@pytest.mark.anyio
async def test_task_whose_revocation_hangs_does_not_hide_the_error_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentguard._drive.RELEASE_SECONDS", 0.05)
    guard = fake_guard(issuer=Stuck(suspends=True))
    with pytest.raises(KeyError):
        async with guard.task("bot", on_behalf_of="alice", intent=Intent("x", step("pay2"))):
            await pay2()
            raise KeyError("own")
    assert records(guard)[-1]["event"] == "task.ended"


@pytest.mark.parametrize("room", ["budgets", "suspensions"])
def test_store_that_fails_while_a_call_is_given_back_never_reaches_the_caller(room: str) -> None:
    from agentguard.state.budgets_memory import MemoryBudgets
    from agentguard.state.suspensions_memory import MemorySuspensions

    class BrokenBudgets(MemoryBudgets):
        async def settle(self, *arguments: Any) -> None:
            raise OSError(5, "gone")

    class BrokenSuspensions(MemorySuspensions):
        async def finish(self, call: str) -> None:
            raise OSError(5, "gone")

    rooms = {"budgets": BrokenBudgets, "suspensions": BrokenSuspensions}
    guard = fake_guard(**{room: rooms[room]()})
    with guard.task("bot", on_behalf_of="alice", intent=everything()):
        assert refund("acme", Decimal(5))
    assert "call.completed" in [record["event"] for record in records(guard)]


def test_why_a_task_ended_stays_what_it_was(guard: Guard) -> None:
    task = guard.task("bot", on_behalf_of="alice", intent=everything())
    with task:
        pass
    asyncio.run(guard.close_task(task, TaskState.ENDED, "other"))
    assert task.why_ended == "done"


@pytest.mark.control("8 whoever leaves a task returns after its leases are gone")
def test_task_that_the_keeper_is_ending_is_left_only_when_its_leases_are_gone() -> None:
    begun, go = threading.Event(), threading.Event()

    class Slow(FakeIssuer):
        async def revoke(self, lease: Any, handle: Any = None) -> Any:
            begun.set()
            go.wait(5)
            return await super().revoke(lease)

    issuer = Slow()
    guard = fake_guard(issuer=issuer)
    with guard.task("bot", on_behalf_of="alice", intent=everything()) as task:
        pay("acme")
        closing = threading.Thread(target=lambda: asyncio.run(guard.close_task(task, TaskState.ENDED, "keeper")))
        closing.start()
        assert begun.wait(5)
        threading.Timer(0.05, go.set).start()
    assert issuer.live == {}
    closing.join(5)


def test_activating_a_task_in_another_context_and_leaving_it_there_is_no_error(guard: Guard) -> None:
    with guard.task("bot", on_behalf_of="alice", intent=everything()) as task:
        scope = task.activate()
        contextvars.Context().run(scope.__enter__)
        contextvars.Context().run(scope.__exit__, None, None, None)
        assert current_task() is task


def left_after(call: Callable[[], object], error: type[Exception]) -> list[Running]:
    """Calls that are kept alive after their error was handled, before any collection."""
    gc.collect()
    gc.disable()
    try:
        before = running()
        with suppress(error):
            call()
        return [one for one in running() if all(one is not other for other in before)]
    finally:
        gc.enable()


def running() -> list[Running]:
    return [one for one in gc.get_objects() if isinstance(one, Running)]


def test_nothing_of_a_denied_call_outlives_the_denial() -> None:
    with fake_guard() as guard, guard.task("bot", on_behalf_of="alice", intent=Intent("Nothing at all")):
        assert left_after(lambda: read_account("acme"), Denied) == []


@guarded("fail", effect="read")
def fail() -> None:
    raise LookupError


@guarded("fail.later", effect="read")
async def fail_later() -> None:
    raise LookupError


@guarded("fail.part", effect="read")
def fail_part() -> Iterator[int]:
    yield 1
    raise LookupError


@guarded("fail.later_part", effect="read")
async def fail_later_part() -> AsyncIterator[int]:
    yield 1
    raise LookupError


async def all_of(parts: AsyncIterator[int]) -> None:
    async for _ in parts:
        pass


@pytest.mark.parametrize(
    "call",
    [fail, lambda: drive(fail_later()), lambda: list(fail_part()), lambda: drive(all_of(fail_later_part()))],
)
def test_nothing_of_a_call_outlives_the_error_of_its_tool(call: Callable[[], object]) -> None:
    failing = Intent("Fail", reads=["fail", "fail.*"])
    with fake_guard() as guard, guard.task("bot", on_behalf_of="alice", intent=failing):
        assert left_after(call, LookupError) == []


def test_call_that_runs_can_be_neither_copied_nor_shown() -> None:
    secret = "hunter2"
    with fake_guard() as guard, guard.task("bot", on_behalf_of="alice", intent=Intent("Nothing at all")) as task:
        tool = read_account.__agentguard__  # type: ignore[attr-defined]  # its declaration
        call = Running(guard, task, tool, guard.next_id(), undecided(tool.spec.name))
        call.arguments = ((secret,), {})
        assert secret not in repr(call)
        assert secret not in str(list(call.__rich_repr__()))  # what rich shows of a frame's variables
        for copied in (copy.copy, copy.deepcopy, pickle.dumps):
            with pytest.raises(TypeError):
                copied(call)


def test_task_that_was_refused_stands_in_the_explanation_and_names_nobody_where_names_are_not_kept() -> None:
    for recall, line in (
        (True, "deny task: bot is in the chain already: user:alice > bot"),
        (False, "deny task: cycle"),
    ):
        with fake_guard(recall=recall) as guard, guard.task("bot", on_behalf_of="alice", intent=Intent("x")) as task:
            with pytest.raises(Denied):
                task.delegate("bot", intent=Intent("y"))
            assert str(guard.explain()) == line
