"""What was decided under policies that changed is decided again, and what they demand more comes too late."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings

from agentguard._drive import drive
from agentguard.model.decision import AccessRequest, Decision, Outcome, Reason
from agentguard.policy.again import decide_again
from agentguard.policy.combine import Versions, decide_all
from agentguard.policy.decided import Answering, Decided
from agentguard.policy.obligations import KINDS, Discharges, Obligations
from tests.policy.questions import INTENT, ask
from tests.policy.test_obligations import obligations

ABLE = Discharges(kinds=frozenset(KINDS), notify=frozenset("abc"))


class Point:
    suspends = False
    version = "1"

    def __init__(self) -> None:
        self.says: Obligations | None = Obligations()

    async def decide(self, request: AccessRequest) -> Decision:
        answer = Answering("p", "refund.create", version=self.version)
        return answer.deny("no") if self.says is None else answer.permit(["r"], self.says)


def twice(first: Any, second: Any) -> Decided:
    point = Point()
    point.says = first
    before = drive(decide_all([point], ask(), INTENT, discharges=ABLE))
    point.says, point.version = second, "2"
    after, versions = drive(decide_again([point], ask(), INTENT, before, discharges=ABLE))
    assert drive(versions.current())
    assert after.evidence[0].version == "2"
    return after


def test_same_permit_still_permits_under_the_new_version() -> None:
    assert twice(Obligations(max_ttl=60), Obligations(max_ttl=60)).outcome is Outcome.PERMIT
    assert twice(Obligations(approve="operator"), Obligations(approve="operator")).outcome is Outcome.ASK


@pytest.mark.control("2 a changed policy decides again")
def test_denial_of_the_new_policies_stands() -> None:
    assert twice(Obligations(), None).reason is Reason.POLICY_DENIED
    assert twice(None, Obligations()).outcome is Outcome.DENY


@pytest.mark.control("2 what a changed policy demands more is a deny")
@settings(deadline=None)
@given(obligations, obligations)
def test_what_the_new_policies_demand_beyond_the_old_ones_is_a_denial(first: Obligations, second: Obligations) -> None:
    assert (twice(first, second).outcome is Outcome.DENY) is (first & second != first)


def test_versions_are_noted_before_the_question_is_asked() -> None:
    class Changing(Point):
        async def decide(self, request: AccessRequest) -> Decision:
            self.version = "2"
            return await super().decide(request)

    point = Changing()
    noted = Versions.of([point])
    before = drive(decide_all([point], ask(), INTENT))
    assert not drive(noted.current())
    point.version = "1"
    _, versions = drive(decide_again([point], ask(), INTENT, before, discharges=ABLE))
    assert not drive(versions.current())
