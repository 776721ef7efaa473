"""A failure inside telemetry changes no outcome."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.trace import NonRecordingSpan, NoOpTracerProvider, Span, SpanContext

from agentguard.model.call import ToolCall, ToolSpec
from agentguard.model.decision import Decision, Reason
from agentguard.model.lease import Lease
from agentguard.telemetry import enclosing
from agentguard.telemetry.spans import Attributes, delegated, start_agent, start_call, tool_attributes
from tests.telemetry.conftest import Traced

Deny = Callable[[Reason], Decision]


class Broken(Exception):
    pass


class BrokenSpan(NonRecordingSpan):
    """Says that it records, and raises whenever it is written to."""

    def is_recording(self) -> bool:
        return True

    def _raise(self, *args: Any, **kwargs: Any) -> Any:
        raise Broken("value-of-an-attribute")

    set_attribute = set_attributes = set_status = end = _raise


class BrokenTracer(trace.NoOpTracer):
    def __init__(self, span: Span | None) -> None:
        self._span = span

    def start_span(self, *args: Any, **kwargs: Any) -> Span:
        if self._span is None:
            raise Broken("value-of-an-attribute")
        return self._span


class Fails(trace.TracerProvider):
    """Fails where it is told to: at the tracer, at the start of a span, or at whatever is done with one."""

    def __init__(self, where: str) -> None:
        self.where = where

    def get_tracer(self, *args: Any, **kwargs: Any) -> trace.Tracer:
        if self.where == "tracer":
            raise Broken("value-of-an-attribute")
        return Plain(BrokenSpan(SpanContext(1, 2, is_remote=False)) if self.where == "span" else None)


class Plain(trace.Tracer):
    """Not a NoOpTracer, which would be left out before it could fail."""

    def __init__(self, span: Span | None) -> None:
        self._broken = BrokenTracer(span)

    def start_span(self, *args: Any, **kwargs: Any) -> Span:
        return self._broken.start_span()

    start_as_current_span = start_span  # type: ignore[assignment]  # not used


class FailsOn(SpanProcessor):
    def __init__(self, what: str) -> None:
        self.what = what

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        if self.what == "start":
            raise Broken("value-of-an-attribute")

    def on_end(self, span: Any) -> None:
        if self.what == "end":
            raise Broken("value-of-an-attribute")


def processed_by(what: str) -> TracerProvider:
    provider = TracerProvider()
    provider.add_span_processor(FailsOn(what))
    return provider


PROVIDERS: dict[str, Callable[[], Any]] = {
    "tracer": lambda: Fails("tracer"),
    "start": lambda: Fails("start"),
    "span": lambda: Fails("span"),
    "processor at start": lambda: processed_by("start"),
    "processor at end": lambda: processed_by("end"),
    "not hashable": dict,
}


@pytest.mark.parametrize("broken", PROVIDERS)
def test_a_call_goes_on_when_tracing_fails(
    broken: str, spec: ToolSpec, task: Attributes, permit: Decision, deny: Deny, lease: Lease,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    provider: Any = PROVIDERS[broken]()
    before = otel_context.get_current()

    with caplog.at_level(logging.DEBUG):
        span = start_call(spec.name, task, tool_attributes(spec), None, "h", provider=provider)
        span.decided(permit)
        span.lease = lease
        span.attach()
        assert all(isinstance(text, str) for text in span.ids)
        span.release = "revoked", 1002.5, 0
        span.decided(deny(Reason.SUSPENDED))
        span.end("ValueError")
        agent = start_agent("a", task, provider=provider)
        agent.attach()
        agent.end({"denied": 1}, "ValueError")
        delegated("a", "b", task, refused=deny(Reason.CYCLE), provider=provider)

    assert before is otel_context.get_current()
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("agentguard")]
    assert ours
    assert "value-of-an-attribute" not in str(ours)


def test_a_call_goes_on_when_it_is_given_nonsense(traced: Traced, spec: ToolSpec, task: Attributes) -> None:
    nonsense: Any = object()

    span = start_call(spec.name, task, tool_attributes(spec), None, "", provider=traced.provider)
    span.decided(nonsense)
    span.lease = nonsense
    span.release = nonsense
    span.end()
    start_call(spec.name, nonsense, nonsense, nonsense, nonsense, provider=traced.provider).end()
    start_agent(nonsense, task, provider=traced.provider).end(nonsense)
    delegated(nonsense, nonsense, nonsense, provider=traced.provider)

    assert "execute_tool refund.create" == traced.only().name


class BrokenFilter(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        raise Broken


def test_a_call_goes_on_when_the_log_of_the_failure_fails_too(spec: ToolSpec, task: Attributes) -> None:
    log, broken = logging.getLogger("agentguard.telemetry.current"), BrokenFilter()
    log.addFilter(broken)
    log.setLevel(logging.DEBUG)
    try:
        start_call(spec.name, task, tool_attributes(spec), None, "", provider=Fails("tracer")).end()
    finally:
        log.removeFilter(broken)
        log.setLevel(logging.NOTSET)


class Interrupted(SpanProcessor):
    def on_end(self, span: Any) -> None:
        raise KeyboardInterrupt


def test_an_interrupt_is_not_swallowed(spec: ToolSpec, task: Attributes) -> None:
    provider = TracerProvider()
    provider.add_span_processor(Interrupted())
    span = start_call(spec.name, task, tool_attributes(spec), None, "", provider=provider)

    with pytest.raises(KeyboardInterrupt):
        span.end()


def test_a_call_goes_on_when_the_parent_cannot_be_found(
    monkeypatch: pytest.MonkeyPatch, traced: Traced, spec: ToolSpec, task: Attributes
) -> None:
    monkeypatch.setitem(sys.modules, enclosing.OPENINFERENCE, object())

    span = start_call(spec.name, task, tool_attributes(spec), None, "", provider=traced.provider)
    span.end()

    assert "execute_tool refund.create" == traced.only().name


def test_where_spans_go_nowhere_all_calls_share_one_object(spec: ToolSpec, task: Attributes, permit: Decision) -> None:
    call = ToolCall(id="c", spec=spec, arguments={}, given=frozenset(), digest="d", call_id="x")
    spans = [start_call(spec.name, task, {}, call, "", provider=NoOpTracerProvider()) for _ in range(2)]
    spans[0].decided(permit)
    spans[0].attach()
    spans[0].end("ValueError")

    assert spans[0] is spans[1]
    assert {} == spans[0]._attributes
    assert ("", "") == spans[0].ids


NO_SDK = """
import sys
from agentguard.telemetry import spans
assert "opentelemetry.sdk" not in sys.modules
one, other = (spans.start_call("t", {}, {}, None, "") for _ in range(2))
assert one is other
assert spans.start_agent("a", {}) is spans.start_agent("a", {})
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
trace.set_tracer_provider(TracerProvider())
late = spans.start_call("t", {}, {}, None, "")
assert late is not one and late.ids != ("", "")
"""


def test_without_an_sdk_nothing_is_built_and_a_provider_that_is_set_later_is_found() -> None:
    done = subprocess.run([sys.executable, "-W", "error", "-c", NO_SDK], capture_output=True, text=True, check=False)

    assert (0, "") == (done.returncode, done.stderr)


@pytest.mark.parametrize(("trace_id", "span_id"), [(0, 2), (1, 0), (0, 0)])
def test_ids_that_are_none_are_not_told(
    spec: ToolSpec, task: Attributes, permit: Decision, trace_id: int, span_id: int
) -> None:
    class Nameless(trace.TracerProvider):
        def get_tracer(self, *args: Any, **kwargs: Any) -> trace.Tracer:
            return Plain(NonRecordingSpan(SpanContext(trace_id, span_id, is_remote=False)))

    span = start_call(spec.name, task, tool_attributes(spec), None, "h", provider=Nameless())
    span.decision = permit

    assert ("", "") == span.ids


def test_span_that_has_ended_is_asked_and_attached_in_silence(
    traced: Traced, spec: ToolSpec, task: Attributes, permit: Decision, caplog: pytest.LogCaptureFixture
) -> None:
    span = start_call(spec.name, task, tool_attributes(spec), None, "h", provider=traced.provider)
    span.decision = permit
    span.end()
    before = otel_context.get_current()
    with caplog.at_level(logging.DEBUG):
        assert ("", "") == span.ids
        span.attach()

    assert [] == caplog.records
    assert before is otel_context.get_current()
