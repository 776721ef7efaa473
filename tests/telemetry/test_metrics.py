"""What is measured of calls, credentials, people and the audit log, and when nothing is."""

from __future__ import annotations

import asyncio
import time
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from opentelemetry import metrics as metrics_api
from opentelemetry import trace
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.trace import NoOpTracerProvider

import agentguard
from agentguard import ApprovalRequired, Denied, Intent, any_, current_credential, guarded, step
from agentguard.audit.memory import MemoryLog
from agentguard.errors import AuditUnavailable
from agentguard.model.decision import Reason
from agentguard.model.record import Event
from agentguard.ports import Answer
from agentguard.telemetry import metrics as metrics_module
from agentguard.telemetry import semconv as name
from agentguard.telemetry.metrics import Metrics
from agentguard.telemetry.pending import Pending
from agentguard.testing import Answering, FailingAudit, FakeClock, FakeIssuer, fake_guard
from tests.handing import guard_of, refunds
from tests.telemetry.backend import Backend, Point
from tests.tools import everything, lines, pay, refund, wipe

OUTCOME, REASON = name.AGENTGUARD_DECISION_OUTCOME, name.AGENTGUARD_DECISION_REASON


def only(points: list[Point], **wanted: Any) -> Point:
    """The one point with these attributes, named by their last part."""

    def short(point: Point) -> dict[str, Any]:
        return {key.rpartition(".")[2]: value for key, value in point.attributes.items()}

    (point,) = [one for one in points if wanted.items() <= short(one).items()]
    return point


def test_decisions_are_counted_by_tool_agent_outcome_and_reason(backend: Backend) -> None:
    with fake_guard() as guard, guard.task("bot", on_behalf_of="alice", intent=everything()) as task:
        pay("acme")
        pay("acme")
        with pytest.raises(Denied):
            pay("evil")
        task.refuse("a name that a model made up", Reason.UNGUARDED, "it is not guarded")
    points = backend.metrics()[name.METRIC_AGENTGUARD_DECISIONS]

    assert 2 == only(points, outcome="permit").value
    denied = only(points, reason="argument_violation")
    assert {name.GEN_AI_TOOL_NAME: "pay", name.GEN_AI_AGENT_NAME: "bot", OUTCOME: "deny",
            REASON: "argument_violation", name.AGENTGUARD_DECISION_ENFORCED: True} == denied.attributes  # fmt: skip
    assert name.GEN_AI_TOOL_NAME not in only(points, reason="unguarded").attributes
    assert "made up" not in str(backend.metrics())


def test_a_call_that_was_permitted_and_then_stopped_counts_once_by_its_last_decision(backend: Backend) -> None:
    issuer = FakeIssuer()
    issuer.issue_error = ConnectionError()
    with fake_guard(issuer=issuer) as guard, guard.task("bot", on_behalf_of="alice", intent=everything()):
        with pytest.raises(Denied):
            pay("acme")
    (point,) = backend.metrics()[name.METRIC_AGENTGUARD_DECISIONS]

    assert (1, "credential_unavailable") == (point.value, point.attributes[REASON])


def test_a_denied_call_has_no_tool_duration_and_a_failed_one_says_of_which_type(backend: Backend) -> None:
    @guarded("measured.fail", effect="read")
    def fail() -> None:
        raise ValueError("account 4711")

    with fake_guard() as guard, guard.task("bot", on_behalf_of="alice", intent=Intent("x", reads=["measured.fail"])):
        with pytest.raises(ValueError, match="4711"):
            fail()
        with pytest.raises(Denied):
            pay("acme")
    (point,) = backend.metrics()[name.METRIC_GEN_AI_EXECUTE_TOOL_DURATION]

    assert "measured.fail" == point.attributes[name.GEN_AI_TOOL_NAME]
    assert "ValueError" == point.attributes[name.ERROR_TYPE]


@pytest.mark.parametrize("kind", ["function", "generator"])
def test_time_of_the_tool_is_not_time_of_the_guard(backend: Backend, kind: str) -> None:
    @guarded("measured.slow", effect="read")
    def slow() -> None:
        time.sleep(0.05)

    with fake_guard() as guard:
        intent = Intent("x", reads=["measured.slow", "lines"])
        with guard.task("bot", on_behalf_of="alice", intent=intent):
            if kind == "function":
                slow()
            else:
                for _ in lines(1):
                    time.sleep(0.05)
    (tool,) = backend.metrics()[name.METRIC_GEN_AI_EXECUTE_TOOL_DURATION]
    (own,) = backend.metrics()[name.METRIC_AGENTGUARD_OVERHEAD_DURATION]
    attributes: Any = backend.span(f"execute_tool {'measured.slow' if kind == 'function' else 'lines'}").attributes

    assert tool.value >= 0.05 > own.value
    assert 0 < attributes[name.AGENTGUARD_OVERHEAD_DURATION] < 0.05


def test_credentials_are_followed_from_issue_to_end(backend: Backend) -> None:
    issuer = FakeIssuer()
    with fake_guard(issuer=issuer) as guard, guard.task("bot", on_behalf_of="alice", intent=everything()):
        pay("acme")
        pay("acme")  # the same credential
        wipe("acme")  # one of its own, ended with the call
        during = backend.metrics()
    after = backend.metrics()

    assert 2 == sum(point.value for point in during[name.METRIC_AGENTGUARD_CREDENTIALS_ISSUED])
    assert [1, 0] == [one[name.METRIC_AGENTGUARD_CREDENTIALS_ACTIVE][0].value for one in (during, after)]
    assert 2 == only(after[name.METRIC_AGENTGUARD_CREDENTIALS_REVOKED], status="revoked").value
    assert 2 == after[name.METRIC_AGENTGUARD_CREDENTIAL_LIFETIME][0].count
    assert 2 == after[name.METRIC_AGENTGUARD_CREDENTIAL_ISSUE_DURATION][0].count
    assert 1 == after[name.METRIC_AGENTGUARD_CREDENTIAL_REVOKE_DURATION][0].count


def test_end_of_a_credential_that_an_earlier_call_obtained_is_measured(backend: Backend) -> None:
    @guarded("leaks", effect="read", audience="https://api.test")
    def leaks(aloud: bool) -> str:
        return current_credential().token if aloud else ""

    with fake_guard() as guard, guard.task("bot", on_behalf_of="alice", intent=Intent("x", reads=["leaks"])):
        leaks(False)
        leaks(True)
    found = backend.metrics()

    assert 1 == found[name.METRIC_AGENTGUARD_CREDENTIAL_ISSUE_DURATION][0].count
    (point,) = found[name.METRIC_AGENTGUARD_CREDENTIAL_REVOKE_DURATION]
    assert (1, "at+jwt") == (point.count, point.attributes[name.AGENTGUARD_CREDENTIAL_TYPE])


def test_a_credential_that_was_never_issued_ends_without_being_missed(backend: Backend) -> None:
    issuer = FakeIssuer()
    issuer.issue_error = ConnectionError()
    with fake_guard(issuer=issuer) as guard, guard.task("bot", on_behalf_of="alice", intent=everything()):
        with pytest.raises(Denied):
            pay("acme")
    found = backend.metrics()

    assert name.METRIC_AGENTGUARD_CREDENTIALS_ACTIVE not in found
    (point,) = found[name.METRIC_AGENTGUARD_CREDENTIAL_ISSUE_DURATION]
    assert name.ERROR_CREDENTIAL == point.attributes[name.ERROR_TYPE]


def test_a_person_who_answers_at_once_is_waited_for_and_that_is_not_the_guards_time(backend: Backend) -> None:
    class Slow(Answering):
        async def ask(self, request: Any) -> Any:
            time.sleep(0.05)  # noqa: ASYNC251  # driven by hand
            return await super().ask(request)

    asks = Intent("x", step("refund", account=any_, amount=any_).then_ask())
    with fake_guard(approver=Slow()) as guard, guard.task("bot", on_behalf_of="alice", intent=asks):
        refund("acme", Decimal(5))
    found = backend.metrics()
    (waited,), (own,) = (
        found[metric]
        for metric in (name.METRIC_AGENTGUARD_APPROVAL_WAIT_DURATION, name.METRIC_AGENTGUARD_OVERHEAD_DURATION)
    )

    assert {name.AGENTGUARD_APPROVAL_ANSWER: "approved"} == waited.attributes
    assert waited.value >= 0.05 > own.value


def test_an_answer_that_came_later_is_measured_from_the_question(backend: Backend) -> None:
    asks = Intent("x", step("refund", account=any_, amount=any_).then_ask())
    clock = FakeClock()
    with fake_guard(approver=Answering(Answer.PENDING), clock=clock, monotonic=clock) as guard:
        with pytest.raises(ApprovalRequired) as waits, guard.task("bot", on_behalf_of="alice", intent=asks):
            refund("acme", Decimal(5))
        clock.advance(120)
        assert guard.answer(waits.value.question, approved=False, by="ann")
    (point,) = backend.metrics()[name.METRIC_AGENTGUARD_APPROVAL_WAIT_DURATION]

    assert ({name.AGENTGUARD_APPROVAL_ANSWER: "rejected"}, 120) == (point.attributes, round(point.value))


def test_delegations_are_measured_by_their_depth(backend: Backend) -> None:
    with fake_guard() as guard, guard.task("bot", on_behalf_of="alice", intent=everything()) as task:
        with task.delegate("helper", reads=["lines"]) as helper, helper.delegate("third", reads=["lines"]):
            pass
    (point,) = backend.metrics()[name.METRIC_AGENTGUARD_DELEGATION_DEPTH]

    assert ({name.AGENTGUARD_DELEGATION_ROOT_AGENT: "bot"}, 2, 3) == (point.attributes, point.count, point.value)


def test_delegations_are_counted_by_who_hands_on_to_whom(backend: Backend) -> None:
    with guard_of("home", "far") as home, home.task("bot", on_behalf_of="alice", intent=refunds()) as task:
        for _ in range(2):
            with task.delegate("researcher", intent=refunds()) as below:
                below.export("writer")
    points = backend.metrics()[name.METRIC_AGENTGUARD_DELEGATIONS]
    edges = {
        (one.attributes[name.AGENTGUARD_DELEGATION_FROM], one.attributes[name.AGENTGUARD_DELEGATION_TO]): one.value
        for one in points
    }

    assert {("bot", "researcher"): 2, ("researcher", "writer"): 2} == edges


def test_what_revoking_saved_is_the_time_that_a_credential_had_left(backend: Backend) -> None:
    with agentguard.local(audit=None) as guard, guard.task("bot", on_behalf_of="alice", intent=everything()):
        wipe("acme")
    (point,) = backend.metrics()[name.METRIC_AGENTGUARD_CREDENTIAL_UNUSED_TTL]

    assert {name.AGENTGUARD_CREDENTIAL_TYPE: "at+jwt"} == point.attributes
    assert (1, True) == (point.count, 1 < point.value <= 3600)


def waiting(backend: Backend) -> Any:
    points = backend.metrics().get(name.METRIC_AGENTGUARD_APPROVALS_PENDING)
    return points[0].value if points else None


def test_questions_wait_until_they_are_answered(backend: Backend) -> None:
    seen: list[int] = []

    class Looks(Answering):
        async def ask(self, request: Any) -> Any:
            seen.append(waiting(backend))
            return await super().ask(request)

    asks = Intent("x", step("refund", account=any_, amount=any_).times(9).then_ask())
    with fake_guard(approver=Looks()) as guard, guard.task("bot", on_behalf_of="alice", intent=asks):
        before = waiting(backend)
        refund("acme", Decimal(5))
        seen.append(waiting(backend))
    with fake_guard(approver=Answering(Answer.PENDING)) as guard:
        with pytest.raises(ApprovalRequired) as waits, guard.task("bot", on_behalf_of="alice", intent=asks):
            refund("acme", Decimal(5))
        seen.append(waiting(backend))
        assert guard.answer(waits.value.question, approved=True, by="ann")
        seen.append(waiting(backend))

    assert (0, [1, 0, 1, 0]) == (before, seen)


def test_a_question_that_was_given_up_or_has_expired_does_not_wait(backend: Backend) -> None:
    now = [0.0]
    pending = Pending(lambda: now[0])
    pending.begin("q-1", 60)
    pending.begin("q-2", 600)
    first, now[0] = pending.count(), 60.0

    assert (2, 1) == (first, pending.count())
    pending.end("q-2")
    pending.end("q-3")
    assert 0 == pending.count()

    class GivenUp(Answering):
        async def ask(self, request: Any) -> Any:
            raise asyncio.CancelledError

    asks = Intent("x", step("refund", account=any_, amount=any_).then_ask())
    with fake_guard(approver=GivenUp()) as guard, guard.task("bot", on_behalf_of="alice", intent=asks):
        with pytest.raises(asyncio.CancelledError):
            refund("acme", Decimal(5))
    assert 0 == waiting(backend)


def test_guards_of_one_process_share_the_gauge(backend: Backend) -> None:
    asks = Intent("x", step("refund", account=any_, amount=any_).then_ask())
    with fake_guard(approver=Answering(Answer.PENDING)) as one, fake_guard(approver=Answering(Answer.PENDING)) as two:
        for guard in (one, two):
            with pytest.raises(ApprovalRequired), guard.task("bot", on_behalf_of="alice", intent=asks):
                refund("acme", Decimal(5))
        (point,) = backend.metrics()[name.METRIC_AGENTGUARD_APPROVALS_PENDING]
    closed = waiting(backend)

    assert (2, {}, 0) == (point.value, point.attributes, closed)


def lag(backend: Backend) -> Any:
    (point,) = backend.metrics()[name.METRIC_AGENTGUARD_AUDIT_LAG]
    return point.value


@guarded("tell", effect="read")
def tell(name: str) -> str:
    return name


def test_records_that_a_crash_of_the_machine_may_lose_are_counted(backend: Backend, tmp_path: Path) -> None:
    seen: list[int] = []
    intent = Intent("x", step("tell", name=any_), step("refund", account=any_, amount=any_))
    with agentguard.local(audit=tmp_path) as guard:
        with guard.task("bot", on_behalf_of="alice", intent=intent):
            opened = lag(backend)
            tell("acme")
            seen.append(lag(backend) - opened)  # decided and completed
            refund("acme", Decimal(5))  # a write: its decision waits for the disk, its outcome does not
            seen.append(lag(backend))
        with agentguard.local(audit=tmp_path) as other, other.task("bot", on_behalf_of="alice", intent=intent):
            before = lag(backend)
            tell("acme")
            seen.append(lag(backend) - before)

    assert [2, 1, 2, 0] == [*seen, lag(backend)]


def test_log_that_cannot_tell_how_far_it_is_behind_counts_for_nothing(backend: Backend) -> None:
    class Behind(MemoryLog):
        behind = staticmethod(lambda: 1 // 0)

    with fake_guard(audit=Behind()) as guard:
        guard.records.record(Event.TASK_OPENED, {})
        assert 0 == lag(backend)


def test_records_that_are_not_written_are_counted_and_still_refuse(backend: Backend) -> None:
    with fake_guard(audit=FailingAudit(MemoryLog(), after=1)) as guard:
        guard.records.record(Event.TASK_OPENED, {})
        with pytest.raises(AuditUnavailable):
            guard.records.record(Event.TASK_OPENED, {})
    points = backend.metrics()[name.METRIC_AGENTGUARD_AUDIT_WRITE_DURATION]

    assert (1, 1) == (only(points, status="written").count, only(points, status="failed").count)


def test_measurements_of_a_call_lead_to_its_trace(backend: Backend) -> None:
    with fake_guard() as guard, guard.task("bot", on_behalf_of="alice", intent=everything()):
        pay("acme")
    span, found = backend.span("execute_tool pay"), backend.metrics()
    measured = (
        name.METRIC_GEN_AI_EXECUTE_TOOL_DURATION, name.METRIC_AGENTGUARD_AUTHORIZE_DURATION,
        name.METRIC_AGENTGUARD_OVERHEAD_DURATION, name.METRIC_AGENTGUARD_DECISIONS,
    )  # fmt: skip

    assert span.context is not None
    for metric in measured:
        assert {span.context.span_id} == {one.span_id for point in found[metric] for one in point.exemplars}, metric


def test_metrics_need_no_spans(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace, "get_tracer_provider", NoOpTracerProvider)
    with fake_guard() as guard, guard.task("bot", on_behalf_of="alice", intent=everything()):
        pay("acme")

    assert 1 == backend.metrics()[name.METRIC_GEN_AI_EXECUTE_TOOL_DURATION][0].count


def test_without_a_provider_nothing_is_made_and_one_that_is_set_later_is_found(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(metrics_module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(metrics_api, "get_meter_provider", NoOpMeterProvider)
    metrics = Metrics()
    before = metrics.on()
    monkeypatch.setattr(metrics_api, "get_meter_provider", lambda: backend.meters)
    soon, now[0] = metrics.on(), 101.5

    assert (False, False, True) == (before, soon, metrics.on())


class BrokenMeter:
    def __getattr__(self, name: str) -> Any:
        raise RuntimeError("telemetry")


class BrokenProvider:
    def __init__(self, where: str) -> None:
        self.where = where

    def get_meter(self, *args: Any) -> Any:
        if self.where == "provider":
            raise RuntimeError("telemetry")
        return BrokenMeter()


@pytest.mark.control("1 telemetry changes nothing")
@pytest.mark.parametrize("where", ["provider", "meter"])
def test_metrics_that_fail_change_nothing(monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    monkeypatch.setattr(metrics_api, "get_meter_provider", lambda: BrokenProvider(where))
    issuer = FakeIssuer()
    with fake_guard(issuer=issuer) as guard, guard.task("bot", on_behalf_of="alice", intent=everything()):
        assert pay("acme") == "lease-1"
        with pytest.raises(Denied):
            pay("evil")

    assert {} == issuer.live
