"""Step 8: once more, and last, before the tool runs."""

from __future__ import annotations

from time import time_ns
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from agentguard._drive import run_shielded
from agentguard.effects import mark_started
from agentguard.model.call import Effect
from agentguard.model.decision import Reason
from agentguard.pipeline.identify import identify, refuse_closed
from agentguard.pipeline.intercept import refuse_changes
from agentguard.ports import Candidate, Exhausted
from agentguard.refusal import Refusal, cause
from agentguard.stopping import suspension_keys
from agentguard.task_state import TaskState

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
    if call.marks:
        await _happen(call)
    call.started = True
    if spec.data or not task.tree.results.idle:
        mark_started(call)  # before the last look at the task: what is parked meanwhile knows of it
    now = guard.monotonic()
    if task.state is not _OPEN or task.why_stopped or now >= task.deadline:
        refuse_closed(task, now)
    task.counts.permitted += 1
    if span.on:
        span.tool_since = time_ns()


async def _happen(call: Running) -> None:
    """What waits for the call's steps may go on.

    INVARIANT: only once nothing but the last look at the task can refuse the call. While a person is asked about it,
    it has not happened.
    """
    if call.guard.reserving_waits:
        return await run_shielded(lambda: _marked(call), suspends=True)
    await _marked(call)


async def _marked(call: Running) -> None:
    taken = await call.guard.budgets.reserve([[Candidate("after", call.marks)]], call.guard.monotonic())
    if isinstance(taken, Exhausted):
        raise Refusal(Reason.BUDGET_EXHAUSTED, "the store counts no more calls of a step")
    held = call.reservation
    # Given back with the rest, where the last look refuses the call.
    call.reservation = taken if held is None else replace(held, charges=(*held.charges, *taken.charges))
