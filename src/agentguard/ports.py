"""The ports: what the guard needs from the world, and the contract each adapter keeps.

Every port that has async methods also has `suspends`: False promises that its methods finish without waiting for an
event loop when they are driven by hand (HTTP goes through `_http`, which blocks for a synchronous caller). A port that
does not say so is taken to suspend, and a synchronous `with guard.task(...)` refuses it. `remote` True says that it
crosses the network, so a synchronous caller inside a running event loop is refused too: it would block the loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, runtime_checkable

from agentguard.model.decision import AccessRequest, Decision
from agentguard.model.lease import Grant, Issued, Lease
from agentguard.model.principal import Subject
from agentguard.model.record import Position, Record


@runtime_checkable
class DecisionPoint(Protocol):
    """Decides about a call that the intent already admits (a PDP). Safe for concurrent use.

    A raise, a timeout or anything but a permit is a deny; a deny of one decision point cannot be outvoted.
    """

    suspends: bool

    async def decide(self, request: AccessRequest) -> Decision: ...


@runtime_checkable
class Issuer(Protocol):
    """Issues short-lived credentials. Safe for concurrent use.

    `prepare` makes the lease's id before anything is asked for, so that the ledger can hold it first.
    A raise from `issue` means that a credential may exist; `revoke` with the prepared lease must end it.
    `revoke` is idempotent; a raise means "not revoked yet, ask again".
    """

    suspends: bool
    remote: bool

    def prepare(self, grant: Grant, now: float) -> Lease: ...
    async def issue(self, grant: Grant, lease: Lease, now: float) -> Issued: ...
    async def revoke(self, lease: Lease) -> None: ...


class Answer(StrEnum):
    """What a person said."""

    APPROVED = "approved"
    REJECTED = "rejected"
    PENDING = "pending"


@dataclass(frozen=True, slots=True)
class Approval:
    """An answer, with who gave it and the id of the request it answers."""

    answer: Answer
    by: str = ""
    id: str = ""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value may come from, for the person who approves it.

    Args:
        argument: the argument that is looked at.
        source: the tool, or the step, whose result it has to stand in.
        field: where in it.
        candidates: what stands there, the value itself among it, at most 20.
    """

    argument: str
    source: str
    field: str
    candidates: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalRequest:
    """What a person is asked: bound to these exact arguments, good once.

    Args:
        call, tool, arguments, digest, chain, purpose, step: what would run, for whom and why.
        by: who is to be asked, `operator` or `subject`.
        origins: for each value that comes out of an earlier result, the competing candidates.
    """

    call: str
    tool: str
    arguments: str
    digest: str
    chain: str
    purpose: str
    step: str
    by: str = "operator"
    origins: tuple[Origin, ...] = ()


@runtime_checkable
class Approver(Protocol):
    """Asks a person. A raise or a timeout is a rejection."""

    suspends: bool

    async def ask(self, request: ApprovalRequest) -> Approval: ...


@runtime_checkable
class AuditSink(Protocol):
    """Writes records, in order.

    `append` is synchronous, so that no cancellation falls between a decision and its record; a raise means that
    nothing was written. `flush` returns once the record and all before it are durable; a raise means "not durable".
    """

    suspends: bool

    def append(self, record: Record) -> Position: ...
    async def flush(self, position: Position) -> None: ...
    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Charge:
    """One counter that a step uses up.

    Args:
        key: names the counter; shared by all who use the same key.
        limit: the most it may reach.
        amount: what this call adds, as exact decimal text.
        per: seconds of a sliding window, or 0 for the counter's whole life.
        least: what the counter must have reached already, by other reservations too.
        value: what the counter stands for. The first charge sets it, while it is held another value does not fit, and
            when the last charge is given back it is free again.
    """

    key: str
    limit: str
    amount: str = "1"
    per: float = 0.0
    least: str = "0"
    value: str = ""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A step that would admit the call at one level, with what it costs.

    Args:
        step: id of the step.
        charges: all of them are taken, or none.
        retry_key: names this very call at this step, where the step grants attempts; else empty.
        attempts: how often the same call may run in all.
    """

    step: str
    charges: tuple[Charge, ...] = ()
    retry_key: str = ""
    attempts: int = 1


@dataclass(frozen=True, slots=True)
class Reservation:
    """What was reserved: for each level the position of the chosen candidate.

    `id` is the same for every attempt of one call (the idempotency key).
    `retries` holds, for each level that grants attempts, its retry key, the attempts left after this one, and whether
    this one already is a retry.
    """

    id: str
    chosen: tuple[int, ...]
    charges: tuple[Charge, ...]
    retries: tuple[tuple[str, int, bool], ...] = ()


@dataclass(frozen=True, slots=True)
class Exhausted:
    """No candidate of this level has budget left."""

    level: int
    step: str
    charge: Charge


class Settlement(StrEnum):
    """How a reservation ended."""

    RAN = "ran"
    RAISED = "raised"
    NOT_RUN = "not_run"


@runtime_checkable
class Budgets(Protocol):
    """Counters. `reserve` is one atomic step over all levels: it takes every level's share, or nothing at all.

    A charge's key is `SCOPE/NAME`; `forget` drops all counters of a scope (a task that ended). `standing` tells for
    each key what its counter stands for: its value if it has one, else its sum, or "" if nothing was taken.
    """

    suspends: bool

    async def reserve(self, levels: Sequence[Sequence[Candidate]], now: float) -> Reservation | Exhausted: ...
    async def standing(self, keys: Sequence[str]) -> Sequence[str]: ...
    async def settle(self, reservation: Reservation, settlement: Settlement) -> None: ...
    async def forget(self, scope: str) -> None: ...


@runtime_checkable
class Suspensions(Protocol):
    """Who is stopped: agents, tasks and subjects, by key (`agent:NAME`, `task:ID`, `subject:SUB`, `all`).

    `start` marks a call as running if none of the keys is suspended: one atomic step. `suspend` returns after it
    committed, so nothing starts after it returned.
    """

    suspends: bool

    async def start(self, call: str, keys: Sequence[str]) -> str: ...
    async def finish(self, call: str) -> None: ...
    async def suspend(self, key: str, why: str) -> None: ...
    async def lift(self, key: str) -> None: ...
    async def suspended(self, keys: Sequence[str]) -> str: ...


@runtime_checkable
class Ledger(Protocol):
    """Every credential that may exist, from before it is asked for until it is provably gone.

    A raise from `pending` means that nothing may be issued.
    """

    suspends: bool

    async def pending(self, lease: Lease) -> None: ...
    async def active(self, lease: Lease) -> None: ...
    async def revoked(self, lease: Lease) -> None: ...
    async def failed(self, lease: Lease, why: str) -> None: ...
    async def outstanding(self, now: float) -> Sequence[Lease]: ...


@runtime_checkable
class SubjectVerifier(Protocol):
    """Verifies what `User.verified(token)` carries. A raise is a deny."""

    suspends: bool

    async def verify(self, token: str, now: float) -> Subject: ...
