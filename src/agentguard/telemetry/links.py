"""Links to the trace that a task comes from: parked for hours, it goes on in a trace of its own."""

from __future__ import annotations

import re
from typing import Final

from opentelemetry import trace
from opentelemetry.trace import Link, SpanContext, TraceFlags

from agentguard.telemetry import semconv as name

RESUME: Final = "resume"
HANDOVER: Final = "handover"
_FORM: Final = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")


def traceparent(context: SpanContext) -> str:
    """Return a span as text (W3C Trace Context, section 3.2); empty where there is none."""
    if not context.is_valid:
        return ""
    ids = f"{trace.format_trace_id(context.trace_id)}-{trace.format_span_id(context.span_id)}"
    return f"00-{ids}-{context.trace_flags:02x}"


def link_to(text: str, kind: str) -> Link | None:
    """Return a link to a span that was written as text, or None where it is none.

    Args:
        text: what `traceparent` returned.
        kind: `resume` or `handover`.
    """
    found = _FORM.fullmatch(text)
    if found is None:
        return None
    trace_id, span_id, flags = (int(part, 16) for part in found.groups())
    context = SpanContext(trace_id, span_id, is_remote=True, trace_flags=TraceFlags(flags))
    return Link(context, {name.AGENTGUARD_LINK_KIND: kind}) if context.is_valid else None
