"""Step 6: the decision stands in the audit log before anything is issued or run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from msgspec.structs import replace

from agentguard._drive import run_shielded
from agentguard.model.decision import Reason
from agentguard.model.record import Event
from agentguard.recording import call_record
from agentguard.refusal import Refusal, cause

if TYPE_CHECKING:
    from agentguard.running import Running

_PERMITTED: Final = Event.CALL_PERMITTED  # found faster than in its enumeration


async def record_decision(call: Running) -> None:
    """Write the decision before anything is issued or run; a write, and a read of data, waits for the disk.

    Then whoever a policy names is told.
    """
    if call.span.on:
        call.span.decision = call.decision
    try:
        made = call_record(call, _PERMITTED, None if call.judged is None else call.judged.fields())
        position = call.position = call.guard.records.append(made)
    except Exception as error:
        raise _unrecorded(call, error) from None
    call.recorded = True
    if call.tool.waits_for_disk:
        await _flush(call)
    call.decision = replace(call.decision, id=f"{position.chain}:{position.seq}")  # as `position.id` has it
    if call.judged is not None and call.judged.obligations.notify:
        from agentguard.deciding import notify

        await notify(call, call.judged, call.decision.id)


def append(call: Running, event: Event, fields: Mapping[str, Any]) -> None:
    """INVARIANT: no record, no action: a failed write refuses the call."""
    try:
        call.position = call.guard.records.append(call_record(call, event, fields))
    except Exception as error:
        raise _unrecorded(call, error) from None


def _unrecorded(call: Running, error: Exception) -> Refusal:
    return Refusal(Reason.AUDIT_UNAVAILABLE, f"the audit record was not written ({cause(error)})")


async def _flush(call: Running) -> None:
    try:
        await run_shielded(lambda: call.guard.audit.flush(call.position), suspends=True)
    except Exception as error:
        raise Refusal(Reason.AUDIT_UNAVAILABLE, f"the audit record is not on disk ({cause(error)})") from None
