"""Step 8: once more, and last, before the tool runs."""

from __future__ import annotations

from time import time_ns
from typing import TYPE_CHECKING, Final

from agentguard.effects import mark_started
from agentguard.model.call import Effect
from agentguard.model.decision import Reason
from agentguard.pipeline.identify import identify, refuse_closed
from agentguard.pipeline.intercept import refuse_changes
from agentguard.refusal import Refusal, cause
from agentguard.stopping import suspension_keys
from agentguard.task import TaskState

if TYPE_CHECKING:
    from agentguard.running import Running

# Names of this module: looked up in two enumerations, each call would pay more for them than for what it compares.
_OPEN: Final = TaskState.OPEN
_READ: Final = Effect.READ


async def gate(call: Running) -> None:
    """Once more, and last: task state, expiry, suspensions and the run copy's digest."""
    identify(call)
    if call.mutable:
        refuse_changes(call)
    if call.judged is not None:
        from agentguard.deciding import still_decided

        await still_decided(call, call.judged)
    task, spec, guard, span = call.task, call.tool.spec, call.guard, call.span
    keys = task.cache.get("keys") or suspension_keys(task)
    call.marked = True  # also where a failure or a cancellation keeps the answer away
    try:
        stopped = await guard.suspensions.start(call.id, keys, reads=spec.effect is _READ)
    except Exception as error:
        raise Refusal(Reason.SUSPENDED, f"the suspensions cannot be read ({cause(error)})") from None
    if stopped:
        call.marked = False
        raise Refusal(Reason.SUSPENDED, f"{stopped} is suspended", level=stopped)
    call.started = True
    if spec.data or not task.tree.results.idle:
        mark_started(call)  # before the last look at the task: what is parked meanwhile knows of it
    now = guard.monotonic()
    if task.state is not _OPEN or task.why_stopped or now >= task.deadline:
        refuse_closed(task, now)
    task.counts.permitted += 1
    if span.on:
        span.tool_since = time_ns()
