"""What a decision point is shown is plain, bounded and exact, and one digest is one question."""

from __future__ import annotations

from decimal import Decimal
from enum import StrEnum
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentguard.policy.cedar_values import record
from agentguard.policy.values import NotCarried, digest_of, json_form, plain
from tests.policy.questions import ask

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text("aé_$", max_size=4)
    | st.decimals(-1000, 1000, places=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab$n", max_size=3), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


class Colour(StrEnum):
    RED = "red"


def test_a_float_becomes_the_decimal_that_people_wrote() -> None:
    assert plain(49.99) == Decimal("49.99")
    assert plain({"colour": Colour.RED, "both": (1, 2)}) == {"colour": "red", "both": [1, 2]}


def deep(levels: int) -> Any:
    value: Any = "x"
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value",
    [float("nan"), float("inf"), Decimal("NaN"), 2**53 + 1, "e\u0301", "\ud800", b"x", {1}, deep(17), {1: "x"},
     pytest.param(object(), id="object"), "x" * 70_000, [0] * 10_000, {"a": {"b": {"e\u0301": 1}}}],
    ids=lambda value: repr(value)[:30],
)  # fmt: skip
def test_what_cannot_be_shown_exactly_is_refused(value: Any) -> None:
    with pytest.raises(NotCarried):
        plain(value)


def test_refusal_names_the_place_and_never_the_value() -> None:
    with pytest.raises(NotCarried) as refused:
        plain({"a": {"b": [1, float("nan")]}})
    assert refused.value.path == "a.b[1]"
    with pytest.raises(NotCarried) as refused:
        plain({"a": b"hunter2"})
    assert "hunter2" not in str(refused.value)


@settings(deadline=None)
@given(values, values)
def test_two_requests_have_one_digest_only_if_they_are_the_same_question(left: Any, right: Any) -> None:
    one, two = plain({"v": left}), plain({"v": right})
    same = _typed(one) == _typed(two)
    assert (digest_of(_holding(one)) == digest_of(_holding(two))) is same


def _holding(value: Any) -> Any:
    request = ask()
    return type(request)(
        subject=request.subject, action=request.action, resource=request.resource, context={"value": value}
    )


def _typed(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _typed(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_typed(item) for item in value]
    return (type(value).__name__, value)


@pytest.mark.parametrize("value", ["49.99", "0.1", "50", "-3", "1e3"])
def test_json_carries_a_number_as_a_number(value: str) -> None:
    number = json_form(ask(amount=Decimal(value)))["context"]["arguments"]["amount"]
    assert Decimal(repr(number)) == Decimal(value)


@pytest.mark.parametrize("value", ["0.1000000000000000000001", "9007199254740993", "1e300"])
def test_number_that_json_would_round_is_refused(value: str) -> None:
    with pytest.raises(NotCarried, match="amount"):
        json_form(ask(amount=Decimal(value)))


def test_cedar_gets_a_decimal_whatever_the_value_and_no_null() -> None:
    found = record(plain({"a": Decimal("50"), "b": 50, "c": None, "d": 0.1, "e": {"f": Decimal("-1.5")}}), "context")
    assert found["a"] == {"__extn": {"fn": "decimal", "arg": "50.0000"}}
    assert found["b"] == 50
    assert "c" not in found
    assert found["d"]["__extn"]["arg"] == "0.1000"
    assert found["e"]["f"]["__extn"]["arg"] == "-1.5000"


@pytest.mark.control("2 nothing is read as an entity of Cedar")
@pytest.mark.parametrize("name", ["__entity", "__extn", "__expr"])
def test_name_that_cedar_reads_as_an_escape_is_refused_at_any_depth(name: str) -> None:
    with pytest.raises(NotCarried, match="escape"):
        record({"arguments": {"a": [{name: {"type": "User", "id": "root"}}]}}, "context")


@pytest.mark.parametrize("value", [Decimal("0.00001"), Decimal("1e15"), Decimal("1e400"), [None], Decimal("-1e30")])
def test_what_cedar_would_round_or_not_hold_is_refused(value: Any) -> None:
    with pytest.raises(NotCarried):
        record({"v": value}, "context")
