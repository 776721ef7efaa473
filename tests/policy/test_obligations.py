"""Obligations: typed, known or a deny, and together at least as strict as each."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentguard.model.call import ToolSpec
from agentguard.policy.obligations import (
    KINDS,
    NOTHING,
    Discharges,
    Obligations,
    UnknownObligation,
    from_annotation,
    parse,
)
from agentguard.policy.redact import REDACTED, redacted

names = st.frozensets(st.sampled_from(["a", "b", "c"]))
obligations = st.builds(
    Obligations,
    approve=st.sampled_from(["", "operator", "subject"]), max_ttl=st.integers(0, 9), per_call_lease=st.booleans(),
    redact=names, notify=names, log_arguments=names,
)  # fmt: skip
ALL = Discharges(kinds=frozenset(KINDS), notify=frozenset({"a", "b", "c"}))


def test_each_kind_is_read_from_json_and_from_a_cedar_annotation() -> None:
    said = {"approve": "subject", "max_ttl": 60, "per_call_lease": True, "redact": ["iban", "email"],
            "notify": ["ops"], "log_arguments": ["amount"]}  # fmt: skip
    written = {"approve": "subject", "max_ttl": "60", "per_call_lease": "", "redact": "iban, email",
               "notify": "ops", "log_arguments": "amount"}  # fmt: skip
    whole = NOTHING
    for name, text in written.items():
        whole = whole & from_annotation(name, text)
    assert parse(said) == whole
    assert whole.fields()["redact"] == ["email", "iban"]
    assert whole.kinds == KINDS


@pytest.mark.control("2 unknown obligation is a deny")
@pytest.mark.parametrize(
    "said",
    [{"step_up": True}, {"max_ttl": "60"}, {"max_ttl": 0}, {"max_ttl": True}, {"max_ttl": 10**9}, {"max_ttl": 1.5},
     {"per_call_lease": False}, {"per_call_lease": 1}, {"approve": "nobody"}, {"approve": False}, {"redact": "iban"},
     {"redact": []}, {"redact": [1]}, {"redact": ["a b"]}, {"notify": ["x"] * 51}, [], None, "approve", {1: 2}],
    ids=repr,
)  # fmt: skip
def test_obligation_that_is_not_known_exactly_is_refused(said: Any) -> None:
    with pytest.raises(UnknownObligation):
        parse(said)


@settings(deadline=None)
@given(obligations, obligations, obligations)
def test_obligations_add_up_in_any_order_and_only_to_more(
    one: Obligations, two: Obligations, three: Obligations
) -> None:
    both = one & two
    assert both == two & one
    assert both & three == one & (two & three)
    assert one & one == one
    assert one & NOTHING == one
    assert set(one.kinds) <= set(both.kinds)
    assert one.redact <= both.redact
    assert not one.max_ttl or 0 < both.max_ttl <= one.max_ttl
    assert both.approve == "operator" or "operator" not in (one.approve, two.approve)


@pytest.mark.control("2 obligation that cannot be carried out is a deny")
@settings(deadline=None)
@given(obligations)
def test_what_whoever_asks_does_not_carry_out_is_a_problem(found: Obligations) -> None:
    assert ALL.problem(found) == ""
    for kind in found.kinds:
        assert kind in Discharges(kinds=frozenset(KINDS) - {kind}).problem(found) or found.notify


def test_obligation_is_checked_against_the_tool_and_those_who_can_be_told() -> None:
    spec = ToolSpec(name="t", parameters=frozenset({"a", "pin"}), secret=frozenset({"pin"}))
    able = Discharges(kinds=frozenset(KINDS), notify=frozenset({"ops"}), spec=spec)
    assert able.problem(Obligations(log_arguments=frozenset({"a"}), notify=frozenset({"ops"}))) == ""
    assert "secret" in able.problem(Obligations(log_arguments=frozenset({"pin"})))
    assert "no argument" in able.problem(Obligations(log_arguments=frozenset({"b"})))
    assert "nobody" in able.problem(Obligations(notify=frozenset({"other"})))


def test_members_are_taken_out_at_any_depth_and_also_of_json_text() -> None:
    found = redacted({"n": 1, "iban": "DE1", "in": [{"iban": "DE2", "name": "Ann"}], "t": ({"iban": 3},)}, {"iban"})
    assert found == {"n": 1, "iban": REDACTED, "in": [{"iban": REDACTED, "name": "Ann"}], "t": ({"iban": REDACTED},)}
    assert "DE" not in redacted('{"iban": "DE1", "list": ["{\\"iban\\": \\"DE2\\"}"]}', {"iban"})
    value = {"iban": "x"}
    assert redacted(value, frozenset()) is value


class Account:
    iban = "DE1"


@pytest.mark.control("2 what cannot be looked into is redacted as a whole")
@pytest.mark.parametrize("value", [Account(), "iban: DE1", b"DE1", '"iban DE1"', {"a": Account()}, [b"x"], {1: "DE1"}])
def test_what_cannot_be_looked_into_is_taken_out_as_a_whole(value: Any) -> None:
    found = redacted(value, {"iban"})
    assert REDACTED in (
        found,
        *(found.values() if isinstance(found, dict) else found if isinstance(found, list) else ()),
    )


def test_numbers_and_null_stay() -> None:
    assert [redacted(value, {"x"}) for value in (None, True, 1, 1.5, "17")] == [None, True, 1, 1.5, "17"]
