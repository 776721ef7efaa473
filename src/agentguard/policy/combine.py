"""How decisions combine: forbid wins, an error is a deny, the strictest outcome stands."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import anyio
from msgspec.structs import replace

from agentguard._drive import driven
from agentguard.model.decision import STRICTNESS, AccessRequest, Decision, Miss, Outcome, Reason
from agentguard.policy.decided import Decided, Evidence
from agentguard.policy.obligations import NOTHING, Discharges, Obligations
from agentguard.ports import DecisionPoint

DEADLINE: Final = 10.0
_APPROVAL_ONLY: Final = Discharges()


async def decide_all(
    points: Sequence[DecisionPoint],
    request: AccessRequest,
    intent: Decision,
    *,
    discharges: Discharges = _APPROVAL_ONLY,
    deadline: float = DEADLINE,
) -> Decided:
    """Ask every decision point and return the strictest decision, the intent's own included.

    The obligations of all permits hold together; the evidence has an entry for every decision point that was asked.

    Args:
        points: asked in order, until one denies.
        request: the question.
        intent: what the intent decided: permit or ask.
        discharges: what can be done about obligations; one that cannot be carried out is a deny.
        deadline: most seconds that one decision point may take under an event loop; a later answer is an error. For a
            synchronous caller nobody can cut it short, so each has to bound itself.
    """
    strictest, obligations, evidence = intent, NOTHING, list[Evidence]()
    for point in points:
        decision = await _decide(point, request, intent.tool, deadline)
        evidence += decision.evidence
        obligations = obligations & decision.obligations
        if STRICTNESS[decision.outcome] > STRICTNESS[strictest.outcome]:
            strictest = decision
        if strictest.outcome is Outcome.DENY:
            break
    if strictest.outcome is not Outcome.DENY and (problem := discharges.problem(obligations)):
        strictest = _error(intent.tool, _level_of(evidence), problem)
    return Decided(
        outcome=strictest.outcome, reason=strictest.reason, tool=intent.tool, steps=intent.steps,
        level=strictest.level, miss=strictest.miss, obligations=obligations, evidence=tuple(evidence),
    )  # fmt: skip


async def _decide(point: DecisionPoint, request: AccessRequest, tool: str, deadline: float) -> Decided:
    name = name_of(point)
    try:
        decision: object = await _answer(point, request, deadline)
    except TimeoutError:
        return _error(tool, name, f"{name} did not answer in time")
    except Exception as error:
        return _error(tool, name, f"{name} raised {type(error).__name__}")
    if not isinstance(decision, Decision) or not isinstance(decision.outcome, Outcome):
        return _error(tool, name, f"{name} returned no Decision")
    return whole(decision, name)


async def _answer(point: DecisionPoint, request: AccessRequest, deadline: float) -> object:
    if driven() or deadline == math.inf:
        return await point.decide(request)
    began = time.monotonic()
    with anyio.fail_after(deadline):
        decision = await point.decide(request)
    # INVARIANT: what comes after the deadline is no answer, also of a decision point that nobody could cut short.
    if time.monotonic() - began >= deadline:
        raise TimeoutError
    return decision


def whole(decision: Decision, name: str) -> Decided:
    """Fill in what a decision point of somebody else's leaves open."""
    if decision.outcome is Outcome.DENY and decision.reason is Reason.DECLARED:
        decision = replace(decision, reason=Reason.POLICY_DENIED, level=decision.level or name)
    if isinstance(decision, Decided) and decision.evidence:
        return _asking(decision)
    evidence = Evidence(point=name, outcome=decision.outcome, reason=decision.reason)
    obligations = decision.obligations if isinstance(decision, Decided) else NOTHING
    return _asking(Decided(
        outcome=decision.outcome, reason=decision.reason, tool=decision.tool, level=decision.level, miss=decision.miss,
        obligations=obligations, evidence=(evidence,),
    ))  # fmt: skip


def _asking(decision: Decided) -> Decided:
    """INVARIANT: a permit that obliges to ask a person is no permit yet; who asks without a name asks an operator."""
    if decision.outcome is Outcome.ASK and not decision.obligations.approve:
        return replace(decision, obligations=decision.obligations & Obligations(approve="operator"))
    asks = decision.outcome is Outcome.PERMIT and decision.obligations.approve
    return replace(decision, outcome=Outcome.ASK) if asks else decision


def name_of(point: object) -> str:
    """The name of a decision point: the one it was given, else that of its class."""
    name = getattr(point, "name", "")
    return name if isinstance(name, str) and name else type(point).__name__


def _error(tool: str, level: str, text: str) -> Decided:
    evidence = Evidence(point=level, outcome=Outcome.DENY, reason=Reason.POLICY_ERROR)
    return Decided(
        outcome=Outcome.DENY, reason=Reason.POLICY_ERROR, tool=tool, level=level, miss=Miss(text=text),
        evidence=(evidence,),
    )  # fmt: skip


def _level_of(evidence: Sequence[Evidence]) -> str:
    return evidence[-1].point if evidence else ""


@dataclass(frozen=True, slots=True)
class Versions:
    """Which policies decided, so that a call that has not run yet is decided again where they changed meanwhile."""

    seen: tuple[tuple[DecisionPoint, object], ...] = field(default=(), repr=False)

    @classmethod
    def of(cls, points: Sequence[DecisionPoint]) -> Versions:
        """Note the versions; called before the points are asked, so that no change falls in between."""
        return cls(tuple((point, _version(point)) for point in points))

    async def current(self) -> bool:
        """Tell whether all decision points would still decide by what they decided by.

        Those that have `refresh` look whether their policies changed, within their own interval. A raise means that
        nobody can tell.
        """
        for point, version in self.seen:
            refresh = getattr(point, "refresh", None)
            if refresh is not None:
                await refresh()
            if _version(point) != version:
                return False
        return True


def _version(point: DecisionPoint) -> object:
    """A decision point that has `version` tells by it that it changed; one that has none never does."""
    return getattr(point, "version", "")


def forget_all(points: Sequence[DecisionPoint]) -> None:
    """Drop every decision that is kept; for a suspension, and for whoever knows that a remote policy changed."""
    for point in points:
        forget = getattr(point, "forget", None)
        if callable(forget):
            forget()
