"""What a list of traces shows of a call and of a task: one line, without a value."""

from __future__ import annotations

import asyncio
import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import StatusCode

from agentguard import ApprovalRequired, Denied, Intent, any_, guarded, step
from agentguard.audit.redaction import Redactor
from agentguard.model.decision import Decision, Outcome, Reason
from agentguard.model.lease import Lease
from agentguard.ports import Answer
from agentguard.telemetry import semconv as name
from agentguard.telemetry.settings import Content, Telemetry
from agentguard.telemetry.summary import MAX_LINE, counts_line, decision_line, lease_line, task_line
from agentguard.testing import Answering, FakeClock, FakeIssuer, fake_guard
from tests.telemetry.backend import Backend
from tests.tools import everything, pay, refund, wipe

SHOWN = Telemetry(content=Content.SPAN_ONLY)
ASKS = Intent("x", step("refund", account=any_, amount=any_).then_ask())


@guarded("shown.slow", effect="read", audience="https://api.test")
async def slow() -> None:
    """Never end by itself."""
    await asyncio.sleep(60)


@guarded("shown.mail", effect="read")
def mail(to: str, pin: str = "") -> str:
    """Say whom it was sent to."""
    return f"sent to {to}"


@guarded("shown.fail", effect="read")
def fail() -> None:
    """Raise."""
    raise ValueError("account 4711")


def line(span: ReadableSpan, key: str = name.OUTPUT_VALUE) -> Any:
    return (span.attributes or {}).get(key)


# as text ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ({}, "no calls; no credentials"),
        ({"permitted": 2}, "2 permitted; no credentials"),
        (
            {"denied": 4, "asked": 1, "permitted": 4, "issued": 3, "revoked": 3},
            "4 denied, 1 asked, 4 permitted; 3 credentials, all revoked",
        ),
        ({"permitted": 1, "issued": 1}, "1 permitted; 1 credential, 1 not revoked"),
    ],
)
def test_counts_of_a_task_are_one_line(counts: dict[str, int], expected: str) -> None:
    assert expected == counts_line(counts)


@pytest.mark.parametrize(
    ("status", "now", "expected"),
    [
        ("revoked", 1000.012, "at+jwt revoked after 12 ms"),
        ("revoked", 1002.5, "at+jwt revoked after 2.5 s"),
        ("expired", 1090.0, "at+jwt expired after 90 s"),
        ("revoked", 999.0, "at+jwt revoked after 0 ms"),
        ("kept", 1001.0, "at+jwt kept"),
        ("active", 1001.0, "at+jwt kept"),
        ("failed", 1001.0, "at+jwt not revoked yet"),
        ("expires", 1001.0, "at+jwt ends by itself"),
        ("irrevocable", 1001.0, "at+jwt irrevocable"),
    ],
)
def test_what_became_of_a_credential_is_a_few_words(lease: Lease, status: str, now: float, expected: str) -> None:
    assert expected == lease_line(lease, status, now)


@given(st.text(), st.text(), st.sampled_from(list(Reason)), st.sampled_from(list(Outcome)))
def test_a_line_is_bounded_and_says_no_more_than_the_codes(one: str, other: str, reason: Reason, to: Outcome) -> None:
    decision = Decision(outcome=to, reason=reason, tool=one, level=other)

    assert len(task_line(one, other)) <= max(MAX_LINE, len(one))
    assert decision_line(decision) in {"permit", "ask: approval_required", f"deny: {reason}"}


# of a guard ---------------------------------------------------------------------------------------------------


def test_a_task_says_who_acts_what_for_and_what_came_of_it(backend: Backend) -> None:
    with fake_guard() as guard, guard.task("bot", on_behalf_of="alice", intent=everything()) as task:
        pay("acme")
        wipe("acme")
        with pytest.raises(Denied):
            pay("evil")
        with task.delegate("helper", reads=["lines"]):
            pass
    span, helper = backend.span("invoke_agent bot"), backend.span("invoke_agent helper")
    user = line(span, name.AGENTGUARD_DELEGATION_CHAIN)[0]

    assert f"{user} > bot: {task.intent.purpose}" == line(span, name.INPUT_VALUE)
    assert f"{user} > bot > helper: {task.intent.purpose}" == line(helper, name.INPUT_VALUE)
    assert "1 denied, 2 permitted; 2 credentials, all revoked" == line(span)
    assert "no calls; no credentials" == line(helper)


def test_a_delegation_says_to_whom_and_a_refused_one_why(backend: Backend) -> None:
    with fake_guard() as guard, guard.task("bot", on_behalf_of="alice", intent=everything()) as task:
        with task.delegate("helper", reads=["lines"]):
            pass
        with pytest.raises(Denied):
            task.delegate("bot", reads=["lines"])
    made, refused = backend.spans(name.DELEGATE)

    assert ("delegated", "deny: cycle") == (line(made), line(refused))
    assert str(line(made, name.INPUT_VALUE)).endswith(" > bot > helper")


def test_a_call_says_who_acts_its_decision_and_the_life_of_its_credential(backend: Backend) -> None:
    clock = FakeClock()

    @guarded("shown.wait", effect="destructive", audience="https://api.test")
    def wait() -> None:
        clock.advance(0.012)

    used = [step("shown.wait"), step("pay", account="acme", amount=any_)]
    with fake_guard(clock=clock, monotonic=clock) as guard:
        with guard.task("bot", on_behalf_of="alice", intent=Intent("x", *used)):
            wait()
            pay("acme")
            with pytest.raises(Denied):
                pay("evil")
    denied, kept = sorted(backend.spans("execute_tool pay"), key=lambda one: str(line(one)))

    assert "permit; at+jwt revoked after 12 ms" == line(backend.span("execute_tool shown.wait"))
    assert ("permit; at+jwt kept", "deny: argument_violation") == (line(kept), line(denied))
    assert line(kept, name.AGENTGUARD_DELEGATION_CHAIN_TEXT) == line(kept, name.INPUT_VALUE)


def test_a_denial_after_the_credential_was_issued_says_both(backend: Backend) -> None:
    clock, issuer = FakeClock(), FakeIssuer()
    with fake_guard(issuer=issuer, clock=clock, monotonic=clock) as guard:
        with guard.task("bot", on_behalf_of="alice", intent=everything()) as task:
            real = guard.suspensions.start

            async def stopped(*args: Any, **named: Any) -> str:
                del args, named
                return f"task:{task.id}"

            guard.suspensions.start = stopped  # type: ignore[method-assign]  # suspended at the very gate
            with pytest.raises(Denied):
                wipe("acme")
            guard.suspensions.start = real  # type: ignore[method-assign]  # as before

    assert "deny: suspended; at+jwt revoked after 0 ms" == line(backend.span("execute_tool wipe"))


def test_a_question_is_to_be_seen_while_it_waits_and_once_it_was_answered(backend: Backend) -> None:
    with fake_guard(approver=Answering(Answer.PENDING)) as guard, pytest.raises(ApprovalRequired):
        with guard.task("bot", on_behalf_of="alice", intent=ASKS):
            refund("acme", Decimal(5))
    with fake_guard(approver=Answering()) as guard, guard.task("other", on_behalf_of="alice", intent=ASKS):
        refund("acme", Decimal(5))
    waiting, answered = backend.spans("execute_tool refund")

    assert ("ask: approval_required", "permit (asked)") == (line(waiting), str(line(answered)).partition(";")[0])
    assert StatusCode.UNSET is waiting.status.status_code
    assert str(line(backend.span("invoke_agent bot"))).startswith("1 asked")


def test_a_cancelled_call_is_no_denial_and_no_failure(backend: Backend) -> None:
    async def work() -> None:
        async with guard.task("bot", on_behalf_of="alice", intent=Intent("x", reads=["shown.slow"])):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(slow(), 0.01)

    with fake_guard() as guard:
        asyncio.run(work())
    span = backend.span("execute_tool shown.slow")

    assert "permit; cancelled; at+jwt kept" == line(span)
    assert (StatusCode.UNSET, None) == (span.status.status_code, line(span, name.ERROR_TYPE))
    (point,) = backend.metrics()[name.METRIC_GEN_AI_EXECUTE_TOOL_DURATION]
    assert str(point.attributes[name.ERROR_TYPE]).endswith("CancelledError")


class Slow:
    """A decision point that takes a minute."""

    suspends, name, version = True, "slow", ""

    async def decide(self, request: Any) -> Any:
        del request
        await asyncio.sleep(60)


class NobodyThere(Answering):
    async def ask(self, request: Any) -> Any:
        del request
        await asyncio.sleep(60)


@pytest.mark.parametrize(
    ("ports", "expected"),
    [
        ({"decision_points": [Slow()]}, "not decided; cancelled"),
        ({"approver": NobodyThere()}, "ask: approval_required; cancelled"),
    ],
)
def test_a_call_that_was_given_up_before_it_was_decided_is_no_denial(
    backend: Backend, ports: dict[str, Any], expected: str
) -> None:
    @guarded("shown.undecided", effect="read")
    async def undecided() -> None:
        raise AssertionError

    used = step("shown.undecided")
    intent = Intent("x", used.then_ask() if "approver" in ports else used)

    async def work() -> None:
        async with guard.task("bot", on_behalf_of="alice", intent=intent):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(undecided(), 0.01)

    with fake_guard(**ports) as guard:
        asyncio.run(work())
        assert list(guard.explain()) == []
    span = backend.span("execute_tool shown.undecided")

    assert (expected, StatusCode.UNSET, None) == (line(span), span.status.status_code, line(span, name.ERROR_TYPE))
    assert "deny" not in {
        point.attributes[name.AGENTGUARD_DECISION_OUTCOME]
        for point in backend.metrics().get(name.METRIC_AGENTGUARD_DECISIONS, [])
    }


def test_a_tool_that_raised_failed_by_its_type(backend: Backend) -> None:
    with fake_guard() as guard, guard.task("bot", on_behalf_of="alice", intent=Intent("x", reads=["shown.fail"])):
        with pytest.raises(ValueError, match="4711"):
            fail()
    span = backend.span("execute_tool shown.fail")

    assert ("permit; failed: ValueError", StatusCode.ERROR) == (line(span), span.status.status_code)


# content comes first ------------------------------------------------------------------------------------------


def test_captured_content_takes_the_place_of_both_lines(backend: Backend) -> None:
    intent = Intent("x", step("shown.mail", to="acme", pin=any_).times(9))
    with fake_guard(telemetry=SHOWN) as guard, guard.task("bot", on_behalf_of="alice", intent=intent):
        mail("acme")
        with pytest.raises(Denied):
            mail("evil")
    permitted, denied = backend.spans("execute_tool shown.mail")

    assert (None, None) == (line(permitted, name.INPUT_VALUE), line(permitted))
    assert '"sent to acme"' == line(permitted, name.GEN_AI_TOOL_CALL_RESULT)
    assert (None, "deny: argument_violation") == (line(denied, name.INPUT_VALUE), line(denied))


@pytest.mark.control("6 what a redactor takes out is on no span")
def test_captured_content_and_a_purpose_go_through_the_guards_redactor(backend: Backend) -> None:
    intent = Intent("Write to ann@bank.test", step("shown.mail", to=any_, pin=any_))
    with fake_guard(telemetry=SHOWN, redactor=Redactor()) as guard:
        with guard.task("bot", on_behalf_of="alice", intent=intent):
            mail("bob@bank.test", pin="pin-of-ann")
    told = json.dumps([span.to_json() for span in backend.spans()])

    assert "@bank.test" not in told
    assert "pin-of-ann" not in told
    assert "[redacted: email]" in str(line(backend.span("execute_tool shown.mail"), name.GEN_AI_TOOL_CALL_RESULT))


@pytest.mark.control("6 what a redactor takes out is on no span")
def test_content_that_cannot_be_redacted_is_not_shown(backend: Backend) -> None:
    class Broken(Redactor):
        def value(self, value: Any) -> Any:
            raise RuntimeError("redactor")

    intent = Intent("x", step("shown.mail", to=any_, pin=any_))
    with fake_guard(telemetry=SHOWN, redactor=Broken()) as guard:
        with guard.task("bot", on_behalf_of="alice", intent=intent):
            assert "sent to acme" == mail("acme")
    span = backend.span("execute_tool shown.mail")

    assert (None, None) == (line(span, name.GEN_AI_TOOL_CALL_ARGUMENTS), line(span, name.GEN_AI_TOOL_CALL_RESULT))
    assert "permit" == line(span)


@pytest.mark.control("6 a credential is never seen")
def test_no_line_holds_an_argument_a_subject_or_a_credential(backend: Backend) -> None:
    with fake_guard() as guard, guard.task("bot", on_behalf_of="alice.smith", intent=everything()):
        pay("acme")
        with pytest.raises(Denied):
            pay("evil-corp")
    lines = [str(line(span, key)) for span in backend.spans() for key in (name.INPUT_VALUE, name.OUTPUT_VALUE)]

    for hidden in ("acme", "evil-corp", "alice.smith", "canary-", "lease-1"):
        assert hidden not in " ".join(lines)


def test_a_frameworks_own_span_keeps_its_own_input_and_output(backend: Backend) -> None:
    own = {name.GEN_AI_OPERATION_NAME: "execute_tool", name.GEN_AI_TOOL_NAME: "pay", name.INPUT_VALUE: "theirs"}
    with fake_guard() as guard, guard.task("bot", on_behalf_of="alice", intent=everything()):
        with backend.traces.get_tracer("framework").start_as_current_span("execute_tool pay", attributes=own):
            pay("acme")
    span = backend.span("execute_tool pay")

    assert ("theirs", None, "permit") == (
        line(span, name.INPUT_VALUE), line(span), line(span, name.AGENTGUARD_DECISION_OUTCOME),
    )  # fmt: skip


def test_a_decision_that_did_not_count_says_so(permit: Decision) -> None:
    observed = replace(permit, outcome=Outcome.DENY, reason=Reason.OUTSIDE_INTENT)

    assert "deny: outside_intent (not enforced)" == decision_line(observed, enforced=False)
    assert "not decided" == decision_line(None)
