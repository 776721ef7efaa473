"""Field paths: what they select, and what no key can forge."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentguard.errors import ConfigurationError
from agentguard.intent.field_path import FieldPath, Wild, field_path

RESULT = {
    "id": "r1",
    "address": {"street": "Main"},
    "items": [{"id": 1, "tags": ["a", "b"]}, {"id": 2, "tags": []}, "text"],
    "by_name": {"ann": {"mail": "ann@acme.com"}, "bo": {"mail": "bo@acme.com"}},
    "a.b": "dotted",
    "[]": "brackets",
    "*": "star",
}


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("id", ["r1"]),
        ("$.id", ["r1"]),
        ("address.street", ["Main"]),
        ("items[].id", [1, 2]),
        ("items[].tags[]", ["a", "b"]),
        ("by_name.*.mail", ["ann@acme.com", "bo@acme.com"]),
        ("by_name.~keys", ["ann", "bo"]),
        ('"a.b"', ["dotted"]),
        ('"[]"', ["brackets"]),
        ('"*"', ["star"]),
        ("a.b", []),
        ("missing", []),
        ("id.x", []),
        ("address[]", []),
        ("items.~keys", []),
        ("items.*", []),
    ],
)
def test_path_selects_exactly_its_fields(path: str, found: list[Any]) -> None:
    assert list(field_path(path).select(RESULT)) == found


def test_dollar_alone_is_the_whole() -> None:
    assert list(field_path("$").select("text")) == ["text"]


@pytest.mark.parametrize(
    "text", ["", "a..b", ".a", "a.", "[]a", "a[0]", "~keys.a", "a b", '"a', '""', "$a", "*a", "a.$", None, 3, ["a"]]
)
def test_what_is_no_path_is_refused_with_examples(text: Any) -> None:
    with pytest.raises(ConfigurationError, match="field path"):
        field_path(text)


def test_path_of_more_than_32_parts_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="32"):
        field_path(".".join("a" * 33))


keys = st.text(st.characters(exclude_categories=["Cc", "Cs", "Mn", "Mc"]), min_size=1, max_size=6)
parts = st.lists(st.one_of(keys, st.sampled_from([Wild.EACH, Wild.VALUES])), max_size=5)


@settings(deadline=None)
@given(parts)
def test_written_path_is_read_as_the_same_path(found: list[Any]) -> None:
    path = FieldPath(tuple(found))
    try:
        assert field_path(str(path)) == path
    except ConfigurationError as error:
        assert "NFC" in str(error)  # such a key can never be compared


dotted = st.lists(st.text("abc", min_size=1, max_size=2), min_size=2, max_size=4).map(".".join)


@settings(deadline=None)
@given(dotted, st.text(max_size=3))
def test_key_with_a_dot_forges_no_path(key: str, value: str) -> None:
    assert list(field_path(key).select({key: value})) == []
    assert list(field_path(f'"{key}"').select({key: value})) == [value]


@pytest.mark.parametrize("key", ["[]", "*", "~keys", "$"])
def test_key_that_looks_like_a_wild_card_is_a_key(key: str) -> None:
    assert list(field_path(f'"{key}"').select({key: "x", "other": "y"})) == ["x"]
    assert list(field_path("other").select({key: {"other": "forged"}})) == []
