"""The approver of a guard whose people answer later: by `agentguard approvals`, or on a page of the application."""

from __future__ import annotations

from agentguard.ports import Answer, Approval, ApprovalRequest


class AnswerLater:
    """Leaves every question open in the store of approvals; the task is parked until somebody answers there."""

    suspends = False

    async def ask(self, request: ApprovalRequest) -> Approval:
        """Return that nobody has answered yet."""
        return Approval(Answer.PENDING)
