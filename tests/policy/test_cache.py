"""A decision is used again for the same question only, as long as the configuration says, never after a stop."""

from __future__ import annotations

from typing import Any

import pytest

from agentguard._drive import drive
from agentguard.errors import ConfigurationError
from agentguard.model.decision import AccessRequest, Decision, Outcome, Reason
from agentguard.policy.cache import CachedPoint
from agentguard.policy.combine import Versions, forget_all
from agentguard.policy.decided import Answering, Decided
from agentguard.policy.obligations import Obligations
from tests.loopback import Clock
from tests.policy.questions import ask, combined


class Point:
    suspends = False
    name = "pdp"

    def __init__(self, answer: Any = None) -> None:
        self.answer, self.asked, self.version = answer or Answering("pdp", "refund.create").permit(["r1"]), 0, "v1"

    async def decide(self, request: AccessRequest) -> Decision:
        self.asked += 1
        if callable(self.answer):
            return self.answer()  # type: ignore[no-any-return]  # the test's own
        return self.answer


def cached(point: Point, **options: Any) -> CachedPoint:
    return CachedPoint(point, ttl=options.pop("ttl", 10), **options)


def test_same_question_is_answered_again_and_the_record_says_so() -> None:
    point = Point()
    kept = cached(point)
    first, second = combined(kept), combined(kept)
    assert point.asked == 1
    assert (first.outcome, second.outcome) == (Outcome.PERMIT, Outcome.PERMIT)
    assert (first.evidence[0].cached, second.evidence[0].cached) == (False, True)
    assert second.evidence[0].fields()["cached"] is True
    assert second.evidence[0].rules == ("r1",)


@pytest.mark.parametrize("kind", [Decision, Decided])
@pytest.mark.parametrize(
    ("outcome", "reason"), [(Outcome.PERMIT, "declared"), (Outcome.DENY, "policy_denied")], ids=["permit", "deny"]
)
def test_answer_without_evidence_is_recorded_alike_at_first_and_from_the_cache(
    kind: type[Decision], outcome: Outcome, reason: str
) -> None:
    kept = cached(Point(kind(outcome=outcome, reason=Reason.DECLARED, tool="refund.create")))
    said = {"point": "pdp", "outcome": outcome.value, "reason": reason}
    assert [combined(kept).evidence[0].fields() for _ in range(2)] == [said, {**said, "cached": True}]


@pytest.mark.control("2 cached decision is for the same question only")
def test_whatever_entered_the_decision_is_in_its_key() -> None:
    point = Point()
    kept = cached(point)
    questions = [ask(), ask(amount="50"), ask(account="evil"), ask("other"), ask(amount=50)]
    for number, request in enumerate(questions, 1):
        drive(kept.decide(request))
        assert point.asked == number


@pytest.mark.control("2 cached decision ends with the policy")
def test_other_policies_are_another_question() -> None:
    point = Point()
    kept = cached(point)
    before = Versions.of([kept])
    drive(kept.decide(ask()))
    point.version = "v2"
    assert not drive(before.current())
    drive(kept.decide(ask()))
    assert point.asked == 2


def test_decision_by_policies_that_changed_while_they_decided_is_not_kept() -> None:
    point = Point()
    kept = cached(point)

    def reloaded_meanwhile() -> Decided:
        point.version = "v2"
        return Answering("pdp", "refund.create").permit()

    point.answer = reloaded_meanwhile
    drive(kept.decide(ask()))
    point.version, point.answer = "v1", Answering("pdp", "refund.create").deny("as before")
    assert drive(kept.decide(ask())).outcome is Outcome.DENY


@pytest.mark.control("2 cached decision is dropped by a suspension")
def test_forgetting_drops_everything_and_what_is_on_its_way() -> None:
    point = Point()
    kept = cached(point)
    drive(kept.decide(ask()))
    forget_all([kept, Point()])
    drive(kept.decide(ask()))
    assert point.asked == 2

    def stopped_meanwhile() -> Decided:
        kept.forget()
        return Answering("pdp", "refund.create").permit()

    kept.forget()
    point.answer = stopped_meanwhile
    drive(kept.decide(ask()))
    point.answer = Answering("pdp", "refund.create").deny("stopped")
    assert drive(kept.decide(ask())).outcome is Outcome.DENY


def test_decision_ends_with_its_ttl_and_when_the_clock_goes_back() -> None:
    clock, point = Clock(), Point()
    kept = cached(point, clock=clock)
    for step in (0, 9.9, 0.1, -1):
        clock.pass_by(step)
        drive(kept.decide(ask()))
    assert point.asked == 3


def test_time_counts_from_the_question_not_from_the_answer() -> None:
    clock = Clock()

    def slowly() -> Decided:
        clock.pass_by(8)
        return Answering("pdp", "refund.create").permit()

    point = Point(slowly)
    kept = cached(point, clock=clock)
    drive(kept.decide(ask()))
    clock.pass_by(3)
    drive(kept.decide(ask()))
    assert point.asked == 2


@pytest.mark.control("2 an error is never cached")
@pytest.mark.parametrize(
    "answer",
    [Answering("pdp", "t").error("down"), Answering("pdp", "t").permit((), Obligations(approve="operator")), "permit",
     Decision(outcome="permit", reason=Reason.DECLARED, tool="t")],  # type: ignore[arg-type]  # on purpose
    ids=["error", "ask", "text", "no outcome"],
)  # fmt: skip
def test_errors_questions_and_what_is_no_decision_are_not_kept(answer: Any) -> None:
    point = Point(answer)
    kept = cached(point)
    for _ in range(2):
        drive(kept.decide(ask()))
    assert point.asked == 2


def test_cache_is_bounded_and_drops_what_was_used_longest_ago() -> None:
    point = Point()
    kept = cached(point, size=2)
    for account in ("a", "b", "a", "c", "a", "b"):
        drive(kept.decide(ask(account=account)))
    assert point.asked == 4


def test_question_that_cannot_be_a_key_is_asked_every_time() -> None:
    point = Point()
    kept = cached(point)
    for _ in range(2):
        drive(kept.decide(ask(note="x" * 70_000)))
    assert point.asked == 2


@pytest.mark.parametrize("options", [{"ttl": 0}, {"ttl": 301}, {"ttl": float("nan")}, {"size": 0}, {"size": True}])
def test_bounds_are_checked(options: Any) -> None:
    with pytest.raises(ConfigurationError):
        cached(Point(), **options)
