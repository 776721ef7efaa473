"""Ending tasks: new calls stop, every lease is revoked, and nothing is left."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from agentguard._drive import RELEASE_SECONDS, run_shielded, wait_for
from agentguard.facts import task_facts
from agentguard.model.record import Event, Record
from agentguard.task import Task
from agentguard.task_state import TaskState
from agentguard.waiting import give_back

if TYPE_CHECKING:
    from agentguard.guard import Guard

_log: Final = logging.getLogger("agentguard")
_OPEN: Final = (TaskState.OPEN, TaskState.PARKED)
END_TASK: Final = "end_task"


class EndingTasks:
    """Ends and parks the tasks of one guard."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard

    async def close(self, task: Task, state: TaskState, why: str) -> None:
        """Stop new calls, end the children, revoke every lease at once, then record; shielded and idempotent."""
        only_from = (TaskState.OPEN,) if state is TaskState.PARKED else _OPEN
        if not task.move(TaskState.ENDING, only_from=only_from):
            await self._ending_elsewhere(task)
            if state is TaskState.ENDED and task.state in _OPEN:  # it was being parked, and whoever asks ends it
                await self.close(task, state, why)
            return
        task.why_ended = why
        waits = self._guard.release_waits
        try:
            await run_shielded(lambda: self._revoke(task, state), suspends=waits)
        except Exception as late:  # out of time: the ledger and the keeper have what is left; the caller keeps its own
            _log.error("task %s was not revoked in time: %s", task.id, type(late).__name__)
        except BaseException:
            if self._guard.leases is not None:
                self._guard.leases.owe_task(task.id)
            raise
        finally:
            task.move(state, only_from=(TaskState.ENDING,))
            done, task.done = task.done, Future() if state is TaskState.PARKED else task.done
            self._ended(task, state, why)
            if not done.done():
                done.set_result(None)

    async def _ending_elsewhere(self, task: Task) -> None:
        """Whoever leaves a task returns after its leases are revoked, also when the keeper was quicker."""
        done = task.done
        if task.state is TaskState.ENDING:
            with suppress(TimeoutError):
                await wait_for(done, RELEASE_SECONDS)

    async def _revoke(self, task: Task, state: TaskState) -> None:
        guard = self._guard
        if guard.leases is not None:
            await guard.leases.end_task(task.id, others=[child.id for child in _below(task)])
        for child in list(task.children):
            await self.close(child, TaskState.ENDED, "parent ended")
        if state is TaskState.PARKED:  # it goes on later, with what it has used up, seen and read
            await guard.parking.park(task)
            return
        if not await guard.parking.claim(task):  # somebody else goes on with it, and settles and forgets
            task.tree.results.forget()
            if task.why_ended == END_TASK:
                await guard.stopping.suspend(f"task:{task.id}", "a call that ends it has run")
            return
        if task.parent is None or task.arrival is not None:
            await give_back(guard.budgets, task.tree.waiting.clear())
        await guard.budgets.forget(f"task:{task.id}")
        if task.arrival is not None:
            await task.arrival.forget(guard)
            task.tree.results.forget()
        if task.why_stopped and not task.handed_on:  # what was handed on stays stopped
            await self._lift_own(task)
        if task.parent is None:
            task.tree.results.forget()

    async def _lift_own(self, task: Task) -> None:
        """A task that stopped itself ended, so its stop is of no use; INVARIANT: one that a person set stands."""
        key = f"task:{task.id}"
        for stop in await self._guard.suspensions.standing():
            if stop.key == key and stop.why == task.why_stopped:
                await self._guard.suspensions.lift(key)

    def _ended(self, task: Task, state: TaskState, why: str) -> None:
        guard, counts = self._guard, task.counts
        totals = {name: getattr(counts, name) for name in ("permitted", "denied", "asked", "issued", "revoked")}
        if state is TaskState.ENDED:
            guard.keeper.unwatch(task)
            if task.parent is not None and task in task.parent.children:
                task.parent.children.remove(task)
                task.parent.counts.add(counts)
        event = Event.TASK_PARKED if state is TaskState.PARKED else Event.TASK_ENDED
        guard.records.try_append(Record(event, {**task_facts(guard, task), "why": why, "counts": totals}))
        if task.span is not None:
            task.span.end(totals)


def _below(task: Task) -> Iterator[Task]:
    """The tasks that were delegated under one, and end with it."""
    for child in list(task.children):
        yield child
        yield from _below(child)
