"""Tasks that wait: kept with what they know and without a credential, and gone on with, here or in another process."""

from __future__ import annotations

import logging
import math
import re
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from agentguard.errors import Denied
from agentguard.levels import need_results
from agentguard.model.decision import Reason
from agentguard.model.lease import Secret
from agentguard.model.principal import Subject, checked_name
from agentguard.model.record import Event, Record
from agentguard.parked_state import ParkedState, digest_of, intent_of, readable, restorable, restore_into, written
from agentguard.ports import Parked
from agentguard.state.parked_limits import MAX_BYTES
from agentguard.task import Task
from agentguard.user import OnBehalfOf, User
from agentguard.waiting import give_back

if TYPE_CHECKING:
    from agentguard.guard import Guard
    from agentguard.intent import CompiledIntent
    from agentguard.registry import RegisteredAgent

_log: Final = logging.getLogger("agentguard")
_ID: Final = re.compile(r"[0-9a-f]{17,64}")
_SWEEPS: Final = 10  # of the keeper's turns, from one look for expired tasks to the next
_ELSEWHERE: Final = "parked by another process"


@dataclass(frozen=True, slots=True)
class Taken:
    """A task that was taken from the store.

    Args:
        parked: as it was kept there.
        kept: as what this process knew it.
        state: what it knows; None where it knows exactly that in this process still.
    """

    parked: Parked
    kept: str
    state: ParkedState | None


class Parking:
    """Parks the tasks of one guard, and finds those that others parked."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._turns = 0
        self._kept: weakref.WeakSet[Task] = weakref.WeakSet()

    @property
    def outlives(self) -> bool:
        """Whether a parked task is there after this process ended."""
        return getattr(self._guard.parked, "durable", True)

    # --- parking ----------------------------------------------------------------------------------------------

    async def park(self, task: Task) -> None:
        """Keep a root task where others find it; one that cannot be kept goes on in this process only.

        INVARIANT: from before it is asked to keep it the store alone says who goes on with it, so it is taken from
        there, here too: a store that gave no answer may have it.
        """
        guard = self._guard
        if task.parent is not None:
            return
        task.tree.waiting.shut()
        state = self._state(task)
        if state is None:
            task.tree.waiting.reopen()
            return
        task.kept = digest_of(state)
        self._kept.add(task)
        try:
            await guard.parked.park(Parked(id=task.id, state=state, expires_at=guard.now() + task.remaining()))
        except Exception as error:
            await self._keep_here(task, error)
        finally:
            if task.kept and self.outlives:
                guard.keeper.unwatch(task)

    def _state(self, task: Task) -> Secret | None:
        try:
            return Secret(written(task, self._guard.environment, MAX_BYTES))
        except Exception as error:  # it holds values, so its text is not logged
            _log.error("task %s was parked in this process only: %s", task.id, type(error).__name__)
            return None

    async def _keep_here(self, task: Task, error: Exception) -> None:
        """The store did not keep it, as far as it says; then it is made sure that nobody finds it there."""
        try:
            await self._guard.parked.take(task.id, self._guard.now())
        except Exception as other:
            text = "task %s may be parked, or not: %s; whoever goes on with it asks the store"
            _log.error(text, task.id, type(other).__name__)
            return
        task.kept = ""
        task.tree.waiting.reopen()
        _log.error("task %s was parked in this process only: %s", task.id, type(error).__name__)

    # --- going on ---------------------------------------------------------------------------------------------

    async def find(self, id: str, agent: str, user: OnBehalfOf | None) -> Task:
        """Return the task of an id, to be opened; nothing is taken before it is.

        Raises:
            TypeError: nobody is named; absence never becomes authority.
            Denied: it does not wait here, or this guard does not take it (recorded).
        """
        guard, opening = self._guard, self._guard.opening
        if user is None:
            raise TypeError("resume(task_id) needs on_behalf_of: whoever the task acts for proves it anew")
        user = User.asserted(user) if isinstance(user, str) else user
        parked = await guard.parked.find(checked_name(id, "task"), guard.now())
        state = restorable(parked)
        if parked is None or state is None:
            raise self._refused(id, agent, Reason.TASK_ENDED, _GONE)
        if state.environment != guard.environment or agent not in ("", state.agent):
            text = f"the task is of {state.agent!r} in environment {state.environment!r}"
            raise self._refused(id, state.agent, Reason.NOT_ALLOWED, text)
        registered = opening.registered(state.agent, Event.TASK_DENIED, {"task": id})
        intent = intent_of(state)
        if intent is None or not registered.may_open(intent.name, state.source_s256 or None):
            text = f"agent {state.agent!r} may not go on with the intent of task {id}"
            raise self._refused(id, state.agent, Reason.NOT_ALLOWED, text)
        task = Task(
            guard, id=id, agent=registered, intent=intent, user=user, chain=None, parent=None,
            ttl=_left(parked, guard.now(), registered, intent),
        )  # fmt: skip
        task.deadline = guard.monotonic() + task.ttl  # its record says what is left
        task.kept, task.source_s256, task.subject = _ELSEWHERE, state.source_s256, state.subject.subject()
        task.identity = state.identity
        return task

    async def take(self, task: Task) -> Taken | None:
        """Take a task from the store, once; None for one that never was there.

        INVARIANT: until it is restored it counts as kept, so whoever opens the same object meanwhile is refused, and
        starts nothing on what this process knew before.

        Raises:
            Denied: somebody else took it, or it has expired (recorded).
        """
        guard = self._guard
        if not task.kept and task.subject is None:
            return None
        try:
            parked = await guard.parked.take(task.id, guard.now()) if task.kept else None
        except Exception as error:
            text = f"it cannot be told whether task {task.id} waits ({type(error).__name__})"
            raise self._refused(task.id, task.agent.agent.name, Reason.TASK_ENDED, text) from None
        state = restorable(parked)
        if parked is None or state is None:
            if parked is not None:  # another version may read it
                await self.put_back(task, Taken(parked, task.kept, None))
            raise self._refused(task.id, task.agent.agent.name, Reason.TASK_ENDED, _GONE)
        return Taken(parked, task.kept, None if task.kept == digest_of(parked.state) else state)

    def restore(self, task: Task, taken: Taken | None) -> None:
        """Give a task what it knew when it was parked.

        INVARIANT: others may have gone on with it since this process parked it; what they read, saw and used up counts.
        """
        if taken is None:
            return
        if taken.state is None:
            task.tree.waiting.reopen()
        else:
            guard = self._guard
            task.deadline = guard.monotonic() + _left(taken.parked, guard.now(), task.agent, task.intent)
            restore_into(task, taken.state, need_results)
            task.subject = None
        task.kept = ""

    async def put_back(self, task: Task, taken: Taken | None) -> None:
        """Nobody goes on with a task that was taken: it waits on as it was."""
        if taken is None:
            return
        task.kept = taken.kept
        try:
            await self._guard.parked.park(taken.parked)
        except Exception as error:
            _log.error("task %s was not put back: %s", task.id, type(error).__name__)

    async def claim(self, task: Task) -> bool:
        """Before a task ends here while it waits: whether what it reserved is this process's to settle."""
        if not task.kept:
            return True
        guard, waiting = self._guard, task.tree.waiting
        try:
            # What waits in this process's memory ends with it, also when its time is over.
            parked = await guard.parked.take(task.id, guard.now() if self.outlives else -math.inf)
        except Exception as error:
            _log.error("it cannot be told whether task %s waits: %s", task.id, type(error).__name__)
            parked = None
        kept, task.kept, state = task.kept, "", readable(parked)
        if parked is not None and state is not None and kept != digest_of(parked.state):
            waiting.restore(state.calls())
        return parked is not None

    def refuse_other(self, task: Task, subject: Subject) -> None:
        """Refuse whoever resumes a task for somebody else than it acts for.

        INVARIANT: a task goes on under the identity it had, proved again, and never under that of whoever resumes it.
        """
        if task.subject is not None and task.subject != subject:
            text = f"task {task.id} acts for somebody else, or they were proved in another way"
            raise self._refused(task.id, task.agent.agent.name, Reason.USER_UNVERIFIED, text)

    def refuse_other_agent(self, task: Task) -> None:
        """Refuse a workload that is not the one that the task's agent was where it was parked."""
        actor = task.chain.actor
        if task.subject is not None and task.identity != (actor.identity, actor.proof.value):
            text = f"this workload is not the one that task {task.id} ran in; open the task anew"
            raise self._refused(task.id, actor.name, Reason.IDENTITY_UNPROVED, text)

    def _refused(self, id: str, agent: str, reason: Reason, text: str) -> Denied:
        return self._guard.opening.refused(Event.TASK_DENIED, agent, reason, text, {"task": id})

    # --- ending -----------------------------------------------------------------------------------------------

    async def tend(self) -> None:
        """Give back what waited in vain: of calls whose question expired, and of parked tasks past their end."""
        guard, now = self._guard, self._guard.now()
        for task in guard.keeper.open_tasks():
            if task.tree.waiting:
                await give_back(guard.budgets, task.tree.waiting.lapsed(now))
        self._turns += 1
        if self._turns % _SWEEPS == 1 and self.outlives:  # what waits in memory is ended by the keeper
            for parked in await guard.parked.lapsed(now):
                await self._ended(parked)

    async def _ended(self, parked: Parked) -> None:
        """A task that nobody went on with in time has ended."""
        guard, state = self._guard, readable(parked)
        if state is not None:
            await give_back(guard.budgets, [one.reservation for one in state.waiting if one.reservation is not None])
        try:
            await guard.budgets.forget(f"task:{parked.id}")
        except Exception as error:  # those that were given out with it would be lost
            _log.error("what task %s used up was not forgotten: %s", parked.id, type(error).__name__)
        agent = {"agent": state.agent} if state is not None else {}
        fields = {"task": parked.id, **agent, "why": "expired while it was parked"}
        guard.records.try_append(Record(Event.TASK_LAPSED, fields))

    def after_fork(self) -> None:
        """In a child: what waits is the parent's; the store may give it to the child too, by its id."""
        for task in list(self._kept):
            task.forked()
        self._kept = weakref.WeakSet()


def _left(parked: Parked, now: float, agent: RegisteredAgent, intent: CompiledIntent) -> float:
    """Seconds that a task still has: no more than its agent and its intent give today, whatever became of the clock."""
    return max(0.0, min(parked.expires_at - now, agent.task_ttl, intent.ttl or math.inf))


_GONE: Final = "it does not wait here: it ended, it expired, or somebody else goes on with it"


def is_task_id(text: object) -> bool:
    """Whether this is the id of a task of some guard's own; a handover has dots."""
    return isinstance(text, str) and _ID.fullmatch(text) is not None
