"""Step 2: every link of the chain is open, in date, and allowed the tool or allowed to hand it on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from agentguard.model.decision import Reason
from agentguard.refusal import Refusal
from agentguard.task_state import TaskState

if TYPE_CHECKING:
    from agentguard.running import Running
    from agentguard.task import Task

_OPEN: Final = TaskState.OPEN  # found faster than in its enumeration


def identify(call: Running) -> None:
    """Every link of the chain is open, in date, and allowed this tool or allowed to hand it on."""
    task, tool, now = call.task, call.tool.spec.name, call.guard.monotonic()
    allowed, heir = tool in task.allowed, None
    # INVARIANT: what can change is looked at for every link, each time; patterns of tools cannot, so they are once.
    for link in task.upwards:
        if link.state is not _OPEN or link.why_stopped or now >= link.deadline:
            refuse_closed(link, now)
        if link.agent.bounded:
            refusal = link.agent.refusal(call.guard.now(), call.guard.environment)
            if refusal is not None:
                raise Refusal(*refusal, level=link.agent.agent.name)
        if not allowed:
            _refuse_tool(link, tool, heir)
            heir = link.agent.agent.name
    if not allowed:
        task.allowed.add(tool)


def refuse_closed(link: Task, now: float) -> None:
    if link.state is not TaskState.OPEN:
        raise Refusal(Reason.TASK_ENDED, f"task {link.id} is {link.state}{_why(link)}", level=link.agent.agent.name)
    if link.why_stopped:
        raise Refusal(Reason.SUSPENDED, f"task {link.id}: {link.why_stopped}", level=link.agent.agent.name)
    if now >= link.deadline:
        raise Refusal(Reason.EXPIRED, f"task {link.id} is past its time", level=link.agent.agent.name)


def _refuse_tool(link: Task, name: str, heir: str | None) -> None:
    if not link.agent.allows(name, heir):
        agent, what = link.agent.agent.name, f"hand {name} on to {heir}" if heir else f"use {name}"
        raise Refusal(Reason.NOT_ALLOWED, f"the registry does not let {agent} {what}", level=agent)


def _why(link: Task) -> str:
    return f" ({link.why_ended})" if link.why_ended else ""
