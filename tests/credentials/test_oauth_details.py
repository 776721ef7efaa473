"""Granted authorization details are never broader than asked (RFC 9396)."""

from __future__ import annotations

import types
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentguard.credentials.oauth.details import covered, plain

ASKED: dict[str, Any] = {"type": "t", "actions": ["a", "b"], "locations": ["x"], "arguments": {"n": 1, "on": True}}
not_broader = pytest.mark.control("8 nothing broader than asked")


@pytest.mark.parametrize(
    "granted",
    [
        [ASKED],
        [{**ASKED, "actions": ["b"]}],
        [{**ASKED, "actions": ["b", "a"]}],
        [{**ASKED, "actions": ["a"]}, {**ASKED, "actions": ["b"]}],
        [dict(reversed(list(ASKED.items())))],
    ],
)
def test_the_same_or_narrower_details_are_covered(granted: Any) -> None:
    assert covered(granted, [ASKED])


@not_broader
@pytest.mark.parametrize(
    "granted",
    [
        [], None, "t", {}, [None], [[]], ["t"],
        [{**ASKED, "type": "T"}],
        [{**ASKED, "actions": []}],
        [{**ASKED, "actions": ["a", "c"]}],
        [{**ASKED, "actions": "a"}],
        [{**ASKED, "arguments": {"n": 1}}],
        [{**ASKED, "arguments": {"n": True, "on": True}}],
        [{**ASKED, "arguments": {"n": 1, "on": 1}}],
        [{**ASKED, "arguments": {"n": 1.0, "on": True}}],
        [{**ASKED, "arguments": {"n": 2, "on": True}}],
        [{**ASKED, "more": 1}],
        [ASKED, {"type": "other"}],
        [{name: value for name, value in ASKED.items() if name != "locations"}],
    ],
)  # fmt: skip
def test_broader_or_other_details_are_not_covered(granted: Any) -> None:
    assert not covered(granted, [ASKED])


def test_details_that_nobody_asked_for_are_not_covered() -> None:
    assert not covered([ASKED], [])
    assert covered([], [])


def test_enrichment_adds_members_and_takes_none_away() -> None:
    assert covered([{**ASKED, "more": 1}], [ASKED], enrichment=True)
    assert not covered([{"type": "t", "more": 1}], [ASKED], enrichment=True)
    assert not covered([{**ASKED, "more": 1, "actions": ["c"]}], [ASKED], enrichment=True)


def test_read_only_mappings_are_sent_as_json() -> None:
    assert '[{"type":"t","arguments":{"n":1}}]' == plain([{"type": "t", "arguments": types.MappingProxyType({"n": 1})}])


values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from(["a", "b"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["p", "q"]), inner, max_size=2),
    max_leaves=4,
)
entries = st.dictionaries(st.sampled_from(["actions", "locations", "identifier", "arguments"]), values).map(
    lambda entry: {"type": "t", **entry}
)
lists = st.lists(entries, min_size=1, max_size=3)


@given(lists)
def test_what_was_asked_for_covers_itself(asked: list[dict[str, Any]]) -> None:
    full = [entry for entry in asked if [] not in (entry.get("actions"), entry.get("locations"))]

    assert not full or covered(full, full)


@given(lists, lists, lists)
def test_covered_is_transitive(one: Any, two: Any, three: Any) -> None:
    if covered(one, two) and covered(two, three):
        assert covered(one, three)


@given(lists, lists, st.sampled_from(["actions", "identifier"]), values)
def test_asking_for_more_restriction_never_covers_more(granted: Any, asked: Any, name: str, value: Any) -> None:
    tighter = [{name: value, **entry} for entry in asked]
    if covered(granted, tighter, enrichment=True):
        assert covered(granted, asked, enrichment=True)
