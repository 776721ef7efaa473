"""One call on its way through the pipeline: each step of it is a method here; their order is in `guard.py`."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterable, Mapping
from decimal import Decimal
from time import time_ns
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeAlias

from msgspec import Struct
from msgspec.structs import replace

from agentguard._drive import run_shielded
from agentguard.access import Caller, CurrentCall, _caller
from agentguard.approving import approved_by, give_back_waiting, settle_waiting
from agentguard.asking import Asked, asked_for, grant_for
from agentguard.credentials.held import Use
from agentguard.credentials.leaks import MARK, Search, clean_exception
from agentguard.effects import keep_result, mark_ended, mark_started
from agentguard.errors import ApprovalRequired, CredentialUnavailable, Denied, NotCanonical, Unavailable
from agentguard.intent import Facts
from agentguard.matching import Levels, levels_of, match
from agentguard.model.call import Effect, ToolCall, ToolSpec
from agentguard.model.canonical import Canonical, canonical, digest, run_copy
from agentguard.model.decision import Decision, Outcome, Reason
from agentguard.model.lease import Credential
from agentguard.model.record import Event, Record
from agentguard.policy.obligations import NOTHING
from agentguard.policy.redact import REDACTED, redacted
from agentguard.ports import Reservation, Settlement
from agentguard.recording import call_record
from agentguard.refusal import NOT_RUN, Ended, Refusal, event_of, settlement_of
from agentguard.results import MAX_CANDIDATES
from agentguard.stopping import suspension_keys
from agentguard.task import TaskState, pauses
from agentguard.telemetry import spans
from agentguard.tool import Tool
from agentguard.waiting import Waiting

if TYPE_CHECKING:
    from agentguard.deciding import Judged
    from agentguard.guard import Guard
    from agentguard.task import Task


_UNBOUND: Final = ToolCall(id="", spec=ToolSpec(name="unbound"), arguments={}, given=frozenset(), digest="")
_NO_ARGUMENTS: Final[tuple[Any, Any]] = ((), {})
_NO_COPIES: Final[tuple[dict[str, Any], dict[str, Any]]] = ({}, {})


class Running(Struct, eq=False):
    """One call. INVARIANT: whatever was taken for it is given back by `release`, which cannot be cancelled.

    It is made by C, as it is made for every call, with `undecided` as its decision; what it holds is set step by step.
    """

    guard: Guard
    task: Task
    tool: Tool
    id: str
    decision: Decision
    arguments: tuple[Any, Any] = _NO_ARGUMENTS
    visible: CurrentCall | None = None
    ended: Ended = NOT_RUN
    hits: set[str] = set()  # msgspec makes a new one each time
    span: Any = None
    _copies: tuple[dict[str, Any], dict[str, Any]] = _NO_COPIES
    _mutable: bool = False
    reservation: Reservation | None = None
    ending: tuple[Task, ...] = ()
    judged: Judged | None = None
    waits: Waiting | None = None
    approved: str = ""
    parts: list[Any] | None = None
    missed: bool = False  # a part went by that nothing looked at
    _use: Use | None = None
    started: bool = False
    _marked: bool = False
    refused: bool = False
    _recorded: bool = False
    _renewed: bool = False
    _position: Any = None
    call: ToolCall = _UNBOUND
    hash: str = ""

    def __repr__(self) -> str:
        return f"<Running {self.id}>"

    def __rich_repr__(self) -> list[tuple[str, Any]]:  # a struct's own shows all of it, and rich in tracebacks with it
        return [("id", self.id)]

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("a call that runs cannot be copied or pickled")

    __copy__ = None

    # 1 -------------------------------------------------------------------------------------------------------
    def intercept(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Bind once; make the canonical form, which is compared, and the run copy, which the tool gets."""
        guard, tool = self.guard, self.tool
        form, shortest = tool.plain, guard.secrets.shortest
        hidden: dict[str, Any] = {}
        given: dict[str, Canonical] | None = None
        # Plain arguments cannot change and hold no secret, so what they are bound to is their run copy too.
        plain = form.of(args, kwargs, shortest) if form.binds else None
        if plain is None:
            plain, hidden, given = self._bound(args, kwargs)
        copy, arguments, sha256 = plain
        caller = _caller.get() or _NOBODY
        self.call = ToolCall(
            id=self.id, spec=tool.spec, arguments=arguments, given=frozenset(copy if given is None else given),
            digest=sha256, call_id=caller.call_id, agent=caller.agent, run_id=caller.run_id,
        )  # fmt: skip
        self.hash = guard.pseudonyms.digest(sha256)
        if self.span.on:
            self.span.call, self.span.hash = self.call, self.hash
        self._copies = (copy, hidden)
        if given is None:
            return
        # What a tool's signature does not name, the caller has: the name of an argument can hold a secret too.
        named = tool.spec.parameters is not None or _too_short(given, shortest)
        if not (named and _too_short(given.values(), shortest)):
            self._refuse_secrets(given)

    def _bound(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[_Formed, dict[str, Any], dict[str, Canonical] | None]:
        """Bind arguments of any kind; return them formed, those that are hidden, and what has to be searched."""
        tool = self.tool
        try:
            bound = tool.binder.bind(args, kwargs)
            if not tool.plain.binds:
                plain = tool.plain.of((), bound.visible, self.guard.secrets.shortest)
                if plain is not None:
                    return plain, bound.hidden, None
            given = self._canonical(bound.visible)
            copy, self._mutable = run_copy(bound.visible)
        except NotCanonical as error:
            raise Refusal(Reason.INVALID_ARGUMENTS, self._cleaned(str(error))) from None
        except TypeError as error:
            why = self._cleaned(f"the call does not fit the tool's signature: {error}")
            raise Refusal(Reason.INVALID_ARGUMENTS, why) from None
        defaults = tool.spec.defaults
        arguments = {**defaults, **given} if defaults else given
        return (copy, arguments, digest(arguments)), bound.hidden, given

    def _name(self) -> None:
        """Make the value of a call that does not bind: it has no arguments, and no hash of them."""
        caller = _caller.get() or _NOBODY
        self.call = ToolCall(
            id=self.id, spec=self.tool.spec, arguments={}, given=frozenset(), digest="",
            call_id=caller.call_id, agent=caller.agent, run_id=caller.run_id,
        )  # fmt: skip
        if self.span.on:
            self.span.call, self.span.hash = self.call, ""

    def _canonical(self, visible: Mapping[str, Any]) -> dict[str, Canonical]:
        takes_bytes = self.tool.spec.bytes
        whole = canonical(visible, bytes_allowed=takes_bytes)
        assert isinstance(whole, dict)  # noqa: S101  # a mapping's canonical form is a dict
        return whole

    def _cleaned(self, text: str) -> str:
        """A text without live credentials: the name of an argument or of a key can hold one too."""
        clean, hits = self.guard.secrets.cleaned(text)
        self.hits |= hits
        return clean

    def _refuse_secrets(self, given: dict[str, Canonical]) -> None:
        search = Search(self.guard.secrets)
        clean = search.value(given)
        if search.hits:
            self.hits = search.hits
            # What is recorded and explained of this call is what it holds beside the credential.
            self.call = replace(self.call, arguments=clean if isinstance(clean, dict) else {})
            raise Refusal(Reason.SECRET_IN_ARGUMENTS, "a live credential stands in the arguments; it was revoked")

    # 2 -------------------------------------------------------------------------------------------------------
    def identify(self) -> None:
        """Every link of the chain is open, in date, and allowed this tool or allowed to hand it on."""
        task, tool, now = self.task, self.tool.spec.name, self.guard.monotonic()
        allowed, heir = tool in task.allowed, None
        # INVARIANT: what can change is looked at for every link, each time; patterns of tools cannot, so they are once.
        for link in task.upwards:
            if link.state is not _OPEN or link.why_stopped or now >= link.deadline:
                _refuse_closed(link, now)
            if link.agent.bounded:
                refusal = link.agent.refusal(self.guard.now(), self.guard.environment)
                if refusal is not None:
                    raise Refusal(*refusal, level=link.agent.agent.name)
            if not allowed:
                _refuse_tool(link, tool, heir)
                heir = link.agent.agent.name
        if not allowed:
            task.allowed.add(tool)

    # 3 -------------------------------------------------------------------------------------------------------
    async def match_intent(self) -> None:
        """At every level the call must match a step; all are reserved at once, or none."""
        task, guard = self.task, self.guard
        tree = task.tree
        if tree.waiting.calls:
            await give_back_waiting(self)
        levels = task.cache.get("levels") or levels_of(task)
        facts = Facts(seen=tree.seen, heard=tree.heard)
        if guard.reserving_waits:
            # INVARIANT: what a store takes for a call that is cancelled meanwhile is known here, so it is given back.
            return await run_shielded(lambda: self._matched(levels, facts), suspends=True)
        found = await match(self.call, levels, facts, guard.budgets, guard.monotonic())
        self.decision, self.reservation, self.ending = found.decision, found.reservation, found.ending

    async def _matched(self, levels: Levels, facts: Facts) -> None:
        found = await match(self.call, levels, facts, self.guard.budgets, self.guard.monotonic())
        self.decision, self.reservation, self.ending = found.decision, found.reservation, found.ending

    # 4 -------------------------------------------------------------------------------------------------------
    async def decide(self) -> None:
        """The decision points: forbid wins, an error is a deny."""
        if not self.span.parts:
            if self.guard.decision_points:
                await self._decide()
            return
        with self.span.phase(spans.AUTHORIZE, bool(self.guard.decision_points)) as phase:
            await self._decide()
            phase.decided(self.decision, self.judged.version if self.judged is not None else "")

    async def _decide(self) -> None:
        from agentguard.deciding import judge, refuse_denied  # loaded where there are decision points

        self.judged = await judge(self)
        if self.judged is not None:
            refuse_denied(self.judged)
            self.decision = self.judged.decided

    # 5 -------------------------------------------------------------------------------------------------------
    async def approve(self) -> None:
        """Ask a person where a step or an obligation says so; the answer is good for these exact arguments, once."""
        if self.decision.outcome is Outcome.ASK:
            self.span.decided(self.decision)  # before the span begins, so that a sampler sees it
            with self.span.phase(spans.APPROVAL):
                self.approved = await approved_by(self)
            self.decision = replace(self.decision, outcome=Outcome.PERMIT)

    # 6 -------------------------------------------------------------------------------------------------------
    async def record_decision(self) -> None:
        """Write the decision before anything is issued or run; a write, and a read of data, waits for the disk.

        Then whoever a policy names is told.
        """
        if self.span.on:
            self.span.decision = self.decision
        try:
            made = call_record(self, _PERMITTED, None if self.judged is None else self.judged.fields())
            position = self._position = self.guard.append(made)
        except Exception as error:
            raise self._unrecorded(error) from None
        self._recorded = True
        if self.tool.waits_for_disk:
            await self._flush()
        self.decision = replace(self.decision, id=f"{position.chain}:{position.seq}")  # as `position.id` has it
        if self.judged is not None and self.judged.obligations.notify:
            from agentguard.deciding import notify

            await notify(self, self.judged, self.decision.id)

    def append(self, event: Event, fields: Mapping[str, Any]) -> None:
        """INVARIANT: no record, no action: a failed write refuses the call."""
        try:
            self._position = self.guard.append(call_record(self, event, fields))
        except Exception as error:
            raise self._unrecorded(error) from None

    def _unrecorded(self, error: Exception) -> Refusal:
        return Refusal(Reason.AUDIT_UNAVAILABLE, f"the audit record was not written ({_cause(error)})")

    async def _flush(self) -> None:
        try:
            await run_shielded(lambda: self.guard.audit.flush(self._position), suspends=True)
        except Exception as error:
            raise Refusal(Reason.AUDIT_UNAVAILABLE, f"the audit record is not on disk ({_cause(error)})") from None

    # 7 -------------------------------------------------------------------------------------------------------
    async def lease(self) -> None:
        """For a tool with an audience, a credential under its lease key: issued, or reused."""
        guard, task, spec = self.guard, self.task, self.tool.spec
        credential: Credential | None = None
        if not spec.audience:
            names = task.chain.names()
        else:
            leases = guard.leases
            if leases is None:
                raise Refusal(
                    Reason.CREDENTIAL_UNAVAILABLE, "this guard has no issuer, and the tool needs a credential"
                )
            # A call that the gate is going to refuse obtains no credential; the gate itself looks again.
            try:
                stopped = await guard.suspensions.suspended(task.cache.get("keys") or suspension_keys(task))
            except Exception as error:
                raise Refusal(Reason.SUSPENDED, f"the suspensions cannot be read ({_cause(error)})") from None
            if stopped:
                raise Refusal(Reason.SUSPENDED, f"{stopped} is suspended", level=stopped)
            asked: Asked | None = task.cache.get(("asked", spec.name))
            if asked is None or asked.spec is not spec:
                asked = asked_for(task, spec)
            use: Use | None = None
            try:
                if self.span.parts:
                    with self.span.phase(spans.CREDENTIAL_ISSUE) as phase:
                        use = self._use = await leases.obtain(grant_for(self, asked))
                        phase.obtained(use.credential.lease, use.cached)
                else:
                    # A credential that is kept for all calls of the tool is found before there is a grant. INVARIANT:
                    # none is, where its token says something of a call, or a policy says how it must be.
                    if asked.kept is not None and not guard.details:
                        obligations = self.judged.obligations if self.judged is not None else NOTHING
                        if not (obligations.per_call_lease or obligations.max_ttl):
                            use = self._use = leases.reuse(asked.kept, task.id)
                    if use is None:
                        use = self._use = await leases.obtain(grant_for(self, asked))
            except CredentialUnavailable as error:
                raise Refusal(Reason.CREDENTIAL_UNAVAILABLE, str(error)) from None
            names, credential = asked.grant.key.chain, use.credential
            credential.renewed_by = self.renew
            if self.span.on:
                self.span.lease, self.span.cached = credential.lease, use.cached
        call = self.call.id
        retried = self.reservation.id if self.reservation is not None else call
        self.visible = CurrentCall(call, spec.name, task.id, names, retried, credential)
        binder, (copy, hidden) = self.tool.binder, self._copies
        as_given = binder.as_given and not hidden
        self.arguments = ((), copy) if as_given else binder.call_arguments(copy, hidden, credential)

    async def renew(self) -> None:
        """Obtain another credential for the running call, because its target refused the one it has, or it ends.

        Raises:
            CredentialUnavailable: the call may not go on, has had another one already, or none could be had.
        """
        use, leases = self._use, self.guard.leases
        if use is None or leases is None or self._renewed:
            raise CredentialUnavailable(
                "the target refused a credential that was just issued, so no other is asked for"
            )
        self._renewed = True
        try:
            self.identify()
        except Refusal as no:
            raise CredentialUnavailable(f"the call may not go on: {no.reason}") from None
        if stopped := await self.guard.suspensions.suspended(suspension_keys(self.task)):
            raise CredentialUnavailable(f"{stopped} is suspended")
        cached = await leases.replace(use, grant_for(self, asked_for(self.task, self.tool.spec)))
        if self.span.on:
            self.span.lease, self.span.cached = use.credential.lease, cached

    # 8 -------------------------------------------------------------------------------------------------------
    async def gate(self) -> None:
        """Once more, and last: task state, expiry, suspensions and the run copy's digest."""
        self.identify()
        if self._mutable:
            self._refuse_changes()
        if self.judged is not None:
            from agentguard.deciding import still_decided

            await still_decided(self, self.judged)
        task, spec, guard, span = self.task, self.tool.spec, self.guard, self.span
        keys = task.cache.get("keys") or suspension_keys(task)
        self._marked = True  # also where a failure or a cancellation keeps the answer away
        try:
            stopped = await guard.suspensions.start(self.id, keys, reads=spec.effect is _READ)
        except Exception as error:
            raise Refusal(Reason.SUSPENDED, f"the suspensions cannot be read ({_cause(error)})") from None
        if stopped:
            self._marked = False
            raise Refusal(Reason.SUSPENDED, f"{stopped} is suspended", level=stopped)
        self.started = True
        if spec.data or not task.tree.results.idle:
            mark_started(self)  # before the last look at the task: what is parked meanwhile knows of it
        now = guard.monotonic()
        if task.state is not _OPEN or task.why_stopped or now >= task.deadline:
            _refuse_closed(task, now)
        task.counts.permitted += 1
        if span.on:
            span.tool_since = time_ns()

    def _refuse_changes(self) -> None:
        try:
            arguments = {**self.tool.spec.defaults, **self._canonical(self._copies[0])}
            unchanged = digest(arguments) == self.call.digest
        except NotCanonical:
            unchanged = False
        if not unchanged:
            raise Refusal(Reason.ARGUMENTS_CHANGED, "the arguments are not those that were checked")

    # 9 -------------------------------------------------------------------------------------------------------
    def search(self, ended: Ended) -> Ended:
        """Return how the tool ended, without live credentials, and without what a policy takes out of its value."""
        if self.span.on:
            self.span.tool_until = time_ns()
        if self.judged is not None and ended.error is None and self._redact:
            ended = Ended(self._redacted(ended.value))
        if ended.error is None:
            kind, shortest = type(ended.value), self.guard.secrets.shortest
            if not shortest or kind in _PLAIN or (kind is str and len(ended.value) < shortest):  # as `_too_short` says
                return ended
        search = Search(self.guard.secrets)
        try:
            return self._searched(ended, search)
        except Exception:
            # What cannot be searched is not passed on, neither as a value nor as an exception.
            return (
                Ended(MARK)
                if ended.error is None
                else Ended(error=RuntimeError(f"{type(ended.error).__name__}: {MARK}"))
            )
        finally:
            self.hits |= search.hits

    @property
    def _redact(self) -> frozenset[str]:
        return self.judged.obligations.redact if self.judged is not None else _NOTHING

    def _redacted(self, value: Any) -> Any:
        try:
            return redacted(value, self._redact)
        except Exception:  # what cannot be looked into is not passed on
            return REDACTED

    def _searched(self, ended: Ended, search: Search) -> Ended:
        if ended.error is not None:
            return Ended(error=clean_exception(ended.error, search))
        return Ended(search.value(ended.value))

    # 10 ------------------------------------------------------------------------------------------------------
    async def release(self) -> None:
        """Give everything back, the credential first; what fails is logged and keeps nothing else from its release."""
        guard, use = self.guard, self._use
        # One that was marked as running and that the last look refused did not run.
        self.started = self.started and self.ended is not NOT_RUN
        if use is not None:
            try:
                assert guard.leases is not None  # noqa: S101  # the use is one of its leases
                began = time_ns() if self.span.on else 0
                status = await guard.leases.release(use)
                if self.span.on:
                    self.span.release = status, guard.now(), began
            except Exception as error:
                self._not_done("release of its credential", error)
        for lease in self.hits:
            try:
                await self._revoke_leaked(lease)
            except Exception as error:
                self._not_done("revocation of what it leaked", error)
        if self._marked:
            try:
                await guard.suspensions.finish(self.id)
            except Exception as error:
                self._not_done("end", error)
        if self.reservation is not None or self.waits is not None:
            try:
                if self.waits is not None:
                    await settle_waiting(self, self.waits)
                elif self.reservation is not None:
                    ran = self.started and self.ended.error is None
                    settlement = _RAN if ran else settlement_of(self.ended, self.started)
                    await guard.budgets.settle(self.reservation, settlement)
            except Exception as error:
                self._not_done("settlement", error)

    def _not_done(self, what: str, error: Exception) -> None:
        _log.error("call %s: its %s failed: %s", self.id, what, type(error).__name__)

    async def _revoke_leaked(self, lease: str) -> None:
        if self.guard.leases is None:
            return
        began, use, span = time_ns(), self._use, self.span
        await self.guard.leases.revoke(lease, "leaked")
        if use is not None and use.held.issued.lease.id == lease and span.on and span.release is not None:
            kept, status = span.release[0] == "kept", use.held.status
            if kept and status:  # what was to be kept for the next call is gone
                span.release = status, self.guard.now(), began

    # 11 ------------------------------------------------------------------------------------------------------
    def close(self) -> None:
        """Record the outcome and end the span; nothing here reaches the caller."""
        try:
            guard, task = self.guard, self.task
            started, error = self.started, self.ended.error
            if self.hits:
                guard.try_append(call_record(self, Event.SECRET_REMOVED, {"leases": sorted(self.hits)}))
            results = task.tree.results
            if results.idle and started and error is None:
                results.passed.add(("", self.tool.spec.name))
            if not results.idle:
                keep_result(self)
            if task.tree.pending:
                mark_ended(self)
            if self._recorded:
                event, why = _COMPLETED if started and error is None else event_of(self.ended, started)
                fields = {"call": self.call.id, "task": task.id, "tool": self.tool.spec.name}
                if self._use is not None:
                    fields["lease"] = self._use.held.issued.lease.id
                if why:
                    fields["error"] = why
                guard.try_append(Record(event, fields))
            decided = self._recorded or self.refused  # else the caller gave it up: what stands there is no answer
            if decided:
                guard.remember(self)
            if self.span is not None and self.span.on:
                given_up = not started and not self.refused
                if decided:
                    self.span.decision = self.decision
                if guard.telemetry.captures and not self.hits and self.hash:
                    self.span.captured(self.call, self.ended.value, started and error is None, guard.redactor)
                if not started:  # then it is not the tool's
                    error = None
                cancelled = given_up or (error is not None and (pauses(error) or not isinstance(error, Exception)))
                self.span.end("" if error is None or pauses(error) else spans.error_type_of(error), cancelled=cancelled)
        except Exception as bug:
            _log.error("the outcome of call %s was not recorded: %s", self.id, type(bug).__name__)

    def passed(self, part: Any) -> Any:
        """Take out of a part of a stream what a policy says, and keep it, if anything looks at results."""
        part = self._redacted(part) if self._redact else part
        if self.task.tree.results.idle:
            self.missed = True
        else:
            self.parts = [] if self.parts is None else self.parts
            self.parts.append(part)
            del self.parts[MAX_CANDIDATES + 1 :]
        return part

    def denied(self, refusal: Refusal) -> Denied:
        """Record a refusal and return the error that the caller gets."""
        task, reason = self.task, refusal.reason
        self.refused = True
        if self.call is _UNBOUND:
            self._name()
        self.decision = Decision(
            outcome=Outcome.ASK if reason is Reason.APPROVAL_REQUIRED else Outcome.DENY, reason=reason,
            tool=self.tool.spec.name, level=refusal.level, miss=refusal.miss,
        )  # fmt: skip
        if self.span.on:
            self.span.decision = self.decision  # before the record asks for the span's ids, so that a sampler sees it
        for link in task.path:
            link.counts.denied += reason is not Reason.APPROVAL_REQUIRED
        fields: dict[str, Any] = {}
        if self.waits is not None:
            fields["question"] = self.waits.question
            self.guard.telemetry.waits(self.waits.question, self.waits.expires_at - self.guard.now())
        if self.judged is not None:
            fields |= self.judged.fields()
        position = self.guard.try_append(call_record(self, Event.CALL_DENIED, fields))
        if position is not None:
            self.decision = replace(self.decision, id=position.id)
        return ApprovalRequired(self.decision, self.waits.question) if self.waits is not None else Denied(self.decision)


# The run copy, the canonical form with the defaults of what was left out, and its digest.
_Formed: TypeAlias = tuple[dict[str, Any], dict[str, Canonical], str]

_log: Final = logging.getLogger("agentguard")
# Names of this module: looked up in two enumerations, each call would pay more for them than for what it compares.
_OPEN: Final = TaskState.OPEN
_READ: Final = Effect.READ
_RAN: Final = Settlement.RAN
_PERMITTED: Final = Event.CALL_PERMITTED
_COMPLETED: Final = (Event.CALL_COMPLETED, "")  # what `event_of` says of a call that ran and returned
_PLAIN: Final = frozenset({type(None), bool, int, float, Decimal})
_NOTHING: Final[frozenset[str]] = frozenset()
_NOBODY: Final = Caller()


@functools.lru_cache(maxsize=1024)
def undecided(tool: str) -> Decision:
    """A call that was not looked at yet is denied."""
    return Decision(outcome=Outcome.DENY, reason=Reason.OUTSIDE_INTENT, tool=tool)


def _too_short(values: Iterable[object], shortest: int) -> bool:
    """Tell, cheaply, that no value can hold a secret: each is plain, or shorter than any that is watched."""
    if not shortest:
        return True
    for value in values:
        kind = type(value)
        if kind is not str and kind not in _PLAIN:
            return False
        if kind is str and len(value) >= shortest:  # type: ignore[arg-type]  # exact str
            return False
    return True


def _refuse_tool(link: Task, name: str, heir: str | None) -> None:
    if not link.agent.allows(name, heir):
        agent, what = link.agent.agent.name, f"hand {name} on to {heir}" if heir else f"use {name}"
        raise Refusal(Reason.NOT_ALLOWED, f"the registry does not let {agent} {what}", level=agent)


def _refuse_closed(link: Task, now: float) -> None:
    if link.state is not TaskState.OPEN:
        raise Refusal(Reason.TASK_ENDED, f"task {link.id} is {link.state}{_why(link)}", level=link.agent.agent.name)
    if link.why_stopped:
        raise Refusal(Reason.SUSPENDED, f"task {link.id}: {link.why_stopped}", level=link.agent.agent.name)
    if now >= link.deadline:
        raise Refusal(Reason.EXPIRED, f"task {link.id} is past its time", level=link.agent.agent.name)


def _why(link: Task) -> str:
    return f" ({link.why_ended})" if link.why_ended else ""


def _cause(error: Exception) -> str:
    return str(error) if isinstance(error, Unavailable) else type(error).__name__
