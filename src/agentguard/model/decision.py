"""Decisions, their reason codes, and the AccessRequest a decision point gets (AuthZEN 1.0: four parts)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final

from msgspec import Struct

from agentguard.model.outcome import Outcome as Outcome

STRICTNESS: Final = {Outcome.PERMIT: 0, Outcome.ASK: 1, Outcome.DENY: 2}


class Reason(StrEnum):
    """Why; stable codes. A permit has `declared`."""

    DECLARED = "declared"
    INVALID_ARGUMENTS = "invalid_arguments"
    SECRET_IN_ARGUMENTS = "secret_in_arguments"
    NO_TASK = "no_task"
    ALREADY_IN_TASK = "already_in_task"
    TASK_ENDED = "task_ended"
    UNKNOWN_AGENT = "unknown_agent"
    USER_UNVERIFIED = "user_unverified"
    IDENTITY_UNPROVED = "identity_unproved"
    SUSPENDED = "suspended"
    EXPIRED = "expired"
    NOT_ALLOWED = "not_allowed"
    OUTSIDE_INTENT = "outside_intent"
    ARGUMENT_VIOLATION = "argument_violation"
    BUDGET_EXHAUSTED = "budget_exhausted"
    POLICY_DENIED = "policy_denied"
    POLICY_ERROR = "policy_error"
    APPROVAL_REQUIRED = "approval_required"
    APPROVAL_REJECTED = "approval_rejected"
    APPROVAL_EXPIRED = "approval_expired"
    AUDIT_UNAVAILABLE = "audit_unavailable"
    CREDENTIAL_UNAVAILABLE = "credential_unavailable"
    ARGUMENTS_CHANGED = "arguments_changed"
    DEPTH_EXCEEDED = "depth_exceeded"
    CYCLE = "cycle"
    UNGUARDED = "unguarded"


# What a model may read: no constraint, no value, nothing that invites another try.
_PUBLIC: Final[Mapping[Reason, str]] = MappingProxyType({
    Reason.INVALID_ARGUMENTS: "its arguments are not of a form that can be checked",
    Reason.SECRET_IN_ARGUMENTS: "its arguments hold something that must not be passed on",
    Reason.NO_TASK: "no task is active",
    Reason.TASK_ENDED: "the task has ended",
    Reason.UNKNOWN_AGENT: "this agent is not registered",
    Reason.IDENTITY_UNPROVED: "the workload could not prove who it is",
    Reason.SUSPENDED: "the task is suspended",
    Reason.EXPIRED: "the task or agent has expired",
    Reason.NOT_ALLOWED: "this agent may not use it",
    Reason.POLICY_DENIED: "it is against the organisation's policy",
    Reason.POLICY_ERROR: "the policy could not be evaluated",
    Reason.APPROVAL_REQUIRED: "a person has been asked to approve it",
    Reason.APPROVAL_REJECTED: "it was not approved",
    Reason.APPROVAL_EXPIRED: "its approval came too late",
    Reason.AUDIT_UNAVAILABLE: "it could not be recorded",
    Reason.CREDENTIAL_UNAVAILABLE: "no credential could be had for it",
    Reason.ARGUMENTS_CHANGED: "its arguments changed after they were checked",
    Reason.UNGUARDED: "it is not a guarded tool",
})  # fmt: skip


# What a denial for one of these reasons says in full could be used to probe, so `str(Denied)` keeps the constraint
# back: many frameworks show an exception's text to the model.
_KEPT_BACK: Final = frozenset({
    Reason.SECRET_IN_ARGUMENTS, Reason.OUTSIDE_INTENT, Reason.ARGUMENT_VIOLATION, Reason.BUDGET_EXHAUSTED,
    Reason.POLICY_DENIED, Reason.POLICY_ERROR, Reason.APPROVAL_REQUIRED, Reason.APPROVAL_REJECTED,
    Reason.APPROVAL_EXPIRED, Reason.ARGUMENTS_CHANGED,
})  # fmt: skip


class Miss(Struct, frozen=True):
    """The nearest miss: what came closest to permitting the call, and what did not hold.

    Args:
        step: id of the step, or empty.
        argument: the argument, or empty.
        kind: the constraint's kind, such as `eq`.
        text: a sentence for the author, such as `account must be "acme"`; no value of a secret argument.
    """

    step: str = ""
    argument: str = ""
    kind: str = ""
    text: str = ""


class Decision(Struct, frozen=True, kw_only=True):
    """What was decided about one call, and why.

    Args:
        outcome: permit, ask or deny.
        reason: stable reason code.
        tool: the tool's name.
        steps: for each level of the chain, the id of the step that was used (`reads` for a read pattern).
        level: where it was stopped: an agent's name, `ceiling:NAME`, a policy's id, or empty.
        miss: the nearest miss of a denial.
        id: the audit record's id, once recorded.
    """

    outcome: Outcome
    reason: Reason
    tool: str
    steps: tuple[str, ...] = ()
    level: str = ""
    miss: Miss = Miss()
    id: str = ""

    @property
    def permitted(self) -> bool:
        return self.outcome is Outcome.PERMIT

    @property
    def public(self) -> str:
        """What a model may read about a denial."""
        why = _PUBLIC.get(self.reason, "it is outside the declared task")
        return f"Tool {self.tool!r} was not run: {why}. Do not call it again for this."

    @property
    def shown(self) -> str:
        """What an exception says: all of it where that is safe, else the public text and the reason code."""
        return f"{self.public} [{self.reason}]" if self.reason in _KEPT_BACK else self.message

    @property
    def message(self) -> str:
        """What a developer reads in `guard.explain()`: the reason code and the nearest miss."""
        where = f" at {self.level}" if self.level else ""
        return f"{self.tool}: {self.reason}{where}" + (f": {self.miss.text}" if self.miss.text else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessRequest:
    """The question to a decision point: AuthZEN 1.0 subject, action, resource and context; never from the model."""

    subject: Mapping[str, Any]
    action: Mapping[str, Any]
    resource: Mapping[str, Any]
    context: Mapping[str, Any]
