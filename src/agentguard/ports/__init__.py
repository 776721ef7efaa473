"""The ports: what the guard needs from the world, and the contract each adapter keeps.

Every port that has async methods also has `suspends`: False promises that its methods finish without waiting for an
event loop when they are driven by hand (HTTP goes through `_http`, which blocks for a synchronous caller). A port that
does not say so is taken to suspend, and a synchronous `with guard.task(...)` refuses it. `waits` True says that under
an event loop it does suspend, so that what must not be cancelled is shielded; a synchronous caller inside a running
event loop is refused where a port is `remote`, because it would block the loop.
"""

from __future__ import annotations

from agentguard.ports.approval import Answer, Approval, ApprovalRequest, Approvals, Approver, Origin, Question, Verdict
from agentguard.ports.audit import AuditSink
from agentguard.ports.budgets import Budgets, Candidate, Charge, Exhausted, Reservation, Settlement
from agentguard.ports.credential import Issuer, Ledger, Owed, ParentIssuer
from agentguard.ports.decision import DecisionPoint
from agentguard.ports.identity import Authenticator, IdentityTokens, SubjectVerifier
from agentguard.ports.suspensions import Stop, Suspensions
from agentguard.ports.tasks import Parked, ParkedTasks, Redemptions

__all__ = [
    "Answer",
    "Approval",
    "ApprovalRequest",
    "Approvals",
    "Approver",
    "AuditSink",
    "Authenticator",
    "Budgets",
    "Candidate",
    "Charge",
    "DecisionPoint",
    "Exhausted",
    "IdentityTokens",
    "Issuer",
    "Ledger",
    "Origin",
    "Owed",
    "ParentIssuer",
    "Parked",
    "ParkedTasks",
    "Question",
    "Redemptions",
    "Reservation",
    "Settlement",
    "Stop",
    "SubjectVerifier",
    "Suspensions",
    "Verdict",
    "waits",
]


def waits(port: object) -> bool:
    """Tell whether a port's methods may wait under an event loop."""
    return any(getattr(port, name, name == "suspends") for name in ("suspends", "waits", "remote"))
