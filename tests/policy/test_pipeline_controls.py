"""Controls of the pipeline that show only when a port fails, changes its mind, or is slow; each dies with its line."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from decimal import Decimal
from typing import Any

import anyio
import pytest

from agentguard import (
    ConfigurationError,
    Denied,
    Guard,
    Intent,
    Task,
    any_,
    current_call,
    current_credential,
    guarded,
    step,
)
from agentguard.audit.memory import MemoryLog
from agentguard.model.decision import AccessRequest, Decision, Outcome, Reason
from agentguard.model.principal import Agent
from agentguard.ports import Answer, Approval, ApprovalRequest
from agentguard.registry import RegisteredAgent, Registry
from agentguard.state.budgets_memory import MemoryBudgets
from agentguard.state.suspensions_memory import MemorySuspensions
from agentguard.task_state import TaskState
from agentguard.testing import Answering, FailingAudit, FakeClock, FakeIssuer, fake_guard
from tests.tools import everything, pay, ran, read_account, refund


@pytest.fixture(autouse=True)
def _nothing_ran() -> None:
    ran.clear()


def records(guard: Guard, event: str) -> list[dict[str, Any]]:
    assert isinstance(guard.audit, MemoryLog)
    return [dict(record) for record in guard.audit.records if record["event"] == event]


def opened(guard: Guard, intent: Intent | None = None) -> Task:
    return guard.task("bot", on_behalf_of="alice", intent=intent or everything())


ASKS = Intent("ask", step("refund", account="acme", amount=any_).times(9).then_ask())

# an error is a deny ---------------------------------------------------------------------------------------


class Raising(MemoryBudgets):
    async def reserve(self, levels: Any, now: float) -> Any:
        raise OSError(5, "text of the error")


@pytest.mark.control("2 an error while deciding is a deny")
def test_error_while_a_call_is_decided_is_a_recorded_denial_without_its_text() -> None:
    with fake_guard(budgets=Raising()) as guard, opened(guard), pytest.raises(Denied) as denied:
        refund("acme", Decimal(5))
    assert denied.value.reason == "policy_error"
    assert "text of the error" not in str(denied.value)
    assert ran == []
    assert [record["reason"] for record in records(guard, "call.denied")] == ["policy_error"]


class Unreachable:
    suspends = False

    def __init__(self, error: Exception) -> None:
        self.error = error

    async def ask(self, request: ApprovalRequest) -> Approval:
        raise self.error


@pytest.mark.control("2 an approval is asked for and good once")
@pytest.mark.parametrize("error", [ConnectionError(), TimeoutError(), KeyError("x")], ids=repr)
def test_approver_that_fails_has_not_approved(error: Exception) -> None:
    with fake_guard(approver=Unreachable(error)) as guard, opened(guard, ASKS), pytest.raises(Denied) as denied:
        refund("acme", Decimal(5))
    assert denied.value.reason == "approval_rejected"
    assert ran == []


@pytest.mark.control("2 an approval is asked for and good once")
@pytest.mark.parametrize("answer", [None, True, "approved", "yes", Approval])
def test_answer_that_is_none_of_the_three_is_no_approval(answer: Any) -> None:
    class Odd:
        suspends = False

        async def ask(self, request: ApprovalRequest) -> Any:
            return Approval(answer) if answer != Approval else None

    with fake_guard(approver=Odd()) as guard, opened(guard, ASKS):
        with pytest.raises(Denied) as denied:
            refund("acme", Decimal(5))
    assert denied.value.reason == "approval_rejected"
    assert ran == []


@pytest.mark.control("1 no record, no action")
@pytest.mark.parametrize("fits", [1, 2])
def test_question_and_answer_are_recorded_or_the_tool_does_not_run(fits: int) -> None:
    approver = Answering()
    with fake_guard(audit=FailingAudit(MemoryLog(), after=fits), approver=approver) as guard:
        with opened(guard, ASKS), pytest.raises(Denied) as denied:
            refund("acme", Decimal(5))
    assert denied.value.reason == "audit_unavailable"
    assert len(approver.asked) == fits - 1
    assert ran == []


def test_records_say_who_was_asked_and_what_the_answer_was_without_a_name() -> None:
    with fake_guard(approver=Answering(by="ann@bank.test")) as guard, opened(guard, ASKS):
        refund("acme", Decimal(5))
    (asked,), (answered,) = records(guard, "approval.asked"), records(guard, "approval.answered")
    assert asked["digest"] == answered["arguments_hash"]
    assert answered["answer"] == "approved"
    assert answered["by"].startswith("u:")
    assert "ann@bank" not in str(answered)


class Asking:
    suspends = False

    async def decide(self, request: AccessRequest) -> Decision:
        return Decision(outcome=Outcome.ASK, reason=Reason.POLICY_DENIED, tool="x", level="four-eyes")


@pytest.mark.control("2 an approval is asked for and good once")
def test_decision_point_may_ask_for_a_person_and_a_permit_of_the_intent_does_not_answer() -> None:
    approver = Answering(Answer.REJECTED)
    with fake_guard(decision_points=[Asking()], approver=approver) as guard, opened(guard):
        with pytest.raises(Denied) as denied:
            refund("acme", Decimal(5))
        approver.answer = Answer.APPROVED
        assert refund("acme", Decimal(5))
    assert denied.value.reason == "approval_rejected"
    assert [request.step for request in approver.asked] == ["refund", "refund"]


@pytest.mark.control("2 the keys of a log are long enough")
def test_short_pseudonym_key_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match="16 bytes"):
        fake_guard(pseudonym_key=b"too short")


# what changes while a call is on its way ------------------------------------------------------------------


def registered(name: str, **fields: Any) -> RegisteredAgent:
    return RegisteredAgent(
        agent=Agent(name, registered=True), owners={"business": "ann@bank.test"}, purpose="x", **fields
    )


@pytest.mark.control("2 the registry is asked")
@pytest.mark.parametrize("link", ["bot", "helper"])
def test_agent_whose_registration_ends_during_its_task_is_stopped_wherever_it_stands(link: str) -> None:
    clock = FakeClock()
    ends = {name: {"expires": clock.now + 60} if name == link else {} for name in ("bot", "helper")}
    registry = Registry([registered(name, **fields) for name, fields in ends.items()])
    with fake_guard(registry=registry, clock=clock, monotonic=clock) as guard:
        with opened(guard) as task, task.delegate("helper", reads=["account.read"]):
            assert read_account("acme")
            clock.advance(61)
            with pytest.raises(Denied) as denied:
                read_account("acme")
    assert (denied.value.reason, denied.value.decision.level) == ("expired", link)


class Meanwhile(Answering):
    """Says yes, after something happened."""

    def __init__(self, happens: Callable[[], None]) -> None:
        super().__init__()
        self.happens = happens

    async def ask(self, request: ApprovalRequest) -> Approval:
        self.happens()
        return await super().ask(request)


@pytest.mark.control("9 the gate looks again")
@pytest.mark.parametrize("what", ["task", "registration", "environment"])
def test_what_ended_while_a_person_was_asked_is_seen_at_the_gate(what: str) -> None:
    clock = FakeClock()
    seconds = {"task": 301.0, "registration": 61.0, "environment": 0.0}[what]
    registry = Registry([registered("bot", expires=clock.now + (60 if what == "registration" else 1e6),
                                    environments=frozenset({"test"}))])  # fmt: skip
    made: list[Guard] = []

    monotonic = FakeClock()  # the question itself stands; the task's own time is over

    def happens() -> None:
        (monotonic if what == "task" else clock).advance(seconds)
        if what == "environment":
            made[0].environment = "prod"

    issuer = FakeIssuer()
    with fake_guard(
        approver=Meanwhile(happens), registry=registry, clock=clock, monotonic=monotonic, issuer=issuer, ask_for=86_400
    ) as guard:
        made.append(guard)
        with guard.task("bot", on_behalf_of="alice", intent=ASKS, ttl=300), pytest.raises(Denied) as denied:
            refund("acme", Decimal(5))
    assert (
        denied.value.reason
        in {"task": ("expired",), "registration": ("expired",), "environment": ("not_allowed",)}[what]
    )
    assert ran == []


@pytest.mark.control("9 the gate looks again")
def test_task_that_ends_while_the_call_is_marked_as_running_is_seen_last_of_all() -> None:
    tasks: list[Task] = []

    class Ending(MemorySuspensions):
        async def start(self, call: str, keys: Any, *, reads: bool = False) -> str:
            answer = await super().start(call, keys, reads=reads)
            await tasks[0].host.close_task(tasks[0], type(tasks[0].state)("ended"), "meanwhile")
            return answer

    stops, issuer = Ending(), FakeIssuer()
    with fake_guard(suspensions=stops, issuer=issuer) as guard, opened(guard) as task:
        tasks.append(task)
        with pytest.raises(Denied) as denied:
            pay("acme")
    assert denied.value.reason == "task_ended"
    assert ran == []
    assert stops._running == set()
    assert issuer.live == {}


@pytest.mark.control("9 a running mark ends with its call")
def test_call_is_marked_as_running_exactly_while_it_runs() -> None:
    stops = MemorySuspensions()

    @guarded("look", effect="read")
    def look(fail: bool) -> set[str]:
        if fail:
            raise KeyError
        return set(stops._running)

    with fake_guard(suspensions=stops) as guard, opened(guard, Intent("x", reads=["look"])):
        assert len(look(False)) == 1
        assert stops._running == set()
        with pytest.raises(KeyError):
            look(True)
    assert stops._running == set()


@pytest.mark.control("2 what a task has seen is remembered")
def test_data_that_a_tool_returned_is_remembered_for_the_whole_tree() -> None:
    @guarded("people", effect="read", data={"pii"})
    def people() -> str:
        return "ann"

    @guarded("post", tags={"egress"})
    def post() -> str:
        return "sent"

    seen: list[Any] = []

    class Looking:
        suspends = False

        async def decide(self, request: AccessRequest) -> Decision:
            seen.append(request.context["seen"])
            return Decision(outcome=Outcome.PERMIT, reason=Reason.DECLARED, tool="x")

    intent = Intent("x", step("post").times(9), reads=["people"])
    with fake_guard(decision_points=[Looking()]) as guard, opened(guard, intent) as task:
        post()
        with task.delegate("helper", reads=["people"]):
            people()
        post()
    assert seen == [[], [], ["pii"]]


# release --------------------------------------------------------------------------------------------------


@pytest.mark.control("5 a cancelled call is released")
@pytest.mark.anyio
async def test_everything_is_given_back_although_the_call_was_cancelled_while_it_was_given_back() -> None:
    class Slow(MemorySuspensions):
        suspends = True

        async def finish(self, call: str) -> None:
            await anyio.sleep(0.02)
            await super().finish(call)

    class SlowBudgets(MemoryBudgets):
        suspends = True

        async def settle(self, reservation: Any, settlement: Any) -> None:
            await anyio.sleep(0.02)
            settled.append(str(settlement))

    settled: list[str] = []

    @guarded("slow", audience="https://api.test", lease="call")
    async def slow() -> None:
        await anyio.sleep(10)

    stops, issuer = Slow(), FakeIssuer(suspends=True)
    with fake_guard(suspensions=stops, issuer=issuer, budgets=SlowBudgets()) as guard:
        async with opened(guard, Intent("x", step("slow"))):
            with anyio.move_on_after(0.05):
                await slow()
            assert (stops._running, issuer.live, settled) == (set(), {}, ["raised"])
            assert len(records(guard, "call.cancelled")) == 1


@pytest.mark.control("1 no record, no action")
def test_record_is_flushed_to_its_end_although_the_caller_is_cancelled_twice() -> None:
    flushed: list[bool] = []

    class Disk(MemoryLog):
        suspends = True

        async def flush(self, position: Any) -> None:
            for _ in range(6):
                await asyncio.sleep(0)
            flushed.append(True)

    @guarded("write")
    async def write() -> None:
        ran.append(("write",))

    async def work() -> None:
        with fake_guard(audit=Disk()) as guard:
            async with opened(guard, Intent("x", step("write"))):
                call = asyncio.ensure_future(write())
                for _ in range(2):
                    await asyncio.sleep(0)
                    await asyncio.sleep(0)
                    call.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await call

    asyncio.run(work())
    assert flushed == [True]
    assert ran == []


@pytest.mark.control("3 a call that never ran costs nothing")
@pytest.mark.parametrize("stop", ["policy", "credential", "suspended"])
def test_call_that_was_stopped_after_its_reservation_gives_it_back(stop: str) -> None:
    issuer, answers = FakeIssuer(), [Outcome.DENY if stop == "policy" else Outcome.PERMIT]

    class Point:
        suspends = False

        async def decide(self, request: AccessRequest) -> Decision:
            return Decision(outcome=answers[0], reason=Reason.POLICY_DENIED, tool="x")

    intent = Intent("once", step("pay", account="acme", amount=any_))
    with fake_guard(issuer=issuer, decision_points=[Point()]) as guard, opened(guard, intent) as task:
        if stop == "credential":
            issuer.issue_error = ConnectionError()
        if stop == "suspended":
            guard.suspend(task=task.id, why="test")
        with pytest.raises(Denied):
            pay("acme")
        answers[0], issuer.issue_error = Outcome.PERMIT, None
        if stop == "suspended":
            guard.lift(f"task:{task.id}")
        assert pay("acme")
        with pytest.raises(Denied) as denied:
            pay("acme")
    assert denied.value.reason == "budget_exhausted"


@pytest.mark.control("3 a call that ran is counted, also when it raised")
def test_call_that_raised_is_counted() -> None:
    @guarded("fail")
    def fail() -> None:
        raise KeyError

    with fake_guard() as guard, opened(guard, Intent("once", step("fail"))):
        with pytest.raises(KeyError):
            fail()
        with pytest.raises(Denied) as denied:
            fail()
    assert denied.value.reason == "budget_exhausted"


def test_counters_of_a_task_are_dropped_with_it() -> None:
    budgets = MemoryBudgets()
    with fake_guard(budgets=budgets) as guard:
        for _ in range(3):
            with opened(guard):
                refund("acme", Decimal(5))
        assert budgets._scopes == {}


# the strictest level, and names ---------------------------------------------------------------------------


@pytest.mark.control("2 an approval is asked for and good once")
def test_question_of_the_parents_intent_is_not_answered_by_the_permit_of_the_childs() -> None:
    approver = Answering(Answer.REJECTED)
    wide = Intent("wide", step("refund", account=any_, amount=any_))
    with fake_guard(approver=approver) as guard, opened(guard, ASKS) as task, task.delegate("helper", intent=wide):
        with pytest.raises(Denied) as denied:
            refund("acme", Decimal(5))
    assert denied.value.reason == "approval_rejected"
    assert ran == []


@pytest.mark.control("3 no counter is shared by accident")
def test_agents_whose_names_differ_by_a_slash_have_counters_of_their_own() -> None:
    one, two = (registered(name, calls=(1, 60.0)) for name in ("team/calls", "team"))
    with fake_guard(registry=Registry([one, two])) as guard:
        for name in ("team", "team/calls"):
            with guard.task(name, on_behalf_of="alice", intent=everything()):
                refund("acme", Decimal(5))
                with pytest.raises(Denied):
                    refund("acme", Decimal(5))


# tasks ----------------------------------------------------------------------------------------------------


@pytest.mark.control("3 only an open task delegates")
@pytest.mark.parametrize("how", ["ended", "past its time"])
def test_task_that_is_over_delegates_no_more(how: str) -> None:
    clock = FakeClock()
    with fake_guard(clock=clock, monotonic=clock) as guard, opened(guard) as task:
        if how == "ended":
            asyncio.run(guard.close_task(task, TaskState.ENDED, "test"))
        else:
            clock.advance(task.remaining())
        with pytest.raises(Denied) as denied:
            task.delegate("helper", reads=["account.read"])
    assert denied.value.reason == "task_ended"


@pytest.mark.control("3 a child ends no later than its parent")
def test_child_that_is_opened_late_still_ends_with_its_parent() -> None:
    clock = FakeClock()
    with fake_guard(clock=clock, monotonic=clock) as guard:
        with guard.task("bot", on_behalf_of="alice", intent=everything(), ttl=60) as task:
            child = task.delegate("helper", reads=["account.read"], ttl="1h")
            clock.advance(50)
            with child:
                assert child.deadline == task.deadline


def test_task_that_is_ended_by_several_at_once_ends_once() -> None:
    with fake_guard() as guard:
        with opened(guard) as task:
            threads = [
                threading.Thread(target=lambda: asyncio.run(guard.close_task(task, TaskState.ENDED, "test")))
                for _ in range(4)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert len(records(guard, "task.ended")) == 1


# streams --------------------------------------------------------------------------------------------------


@pytest.mark.control("6 a credential is never seen")
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_secret_in_a_stream_is_recorded_and_revoked(kind: str) -> None:
    @guarded("leak", effect="read", audience="https://api.test")
    def leak() -> Iterator[str]:
        yield f"Bearer {current_credential().token}"

    @guarded("aleak", effect="read", audience="https://api.test")
    async def aleak() -> AsyncIterator[str]:
        yield f"Bearer {current_credential().token}"

    issuer, got = FakeIssuer(), list[str]()

    async def work(guard: Guard) -> None:
        async with opened(guard, Intent("x", reads=["leak", "aleak"])):
            got.extend(leak()) if kind == "sync" else got.extend([part async for part in aleak()])
            assert issuer.live == {}

    with fake_guard(issuer=issuer) as guard:
        asyncio.run(work(guard))
        assert "canary" not in "".join(got)
        assert len(records(guard, "secret.removed")) == 1


class Unreadable(dict[str, Any]):
    """A mapping that does not let itself be searched."""

    def items(self) -> Any:
        raise RuntimeError("not now")


@pytest.mark.control("6 a credential is never seen")
def test_result_that_cannot_be_searched_is_not_passed_on() -> None:
    @guarded("odd", effect="read", audience="https://api.test")
    def odd() -> Any:
        return Unreadable(token=current_credential().token)

    with fake_guard() as guard, opened(guard, Intent("x", reads=["odd"])):
        assert odd() == "[credential removed]"


def test_arguments_are_not_kept_by_a_running_call() -> None:
    held: list[Any] = []

    @guarded("hold", effect="read")
    def hold(text: str) -> str:
        held.append(current_call())
        return text

    with fake_guard() as guard, opened(guard, Intent("x", reads=["hold"])):
        hold("private")
    assert "private" not in repr(held)
