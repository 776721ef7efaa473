"""The quick form of plain arguments says what the general one says, or leaves them to it."""

from __future__ import annotations

import datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agentguard.errors import NotCanonical
from agentguard.model.canonical import canonical, digest, run_copy
from agentguard.model.plain import PlainForm

control = pytest.mark.control("4 one value has one form, and what has none is a deny (cases 44, 65)")
NAMES = frozenset({"account", "amount", "größe"})
NUMBERS = st.integers() | st.floats() | st.decimals(allow_nan=True, allow_infinity=True)
PLAIN = st.text(max_size=40) | st.integers(-(1 << 70), 1 << 70) | NUMBERS | st.booleans() | st.none()
ODD = st.lists(st.integers(), max_size=2) | st.just(b"x") | st.just(datetime.date(2026, 3, 1))
ARGUMENTS = st.dictionaries(st.sampled_from([*sorted(NAMES), "other"]) | st.text(max_size=4), PLAIN | ODD, max_size=4)
DEFAULTS = st.dictionaries(st.sampled_from(sorted(NAMES)), st.integers() | st.text(max_size=9) | st.none(), max_size=2)


class Name(str):
    """A name of another type, which says nothing about what it equals."""


def general(defaults: dict[str, Any], arguments: dict[str, Any]) -> tuple[dict[str, Any], str]:
    found = canonical(arguments)
    assert isinstance(found, dict)
    whole = {**defaults, **found}
    return whole, digest(whole)


@control
@given(DEFAULTS, ARGUMENTS, st.sampled_from([0, 5, 2000]))
@example({"amount": 5}, {"account": "caf\u00e9 \U0001f600", "amount": 0}, 0)
@example({}, {"account": "\ud800", "amount": -0.0}, 0)
@example({}, {"account": '\x00\x1f"\\/\x7f\n', "amount": 10**18}, 0)
@example({}, {"amount": 10**500}, 0)
@example({}, {"$n": "1", "amount": Decimal("1.00")}, 0)
def test_form_and_digest_are_those_of_the_general_way(
    plain: dict[str, Any], arguments: dict[str, Any], shortest: int
) -> None:
    defaults: dict[str, Any] = {name: canonical(value) for name, value in plain.items()}
    form = PlainForm(defaults, None)
    try:
        found = form.of(arguments, shortest)
    except NotCanonical as error:
        with pytest.raises(NotCanonical) as caught:
            general(defaults, arguments)
        assert str(caught.value) == str(error)
        return
    if found is not None:
        wanted, sha256 = general(defaults, arguments)
        assert repr(found[0]) == repr(wanted)  # the same types, in the same order
        assert found[1] == sha256
        assert run_copy(arguments) == (arguments, False)


@given(st.dictionaries(st.sampled_from(sorted(NAMES)), st.text(max_size=4) | st.integers() | st.booleans() | st.none()))
def test_plain_arguments_take_the_quick_way(arguments: dict[str, Any]) -> None:
    try:
        assert PlainForm({}, NAMES).of(arguments, 5) is not None
    except NotCanonical:
        with pytest.raises(NotCanonical):
            canonical(arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        {"account": ["acme"]},
        {"account": b"acme"},
        {"account": datetime.date(2026, 3, 1)},
        {"account": Name("acme")},
        {Name("account"): "acme"},
        {"account": "x" * 1025},
        {f"a{number}": number for number in range(33)},
    ],
)
def test_anything_else_is_left_to_the_general_way(arguments: dict[str, Any]) -> None:
    assert PlainForm({}, NAMES).of(arguments, 0) is None


@pytest.mark.control("secrets in arguments are found")
def test_text_that_could_hold_a_secret_is_left_to_the_general_way() -> None:
    form = PlainForm({}, NAMES)

    assert form.of({"account": "x" * 20}, 20) is None
    assert form.of({"account": "x" * 19}, 20) is not None
    assert form.of({"account": "x" * 1025}, 2000) is None


def test_any_name_is_looked_at_where_a_tool_takes_any() -> None:
    for name in ("$n", "n" * 1025):
        assert PlainForm({}, None).of({name: "1"}, 0) is None
        assert PlainForm({}, frozenset({name})).of({name: "1"}, 0) is None


def test_defaults_are_never_changed_by_a_call() -> None:
    form = PlainForm({"account": "acme"}, NAMES)

    assert form.of({"account": "evil"}, 0) is not None
    found = form.of({}, 0)
    assert found is not None
    assert found[0] == {"account": "acme"}
    found[0]["account"] = "evil"
    assert form.of({}, 0) == ({"account": "acme"}, digest({"account": "acme"}))
