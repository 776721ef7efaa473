"""What can go wrong, sorted by whose fault it is.

    AgentguardError
    ├── ConfigurationError          yours: the code or a file is wrong; nothing ran
    │   └── SuspendedError          yours: a port suspended where a synchronous caller cannot wait
    ├── Denied                      the policy's: the call was refused; carries the Decision
    │   └── ApprovalRequired        a person was asked and has not answered yet; the task is parked
    ├── NotCanonical                the caller's: a value has no canonical form (becomes a Denied)
    ├── Unavailable                 a server's, a disk's: what is needed to decide or to record is out of reach
    │   ├── AuditUnavailable        the record could not be written, so nothing may run
    │   ├── CredentialUnavailable   no credential could be had
    │   └── IdentityUnavailable     the workload could not prove who it is
    ├── TokenRejected               a token did not pass the strict profile (resource server side)
    └── AuditBroken                 a log does not verify

Every error has `reason`, a stable code for machines; the text is for people and never holds a credential.
"""

from __future__ import annotations

import copyreg
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from agentguard.model.decision import Decision


class AgentguardError(Exception):
    """The base of everything this library raises on purpose."""

    reason: str = "error"

    def __reduce__(self) -> tuple[Any, ...]:
        """Let it cross from a worker process: what it was made of is not what `args` holds, which is its text."""
        return copyreg.__newobj__, (type(self), *self.args), vars(self)  # type: ignore[attr-defined]  # as pickle has it


class ConfigurationError(AgentguardError):
    """The code or a configuration file is wrong; it is raised before anything runs.

    Args:
        message: what is wrong and what to write instead.
        problems: all mistakes found, one line each, where there is more than one.
    """

    reason = "configuration_error"

    def __init__(self, message: str, problems: tuple[str, ...] = ()) -> None:
        self.problems = problems
        super().__init__("\n".join((message, *(f"  {problem}" for problem in problems))))


class SuspendedError(ConfigurationError):
    """A port suspended while a synchronous caller waited: use `async with`, or a port that does not suspend."""

    reason = "suspended"


class Denied(AgentguardError):
    """A call was refused before its tool ran.

    Its text holds no constraint, because frameworks show it to models; `decision.message` and `guard.explain()` do.

    Args:
        decision: the decision, with its reason code and the nearest miss.
        public: what a model may read; short, no constraint, no invitation to retry.
    """

    def __init__(self, decision: Decision, public: str | None = None) -> None:
        self.decision = decision
        self.reason = str(decision.reason)
        self.public = public or decision.public
        super().__init__(decision.shown)


class ApprovalRequired(Denied):
    """A person has been asked and has not answered; leaving the task with this error parks it.

    Args:
        decision: as for `Denied`.
        question: id of the question, as `agentguard approvals` lists it.
    """

    def __init__(self, decision: Decision, question: str = "") -> None:
        self.question = question
        super().__init__(decision)


class NotCanonical(AgentguardError):
    """A value has no canonical form, so it can be neither compared nor digested.

    Args:
        path: where in the arguments, for example `filters.after[0]`.
        why: what is wrong with the value and what would be accepted.
    """

    reason: str = "invalid_arguments"

    def __init__(self, path: str, why: str) -> None:
        self.path, self.why = path, why
        super().__init__(f"{path}: {why}" if path else why)


class Unavailable(AgentguardError):
    """Something that is needed to decide, to record or to act is out of reach."""

    reason = "unavailable"


class AuditUnavailable(Unavailable):
    """The audit record could not be written: no record, no action."""

    reason = "audit_unavailable"


class CredentialUnavailable(Unavailable):
    """No credential could be had, or the one held has ended with its call.

    Attributes:
        ends_at: when what was issued all the same ends (seconds since the epoch), where its issuer knows that and could
            not revoke it; else 0.
        outage: its issuer is out of reach or out of order; it did not refuse.
    """

    reason = "credential_unavailable"
    ends_at: float = 0.0
    outage: bool = False


class IdentityUnavailable(Unavailable):
    """The workload could not prove who it is, so nothing may run under its name."""

    reason = "identity_unproved"


class TokenRejected(AgentguardError):
    """A token did not pass the strict profile; the text never holds the token or its claims.

    Args:
        error: the RFC 6750 section 3.1 error code: `invalid_token`, `insufficient_scope` or `invalid_request`.
        why: a short description, safe to send to the caller.
    """

    reason = "token_rejected"
    statuses: ClassVar[dict[str, int]] = {"invalid_request": 400, "invalid_token": 401, "insufficient_scope": 403}

    def __init__(self, error: str, why: str) -> None:
        self.error, self.why = error, why
        self.status = self.statuses.get(error, 401)
        super().__init__(f"{error}: {why}")


class AuditBroken(AgentguardError):
    """A log does not verify.

    Args:
        record: number of the first record that does not verify, counted from 1.
        why: what is wrong with it.
    """

    reason = "audit_broken"

    def __init__(self, record: int, why: str) -> None:
        self.record, self.why = record, why
        super().__init__(f"record {record}: {why}")
