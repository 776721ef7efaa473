"""Every kind of constraint: when it holds, fails, or cannot tell; and what that means where it stands."""

from __future__ import annotations

import datetime
import enum
from decimal import Decimal
from typing import Any

import pytest

from agentguard.intent import (
    Constraint,
    Facts,
    Intent,
    Truth,
    absent,
    any_,
    at_least,
    at_most,
    between,
    each,
    eq,
    in_,
    is_,
    keys,
    not_,
    optional,
    prefix,
    step,
    text,
)
from agentguard.intent.constraint import all_of
from agentguard.intent.truth import MISSING
from agentguard.model.canonical import canonical
from tests.intent.calls import admitted, call_of, spec_of

HOLD, FAIL, CANNOT_TELL = Truth
NOT_NFC = "cafe\u0301"
SURROGATE = "a\ud800"


class Colour(enum.Enum):
    RED = "red"


TABLE: list[tuple[Constraint, Any, Truth]] = [
    (eq("acme"), "acme", HOLD),
    (eq("acme"), "evil", FAIL),
    (eq("acme"), "ACME", FAIL),
    (eq("acme"), NOT_NFC, CANNOT_TELL),
    (eq("acme"), SURROGATE, CANNOT_TELL),
    (eq("acme"), None, FAIL),
    (eq("acme"), ["acme"], FAIL),
    (eq("acme"), [NOT_NFC], CANNOT_TELL),
    (eq("acme"), {NOT_NFC: 1}, CANNOT_TELL),
    (eq("caf\u00e9"), "caf\u00e9", HOLD),
    (eq("50"), 50, FAIL),
    (eq(50), "50", FAIL),
    (eq(50), Decimal("50.00"), HOLD),
    (eq(50), 50.0, HOLD),
    (eq(0), Decimal("-0.0"), HOLD),
    (eq(0.1), Decimal("0.1"), HOLD),
    (eq(1), True, FAIL),
    (eq(True), 1, FAIL),
    (eq(True), True, HOLD),
    (eq(None), None, HOLD),
    (eq(None), 0, FAIL),
    (eq([1, "a"]), (1, "a"), HOLD),
    (eq([1, "a"]), ["a", 1], FAIL),
    (eq([]), [], HOLD),
    (eq({"a": 1, "b": [2]}), {"b": [2], "a": 1}, HOLD),
    (eq({"a": 1}), {"a": True}, FAIL),
    (eq({"a": 1}), {"a": 1, "b": 2}, FAIL),
    (eq(datetime.date(2027, 3, 31)), "2027-03-31", HOLD),
    (eq(datetime.date(2027, 3, 31)), datetime.datetime(2027, 3, 31, tzinfo=datetime.UTC), FAIL),
    (eq(Colour.RED), "red", HOLD),
    (eq("Acme", fold="case"), "aCME", HOLD),
    (eq("Acme", fold="case"), "acne", FAIL),
    (eq("stra\u00dfe", fold="case"), "STRASSE", HOLD),
    (eq("Acme", fold="case"), NOT_NFC, CANNOT_TELL),
    (eq("Acme", fold="case"), 5, FAIL),
    (in_("a", "b", 3), "b", HOLD),
    (in_("a", "b", 3), 3.0, HOLD),
    (in_("a", "b", 3), "3", FAIL),
    (in_("a", "b", 1), True, FAIL),
    (in_("a", "b", True), 1, FAIL),
    (in_("a", None), None, HOLD),
    (in_("a", "b"), NOT_NFC, CANNOT_TELL),
    (in_(["a"], ["b"]), ["b"], HOLD),
    (in_("Ann", "Bo", fold="case"), "BO", HOLD),
    (at_least(5), 5, HOLD),
    (at_least(5), Decimal("4.99"), FAIL),
    (at_least(5), "5", CANNOT_TELL),
    (at_least(0), True, CANNOT_TELL),
    (at_least(0), None, CANNOT_TELL),
    (at_least(0), [1], CANNOT_TELL),
    (at_most("50"), Decimal("50.00"), HOLD),
    (at_most("50"), Decimal("50.01"), FAIL),
    (at_most("50"), -1, FAIL),
    (at_most("50"), -0.0, HOLD),
    (between("0.1", "0.3"), 0.1 + 0.2, FAIL),
    (between("0.1", "0.3"), 0.3, HOLD),
    (prefix("/srv/"), "/srv/a", HOLD),
    (prefix("/srv/"), "/srv/", HOLD),
    (prefix("/srv/"), "/etc", FAIL),
    (prefix("/srv/"), "/srv/a\x00b", CANNOT_TELL),
    (prefix("/srv/"), "/srv/a\n", CANNOT_TELL),
    (prefix("/srv/"), f"/srv/{NOT_NFC}", CANNOT_TELL),
    (prefix("/srv/"), 5, CANNOT_TELL),
    (prefix("/srv/"), ["/srv/a"], CANNOT_TELL),
    (text(max=5), "hello", HOLD),
    (text(max=5), "hello!", FAIL),
    (text(), "see http://evil.test", FAIL),
    (text(), NOT_NFC, CANNOT_TELL),
    (text(), SURROGATE, CANNOT_TELL),
    (text(), 5, CANNOT_TELL),
    (text(), None, CANNOT_TELL),
    (any_, NOT_NFC, HOLD),
    (any_, {"a": [1]}, HOLD),
    (absent, "x", FAIL),
    (absent, None, FAIL),
    (optional("a"), "a", HOLD),
    (optional("a"), "b", FAIL),
    (optional(prefix("a")), 5, CANNOT_TELL),
    (eq("a") | prefix("b"), "a", HOLD),
    (eq("a") | prefix("b"), "bc", HOLD),
    (eq("a") | prefix("b"), "c", FAIL),
    (eq("a") | prefix("b"), 5, CANNOT_TELL),
    (eq(5) | prefix("b"), 5, HOLD),
    (prefix("b") | eq(5), 5, HOLD),
    (at_least(1) & prefix("b"), 0, FAIL),
    (at_least(1) & prefix("b"), 1, CANNOT_TELL),
]
IDS = [f"{index}-{said.must()[:24]}" for index, (said, _, _) in enumerate(TABLE)]
OPPOSITE = {HOLD: FAIL, FAIL: HOLD, CANNOT_TELL: CANNOT_TELL}


def judge(said: Constraint, value: Any) -> Truth:
    return said.test("x")(value if value is MISSING else canonical(value), call_of(), Facts())


@pytest.mark.parametrize(("said", "value", "truth"), TABLE, ids=IDS)
def test_kind_holds_fails_or_cannot_tell(said: Constraint, value: Any, truth: Truth) -> None:
    assert judge(said, value) is truth


@pytest.mark.parametrize(("said", "value", "truth"), TABLE, ids=IDS)
def test_not_turns_hold_and_fail_around_and_cannot_tell_stays(said: Constraint, value: Any, truth: Truth) -> None:
    assert judge(not_(said), value) is OPPOSITE[truth]
    assert judge(not_(not_(said)), value) is truth


@pytest.mark.parametrize(("said", "value", "truth"), TABLE, ids=IDS)
def test_list_needs_one_that_holds_and_else_keeps_cannot_tell(said: Constraint, value: Any, truth: Truth) -> None:
    never = eq("\u2603 never")
    expected = CANNOT_TELL if judge(never, value) is CANNOT_TELL and truth is not HOLD else truth

    assert judge(said | never, value) is expected
    assert judge(never | said, value) is expected
    assert judge(said | any_, value) is HOLD


@pytest.mark.parametrize(("said", "value", "truth"), TABLE, ids=IDS)
def test_step_admits_only_what_holds(said: Constraint, value: Any, truth: Truth) -> None:
    assert admitted(Intent("p", step("pay", x=said)), call_of(x=value)) is (truth is HOLD)


@pytest.mark.parametrize(("said", "value", "truth"), TABLE, ids=IDS)
def test_everywhere_denies_what_fails_or_cannot_tell(said: Constraint, value: Any, truth: Truth) -> None:
    intent = Intent("p", step("pay", x=any_), everywhere={"x": said})

    assert admitted(intent, call_of(x=value)) is (truth is HOLD)


# Lists are looked at by element, and absence is refused at load; both have tests of their own.
IN_FORBID = [row for row in TABLE if not isinstance(row[1], list | tuple) and row[0].word not in ("absent", "optional")]


@pytest.mark.parametrize(("said", "value", "truth"), IN_FORBID)
def test_forbid_denies_what_matches_or_cannot_tell(said: Constraint, value: Any, truth: Truth) -> None:
    intent = Intent("p", step("pay", x=any_), forbid=[{"args": {"x": said}}])

    assert admitted(intent, call_of(x=value)) is (truth is FAIL)


def test_missing_argument_fails_every_constraint_but_any_absent_and_optional() -> None:
    for said in (eq(None), in_("a"), at_least(0), prefix("a"), text(), not_("a"), not_(absent), eq("a") | at_most(5)):
        assert judge(said, MISSING) is FAIL
    for said in (any_, absent, optional("a"), eq("a") | absent):
        assert judge(said, MISSING) is HOLD


def test_order_of_keys_in_a_mapping_means_nothing() -> None:
    said, turned = at_least(1) & prefix("b") & not_("bad"), not_("bad") & prefix("b") & at_least(1)

    assert said == turned
    assert judge(said, "bad") is judge(turned, "bad") is FAIL


def test_forbid_looks_at_each_element_of_a_list() -> None:
    intent = Intent("p", step("pay", to=any_), forbid=[{"args": {"to": "evil"}}])

    assert not admitted(intent, call_of(to=["ann", "evil"]))
    assert not admitted(intent, call_of(to=[["ann"], ["bo", "evil"]]))
    assert admitted(intent, call_of(to=["ann", "bo"]))
    assert admitted(intent, call_of(to=[]))


def test_forbid_of_a_not_matches_a_list_with_one_element_outside() -> None:
    intent = Intent("p", step("pay", to=any_), forbid=[{"args": {"to": not_(in_("ann", "bo"))}}])

    assert not admitted(intent, call_of(to=["ann", "evil"]))
    assert admitted(intent, call_of(to=["ann", "bo"]))


def test_forbid_denies_a_list_with_one_element_that_cannot_be_told() -> None:
    intent = Intent("p", step("pay", to=any_), forbid=[{"args": {"to": prefix("evil")}}])

    assert not admitted(intent, call_of(to=["ann", 5]))


@pytest.mark.parametrize(
    "said",
    [
        keys(kind="secret"),
        is_("one"),
        is_("two"),
        all_of((is_("one"), not_("x"))),
        all_of((is_("two"), not_("x"))),
        all_of((is_("both"), not_("y"))),
    ],
)
def test_forbid_looks_only_at_the_keys_that_it_names_however_it_names_them(said: Constraint) -> None:
    one = keys(kind="secret")
    define = {"one": one, "two": keys(kind="top") | one, "both": all_of((one, not_("z")))}
    intent = Intent("p", step("pay", opts=any_), define=define, forbid=[{"args": {"opts": said}}])
    assert not admitted(intent, call_of(opts={"kind": "secret"}))
    assert not admitted(intent, call_of(opts={"kind": "secret", "more": "x"}))
    assert admitted(intent, call_of(opts={"kind": "open", "more": "x"}))


def test_forbid_of_each_looks_only_at_the_keys_that_it_names() -> None:
    intent = Intent("p", step("pay", opts=any_), forbid=[{"args": {"opts": each(keys(kind="secret"))}}])
    assert not admitted(intent, call_of(opts=[{"kind": "secret", "more": "x"}]))
    assert admitted(intent, call_of(opts=[{"kind": "open", "more": "x"}]))


def test_forbid_with_a_list_value_looks_at_the_whole_list() -> None:
    intent = Intent("p", step("pay", to=any_), forbid=[{"args": {"to": in_("evil", ["a", "b"])}}])

    assert not admitted(intent, call_of(to=["a", "b"]))
    assert not admitted(intent, call_of(to=["x", "evil"]))
    assert admitted(intent, call_of(to=["a", "c"]))


def test_forbid_needs_one_element_that_satisfies_all_keys() -> None:
    intent = Intent("p", step("pay", n=any_), forbid=[{"args": {"n": between(3, 5)}}])

    assert admitted(intent, call_of(n=[1, 9]))
    assert not admitted(intent, call_of(n=[1, 4]))


def test_forbid_any_matches_whenever_the_argument_is_there() -> None:
    intent = Intent("p", step("pay", to=any_), forbid=[{"args": {"to": any_}}])

    assert not admitted(intent, call_of(to=[]))
    assert admitted(intent, call_of())


def test_absent_and_optional_admit_the_default_and_null_for_empty_where_the_tool_says_so() -> None:
    spec = spec_of(defaults={"cc": []}, null_is_empty=frozenset({"cc"}))

    for said in (absent, optional("ann")):
        intent = Intent("p", step("pay", cc=said))
        assert admitted(intent, call_of(spec))
        assert admitted(intent, call_of(spec, cc=[]))
        assert admitted(intent, call_of(spec, cc=None))
        assert not admitted(intent, call_of(spec, cc=["evil"]))
        assert not admitted(intent, call_of(spec_of(defaults={"cc": []}), cc=None))


def test_values_of_different_types_are_different_constraints() -> None:
    assert eq(True) != eq(1)
    assert eq("1") != eq(1)
    assert eq(50) == eq(Decimal("50.00"))
    assert hash(eq({"a": [50]})) == hash(eq({"a": [Decimal("50.0")]}))
    assert eq("a") != in_("a")
