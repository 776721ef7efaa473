from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import StatusCode

from agentguard.model.call import ToolSpec
from agentguard.model.decision import Decision, Reason
from agentguard.telemetry import semconv as name
from agentguard.telemetry.spans import Attributes, CallSpan, delegated, start_agent, start_call, tool_attributes
from tests.telemetry.conftest import Traced

Begin = Callable[[], CallSpan]
Deny = Callable[[Reason], Decision]
OURS = "execute_tool refund.create"


def parent(traced: Traced, child: str) -> str | None:
    spans = traced.spans()
    names = {span.context.span_id: span.name for span in spans.values() if span.context}
    above = spans[child].parent
    return names.get(above.span_id) if above else None


def test_a_span_of_the_tool_nests_below_ours_and_ours_below_the_ambient_one(traced: Traced, begin: Begin) -> None:
    with traced.tracer().start_as_current_span("agent"):
        span = begin()
        span.attach()
        with traced.tracer().start_as_current_span("GET"):
            pass
        span.end()
        with traced.tracer().start_as_current_span("next"):
            pass

    assert ("agent", OURS, "agent") == (parent(traced, OURS), parent(traced, "GET"), parent(traced, "next"))


def test_a_generator_tool_that_is_not_attached_leaves_the_context_alone(traced: Traced, begin: Begin) -> None:
    before = otel_context.get_current()
    span = begin()
    assert before is otel_context.get_current()
    span.detach()
    span.end()

    assert OURS == traced.only().name


def test_a_detach_in_another_context_is_silent_and_leaves_no_ended_span_current(
    traced: Traced, begin: Begin, caplog: pytest.LogCaptureFixture
) -> None:
    span = begin()
    span.attach()
    copied = contextvars.copy_context()

    def elsewhere() -> trace.Span:
        span.detach()
        span.end()
        return trace.get_current_span()

    with caplog.at_level(logging.DEBUG):
        current = copied.run(elsewhere)
    otel_context.attach(otel_context.Context())

    assert not current.get_span_context().is_valid
    assert [] == caplog.records


def test_a_detach_in_a_context_that_went_on_leaves_that_one_alone(traced: Traced, begin: Begin) -> None:
    span = begin()
    span.attach()
    copied = contextvars.copy_context()
    other = trace.set_span_in_context(traced.tracer().start_span("other"))

    def elsewhere() -> otel_context.Context:
        otel_context.attach(other)
        span.detach()
        return otel_context.get_current()

    assert other is copied.run(elsewhere)
    otel_context.attach(otel_context.Context())


def test_a_span_detached_twice_is_silent(traced: Traced, begin: Begin, caplog: pytest.LogCaptureFixture) -> None:
    before = otel_context.get_current()
    span = begin()
    span.attach()
    span.attach()
    span.detach()
    span.detach()
    span.end()

    assert before is otel_context.get_current()
    assert [] == caplog.records


def test_calls_side_by_side_do_not_nest_in_one_another(traced: Traced, spec: ToolSpec, task: Attributes) -> None:
    async def one(number: int) -> None:
        span = start_call(f"tool_{number}", task, tool_attributes(spec), None, "", provider=traced.provider)
        span.attach()
        await asyncio.sleep(0)
        with traced.tracer().start_as_current_span(f"GET {number}"):
            await asyncio.sleep(0)
        span.end()

    async def all_of_them() -> None:
        with traced.tracer().start_as_current_span("agent"):
            await asyncio.gather(*(one(number) for number in range(8)))

    asyncio.run(all_of_them())

    for number in range(8):
        assert ("agent", f"execute_tool tool_{number}") == (
            parent(traced, f"execute_tool tool_{number}"),
            parent(traced, f"GET {number}"),
        )


def test_a_tool_on_another_thread_nests_below_ours(traced: Traced, begin: Begin) -> None:
    span = begin()
    span.attach()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(contextvars.copy_context().run, lambda: traced.tracer().start_span("GET").end()).result()
    span.end()

    assert OURS == parent(traced, "GET")


def framework_span(traced: Traced, tool: str = "refund.create") -> trace.Span:
    attributes = {name.GEN_AI_OPERATION_NAME: "execute_tool", name.GEN_AI_TOOL_NAME: tool, "theirs": 1}
    span: trace.Span = traced.tracer().start_span("execute_tool theirs", attributes=attributes)
    return span


def test_a_frameworks_span_of_the_same_tool_gets_our_attributes_and_no_second_one_is_opened(
    traced: Traced, begin: Begin, permit: Decision
) -> None:
    theirs = framework_span(traced)
    with trace.use_span(theirs, end_on_exit=True):
        span = begin()
        span.decided(permit)
        span.attach()
        with traced.tracer().start_as_current_span("GET"):
            pass
        span.end()
        assert theirs.is_recording()

    attributes = traced.spans()["execute_tool theirs"].attributes or {}
    assert ["GET", "execute_tool theirs"] == [done.name for done in traced.exporter.get_finished_spans()]
    assert ("permit", "task_77", 1) == (
        attributes[name.AGENTGUARD_DECISION_OUTCOME],
        attributes[name.AGENTGUARD_TASK_ID],
        attributes["theirs"],
    )
    assert name.OPENINFERENCE_SPAN_KIND not in attributes


def test_a_frameworks_span_that_stands_for_ours_is_not_attached_once_more(traced: Traced, begin: Begin) -> None:
    with trace.use_span(framework_span(traced), end_on_exit=True):
        before = otel_context.get_current()
        span = begin()
        span.attach()
        assert before is otel_context.get_current()
        span.end()


def test_a_denial_marks_a_frameworks_span_that_stands_for_ours(traced: Traced, begin: Begin, deny: Deny) -> None:
    with trace.use_span(framework_span(traced), end_on_exit=True):
        span = begin()
        span.decided(deny(Reason.NOT_ALLOWED))
        span.end()

    assert StatusCode.ERROR is traced.only().status.status_code
    assert "agentguard.denied" == (traced.only().attributes or {})[name.ERROR_TYPE]


def test_a_frameworks_span_that_ended_first_is_left_alone(
    traced: Traced, begin: Begin, permit: Decision, caplog: pytest.LogCaptureFixture
) -> None:
    theirs = framework_span(traced)
    with trace.use_span(theirs):
        span = begin()
    theirs.end()
    span.decided(permit)
    span.end()

    assert [] == caplog.records
    assert "execute_tool theirs" == traced.only().name


def test_a_frameworks_span_of_another_tool_is_a_parent(traced: Traced, begin: Begin) -> None:
    with trace.use_span(framework_span(traced, "lookup"), end_on_exit=True):
        begin().end()

    assert "execute_tool theirs" == parent(traced, OURS)


def test_a_second_attempt_below_a_frameworks_span_gets_a_span_of_its_own(
    traced: Traced, begin: Begin, permit: Decision, deny: Deny
) -> None:
    with trace.use_span(framework_span(traced), end_on_exit=True):
        first = begin()
        second = begin()
        second.decided(deny(Reason.BUDGET_EXHAUSTED))
        second.end()
        first.decided(permit)
        first.end()

    spans = traced.spans()
    assert "permit" == (spans["execute_tool theirs"].attributes or {})[name.AGENTGUARD_DECISION_OUTCOME]
    assert "deny" == (spans[OURS].attributes or {})[name.AGENTGUARD_DECISION_OUTCOME]


def test_a_guarded_tool_that_calls_itself_is_two_spans(traced: Traced, begin: Begin) -> None:
    outer = begin()
    outer.attach()
    begin().end()
    outer.end()

    assert 2 == len(traced.exporter.get_finished_spans())


def test_an_agents_span_counts_its_denials(
    traced: Traced, task: Attributes, conforms: Callable[[ReadableSpan, str], None]
) -> None:
    span = start_agent("researcher", task, provider=traced.provider)
    span.attach()
    with traced.tracer().start_as_current_span("chat"):
        pass
    span.end({"permitted": 3, "denied": 1, "issued": 2, "revoked": 2})

    done = traced.spans()["invoke_agent researcher"]
    conforms(done, "agentguard.invoke_agent")
    assert (3, 1, 0, "AGENT") == tuple(
        (done.attributes or {})[key]
        for key in (
            name.AGENTGUARD_DECISIONS_PERMITTED,
            name.AGENTGUARD_DECISIONS_DENIED,
            name.AGENTGUARD_DECISIONS_ASKED,
            name.OPENINFERENCE_SPAN_KIND,
        )
    )
    assert StatusCode.UNSET is done.status.status_code
    assert "invoke_agent researcher" == parent(traced, "chat")


def test_an_agent_that_failed_says_so(traced: Traced, task: Attributes) -> None:
    start_agent("researcher", task, provider=traced.provider).end(error_type="ValueError")

    assert (StatusCode.ERROR, "ValueError") == (
        traced.only().status.status_code,
        (traced.only().attributes or {})[name.ERROR_TYPE],
    )


def test_a_frameworks_span_of_the_same_agent_carries_the_counts(traced: Traced, task: Attributes) -> None:
    theirs = {name.GEN_AI_OPERATION_NAME: "invoke_agent", name.GEN_AI_AGENT_NAME: "researcher"}
    with traced.tracer().start_as_current_span("invoke_agent theirs", attributes=theirs):
        span = start_agent("researcher", task, provider=traced.provider)
        span.attach()
        span.end({"denied": 1})

    assert 1 == (traced.only().attributes or {})[name.AGENTGUARD_DECISIONS_DENIED]


def test_a_delegation_is_a_short_span(
    traced: Traced, task: Attributes, conforms: Callable[[ReadableSpan, str], None]
) -> None:
    with traced.tracer().start_as_current_span("agent"):
        delegated("support-bot", "researcher", task, provider=traced.provider)

    done = traced.spans()["agentguard.delegate"]
    conforms(done, "agentguard.delegate")
    assert ("support-bot", "researcher") == (
        (done.attributes or {})[name.AGENTGUARD_DELEGATION_FROM],
        (done.attributes or {})[name.AGENTGUARD_DELEGATION_TO],
    )
    assert "agent" == parent(traced, "agentguard.delegate")


def test_a_delegation_that_is_refused_is_an_error(
    traced: Traced, task: Attributes, deny: Deny, conforms: Callable[[ReadableSpan, str], None]
) -> None:
    delegated("support-bot", "x", task, refused=deny(Reason.DEPTH_EXCEEDED), provider=traced.provider)

    conforms(traced.only(), "agentguard.delegate")
    assert StatusCode.ERROR is traced.only().status.status_code
