"""Opening tasks: who may open one, and what a sub-agent gets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from agentguard.errors import ConfigurationError, Denied, TokenRejected, Unavailable
from agentguard.facts import span_attributes, task_facts
from agentguard.intent import CompiledIntent, Intent, compile_intent
from agentguard.intent.sets import Resolver
from agentguard.levels import need_results
from agentguard.model.decision import Decision, Miss, Outcome, Reason
from agentguard.model.duration import seconds
from agentguard.model.principal import MAX_HOPS, Chain, checked_name
from agentguard.model.record import Event, Record
from agentguard.proving import prove_agent, subject_of
from agentguard.stopping import suspension_keys
from agentguard.task import Task
from agentguard.task_state import TaskState
from agentguard.telemetry import spans
from agentguard.user import Itself, OnBehalfOf, User

if TYPE_CHECKING:
    from agentguard.guard import Guard
    from agentguard.handover.arrival import Arrival
    from agentguard.registry import RegisteredAgent


class Opening:
    """Opens and delegates the tasks of one guard."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard

    # --- making a task ----------------------------------------------------------------------------------------

    def root(self, agent: str, on_behalf_of: OnBehalfOf, intent: Intent, ttl: Any) -> Task:
        """A task that a subject authorises."""
        guard = self._guard
        if guard.closed:
            raise ConfigurationError("the guard is closed; make a new one")
        user = User.asserted(on_behalf_of) if isinstance(on_behalf_of, str) else on_behalf_of
        if not isinstance(user, User | Itself):
            raise TypeError(
                f"on_behalf_of is a {type(user).__name__}; use User.verified(token), User.asserted(name) or ITSELF"
            )
        registered = self.registered(agent, Event.TASK_DENIED, {"intent": _name_of(intent)})
        compiled = _compiled(intent, self._guard.resolvers)
        if not registered.may_open(compiled.name, compiled.source_s256):
            text = f"the registered purposes of agent {agent!r} do not name intent {compiled.name!r}"
            raise self.refused(Event.TASK_DENIED, agent, Reason.NOT_ALLOWED, text)
        limits = [
            registered.task_ttl,
            *([compiled.ttl] if compiled.ttl else []),
            *([seconds(ttl, "ttl: ")] if ttl is not None else []),
        ]
        return self._made(registered, compiled, user, None, None, min(limits))

    def child(self, parent: Task, agent: str, intent: Intent | None, ttl: Any) -> Task:
        """A task that narrows another one."""
        if intent is None:
            raise TypeError("a sub-agent needs an intent")
        refusal = self.delegation_refusal(parent, agent)
        if refusal is not None:
            raise self.delegation_refused(parent, agent, *refusal)
        registered = self.registered(agent, Event.DELEGATION_DENIED, {"task": parent.id})
        compiled = _compiled(intent, self._guard.resolvers)
        limits = [parent.remaining(), registered.task_ttl, *([compiled.ttl] if compiled.ttl else [])]
        limits += [seconds(ttl, "ttl: ")] if ttl is not None else []
        return self._made(
            registered, compiled, parent.user, parent.chain.extended(registered.agent), parent, min(limits)
        )

    def delegation_refusal(self, parent: Task, agent: str) -> tuple[Reason, str] | None:
        """Why a task may not be delegated to an agent, in this process or another, or None."""
        if not parent.is_open():
            return Reason.TASK_ENDED, f"task {parent.id} is {parent.state}; only an open task can delegate"
        if agent in (link.name for link in parent.chain.agents):
            return Reason.CYCLE, f"{agent} is in the chain already: {parent.chain.text()}"
        deepest = min(MAX_HOPS - 1, *(link.agent.max_depth for link in parent.path))
        if parent.chain.depth + 1 > deepest:
            return Reason.DEPTH_EXCEEDED, f"{parent.chain.text()} may not be longer than {deepest} hops"
        return None

    def _made(  # all of it is needed
        self, agent: RegisteredAgent, intent: CompiledIntent, user: OnBehalfOf, chain: Chain | None,
        parent: Task | None, ttl: float,
    ) -> Task:  # fmt: skip
        return Task(
            self._guard,
            id=self._guard.next_id(),
            agent=agent,
            intent=intent,
            user=user,
            chain=chain,
            parent=parent,
            ttl=ttl,
        )

    def registered(self, agent: str, event: Event, fields: Mapping[str, Any]) -> RegisteredAgent:
        """What the registry says about an agent; a name that it does not know is refused, and recorded."""
        try:
            found = self._guard.registry.get(checked_name(agent, "agent"))
        except ConfigurationError as error:
            raise self.refused(event, str(agent)[:64], Reason.UNKNOWN_AGENT, str(error), fields) from None
        if found is None:
            known = ", ".join(self._guard.registry.names()) or "none"
            text = f"agent {agent!r} is not registered; agentguard.yaml knows: {known}"
            raise self.refused(event, agent, Reason.UNKNOWN_AGENT, text, fields)
        return found

    # --- opening ----------------------------------------------------------------------------------------------

    async def open(self, task: Task) -> None:
        """Verify the subject, check the agent, record, and let calls start."""
        guard = self._guard
        if guard.closed:
            raise ConfigurationError("the guard is closed; make a new one")
        resumed = task.state is TaskState.PARKED or task.subject is not None
        if task.parent is None and task.state is not TaskState.PARKED:
            subject = await subject_of(guard, task)
            guard.parking.refuse_other(task, subject)
            task.settle_chain(Chain(subject, (task.agent.agent,)))
        await prove_agent(guard, task)
        guard.parking.refuse_other_agent(task)
        _forget_other_chain(task)
        self._refuse_unfit(task)
        if task.tree.origins and not resumed:  # a stop where the task came from, seen through a shared store
            task.cache["keys"] = (*suspension_keys(task), *(f"task:{above}" for above in task.tree.origins))
        if task.arrival is not None and not resumed:
            await self._arrive(task, task.arrival)
        taken = await guard.parking.take(task)
        if not resumed:
            task.deadline = guard.monotonic() + (min(task.ttl, task.parent.remaining()) if task.parent else task.ttl)
        try:
            self._record_opening(task, resumed)
        except Denied:
            await guard.parking.put_back(task, taken)
            if task.arrival is not None and not resumed:
                await task.arrival.forget(guard)
            raise
        if guard.leases is not None:
            guard.leases.open_task(task.id, task.counts)
        need_results(task)
        guard.parking.restore(task, taken)  # before any call may start
        if not task.move(TaskState.OPEN, only_from=(TaskState.NEW, TaskState.PARKED)):
            raise ConfigurationError(f"task {task.id} is {task.state}; make a new one")
        if task.parent is not None and task not in task.parent.children:
            task.parent.children.append(task)
        known = taken.state if taken is not None else None
        before = known.trace if known is not None else getattr(task.span, "traceparent", "")
        purpose = guard.redactor.text(task.intent.purpose) if guard.redactor is not None else task.intent.purpose
        known_as = span_attributes(guard, task)
        task.span = spans.start_agent(task.agent.agent.name, known_as, purpose=purpose, origin=before)

    async def _arrive(self, task: Task, arrival: Arrival) -> None:
        """Redeem the handover that the task came with; INVARIANT: after everything that could refuse it."""
        guard, source = self._guard, {"from": arrival.source}
        if refusal := await arrival.refusal(guard, task):
            raise self.refused(Event.TASK_DENIED, task.agent.agent.name, *refusal, source)
        if why := await arrival.redeem(guard):
            guard.records.try_append(
                Record(Event.TASK_DENIED, {"outcome": "deny", "reason": "token_rejected", "why": why, **source})
            )
            raise TokenRejected("invalid_token", why)

    def _refuse_unfit(self, task: Task) -> None:
        guard, event = self._guard, Event.DELEGATION_DENIED if task.parent else Event.TASK_DENIED
        refusal = task.agent.refusal(guard.now(), guard.environment)
        if refusal is None and task.parent is not None and not task.parent.is_open():
            refusal = Reason.TASK_ENDED, f"task {task.parent.id} is {task.parent.state}"
        if refusal is not None:
            raise self.refused(event, task.agent.agent.name, *refusal)

    def _record_opening(self, task: Task, resumed: bool) -> None:
        fields = {**task_facts(self._guard, task), "purpose": task.intent.purpose, "ttl": int(task.remaining())}
        if task.parent is not None:
            fields["parent"] = task.parent.id
            spans.delegated(task.parent.agent.agent.name, task.agent.agent.name, span_attributes(self._guard, task))
        if task.arrival is not None:
            fields["from"] = task.arrival.source
        event = Event.DELEGATED if task.parent is not None and task.arrival is None else Event.TASK_OPENED
        event = Event.TASK_RESUMED if resumed else event
        try:
            self._guard.records.append(Record(event, fields))
        except Exception as error:
            text = f"the task was not recorded ({error if isinstance(error, Unavailable) else type(error).__name__})"
            raise _denied(task.agent.agent.name, Reason.AUDIT_UNAVAILABLE, text) from None

    # --- refusing ---------------------------------------------------------------------------------------------

    def delegation_refused(self, parent: Task, agent: str, reason: Reason, text: str) -> Denied:
        """Record that a task was not delegated, and return the error to raise."""
        error = self.refused(Event.DELEGATION_DENIED, agent, reason, text, {"task": parent.id})
        if parent.is_open():
            spans.delegated(
                parent.agent.agent.name, agent, span_attributes(self._guard, parent), refused=error.decision
            )
        return error

    def refused(
        self, event: Event, agent: str, reason: Reason, text: str, fields: Mapping[str, Any] | None = None
    ) -> Denied:
        """Record a refusal, and return the error to raise."""
        position = self._guard.records.try_append(
            Record(event, {"agent": agent, "outcome": "deny", "reason": str(reason), **(fields or {})})
        )
        error = _denied(agent, reason, text, position.id if position is not None else "")
        self._guard.recent.keep_unnamed(error.decision)
        return error


def _forget_other_chain(task: Task) -> None:
    """Forget what records and spans said of a task that is opened again, where another workload was proved now."""
    if task.cache.get("chain", task.chain) != task.chain:
        tools = [key for key in task.cache if isinstance(key, tuple) and key[0] == "facts"]
        for key in ("chain", "facts", "attributes", "decided", *tools):
            task.cache.pop(key, None)


def _denied(agent: str, reason: Reason, text: str, id: str = "") -> Denied:
    decision = Decision(outcome=Outcome.DENY, reason=reason, tool="task", level=agent, miss=Miss(text=text), id=id)
    return Denied(decision)


def _name_of(intent: object) -> str:
    return str(getattr(intent, "name", ""))[:64]


def _compiled(intent: Intent, resolvers: Mapping[str, Resolver]) -> CompiledIntent:
    if not isinstance(intent, Intent):
        raise TypeError(
            f'intent is a {type(intent).__name__}; use Intent("purpose", step("tool", ...)) or Intent.load(path)'
        )
    return compile_intent(intent.resolve(resolvers))
