"""Where a guard's span belongs: below the framework's own span of the same step, whoever made that one."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

from opentelemetry import trace
from opentelemetry.context import Context, get_current
from opentelemetry.trace import Span

from agentguard.telemetry import semconv as name
from agentguard.telemetry.attributes import Attributes

OPENINFERENCE: Final = "openinference.instrumentation.langchain"
_OURS: Final = "agentguard."


def parent_context(ambient: Span) -> Context:
    """Return the context to open a span in: the current one, unless a framework hides a nearer span from it.

    OpenInference's LangChain instrumentation attaches its spans to no context, so below it each guarded call would
    begin a trace of its own. Its current span is the parent if it began later than the ambient one.

    Args:
        ambient: the span that is current.
    """
    module = sys.modules.get(OPENINFERENCE)
    if module is not None:
        # Another version of it may fail: a span in the wrong place is better than none.
        with suppress(Exception):
            span = _openinference_span(module)
            if span is not None and span.get_span_context().is_valid and _is_inner(span, ambient):
                return trace.set_span_in_context(span)
    return get_current()


def place(context: Context, tool: str) -> tuple[Context, Span | None]:
    """Return the context to open a call's span in, and a framework's span that stands for the call already, if any.

    Args:
        context: the current one.
        tool: the tool's name.
    """
    if not context and OPENINFERENCE not in sys.modules:
        return context, None
    ambient = trace.get_current_span(context)
    borrowed = covers(ambient, name.EXECUTE_TOOL, name.GEN_AI_TOOL_NAME, tool)
    return (context, ambient) if borrowed else (parent_context(ambient), None)


def _openinference_span(module: Any) -> Span | None:
    # Asked first: without an instrumented LangChain its `get_current_span` prints to the console.
    if not module.LangChainInstrumentor().is_instrumented_by_opentelemetry:
        return None
    found = module.get_current_span()
    return found if isinstance(found, Span) else None


def _is_inner(span: Span, ambient: Span) -> bool:
    if not ambient.get_span_context().is_valid:
        return True
    started, ambient_started = getattr(span, "start_time", None), getattr(ambient, "start_time", None)
    return started is not None and ambient_started is not None and started > ambient_started


def covers(span: Span, operation: str, key: str, value: str) -> bool:
    """Tell whether a framework's span already stands for this step, so that ours would be a second one.

    A span that carries `agentguard.*` is taken: it belongs to an outer guarded call, or to an earlier attempt.

    Args:
        span: the span that is current.
        operation: the `gen_ai.operation.name` it must have.
        key: the attribute that says which tool or agent it is about.
        value: what that attribute must be.
    """
    if not span.is_recording():
        return False
    attributes = getattr(span, "attributes", None)  # the SDK's; the API has no way to read one
    if not isinstance(attributes, Mapping) or attributes.get(name.GEN_AI_OPERATION_NAME) != operation:
        return False
    return attributes.get(key) == value and not any(str(known).startswith(_OURS) for known in attributes)


def claimed(span: Span, attributes: Attributes) -> Span:
    """Put our attributes on a framework's span, at once, so that it is taken; its own are left as they are."""
    span.set_attributes({key: value for key, value in attributes.items() if key.startswith(_OURS)})
    return span
