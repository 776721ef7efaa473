"""A call that was decided under other policies and has not run yet is decided again."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from agentguard.model.decision import AccessRequest, Decision, Miss, Outcome, Reason
from agentguard.policy.combine import DEADLINE, Versions, decide_all
from agentguard.policy.decided import Decided
from agentguard.policy.obligations import Discharges
from agentguard.ports import DecisionPoint


async def decide_again(
    points: Sequence[DecisionPoint],
    request: AccessRequest,
    intent: Decision,
    before: Decided,
    *,
    discharges: Discharges,
    deadline: float = DEADLINE,
) -> tuple[Decided, Versions]:
    """Decide once more, at the gate, and return the decision with the versions it rests on.

    A person that was asked under the old policies has been asked; what the new ones demand beyond that comes too late,
    because the credential is issued already, so it is a deny.

    Args:
        points, request, intent, discharges, deadline: as for `decide_all`.
        before: what was decided, and has been carried out since.
    """
    versions = Versions.of(points)
    after = await decide_all(points, request, intent, discharges=discharges, deadline=deadline)
    if after.outcome is Outcome.DENY:
        return after, versions
    if before.outcome is Outcome.DENY or (problem := _more(before, after)):
        text = "it was denied before" if before.outcome is Outcome.DENY else problem
        return replace(after, outcome=Outcome.DENY, reason=Reason.POLICY_ERROR, miss=Miss(text=text)), versions
    return after, versions


def _more(before: Decided, after: Decided) -> str:
    if after.outcome is Outcome.ASK and before.outcome is not Outcome.ASK:
        return "the policies changed, and now a person has to be asked; call it again"
    if before.obligations & after.obligations != before.obligations:
        return "the policies changed, and now oblige to more; call it again"
    return ""
