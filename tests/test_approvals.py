"""Calls that wait for a person: bound to exactly what was shown, answered once, and gone on with, also elsewhere."""

from __future__ import annotations

from collections.abc import Coroutine
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

import pytest

from agentguard import ITSELF, ApprovalRequired, Denied, Guard, Intent, User, any_, at_most, from_, guarded, step
from agentguard._drive import drive
from agentguard.approval.refuse import RefuseAll
from agentguard.audit.memory import MemoryLog
from agentguard.model.decision import AccessRequest, Decision, Reason
from agentguard.model.record import Event
from agentguard.policy.decided import Answering as Says
from agentguard.policy.obligations import Obligations
from agentguard.ports import Answer, Approval, ApprovalRequest, Verdict
from agentguard.state.approvals_memory import MemoryApprovals
from agentguard.state.budgets_memory import MemoryBudgets
from agentguard.state.parked_memory import MemoryParkedTasks
from agentguard.testing import Answering, FakeClock, FakeIssuer, fake_guard

T = TypeVar("T")
ran: list[tuple[str, Decimal]] = []


@guarded("approved.refund", effect="write", audience="https://bank.test")
def refund(account: str, amount: Decimal) -> str:
    ran.append((account, amount))
    return "paid"


@guarded("approved.find", effect="read")
def find(name: str) -> dict[str, str]:
    return {"account": f"acct-{name}"}


@guarded("approved.close", effect="write")
def close(account: str) -> str:
    ran.append((account, Decimal(0)))
    return "closed"


ASKS = Intent("Refunds", step("approved.refund", account=any_, amount=at_most("50")).times(2).then_ask())


class Later(Answering):
    """Nobody answers at once."""

    def __init__(self) -> None:
        super().__init__(Answer.PENDING)


class Durable(MemoryParkedTasks):
    """A store that several guards of this test share, as processes do a file."""

    durable = True


class Processes:
    """Guards that share a state, as the processes of one host do."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.logs, self.issuer, self.approver = list[MemoryLog](), FakeIssuer(), Later()
        self.approvals, self.parked, self.budgets = MemoryApprovals(), Durable(), MemoryBudgets()

    def guard(self, **rooms: Any) -> Guard:
        self.logs.append(MemoryLog())
        shared: dict[str, Any] = {
            "audit": self.logs[-1], "issuer": self.issuer, "approver": self.approver, "approvals": self.approvals,
            "parked": self.parked, "budgets": self.budgets, "clock": self.clock, "monotonic": self.clock,
        }  # fmt: skip
        return fake_guard(**{**shared, **rooms})

    def answer(self, question: str, verdict: Verdict = Verdict.APPROVED, by: str = "ann") -> bool:
        return now(self.approvals.answer(question, verdict, by, self.clock()))

    def events(self, event: Event) -> list[dict[str, Any]]:
        return [record for log in self.logs for record in log.records if record["event"] == event.value]


def now(work: Coroutine[Any, Any, T]) -> T:
    return drive(work)


@pytest.fixture
def shared() -> Processes:
    ran.clear()
    return Processes()


def asked(guard: Guard, intent: Intent = ASKS, amount: str = "40", account: str = "acme") -> tuple[str, str]:
    """Open a task whose call is asked about; return the ids of the question and of the task."""
    task = guard.task("bot", on_behalf_of="alice", intent=intent)
    with pytest.raises(ApprovalRequired) as waits, task:
        refund(account, Decimal(amount))
    return waits.value.question, task.id


@pytest.mark.control("7 survives a restart")
def test_call_is_approved_while_its_process_is_gone_and_runs_in_another(shared: Processes) -> None:
    with shared.guard() as first:
        question, task = asked(first)
    assert shared.answer(question)
    with shared.guard() as second, second.resume(task, on_behalf_of="alice") as resumed:
        assert refund("acme", Decimal(40)) == "paid"
        assert (resumed.id, resumed.chain.text()) == (task, "user:alice > bot")
    assert (ran, len(shared.approver.asked)) == ([("acme", Decimal(40))], 1)
    assert [record["task"] for record in shared.events(Event.TASK_RESUMED)] == [task]


@pytest.mark.control("7 holds no lease while it waits")
def test_task_that_waits_holds_no_credential(shared: Processes) -> None:
    intent = Intent(
        "Both",
        step("approved.refund", account="a", amount=any_),
        step("approved.refund", account="b", amount=any_).then_ask(),
    )
    with shared.guard() as guard:
        with pytest.raises(ApprovalRequired), guard.task("bot", on_behalf_of="alice", intent=intent):
            refund("a", Decimal(1))
            refund("b", Decimal(1))
        assert (shared.issuer.live, guard.outstanding()) == ({}, 0)


@pytest.mark.control("7 exact arguments")
def test_other_arguments_than_those_that_were_approved_are_asked_about_anew(shared: Processes) -> None:
    with shared.guard() as guard:
        question, task = asked(guard)
        shared.answer(question)
        with pytest.raises(ApprovalRequired) as waits, guard.resume(task, on_behalf_of="alice"):
            refund("acme", Decimal(41))
    assert (ran, len(shared.approver.asked)) == ([], 2)
    assert waits.value.question != question


@pytest.mark.control("7 answered once, used once")
def test_approval_is_good_for_one_call(shared: Processes) -> None:
    with shared.guard() as guard:
        question, task = asked(guard)
        assert shared.answer(question)
        assert not shared.answer(question, Verdict.REJECTED)
        with pytest.raises(ApprovalRequired), guard.resume(task, on_behalf_of="alice"):
            refund("acme", Decimal(40))
            refund("acme", Decimal(40))
    assert len(ran) == 1


def test_call_that_is_made_again_before_the_answer_waits_for_the_same_question(shared: Processes) -> None:
    intent = Intent("Refunds", step("approved.refund", account=any_, amount=any_).then_ask(), limits={"asks": 1})
    with shared.guard() as guard:
        question, task = asked(guard, intent)
        with pytest.raises(ApprovalRequired) as waits, guard.resume(task, on_behalf_of="alice"):
            refund("acme", Decimal(40))
        assert (waits.value.question, len(shared.approver.asked)) == (question, 1)
        shared.answer(question)
        with guard.resume(task, on_behalf_of="alice"):
            refund("acme", Decimal(40))


def test_answer_that_is_no_yes_and_no_no_is_none(shared: Processes) -> None:
    with shared.guard() as guard:
        question, task = asked(guard)
        with pytest.raises(TypeError, match="True or False"):
            guard.answer(question, approved="false", by="carol")  # type: ignore[arg-type]  # as a form says it
        with pytest.raises(ApprovalRequired), guard.resume(task, on_behalf_of="alice"):
            refund("acme", Decimal(40))
    assert ran == []


def test_rejection_by_a_person_is_a_denial_and_the_next_call_is_asked_about_anew(shared: Processes) -> None:
    with shared.guard() as guard:
        question, task = asked(guard)
        shared.answer(question, Verdict.REJECTED)
        with pytest.raises(ApprovalRequired), guard.resume(task, on_behalf_of="alice") as resumed:
            with pytest.raises(Denied) as denied:
                refund("acme", Decimal(40))
            assert (denied.value.reason, resumed.counts.denied) == (Reason.APPROVAL_REJECTED, 1)
            refund("acme", Decimal(40))
    assert ran == []


@pytest.mark.control("7 expires")
def test_answer_that_comes_too_late_does_not_count(shared: Processes) -> None:
    with shared.guard(ask_for=60) as guard:
        question, task = asked(guard)
        shared.clock.advance(61)
        assert not shared.answer(question)
        with guard.resume(task, on_behalf_of="alice"), pytest.raises(Denied) as denied:
            refund("acme", Decimal(40))
    assert (ran, denied.value.reason) == ([], Reason.APPROVAL_EXPIRED)


@pytest.mark.control("7 approval that was not used in time")
def test_approval_that_was_given_in_time_and_used_too_late_does_not_count(shared: Processes) -> None:
    with shared.guard(ask_for=60) as guard:
        question, task = asked(guard)
        assert shared.answer(question)
        shared.clock.advance(61)
        with guard.resume(task, on_behalf_of="alice"), pytest.raises(Denied) as denied:
            refund("acme", Decimal(40))
    assert (ran, denied.value.reason) == ([], Reason.APPROVAL_EXPIRED)


@pytest.mark.control("7 neither subject nor agent")
@pytest.mark.parametrize("by", ["alice", "user:alice", "ALICE", "bot", "agent:bot", "https://as.test#alice"])
def test_neither_the_subject_nor_the_agent_approves(shared: Processes, by: str) -> None:
    with shared.guard() as guard:
        question, task = asked(guard)
        shared.answer(question, by=by)
        with guard.resume(task, on_behalf_of="alice"), pytest.raises(Denied) as denied:
            refund("acme", Decimal(40))
    assert (ran, denied.value.reason) == ([], Reason.APPROVAL_REJECTED)
    assert shared.events(Event.APPROVAL_USED)[0]["refused"]


@pytest.mark.control("7 neither subject nor agent, at once")
def test_subject_does_not_approve_at_once_either_unless_configured(shared: Processes) -> None:
    with shared.guard(approver=Answering(by="alice")) as guard:
        with guard.task("bot", on_behalf_of="alice", intent=ASKS), pytest.raises(Denied):
            refund("acme", Decimal(40))
    with shared.guard(approver=Answering(by="alice"), not_by=()) as guard:
        with guard.task("bot", on_behalf_of="alice", intent=ASKS):
            refund("acme", Decimal(40))
    assert len(ran) == 1


@pytest.mark.control("7 the subject alone, once it is asked")
@pytest.mark.parametrize("not_by", [("subject", "agent"), ()])
def test_question_to_the_subject_is_answered_by_nobody_else(shared: Processes, not_by: tuple[str, ...]) -> None:
    asks = Intent("Refunds", step("approved.refund", account=any_, amount=any_).times(3).then_ask(by="subject"))
    with shared.guard(not_by=not_by) as guard:
        question, task = asked(guard, asks)
        assert not guard.answer(question, approved=True, by="ann")
        with pytest.raises(ApprovalRequired), guard.resume(task, on_behalf_of="alice"):
            refund("acme", Decimal(40))
        assert guard.answer(question, approved=True, by="alice")
        with guard.resume(task, on_behalf_of="alice"):
            refund("acme", Decimal(40))
        assert len(ran) == 1
    with shared.guard(not_by=not_by, approver=Answering(by="ann")) as guard:
        with guard.task("bot", on_behalf_of="alice", intent=asks), pytest.raises(Denied) as denied:
            refund("acme", Decimal(40))
    assert (len(ran), denied.value.reason) == (1, Reason.APPROVAL_REJECTED)


@pytest.mark.control("7 the operator, once anybody asks for one")
@pytest.mark.parametrize("where", ["step", "otherwise", "policy"])
def test_operator_is_asked_where_one_level_asks_the_subject_and_another_one_an_operator(
    shared: Processes, where: str
) -> None:
    class Point:
        suspends, name = False, "point"

        async def decide(self, request: AccessRequest) -> Decision:
            return Says(self.name, str(request.action["name"])).permit(["r"], Obligations(approve="operator"))

    asks = {
        "step": ASKS,
        "otherwise": Intent("Refunds", otherwise={"then": "ask", "tools": ["approved.*"]}),
        "policy": Intent("Refunds", step("approved.refund", account=any_, amount=any_)),
    }[where]
    own = Intent("Part", step("approved.refund", account="acme", amount=any_).then_ask(by="subject"))
    approver = Answering(by="alice")
    with shared.guard(approver=approver, decision_points=[Point()] if where == "policy" else []) as guard:
        with guard.task("bot", on_behalf_of="alice", intent=asks) as task, task.delegate("helper", intent=own):
            with pytest.raises(Denied, match="approval_rejected"):
                refund("acme", Decimal(40))
    assert (ran, [request.by for request in approver.asked]) == ([], ["operator"])


@pytest.mark.control("7 keeps the reservation")
def test_call_that_waits_keeps_what_it_reserved_until_its_question_expires(shared: Processes) -> None:
    once = Intent("Once", step("approved.refund", account=any_, amount=any_).times(1).then_ask())
    with shared.guard(ask_for=60) as guard:
        question, task = asked(guard, once)
        with guard.resume(task, on_behalf_of="alice") as resumed:
            with pytest.raises(Denied) as denied:
                refund("other", Decimal(1))
            assert denied.value.reason == Reason.BUDGET_EXHAUSTED
            shared.clock.advance(61)
            guard.keeper.tick()
            with pytest.raises(ApprovalRequired):
                refund("other", Decimal(1))
            assert resumed.counts.asked == 2
    assert (ran, question != "") == ([], True)


def test_what_a_parked_task_had_reserved_is_given_back_when_nobody_goes_on_with_it(shared: Processes) -> None:
    with shared.guard() as guard:
        _, task = asked(guard)
        shared.clock.advance(10_000)
        for _ in range(11):
            guard.keeper.tick()
        with pytest.raises(Denied) as denied, guard.resume(task, on_behalf_of="alice"):
            pass
    assert denied.value.reason == Reason.TASK_ENDED
    assert "parked" in shared.events(Event.TASK_LAPSED)[-1]["why"]
    assert now(shared.budgets.standing([f"task:{task}/approved.refund#times"])) == [""]


@pytest.mark.control("8 goes on once")
def test_parked_task_goes_on_once(shared: Processes) -> None:
    with shared.guard() as first, shared.guard() as second:
        question, task = asked(first)
        shared.answer(question)
        one, other = (guard.resume(task, on_behalf_of="alice") for guard in (first, second))
        with one:
            refund("acme", Decimal(40))
        with pytest.raises(Denied) as denied, other:
            pass
        with pytest.raises(Denied):
            second.resume(task, on_behalf_of="alice")
    assert (len(ran), denied.value.reason) == (1, Reason.TASK_ENDED)


@pytest.mark.control("8 the subject proves itself anew")
@pytest.mark.parametrize("user", ["mallory", User.asserted("alice", tenant="other"), ITSELF])
def test_task_goes_on_for_its_own_subject_only_and_is_there_for_them_still(shared: Processes, user: Any) -> None:
    with shared.guard() as guard:
        _, task = asked(guard)
        with pytest.raises(Denied) as denied, guard.resume(task, on_behalf_of=user):
            pass
        assert denied.value.reason == Reason.USER_UNVERIFIED
        with guard.resume(task, on_behalf_of="alice"):
            pass


@pytest.mark.control("8 nobody is named")
def test_absence_never_becomes_authority(shared: Processes) -> None:
    with shared.guard() as guard:
        _, task = asked(guard)
        with pytest.raises(TypeError):
            guard.resume(task)


@pytest.mark.parametrize("how", [{"environment": "prod"}, {}])
def test_task_is_resumed_in_its_environment_and_by_its_agent_only(shared: Processes, how: dict[str, Any]) -> None:
    with shared.guard() as first, shared.guard(**how) as second:
        _, task = asked(first)
        with pytest.raises(Denied) as denied:
            second.resume(task, on_behalf_of="alice", agent="" if how else "other")
    assert denied.value.reason == Reason.NOT_ALLOWED


def test_record_of_a_resumption_says_how_long_the_task_goes_on(shared: Processes) -> None:
    with shared.guard() as first:
        _, task = asked(first)
    shared.clock.advance(200)
    with shared.guard() as second, second.resume(task, on_behalf_of="alice"):
        pass
    (opened,), (resumed,) = shared.events(Event.TASK_OPENED), shared.events(Event.TASK_RESUMED)
    assert resumed["ttl"] == opened["ttl"] - 200


@pytest.mark.control("8 nothing is revived after its end")
def test_task_that_ended_is_not_revived(shared: Processes) -> None:
    with shared.guard() as guard:
        with guard.task("bot", on_behalf_of="alice", intent=ASKS) as task:
            pass
        with pytest.raises(Denied) as denied:
            guard.resume(task.id, on_behalf_of="alice")
        _, parked = asked(guard)
        with guard.resume(parked, on_behalf_of="alice"):
            guard.keeper.tick()
        shared.clock.advance(10_000)
        with pytest.raises(Denied):
            guard.resume(parked, on_behalf_of="alice")
    assert denied.value.reason == Reason.TASK_ENDED


@pytest.mark.control("8 suspended meanwhile")
def test_approved_call_of_a_task_that_was_suspended_meanwhile_does_not_run(shared: Processes) -> None:
    with shared.guard() as guard:
        question, task = asked(guard)
        shared.answer(question)
        guard.suspend(task=task, why="lost")
        with guard.resume(task, on_behalf_of="alice"), pytest.raises(Denied) as denied:
            refund("acme", Decimal(40))
    assert (ran, denied.value.reason) == ([], Reason.SUSPENDED)


@pytest.mark.control("8 same budgets")
def test_budget_that_was_used_before_stays_used(shared: Processes) -> None:
    intent = Intent("x", step("approved.refund", account="a", amount=any_).total(amount="50").times(9))
    with shared.guard() as first:
        with first.task("bot", on_behalf_of="alice", intent=intent) as task:
            refund("a", Decimal(40))
            task.park()
    with shared.guard() as second, second.resume(task.id, on_behalf_of="alice"):
        refund("a", Decimal(10))
        with pytest.raises(Denied) as denied:
            refund("a", Decimal(1))
    assert denied.value.reason == Reason.BUDGET_EXHAUSTED


def test_task_knows_after_its_restart_what_it_read_heard_and_saw(shared: Processes) -> None:
    intent = Intent(
        "Close",
        step("approved.find", name=any_),
        step("approved.close", account=from_(tool="approved.find", field="account")),
    )
    with shared.guard() as first:
        with first.task("bot", on_behalf_of="alice", intent=intent) as task:
            find("ann")
            task.heard("close the account of Ann")
            task.park()
        before = task.intent_s256
    with shared.guard() as second, second.resume(task.id, on_behalf_of="alice") as resumed:
        assert (resumed.intent_s256, resumed.tree.heard) == (before, ("close the account of Ann",))
        with pytest.raises(Denied):
            close("acct-bob")
        close("acct-ann")
    assert ran == [("acct-ann", Decimal(0))]


def test_sub_agents_call_is_approved_below_the_resumed_root(shared: Processes) -> None:
    narrower = Intent("Part", step("approved.refund", account="acme", amount=any_))
    with shared.guard() as first:
        task = first.task("bot", on_behalf_of="alice", intent=ASKS)
        with pytest.raises(ApprovalRequired) as waits, task, task.delegate("helper", intent=narrower):
            refund("acme", Decimal(40))
    shared.answer(waits.value.question)
    with shared.guard() as second, second.resume(task.id, on_behalf_of="alice") as resumed:
        with resumed.delegate("helper", intent=narrower):
            refund("acme", Decimal(40))
    assert len(ran) == 1


@pytest.mark.control("7 policy version")
def test_approval_under_other_policies_does_not_count(shared: Processes) -> None:
    class Point:
        suspends, name, version = False, "point", "v1"

        async def decide(self, request: AccessRequest) -> Decision:
            said = Says(self.name, str(request.action["name"]), version=self.version)
            return said.permit(["r"], Obligations(approve="operator"))

    point = Point()
    plain = Intent("Refunds", step("approved.refund", account=any_, amount=any_).times(9))
    with shared.guard(decision_points=[point]) as guard:
        question, task = asked(guard, plain)
        shared.answer(question)
        point.version = "v2"
        with pytest.raises(ApprovalRequired) as waits, guard.resume(task, on_behalf_of="alice"):
            refund("acme", Decimal(40))
    assert (ran, waits.value.question != question) == ([], True)
    assert shared.approver.asked[0].policy == "point=v1"


def test_approver_that_looks_again_is_asked_when_the_call_is_made_again(shared: Processes) -> None:
    class Phone(Later):
        def __init__(self) -> None:
            super().__init__()
            self.said = Approval(Answer.PENDING)

        async def ask(self, request: ApprovalRequest) -> Approval:
            await super().ask(request)
            return Approval(Answer.PENDING, id="auth-req-1")

        async def check(self, id: str, request: ApprovalRequest) -> Approval:
            assert id == "auth-req-1"
            return self.said

    phone = Phone()
    with shared.guard(approver=phone) as guard:
        question, task = asked(guard)
        assert question == "auth-req-1"
        with pytest.raises(ApprovalRequired), guard.resume(task, on_behalf_of="alice"):
            refund("acme", Decimal(40))
        phone.said = Approval(Answer.APPROVED, by="ann")
        with pytest.raises(ApprovalRequired), guard.resume(task, on_behalf_of="alice"):
            refund("acme", Decimal(40))
            refund("acme", Decimal(40))  # the answer was good once
    assert (len(ran), len(phone.asked)) == (1, 2)


def test_answer_that_an_approver_found_and_the_store_does_not_count_lets_nothing_run(shared: Processes) -> None:
    class Answered(MemoryApprovals):
        async def answer(self, *args: Any, **kwargs: Any) -> bool:
            await super().answer(*args, **kwargs)
            return False

    class Phone(Later):
        async def check(self, id: str, request: ApprovalRequest) -> Approval:
            return Approval(Answer.APPROVED, by="ann")

    with shared.guard(approver=Phone(), approvals=Answered()) as guard:
        _, task = asked(guard)
        with pytest.raises(Denied) as denied, guard.resume(task, on_behalf_of="alice"):
            refund("acme", Decimal(40))
    assert (denied.value.reason, ran) == ("approval_expired", [])


@pytest.mark.anyio
async def test_tasks_are_resumed_under_an_event_loop(shared: Processes) -> None:
    with shared.guard() as first:
        question, task = asked(first)
    shared.answer(question)
    async with shared.guard() as second, await second.aresume(task, on_behalf_of="alice"):
        refund("acme", Decimal(40))
    assert len(ran) == 1


def test_store_that_fails_leaves_the_task_in_its_own_process(shared: Processes, tmp_path: Path) -> None:
    class Full(Durable):
        async def park(self, parked: Any) -> None:
            raise OSError("full")

    with shared.guard(parked=Full()) as guard:
        task = guard.task("bot", on_behalf_of="alice", intent=ASKS)
        with pytest.raises(ApprovalRequired) as waits, task:
            refund("acme", Decimal(40))
        shared.answer(waits.value.question)
        with task:
            refund("acme", Decimal(40))
    assert len(ran) == 1


def test_record_and_explanation_say_in_words_that_nobody_answered() -> None:
    guard = fake_guard(approver=RefuseAll())
    with guard, guard.task("bot", on_behalf_of="alice", intent=ASKS), pytest.raises(Denied):
        refund("acme", Decimal(40))
    assert isinstance(guard.audit, MemoryLog)
    (record,) = (record for record in guard.audit.records if record["event"] == Event.APPROVAL_ANSWERED)
    assert record["by"] == "nobody: this guard has no approver"
    assert "the call was not approved (nobody: this guard has no approver)" in str(guard.explain())
