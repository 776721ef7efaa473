"""Records that are written from a form made for others: the same bytes as by RFC 8785, whatever the values are."""

from __future__ import annotations

import copy
import json
import pickle
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from agentguard.audit import form
from agentguard.audit.chain import FRESH, link, read, start, timestamp
from agentguard.audit.fields import MAX_TEXT, RESERVED, clean, name_of
from agentguard.audit.log import FileLog
from agentguard.errors import AuditUnavailable
from agentguard.model.record import Event, Facts, Position, Record
from tests.audit.samples import linked

quotes = pytest.mark.control("a recorded value stays within its quotes")
kinds_apart = pytest.mark.control("a form takes no value for one of another type")


class Sly(str):
    """A text that shows another one."""

    def __str__(self) -> str:
        return '","outcome":"permit'

    def __format__(self, spec: str) -> str:
        return str(self)


hostile = st.sampled_from(
    ['"', "\\", '","outcome":"permit', "\x00", "\x1f", "\x7f", "\u2028", "\ud800", "\U00010000", "%s", "%", "é", ""]
)
texts = hostile | st.text(max_size=12) | st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=12)
long = st.builds(lambda text, times: text * times, texts, st.sampled_from([1, MAX_TEXT // 6, MAX_TEXT]))
scalars = st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | texts | texts.map(Sly)
lists = st.lists(texts, max_size=4) | st.lists(texts, max_size=3).map(tuple) | st.lists(scalars, max_size=3)
values = scalars | long | lists | st.dictionaries(texts, scalars | lists, max_size=2)
names = (texts | st.sampled_from(["a", "call", "event!", "hasg", "hash!", "hashe", "\uffff", "w"])).filter(
    lambda name: name not in RESERVED
)


def expected(event: str, fields: Mapping[str, Any], head: Position, now_ns: int) -> dict[str, Any]:
    """The record by the rules for single values, and by nothing that is shared between records."""
    members = {name_of(name, ""): clean(value, name) for name, value in fields.items()}
    time = datetime.fromtimestamp(now_ns // 10**9, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    time += f".{now_ns % 10**9 // 1000:06d}Z"
    own = {"v": 1, "chain": head.chain, "seq": head.seq + 1, "time": time, "event": event, "prev": head.hash}
    return {**members, **own}


def line_of(fields: Mapping[Any, Any], facts: Facts | None = None, event: str = Event.CALL_PERMITTED) -> dict[str, Any]:
    line, position = linked(event, fields, facts)
    assert read(line, FRESH)[1] == position
    return dict(json.loads(line))


@st.composite
def alike(draw: Callable[[Any], Any]) -> tuple[Facts, list[dict[str, Any]]]:
    """Facts, and fields of several records: the same names, and values of any types."""
    called = draw(st.lists(names, unique=True, max_size=6))
    facts = draw(st.dictionaries(names.filter(lambda name: name not in called), values, max_size=5))
    records = draw(st.lists(st.fixed_dictionaries(dict.fromkeys(called, values)), min_size=1, max_size=4))
    return Facts(facts), records


@quotes
@kinds_apart
@given(alike(), st.integers(0, 2**62), st.sampled_from(["call.permitted", 'a"b', "é"]), st.sampled_from(["c", 'c"\\é']))
def test_line_is_the_rfc_8785_form_whatever_was_written_before(
    given: tuple[Facts, list[dict[str, Any]]], now_ns: int, event: str, chain: str
) -> None:
    facts, records = given
    head = start(chain)
    for fields in records:
        wanted = expected(event, {**facts, **fields}, head, now_ns)
        line, head = link(head, now_ns, Record(event, fields, facts))  # type: ignore[arg-type]  # any text

        assert rfc8785.dumps({**wanted, "hash": head.hash}) + b"\n" == line
        assert timestamp(now_ns) == wanted["time"]


@quotes
@pytest.mark.parametrize("value", ['x","outcome":"permit', "x\\", "x\n", "x\x00", "x\x7f", "é", "x\u2028", Sly("x")])
def test_value_stays_within_its_quotes_after_plain_ones(value: str) -> None:
    line_of({"tool": "plain", "outcome": "deny"})
    line_of({"tools": ["plain", "plain"], "outcome": "deny"})

    assert (str.__str__(value), "deny") == tuple(line_of({"tool": value, "outcome": "deny"})[name] for name in FIELDS)
    assert ["plain", str.__str__(value)] == line_of({"tools": ["plain", value], "outcome": "deny"})["tools"]


FIELDS = ("tool", "outcome")


@kinds_apart
@pytest.mark.parametrize("fields", [("a",), ("a", "b"), ("a", "b", "c")])
@pytest.mark.parametrize("other", [None, True, 5, ["x", "y"], ("x", "y"), [], [1], {"x": "y"}, [["x"]], ["x", None]])
def test_value_of_another_type_is_recorded_as_what_it_is(fields: tuple[str, ...], other: Any) -> None:
    text, odd = dict.fromkeys(fields, "text"), {**dict.fromkeys(fields, "text"), "a": other}
    shown = list(other) if isinstance(other, tuple) else other
    for _ in range(2):
        assert "text" == line_of(text, event="first")["a"]
        assert shown == line_of(odd, event="first")["a"]
        assert shown == line_of(odd, event="second")["a"]
        assert "text" == line_of(text, event="second")["a"]


@kinds_apart
@pytest.mark.parametrize(
    "value", [1.5, 2**53, -(2**53), b"x", [1.0], ["x", b"y"], {"a": 1.0}, {"a": b"x"}, object(), {1: "x"}]
)
@pytest.mark.parametrize("before", ["text", 5, ["text"], None])
def test_value_without_an_exact_form_is_refused_where_another_stood(value: Any, before: Any) -> None:
    line_of({"call": "c", "amount": before})

    with pytest.raises(AuditUnavailable, match="field 'amount'"):
        linked(Event.CALL_PERMITTED, {"call": "c", "amount": value})


@pytest.mark.parametrize("name", sorted(RESERVED))
def test_name_of_the_records_own_is_refused_in_facts_too(name: str) -> None:
    for _ in range(2):
        with pytest.raises(AuditUnavailable, match="record's own"):
            linked(Event.CALL_PERMITTED, {}, Facts({name: "x"}))


def test_facts_of_the_same_names_are_told_apart() -> None:
    first, second = Facts(agent="one", steps=["a"]), Facts(agent="two", steps=["b"])

    for _ in range(2):
        assert ("one", ["a"]) == tuple(line_of({"call": "c"}, first)[name] for name in ("agent", "steps"))
        assert ("two", ["b"]) == tuple(line_of({"call": "c"}, second)[name] for name in ("agent", "steps"))


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda facts: pickle.loads(pickle.dumps(facts))])
def test_copy_of_facts_is_written_as_it_was_changed(copied: Callable[[Facts], Facts]) -> None:
    facts = Facts(agent="alice", steps=["a"])
    assert "alice" == line_of({}, facts)["agent"]
    changed = copied(facts)
    changed["agent"] = "redacted"

    assert type(changed) is Facts
    assert ("redacted", "alice") == (line_of({}, changed)["agent"], line_of({}, facts)["agent"])


def test_field_stands_where_a_fact_is_called_alike() -> None:
    assert ("field", "fact") == tuple(line_of({"a": "field"}, Facts(a="x", b="fact"))[name] for name in ("a", "b"))


def test_text_that_is_long_only_together_is_not_cut() -> None:
    fields = {f"f{n}": "x" * (MAX_TEXT // 2) for n in range(4)}

    assert {**fields, **line_of(fields)} == line_of(fields)


def test_long_name_is_cut_once_and_stands_in_its_order() -> None:
    fields = {"n" * MAX_TEXT + end: end for end in "abcdef"}

    assert fields.items() == {name: line_of(fields)[name_of(name, "")] for name in fields}.items()


def test_forms_are_bounded() -> None:
    facts = Facts(agent="one")
    for n in range(3 * form._KEPT):
        line_of({f"f{n}": "x"}, facts)
        line_of({f"f{n}": "x"})
        linked("x", {}, Facts({f"g{n}": "x"}))

    assert (
        max(
            map(
                len,
                (
                    facts.prepared,
                    facts.prepared.forms,
                    form.NO_FACTS,
                    facts.prepared.kin.layouts,
                    form.NO_FACTS.forms,
                    form._KIN,
                ),
            )
        )
        <= 256
    )
    assert "y" == line_of({"f1": "y"}, facts)["f1"]


@pytest.mark.control("an append is few calls")
@pytest.mark.parametrize(
    "fields",
    [
        {"lease": "l-1", "task": "t-1", "why": "call_end"},
        {"lease": "l-1", "expires_by": 1_795_334_803, "scopes": ("crm:read",), "resource": ""},
    ],
)
def test_append_is_three_calls_of_python(tmp_path: Path, fields: dict[str, Any]) -> None:
    log, called = FileLog(tmp_path), list[str]()
    given = Record(Event.CREDENTIAL_REVOKED, fields, Facts(agent="a", delegation=["u:1", "a"]))
    log.append(given)

    def note(frame: FrameType, event: str, argument: Any) -> None:
        if event == "call":
            called.append(frame.f_code.co_name)

    sys.setprofile(note)
    try:
        log.append(given)
    finally:
        sys.setprofile(None)
    log.close()

    assert ["append", "append", "link"] == called
