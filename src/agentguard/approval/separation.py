"""Separation of duties: whoever a call is for, or who runs it, does not approve it."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection
from typing import Any, Final, Literal

from agentguard.approval.asked import rejected
from agentguard.approval.characters import visible
from agentguard.errors import ConfigurationError
from agentguard.ports import Answer, Approval, ApprovalRequest, Approver

Role = Literal["subject", "agent", "owner"]
ROLES: Final[tuple[Role, ...]] = ("subject", "agent", "owner")
_PREFIXES: Final = ("user:", "agent:", "os:")


class Separated:
    """Turns an approval by somebody who must not give it into a rejection; an `Approver` around another one.

    Names are compared in NFKC, without case and invisible characters, with and without their issuer and kind:
    `https://as.bank.test#alice` is `user:alice`. A question to the subject (`by: subject`) is the subject's to answer,
    so there the subject's approval counts, and nobody else's. Where it cannot be told who approved, or who must not,
    nothing is approved.

    Args:
        approver: asks.
        not_by: who must not approve: `subject`, `agent` (each one of the chain), `owner`.

    Raises:
        ConfigurationError: `not_by` is empty or names somebody else.
    """

    def __init__(self, approver: Approver, not_by: Collection[Role] = ("subject", "agent")) -> None:
        if isinstance(not_by, str) or not not_by or not set(not_by) <= set(ROLES):
            raise ConfigurationError(
                f"not_by {not_by!r}: list who must not approve, of {', '.join(ROLES)}; without any, leave it out"
            )
        self._approver, self._not_by = approver, tuple(role for role in ROLES if role in not_by)
        self.suspends: bool = getattr(approver, "suspends", True)
        self.waits: bool = getattr(approver, "waits", self.suspends)
        self.remote: bool = getattr(approver, "remote", False)
        if hasattr(approver, "check"):
            self.check = self._checked

    async def ask(self, request: ApprovalRequest) -> Approval:
        """Ask, and judge who answered."""
        return self._judged(await self._approver.ask(request), request)

    async def _checked(self, id: str, request: ApprovalRequest) -> Approval:
        """Look at an earlier question, and judge who answered."""
        approver: Any = self._approver
        return self._judged(await approver.check(id, request), request)

    def _judged(self, approval: Approval, request: ApprovalRequest) -> Approval:
        why = not_allowed(approval, request, self._not_by) if approval.answer is Answer.APPROVED else ""
        return rejected(why, request) if why else approval

    def __repr__(self) -> str:
        return f"<Separated {self._approver!r}, not by {', '.join(self._not_by)}>"


def not_allowed(approval: Approval, request: ApprovalRequest, not_by: Collection[str]) -> str:
    """Return why an approval does not count, or nothing.

    Args:
        approval: who approved.
        request: the question.
        not_by: roles that must not approve.
    """
    by = _names(approval.by)
    if not by:
        return "it is not said who approved"
    chain = request.chain.split(" > ")
    subject = request.subject or chain[0]
    if request.by == "subject" and not approval.is_subject and not by & _names(subject):
        return "it is the subject who was asked"
    parties = {"subject": (subject,), "agent": (request.agent, *chain[1:]), "owner": (request.owner,)}
    for role in not_by:
        if role == "subject" and request.by == "subject":
            continue
        names = [names for party in parties[role] if (names := _names(party))]
        if not names:
            return f"it cannot be told who the {role} is, who must not approve"
        if any(by & other for other in names):
            return f"the {role} must not approve"
    return ""


def _names(text: str) -> frozenset[str]:
    """All forms of a name that count as the same one; none for a name that is empty, or empty behind its kind."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", visible(text)).casefold()).strip()
    issuer, mark, name = folded.partition("#")
    found = {folded, name.strip()} if mark and "://" in issuer else {folded}
    for form in tuple(found):
        found |= {form.removeprefix(prefix).strip() for prefix in _PREFIXES}
    return frozenset() if "" in found else frozenset(found)
