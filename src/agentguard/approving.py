"""Asking a person about one call: an answer is good for exactly this call, once, and may come much later."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from agentguard._drive import run_shielded
from agentguard.approval.separation import ROLES, not_allowed
from agentguard.asking import approval_request
from agentguard.errors import ConfigurationError
from agentguard.intent.tree import hash_of
from agentguard.levels import counted, levels_of
from agentguard.model.decision import Reason
from agentguard.model.record import Event
from agentguard.pipeline.record import append
from agentguard.ports import Answer, Approval, ApprovalRequest, Approver, Exhausted, Question, Reservation, Verdict
from agentguard.refusal import Refusal
from agentguard.waiting import CallKey, Waiting, give_back

if TYPE_CHECKING:
    from agentguard.running import Running

ASK_SECONDS: Final = 600.0
NOT_BY: Final = ("subject", "agent")
_LONGEST: Final = 86_400.0
_LOOKS: Final = 2  # for an answer that comes while it is looked for
_VERDICTS: Final = {Answer.APPROVED: Verdict.APPROVED, Answer.REJECTED: Verdict.REJECTED}


def checked_wait(seconds: float) -> float:
    """Return for how long a question stands, or raise ConfigurationError."""
    if not 0 < seconds <= _LONGEST:
        raise ConfigurationError(f"ask_for {seconds!r} is not above 0 and at most {_LONGEST:.0f} seconds (a day)")
    return seconds


def checked_approver(approver: Approver) -> Approver:
    """Return who asks, or raise ConfigurationError for what cannot be asked."""
    if not hasattr(approver, "ask"):
        raise ConfigurationError(
            f"approver is a {type(approver).__name__}; write Callback(function) or Prompt() of agentguard.approval, "
            "as docs/approvals.md shows"
        )
    return approver


def checked_roles(roles: Sequence[str]) -> tuple[str, ...]:
    """Return who must not approve, or raise ConfigurationError."""
    if isinstance(roles, str) or not set(roles) <= set(ROLES):
        raise ConfigurationError(f"not_by {roles!r}: list who must not approve, of {', '.join(ROLES)}")
    return tuple(roles)


def key_of(call: Running) -> CallKey:
    """What is known of a call before it is matched."""
    return call.task.chain.text(), call.tool.spec.name, call.call.digest


def binding_of(call: Running, request: ApprovalRequest) -> str:
    """What an answer is good for: root task, chain, intents, steps, environment, tool, and all that the person sees.

    INVARIANT: so an answer to a question that was put to somebody else, or beside other candidates, is none; nor is one
    for another tool that is called like it.
    """
    task, spec = call.task, call.tool.spec
    intents = [level.intent.s256 for level in levels_of(task).levels]
    origins = [[one.argument, one.source, one.field, list(one.candidates)] for one in request.origins]
    return hash_of([
        task.tree.root, list(task.chain.names()), intents, list(call.decision.steps), call.guard.environment,
        request.tool, request.digest, request.purpose, request.by, request.subject, request.agent, request.owner,
        request.policy, origins, [spec.effect.value, spec.audience, list(spec.scopes), spec.resource],
        sorted(spec.secret),
    ])  # fmt: skip


def _request(call: Running) -> ApprovalRequest:
    """What a person would be asked about this call now."""
    guard, task, judged = call.guard, call.task, call.judged
    version, by = (judged.version, judged.obligations.approve) if judged is not None else ("", "")
    expires_at = guard.now() + min(guard.ask_for, task.remaining())
    return approval_request(task, call.call, call.decision.steps, by, version, expires_at)


async def give_back_waiting(call: Running) -> None:
    """Before a call that waited is matched again: what was kept for it is free for it."""
    if not call.task.tree.waiting:
        return
    await _give_back(call, call.task.tree.waiting.take(key_of(call)))


async def _waits_no_more(call: Running) -> None:
    """The same call, made by another thread meanwhile, may have left a reservation there."""
    await _give_back(call, call.task.tree.waiting.drop(key_of(call)))


async def _give_back(call: Running, reservation: Reservation | None) -> None:
    """Once it is taken from where it was kept, nobody else settles it, so a cancellation waits."""
    if reservation is not None:
        budgets = call.guard.budgets
        await run_shielded(lambda: give_back(budgets, [reservation]), suspends=call.guard.release_waits)


async def approved_by(call: Running) -> str:
    """Return who approved the call.

    Raises:
        Refusal: nobody did: it was rejected, or it waits for an answer, or the answer came too late.
    """
    request = _request(call)
    binding, question = binding_of(call, request), None
    for _ in range(_LOOKS):
        used = await _used(call, binding)
        if used is not None:
            await _waits_no_more(call)
            return _judged(call, used.request, Approval(Answer.APPROVED, used.by, used.id), Event.APPROVAL_USED)
        question = await _standing(call, binding)
        if question is None or question.verdict is not Verdict.APPROVED:
            break
    if question is not None:
        return await _asked_before(call, question, request)
    return await _ask(call, request, binding)


async def _used(call: Running, binding: str) -> Question | None:
    """Use up an approval of exactly this call."""
    try:
        return await call.guard.approvals.use(binding, call.guard.now())
    except Exception as error:
        raise Refusal(Reason.APPROVAL_REJECTED, f"approvals cannot be read ({type(error).__name__})") from None


async def _standing(call: Running, binding: str) -> Question | None:
    """The question that was asked about exactly this call already, as it stands now."""
    guard, calls, key = call.guard, call.task.tree.waiting, key_of(call)
    waiting, now = calls.find(key), guard.now()
    try:
        if waiting is not None and waiting.binding == binding:
            return await guard.approvals.find(waiting.question, now)
        return next((found for found in await guard.approvals.open(now) if found.binding == binding), None)
    except Exception as error:
        raise Refusal(Reason.APPROVAL_REJECTED, f"approvals cannot be read ({type(error).__name__})") from None


async def _asked_before(call: Running, question: Question, request: ApprovalRequest) -> str:
    check = getattr(call.guard.approver, "check", None)
    if question.verdict is Verdict.OPEN and check is not None:
        approval = await _answered(check(question.id, question.request))
        if approval.answer is not Answer.PENDING:
            await _keep_answer(call, question, approval)
            await _waits_no_more(call)
            return _judged(call, question.request, approval)
    if question.verdict is Verdict.OPEN:
        raise _waits(call, question.id, question.binding, question.expires_at)
    await _waits_no_more(call)
    if question.verdict is Verdict.REJECTED:
        rejection = Approval(Answer.REJECTED, question.by, question.id)
        return _judged(call, question.request, rejection, Event.APPROVAL_USED)
    if question.verdict is Verdict.EXPIRED:
        raise Refusal(Reason.APPROVAL_EXPIRED, f"nobody answered question {question.id} in time; call it again to ask")
    return await _ask(call, request, question.binding)  # used up: each approval is good once


async def _keep_answer(call: Running, question: Question, approval: Approval) -> None:
    """What the approver found out stands in the store, and an approval is used up by this call."""
    guard, now = call.guard, call.guard.now()
    counts = await guard.approvals.answer(question.id, _VERDICTS[approval.answer], approval.by or "nobody", now)
    used = counts and (
        approval.answer is not Answer.APPROVED or await guard.approvals.use(question.binding, now) is not None
    )
    if not used:
        raise Refusal(Reason.APPROVAL_EXPIRED, f"the answer to question {question.id} came too late, or was used")


async def _ask(call: Running, request: ApprovalRequest, binding: str) -> str:
    guard, task = call.guard, call.task
    await _refuse_more_questions(call)
    task.counts.asked += 1
    # Whoever reads the log can compare it, and cannot try out arguments until one fits.
    append(call, Event.APPROVAL_ASKED, {"digest": call.hash, "binding": guard.pseudonyms.digest(binding)})
    approval = await _answered(guard.approver.ask(request))
    if approval.answer is not Answer.PENDING:
        if guard.now() >= request.expires_at:
            raise Refusal(Reason.APPROVAL_EXPIRED, "the answer came too late")
        return _judged(call, request, approval)
    foreign = getattr(guard.approver, "check", None) is not None
    identifier = approval.id if foreign and approval.id else f"q-{secrets.token_hex(6)}"
    question = Question(
        id=identifier, binding=binding, request=request, task=task.tree.root, asked_at=guard.now(),
        expires_at=request.expires_at,
    )  # fmt: skip
    try:
        await guard.approvals.ask(question)
    except Exception as error:
        raise Refusal(
            Reason.APPROVAL_REJECTED,
            f"the question could not be kept ({type(error).__name__}), so nobody can answer it",
        ) from None
    raise _waits(call, identifier, binding, request.expires_at)


async def _answered(asking: object) -> Approval:
    """INVARIANT: a raise, and what is no approval, is a rejection."""
    try:
        approval = await asking  # type: ignore[misc]  # an approver of somebody else's
    except Exception as error:
        return Approval(Answer.REJECTED, f"error:{type(error).__name__}")
    return approval if isinstance(approval, Approval) else Approval(Answer.REJECTED, "error:no Approval")


def _judged(call: Running, request: ApprovalRequest, approval: Approval, event: Event = Event.APPROVAL_ANSWERED) -> str:
    """Record an answer, and return who approved, if they may.

    INVARIANT: whoever must not approve does not, whichever way the answer came; an approval without a name is none,
    also where everybody may.
    """
    guard, approved = call.guard, approval.answer is Answer.APPROVED
    why = not_allowed(approval, request, guard.not_by) if approved else ""
    # An approver's own words for why nobody answered, which are no name.
    nobody = approval.by if not approved and approval.by.startswith(("nobody:", "error:")) else ""
    fields = {"answer": str(approval.answer), "by": nobody or guard.pseudonym(approval.by), "question": approval.id}
    append(call, event, {**fields, **({"refused": why} if why else {})})
    if why or not approved:
        raise Refusal(Reason.APPROVAL_REJECTED, why or "the call was not approved" + (f" ({nobody})" if nobody else ""))
    return approval.by


async def settle_waiting(call: Running, waiting: Waiting) -> None:
    """The call is left waiting, with what it has reserved."""
    before = call.task.tree.waiting.put(key_of(call), waiting)
    if before is not None:
        await give_back(call.guard.budgets, [before])


def _waits(call: Running, question: str, binding: str, expires_at: float) -> Refusal:
    """Let the call wait; what it has reserved stays its own until the question expires."""
    call.waits = Waiting(question, binding, expires_at, call.reservation)
    text = f"a person was asked (question {question}) and has not answered yet"
    return Refusal(Reason.APPROVAL_REQUIRED, text)


async def _refuse_more_questions(call: Running) -> None:
    """A question counts whatever its answer is, so it is never given back."""
    if call.task.tree.waiting.full(call.guard.now()):
        raise Refusal(Reason.APPROVAL_REJECTED, "too many calls of the task wait for a person")
    limits = counted(levels_of(call.task), "asks")
    if limits:
        budgets, now = call.guard.budgets, call.guard.monotonic()
        reserved = await budgets.reserve([[candidate] for _, candidate in limits], now)
        if isinstance(reserved, Exhausted):
            level = limits[reserved.level][0].label
            raise Refusal(Reason.BUDGET_EXHAUSTED, "a person was asked as often as the intent lets", level=level)
