"""Asking a person, and keeping what waits for an answer."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Protocol, runtime_checkable

from msgspec import Struct


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
