"""A person's answer to a question that waits: recorded, judged, and taken once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from agentguard.approval.separation import not_allowed
from agentguard.model.record import Event
from agentguard.ports import Answer, Approval, Question, Verdict
from agentguard.state.questions import check_answer

if TYPE_CHECKING:
    from agentguard.guard import Guard

_TOO_LATE: Final = "it was answered before, or has expired"


async def answer(guard: Guard, question: str, approved: bool, by: str) -> bool:
    """Take an answer to a question. INVARIANT: the record first: an answer that nobody can prove is none.

    Args:
        guard: whose question it is.
        question: its id.
        approved: whether the call may run.
        by: who answered.

    Raises:
        ConfigurationError: nobody is named.
        TypeError: `approved` is no bool; the text "false", of a form, would be a yes.
    """
    if type(approved) is not bool:
        raise TypeError(f"approved is True or False, not {approved!r}")
    found = await guard.approvals.find(question, guard.now())
    verdict = Verdict.APPROVED if approved else Verdict.REJECTED
    check_answer(verdict, by)
    if found is None:
        return False
    fields = {
        "question": found.id, "task": found.task, "tool": found.request.tool, "answer": str(verdict),
        "digest": guard.pseudonyms.digest(found.request.digest), "by": guard.pseudonym(by),
    }  # fmt: skip
    if why := _why_not(guard, found, verdict, by):
        guard.records.record(Event.APPROVAL_ANSWERED, {**fields, "refused": why})
        return False
    guard.records.record(Event.APPROVAL_ANSWERED, fields)
    if await guard.approvals.answer(question, verdict, by, guard.now()):
        guard.telemetry.answered(guard.now() - found.asked_at, verdict)
        return True
    guard.records.record(Event.APPROVAL_ANSWERED, {**fields, "refused": _TOO_LATE})  # somebody was quicker
    return False


def _why_not(guard: Guard, question: Question, verdict: Verdict, by: str) -> str:
    """Why an answer does not count; then the question waits on for whoever may answer it."""
    if question.verdict is not Verdict.OPEN:
        return _TOO_LATE
    if verdict is not Verdict.APPROVED:
        return ""
    return not_allowed(Approval(Answer.APPROVED, by), question.request, guard.not_by)
