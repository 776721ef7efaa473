"""Tasks that wait: kept with what they know and without a credential, and gone on with, here or in another process."""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, Final

from agentguard.errors import ConfigurationError, Denied
from agentguard.intent import CompiledIntent, Intent, ValueSet, compile_intent
from agentguard.model.decision import Reason
from agentguard.model.lease import Secret
from agentguard.model.principal import Subject, checked_name
from agentguard.model.record import Event, Record
from agentguard.parked_state import ParkedState, read_state, restore_into, state_of
from agentguard.ports import Parked, Reservation, Settlement, Verdict
from agentguard.state.questions import check_answer
from agentguard.task import Task
from agentguard.user import OnBehalfOf, User

if TYPE_CHECKING:
    from collections.abc import Iterable

    from agentguard.guard import Guard

_log: Final = logging.getLogger("agentguard")
_ID: Final = re.compile(r"[0-9a-f]{17,64}")
_SWEEPS: Final = 10  # of the keeper's turns, from one look for expired tasks to the next


class Parking:
    """Parks the tasks of one guard, and finds those that others parked."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._turns = 0

    @property
    def outlives(self) -> bool:
        """Whether a parked task is there after this process ended."""
        return getattr(self._guard.parked, "durable", True)

    # --- parking ----------------------------------------------------------------------------------------------

    async def park(self, task: Task) -> None:
        """Keep a root task where others find it; one that cannot be kept goes on in this process only.

        INVARIANT: from here on the store alone says who goes on with it, so it is taken from there, here too.
        """
        guard = self._guard
        if task.parent is not None:
            return
        try:
            state = Secret(state_of(task, guard.environment))
            await guard.parked.park(Parked(id=task.id, state=state, expires_at=guard.now() + task.remaining()))
            task.kept = True
        except Exception as error:
            _log.error("task %s was parked in this process only: %s", task.id, type(error).__name__)
        if task.kept and self.outlives:
            guard.keeper.unwatch(task)

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
        state = _readable(parked)
        if parked is None or state is None:
            raise self._refused(id, agent, Reason.TASK_ENDED, _GONE)
        if state.environment != guard.environment or agent not in ("", state.agent):
            text = f"the task is of {state.agent!r} in environment {state.environment!r}"
            raise self._refused(id, state.agent, Reason.NOT_ALLOWED, text)
        registered = opening.registered(state.agent, Event.TASK_DENIED, {"task": id})
        intent = _intent_of(state)
        if intent is None or not registered.may_open(intent.name, state.source_s256 or None):
            text = f"agent {state.agent!r} may not go on with the intent of task {id}"
            raise self._refused(id, state.agent, Reason.NOT_ALLOWED, text)
        task = Task(
            guard, id=id, agent=registered, intent=intent, user=user, chain=None, parent=None,
            ttl=parked.expires_at - guard.now(),
        )  # fmt: skip
        task.kept, task.source_s256, task.subject = True, state.source_s256, state.subject.subject()
        return task

    async def take(self, task: Task) -> ParkedState | None:
        """Take a task from the store, once; return what it knew where this process does not have it.

        Raises:
            Denied: somebody else took it, or it has expired (recorded).
        """
        guard = self._guard
        if not task.kept:
            return None
        try:
            parked = await guard.parked.take(task.id, guard.now())
        except Exception as error:
            text = f"it cannot be told whether task {task.id} waits ({type(error).__name__})"
            raise self._refused(task.id, task.agent.agent.name, Reason.TASK_ENDED, text) from None
        state = _readable(parked)
        if parked is None or state is None:
            raise self._refused(task.id, task.agent.agent.name, Reason.TASK_ENDED, _GONE)
        task.kept = False
        if task.subject is None:
            return None
        task.deadline = guard.monotonic() + max(0.0, parked.expires_at - guard.now())
        return state

    def restore(self, task: Task, state: ParkedState | None) -> None:
        """Give a task that another process parked what it knew there."""
        if state is not None:
            restore_into(task, state)
            task.subject = None

    def refuse_other(self, task: Task, subject: Subject) -> None:
        """Refuse whoever resumes a task for somebody else than it acts for.

        INVARIANT: a task goes on under the identity it had, proved again, and never under that of whoever resumes it.
        """
        if task.subject is not None and task.subject != subject:
            text = f"task {task.id} acts for somebody else, or they were proved in another way"
            raise self._refused(task.id, task.agent.agent.name, Reason.USER_UNVERIFIED, text)

    def _refused(self, id: str, agent: str, reason: Reason, text: str) -> Denied:
        return self._guard.opening.refused(Event.TASK_DENIED, agent, reason, text, {"task": id})

    # --- answers ----------------------------------------------------------------------------------------------

    async def answer(self, question: str, approved: bool, by: str) -> bool:
        """Take an answer to a question. INVARIANT: the record first: an answer that nobody can prove is none."""
        guard = self._guard
        found = await guard.approvals.find(question, guard.now())
        verdict = Verdict.APPROVED if approved else Verdict.REJECTED
        check_answer(verdict, by)
        if found is None:
            return False
        fields = {"question": found.id, "task": found.task, "tool": found.request.tool, "answer": str(verdict)}
        guard.record(Event.APPROVAL_ANSWERED, {**fields, "by": guard.pseudonym(by)})
        return await guard.approvals.answer(question, verdict, by, guard.now())

    # --- ending -----------------------------------------------------------------------------------------------

    async def tend(self) -> None:
        """Give back what waited in vain: of calls whose question expired, and of parked tasks past their end."""
        guard, now = self._guard, self._guard.now()
        for task in guard.keeper.open_tasks():
            if task.tree.waiting:
                await self.give_back(task.tree.waiting.lapsed(now))
        self._turns += 1
        if self._turns % _SWEEPS == 1:
            for parked in await guard.parked.lapsed(now):
                await self._ended(parked)

    async def give_back(self, reservations: Iterable[Reservation]) -> None:
        """Settle what was reserved for calls that are not made."""
        for reservation in reservations:
            await self._guard.budgets.settle(reservation, Settlement.NOT_RUN)

    async def _ended(self, parked: Parked) -> None:
        """A task that nobody went on with in time has ended. One of this process's memory ends there."""
        if not self.outlives:
            return
        guard, state = self._guard, _readable(parked)
        if state is not None:
            await self.give_back(one.reservation for one in state.waiting if one.reservation is not None)
        await guard.budgets.forget(f"task:{parked.id}")
        agent = {"agent": state.agent} if state is not None else {}
        guard.try_append(Record(Event.TASK_LAPSED, {"task": parked.id, **agent, "why": "expired while it was parked"}))


_GONE: Final = "it does not wait here: it ended, it expired, or somebody else goes on with it"


def is_task_id(text: object) -> bool:
    """Whether this is the id of a task of some guard's own; a handover has dots."""
    return isinstance(text, str) and _ID.fullmatch(text) is not None


def _readable(parked: Parked | None) -> ParkedState | None:
    if parked is None:
        return None
    try:
        return read_state(parked.state.reveal())
    except Exception as error:
        _log.error("task %s cannot be gone on with: %s", parked.id, error)
        return None


def _intent_of(state: ParkedState) -> CompiledIntent | None:
    """INVARIANT: what was kept reads no file, no environment and no resolver, and is what its hash names."""
    try:
        intent = Intent.from_yaml(state.intent, file="<parked task>")
        compiled = compile_intent(intent) if _literal(intent) else None
    except ConfigurationError:
        return None
    return compiled if compiled is not None and compiled.s256 == state.intent_s256 else None


def _literal(intent: Intent) -> bool:
    own = all(isinstance(source, ValueSet) for source in intent.sets.values())
    return own and all(map(_literal, intent.agents.values()))
