"""Step 11: the outcome of a call that ran, and the denial of one that did not, are recorded and traced."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

from msgspec.structs import replace

from agentguard.effects import keep_result, mark_ended
from agentguard.errors import ApprovalRequired, Denied
from agentguard.model.decision import Decision, Outcome, Reason
from agentguard.model.record import Event, Record
from agentguard.pipeline.intercept import make_unbound
from agentguard.recording import call_record, full_values
from agentguard.refusal import Refusal, event_of
from agentguard.running import UNBOUND
from agentguard.task_state import pauses
from agentguard.telemetry import spans

if TYPE_CHECKING:
    from agentguard.running import Running

_log: Final = logging.getLogger("agentguard")
_COMPLETED: Final = (Event.CALL_COMPLETED, "")  # what `event_of` says of a call that ran and returned


def denied(call: Running, refusal: Refusal) -> Denied:
    """Record a refusal and return the error that the caller gets."""
    task, reason = call.task, refusal.reason
    call.refused = True
    if call.call is UNBOUND:
        make_unbound(call)
    call.decision = Decision(
        outcome=Outcome.ASK if reason is Reason.APPROVAL_REQUIRED else Outcome.DENY, reason=reason,
        tool=call.tool.spec.name, level=refusal.level, miss=refusal.miss,
    )  # fmt: skip
    if call.span.on:
        call.span.decision = call.decision  # before the record asks for the span's ids, so that a sampler sees it
    for link in task.path:
        link.counts.denied += reason is not Reason.APPROVAL_REQUIRED
    fields: dict[str, Any] = {}
    if call.waits is not None:
        fields["question"] = call.waits.question
        call.guard.telemetry.waits(call.waits.question, call.waits.expires_at - call.guard.now())
    if call.judged is not None:
        fields |= call.judged.fields()
    position = call.guard.records.try_append(call_record(call, Event.CALL_DENIED, fields))
    if position is not None:
        call.decision = replace(call.decision, id=position.id)
    return ApprovalRequired(call.decision, call.waits.question) if call.waits is not None else Denied(call.decision)


def close(call: Running) -> None:
    """Record the outcome and end the span; nothing here reaches the caller."""
    try:
        guard, task = call.guard, call.task
        started, error = call.started, call.ended.error
        if call.hits:
            guard.records.try_append(call_record(call, Event.SECRET_REMOVED, {"leases": sorted(call.hits)}))
        results = task.tree.results
        if results.idle and started and error is None:
            results.passed.add(("", call.tool.spec.name))
        if not results.idle:
            keep_result(call)
        if task.tree.pending:
            mark_ended(call)
        if call.recorded:
            event, why = _COMPLETED if started and error is None else event_of(call.ended, started)
            fields = {"call": call.call.id, "task": task.id, "tool": call.tool.spec.name}
            if call.use is not None:
                fields["lease"] = call.use.held.issued.lease.id
            if why:
                fields["error"] = why
            guard.records.try_append(Record(event, fields))
        decided = call.recorded or call.refused  # else the caller gave it up: what stands there is no answer
        if decided:
            if guard.recording is not None:
                guard.recording.take(full_values(call))
            guard.recent.keep(call.decision, task.chain.text, call.call)
        if call.span is not None and call.span.on:
            given_up = not started and not call.refused
            if decided:
                call.span.decision = call.decision
            if guard.telemetry.captures and not call.hits and call.hash:
                call.span.captured(call.call, call.ended.value, started and error is None, guard.redactor)
            if not started:  # then it is not the tool's
                error = None
            cancelled = given_up or (error is not None and (pauses(error) or not isinstance(error, Exception)))
            call.span.end("" if error is None or pauses(error) else spans.error_type_of(error), cancelled=cancelled)
    except Exception as bug:
        _log.error("the outcome of call %s was not recorded: %s", call.id, type(bug).__name__)
