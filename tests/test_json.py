"""The quick look at JSON and the long one say the same of every text."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agentguard import _json
from agentguard._json import NotStrictJSON, strict_json

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**24), 10**24) | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
texts = st.builds(
    lambda value, tight, plain: json.dumps(value, ensure_ascii=plain, separators=(",", ":") if tight else None),
    values, st.booleans(), st.booleans(),
)  # fmt: skip


def outcome(data: bytes) -> Any:
    try:
        return json.dumps(strict_json(data))
    except NotStrictJSON:
        return None


@given(texts.map(lambda text: text.encode("utf-8", "surrogatepass")) | st.binary(max_size=30))
@example(b'{"a":1,"a":1}')
@example(b'{"a":1,"b":{"c":1,"c":1}}')
@example(b'{"a":123456789012345678901}')
@example(b'{"a":18446744073709551616}')
@example(b'\xef\xbb\xbf{"a":1}')
@example(b'{"a":"\\ud800"}')
@example(b"{" * 40 + b"}" * 40)
def test_quick_look_and_long_look_agree(data: bytes) -> None:
    quick = outcome(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_json, "_plain", lambda data: None)
        assert outcome(data) == quick


@pytest.mark.parametrize("digits", [20, 21, 5000])
def test_whole_number_of_more_than_20_digits_is_refused_wherever_it_stands(digits: int) -> None:
    data = f'{{"a":[{"1" * digits}]}}'.encode()
    assert (outcome(data) is None) is (digits > 20)


@pytest.mark.parametrize("number", [10**20 - 1, 10**20, -(10**19) + 1, -(10**19), -(10**20)])
def test_both_looks_draw_the_line_at_the_same_number(number: int) -> None:
    data = f'{{"a":{number}}}'.encode()
    quick = outcome(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_json, "_plain", lambda data: None)
        assert outcome(data) == quick
