"""The spans of a guarded call and of a delegation, and those of an agent: what the guard calls; nothing of it can fail.

A call's span begins when its decision is recorded, as the record holds its ids; a sampler sees the decision then.
"""

from __future__ import annotations

import time
from sys import modules
from time import time_ns
from typing import Final

from opentelemetry import trace
from opentelemetry.context import get_current
from opentelemetry.trace import TracerProvider
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
    call_attributes,
    decision_attributes,
    decision_error,
    error_type_of,
    lease_attributes,
    release_attributes,
    task_attributes,
    tool_attributes,
)
from agentguard.telemetry.content import Redacting, arguments_text, content_text
from agentguard.telemetry.current import Current, dropped, tracer_for, tracer_of
from agentguard.telemetry.phases import NO_PHASE, Apart, Phase
from agentguard.telemetry.semconv import APPROVAL, AUTHORIZE, CREDENTIAL_ISSUE
from agentguard.telemetry.summary import MAX_LINE, decision_line, lease_line

__all__ = [
    "APPROVAL", "AUTHORIZE", "CREDENTIAL_ISSUE", "AgentSpan", "Attributes", "CallSpan", "TaskAttributes", "delegated",
    "error_type_of", "start_agent", "start_call", "task_attributes", "tool_attributes",
]  # fmt: skip


class CallSpan(Current):
    """The span of one guarded call.

    What the guard tells is kept as it is, and becomes attributes when the span begins and when it ends: once each.

    Attributes:
        on: whether anybody is told; where not, whoever calls may leave it out.
        parts: whether `phase` looks at more than what a person takes; where not, it may be left out too.
        full: whether the span repeats all that stands on its agent's span, and its credential's times.
        apart: nanoseconds that were not the guard's own.
    """

    on = True
    parts = False
    full = True
    apart = 0
    _decision: Decision | None = None
    _enforced = True
    _told: tuple[Decision, bool] | None = None  # what the span began with
    _asked = _returned = _cached = False
    _lease: Lease | None = None
    _release: tuple[str, float] | None = None
    _tool_since = 0

    def bound(self, call: ToolCall, arguments_hash: str) -> None:
        """Note the call once its arguments are bound: their hash, and the framework's id of the call."""
        if self._idle:
            return
        if arguments_hash:
            self._attributes[name.AGENTGUARD_ARGUMENTS_HASH] = arguments_hash
        if call.call_id:
            self._attributes[name.GEN_AI_TOOL_CALL_ID] = call.call_id[:MAX_TEXT]

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
        before = self._decision
        if before is not None and before.outcome is Outcome.ASK:
            self._asked = True
        self._decision, self._enforced = decision, enforced

    def credential(self, lease: Lease, cached: bool) -> None:
        """Note the credential the tool runs with, by its lease.

        Args:
            lease: everything about the credential but its secret.
            cached: whether an earlier call obtained it.
        """
        self._lease, self._cached = lease, cached

    def released(self, status: str, now: float | None = None, began: int = 0) -> None:
        """Note how the credential was released.

        Args:
            status: a `LeaseState`, `kept`, or `failed` where the revocation failed and is tried again.
            now: seconds since the epoch, by the clock that the lease was issued by; default the system's.
            began: nanoseconds since the epoch at which the release began; 0 where nobody looked.
        """
        self._release = status, time.time() if now is None else now

    def end(self, error_type: str = "", description: str = "", *, cancelled: bool = False) -> None:
        """End the span, once; a denial that was decided outranks the error it was raised as.

        Args:
            error_type: what went wrong, of low cardinality: `error_type_of(exception)`; empty for success.
            description: a sentence for people, without values or exception text.
            cancelled: the caller gave the call up, which is no failure of it: the span says so and is not marked.
        """
        if self._token is not None:
            self.detach()
        if self._idle:
            return
        if self._tool_since:
            self.tool_ended()
        recording = False
        try:
            recording = self._span is not None and self._span.is_recording()
            if recording or self._span is None:
                self._conclude(error_type, description, cancelled)
        except Exception as error:
            dropped(error)
        self._finish(recording=recording)

    def _begin(self) -> None:
        """INVARIANT: a decision that is known stands on the span from its start, so that a sampler can keep denials."""
        tracer, self._tracer = self._tracer, None
        if tracer is None:
            return
        known, self._attributes = self._attributes, {}
        try:
            if self._decision is not None:
                known.update(decision_attributes(self._decision, self._enforced, asked=self._asked))
                self._told = self._decision, self._enforced
        except Exception as error:
            dropped(error)
        self._span = tracer.start_span(self._title, self._parent, attributes=known, start_time=self._started)

    def _conclude(self, error_type: str, description: str, cancelled: bool) -> None:
        attributes, decision, lease = self._attributes, self._decision, self._lease
        attributes[name.AGENTGUARD_OVERHEAD_DURATION] = max(0, time_ns() - self._started - self.apart) / 1e9
        if error_type and not cancelled:
            self._error = error_type, description
        if decision is not None:
            if decision.outcome is not Outcome.PERMIT:
                self._error = decision_error(decision, self._enforced) or self._error
            if self._span is not None:
                self._retell(decision)
        became = ""
        if lease is not None:
            attributes.update(lease_attributes(lease, self._cached, full=self.full))
            if self._release is not None:
                attributes.update(release_attributes(lease, *self._release))
                became = lease_line(lease, *self._release)
        if not self._returned and not self._borrowed:
            attributes[name.OUTPUT_VALUE] = self._line(error_type, cancelled, became)

    def _retell(self, decision: Decision) -> None:
        """Write what is new of the decision: most of the time its id, as it is recorded after the span began."""
        told, enforced = self._told, self._enforced
        same = told is not None and told[1] is enforced and told[0].outcome is decision.outcome
        if told is None or not same or told[0].reason is not decision.reason or told[0].level != decision.level:
            self._attributes.update(decision_attributes(decision, enforced, asked=self._asked))
        elif decision.id:
            self._attributes[name.AGENTGUARD_DECISION_ID] = decision.id[:MAX_TEXT]

    def _line(self, error_type: str, cancelled: bool, became: str) -> str:
        """What came of the call; a framework's span, and one that shows a result, has an output of its own."""
        decision = self._decision
        permitted = decision is not None and decision.outcome is Outcome.PERMIT
        line = (
            "permit" if permitted and not self._asked
            else decision_line(decision, enforced=self._enforced, asked=self._asked)
        )  # fmt: skip
        if cancelled:
            line += "; cancelled"
        elif error_type and (permitted or not self._enforced):  # else it is what the denial was raised as
            line += f"; failed: {error_type}"
        return f"{line}; {became}"[:MAX_LINE] if became else line[:MAX_LINE]


# Where spans go nowhere all calls share this one: every method of it returns at once.
_NO_CALL: Final = CallSpan(None)
_NO_CALL.on = False


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
        kind: what to make; another one than this module's is made where spans go nowhere too.
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
            return _NO_CALL if kind is CallSpan else kind(None)
        if known is None or known[0] is not tool_attrs:
            known = call_attributes(tool, task_attrs, tool_attrs, full=full, shown=shown)
        attributes = {**known[1]}
        if borrowed is not None:
            span = kind(None, borrowed=enclosing.claimed(borrowed, attributes))
        else:
            span = kind(tracer, f"{name.EXECUTE_TOOL} {tool}", parent, attributes)
        span.full = full
        if call is not None or arguments_hash:
            _noted(span, call, arguments_hash)
        return span
    except Exception as error:
        dropped(error)
        return _NO_CALL


def _noted(span: CallSpan, call: ToolCall | None, arguments_hash: str) -> None:
    if call is not None:
        span.bound(call, arguments_hash)
    elif arguments_hash:
        span.add({name.AGENTGUARD_ARGUMENTS_HASH: arguments_hash})


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
