"""The span of an agent at work in a task; where the task was parked before, it links to the span it had then."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, Tracer, TracerProvider
from opentelemetry.util.types import AttributeValue

from agentguard.telemetry import enclosing
from agentguard.telemetry import semconv as name
from agentguard.telemetry.attributes import MAX_TEXT, Attributes, TaskAttributes, roll_ups
from agentguard.telemetry.current import Current, dropped, tracer_for
from agentguard.telemetry.links import RESUME, link_to
from agentguard.telemetry.summary import counts_line, task_line


class AgentSpan(Current):
    """The span of an agent at work in a task, with the number of its denials where a list of traces can show them."""

    def __init__(
        self,
        tracer: Tracer | None,
        title: str = "",
        parent: Context | None = None,
        attributes: dict[str, AttributeValue] | None = None,
        borrowed: Span | None = None,
        link: Link | None = None,
    ) -> None:
        super().__init__(tracer, title, parent, attributes, borrowed)
        self._link, self._was = link, ""
        self.task: TaskAttributes | None = None

    @property
    def traceparent(self) -> str:
        """The span as text (W3C Trace Context), also after it ended: a task that is parked links to it later."""
        return self._was or super().traceparent

    def attach(self) -> None:
        """Make the span current; calls that begin right below it need not look for a framework's span."""
        super().attach()
        if self.task is not None and self._attached is not None:
            self.task.home = self._attached[0]

    def _begin(self) -> None:
        super()._begin()
        link, self._link = self._link, None
        if link is not None and self._span is not None:
            self._span.add_link(link.context, link.attributes)

    def end(self, counts: Mapping[str, int] | None = None, error_type: str = "", description: str = "") -> None:
        """End the span, once.

        Args:
            counts: `permitted`, `denied` and `asked` calls, `issued` and `revoked` credentials; missing ones are 0.
            error_type: what went wrong, of low cardinality; empty for success, and a denied call is no failure.
            description: a sentence for people, without values or exception text.
        """
        self.detach()
        if self._idle:
            return
        self._was = self.traceparent
        try:
            self._attributes.update(roll_ups(counts or {}))
            if not self._borrowed:
                self._attributes[name.OUTPUT_VALUE] = counts_line(counts or {})
        except Exception as error:
            dropped(error)
        if error_type:
            self._error = (error_type, description)
        self._finish()


# Where spans go nowhere all agents share this one.
_NO_AGENT: Final = AgentSpan(None)


def start_agent(
    agent: str, task_attrs: Attributes, *, purpose: str = "", origin: str = "", provider: TracerProvider | None = None
) -> AgentSpan:
    """Begin the `invoke_agent {agent}` span of a task, or take the framework's one for the same agent.

    Args:
        agent: the agent's name.
        task_attrs: `task_attributes(...)` of the task.
        purpose: what the task was declared for.
        origin: `traceparent` of the span that the task had before it was parked; it is linked to.
        provider: whose tracer to use; default the global one.
    """
    try:
        ambient = trace.get_current_span()
        borrowed = enclosing.covers(ambient, name.INVOKE_AGENT, name.GEN_AI_AGENT_NAME, agent)
        tracer = None if borrowed else tracer_for(provider)
        if tracer is None and not borrowed:
            return _NO_AGENT
        attributes: dict[str, AttributeValue] = {
            **task_attrs,
            name.GEN_AI_OPERATION_NAME: name.INVOKE_AGENT,
            name.GEN_AI_AGENT_NAME: agent[:MAX_TEXT],
            name.OPENINFERENCE_SPAN_KIND: "AGENT",
        }
        link = link_to(origin, RESUME)
        if link is not None:
            attributes[name.AGENTGUARD_LINK_KIND] = RESUME
        if borrowed:
            return AgentSpan(None, borrowed=enclosing.claimed(ambient, attributes), link=link)
        chain = str(task_attrs.get(name.AGENTGUARD_DELEGATION_CHAIN_TEXT, ""))
        attributes[name.INPUT_VALUE] = task_line(chain, purpose)
        title, parent = f"{name.INVOKE_AGENT} {agent}", enclosing.parent_context(ambient)
        span = AgentSpan(tracer, title, parent, attributes, link=link)
        span.task = task_attrs if isinstance(task_attrs, TaskAttributes) else None
        return span
    except Exception as error:
        dropped(error)
        return _NO_AGENT
