"""The spans of a guarded call, of a delegation and of an agent: what the guard calls; nothing of it can fail."""

from __future__ import annotations

from sys import modules

from opentelemetry import trace
from opentelemetry.context import get_current
from opentelemetry.trace import TracerProvider
from opentelemetry.util.types import AttributeValue

from agentguard.model.call import ToolCall
from agentguard.model.decision import Decision
from agentguard.telemetry import enclosing
from agentguard.telemetry import semconv as name
from agentguard.telemetry.agent_span import AgentSpan, start_agent
from agentguard.telemetry.attributes import (
    MAX_TEXT,
    Attributes,
    TaskAttributes,
    call_attributes,
    decision_attributes,
    decision_error,
    error_type_of,
    task_attributes,
    tool_attributes,
)
from agentguard.telemetry.call_span import NO_CALL, CallSpan
from agentguard.telemetry.current import Current, dropped, tracer_for, tracer_of
from agentguard.telemetry.semconv import (
    APPROVAL,
    AUTHORIZE,
    CREDENTIAL_ISSUE,
)
from agentguard.telemetry.summary import decision_line

__all__ = [
    "APPROVAL", "AUTHORIZE", "CREDENTIAL_ISSUE", "AgentSpan", "Attributes", "CallSpan", "TaskAttributes", "delegated",
    "error_type_of", "start_agent", "start_call", "task_attributes", "tool_attributes",
]  # fmt: skip


def start_call(
    tool: str,
    task_attrs: Attributes,
    tool_attrs: Attributes,
    call: ToolCall | None,
    arguments_hash: str,
    *,
    provider: TracerProvider | None = None,
    kind: type[CallSpan] = CallSpan,
    full: bool = True,
    shown: bool = True,
) -> CallSpan:
    """Begin the `execute_tool {tool}` span of one call, or take the framework's one for the same tool.

    Args:
        tool: the tool's name.
        task_attrs: `task_attributes(...)` of the task, or empty outside one.
        tool_attrs: `tool_attributes(spec)`.
        call: the bound call, or None where binding failed.
        arguments_hash: keyed hash of the canonical arguments, or empty.
        provider: whose tracer to use; default the global one.
        kind: what to make; another one than `CallSpan` is made where spans go nowhere too.
        full: whether the span repeats all that stands on its agent's span, and its credential's times.
        shown: whether lists show the chain as the span's input; not where they are to show the arguments.
    """
    try:
        tracer, context = tracer_of(trace.get_tracer_provider() if provider is None else provider), get_current()
        parent, borrowed, known = context, None, None
        if isinstance(task_attrs, TaskAttributes):
            known = task_attrs.calls.get((tool, full, shown))
            if context is not task_attrs.home or enclosing.OPENINFERENCE in modules:
                parent, borrowed = enclosing.place(context, tool)
        elif context:
            parent, borrowed = enclosing.place(context, tool)
        if tracer is None and borrowed is None:
            return NO_CALL if kind is CallSpan else kind()
        if known is None or known.of is not tool_attrs:
            known = call_attributes(tool, task_attrs, tool_attrs, full=full, shown=shown)
        if borrowed is not None:
            span = kind(borrowed=enclosing.claimed(borrowed, known.known))
        else:
            span = kind(tracer, parent, known)
        span.full = span.special = full
        span.call, span.hash = call, arguments_hash
        return span
    except Exception as error:
        dropped(error)
        return NO_CALL


def delegated(
    from_agent: str,
    to_agent: str,
    attrs: Attributes,
    *,
    refused: Decision | None = None,
    provider: TracerProvider | None = None,
) -> None:
    """Leave a short `agentguard.delegate` span: one agent hands a part of its task to another.

    Args:
        from_agent: the agent that hands on.
        to_agent: the agent that is to act.
        attrs: `task_attributes(...)` of the task that is made, or of the parent's where it is refused.
        refused: the decision that refused it, or None.
        provider: whose tracer to use; default the global one.
    """
    try:
        tracer = tracer_for(provider)
        if tracer is None:
            return
        attributes: dict[str, AttributeValue] = {
            **attrs,
            name.AGENTGUARD_DELEGATION_FROM: from_agent[:MAX_TEXT],
            name.AGENTGUARD_DELEGATION_TO: to_agent[:MAX_TEXT],
            name.OPENINFERENCE_SPAN_KIND: "CHAIN",
            name.INPUT_VALUE: attrs.get(name.AGENTGUARD_DELEGATION_CHAIN_TEXT, ""),
            name.OUTPUT_VALUE: "delegated" if refused is None else decision_line(refused),
        }
        failed: tuple[str, ...] = ()
        if refused is not None:
            attributes.update(decision_attributes(refused, enforced=True))
            failed = decision_error(refused, enforced=True) or ()
        Current(tracer, name.DELEGATE, enclosing.parent_context(trace.get_current_span()), attributes).close(*failed)
    except Exception as error:
        dropped(error)
