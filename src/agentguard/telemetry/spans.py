"""The spans of a guarded call and of a delegation, and those of an agent: what the guard calls; nothing of it can fail.

Attach a call's span once its decision and credential are known: then it is written at once, and a sampler sees them.
Attached earlier, the spans of a decision point or a token server nest below it, for a few microseconds more.
"""

from __future__ import annotations

import time
from time import time_ns
from typing import Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, Tracer, TracerProvider
from opentelemetry.util.types import AttributeValue

from agentguard.model.call import ToolCall
from agentguard.model.decision import Decision, Outcome
from agentguard.model.lease import Lease
from agentguard.telemetry import enclosing
from agentguard.telemetry import semconv as name
from agentguard.telemetry.agent_span import AgentSpan, start_agent
from agentguard.telemetry.attributes import (
    MAX_TEXT,
    Attributes,
    TaskAttributes,
    cut,
    decision_attributes,
    decision_error,
    error_type_of,
    lease_attributes,
    release_attributes,
    task_attributes,
    tool_attributes,
)
from agentguard.telemetry.content import Redacting, arguments_text, content_text
from agentguard.telemetry.current import Current, dropped, tracer_for
from agentguard.telemetry.phases import NO_PHASE, Apart, Phase
from agentguard.telemetry.semconv import APPROVAL, AUTHORIZE, CREDENTIAL_ISSUE
from agentguard.telemetry.summary import MAX_LINE, decision_line, lease_line

__all__ = [
    "APPROVAL", "AUTHORIZE", "CREDENTIAL_ISSUE", "AgentSpan", "Attributes", "CallSpan", "TaskAttributes", "delegated",
    "error_type_of", "start_agent", "start_call", "task_attributes", "tool_attributes",
]  # fmt: skip


class CallSpan(Current):
    """The span of one guarded call."""

    __slots__ = ("_asked", "_became", "_lease", "_returned", "_said", "_tool_since", "apart")

    phased = False  # whether its parts are looked at one by one

    def __init__(
        self,
        tracer: Tracer | None,
        title: str = "",
        parent: Context | None = None,
        attributes: dict[str, AttributeValue] | None = None,
        borrowed: Span | None = None,
    ) -> None:
        super().__init__(tracer, title, parent, attributes, borrowed)
        self._lease: Lease | None = None
        self._said: tuple[Decision, bool] | None = None
        self._asked = self._returned = False
        self._became = ""
        self.apart = 0  # nanoseconds that were not the guard's own
        self._tool_since = 0

    def bound(self, call: ToolCall, arguments_hash: str) -> None:
        """Note the call once its arguments are bound: their hash, and the framework's id of the call."""
        if self._idle:
            return
        if arguments_hash:
            self._attributes[name.AGENTGUARD_ARGUMENTS_HASH] = arguments_hash
        if call.call_id:
            self._attributes[name.GEN_AI_TOOL_CALL_ID] = cut(call.call_id)

    def phase(self, title: str, live: bool = True) -> Phase:
        """Return a context manager for one part of the call.

        Args:
            title: `APPROVAL`, `AUTHORIZE` or `CREDENTIAL_ISSUE`.
            live: whether what happens in it nests below it, where it is a span at all.
        """
        return Apart(self) if title == APPROVAL and not self._idle else NO_PHASE

    def tool_began(self) -> None:
        """From here on the time is the tool's."""
        if not self._idle:
            self._tool_since = time_ns()

    def tool_ended(self) -> None:
        """From here on the time is the guard's again; without `tool_began`, and twice, it does nothing."""
        if self._tool_since:
            self.apart += time_ns() - self._tool_since
            self._tool_since = 0

    def captured(
        self, call: ToolCall, result: object = None, returned: bool = False, redactor: Redacting | None = None
    ) -> None:
        """Write arguments and result; only where the application has asked for them.

        Args:
            call: whose arguments, without those that the tool calls secret.
            result: what the tool returned, with live credentials taken out.
            returned: whether it did return.
            redactor: what takes personal data out of records takes it out here.
        """
        if self._idle:
            return
        try:
            shown = arguments_text(call.arguments, call.spec.secret, redactor)
            self._attributes[name.GEN_AI_TOOL_CALL_ARGUMENTS] = shown
            if returned:
                self._attributes[name.GEN_AI_TOOL_CALL_RESULT] = content_text(result, redactor)
                self._returned = True
        except Exception as error:
            dropped(error)

    def decided(self, decision: Decision, enforced: bool = True) -> None:
        """Note the decision; the last one counts. A denial that is enforced marks the span as failed.

        Args:
            decision: what was decided.
            enforced: False where it is only observed and the tool runs all the same.
        """
        if self._idle:
            return
        try:
            before, self._said = self._said, (decision, enforced)
            if before is not None and before[1] is enforced and _but_for_its_id(before[0], decision):
                self._attributes[name.AGENTGUARD_DECISION_ID] = cut(decision.id)
                return
            known = decision_attributes(decision, enforced)
            if before is not None and before[0].outcome is Outcome.ASK:
                self._asked = True
                known[name.AGENTGUARD_DECISION_REASON] = decision.reason.value  # the question's reason no longer holds
            self._attributes.update(known)
            self._error = decision_error(decision, enforced)
        except Exception as error:
            dropped(error)

    def credential(self, lease: Lease, cached: bool) -> None:
        """Note the credential the tool runs with, by its lease.

        Args:
            lease: everything about the credential but its secret.
            cached: whether an earlier call obtained it.
        """
        if self._idle:
            return
        try:
            self._lease = lease
            self._attributes.update(lease_attributes(lease, cached))
        except Exception as error:
            dropped(error)

    def released(self, status: str, now: float | None = None, began: int = 0) -> None:
        """Note how the credential was released.

        Args:
            status: a `LeaseState`, `kept`, or `failed` where the revocation failed and is tried again.
            now: seconds since the epoch, by the clock that the lease was issued by; default the system's.
            began: nanoseconds since the epoch at which the release began; 0 where nobody looked.
        """
        if self._idle or self._lease is None:
            return
        try:
            at = time.time() if now is None else now
            self._attributes.update(release_attributes(self._lease, status, at))
            self._became = lease_line(self._lease, status, at)
        except Exception as error:
            dropped(error)

    def end(self, error_type: str = "", description: str = "", *, cancelled: bool = False) -> None:
        """End the span, once; a denial that was decided outranks the error it was raised as.

        Args:
            error_type: what went wrong, of low cardinality: `error_type_of(exception)`; empty for success.
            description: a sentence for people, without values or exception text.
            cancelled: the caller gave the call up, which is no failure of it: the span says so and is not marked.
        """
        self.detach()
        if self._idle:
            return
        if error_type and self._error is None and not cancelled:
            self._error = (error_type, description)
        self.tool_ended()
        spent = time_ns() - self._started - self.apart
        self._attributes[name.AGENTGUARD_OVERHEAD_DURATION] = max(0, spent) / 1e9
        try:
            if not self._returned and not self._borrowed:
                self._attributes[name.OUTPUT_VALUE] = self._line(error_type, cancelled)
        except Exception as error:
            dropped(error)
        self._finish()

    def _line(self, error_type: str, cancelled: bool) -> str:
        """What came of the call; a framework's span, and one that shows a result, has an output of its own."""
        decision, enforced = self._said or (None, True)
        ran = "cancelled" if cancelled else f"failed: {error_type}" if error_type else ""
        if enforced and (decision is None or decision.outcome is Outcome.DENY):
            ran = ""  # what the denial was raised as
        line = decision_line(decision, enforced=enforced, asked=self._asked)
        return "; ".join(filter(None, (line, ran, self._became)))[:MAX_LINE]


def _but_for_its_id(one: Decision, other: Decision) -> bool:
    """Whether a decision is the same, now that it is recorded: then its id is all that is new."""
    same = one.outcome is other.outcome and one.reason is other.reason and one.level == other.level
    return same and one.steps == other.steps and bool(other.id)


# Where spans go nowhere all calls share this one: every method of it returns at once.
_NO_CALL: Final = CallSpan(None)


def start_call(
    tool: str,
    task_attrs: Attributes,
    tool_attrs: Attributes,
    call: ToolCall | None,
    arguments_hash: str,
    *,
    provider: TracerProvider | None = None,
    kind: type[CallSpan] = CallSpan,
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
        kind: what to make; another one than this module's is made where spans go nowhere too.
        shown: whether lists show the chain as the span's input; not where they are to show the arguments.
    """
    try:
        ambient = trace.get_current_span()
        borrowed = enclosing.covers(ambient, name.EXECUTE_TOOL, name.GEN_AI_TOOL_NAME, tool)
        tracer = None if borrowed else tracer_for(provider)
        if tracer is None and not borrowed:
            return _NO_CALL if kind is CallSpan else kind(None)
        attributes: dict[str, AttributeValue] = {**task_attrs, **tool_attrs}
        if arguments_hash:
            attributes[name.AGENTGUARD_ARGUMENTS_HASH] = arguments_hash
        if call is not None and call.call_id:
            attributes[name.GEN_AI_TOOL_CALL_ID] = call.call_id[:MAX_TEXT]
        if borrowed:
            return kind(None, borrowed=enclosing.claimed(ambient, attributes))
        if shown and name.AGENTGUARD_DELEGATION_CHAIN_TEXT in attributes:
            attributes[name.INPUT_VALUE] = attributes[name.AGENTGUARD_DELEGATION_CHAIN_TEXT]
        return kind(tracer, f"{name.EXECUTE_TOOL} {tool}", enclosing.parent_context(ambient), attributes)
    except Exception as error:
        dropped(error)
        return _NO_CALL


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
        span = CallSpan(tracer, name.DELEGATE, enclosing.parent_context(trace.get_current_span()), attributes)
        if refused is not None:
            span.decided(refused)
        span.close()
    except Exception as error:
        dropped(error)
