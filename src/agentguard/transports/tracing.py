"""The trace of work that arrives: continued where its sender is trusted, else a new one that links to it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, SpanKind

from agentguard.telemetry import semconv as name
from agentguard.telemetry.links import HANDOVER
from agentguard.transports.headers import Headers, trace_of


@contextmanager
def arriving(agent: str, headers: Headers, *, trusted: bool, queued: bool = False) -> Iterator[None]:
    """Make a span of arriving work current, unless one is current already; a failure of tracing changes nothing.

    Args:
        agent: who is to do it.
        headers: with the sender's `traceparent`, which nobody has signed.
        trusted: whether the sender's trace is continued. A stranger could graft its work into a trace of ours.
        queued: whether it comes from a queue. Work that waited is linked to, never continued: nobody waits for it.
    """
    with _span(agent, headers, trusted and not queued, SpanKind.CONSUMER if queued else SpanKind.SERVER) or (
        nullcontext()
    ):
        yield


def _span(  # type: ignore[no-untyped-def]  # a private class of the API
    agent: str, headers: Headers, trusted: bool, kind: SpanKind
):
    try:
        if trace.get_current_span().get_span_context().is_valid:
            return None
        remote = trace_of(headers)
        sender = trace.get_current_span(remote).get_span_context()
        return trace.get_tracer("agentguard").start_as_current_span(
            f"{name.RESUME} {agent}",
            remote if trusted else Context(),
            kind=kind,
            attributes={
                name.GEN_AI_AGENT_NAME: agent,
                name.AGENTGUARD_LINK_KIND: HANDOVER,
                name.OPENINFERENCE_SPAN_KIND: "CHAIN",
            },
            links=[Link(sender, {name.AGENTGUARD_LINK_KIND: HANDOVER})] if sender.is_valid and not trusted else [],
            record_exception=False,
        )
    except Exception:
        return None
