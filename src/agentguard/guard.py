"""The guard: the policy enforcement point. The pipeline of one call is one function, on one screen."""

from __future__ import annotations

import itertools
import logging
import os
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

import anyio
from msgspec.structs import replace

from agentguard._drive import drive, run_shielded
from agentguard.active import refuse_blocking
from agentguard.answering import answer
from agentguard.approval.refuse import RefuseAll
from agentguard.approving import ASK_SECONDS, NOT_BY, checked_approver, checked_roles, checked_wait
from agentguard.audit.pseudonyms import Pseudonyms
from agentguard.credentials.leaks import LiveSecrets
from agentguard.credentials.leases import Leases
from agentguard.credentials.ledger import MemoryLedger
from agentguard.effects import take_effect
from agentguard.ending_tasks import EndingTasks
from agentguard.errors import ConfigurationError, Denied
from agentguard.explanation import Explanation, RecentDecisions
from agentguard.facts import span_attributes, task_facts
from agentguard.intent import Intent
from agentguard.intent.sets import NAME as SET_NAME
from agentguard.intent.sets import Resolver
from agentguard.keeper import Keeper, guards
from agentguard.model.decision import Decision, Miss, Outcome, Reason
from agentguard.model.lease import Secret
from agentguard.model.record import Event, Record
from agentguard.opening import Opening
from agentguard.parking import Parking, is_task_id
from agentguard.pipeline.admit import approve, decide, match_intent
from agentguard.pipeline.gate import gate
from agentguard.pipeline.identify import identify
from agentguard.pipeline.intercept import intercept
from agentguard.pipeline.lease import lease
from agentguard.pipeline.outcome import close, denied
from agentguard.pipeline.record import record_decision
from agentguard.pipeline.release import release
from agentguard.pipeline.search import search
from agentguard.ports import (
    Approvals,
    Approver,
    AuditSink,
    Authenticator,
    Budgets,
    DecisionPoint,
    Issuer,
    Ledger,
    ParkedTasks,
    SubjectVerifier,
    Suspensions,
    waits,
)
from agentguard.recording import denial_fields
from agentguard.records import Records
from agentguard.refusal import ABANDONED, Ended, Refusal
from agentguard.registry import OpenRegistry, Registry
from agentguard.running import Running, undecided
from agentguard.state.approvals_memory import MemoryApprovals
from agentguard.state.budgets_memory import MemoryBudgets
from agentguard.state.parked_memory import MemoryParkedTasks
from agentguard.state.suspensions_memory import MemorySuspensions
from agentguard.stopping import Stopping, key_of
from agentguard.task import Task
from agentguard.task_state import TaskState
from agentguard.telemetry.emitter import Emitter
from agentguard.telemetry.settings import Telemetry
from agentguard.tool import Tool
from agentguard.user import OnBehalfOf

if TYPE_CHECKING:
    from agentguard.audit.recording_file import Recording
    from agentguard.audit.redaction import Redactor
    from agentguard.handover import Handovers
    from agentguard.handover.exporting import Exporting
    from agentguard.policy.attributes import AttributeSource
    from agentguard.policy.notices import Notice, Notified


class Closing(Protocol):
    """Something that is closed with the guard."""

    def close(self) -> None: ...


_log: Final = logging.getLogger("agentguard")
_NOBODY_NAMED: Final[Any] = object()
_ASK, _DENY = Outcome.ASK, Outcome.DENY  # found faster than in their enumeration
_NONE: Final[Mapping[str, Any]] = MappingProxyType({})


class Guard:
    """Stands between agents and tools. Make one with `agentguard.local()` or `agentguard.load(path)`; close it.

    Args:
        audit: where records go; no record, no action.
        registry: which agents there are.
        issuer: issues credentials; None for a guard whose tools need none.
        environment: where this runs, as the registry names it.
        approver: asks people; the default refuses.
        approvals: questions to people and their answers, which may outlive the process.
        parked: tasks that wait, which may outlive the process.
        ask_for: seconds for which a question to a person stands, at most a day; never longer than its task.
        not_by: who must not approve a call, of `subject`, `agent` and `owner`; a question to the subject is theirs.
        decision_points: asked in order at every call that the intent admits.
        attributes: what decision points are told beyond what the guard knows itself, asked at every such call.
        notify: whom policies can oblige to tell before a tool runs, by name: plain functions of a `Notice`.
        users: verifies `User.verified`.
        authenticator: proves what this workload is; without one agents are only named in-process, and records say so.
        budgets, ledger, suspensions: state; the default is this process's memory.
        grace: seconds past its expiry in which a tool that reads may still use a kept credential while the broker is
            out of reach: 0 (never) to 30; each use is recorded.
        handovers: how tasks are handed on to other processes, and from whom they are taken.
        closing: what else is closed with the guard, after its ports: a store that several of them use.
        pseudonym_key: keys the hashes of subjects and arguments in records and spans: at least 16 bytes, or
            `Pseudonyms` with the generations of a key that is rotated.
        recall: keep the last 1,000 decisions with their values, for `explain()`.
        redactor: takes personal data out of arguments that records and `explain()` show.
        recording: also keeps calls with their full values, in a file of its own; never in a call's way.
        telemetry: which spans there are, and whether records are copied as events; by default one span a call.
        clock: seconds since the epoch.
        monotonic: seconds that never jump.
    """

    def __init__(  # the composition root passes rooms, not options
        self, *, audit: AuditSink, registry: Registry | OpenRegistry, issuer: Issuer | None = None,
        environment: str = "", approver: Approver | None = None, approvals: Approvals | None = None,
        parked: ParkedTasks | None = None, ask_for: float = ASK_SECONDS, not_by: Sequence[str] = NOT_BY,
        decision_points: Sequence[DecisionPoint] = (), attributes: Sequence[AttributeSource] = (),
        notify: Mapping[str, Callable[[Notice], object]] = _NONE,
        users: SubjectVerifier | None = None, budgets: Budgets | None = None, ledger: Ledger | None = None,
        suspensions: Suspensions | None = None, authenticator: Authenticator | None = None, grace: float = 0.0,
        handovers: Handovers | None = None, closing: Sequence[Closing] = (),
        pseudonym_key: bytes | Pseudonyms, recall: bool = False, redactor: Redactor | None = None,
        recording: Recording | None = None, telemetry: Telemetry | None = None,
        clock: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self.pseudonyms = pseudonym_key if isinstance(pseudonym_key, Pseudonyms) else Pseudonyms.single(pseudonym_key)
        self.redactor, self.recording = redactor, recording
        self.audit, self.registry, self.environment, self.users = audit, registry, environment, users
        self.approver = RefuseAll() if approver is None else checked_approver(approver)
        self.approvals: Approvals = approvals if approvals is not None else MemoryApprovals()
        self.parked: ParkedTasks = parked if parked is not None else MemoryParkedTasks()
        self.ask_for, self.not_by = checked_wait(ask_for), checked_roles(not_by)
        self.decision_points, self.attributes = tuple(decision_points), tuple(attributes)
        self.notified: Mapping[str, Notified] = _notified(notify) if notify else {}
        self.budgets: Budgets = budgets if budgets is not None else MemoryBudgets()
        self.suspensions: Suspensions = suspensions if suspensions is not None else MemorySuspensions()
        self.issuer, self.now, self.monotonic = issuer, clock, monotonic
        self.authenticator, self.handovers = authenticator, handovers
        self._closing = tuple(closing)
        self.telemetry = Emitter(telemetry or Telemetry(), getattr(audit, "behind", None))
        self.records = Records(audit, self.telemetry)
        self.leases: Leases | None = None
        if issuer is not None:
            ledger = ledger if ledger is not None else MemoryLedger()
            self.leases = Leases(issuer, ledger, self.records.record, clock, append=self.records.append, grace=grace)
        self.secrets = self.leases.secrets if self.leases is not None else LiveSecrets()
        ports = (
            self.audit, issuer, ledger, self.approver, self.approvals, self.parked, *self.decision_points, users,
            authenticator, self.budgets, self.suspensions, handovers.redemptions if handovers is not None else None,
        )  # fmt: skip
        self._ports = tuple([port for port in ports if port is not None])
        waiting = [type(port).__name__ for port in self._ports if getattr(port, "suspends", True)]
        self.suspends = waiting[0] if waiting else ""  # a port that a synchronous caller cannot wait for
        self.remote = any(bool(getattr(port, "remote", port is issuer)) for port in self._ports)
        releasing = [port for port in (issuer, ledger, self.budgets, self.suspensions, self.parked) if port is not None]
        self.release_suspends = any(getattr(port, "suspends", True) for port in releasing)
        self.release_waits, self.reserving_waits = any(map(waits, releasing)), waits(self.budgets)
        self.details = bool(getattr(issuer, "details", False))  # it puts the steps and their bounds into its tokens
        # Which of its brokers do, where it has several.
        self.details_for: Callable[[str], bool] = getattr(issuer, "details_for", None) or bool
        self.resolvers: dict[str, Resolver] = {}
        self.closed = False
        self.recent = RecentDecisions(named=recall, redactor=redactor)
        self._new_ids()
        self.opening, self.ending = Opening(self), EndingTasks(self)
        self.parking = Parking(self)
        self.keeper = Keeper(self)
        self.stopping = Stopping(self)
        guards.add(self)

    # --- the pipeline ----------------------------------------------------------------------------------------

    async def pipeline(
        self, task: Task, tool: Tool, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> AsyncGenerator[Running, Ended]:
        """One call, all of it. Yields once, when the tool may run; is sent how the tool ended.

        INVARIANT: the order below is the security property. There is no other way to a tool, and nobody can insert,
        drop or swap a step; what varies is behind the ports.
        """
        call, refusal = Running(self, task, tool, self.next_id(), undecided(tool.spec.name)), None
        known_as = task.cache.get("attributes") or span_attributes(self, task)
        call.span = self.telemetry.start_call(tool.spec.name, known_as, tool.attributes)
        try:
            intercept(call, args, kwargs)  # 1 bind once: canonical form and run copy
            identify(call)  # 2 every link of the chain: open, in date, allowed
            await match_intent(call)  # 3 every intent and ceiling matches; all reserved or none
            if self.decision_points or call.span.parts:
                await decide(call)  # 4 decision points: forbid wins, an error is a deny
            if call.decision.outcome is _ASK:
                await approve(call)  # 5 a person, for these exact arguments, once
            await record_decision(call)  # 6 in the audit log before anything is issued or run
            await lease(call)  # 7 a credential for this tool, audience and task
            await gate(call)  # 8 state, suspensions and digest once more
            call.ended = ABANDONED
            call.ended = search(call, (yield call))  # 9 the tool runs with the run copy
        except Refusal as no:
            refusal = no.with_traceback(None)
        except Exception as bug:
            if call.ended is ABANDONED:
                raise
            refusal = Refusal(Reason.POLICY_ERROR, f"{type(bug).__name__} while the call was being decided")
        finally:
            try:
                if self.release_waits:
                    await run_shielded(partial(release, call), suspends=True)  # 10 first thing, cannot be cancelled
                else:
                    await release(call)  # it never suspends, so nothing can cancel it
            except Exception as late:  # out of time: the ledger and the keeper have what is left
                _log.error("call %s was not released in time: %s", call.id, type(late).__name__)
            finally:
                error = denied(call, refusal) if refusal is not None else None
                try:
                    close(call)  # 11 the outcome and the result; never reaches the caller
                finally:  # an interrupt does, such as one of an exporter that waits
                    if call.ending or call.decision.outcome is _DENY:
                        await take_effect(call)  # tasks that end, or are stopped, by this call
        if error is not None:
            try:
                raise error
            finally:  # its traceback holds this frame: what that holds would live until the next collection
                del call, refusal, error

    # --- tasks -----------------------------------------------------------------------------------------------

    def resolver(self, name: str, resolve: Resolver) -> None:
        """Register a function that returns the members of a set: `sets: {orders: {resolve: NAME, with: {...}}}`.

        Args:
            name: how intents call it.
            resolve: called once when a task opens, with the entries of `with` by keyword; it returns a structure.

        Raises:
            ConfigurationError: the name is no word, or taken: what an intent means never changes under it.
        """
        if not SET_NAME.fullmatch(name) or name in self.resolvers or not callable(resolve):
            raise ConfigurationError(f"{name!r} is no free name for a resolver that can be called; write orders_of")
        self.resolvers[name] = resolve

    def task(
        self, agent: str, *, on_behalf_of: OnBehalfOf = _NOBODY_NAMED, intent: Intent, ttl: float | str | None = None
    ) -> Task:
        """Return a task, to be opened with `with` or `async with`.

        Args:
            agent: the agent's name in the registry.
            on_behalf_of: `User.verified(token)`, `User.asserted("alice")`, `"alice"` (asserted too) or `ITSELF`.
            intent: what the task may do.
            ttl: seconds, or text such as "10m"; bounded by the intent and the registry.

        Raises:
            TypeError: nobody is named; absence never becomes authority.
            Denied: `unknown_agent`, ... (recorded).
        """
        if on_behalf_of is _NOBODY_NAMED or on_behalf_of is None:
            raise TypeError('guard.task() needs on_behalf_of: User.verified(token), User.asserted("alice") or ITSELF')
        return self.opening.root(agent, on_behalf_of, intent, ttl)

    def child(self, parent: Task, agent: str, intent: Intent | None, ttl: float | str | None) -> Task:
        """Return a task that narrows another; `Task.delegate` calls this."""
        return self.opening.child(parent, agent, intent, ttl)

    async def export(self, task: Task, to: str, intent: Intent | None, how: Mapping[str, Any]) -> str:
        """Hand a task on to another process; `Task.export` calls this."""
        return await self._handing_on().export(task, to, intent, **how)

    async def reclaim(self, task: Task, token: Secret) -> None:
        """Take back what a handover was given; `Task.reclaim` calls this."""
        await self._handing_on().reclaim(task, token)

    def _handing_on(self) -> Exporting:
        from agentguard.handover.exporting import Exporting

        # INVARIANT: one for all threads, as it knows what can be reclaimed.
        return cast("Exporting", self.__dict__.setdefault("_exporting", Exporting(self)))

    def resume(self, token: str, *, agent: str = "", on_behalf_of: OnBehalfOf | None = None) -> Task:
        """Return a task to go on with, to be opened with `with` or `async with`: of a handover, or one that was parked.

        A handover's signature, issuer, trust domain, type and times are verified (RFC 8725), its chain and its
        environment are checked, and the agent has to be registered here: its purposes and ceiling hold, those that this
        registry knows of the chain too. It is redeemed when the task is opened, once. A call under the task has to
        match every level of the chain, as it stood when it was handed on; further delegation and credentials are this
        guard's own.

        A parked task has the same id, agent, intent, budgets and end as before, and what it has read, heard and seen.
        Its subject and its agent are proved again when it is opened; it is opened once, by whoever is first.

        Args:
            token: what `Task.export` returned, or the id of a parked task.
            agent: the agent that works here; empty for whoever it names.
            on_behalf_of: for a parked task, whom it acts for, as for `task()`.

        Raises:
            TypeError: a parked task, and nobody is named.
            ConfigurationError: this guard takes no tasks, or a port would block or suspend; use `aresume`.
            TokenRejected: it is no handover of a peer, it is forged, expired, for somebody else, or used (recorded).
            Denied: `unknown_agent`, `not_allowed`, `cycle`, `suspended`, `task_ended`, ... (recorded).
        """
        from agentguard.handover.resuming import resume

        if self.closed:
            raise ConfigurationError("the guard is closed; make a new one")
        if is_task_id(token):
            refuse_blocking(self)
            return drive(self.parking.find(token, agent, on_behalf_of))
        secret = Secret(token)
        del token
        return resume(self, secret, agent)

    async def aresume(self, task: str, *, agent: str = "", on_behalf_of: OnBehalfOf | None = None) -> Task:
        """Return a task as `resume` does, without blocking the event loop."""
        from agentguard.handover.resuming import aresume

        if self.closed:
            raise ConfigurationError("the guard is closed; make a new one")
        if is_task_id(task):
            return await self.parking.find(task, agent, on_behalf_of)
        secret = Secret(task)
        del task
        return await aresume(self, secret, agent)

    def answer(self, question: str, *, approved: bool, by: str) -> bool:
        """Take a person's answer to a question that waits, for an application that has a page of its own for it.

        The call runs when it is made again: once, with exactly the arguments that were shown.

        Args:
            question: its id, as `ApprovalRequired.question` says.
            approved: whether it may run.
            by: who answered, as the application authenticated them; never what a model or a client claims.

        Returns:
            Whether the answer counts: not where the question was answered before, has expired, or is none.

        Raises:
            ConfigurationError: nobody is named.
            TypeError: `approved` is no bool.
        """
        return drive(answer(self, question, approved, by))

    async def aanswer(self, question: str, *, approved: bool, by: str) -> bool:
        """Take an answer as `answer` does, without blocking the event loop."""
        return await answer(self, question, approved, by)

    def refuse(self, task: Task, tool: str, reason: Reason, text: str) -> Denied:
        """Record a denial outside the pipeline; `Task.refuse` calls this."""
        decision = Decision(outcome=Outcome.DENY, reason=reason, tool=tool, miss=Miss(text=text))
        for link in task.path:
            link.counts.denied += 1
        fields = {**task_facts(self, task), "tool": tool, **denial_fields(decision, self.stopping.public)}
        position = self.records.try_append(Record(Event.CALL_DENIED, fields))
        decision = replace(decision, id=position.id if position is not None else "")
        self.recent.keep(decision, task.chain.text)
        return Denied(decision)

    async def open_task(self, task: Task) -> None:
        """Open a task; `with` calls this."""
        await self.opening.open(task)
        self.keeper.watch(task)

    async def close_task(self, task: Task, state: TaskState, why: str) -> None:
        """End or park a task: stop new calls, end its children, revoke its leases at once, record it."""
        await self.ending.close(task, state, why)

    # --- stopping --------------------------------------------------------------------------------------------

    def suspend(self, *, agent: str = "", task: str = "", subject: str = "", chain: str = "", why: str) -> None:
        """Stop an agent, a task, a subject or a chain: once this returned, nothing starts under it here.

        Its leases are revoked. Others who share the state hear of it: on this host before this returned, on others
        within a second; a write asks the store anyway.

        Args:
            agent, task, subject, chain: exactly one of them; the subject as in the chain (`user:alice` or `agent:bot`),
                and a chain as in records (`user:alice > support-bot`), which stops all below it.
            why: for the record.

        Raises:
            ConfigurationError: none of them or more than one, or it is none that a chain could hold.
        """
        drive(self.stopping.suspend(key_of(agent, task, subject, chain), why))

    async def asuspend(self, *, agent: str = "", task: str = "", subject: str = "", chain: str = "", why: str) -> None:
        """Stop as `suspend` does, without blocking the event loop."""
        key = key_of(agent, task, subject, chain)
        await run_shielded(lambda: self.stopping.suspend(key, why), suspends=True)

    def revoke_all(self, why: str) -> None:
        """Stop everything: once this returned, no call starts, and every lease is revoked."""
        drive(self.stopping.suspend("all", why))

    def lift(self, key: str) -> None:
        """Let `agent:NAME`, `task:ID`, `subject:SUB` or `all` go on; what was revoked stays revoked."""
        drive(self.stopping.lift(key))

    def forget_decisions(self) -> None:
        """Drop every decision and attribute that is kept for another call; a suspension does this by itself."""
        for kept in (*self.decision_points, *self.attributes):
            if (forget := getattr(kept, "forget", None)) is not None:
                forget()

    # --- records ---------------------------------------------------------------------------------------------

    def pseudonym(self, name: str) -> str:
        """A keyed hash of a name: the same in every record of this log, and no name."""
        return self.pseudonyms.of(name)

    def explain(self) -> Explanation:
        """Return the last 1,000 decisions; printed, each is one line that says why."""
        return self.recent.explanation()

    # --- the local issuer's other side -----------------------------------------------------------------------

    @property
    def keys(self) -> Any:
        """The public keys of the local issuer, for `TokenVerifier`."""
        keys = getattr(self.issuer, "keys", None)
        if keys is None:
            raise ConfigurationError("this guard's issuer is not local; take the keys from its own metadata")
        return keys

    def revoked(self, issuer: str, jti: str) -> bool:
        """Tell whether a token of the local issuer is dead; unknown ones are. For `TokenVerifier(revoked=...)`."""
        check = getattr(self.issuer, "revoked", None)
        return bool(check(issuer, jti)) if check is not None else True

    def outstanding(self) -> int:
        """How many credentials may be alive now: issued or possibly issued, not revoked, not expired."""
        return drive(self.leases.outstanding()) if self.leases is not None else 0

    # --- life ------------------------------------------------------------------------------------------------

    @property
    def instance(self) -> str:
        """What tells this guard from every other one, in other processes and after a fork too."""
        return self._prefix

    next_id: Callable[[], str]
    """Return an id that is unique in this process and after a fork."""

    def _new_ids(self) -> None:
        self._prefix = secrets.token_hex(8)
        self.next_id = map(f"{self._prefix}{{:x}}".format, itertools.count(1)).__next__

    def after_fork(self) -> None:
        """In a child process: forget the parent's tasks and leases without touching them."""
        self._new_ids()
        if isinstance(self.budgets, MemoryBudgets):
            self.budgets = MemoryBudgets()
        if isinstance(self.approvals, MemoryApprovals):
            self.approvals = MemoryApprovals()
        self.keeper.after_fork()
        self.parking.after_fork()
        for port in self._ports:
            if port is not self.audit and (forked := getattr(port, "after_fork", None)) is not None:
                forked()
        if self.leases is not None:
            self.leases.forget_all()
            self.secrets = self.leases.secrets

    def close(self) -> None:
        """End every open task, revoke what they hold, and close the audit log; idempotent."""
        if self.closed:
            return
        self.closed = True
        self.keeper.stop()
        last = (*self._closing, *((self.recording,) if self.recording is not None else ()), self.audit)
        for port in (*self._ports[1:], *last):  # the log last: what closing does is recorded
            if (close := getattr(port, "close", None)) is not None:
                _closed(close, port)
        self.telemetry.close()

    def recover(self) -> int:
        """End what dead processes left behind, and return how many leases that were; `agentguard.load` calls this.

        What could not be ended at once is tried again for as long as this guard lives.
        """
        if self.leases is None:
            return 0
        found = drive(self.leases.recover())
        if found:
            self.keeper.start()
        return found

    def __enter__(self) -> Guard:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Guard:
        return self

    async def __aexit__(self, kind: Any, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.remote or self.release_suspends:  # what is left is revoked at servers, which must not block the loop
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(self.close)
        else:
            self.close()

    def __repr__(self) -> str:
        return f"<Guard {self.environment or 'no environment'} pid {os.getpid()}{' closed' if self.closed else ''}>"


def _closed(close: Callable[[], object], port: object) -> None:
    try:
        close()
    except Exception as error:
        _log.error("%s could not be closed: %s", type(port).__name__, type(error).__name__)


def _notified(notify: Mapping[str, Callable[[Notice], object]]) -> Mapping[str, Notified]:
    from agentguard.policy.notices import by_name

    return by_name(notify)
