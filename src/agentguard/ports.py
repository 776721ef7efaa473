"""The ports: what the guard needs from the world, and the contract each adapter keeps.

Every port that has async methods also has `suspends`: False promises that its methods finish without waiting for an
event loop when they are driven by hand (HTTP goes through `_http`, which blocks for a synchronous caller). A port that
does not say so is taken to suspend, and a synchronous `with guard.task(...)` refuses it. `waits` True says that under
an event loop it does suspend, so that what must not be cancelled is shielded; a synchronous caller inside a running
event loop is refused where a port is `remote`, because it would block the loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Protocol, runtime_checkable

from msgspec import Struct

from agentguard.model.decision import AccessRequest, Decision
from agentguard.model.lease import Ending, Grant, Issued, Lease, LeaseState, Secret
from agentguard.model.principal import Identity, Subject
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

    `prepare` makes the lease's id and the latest time at which it ends before anything is asked for, so that the ledger
    can hold it first; it does no I/O. `issue` ends within `grant.deadline`, and what it returns ends no later than the
    prepared lease. A raise from `issue` means that a credential may exist, and `revoke` is called with the prepared
    lease and no handle: it ends what may exist, or says by when that ends by itself.
    `revoke` is idempotent; a raise means "not revoked yet, ask again". It works after a restart, from the lease and the
    handle of `Issued` alone.
    """

    suspends: bool
    remote: bool

    def prepare(self, grant: Grant, now: float) -> Lease: ...
    async def issue(self, grant: Grant, lease: Lease, now: float) -> Issued: ...
    async def revoke(self, lease: Lease, handle: Secret | None = None) -> Ending: ...


@runtime_checkable
class ParentIssuer(Issuer, Protocol):
    """An issuer that hangs a task's leases under one credential, so that one revocation ends them all.

    `parent` returns the grant (`parent=True`) of that credential, or None where there is none for this grant; it is
    obtained first, like any other, and passed to `issue_under`. `renew` prolongs a parent up to a time, and returns it
    with its new end, or None if it cannot be prolonged.
    """

    def parent(self, grant: Grant) -> Grant | None: ...
    async def issue_under(self, parent: Issued, grant: Grant, lease: Lease, now: float) -> Issued: ...
    async def renew(self, issued: Issued, until: float, now: float) -> Issued | None: ...


@runtime_checkable
class Authenticator(Protocol):
    """Proves what this workload is. A raise means that nobody is identified, so nothing runs."""

    suspends: bool

    async def identify(self, now: float) -> Identity: ...


@runtime_checkable
class IdentityTokens(Protocol):
    """Tokens that prove this workload to somebody: for client authentication and for logins at a vault.

    A raise (`IdentityUnavailable`) means that there is none for this audience.
    """

    async def token(self, audience: str, now: float) -> Secret: ...


class Answer(StrEnum):
    """What a person said."""

    APPROVED = "approved"
    REJECTED = "rejected"
    PENDING = "pending"


class Approval(Struct, frozen=True):
    """An answer.

    Args:
        answer: what was said.
        by: who said it.
        id: of the request that it answers.
        is_subject: the approver made sure that this is the subject of the task, whose name may be another one there.
    """

    answer: Answer
    by: str = ""
    id: str = ""
    is_subject: bool = False


class Origin(Struct, frozen=True):
    """Where a value may come from, for the person who approves it.

    Args:
        argument: the argument that is looked at.
        source: the tool, or the step, whose result it has to stand in.
        field: where in it.
        candidates: what stands there, the value itself among it, at most 20.
        calls: ids of the calls that left it there, as in the records; the newest, at most 20.
    """

    argument: str
    source: str
    field: str
    candidates: tuple[str, ...]
    calls: tuple[str, ...] = ()


class ApprovalRequest(Struct, frozen=True, kw_only=True):
    """What a person is asked: bound to these exact arguments, good once.

    Args:
        call, tool, arguments, digest, chain, purpose, step: what would run, for whom and why.
        by: who is to be asked, `operator` or `subject`.
        origins: for each value that comes out of an earlier result, the competing candidates.
        agent: the agent that would act.
        subject: whom the task acts for, as in the chain: `user:alice` or `agent:nightly`.
        owner: who answers for the agent's work: its business owner in the registry, or empty.
        policy: version of the policies that decided, or empty where none did.
        expires_at: seconds since the epoch after which an answer comes too late.
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
    agent: str = ""
    subject: str = ""
    owner: str = ""
    policy: str = ""
    expires_at: float = 0.0


@runtime_checkable
class Approver(Protocol):
    """Asks a person. A raise or a timeout is a rejection."""

    suspends: bool

    async def ask(self, request: ApprovalRequest) -> Approval: ...


@runtime_checkable
class AuditSink(Protocol):
    """Writes records, in order.

    `append` is synchronous, so that no cancellation falls between a decision and its record; a raise means that
    nothing was written. What is to be written is `record.whole()`. `flush` returns once the record and all before it
    are durable; a raise means "not durable". A sink that can tell how many records it has written that are not durable
    yet says so by a method `behind() -> int`, which a gauge reads.
    """

    suspends: bool

    def append(self, record: Record) -> Position: ...
    async def flush(self, position: Position) -> None: ...
    def close(self) -> None: ...


class Charge(Struct, frozen=True):
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


class Candidate(Struct, frozen=True):
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


class Reservation(Struct, frozen=True):
    """What was reserved: for each level the position of the chosen candidate.

    `id` is the same for every attempt of one call (the idempotency key).
    `retries` holds, for each level that grants attempts, its retry key, the attempts left after this one, and whether
    this one already is a retry.
    """

    id: str
    chosen: tuple[int, ...]
    charges: tuple[Charge, ...]
    retries: tuple[tuple[str, int, bool], ...] = ()


class Exhausted(Struct, frozen=True):
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
    each key what its counter stands for: its value if it has one, else its sum, or "" if nothing was taken. A charge
    without `per` on a counter that others charge with one stays until it is given back.
    """

    suspends: bool

    async def reserve(self, levels: Sequence[Sequence[Candidate]], now: float) -> Reservation | Exhausted: ...
    async def standing(self, keys: Sequence[str]) -> Sequence[str]: ...
    async def settle(self, reservation: Reservation, settlement: Settlement) -> None: ...
    async def forget(self, scope: str) -> None: ...


class Stop(Struct, frozen=True):
    """One suspension that stands.

    Args:
        key: who is stopped.
        why: as it was given.
        since: seconds since the epoch.
        epoch: grows with each suspension of the store, so that others can ask what is new.
    """

    key: str
    why: str
    since: float
    epoch: int


@runtime_checkable
class Suspensions(Protocol):
    """Who is stopped, by key: `agent:NAME`, `task:ID`, `subject:SUB`, `chain:PREFIX`, `all`.

    `start` marks a call as running if none of the keys is suspended: one atomic step. `suspend` returns after it
    committed, so nothing starts after it returned, in this process and in all that share the store. Where several hosts
    share it, a call that only `reads` may trust what it heard from the store at most a second ago; one that heard
    nothing for longer, or lost its listener, is refused by a raise.
    `news` returns the epoch and the stops that were set after `since`, so that whoever holds leases under them ends
    them.
    """

    suspends: bool

    async def start(self, call: str, keys: Sequence[str], *, reads: bool = False) -> str: ...
    async def finish(self, call: str) -> None: ...
    async def suspend(self, key: str, why: str) -> None: ...
    async def lift(self, key: str) -> None: ...
    async def suspended(self, keys: Sequence[str]) -> str: ...
    async def standing(self) -> Sequence[Stop]: ...
    async def news(self, since: int) -> tuple[int, Sequence[Stop]]: ...


class Verdict(StrEnum):
    """Where a question to a person stands."""

    OPEN = "open"
    APPROVED = "approved"
    REJECTED = "rejected"
    EXPIRED = "expired"
    USED = "used"


class Question(Struct, frozen=True, kw_only=True):
    """A question to a person that outlives the call it was asked for.

    Args:
        id: names it for people.
        binding: digest of all it is bound to: agent, chain, tool, exact arguments, step, policy version.
        request: what the person sees.
        task: the task that asked.
        asked_at, expires_at: seconds since the epoch.
        verdict: where it stands.
        by: who answered.
    """

    id: str
    binding: str
    request: ApprovalRequest
    task: str
    asked_at: float
    expires_at: float
    verdict: Verdict = Verdict.OPEN
    by: str = ""


@runtime_checkable
class Approvals(Protocol):
    """Questions to people, and their answers.

    `answer` is taken once, and only while the question is open and in date; it tells whether it counted. `use` takes an
    approval for exactly this binding, once, and returns its question. `open` lists what waits.
    """

    suspends: bool

    async def ask(self, question: Question) -> None: ...
    async def answer(self, id: str, verdict: Verdict, by: str, now: float) -> bool: ...
    async def find(self, id: str, now: float) -> Question | None: ...
    async def use(self, binding: str, now: float) -> Question | None: ...
    async def open(self, now: float) -> Sequence[Question]: ...


class Parked(Struct, frozen=True, kw_only=True):
    """A task that waits, as it is kept for whoever goes on with it.

    Args:
        id: the task's id.
        state: all of it as text: its chain, intent, what it heard and read. Personal data, so sealed at rest.
        expires_at: seconds since the epoch; nobody goes on with it from then on.
    """

    id: str
    state: Secret
    expires_at: float


@runtime_checkable
class ParkedTasks(Protocol):
    """Tasks that wait for a person, or for their turn, and outlive their process. Safe for concurrent use.

    `park` keeps one in place of what was kept under its id. `find` looks at one; `take` is one atomic step that returns
    it once. Both return None for one that is not there, was taken, has expired or cannot be read. `lapsed` takes those
    that have expired, so that what they reserved is given back, once. `durable` False says that they end with this
    process.
    """

    suspends: bool

    async def park(self, parked: Parked) -> None: ...
    async def find(self, id: str, now: float) -> Parked | None: ...
    async def take(self, id: str, now: float) -> Parked | None: ...
    async def lapsed(self, now: float) -> Sequence[Parked]: ...


@runtime_checkable
class Redemptions(Protocol):
    """Remembers ids that were used. Safe for concurrent use.

    `redeem` is one atomic step: it returns True for the first caller of a key and False for every later one, until
    `until`; a raise means that nobody may use it. `shared` says that all processes that could redeem the same
    handovers use the same memory; only then does an id that can be taken prove that nobody took it before.
    """

    suspends: bool
    shared: bool

    async def redeem(self, key: str, until: float, now: float) -> bool: ...


class Owed(Struct, frozen=True):
    """A row of the ledger that somebody has to end.

    Args:
        lease: as it was prepared or issued.
        state: how far it came.
        handle: what the issuer needs to revoke it, if it was issued and needs anything.
        attempts: how often that was tried.
    """

    lease: Lease
    state: LeaseState
    handle: Secret | None = None
    attempts: int = 0


@runtime_checkable
class Ledger(Protocol):
    """Every credential that may exist, from before it is asked for until it is provably gone.

    A raise from `pending` means that nothing may be issued; once it returned, the row survives this process. `ended`
    with REVOKED drops the row; with EXPIRES or WITH_PARENT it stays until the lease's end, or its parent's.
    `failed` notes an attempt to revoke that failed; `irrevocable` marks what is only swept from now on.
    `outstanding` is what may be alive: issued or possibly issued, not revoked, not expired for every verifier.
    `adopt` takes over the rows of owners that are dead, and of no others, and returns them, parents first. `beat` says
    that this owner lives.
    """

    suspends: bool

    async def pending(self, lease: Lease) -> None: ...
    async def active(self, lease: Lease, handle: Secret | None = None) -> None: ...
    async def failed(self, lease: Lease, why: str, *, irrevocable: bool = False) -> None: ...
    async def ended(self, lease: Lease, ending: Ending) -> None: ...
    async def outstanding(self, now: float) -> Sequence[Lease]: ...
    async def adopt(self, now: float) -> Sequence[Owed]: ...
    async def beat(self, now: float) -> None: ...


def waits(port: object) -> bool:
    """Tell whether a port's methods may wait under an event loop."""
    return any(getattr(port, name, name == "suspends") for name in ("suspends", "waits", "remote"))


@runtime_checkable
class SubjectVerifier(Protocol):
    """Verifies what `User.verified(token)` carries. A raise is a deny."""

    suspends: bool

    async def verify(self, token: str, now: float) -> Subject: ...
