"""Arguments and results as text: bounded, JSON, and never what a `repr` would say."""

from __future__ import annotations

import json
from datetime import date
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentguard.audit.redaction import Redactor
from agentguard.telemetry.content import MAX_CONTENT, arguments_text, content_text


class Client:
    def __repr__(self) -> str:
        return "Client(token=canary)"


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True) | st.text() | st.decimals(allow_nan=False),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner),
)


@given(values)
def test_any_value_is_text_of_at_most_four_thousand_characters(value: Any) -> None:
    assert len(content_text(value)) <= MAX_CONTENT


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"a": [1, "x", None, True]}, '{"a":[1,"x",null,true]}'),
        (Decimal("49.90"), '"49.9"'),
        (date(2026, 1, 2), '"2026-01-02"'),
        (Client(), '"<Client>"'),
        ([Client()], '["<Client>"]'),
        (b"bytes", '"<bytes>"'),
        ({1: "x", "y": 2}, '{"y":2}'),
    ],
)
def test_what_is_no_plain_value_is_named_by_its_type(value: Any, text: str) -> None:
    assert text == content_text(value)


def test_secret_arguments_are_left_out() -> None:
    assert '{"account":"acme"}' == arguments_text({"account": "acme", "pin": "4711"}, {"pin"})


def test_a_value_that_is_wide_deep_or_endless_is_cut() -> None:
    endless: list[Any] = []
    endless.append(endless)
    wide = [[[0] * 100] * 100] * 100

    assert '[[[[[[[[["..."]]]]]]]]]' == content_text(endless)
    assert len(content_text(wide)) <= MAX_CONTENT
    assert [0] * 100 == json.loads(content_text([0] * 10_000))


def test_a_redactor_looks_at_whole_texts_before_they_are_cut() -> None:
    shown = content_text("x" * (MAX_CONTENT - 10) + " ann@bank.test", Redactor())

    assert "ann@" not in shown
    assert len(shown) <= MAX_CONTENT


@given(values)
def test_with_a_redactor_any_value_is_text_of_at_most_four_thousand_characters(value: Any) -> None:
    assert len(content_text(value, Redactor())) <= MAX_CONTENT


def test_texts_beyond_what_is_looked_through_are_not_shown() -> None:
    shown = content_text(["y" * 60_000, "y" * 60_000, "y" * 60_000 + "z", "later"], Redactor(["email"]))

    assert "z" not in shown
    assert "..." in shown
