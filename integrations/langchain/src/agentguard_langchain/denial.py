"""Denials that stand outside a guarded call: recorded, and told to the model in the guard's words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from langchain_core.messages import ToolMessage

from agentguard import Denied, current_task
from agentguard.model.decision import Decision, Miss, Outcome, Reason
from agentguard.model.record import Event, Record

if TYPE_CHECKING:
    from agentguard import Guard, Task


def denied(tool: str, reason: Reason, text: str, event: Event = Event.CALL_DENIED) -> Denied:
    """Return a denial, recorded in the active task's audit log if there is a task.

    Args:
        tool: the tool's name, possibly of a model's invention.
        reason: the reason code.
        text: for the developer.
        event: what is denied.
    """
    try:
        task = current_task()
    except Denied as none:
        return none
    position = _recorded(task, tool[:64], reason, event)
    decision = Decision(outcome=Outcome.DENY, reason=reason, tool=tool[:64], miss=Miss(text=text), id=position)
    return Denied(decision)


def _recorded(task: Task, tool: str, reason: Reason, event: Event) -> str:
    guard = cast("Guard", task.host)
    for link in task.path:
        link.counts.denied += 1
    fields = {**guard.opening.task_facts(task), "tool": tool, "outcome": "deny", "reason": str(reason)}
    position = guard.try_append(Record(event, fields))
    return position.id if position is not None else ""


def message_of(denial: Denied, tool_call: Any) -> ToolMessage:
    """What the model reads about a denial: no constraint, and nothing that invites another try."""
    return ToolMessage(
        content=denial.public, name=tool_call["name"], tool_call_id=tool_call["id"] or "", status="error"
    )
