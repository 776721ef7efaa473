"""How decisions combine: forbid wins, an error is a deny, the strictest outcome stands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from agentguard.model.decision import STRICTNESS, AccessRequest, Decision, Miss, Outcome, Reason
from agentguard.ports import DecisionPoint


async def decide_all(points: Sequence[DecisionPoint], request: AccessRequest, intent: Decision) -> Decision:
    """Ask every decision point and return the strictest decision, the intent's own included.

    Args:
        points: asked in order, until one denies.
        request: the question.
        intent: what the intent decided: permit or ask.
    """
    strictest = intent
    for point in points:
        decision = await _decide(point, request, intent.tool)
        if STRICTNESS[decision.outcome] > STRICTNESS[strictest.outcome]:
            strictest = decision
        if strictest.outcome is Outcome.DENY:
            break
    return strictest


async def _decide(point: DecisionPoint, request: AccessRequest, tool: str) -> Decision:
    name = type(point).__name__
    try:
        decision: object = await point.decide(request)
    except Exception as error:
        return _error(tool, name, f"{name} raised {type(error).__name__}")
    if not isinstance(decision, Decision) or not isinstance(decision.outcome, Outcome):
        return _error(tool, name, f"{name} returned no Decision")
    if decision.outcome is Outcome.DENY and decision.reason is Reason.DECLARED:
        return replace(decision, reason=Reason.POLICY_DENIED, level=decision.level or name)
    return decision


def _error(tool: str, level: str, text: str) -> Decision:
    miss = Miss(text=text)
    return Decision(outcome=Outcome.DENY, reason=Reason.POLICY_ERROR, tool=tool, level=level, miss=miss)
