"""What follows from a call once it ended: its result is kept for provenance, and tasks end or are stopped by it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from agentguard._drive import run_shielded
from agentguard.candidates import whole_of
from agentguard.ending_tasks import END_TASK
from agentguard.intent.earlier import UNTOLD
from agentguard.levels import counted, levels_of
from agentguard.model.decision import Outcome, Reason
from agentguard.ports import Exhausted
from agentguard.task_state import TaskState

if TYPE_CHECKING:
    from agentguard.running import Running
    from agentguard.task import Task

_log: Final = logging.getLogger("agentguard")


def mark_started(call: Running) -> None:
    """The tree has seen what the call is about to read, and has a result to come."""
    tree, spec = call.task.tree, call.tool.spec
    scopes = (level.scope for level in levels_of(call.task).levels)
    with tree.lock:
        tree.seen |= spec.data
        if not tree.results.idle:
            tree.pending[call.id] = (("", spec.name), *zip(scopes, call.decision.steps, strict=False))


def mark_ended(call: Running) -> None:
    """The call's result is there, or it has none."""
    if call.task.tree.pending:
        with call.task.tree.lock:
            call.task.tree.pending.pop(call.id, None)


def keep_result(call: Running) -> None:
    """Record what a `from` of the tree looks at; a call that raised, or whose stream was left, leaves nothing."""
    results = call.task.tree.results
    if results.idle or not call.started or call.ended.error is not None:
        return
    try:
        steps = zip((level.scope for level in levels_of(call.task).levels), call.decision.steps, strict=True)
        path = tuple([link.id for link in call.task.path])
        value = call.ended.value if call.parts is None else whole_of(call.parts)
        results.record(call.call, UNTOLD if call.missed else value, path, steps)
    except Exception as error:
        _log.error("the result of call %s was not kept: %s", call.id, type(error).__name__)


async def take_effect(call: Running) -> None:
    """End the tasks whose step says so; suspend those that were denied as often as their intent lets.

    Nothing here reaches the caller.
    """
    if not _has_effects(call):
        return
    try:
        await run_shielded(lambda: _follow(call), suspends=call.guard.release_waits)
    except Exception as error:
        _log.error("what follows from call %s was not done: %s", call.id, type(error).__name__)


def _has_effects(call: Running) -> bool:
    denied = call.decision.outcome is Outcome.DENY and call.decision.reason is not Reason.SUSPENDED
    return bool(call.ending) or (denied and _counts_denials(call.task))


def _counts_denials(task: Task) -> bool:
    """Whether an intent or a ceiling of the chain bounds denials; looked at once for a task."""
    counts: bool | None = task.cache.get("denials")
    if counts is None:
        counts = task.cache["denials"] = bool(counted(levels_of(task), "denials"))
    return counts


async def _follow(call: Running) -> None:
    if call.decision.outcome is Outcome.DENY:
        await _count_denial(call)
    elif call.started and not _retries_left(call):
        for task in call.ending:
            await call.guard.close_task(task, TaskState.ENDED, END_TASK)


async def _count_denial(call: Running) -> None:
    now = call.guard.monotonic()
    for level, candidate in counted(levels_of(call.task), "denials", spare=1):
        if not level.task.is_open():
            continue  # nothing could start, and its counters are gone
        reserved = await call.guard.budgets.reserve([[candidate]], now)
        task = _known_to_others(level.task, call.task)
        if isinstance(reserved, Exhausted) and not task.why_stopped:
            task.why_stopped = "as many calls were denied as the intent lets"
            await call.guard.stopping.suspend(f"task:{task.id}", task.why_stopped)


def _known_to_others(link: Task, task: Task) -> Task:
    """The task to stop for a link of the chain: for one above a handover, the task that it opened here.

    INVARIANT: a link above a handover has an id of its own here: whoever the task was handed on to, and whoever lifts
    the stop, knows the one that was opened.
    """
    opened = next((one for one in task.path if one.arrival is not None), link)
    return opened if link in opened.path else link


def _retries_left(call: Running) -> bool:
    """Whether the very same call may run again, as its tool raised: then it is not over."""
    retries = call.reservation.retries if call.reservation is not None else ()
    return call.ended.error is not None and any(left > 0 for _, left, _ in retries)
