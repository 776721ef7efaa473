"""Attribute sources: named, bounded by time, cached; what cannot be had is missing, and missing is a deny."""

from __future__ import annotations

import functools
import threading
import time
from typing import Any

import anyio
import pytest

from agentguard._drive import drive
from agentguard.errors import ConfigurationError
from agentguard.policy.attributes import About, AttributeSource, gather
from tests.loopback import Clock

FACTS = About(subject="user:alice", tool="pay")


def source(call: Any, **options: Any) -> AttributeSource:
    return AttributeSource("risk", call, **options)


def test_source_is_told_what_the_guard_knows_and_its_answer_is_the_attribute() -> None:
    told: list[About] = []

    def risk(facts: About) -> object:
        told.append(facts)
        return {"score": 3}

    found = drive(gather([source(risk)], FACTS))
    assert (found.values, found.missing, found.denied) == ({"risk": {"score": 3}}, (), "")
    assert told == [FACTS]


def raises(_: About) -> object:
    raise OSError("password=hunter2")


def exits(_: About) -> object:
    raise SystemExit(3)


@pytest.mark.control("2 attribute that cannot be had is a deny")
@pytest.mark.parametrize(
    "call",
    [raises, exits, lambda _: object(), lambda _: float("nan"), lambda _: b"x"],
    ids=["raises", "exits", "object", "nan", "bytes"],
)
def test_source_that_raises_or_says_nothing_plain_leaves_its_attribute_missing(call: Any) -> None:
    needed = drive(gather([source(call)], FACTS))
    assert needed.denied
    assert "hunter2" not in needed.denied
    optional = drive(gather([source(call, required=False)], FACTS))
    assert (optional.values, optional.missing, optional.denied) == ({}, ("risk",), "")


@pytest.mark.anyio
@pytest.mark.control("2 attribute source has a deadline")
async def test_source_that_hangs_is_missing_after_its_deadline() -> None:
    over = threading.Event()
    slow = source(lambda _: over.wait(10), deadline=0.05)
    began = time.monotonic()
    try:
        with anyio.fail_after(5):
            assert (await gather([slow], FACTS)).missing == ("risk",)
        assert drive_in_thread(slow).missing == ("risk",)
    finally:
        over.set()
    assert time.monotonic() - began < 5


def drive_in_thread(found: AttributeSource) -> Any:
    kept: list[Any] = []
    thread = threading.Thread(target=lambda: kept.append(drive(gather([found], FACTS))))
    thread.start()
    thread.join(5)
    return kept[0]


def test_at_most_sixteen_questions_hang_at_once() -> None:
    over, begun = threading.Event(), []

    def hangs(_: About) -> object:
        begun.append(1)
        return over.wait(10)

    slow = source(hangs, deadline=0.005, required=False)
    try:
        for _ in range(20):
            drive(gather([slow], FACTS))
        assert len(begun) == 16
    finally:
        over.set()


def test_answer_is_used_again_within_its_ttl_for_the_same_facts_only() -> None:
    clock, asked = Clock(), list[About]()

    def counting(facts: About) -> object:
        asked.append(facts)
        return len(asked)

    kept = source(counting, ttl=10, clock=clock)
    other = About(subject="user:bob", tool="pay")
    assert [drive(kept.value(facts)) for facts in (FACTS, FACTS, other)] == [1, 1, 2]
    clock.pass_by(10)
    assert drive(kept.value(FACTS)) == 3
    clock.pass_by(-100)
    assert drive(kept.value(FACTS)) == 4


def test_decision_point_that_writes_to_its_question_changes_no_later_answer() -> None:
    kept = source(lambda _: {"groups": ["ops"]}, ttl=10)
    for _ in range(3):
        found = drive(kept.value(FACTS))
        assert found == {"groups": ["ops"]}
        found["groups"].append("admins")
        found["admin"] = True


async def answers(_: About) -> object:
    return 1


class Answers:
    async def __call__(self, _: About) -> object:
        return 1


@pytest.mark.parametrize("call", [answers, Answers(), functools.partial(answers)])
def test_coroutine_function_is_a_mistake_at_once(call: Any) -> None:
    with pytest.raises(ConfigurationError, match="'risk' names a coroutine function"):
        source(call)


def test_coroutine_that_a_plain_function_returns_is_no_answer() -> None:
    assert drive(gather([source(lambda facts: answers(facts))], FACTS)).denied.endswith("(TypeError)")


def test_forgetting_drops_answers_and_those_on_their_way() -> None:
    count: list[int] = []

    def changing(_: About) -> object:
        count.append(1)
        if len(count) == 1:
            kept.forget()
        return len(count)

    kept = source(changing, ttl=100)
    assert [drive(kept.value(FACTS)) for _ in range(3)] == [1, 2, 2]


@pytest.mark.parametrize("options", [{"deadline": 0}, {"deadline": 31}, {"ttl": -1}, {"ttl": float("inf")}])
def test_bounds_are_checked(options: Any) -> None:
    with pytest.raises(ConfigurationError):
        source(lambda _: 1, **options)
    with pytest.raises(ConfigurationError):
        AttributeSource("not a name", lambda _: 1)
