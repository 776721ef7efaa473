"""The approver of a guard that was given none: nobody is there to ask, so the answer is no."""

from __future__ import annotations

from agentguard.ports import Answer, Approval, ApprovalRequest


class RefuseAll:
    """Rejects every request."""

    suspends = False

    async def ask(self, request: ApprovalRequest) -> Approval:
        """Return a rejection."""
        return Approval(Answer.REJECTED, by="nobody: this guard has no approver")
