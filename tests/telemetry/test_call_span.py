from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, Sampler, SamplingResult
from opentelemetry.sdk.trace.sampling import Decision as Sampling
from opentelemetry.trace import SpanKind, StatusCode

from agentguard.model.call import ToolSpec
from agentguard.model.decision import Decision, Outcome, Reason
from agentguard.model.lease import Lease
from agentguard.telemetry import semconv as name
from agentguard.telemetry.spans import Attributes, CallSpan, start_call, tool_attributes
from tests.telemetry.conftest import Traced

Begin = Callable[[], CallSpan]
Deny = Callable[[Reason], Decision]
Conforms = Callable[[ReadableSpan, str], None]
CALL = "agentguard.execute_tool"


def of(span: ReadableSpan, key: str) -> object:
    return (span.attributes or {}).get(key)


def test_a_permitted_call_says_who_what_and_with_which_credential(
    traced: Traced, begin: Begin, permit: Decision, lease: Lease, conforms: Conforms
) -> None:
    span = begin()
    span.decided(permit)
    span.lease = lease
    span.attach()
    span.detach()
    span.release = "revoked", 1002.5, 0
    span.end()

    done = traced.only()
    conforms(done, CALL)
    assert ("execute_tool refund.create", SpanKind.INTERNAL, StatusCode.UNSET) == (
        done.name,
        done.kind,
        done.status.status_code,
    )
    assert ("permit", "a1:17", "refund") == (
        of(done, name.AGENTGUARD_DECISION_OUTCOME),
        of(done, name.AGENTGUARD_DECISION_ID),
        of(done, name.AGENTGUARD_INTENT_STEP),
    )
    assert ("call_2", "TOOL") == (of(done, name.GEN_AI_TOOL_CALL_ID), of(done, name.OPENINFERENCE_SPAN_KIND))
    assert ("revoked", 2.5) == (
        of(done, name.AGENTGUARD_CREDENTIAL_REVOCATION_STATUS),
        of(done, name.AGENTGUARD_CREDENTIAL_LIFE),
    )
    assert of(done, name.ERROR_TYPE) is None
    assert of(done, name.AGENTGUARD_DECISION_REASON) is None


def test_a_denial_is_an_error_on_our_span_with_a_sentence_without_values(
    traced: Traced, begin: Begin, deny: Deny, conforms: Conforms
) -> None:
    span = begin()
    span.decided(deny(Reason.OUTSIDE_INTENT))
    span.end("agentguard.errors.Denied", "whatever was raised")

    done = traced.only()
    conforms(done, CALL)
    assert StatusCode.ERROR is done.status.status_code
    assert (
        "denied: outside_intent: Tool 'refund.create' was not run: it is outside the declared task."
        == done.status.description
    )
    assert ("agentguard.denied", "deny", "outside_intent", "researcher", "a1:18") == (
        of(done, name.ERROR_TYPE),
        of(done, name.AGENTGUARD_DECISION_OUTCOME),
        of(done, name.AGENTGUARD_DECISION_REASON),
        of(done, name.AGENTGUARD_DECISION_LEVEL),
        of(done, name.AGENTGUARD_DECISION_ID),
    )
    assert "acme-secret" not in done.to_json()


@pytest.mark.parametrize("reason", [reason for reason in Reason if reason is not Reason.DECLARED])
def test_no_reason_puts_a_value_into_the_span(
    traced: Traced, begin: Begin, deny: Deny, conforms: Conforms, reason: Reason
) -> None:
    span = begin()
    span.decided(deny(reason))
    span.end()

    done = traced.only()
    conforms(done, CALL)
    assert "acme-secret" not in done.to_json()
    assert "Do not call it again" not in done.to_json()


@pytest.mark.parametrize(
    ("reason", "error_type"),
    [
        (Reason.APPROVAL_REJECTED, "agentguard.approval_rejected"),
        (Reason.APPROVAL_EXPIRED, "agentguard.approval_expired"),
        (Reason.CREDENTIAL_UNAVAILABLE, "agentguard.credential_error"),
        (Reason.POLICY_DENIED, "agentguard.denied"),
    ],
)
def test_what_a_denial_is_called(traced: Traced, begin: Begin, deny: Deny, reason: Reason, error_type: str) -> None:
    span = begin()
    span.decided(deny(reason))
    span.end()

    assert error_type == of(traced.only(), name.ERROR_TYPE)
    assert StatusCode.ERROR is traced.only().status.status_code


def test_a_question_that_is_not_answered_is_no_error(traced: Traced, begin: Begin, conforms: Conforms) -> None:
    span = begin()
    span.decided(Decision(outcome=Outcome.ASK, reason=Reason.APPROVAL_REQUIRED, tool="refund.create"))
    span.end()

    done = traced.only()
    conforms(done, CALL)
    assert ("ask", StatusCode.UNSET, None) == (
        of(done, name.AGENTGUARD_DECISION_OUTCOME),
        done.status.status_code,
        of(done, name.ERROR_TYPE),
    )


@pytest.mark.parametrize("opened_while_asking", [False, True])
def test_a_permit_after_a_question_keeps_nothing_of_the_question(
    traced: Traced, begin: Begin, permit: Decision, opened_while_asking: bool
) -> None:
    span = begin()
    span.decided(Decision(outcome=Outcome.ASK, reason=Reason.APPROVAL_REQUIRED, tool="refund.create"))
    if opened_while_asking:
        assert span.ids != ("", "")
    span.decided(permit)
    span.end()

    done = traced.only()
    assert ("permit", "declared") == (
        of(done, name.AGENTGUARD_DECISION_OUTCOME),
        of(done, name.AGENTGUARD_DECISION_REASON),
    )


def test_a_denial_that_is_only_observed_marks_nothing(traced: Traced, begin: Begin, deny: Deny) -> None:
    span = begin()
    span.decided(deny(Reason.OUTSIDE_INTENT), enforced=False)
    span.end()

    done = traced.only()
    assert ("deny", False, StatusCode.UNSET) == (
        of(done, name.AGENTGUARD_DECISION_OUTCOME),
        of(done, name.AGENTGUARD_DECISION_ENFORCED),
        done.status.status_code,
    )


def test_an_exception_of_the_tool_is_its_type_only(traced: Traced, begin: Begin, permit: Decision) -> None:
    span = begin()
    span.decided(permit)
    span.attach()
    span.end("httpx.ConnectError")

    done = traced.only()
    assert ("httpx.ConnectError", StatusCode.ERROR, None) == (
        of(done, name.ERROR_TYPE),
        done.status.status_code,
        done.status.description,
    )
    assert () == tuple(done.events)


def test_a_denial_after_the_permit_outranks_it(traced: Traced, begin: Begin, permit: Decision, deny: Deny) -> None:
    span = begin()
    span.decided(permit)
    span.attach()
    span.decided(deny(Reason.SUSPENDED))
    span.end()

    done = traced.only()
    assert ("deny", "suspended", "agentguard.denied") == (
        of(done, name.AGENTGUARD_DECISION_OUTCOME),
        of(done, name.AGENTGUARD_DECISION_REASON),
        of(done, name.ERROR_TYPE),
    )


def test_a_call_outside_any_task_has_a_span(traced: Traced, spec: ToolSpec, deny: Deny, conforms: Conforms) -> None:
    span = start_call(spec.name, {}, tool_attributes(spec), None, "", provider=traced.provider)
    span.decided(deny(Reason.NO_TASK))
    span.end()

    conforms(traced.only(), CALL)
    assert "no_task" == of(traced.only(), name.AGENTGUARD_DECISION_REASON)


def test_a_span_ends_once(traced: Traced, begin: Begin, permit: Decision, lease: Lease) -> None:
    span = begin()
    span.decided(permit)
    span.end()

    span.end("late")
    span.decided(permit)
    span.lease = lease
    span.release = "revoked", 1002.5, 0
    span.attach()
    span.detach()

    assert of(traced.only(), name.ERROR_TYPE) is None
    assert not trace.get_current_span().is_recording()


def test_a_span_lasts_from_the_start_of_the_call_not_from_its_decision(traced: Traced, begin: Begin) -> None:
    span = begin()
    before = traced.tracer().start_span("decision point")
    before.end()
    span.attach()
    span.end()

    started, opened = (
        traced.spans()["execute_tool refund.create"].start_time,
        traced.spans()["decision point"].start_time,
    )
    assert started is not None
    assert opened is not None
    assert started <= opened


def test_the_ids_are_those_of_the_exported_span(traced: Traced, begin: Begin) -> None:
    span = begin()
    ids = span.ids
    span.end()

    context = traced.only().context
    assert context is not None
    assert (trace.format_trace_id(context.trace_id), trace.format_span_id(context.span_id)) == ids


class KeepDenials(Sampler):
    def should_sample(
        self,
        parent_context: Any,
        trace_id: int,
        name: str,
        kind: Any = None,
        attributes: Any = None,
        links: Any = None,
        trace_state: Any = None,
    ) -> SamplingResult:
        denied = (attributes or {}).get("agentguard.decision.outcome") == "deny"
        return SamplingResult(Sampling.RECORD_AND_SAMPLE if denied else Sampling.DROP, attributes)

    def get_description(self) -> str:
        return "keeps denials"


def test_a_sampler_can_keep_every_denial(spec: ToolSpec, task: Attributes, permit: Decision, deny: Deny) -> None:
    traced = Traced(provider=TracerProvider(sampler=KeepDenials()))
    for decision in (permit, deny(Reason.OUTSIDE_INTENT), permit):
        span = start_call(spec.name, task, tool_attributes(spec), None, "", provider=traced.provider)
        span.decided(decision)
        span.attach()
        span.end()

    assert "deny" == of(traced.only(), name.AGENTGUARD_DECISION_OUTCOME)


def test_what_is_sampled_out_still_keeps_its_children_in_its_trace(
    spec: ToolSpec, task: Attributes, permit: Decision
) -> None:
    traced = Traced(provider=TracerProvider(sampler=ALWAYS_OFF))
    span = start_call(spec.name, task, tool_attributes(spec), None, "", provider=traced.provider)
    span.decided(permit)
    span.attach()
    child = traced.tracer().start_span("GET")
    span.end()

    assert child.get_span_context().is_valid
    assert () == traced.exporter.get_finished_spans()
