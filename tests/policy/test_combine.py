"""Decisions combine in one way: forbid wins, an error is a deny, the strictest stands."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentguard._drive import drive
from agentguard.model.decision import STRICTNESS, AccessRequest, Decision, Outcome, Reason
from agentguard.policy.combine import decide_all

control = pytest.mark.control("2 forbid wins, an error is a deny")
REQUEST = AccessRequest(subject={}, action={}, resource={}, context={})


class Point:
    suspends = False

    def __init__(self, answer: Any) -> None:
        self.answer, self.asked = answer, 0

    async def decide(self, request: AccessRequest) -> Decision:
        self.asked += 1
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer  # type: ignore[no-any-return]  # on purpose: also what is no Decision


def decision(outcome: Any, reason: Reason = Reason.POLICY_DENIED) -> Decision:
    return Decision(outcome=outcome, reason=reason, tool="pay", level="p")


def combined(*answers: Any, intent: Outcome = Outcome.PERMIT) -> Decision:
    return drive(decide_all([Point(answer) for answer in answers], REQUEST, decision(intent, Reason.DECLARED)))


BAD: list[Any] = [None, True, 1, "permit", {"decision": True}, Outcome.PERMIT, RuntimeError("x"), TimeoutError(),
                  decision("permit"), decision(None)]  # fmt: skip


@control
@pytest.mark.parametrize("bad", BAD, ids=repr)
def test_whatever_is_no_decision_is_a_denial(bad: Any) -> None:
    found = combined(decision(Outcome.PERMIT), bad, decision(Outcome.PERMIT))
    assert (found.outcome, found.reason) == (Outcome.DENY, Reason.POLICY_ERROR)
    assert found.level == "Point"


@control
@given(st.lists(st.sampled_from(Outcome)), st.sampled_from([Outcome.PERMIT, Outcome.ASK]), st.randoms())
def test_strictest_decision_stands_in_any_order(outcomes: list[Outcome], intent: Outcome, order: Any) -> None:
    answers = [decision(outcome) for outcome in outcomes]
    strictest = max([*outcomes, intent], key=STRICTNESS.__getitem__)
    assert combined(*answers, intent=intent).outcome is strictest
    order.shuffle(answers)
    assert combined(*answers, intent=intent).outcome is strictest
    assert combined(*answers, decision(Outcome.DENY), intent=intent).outcome is Outcome.DENY


@control
def test_permit_of_a_decision_point_does_not_answer_the_question_of_the_intent() -> None:
    assert combined(decision(Outcome.PERMIT), intent=Outcome.ASK).outcome is Outcome.ASK


def test_nobody_is_asked_after_a_denial() -> None:
    points = [Point(decision(Outcome.DENY)), Point(decision(Outcome.PERMIT))]
    drive(decide_all(points, REQUEST, decision(Outcome.PERMIT)))
    assert [point.asked for point in points] == [1, 0]


def test_denial_that_gives_no_reason_of_its_own_is_one_of_the_policy() -> None:
    assert combined(decision(Outcome.DENY, Reason.DECLARED)).reason is Reason.POLICY_DENIED


def test_interrupt_is_nobodys_decision() -> None:
    with pytest.raises(KeyboardInterrupt):
        combined(KeyboardInterrupt())
