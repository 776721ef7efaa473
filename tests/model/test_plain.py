"""The quick form of plain arguments says what the general one says, or leaves them to it."""

from __future__ import annotations

import datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agentguard.binding import Binder
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
    found = PlainForm(defaults, None, None).of((), arguments, shortest)

    if found is not None:
        copy, formed, sha256 = found
        wanted, known = general(defaults, arguments)
        assert repr(formed) == repr(wanted)  # the same types, in the same order
        assert sha256 == known
        assert repr(run_copy(arguments)) == repr((copy, False))


@given(st.dictionaries(st.sampled_from(sorted(NAMES)), st.text(max_size=4) | st.integers() | st.booleans() | st.none()))
def test_plain_arguments_take_the_quick_way(arguments: dict[str, Any]) -> None:
    found = PlainForm({}, NAMES, None).of((), arguments, 5)

    assert (found is None) == any(type(value) is int and abs(value) >= 1 << 63 for value in arguments.values())


def simple(a: str, b: str = "x", *, c: str = "y") -> None: ...


def odd(a: str, *rest: str, c: str = "y", **more: str) -> None: ...


def first(a: str, /, b: str = "x", c: str = "y") -> None: ...


SIGNATURES: list[Any] = [simple, odd, first]


@pytest.mark.control("1 a call binds as in Python, once")
@given(
    st.sampled_from(SIGNATURES),
    st.lists(st.sampled_from("pq"), max_size=4),
    st.dictionaries(st.sampled_from("abcd"), st.sampled_from("pq"), max_size=4),
)
def test_what_binds_is_what_the_binder_binds(fn: Any, args: list[str], kwargs: dict[str, str]) -> None:
    binder = Binder(fn)
    form = PlainForm(binder.defaults, binder.names, binder.by_names(binder.defaults))
    assert form.binds == (fn is simple)
    if not form.binds:
        return
    found = form.of(tuple(args), kwargs, 0)
    try:
        bound = binder.bind(tuple(args), kwargs)
    except TypeError:
        assert found is None
        return
    assert found is not None
    assert list(found[0].items()) == list(bound.visible.items())


def test_what_is_bound_is_a_copy_of_what_was_passed() -> None:
    passed = {"account": "acme"}
    found = PlainForm({}, frozenset({"account"}), ()).of((), passed, 0)

    assert found is not None
    passed["account"] = "evil"
    assert found[0] == {"account": "acme"}


def holds_self(self, a: str) -> None: ...


def takes_list(a: str, b: list[str] = []) -> None: ...  # noqa: B006  # on purpose


@pytest.mark.parametrize("fn", [holds_self, takes_list])
def test_signature_with_more_than_names_is_left_to_the_binder(fn: Any) -> None:
    binder = Binder(fn)

    assert binder.by_names(binder.defaults) is None


def test_default_that_only_the_declaration_knows_binds_nothing() -> None:
    binder = Binder(simple)

    assert binder.by_names({**binder.defaults, "a": "declared"}) is None
    assert binder.by_names({}) is None


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
    assert PlainForm({}, NAMES, None).of((), arguments, 0) is None


@pytest.mark.control("secrets in arguments are found")
def test_text_that_could_hold_a_secret_is_left_to_the_general_way() -> None:
    form = PlainForm({}, NAMES, None)

    assert form.of((), {"account": "x" * 20}, 20) is None
    assert form.of((), {"account": "x" * 19}, 20) is not None
    assert form.of((), {"account": "x" * 1025}, 2000) is None


@pytest.mark.control("secrets in arguments are found")
def test_name_that_could_hold_a_secret_is_left_to_the_general_way() -> None:
    form = PlainForm({}, None, None)

    assert form.of((), {"x" * 20: 1}, 20) is None
    assert form.of((), {"x" * 19: 1}, 20) is not None
    assert form.of((), {"x" * 20: 1}, 0) is not None


def test_any_name_is_looked_at_where_a_tool_takes_any() -> None:
    for name in ("$n", "n" * 1025):
        assert PlainForm({}, None, None).of((), {name: "1"}, 0) is None
        assert PlainForm({}, frozenset({name}), None).of((), {name: "1"}, 0) is None


def test_defaults_are_never_changed_by_a_call() -> None:
    form = PlainForm({"account": "acme"}, NAMES, None)

    assert form.of((), {"account": "evil"}, 0) is not None
    found = form.of((), {}, 0)
    assert found is not None
    assert found[1] == {"account": "acme"}
    found[1]["account"] = "evil"
    assert form.of((), {}, 0) == ({}, {"account": "acme"}, digest({"account": "acme"}))
