"""Denials that stand outside a guarded call: recorded, and told to the model in the guard's words."""

from __future__ import annotations

import logging
from typing import Any, Final

from langchain_core.messages import ToolMessage

from agentguard import Denied, Reason, current_task

_log: Final = logging.getLogger("agentguard")


def denied(tool: str, reason: Reason, text: str) -> Denied:
    """Return a denial, recorded in the active task's audit log if there is a task.

    Args:
        tool: the tool's name, possibly of a model's invention.
        reason: the reason code.
        text: for the developer.
    """
    try:
        task = current_task()
    except Denied as none:
        return none
    return task.refuse(tool, reason, text)


def message_of(denial: Denied, tool_call: Any) -> ToolMessage:
    """What the model reads about a denial: no constraint, and nothing that invites another try."""
    if denial.reason == Reason.NO_TASK:  # no guard was there to record it, and the model's answer may hide it
        _log.warning("%s", denial)
    return ToolMessage(
        content=denial.public, name=tool_call["name"], tool_call_id=tool_call["id"] or "", status="error"
    )
