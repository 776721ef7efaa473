"""Calls that wait for a person, under attack: what was shown is what runs, and nothing is reserved twice or lost."""

from __future__ import annotations

import asyncio
import threading
from decimal import Decimal
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentguard import ApprovalRequired, Denied, Intent, any_, at_most, from_, guarded, step
from agentguard._drive import drive
from agentguard.model.decision import AccessRequest, Decision, Reason
from agentguard.model.record import Event
from agentguard.policy.decided import Answering as Says
from agentguard.policy.obligations import Obligations
from agentguard.ports import Answer, Approval, ApprovalRequest, Question, Reservation, Settlement, Verdict
from agentguard.state.approvals_memory import MemoryApprovals
from agentguard.testing import Answering
from agentguard.waiting import MOST, Waiting, WaitingCalls
from tests.test_approvals import ASKS, Processes, asked, close, find, refund
from tests.test_approvals import ran as refunds
from tests.test_parking import Counting, Registered, spent


@pytest.fixture
def shared() -> Processes:
    refunds.clear()
    return Processes()


class Point:
    """Permits, if somebody approves."""

    suspends, name = False, "point"

    def __init__(self, by: Any = "operator", version: str = "v1") -> None:
        self.by, self.version = by, version

    async def decide(self, request: AccessRequest) -> Decision:
        said = Says(self.name, str(request.action["name"]), version=self.version)
        return said.permit(["r"], Obligations(approve=self.by))


PLAIN = Intent("Refunds", step("approved.refund", account=any_, amount=any_).times(9))
PLAIN_ASKS = Intent("Refunds", step("approved.refund", account=any_, amount=any_).times(9).then_ask())

# --- what was shown is what runs --------------------------------------------------------------------------------------


@pytest.mark.control("7 the one who was asked")
@pytest.mark.parametrize(("first", "second", "by"), [("operator", "subject", "ann"), ("subject", "operator", "alice")])
def test_answer_to_a_question_that_was_put_to_somebody_else_is_none(
    shared: Processes, first: str, second: str, by: str
) -> None:
    point = Point(first)
    with shared.guard(decision_points=[point]) as guard:
        question, task = asked(guard, PLAIN)
        assert guard.answer(question, approved=True, by=by)
        point.by = second
        with pytest.raises(ApprovalRequired) as waits, guard.resume(task, on_behalf_of="alice"):
            refund("acme", Decimal(40))
    assert (refunds, waits.value.question != question) == ([], True)


def again(shared: Processes, guard: Any, task: Any) -> None:
    """Make the call under a task, and see that it is asked about once more."""
    before = len(shared.approver.asked)
    with pytest.raises(ApprovalRequired), task:
        refund("acme", Decimal(40))
    assert (refunds, len(shared.approver.asked)) == ([], before + 1)


@pytest.mark.control("7 bound to its task")
def test_approval_of_one_task_is_none_for_the_same_call_of_another(shared: Processes) -> None:
    with shared.guard() as guard:
        question, _ = asked(guard, PLAIN_ASKS)
        assert guard.answer(question, approved=True, by="ann")
        again(shared, guard, guard.task("bot", on_behalf_of="alice", intent=PLAIN_ASKS))


@pytest.mark.control("7 bound to its chain and intents")
@pytest.mark.parametrize(("middle", "limit"), [("other", "100"), ("first", "99")])
def test_approval_of_one_chain_or_intent_is_none_for_another(shared: Processes, middle: str, limit: str) -> None:
    def narrowed(most: str) -> Intent:
        return Intent("Part", step("approved.refund", account=any_, amount=at_most(most)).named("part").times(9))

    with shared.guard() as guard, guard.task("bot", on_behalf_of="alice", intent=PLAIN_ASKS) as root:
        with pytest.raises(ApprovalRequired) as waits, root.delegate("first", intent=PLAIN) as first:
            with first.delegate("last", intent=narrowed("100")):
                refund("acme", Decimal(40))
        assert guard.answer(waits.value.question, approved=True, by="ann")
        with pytest.raises(ApprovalRequired), root.delegate(middle, intent=PLAIN) as second:
            again(shared, guard, second.delegate("last", intent=narrowed(limit)))
            refund("acme", Decimal(40))


@pytest.mark.control("7 bound to its step")
def test_approval_for_one_step_is_none_for_another(shared: Processes) -> None:
    intent = Intent(
        "Refunds",
        step("approved.refund", account=any_, amount=any_).named("one").times(1).then_ask(),
        step("approved.refund", account="acme", amount=any_).named("two").times(1).then_ask(),
    )
    with shared.guard() as guard:
        question, task = asked(guard, intent)
        assert guard.answer(question, approved=True, by="ann")
        with guard.resume(task, on_behalf_of="alice") as resumed:
            ((key, _),) = resumed.tree.waiting.items()
            left = resumed.tree.waiting.take(key)
            assert left is not None
            drive(guard.budgets.settle(left, Settlement.NOT_RUN))
            with pytest.raises(ApprovalRequired):
                refund("other", Decimal(1))  # waits, and holds the first step's only use
            with pytest.raises(ApprovalRequired):
                refund("acme", Decimal(40))
    assert (refunds, [one.step for one in shared.approver.asked]) == ([], ["one", "one", "two"])


@guarded("waiting.pay", effect="write", audience="https://sandbox.test")
def rehearse(amount: Decimal) -> None:
    refunds.append(("sandbox", amount))


@guarded("waiting.pay", effect="destructive", audience="https://bank.test")
def pay(amount: Decimal) -> None:
    refunds.append(("bank", amount))


@pytest.mark.control("7 bound to its tool")
def test_approval_for_one_tool_is_none_for_another_that_is_called_like_it(shared: Processes) -> None:
    with shared.guard() as guard:
        intent = Intent("Pay", step("waiting.pay", amount=any_).times(9).then_ask())
        task = guard.task("bot", on_behalf_of="alice", intent=intent)
        with pytest.raises(ApprovalRequired) as waits, task:
            rehearse(Decimal(40))
        assert guard.answer(waits.value.question, approved=True, by="ann")
        with pytest.raises(ApprovalRequired), task:
            pay(Decimal(40))
        with task:
            rehearse(Decimal(40))
    assert refunds == [("sandbox", Decimal(40))]


@pytest.mark.control("7 bound to its environment")
def test_approval_of_one_environment_is_none_for_another(shared: Processes) -> None:
    with shared.guard(environment="staging") as guard:
        task = guard.task("bot", on_behalf_of="alice", intent=PLAIN_ASKS)
        with pytest.raises(ApprovalRequired) as waits, task:
            refund("acme", Decimal(40))
        assert guard.answer(waits.value.question, approved=True, by="ann")
        guard.environment = "prod"
        again(shared, guard, task)


@pytest.mark.control("7 the candidates that were shown")
def test_call_that_was_approved_beside_other_candidates_is_asked_about_anew(shared: Processes) -> None:
    intent = Intent(
        "Close",
        step("approved.find", name=any_).times(9),
        step("approved.close", account=from_(tool="approved.find", field="account")).then_ask(),
    )
    with shared.guard() as guard:
        with pytest.raises(ApprovalRequired) as waits, guard.task("bot", on_behalf_of="alice", intent=intent) as task:
            find("ann")
            close("acct-ann")
        assert guard.answer(waits.value.question, approved=True, by="ann")
        with pytest.raises(ApprovalRequired), task:
            find("eve")
            close("acct-ann")
        assert [origin.candidates for one in shared.approver.asked for origin in one.origins] == [
            ("acct-ann",), ("acct-ann", "acct-eve"),
        ]  # fmt: skip
    assert refunds == []


@pytest.mark.control("7 the policies of the question")
@pytest.mark.parametrize("by", ["operator", ""])
def test_approval_under_policies_that_changed_while_it_was_asked_for_does_not_count(shared: Processes, by: Any) -> None:
    class Slow(Answering):
        async def ask(self, request: ApprovalRequest) -> Approval:
            point.version, point.by = "v2", by
            return await super().ask(request)

    point = Point()
    with shared.guard(decision_points=[point], approver=Slow()) as guard:
        with guard.task("bot", on_behalf_of="alice", intent=PLAIN):
            if by:
                with pytest.raises(Denied) as denied:
                    refund("acme", Decimal(40))
                assert (refunds, denied.value.reason) == ([], Reason.POLICY_ERROR)
            refund("acme", Decimal(40))  # asked under the new ones; or they need nobody's approval
    assert len(refunds) == 1


def test_answer_that_comes_while_it_is_looked_for_is_used_and_nobody_is_asked_again(shared: Processes) -> None:
    class Quick(MemoryApprovals):
        async def use(self, binding: str, at: float) -> Question | None:
            found = await super().use(binding, at)
            for one in await self.open(at):
                await self.answer(one.id, Verdict.APPROVED, "ann", at)
            return found

    with shared.guard(approvals=Quick()) as guard:
        _, task = asked(guard)
        with guard.resume(task, on_behalf_of="alice"):
            refund("acme", Decimal(40))
    assert (len(refunds), len(shared.approver.asked)) == (1, 1)


@pytest.mark.control("7 an answer that came too late, at once")
def test_answer_of_an_approver_that_took_too_long_does_not_count(shared: Processes) -> None:
    class Slow(Answering):
        async def ask(self, request: ApprovalRequest) -> Approval:
            shared.clock.advance(60)
            return await super().ask(request)

    with shared.guard(approver=Slow(), ask_for=60) as guard, guard.task("bot", on_behalf_of="alice", intent=ASKS):
        with pytest.raises(Denied) as denied:
            refund("acme", Decimal(40))
    assert (refunds, denied.value.reason) == ([], Reason.APPROVAL_EXPIRED)


@pytest.mark.control("7 an approver that raises rejects")
def test_approver_that_raises_rejects_and_the_record_says_why(shared: Processes) -> None:
    class Broken(Answering):
        async def ask(self, request: ApprovalRequest) -> Approval:
            raise RuntimeError("the name of somebody")

    with shared.guard(approver=Broken()) as guard, guard.task("bot", on_behalf_of="alice", intent=ASKS):
        with pytest.raises(Denied) as denied:
            refund("acme", Decimal(40))
        (answered,) = shared.events(Event.APPROVAL_ANSWERED)
    assert (refunds, denied.value.reason, answered["answer"]) == ([], Reason.APPROVAL_REJECTED, "rejected")
    assert "somebody" not in str(shared.logs[0].records)


def test_record_of_an_answer_that_was_overtaken_says_so(shared: Processes) -> None:
    class Overtaken(MemoryApprovals):
        async def answer(self, id: str, verdict: Verdict, by: str, at: float) -> bool:
            await super().answer(id, Verdict.REJECTED, "bob", at)
            return await super().answer(id, verdict, by, at)

    with shared.guard(approvals=Overtaken()) as guard:
        question, _ = asked(guard)
        assert not guard.answer(question, approved=True, by="ann")
        records = shared.events(Event.APPROVAL_ANSWERED)
    assert ["refused" in record for record in records] == [False, True]


@pytest.mark.control("7 the answer that counted first stands")
def test_approval_on_a_device_does_not_count_where_somebody_rejected_it_meanwhile(shared: Processes) -> None:
    class Phone(Answering):
        async def check(self, id: str, request: ApprovalRequest) -> Approval:
            shared.answer(id, Verdict.REJECTED, "bob")
            return Approval(Answer.APPROVED, by="ann")

    with shared.guard(approver=Phone(Answer.PENDING)) as guard:
        _, task = asked(guard)
        with guard.resume(task, on_behalf_of="alice"), pytest.raises(Denied) as denied:
            refund("acme", Decimal(40))
    assert (refunds, denied.value.reason) == ([], Reason.APPROVAL_EXPIRED)


@pytest.mark.control("7 what is no answer is a rejection")
@pytest.mark.parametrize("said", [True, None, "approved", {"answer": "approved"}, Answer.APPROVED])
def test_what_is_no_approval_is_a_rejection(shared: Processes, said: Any) -> None:
    class Odd(Answering):
        async def ask(self, request: ApprovalRequest) -> Any:
            return said

    with shared.guard(approver=Odd()) as guard, guard.task("bot", on_behalf_of="alice", intent=ASKS):
        with pytest.raises(Denied) as denied:
            refund("acme", Decimal(40))
    assert (refunds, denied.value.reason) == ([], Reason.APPROVAL_REJECTED)


@pytest.mark.control("7 an approval says who approved")
@pytest.mark.parametrize("by", ["", " ", "user:"])
def test_approval_without_a_name_is_none_also_where_everybody_may_approve(shared: Processes, by: str) -> None:
    with shared.guard(approver=Answering(by=by), not_by=()) as guard:
        with pytest.raises(Denied) as denied, guard.task("bot", on_behalf_of="alice", intent=ASKS):
            refund("acme", Decimal(40))
    with shared.guard(not_by=()) as guard:
        question, _ = asked(guard)
        assert not guard.answer(question, approved=True, by=by or " ")
    assert (refunds, denied.value.reason) == ([], Reason.APPROVAL_REJECTED)
    assert {one["refused"] for one in shared.events(Event.APPROVAL_ANSWERED)} == {"it is not said who approved"}


@pytest.mark.parametrize("method", ["use", "find", "ask"])
def test_questions_that_cannot_be_read_deny_and_give_back(shared: Processes, method: str) -> None:
    class Down(MemoryApprovals):
        away = ""

        async def use(self, binding: str, at: float) -> Question | None:
            return await self._or(super().use(binding, at), "use")  # type: ignore[no-any-return]  # what it awaits

        async def find(self, id: str, at: float) -> Question | None:
            return await self._or(super().find(id, at), "find")  # type: ignore[no-any-return]  # what it awaits

        async def ask(self, question: Question) -> None:
            await self._or(super().ask(question), "ask")

        async def _or(self, work: Any, name: str) -> Any:
            if self.away == name:
                work.close()
                raise OSError("down")
            return await work

    approvals, budgets = Down(), Counting()
    with shared.guard(approvals=approvals, budgets=budgets, registry=Registered()) as guard:
        task = guard.task("bot", on_behalf_of="alice", intent=ASKS)
        with pytest.raises(ApprovalRequired), task:
            refund("acme", Decimal(40))
        approvals.away = method
        with task:
            with pytest.raises(Denied) as denied:
                refund("acme", Decimal(41 if method == "ask" else 40))
            assert denied.value.reason == Reason.APPROVAL_REJECTED
            approvals.away = ""
    assert refunds == []
    assert len(budgets.settled) == len(set(budgets.settled))


# --- reservations are settled once ------------------------------------------------------------------------------------


@pytest.mark.control("7 a reservation is never lost")
def test_call_that_two_threads_make_reserves_once(shared: Processes) -> None:
    both = threading.Barrier(2, timeout=5)

    class Together(Answering):
        async def ask(self, request: ApprovalRequest) -> Approval:
            both.wait()
            return await super().ask(request)

    budgets = Counting()
    with shared.guard(budgets=budgets, registry=Registered(), approver=Together(Answer.PENDING)) as guard:
        task = guard.task("bot", on_behalf_of="alice", intent=ASKS)

        def call() -> None:
            with pytest.raises(ApprovalRequired):
                refund("acme", Decimal(40))

        with task:
            threads = [threading.Thread(target=task.bind(call)) for _ in range(2)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert spent(budgets) == "1"
    assert len(budgets.settled) == len(set(budgets.settled)) == 1


@pytest.mark.control("7 what another thread left is given back")
def test_what_another_thread_left_for_the_same_call_is_given_back_when_it_is_approved(shared: Processes) -> None:
    budgets = Counting()

    class Approvals(MemoryApprovals):
        async def use(self, binding: str, at: float) -> Question | None:
            found = await super().use(binding, at)
            if found is not None:  # the other thread's call had looked before, and comes to wait now
                left = await budgets.reserve([[charge()]], at)
                assert isinstance(left, Reservation)
                key = next(key for key, _ in task.tree.waiting.items())
                task.tree.waiting.put(key, Waiting(found.id, binding, found.expires_at, left))
            return found

    def charge() -> Any:
        from agentguard.ports import Candidate, Charge

        return Candidate("limits", (Charge("agent:bot/calls", "100", per=3600.0),))

    with shared.guard(budgets=budgets, registry=Registered(), approvals=Approvals()) as guard:
        task = guard.task("bot", on_behalf_of="alice", intent=ASKS)
        with pytest.raises(ApprovalRequired) as waits, task:
            refund("acme", Decimal(40))
        assert guard.answer(waits.value.question, approved=True, by="ann")
        with task:
            refund("acme", Decimal(40))
        assert (len(refunds), spent(budgets)) == (1, "1")


@pytest.mark.control("7 a call that comes to wait too late gives back")
@pytest.mark.parametrize("parked", [True, False])
def test_call_that_comes_to_wait_after_its_task_was_left_keeps_nothing(shared: Processes, parked: bool) -> None:
    go, asks = threading.Event(), threading.Event()

    class Slow(Answering):
        async def ask(self, request: ApprovalRequest) -> Approval:
            asks.set()
            go.wait(5)
            return await super().ask(request)

    budgets = Counting()
    with shared.guard(budgets=budgets, registry=Registered(), approver=Slow(Answer.PENDING)) as guard:
        with guard.task("bot", on_behalf_of="alice", intent=ASKS) as task:

            def call() -> None:
                with pytest.raises(ApprovalRequired):
                    refund("acme", Decimal(40))

            thread = threading.Thread(target=task.bind(call))
            thread.start()
            assert asks.wait(5)
            if parked:
                task.park()
        go.set()
        thread.join(5)
        assert (spent(budgets), task.state) == ("", "parked" if parked else "ended")


@pytest.mark.control("7 so many calls wait at most")
def test_calls_of_a_task_that_wait_are_bounded(shared: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentguard.waiting.MOST", 3)
    many = Intent("Refunds", step("approved.refund", account=any_, amount=any_).times(9).then_ask())
    with shared.guard(ask_for=60) as guard, guard.task("bot", on_behalf_of="alice", intent=many) as task:
        for number in range(3):
            with pytest.raises(ApprovalRequired):
                refund(f"a{number}", Decimal(1))
        with pytest.raises(Denied) as denied:
            refund("a3", Decimal(1))
        assert denied.value.reason == Reason.APPROVAL_REJECTED
        shared.clock.advance(61)
        guard.keeper.tick()
        with pytest.raises(ApprovalRequired):
            refund("a3", Decimal(1))
        assert len(task.tree.waiting.items()) == 1
    assert MOST == 1_000


def reservation(name: str) -> Reservation:
    return Reservation(name, (0,), ())


actions = st.sampled_from(["put", "take", "drop", "lapsed", "clear", "shut", "reopen", "full"])


@pytest.mark.control("7 a reservation is handed out once")
@settings(deadline=None)
@given(st.lists(st.tuples(actions, st.sampled_from("ab"), st.floats(0, 9)), max_size=30))
def test_reservations_of_waiting_calls_are_handed_out_once_each(steps: list[tuple[str, str, float]]) -> None:
    calls, given_out, numbers = WaitingCalls(), list[str](), iter(range(99))
    made: list[str] = []
    for action, name, at in steps:
        key, found = (name, "tool", "digest"), list[Reservation | None]()
        match action:
            case "put":
                made.append(str(next(numbers)))
                found = [calls.put(key, Waiting("q", "b", at, reservation(made[-1])))]
            case "take":
                found = [calls.take(key)]
            case "drop":
                found = [calls.drop(key)]
            case "lapsed" | "clear":
                found = [*(calls.lapsed(at) if action == "lapsed" else calls.clear())]
            case "full":
                calls.full(at)
            case _:
                getattr(calls, action)()
        given_out += [one.id for one in found if one is not None]
    given_out += [one.id for one in calls.clear()]
    assert sorted(given_out) == sorted(made)


@pytest.mark.control("8 what was written down is given back once")
def test_what_was_written_down_is_handed_out_to_nobody_until_its_task_goes_on_here() -> None:
    calls, key = WaitingCalls(), ("a", "tool", "digest")
    calls.put(key, Waiting("q", "b", 1.0, reservation("kept")))
    calls.shut()
    assert (calls.take(key), calls.drop(key), calls.lapsed(2.0)) == (None, None, [])
    calls.reopen()
    assert calls.lapsed(2.0) == [reservation("kept")]


# --- cancellation -----------------------------------------------------------------------------------------------------


class Suspending(Counting):
    """Counters behind a network."""

    suspends = True

    async def settle(self, reservation: Any, settlement: Any) -> None:
        await anyio.sleep(0.05)
        await super().settle(reservation, settlement)


@pytest.mark.anyio
@pytest.mark.control("7 cancelled while it is asked about")
@pytest.mark.parametrize("where", ["ask", "keep", "use"])
async def test_call_that_is_cancelled_while_it_is_asked_about_gives_back_what_it_reserved(
    shared: Processes, where: str
) -> None:
    class Slow(Answering):
        suspends = True

        async def ask(self, request: ApprovalRequest) -> Approval:
            if where == "ask":
                await anyio.sleep(30)
            return await super().ask(request)

    class Approvals(MemoryApprovals):
        suspends = True

        async def ask(self, question: Question) -> None:
            await super().ask(question)
            if where == "keep":
                await anyio.sleep(30)

        async def use(self, binding: str, at: float) -> Question | None:
            if where == "use":
                await anyio.sleep(30)
            return await super().use(binding, at)

    budgets = Suspending()
    rooms = {"budgets": budgets, "registry": Registered(), "approver": Slow(Answer.PENDING), "approvals": Approvals()}
    async with shared.guard(**rooms) as guard:
        async with guard.task("bot", on_behalf_of="alice", intent=ASKS):
            with anyio.move_on_after(0.05) as scope:
                await later("acme", Decimal(40))
        assert (scope.cancelled_caught, spent(budgets)) == (True, "")
    assert len(budgets.settled) == len(set(budgets.settled)) == 1


@guarded("approved.refund", effect="write")
async def later(account: str, amount: Decimal) -> str:
    refunds.append((account, amount))
    return "paid"


@pytest.mark.control("7 twice cancelled while it gives back")
def test_call_that_is_cancelled_twice_while_it_gives_back_gives_back_once(shared: Processes) -> None:
    async def whole() -> None:
        budgets = Suspending()
        async with shared.guard(budgets=budgets, registry=Registered()) as guard:
            task = guard.task("bot", on_behalf_of="alice", intent=ASKS)
            with pytest.raises(ApprovalRequired):
                async with task:
                    await later("acme", Decimal(40))
            async with task:
                again = asyncio.ensure_future(later("acme", Decimal(40)))
                for _ in range(2):
                    await asyncio.sleep(0.02)
                    again.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await again
                assert spent(budgets) == ""
        assert len(budgets.settled) == len(set(budgets.settled)) == 1

    asyncio.run(whole())


@pytest.mark.anyio
async def test_task_that_is_cancelled_while_it_is_parked_is_parked_or_ended_and_gives_back_once(
    shared: Processes,
) -> None:
    class Slow(type(shared.parked)):  # type: ignore[misc]  # a class of the fixture
        suspends = True

        async def park(self, parked: Any) -> None:
            await anyio.sleep(0.1)
            await super().park(parked)

    budgets, store = Suspending(), Slow()
    async with shared.guard(budgets=budgets, parked=store, registry=Registered()) as guard:
        with anyio.move_on_after(0.05):
            async with guard.task("bot", on_behalf_of="alice", intent=ASKS) as task:
                with pytest.raises(ApprovalRequired):
                    await later("acme", Decimal(40))
        resumed = await guard.aresume(task.id, on_behalf_of="alice")
        async with resumed:
            assert len(resumed.tree.waiting.items()) == 1
    assert len(budgets.settled) == len(set(budgets.settled))


@pytest.mark.control("8 twice cancelled while it is parked")
def test_task_that_is_cancelled_twice_while_it_is_parked_goes_on_once(shared: Processes) -> None:
    class Slow(type(shared.parked)):  # type: ignore[misc]  # a class of the fixture
        suspends = True

        async def park(self, parked: Any) -> None:
            parking.set()
            await cancelled.wait()
            await super().park(parked)

    parking, cancelled = asyncio.Event(), asyncio.Event()

    async def leave(task: Any) -> None:
        async with task:
            with pytest.raises(ApprovalRequired):
                await later("acme", Decimal(40))

    async def whole() -> None:
        async with shared.guard(parked=Slow()) as guard:
            task = guard.task("bot", on_behalf_of="alice", intent=ASKS)
            leaving = asyncio.ensure_future(leave(task))
            await asyncio.wait_for(parking.wait(), 10)
            for _ in range(2):
                leaving.cancel()
                await asyncio.sleep(0.02)
            cancelled.set()
            with pytest.raises(asyncio.CancelledError):
                await leaving
            async with await guard.aresume(task.id, on_behalf_of="alice") as resumed:
                ((_, waiting),) = resumed.tree.waiting.items()
                assert await guard.aanswer(waiting.question, approved=True, by="ann")
                await later("acme", Decimal(40))
            with pytest.raises(Denied):
                async with task:
                    pass
        assert len(refunds) == 1

    asyncio.run(whole())
