"""One span that can be made current and ends once: what the spans of a call and of an agent have in common.

A span is opened as late as it can be, with the time at which it began and everything that is known by then in one
dictionary: that is what a sampler sees (so it can keep every denial) and the cheapest way to write attributes.

INVARIANT: a failure here changes no outcome. Each public function drops every `Exception` at its edge, and only those:
a cancellation or an interrupt is the caller's.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import Token
from functools import lru_cache
from time import time_ns
from typing import Final

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import (
    NoOpTracer,
    NoOpTracerProvider,
    ProxyTracerProvider,
    Span,
    SpanContext,
    StatusCode,
    Tracer,
)
from opentelemetry.trace import TracerProvider as Provider
from opentelemetry.util.types import AttributeValue

from agentguard._version import VERSION
from agentguard.telemetry import semconv as name
from agentguard.telemetry.attributes import MAX_TEXT, error_type_of
from agentguard.telemetry.links import traceparent

SCHEMA: Final = "https://opentelemetry.io/schemas/1.44.0"
_log: Final = logging.getLogger(__name__)
(_SPAN_KEY,) = trace.set_span_in_context(trace.INVALID_SPAN, Context())  # where a context has its span


class Current:
    """A span that is opened when it is attached, asked for its ids, or ended.

    Args:
        tracer: opens it; None for a borrowed span, and where spans go nowhere.
        title: the span's name.
        parent: the context it belongs to, taken when the call began.
        attributes: what is known so far; the span's own dictionary from here on.
        borrowed: a framework's span that stands for the same step; it is written to, never ended or attached.
    """

    # What most spans never set stands here: an instance is made for every call, so making one has to be cheap.
    _token: Token[Context] | None = None
    _before: Context | None = None  # what is current where it is attached, where that is known already
    _attached: tuple[Context, Context] | None = None
    _error: tuple[str, str] | None = None
    _span: Span | None = None
    _borrowed = _idle = False
    _started = 0

    def __init__(
        self,
        tracer: Tracer | None,
        title: str = "",
        parent: Context | None = None,
        attributes: dict[str, AttributeValue] | None = None,
        borrowed: Span | None = None,
    ) -> None:
        self._tracer, self._title, self._parent = tracer, title, parent
        self._attributes = {} if attributes is None else attributes
        if borrowed is not None:
            self._span, self._borrowed = borrowed, True
        elif tracer is None:
            self._idle = True
            return
        self._started = time_ns()

    @property
    def ids(self) -> tuple[str, str]:
        """Trace id and span id in base16, for the audit record; empty where there is no span."""
        try:
            span = self._span
            if span is None:
                self._begin()
                span = self._span
                if span is None:
                    return "", ""
            held = getattr(span, "_context", None)  # where the SDK keeps it, two calls nearer
            known = held if type(held) is SpanContext else span.get_span_context()
            trace_id, span_id, *_ = known  # a tuple; its properties cost a call each
            return (_trace_text(trace_id), f"{span_id:016x}") if trace_id and span_id else ("", "")
        except Exception as error:
            dropped(error)
            return "", ""

    @property
    def traceparent(self) -> str:
        """The span as text (W3C Trace Context), for a link to it; empty where there is no span."""
        try:
            self._begin()
            return traceparent(self._span.get_span_context()) if self._span is not None else ""
        except Exception as error:
            dropped(error)
            return ""

    def since(self, started: int) -> None:
        """Let the span begin earlier than it was made, in nanoseconds since the epoch."""
        self._started = started

    def add(self, attributes: Mapping[str, AttributeValue]) -> None:
        """Note more of what the span is about."""
        self._attributes.update(attributes)

    def close(self, error_type: str = "", description: str = "") -> None:
        """End a span that has no more to say than whether it failed."""
        if error_type:
            self._error = (error_type, description)
        self._finish()

    def attach(self) -> None:
        """Make the span current, so that spans opened from here on nest below it; never around a generator tool."""
        if self._borrowed or self._token is not None:
            return
        try:
            span = self._span
            if span is None:
                self._begin()
                span = self._span
                if span is None:  # it has ended, or goes nowhere
                    return
            before, self._before = self._before, None  # known once: what is attached again may be so elsewhere
            if before is None:
                before = otel_context.get_current()
            # What `trace.set_span_in_context(span, before)` makes, without the way there.
            context = Context({**before, _SPAN_KEY: span})
            self._attached = (context, before)
            self._token = otel_context.attach(context)
        except Exception as error:
            dropped(error)

    def detach(self) -> None:
        """Undo `attach`; without it, twice, or in another context it does nothing and is silent."""
        token = self._token
        if token is None:
            return
        self._token = None
        try:
            # Not `otel_context.detach`: in another context that one logs an error with a traceback.
            token.var.reset(token)
        except Exception:
            self._restore()

    @contextmanager
    def visited(self) -> Iterator[None]:
        """Make the span current in another thread that works under it, unless a span is current there already."""
        token: Token[Context] | None = None
        try:
            if self._span is not None and not trace.get_current_span().get_span_context().is_valid:
                token = otel_context.attach(trace.set_span_in_context(self._span))
        except Exception as error:
            dropped(error)
        try:
            yield
        finally:
            if token is not None:
                with suppress(Exception):
                    token.var.reset(token)

    def _restore(self) -> None:
        """In a copy of the context that `attach` changed, put back what was there; leave any other alone."""
        with suppress(Exception):
            if self._attached is not None and otel_context.get_current() is self._attached[0]:
                otel_context.attach(self._attached[1])

    def _begin(self) -> None:
        tracer, self._tracer = self._tracer, None
        if tracer is not None:
            known, self._attributes = self._attributes, {}
            self._span = tracer.start_span(self._title, self._parent, attributes=known, start_time=self._started)

    def _finish(self, *, recording: bool = False) -> None:
        """Write what is new since the span began, at once; one that begins only now has it from its start.

        Args:
            recording: whether it is known already that somebody records what is written.
        """
        self._idle = True
        try:
            if self._error is not None:
                self._attributes[name.ERROR_TYPE] = self._error[0]
            if self._span is None:
                self._begin()
            span = self._span
            if span is not None and (self._attributes or self._error) and (recording or span.is_recording()):
                if self._attributes:
                    span.set_attributes(self._attributes)
                if self._error is not None:
                    span.set_status(StatusCode.ERROR, self._error[1][:MAX_TEXT] or None)
        except Exception as error:
            dropped(error)
        span, self._span = self._span, None
        if span is not None and not self._borrowed:
            try:
                span.end()
            except Exception as error:
                dropped(error)


@lru_cache(maxsize=128)  # the next call is mostly of the same trace
def _trace_text(trace_id: int) -> str:
    return f"{trace_id:032x}"


def tracer_for(provider: Provider | None) -> Tracer | None:
    """Return the tracer of a provider, by default the global one, or None where its spans go nowhere."""
    return tracer_of(trace.get_tracer_provider() if provider is None else provider)


@lru_cache(maxsize=8)
def tracer_of(provider: Provider) -> Tracer | None:
    """Return the tracer of a provider, or None where its spans go nowhere."""
    if isinstance(provider, ProxyTracerProvider | NoOpTracerProvider):
        return None
    tracer = provider.get_tracer("agentguard", VERSION, SCHEMA)
    return None if isinstance(tracer, NoOpTracer) else tracer


def dropped(error: Exception) -> None:
    """Say so, without the error's text, which can hold attribute values; a log that fails is dropped too."""
    with suppress(Exception):
        _log.debug("telemetry failed and was left out: %s", error_type_of(error))
