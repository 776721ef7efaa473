"""The trace of work that arrives: continued where its sender is trusted, else a new one that links to it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, SpanKind

from agentguard.transports.headers import Headers, trace_of


@contextmanager
def arriving(agent: str, headers: Headers, *, trusted: bool) -> Iterator[None]:
    """Make a span of arriving work current, unless one is current already; a failure of tracing changes nothing.

    Args:
        agent: who is to do it.
        headers: with the sender's `traceparent`, which nobody has signed.
        trusted: whether the sender's trace is continued. A stranger could graft its work into a trace of ours.
    """
    with _span(agent, headers, trusted) or nullcontext():
        yield


def _span(agent: str, headers: Headers, trusted: bool):  # type: ignore[no-untyped-def]  # a private class of the API
    try:
        if trace.get_current_span().get_span_context().is_valid:
            return None
        remote = trace_of(headers)
        sender = trace.get_current_span(remote).get_span_context()
        return trace.get_tracer("agentguard").start_as_current_span(
            f"resume {agent}",
            remote if trusted else Context(),
            kind=SpanKind.SERVER,
            links=[Link(sender)] if sender.is_valid and not trusted else [],
            record_exception=False,
        )
    except Exception:
        return None
