"""The ten invariants of the pipeline. Each test here fails when its control is removed."""

from __future__ import annotations

import asyncio
import contextvars
import copy
import gc
import json
import logging
import pickle
import threading
import traceback
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any

import pytest

from agentguard import (
    ApprovalRequired,
    CredentialUnavailable,
    Denied,
    Guard,
    Intent,
    any_,
    current_call,
    current_credential,
    guarded,
    step,
)  # fmt: skip
from agentguard._drive import drive
from agentguard.audit.memory import MemoryLog
from agentguard.model.decision import AccessRequest, Decision, Outcome, Reason
from agentguard.model.record import Event
from agentguard.ports import Answer, Verdict
from agentguard.state.suspensions_memory import MemorySuspensions
from agentguard.testing import Answering, FailingAudit, FakeClock, FakeIssuer, fake_guard
from tests import tools
from tests.tools import everything, lines, pay, ran, read_account, refund, wipe


@pytest.fixture(autouse=True)
def _nothing_ran() -> None:
    ran.clear()


@pytest.fixture
def guard() -> Iterator[Guard]:
    with fake_guard() as made:
        yield made


def records(guard: Guard) -> list[dict[str, Any]]:
    assert isinstance(guard.audit, MemoryLog)
    return [dict(record) for record in guard.audit.records]


def events(guard: Guard) -> list[str]:
    return [record["event"] for record in records(guard)]


# 1 No record, no action -----------------------------------------------------------------------------------


@pytest.mark.control("1 no record, no action")
def test_tool_does_not_run_when_its_decision_cannot_be_recorded() -> None:
    with fake_guard(audit=FailingAudit(MemoryLog(), after=1)) as guard:  # the task's own record fits
        with guard.task("bot", on_behalf_of="alice", intent=everything()):
            with pytest.raises(Denied) as denied:
                refund("acme", Decimal(5))
    assert denied.value.reason == "audit_unavailable"
    assert ran == []


@pytest.mark.control("1 no record, no action")
def test_tool_does_not_run_when_its_decision_is_not_on_disk() -> None:
    class NoDisk(MemoryLog):
        async def flush(self, position: Any) -> None:
            raise OSError(28, "No space left on device")

    with fake_guard(audit=NoDisk()) as guard, guard.task("bot", on_behalf_of="alice", intent=everything()):
        with pytest.raises(Denied) as denied:
            refund("acme", Decimal(5))
        assert read_account("acme") == {"account": "acme"}  # a read without data does not wait for the disk
    assert denied.value.reason == "audit_unavailable"
    assert ran == [("account.read", "acme")]


@pytest.mark.control("1 no record, no action")
def test_no_credential_is_asked_for_before_the_decision_is_recorded() -> None:
    issuer = FakeIssuer()
    with fake_guard(audit=FailingAudit(MemoryLog(), after=1), issuer=issuer) as guard:
        with guard.task("bot", on_behalf_of="alice", intent=everything()), pytest.raises(Denied):
            pay("acme")
    assert issuer.issued == []


@pytest.mark.control("1 no record, no action")
def test_task_does_not_open_when_it_cannot_be_recorded() -> None:
    with fake_guard(audit=FailingAudit(MemoryLog())) as guard, pytest.raises(Denied) as denied:
        with guard.task("bot", on_behalf_of="alice", intent=everything()):
            pass
    assert denied.value.reason == "audit_unavailable"


@pytest.mark.control("1 no record, no action")
def test_reservation_is_given_back_when_the_record_failed() -> None:
    audit = FailingAudit(MemoryLog(), after=1)
    intent = Intent("once", step("refund", account="acme", amount=any_))
    with fake_guard(audit=audit) as guard, guard.task("bot", on_behalf_of="alice", intent=intent):
        with pytest.raises(Denied):
            refund("acme", Decimal(5))
        audit.after = 100
        assert refund("acme", Decimal(5))


# 2 Deny by default; forbid wins; an error is a deny -------------------------------------------------------


@pytest.mark.control("2 deny by default")
def test_tool_that_no_step_names_is_denied(guard: Guard) -> None:
    with guard.task("bot", on_behalf_of="alice", intent=Intent("nothing", reads=["account.read"])):
        with pytest.raises(Denied) as denied:
            refund("acme", Decimal(5))
    assert denied.value.reason == "outside_intent"
    assert ran == []


class Point:
    suspends = False

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    async def decide(self, request: AccessRequest) -> Decision:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer  # type: ignore[no-any-return]  # on purpose: also what is no Decision


def decision(outcome: Outcome) -> Decision:
    return Decision(outcome=outcome, reason=Reason.POLICY_DENIED, tool="refund", level="policy-7")


@pytest.mark.control("2 forbid wins, an error is a deny")
@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (decision(Outcome.DENY), "policy_denied"),
        (RuntimeError("broken"), "policy_error"),
        (TimeoutError(), "policy_error"),
        (True, "policy_error"),
        (None, "policy_error"),
    ],
)
def test_one_decision_point_that_does_not_permit_denies(answer: Any, reason: str) -> None:
    points = [Point(decision(Outcome.PERMIT)), Point(answer), Point(decision(Outcome.PERMIT))]
    with fake_guard(decision_points=points) as guard, guard.task("bot", on_behalf_of="alice", intent=everything()):
        with pytest.raises(Denied) as denied:
            refund("acme", Decimal(5))
    assert denied.value.reason == reason
    assert ran == []


def test_decision_points_that_permit_let_the_call_through() -> None:
    with fake_guard(decision_points=[Point(decision(Outcome.PERMIT))]) as guard:
        with guard.task("bot", on_behalf_of="alice", intent=everything()):
            assert refund("acme", Decimal(5)) == "refunded 5 to acme"


@pytest.mark.control("2 an approval is asked for and good once")
def test_step_that_asks_runs_only_after_a_person_said_yes() -> None:
    approver = Answering(Answer.APPROVED)
    intent = Intent("ask", step("refund", account="acme", amount=any_).times(2).then_ask())
    with fake_guard(approver=approver) as guard, guard.task("bot", on_behalf_of="alice", intent=intent):
        refund("acme", Decimal(5))
        approver.answer = Answer.REJECTED
        with pytest.raises(Denied) as denied:
            refund("acme", Decimal(5))
    assert denied.value.reason == "approval_rejected"
    assert [request.tool for request in approver.asked] == ["refund", "refund"]
    assert len(ran) == 1


@pytest.mark.control("2 an approval is asked for and good once")
def test_without_an_approver_a_step_that_asks_is_denied(guard: Guard) -> None:
    intent = Intent("ask", step("refund", account="acme", amount=any_).then_ask())
    with guard.task("bot", on_behalf_of="alice", intent=intent), pytest.raises(Denied) as denied:
        refund("acme", Decimal(5))
    assert denied.value.reason == "approval_rejected"


def test_pending_approval_parks_the_task_which_holds_no_lease_and_can_be_opened_again() -> None:
    approver, issuer = Answering(Answer.PENDING), FakeIssuer()
    ask = Intent("ask", step("refund", account="acme", amount=any_).then_ask(), step("pay", account="acme"))
    with fake_guard(approver=approver, issuer=issuer) as guard:
        task = guard.task("bot", on_behalf_of="alice", intent=ask)
        with pytest.raises(ApprovalRequired) as waits, task:
            pay("acme")
            refund("acme", Decimal(5))
        assert str(task.state) == "parked"
        assert issuer.live == {}
        assert drive(guard.approvals.answer(waits.value.question, Verdict.APPROVED, "ann", guard.now()))
        with task:
            assert refund("acme", Decimal(5))
        assert str(task.state) == "ended"


# 3 Authority only narrows ---------------------------------------------------------------------------------


@pytest.mark.control("3 authority only narrows")
def test_call_of_a_sub_agent_must_match_at_every_level(guard: Guard) -> None:
    wide = Intent("wide", step("refund", account=any_, amount=any_).times(9))
    with guard.task("bot", on_behalf_of="alice", intent=everything()) as task, task.delegate("helper", intent=wide):
        assert refund("acme", Decimal(5))
        with pytest.raises(Denied) as denied:
            refund("evil", Decimal(5))
    assert denied.value.reason == "argument_violation"
    assert denied.value.decision.level == "bot"


@pytest.mark.control("3 authority only narrows")
def test_call_of_a_sub_agent_is_counted_at_every_level_or_at_none(guard: Guard) -> None:
    intent = Intent("two", step("refund", account="acme", amount=any_).times(2))
    one = Intent("one", step("refund", account="acme", amount=any_).times(1))
    with guard.task("bot", on_behalf_of="alice", intent=intent) as task:
        with task.delegate("helper", intent=one):
            refund("acme", Decimal(1))
            with pytest.raises(Denied) as denied:
                refund("acme", Decimal(1))  # the helper's share is used up; nothing may be taken from the parent
        assert denied.value.reason == "budget_exhausted"
        assert refund("acme", Decimal(1))
        with pytest.raises(Denied):
            refund("acme", Decimal(1))


@pytest.mark.control("3 a child ends no later than its parent")
def test_child_ends_with_its_parent_and_not_later() -> None:
    clock = FakeClock()
    with fake_guard(clock=clock, monotonic=clock) as guard:
        with guard.task("bot", on_behalf_of="alice", intent=everything(), ttl=60) as task:
            clock.advance(50)
            with task.delegate("helper", reads=["account.read"], ttl="1h") as child:
                assert child.remaining() == 10
                clock.advance(11)
                with pytest.raises(Denied) as denied:
                    read_account("acme")
    assert denied.value.reason == "expired"


@pytest.mark.control("3 cycles and depth are refused")
def test_cycles_and_too_many_hops_are_refused(guard: Guard) -> None:
    reads: Any = {"reads": ["account.read"]}
    with guard.task("a", on_behalf_of="alice", intent=everything()) as a, a.delegate("b", **reads) as b:
        with pytest.raises(Denied) as cycle:
            b.delegate("a", **reads)
        with b.delegate("c", **reads) as c, c.delegate("d", **reads) as d, pytest.raises(Denied) as depth:
            d.delegate("e", **reads)
    assert (cycle.value.reason, depth.value.reason) == ("cycle", "depth_exceeded")
    assert events(guard).count("delegation.denied") == 2


@pytest.mark.control("3 suspending any link stops the call")
@pytest.mark.parametrize("link", ["a", "b"])
def test_suspending_any_agent_of_the_chain_stops_the_call(guard: Guard, link: str) -> None:
    with guard.task("a", on_behalf_of="alice", intent=everything()) as a, a.delegate("b", reads=["account.read"]):
        assert read_account("acme")
        guard.suspend(agent=link, why="test")
        with pytest.raises(Denied) as denied:
            read_account("acme")
    assert denied.value.reason == "suspended"


# 4 What was checked is what runs --------------------------------------------------------------------------


@pytest.mark.control("4 what was checked is what runs")
def test_tool_gets_the_values_that_were_checked_although_the_caller_changes_them_meanwhile() -> None:
    got: list[Any] = []

    @guarded("send")
    def send(to: list[str]) -> None:
        got.append(to)

    recipients = ["ann"]

    class Changing(Answering):
        async def ask(self, request: Any) -> Any:
            recipients.append("evil")
            return await super().ask(request)

    intent = Intent("send", step("send", to=any_).then_ask())
    with fake_guard(approver=Changing()) as guard, guard.task("bot", on_behalf_of="alice", intent=intent):
        send(recipients)
    assert got == [["ann"]]


@pytest.mark.control("4 what was checked is what runs")
@pytest.mark.parametrize("other", ["evil", object()], ids=["another value", "no value"])
def test_run_copy_that_changed_after_the_check_is_denied(other: Any) -> None:
    class Sly(dict[str, str]):
        """Hands out a copy that can be reached from outside."""

        copies: list[dict[str, Any]] = []  # noqa: RUF012  # the test looks into it

        def __deepcopy__(self, memo: Any) -> Any:
            made = dict(self)
            self.copies.append(made)
            return made

    class Reaching(Answering):
        async def ask(self, request: Any) -> Any:
            Sly.copies[-1]["to"] = other
            return await super().ask(request)

    @guarded("send")
    def send(letter: dict[str, str]) -> None:
        ran.append(("send", letter))

    intent = Intent("send", step("send", letter=any_).then_ask())
    with fake_guard(approver=Reaching()) as guard, guard.task("bot", on_behalf_of="alice", intent=intent):
        with pytest.raises(Denied) as denied:
            send(Sly(to="ann"))
    assert denied.value.reason == "arguments_changed"
    assert ran == []


def test_argument_that_cannot_be_copied_is_denied_with_a_clear_text(guard: Guard) -> None:
    @guarded("lock_it")
    def lock_it(lock: Any) -> None: ...

    with guard.task("bot", on_behalf_of="alice", intent=Intent("x", step("lock_it", lock=any_))):
        with pytest.raises(Denied) as denied:
            lock_it(threading.Lock())
    assert denied.value.reason == "invalid_arguments"
    assert "lock" in str(denied.value)


# 5 No ambient credential ----------------------------------------------------------------------------------


@pytest.mark.control("5 no ambient credential")
def test_there_is_no_credential_outside_a_call(guard: Guard) -> None:
    with guard.task("bot", on_behalf_of="alice", intent=everything()):
        pay("acme")
        with pytest.raises(CredentialUnavailable):
            current_credential()


@pytest.mark.control("5 no ambient credential")
def test_credential_that_was_kept_holds_nothing_after_the_call(guard: Guard) -> None:
    kept: list[Any] = []

    @guarded("keep", audience=tools.API)
    def keep() -> None:
        kept.append((current_credential(), contextvars.copy_context()))

    with guard.task("bot", on_behalf_of="alice", intent=Intent("x", step("keep"))):
        keep()
        credential, context = kept[0]
        with pytest.raises(CredentialUnavailable):
            _ = credential.token
        with pytest.raises(CredentialUnavailable):
            context.run(current_credential)
        assert context.run(current_call).tool == "keep"


@pytest.mark.control("5 no ambient credential")
def test_thread_that_outlives_its_call_cannot_use_the_credential(guard: Guard) -> None:
    release, outcome = threading.Event(), list[object]()

    def late() -> None:
        release.wait(5)
        try:
            outcome.append(current_credential().token)
        except CredentialUnavailable as error:
            outcome.append(error)

    @guarded("spawn", audience=tools.API)
    def spawn() -> threading.Thread:
        thread = threading.Thread(target=contextvars.copy_context().run, args=(late,))
        thread.start()
        return thread

    with guard.task("bot", on_behalf_of="alice", intent=Intent("x", step("spawn"))):
        thread = spawn()
        release.set()
        thread.join(5)
    assert isinstance(outcome[0], CredentialUnavailable)


def test_tool_without_audience_gets_no_credential_and_its_record_says_so(guard: Guard) -> None:
    @guarded("plain")
    def plain() -> None:
        current_credential()

    with guard.task("bot", on_behalf_of="alice", intent=Intent("x", step("plain"))):
        with pytest.raises(CredentialUnavailable, match="declares no audience"):
            plain()
    assert next(r for r in records(guard) if r["event"] == "call.permitted")["credential"] == "none"


# 6 A credential is never seen -----------------------------------------------------------------------------

CANARY = "canary-lease-"


@pytest.mark.control("6 a credential is never seen")
def test_credential_in_a_result_is_replaced_recorded_and_revoked() -> None:
    issuer = FakeIssuer()

    @guarded("leaky", audience=tools.API)
    def leaky() -> dict[str, Any]:
        token = current_credential().token
        return {"headers": [f"Bearer {token}"], "n": 1, "raw": token.encode()}

    with fake_guard(issuer=issuer) as guard, guard.task("bot", on_behalf_of="alice", intent=Intent("x", step("leaky"))):
        result = leaky()
        assert CANARY not in repr(result)
        assert result["n"] == 1
        assert issuer.live == {}
        assert "secret.removed" in events(guard)


@pytest.mark.control("6 a credential is never seen")
def test_credential_in_an_exception_its_notes_and_its_cause_is_replaced(guard: Guard) -> None:
    @guarded("leaky", audience=tools.API)
    def leaky() -> None:
        token = current_credential().token
        try:
            raise ValueError(f"401 for {token}")
        except ValueError as cause:
            error = RuntimeError(f"failed with {token}", {"token": token})
            error.add_note(f"sent {token}")
            raise error from cause

    with guard.task("bot", on_behalf_of="alice", intent=Intent("x", step("leaky"))):
        with pytest.raises(RuntimeError) as raised:
            leaky()
    assert CANARY not in "".join(traceback.format_exception(raised.value))


@pytest.mark.control("6 a credential is never seen")
def test_exception_that_cannot_be_searched_is_not_passed_on(guard: Guard, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsearchable(error: BaseException, search: Any) -> BaseException:
        raise RecursionError

    monkeypatch.setattr("agentguard.pipeline.search.clean_exception", unsearchable)

    @guarded("leaky", audience=tools.API)
    def leaky() -> None:
        raise ValueError(f"401 for {current_credential().token}")

    with guard.task("bot", on_behalf_of="alice", intent=Intent("x", step("leaky"))):
        with pytest.raises(RuntimeError, match="ValueError") as raised:
            leaky()
    assert CANARY not in "".join(traceback.format_exception(raised.value))


@pytest.mark.control("6 a credential is never seen")
def test_credential_in_streamed_parts_is_found_also_where_it_is_split(guard: Guard) -> None:
    @guarded("stream", audience=tools.API)
    def stream() -> Iterator[str]:
        text = f"before {current_credential().token} after"
        for start in range(0, len(text), 7):
            yield text[start : start + 7]

    with guard.task("bot", on_behalf_of="alice", intent=Intent("x", step("stream"))):
        whole = "".join(stream())
    assert whole == "before [credential removed] after"


@pytest.mark.control("6 a credential is never seen")
def test_credential_in_the_arguments_of_another_call_is_refused_and_revoked() -> None:
    issuer, kept = FakeIssuer(), []

    @guarded("take", audience=tools.API)
    def take() -> None:
        kept.append(current_credential().token)

    @guarded("mail")
    def mail(body: dict[str, str]) -> None:
        ran.append(("mail", body))

    intent = Intent("x", step("take"), step("mail", body=any_))
    with fake_guard(issuer=issuer) as guard, guard.task("bot", on_behalf_of="alice", intent=intent):
        take()
        with pytest.raises(Denied) as denied:
            mail({"text": f"here: {kept[0]}!"})
        assert issuer.live == {}
    assert denied.value.reason == "secret_in_arguments"
    assert ran == []
    assert CANARY not in json.dumps(records(guard))


@pytest.mark.control("6 a credential is never seen")
@pytest.mark.parametrize("more", [{}, {"odd": 1 << 70}])
@pytest.mark.parametrize("tool", ["mail", "look"])
def test_credential_in_the_name_of_an_argument_is_refused_and_revoked(tool: str, more: dict[str, Any]) -> None:
    issuer, kept = FakeIssuer(), []

    @guarded("take", audience=tools.API)
    def take() -> None:
        kept.append(current_credential().token)

    @guarded("mail")
    def mail(**fields: int) -> None:
        ran.append(("mail", fields))

    @guarded("look", effect="read")
    def look(**fields: int) -> None:
        ran.append(("look", fields))

    intent = Intent("x", step("take"), step("mail", a=any_), reads=["look"])
    with fake_guard(issuer=issuer) as guard, guard.task("bot", on_behalf_of="alice", intent=intent):
        take()
        with pytest.raises(Denied) as denied:
            {"mail": mail, "look": look}[tool](**{kept[0]: 1, **more})
        assert issuer.live == {}
    assert denied.value.reason == "secret_in_arguments"
    assert ran == []
    assert CANARY not in json.dumps(records(guard))


@pytest.mark.control("6 a credential is never seen")
def test_credential_has_no_repr_pickle_or_copy(guard: Guard, caplog: pytest.LogCaptureFixture) -> None:
    seen: list[str] = []

    @guarded("show", audience=tools.API)
    def show() -> None:
        credential = current_credential()
        logging.getLogger("app").warning("%s %r", credential, vars(type(credential)))
        seen.append(f"{credential!r} {credential} {credential._secret!r} {current_call()!r}")
        for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError):
                attempt(credential)

    with guard.task("bot", on_behalf_of="alice", intent=Intent("x", step("show"))):
        show()
    assert CANARY not in seen[0] + caplog.text + json.dumps(records(guard)) + str(guard.explain())


# 7 Missing context is a deny ------------------------------------------------------------------------------


@pytest.mark.control("7 missing context is a deny")
def test_tool_outside_any_task_is_denied_and_says_how_to_open_one() -> None:
    with pytest.raises(Denied, match=r"guard\.task") as denied:
        refund("acme", Decimal(5))
    assert denied.value.reason == "no_task"


@pytest.mark.control("7 missing context is a deny")
def test_bare_thread_is_denied_and_a_bound_function_is_not(guard: Guard) -> None:
    outcome: list[Any] = []

    def work() -> None:
        try:
            outcome.append(refund("acme", Decimal(5)))
        except Denied as error:
            outcome.append(error.reason)

    with guard.task("bot", on_behalf_of="alice", intent=everything()) as task:
        for target in (work, task.bind(work)):
            thread = threading.Thread(target=target)
            thread.start()
            thread.join()
    assert outcome == ["no_task", "refunded 5 to acme"]


@pytest.mark.control("7 missing context is a deny")
def test_whoever_still_holds_an_ended_task_is_denied(guard: Guard) -> None:
    with guard.task("bot", on_behalf_of="alice", intent=everything()):
        context = contextvars.copy_context()
    with pytest.raises(Denied) as denied:
        context.run(refund, "acme", Decimal(5))
    assert denied.value.reason == "task_ended"


@pytest.mark.control("7 missing context is a deny")
async def test_background_job_that_still_sees_an_ended_task_is_denied() -> None:
    go = asyncio.Event()

    async def later() -> str:
        await go.wait()
        try:
            return refund("acme", Decimal(5))
        except Denied as error:
            return error.reason

    with fake_guard() as guard:
        async with guard.task("bot", on_behalf_of="alice", intent=everything()):
            job = asyncio.create_task(later())
            await asyncio.sleep(0)
        go.set()
        assert await job == "task_ended"


test_background_job_that_still_sees_an_ended_task_is_denied = pytest.mark.parametrize("anyio_backend", ["asyncio"])(
    pytest.mark.anyio(test_background_job_that_still_sees_an_ended_task_is_denied)
)


# 8 The ledger knows first ---------------------------------------------------------------------------------


@pytest.mark.control("8 the ledger knows every credential first")
def test_credential_is_in_the_ledger_before_it_is_asked_for() -> None:
    class Looking(FakeIssuer):
        outstanding: list[int]

        async def issue(self, grant: Any, lease: Any, now: float) -> Any:
            self.outstanding = [made[0].outstanding()]
            return await super().issue(grant, lease, now)

    issuer, made = Looking(), list[Guard]()
    with fake_guard(issuer=issuer) as guard:
        made.append(guard)
        with guard.task("bot", on_behalf_of="alice", intent=everything()):
            pay("acme")
        assert guard.outstanding() == 0
    assert issuer.outstanding == [1]


@pytest.mark.control("8 the ledger knows every credential first")
def test_error_while_issuing_means_that_it_may_exist_so_it_is_revoked() -> None:
    class Losing(FakeIssuer):
        async def issue(self, grant: Any, lease: Any, now: float) -> Any:
            await super().issue(grant, lease, now)
            raise ConnectionError("the reply was lost")

    issuer = Losing()
    with fake_guard(issuer=issuer) as guard, guard.task("bot", on_behalf_of="alice", intent=everything()):
        with pytest.raises(Denied) as denied:
            pay("acme")
        assert denied.value.reason == "credential_unavailable"
        assert issuer.live == {}
        assert guard.outstanding() == 0


@pytest.mark.control("8 a failed revoke is kept and retried")
def test_failed_revoke_never_reaches_the_caller_and_is_retried() -> None:
    issuer = FakeIssuer()
    with fake_guard(issuer=issuer) as guard:
        with guard.task("bot", on_behalf_of="alice", intent=everything()):
            issuer.revoke_error = ConnectionError()
            assert wipe("acme")
        assert guard.outstanding() == 1
        issuer.revoke_error = None
        guard.keeper.tick()
        assert guard.outstanding() == 0
        assert issuer.live == {}
        assert events(guard).count("credential.revoke_failed") >= 1


# 9 Nothing starts after suspend returned ------------------------------------------------------------------


@pytest.mark.control("9 nothing starts after suspend returned")
def test_no_call_starts_after_suspend_returned() -> None:
    started: list[int] = []
    stopped, stop = threading.Event(), threading.Event()

    @guarded("tick", effect="read")
    def tick() -> None:
        started.append(stopped.is_set())

    with fake_guard() as guard, guard.task("bot", on_behalf_of="alice", intent=Intent("x", reads=["tick"])) as task:

        def hammer() -> None:
            while not stop.is_set():
                try:
                    tick()
                except Denied:
                    return

        threads = [threading.Thread(target=task.bind(hammer)) for _ in range(8)]
        for thread in threads:
            thread.start()
        while len(started) < 50:
            pass
        guard.suspend(agent="bot", why="test")
        running = len(started)
        stopped.set()
        for thread in threads:
            thread.join(10)
        stop.set()
    assert running >= 50
    assert sum(started) <= 8  # a call that was marked as running before may still enter its body


@pytest.mark.control("9 nothing starts after suspend returned")
def test_revoke_all_kills_every_credential_and_denies_every_call() -> None:
    issuer = FakeIssuer()
    with fake_guard(issuer=issuer) as guard, guard.task("bot", on_behalf_of="alice", intent=everything()):
        pay("acme")
        assert len(issuer.live) == 1
        guard.revoke_all("incident 12")
        assert issuer.live == {}
        with pytest.raises(Denied) as denied:
            pay("acme")
        assert denied.value.reason == "suspended"
        guard.lift("all")
        assert pay("acme")


@pytest.mark.control("9 the gate looks again")
def test_suspension_during_the_approval_is_seen_at_the_gate() -> None:
    class Slow(Answering):
        async def ask(self, request: Any) -> Any:
            made[0].suspend(agent="bot", why="meanwhile")
            return await super().ask(request)

    made: list[Guard] = []

    intent = Intent("x", step("refund", account="acme", amount=any_).then_ask())
    with fake_guard(approver=Slow()) as guard, guard.task("bot", on_behalf_of="alice", intent=intent):
        made.append(guard)
        with pytest.raises(Denied) as denied:
            refund("acme", Decimal(5))
    assert denied.value.reason == "suspended"
    assert ran == []


@pytest.mark.control("9 the gate looks again")
def test_task_that_ended_during_the_approval_is_seen_at_the_gate() -> None:
    clock = FakeClock()

    class Slow(Answering):
        async def ask(self, request: Any) -> Any:
            monotonic.advance(10_000)
            return await super().ask(request)

    monotonic = FakeClock()
    intent = Intent("x", step("refund", account="acme", amount=any_).then_ask())
    with fake_guard(approver=Slow(), clock=clock, monotonic=monotonic) as guard:
        with guard.task("bot", on_behalf_of="alice", intent=intent), pytest.raises(Denied) as denied:
            refund("acme", Decimal(5))
    assert denied.value.reason in ("expired", "task_ended")
    assert ran == []


@pytest.mark.control("9 the gate looks again")
def test_call_that_the_last_look_refuses_never_ran() -> None:
    clock = FakeClock()

    class Slow(MemorySuspensions):
        seconds = 10.0

        async def start(self, call: str, keys: Sequence[str], *, reads: bool = False) -> str:
            clock.advance(self.seconds)
            return await super().start(call, keys, reads=reads)

    suspensions = Slow()
    once = Intent("once", step("refund", account="acme", amount=any_))
    with fake_guard(suspensions=suspensions, monotonic=clock) as guard:
        with guard.task("bot", on_behalf_of="alice", intent=once) as task:
            with task.delegate("helper", intent=once, ttl=5), pytest.raises(Denied) as denied:
                refund("acme", Decimal(5))
            assert ran == []
            suspensions.seconds = 0.0
            assert refund("acme", Decimal(5))
    assert denied.value.reason == "expired"
    calls = [event for event in events(guard) if event.startswith("call.")]
    assert calls == ["call.permitted", "call.denied", "call.cancelled", "call.permitted", "call.completed"]


@pytest.mark.control("9 a stop names no subject in the log")
def test_denial_by_a_stop_of_a_subject_records_their_pseudonym() -> None:
    log = MemoryLog()
    with fake_guard(audit=log) as guard:
        guard.suspend(subject="user:alice", why="left")
        with guard.task("bot", on_behalf_of="alice", intent=everything()), pytest.raises(Denied) as denied:
            refund("acme", Decimal(5))
    assert denied.value.decision.level == "subject:user:alice"
    levels = [record["level"] for record in log.records if record["event"] == Event.CALL_DENIED]
    assert levels == [f"subject:{guard.pseudonym('user:alice')}"]
    assert "alice" not in str(log.records)


# 10 No parameter switches a control off -------------------------------------------------------------------


@pytest.mark.control("10 no switch turns a control off")
def test_no_public_parameter_names_a_control_to_switch_off() -> None:
    import inspect

    import agentguard

    switches = {
        "enabled",
        "disabled",
        "enforce",
        "strict",
        "verify",
        "audit_enabled",
        "skip",
        "unsafe",
        "bypass",
        "dry_run",
    }
    for name in agentguard.__all__:
        value = getattr(agentguard, name)
        if callable(value) and not isinstance(value, type(Exception)):
            assert not switches & set(inspect.signature(value).parameters), name


@pytest.mark.control("10 no switch turns a control off")
def test_guard_without_approver_issuer_or_users_denies_what_would_need_them() -> None:
    with fake_guard(issuer=None) as guard, guard.task("bot", on_behalf_of="alice", intent=everything()):
        with pytest.raises(Denied) as denied:
            pay("acme")
    assert denied.value.reason == "credential_unavailable"


# records --------------------------------------------------------------------------------------------------


def test_every_call_leaves_a_decision_and_an_outcome_and_a_denial_leaves_its_reason(guard: Guard) -> None:
    with guard.task("bot", on_behalf_of="alice", intent=everything()):
        pay("acme")
        with pytest.raises(Denied):
            refund("evil", Decimal(5))
        list(lines(2))
    assert events(guard) == [
        Event.TASK_OPENED, Event.CALL_PERMITTED, Event.CREDENTIAL_ISSUED, Event.CALL_COMPLETED, Event.CALL_DENIED,
        Event.CALL_PERMITTED, Event.CREDENTIAL_ISSUED, Event.CALL_COMPLETED, Event.CREDENTIAL_REVOKED,
        Event.CREDENTIAL_REVOKED, Event.TASK_ENDED,
    ] or events(guard)[0] == "log.opened"  # fmt: skip
    denied = next(r for r in records(guard) if r["event"] == "call.denied")
    assert (denied["reason"], denied["miss"]["argument"]) == ("argument_violation", "account")
    assert "alice" not in json.dumps(records(guard))
    assert "evil" not in json.dumps(records(guard))
    gc.collect()


def test_records_of_tools_that_share_a_name_say_what_each_of_them_is(guard: Guard) -> None:
    @guarded("doc.get", effect="read", tags=["open"])
    def look(name: str) -> str:
        return name

    @guarded("doc.get", audience=tools.API, data=["pii"], tags=["egress"])
    def send(name: str) -> str:
        return name

    intent = Intent("x", step("doc.get", name="a").times(9))
    with guard.task("bot", on_behalf_of="alice", intent=intent):
        for tool in (look, send, look, send):
            tool("a")
            with pytest.raises(Denied):
                tool("b")
    said = [
        (record["event"], record["effect"], record["tags"], record.get("data"), record["credential"])
        for record in records(guard)
        if record["event"] in (Event.CALL_PERMITTED, Event.CALL_DENIED)
    ]
    looked, sent = ("read", ["open"], None, "none"), ("write", ["egress"], ["pii"], tools.API)
    assert said == [
        (event, *each) for each in (looked, sent) * 2 for event in (Event.CALL_PERMITTED, Event.CALL_DENIED)
    ]
