"""What a list of traces shows: one line on what came of a call, or of an agent's whole task.

Viewers that follow OpenInference list `input.value` and `output.value`, and little else. INVARIANT: these lines hold
names, counts and codes; never the value of an argument, a result or a secret, and a user only as a pseudonym.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from agentguard.model.decision import Decision, Outcome, Reason
from agentguard.model.lease import Lease, LeaseState

MAX_LINE: Final = 512
_ENDS: Final[Mapping[str, str]] = {
    "kept": "kept", LeaseState.ACTIVE: "kept", LeaseState.EXPIRES: "ends by itself", "failed": "not revoked yet",
}  # fmt: skip
_GONE: Final = (LeaseState.REVOKED, LeaseState.EXPIRED)
_CALLS: Final = ("denied", "asked", "permitted")


def task_line(chain: str, purpose: str) -> str:
    """Return who acts for whom, and what for.

    Args:
        chain: as it stands in `agentguard.delegation.chain_text`.
        purpose: what the task was declared for.
    """
    return f"{chain}: {purpose}"[:MAX_LINE] if purpose else chain


def counts_line(counts: Mapping[str, int]) -> str:
    """Return what came of a task: a word of it stands there only where there was one, so that a filter finds it."""
    calls = [f"{counts[word]} {word}" for word in _CALLS if counts.get(word)]
    issued, left = counts.get("issued", 0), counts.get("issued", 0) - counts.get("revoked", 0)
    ended = "all revoked" if left <= 0 else f"{left} not revoked"
    credentials = f"{issued} credential{'' if issued == 1 else 's'}, {ended}" if issued else "no credentials"
    return f"{', '.join(calls) or 'no calls'}; {credentials}"


def decision_line(decision: Decision | None, *, enforced: bool = True, asked: bool = False) -> str:
    """Return what was decided: `permit`, `ask: approval_required`, `deny: outside_intent`."""
    if decision is None:
        return "not decided"
    if decision.outcome is Outcome.PERMIT:
        return "permit (asked)" if asked else "permit"
    if decision.outcome is Outcome.ASK:  # an intent's own reason for it is `declared`, as for a permit
        return f"ask: {Reason.APPROVAL_REQUIRED}"
    return f"{decision.outcome}: {decision.reason}{'' if enforced else ' (not enforced)'}"


def lease_line(lease: Lease, status: str, now: float) -> str:
    """Return what became of a credential, such as `at+jwt revoked after 12 ms`."""
    if status in _GONE:
        return f"{lease.type[:64]} {status} after {_time(now - lease.issued_at)}"
    return f"{lease.type[:64]} {_ENDS.get(status, status)}"


def _time(seconds: float) -> str:
    seconds = max(0.0, seconds)
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s" if seconds < 60 else f"{seconds:.0f} s"
