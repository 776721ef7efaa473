"""Several decision points: all must permit, each is in the evidence, and their obligations hold together."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any

import anyio
import anyio.to_thread
import pytest

from agentguard.model.decision import AccessRequest, Decision, Outcome, Reason
from agentguard.policy.combine import Versions, decide_all, name_of
from agentguard.policy.decided import Answering, Decided, Evidence
from agentguard.policy.obligations import Discharges, Obligations
from tests.policy.questions import INTENT, ask, combined

TOOL = "refund.create"


class Point:
    suspends = False

    def __init__(self, name: str, answer: Any) -> None:
        self.name, self.answer = name, answer

    async def decide(self, request: AccessRequest) -> Decision:
        return self.answer(Answering(self.name, TOOL, version=f"sha256:{self.name}", id="d1"))  # type: ignore[no-any-return]  # a Decided


def permits(name: str = "a", **obligations: Any) -> Point:
    return Point(name, lambda answer: answer.permit([f"{name}-rule"], Obligations(**obligations)))


def denies(name: str = "b") -> Point:
    return Point(name, lambda answer: answer.deny("no", ["no-refunds"]))


def test_evidence_names_every_decision_point_its_version_and_the_rule() -> None:
    found = combined(permits("a"), denies("b"), permits("c"))
    assert (found.outcome, found.reason, found.level) == (Outcome.DENY, Reason.POLICY_DENIED, "b:no-refunds")
    assert [entry.fields() for entry in found.evidence] == [
        {"point": "a", "outcome": "permit", "reason": "declared", "version": "sha256:a", "id": "d1",
         "rules": ["a-rule"]},
        {"point": "b", "outcome": "deny", "reason": "policy_denied", "version": "sha256:b", "id": "d1",
         "rules": ["no-refunds"]},
    ]  # fmt: skip


def test_permit_keeps_the_steps_that_the_intent_chose() -> None:
    found = combined(permits())
    assert (found.outcome, found.steps, found.tool) == (Outcome.PERMIT, ("s1",), TOOL)


@pytest.mark.control("2 obligation approve asks a person")
def test_permit_that_obliges_to_approve_asks_a_person() -> None:
    found = combined(permits(), permits("b", approve="subject"), permits("c"))
    assert (found.outcome, found.obligations.approve) == (Outcome.ASK, "subject")
    raw = Point("raw", lambda _: Decided(
        outcome=Outcome.PERMIT, reason=Reason.DECLARED, tool=TOOL, obligations=Obligations(approve="operator"),
        evidence=(Evidence(point="raw", outcome=Outcome.PERMIT, reason=Reason.DECLARED),),
    ))  # fmt: skip
    assert combined(raw).outcome is Outcome.ASK


@pytest.mark.control("2 who asks without a name asks an operator")
def test_decision_point_that_asks_without_saying_whom_asks_an_operator() -> None:
    asks = Point("asks", lambda _: Decision(outcome=Outcome.ASK, reason=Reason.DECLARED, tool=TOOL))
    found = combined(asks, permits("b", approve="subject"))
    assert (found.outcome, found.obligations.approve) == (Outcome.ASK, "operator")


@pytest.mark.control("2 obligation that cannot be carried out is a deny")
def test_obligation_that_nobody_carries_out_is_a_denial_even_of_one_permit_of_two() -> None:
    found = combined(permits(), permits("b", max_ttl=60))
    assert (found.outcome, found.reason) == (Outcome.DENY, Reason.POLICY_ERROR)
    able = Discharges(kinds=frozenset({"max_ttl"}))
    found = combined(permits("a", max_ttl=60), permits("b", max_ttl=30), discharges=able)
    assert (found.outcome, found.obligations.max_ttl) == (Outcome.PERMIT, 30)


class Slow:
    suspends = True

    async def decide(self, request: AccessRequest) -> Decision:
        await anyio.sleep(30)
        raise AssertionError


@pytest.mark.anyio
@pytest.mark.control("2 decision point has a deadline")
async def test_decision_point_that_is_late_is_a_denial() -> None:
    with anyio.fail_after(5):
        found = await decide_all([permits(), Slow()], ask(), INTENT, deadline=0.05)
    assert (found.outcome, found.reason, found.level) == (Outcome.DENY, Reason.POLICY_ERROR, "Slow")


async def in_a_thread() -> None:
    await anyio.to_thread.run_sync(time.sleep, 0.1)


async def deaf_to_its_cancellation() -> None:
    with suppress(BaseException):
        await anyio.sleep(30)


async def in_the_loop() -> None:
    time.sleep(0.1)  # noqa: ASYNC251  # it blocks the loop, as a decision point of somebody else's may


@pytest.mark.anyio
@pytest.mark.parametrize("work", [in_a_thread, deaf_to_its_cancellation, in_the_loop])
async def test_permit_that_comes_after_the_deadline_is_a_denial(work: Any) -> None:
    class Late:
        suspends = True

        async def decide(self, request: AccessRequest) -> Decision:
            await work()
            return Decision(outcome=Outcome.PERMIT, reason=Reason.DECLARED, tool=TOOL)

    found = await decide_all([Late()], ask(), INTENT, deadline=0.05)
    assert (found.outcome, found.reason, found.level) == (Outcome.DENY, Reason.POLICY_ERROR, "Late")


@pytest.mark.anyio
async def test_cancellation_from_outside_is_nobodys_decision() -> None:
    with anyio.move_on_after(0.05) as scope:
        await decide_all([Slow()], ask(), INTENT)
    assert scope.cancelled_caught


def test_what_a_server_said_is_bounded_and_printable_in_the_record() -> None:
    found = Evidence(point="p", outcome=Outcome.DENY, reason=Reason.POLICY_DENIED, rules=("a\nb\x1b[31m" + "x" * 999,))
    (rule,) = found.fields()["rules"]
    assert len(rule) <= 200
    assert rule.isascii()
    assert rule.isprintable()


def test_decision_point_is_known_by_its_name_or_its_class() -> None:
    assert [name_of(permits("pdp")), name_of(Slow())] == ["pdp", "Slow"]


@pytest.mark.anyio
async def test_versions_are_current_until_one_changes() -> None:
    first, second = permits("a"), permits("b")
    first.version, second.version = "1", "1"  # type: ignore[attr-defined]  # what a decision point may have
    noted = Versions.of([first, second, Slow()])
    assert await noted.current()
    second.version = "2"  # type: ignore[attr-defined]  # as above
    assert not await noted.current()
