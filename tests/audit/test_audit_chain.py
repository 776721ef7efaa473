"""The form of one record, and how records are chained."""

from __future__ import annotations

import hashlib
import json
from decimal import Decimal
from enum import IntEnum, StrEnum
from typing import Any

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from agentguard.audit.chain import FRESH, ZEROS, read, timestamp
from agentguard.audit.fields import MAX_TEXT, RESERVED
from agentguard.errors import AuditUnavailable
from agentguard.model.record import Event, Position
from tests.audit.samples import chained, linked, record

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
scalars = st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | texts
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3))
fields = st.dictionaries(texts.filter(lambda name: name not in RESERVED), values, max_size=8)


def one(event: str = "call.permitted", **members: Any) -> dict[str, Any]:
    line, _ = linked(event, members)
    return dict(json.loads(line))


@given(fields)
def test_line_is_the_rfc_8785_form_and_its_hash_the_rfc_9162_leaf_hash(members: dict[str, Any]):
    line, position = linked("call.permitted", members)

    stated = json.loads(line)
    without = {name: value for name, value in stated.items() if name != "hash"}
    assert line == rfc8785.dumps(stated) + b"\n"
    assert stated["hash"] == position.hash == hashlib.sha256(b"\x00" + rfc8785.dumps(without)).hexdigest()
    assert {name: stated[name] for name in members} == members


@given(fields)
def test_what_was_linked_can_be_read_back(members: dict[str, Any]):
    line, position = linked("call.permitted", members)

    assert read(line, FRESH)[1] == position


def test_records_are_chained_from_64_zeros_on():
    first, second = (json.loads(line) for line in chained([record(1), record(2)]))

    assert (1, ZEROS) == (first["seq"], first["prev"])
    assert (2, first["hash"]) == (second["seq"], second["prev"])
    assert {1} == {first["v"], second["v"]}


def test_time_is_rfc_3339_in_utc_with_microseconds():
    assert timestamp(1_795_300_000_000_001_999) == "2026-11-21T22:26:40.000001Z"
    assert timestamp(0) == "1970-01-01T00:00:00.000000Z"


@pytest.mark.parametrize("name", sorted(RESERVED))
def test_field_with_a_name_of_the_records_own_is_refused(name: str):
    with pytest.raises(AuditUnavailable, match="record's own"):
        linked("call.permitted", {name: "x"})


@pytest.mark.parametrize(
    "value",
    [1.5, float("nan"), Decimal(1), b"x", {1}, pytest.param(object(), id="object"), 2**53, -(2**53), {1: "x"},
     [[1.0]], {"a": {"b": 1.0}}],
    ids=repr,
)  # fmt: skip
def test_value_that_has_no_exact_form_is_refused(value: object):
    with pytest.raises(AuditUnavailable, match="field 'amount'"):
        linked("call.permitted", {"amount": value})


def test_field_name_that_is_no_text_is_refused():
    with pytest.raises(AuditUnavailable, match="keys are text"):
        linked("call.permitted", {1: "x"})


def test_refusal_names_the_type_and_never_the_value():
    with pytest.raises(AuditUnavailable) as caught:
        linked("call.permitted", {"amount": [b"hunter2"]})

    assert "hunter2" not in str(caught.value)


def test_value_that_holds_itself_is_refused():
    circle: list[Any] = []
    circle.append(circle)

    with pytest.raises(AuditUnavailable, match="holds itself"):
        linked("call.permitted", {"x": circle})


def test_record_over_one_mebibyte_is_refused():
    with pytest.raises(AuditUnavailable, match="longer than 1 MiB"):
        linked("call.permitted", {"x": ["\x1b" * 4000] * 50})


def test_enums_tuples_and_text_subclasses_are_recorded_as_what_they_are():
    class Colour(StrEnum):
        RED = "red"

    class Level(IntEnum):
        HIGH = 3

    found = one(colour=Colour.RED, level=Level.HIGH, pair=(1, "x"), keyed={Colour.RED: None})

    assert ("red", 3, [1, "x"], {"red": None}) == tuple(found[name] for name in ("colour", "level", "pair", "keyed"))


@pytest.mark.parametrize(
    "text", ["a\nb", "a\r\nb", "\x1b[31mred", "a\x00b", "a\u2028b", "a\u2029b", "\u202egnp.exe", "\x85", "\ud83d\ude00"]
)
def test_hostile_text_stays_one_line_of_json(text: str):
    line, _ = linked("call.denied", {"shown": text, text: 1})

    assert 1 == line.count(b"\n")
    assert line.endswith(b"}\n")
    assert not set(range(32)) & set(line[:-1])
    shown = json.loads(line.decode())["shown"]
    assert text in shown or "\ufffd" in shown


def test_long_text_is_cut_and_marked_with_its_digest():
    text = "x" * MAX_TEXT + "the end"

    shown = one(shown=text)["shown"]

    digest = hashlib.sha256(text.encode()).hexdigest()
    assert shown == "x" * MAX_TEXT + f"[{len(text)} characters, sha256:{digest}]"
    assert one(shown="é" * MAX_TEXT)["shown"] == "é" * MAX_TEXT


def test_long_names_are_cut_too_and_stay_apart():
    found = one(args={"k" * 5000 + "1": 1, "k" * 5000 + "2": 2})["args"]

    assert [1, 2] == sorted(found.values())
    assert all(len(name) < MAX_TEXT + 100 for name in found)


def test_lone_surrogate_is_replaced_and_marked_with_a_digest():
    shown, other = one(shown="a\ud800b")["shown"], one(shown="a\ud801b")["shown"]

    assert shown.startswith("a\ufffdb[3 characters, sha256:")
    assert shown != other


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"\n", "not JSON"),
        (b"[]\n", "not a JSON object"),
        (b"{}\n", "no 'v'"),
        (b'{"v":1,"chain":"c","seq":true,"time":"","event":"","prev":"","hash":""}\n', "no 'seq'"),
        (b"[" * 100_000 + b"\n", "not JSON"),
    ],
)
def test_line_that_is_no_record_is_named_so(line: bytes, why: str):
    with pytest.raises(ValueError, match=why):
        read(line, FRESH)


def test_line_with_a_number_beyond_every_record_is_refused():
    (line,) = chained([record(1, seen=1)])

    with pytest.raises(ValueError, match=r"hold|hash|form|JSON"):
        read(line.replace(b'"seen":1', b'"seen":' + b"9" * 40), FRESH)


@pytest.mark.parametrize(("old", "new"), [(b",", b", "), (b'"v":1', b'"v":1,"v":1'), (b"refund", b"\\u0072efund")])
def test_same_content_in_another_form_is_not_the_record(old: bytes, new: bytes):
    (line,) = chained([record(1)])

    with pytest.raises(ValueError, match="RFC 8785"):
        read(line.replace(old, new, 1), FRESH)


def test_record_of_another_chain_is_refused():
    line, other = chained([record(1), record(2)])
    head = read(line, FRESH)[1]

    with pytest.raises(ValueError, match="another chain"):
        read(other, Position("d" * 32, head.seq, head.hash))


def test_event_codes_are_written_as_their_text():
    assert "log.opened" == one(Event.LOG_OPENED)["event"]
