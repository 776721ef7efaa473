"""An intent as Python writes it: what it holds, and which mistakes it refuses."""

from __future__ import annotations

import copy
import datetime
import pickle
from decimal import Decimal
from typing import Any

import pytest

from agentguard.errors import ConfigurationError
from agentguard.intent import (
    Intent,
    any_,
    at_least,
    at_most,
    between,
    compile_intent,
    eq,
    in_,
    not_,
    prefix,
    step,
    text,
)
from tests.intent.calls import admitted, call_of


def test_name_is_made_from_the_purpose() -> None:
    assert Intent("Refund ticket 4711").name == "refund-ticket-4711"
    assert Intent("R\u00fcckzahlung!").name == "ruckzahlung"
    assert Intent("\u4f60\u597d").name == "task"
    assert Intent("x" * 200).name == "x" * 64
    assert Intent("Refund", name="r1").name == "r1"


def test_steps_without_an_id_are_named_after_their_tool() -> None:
    steps = step("pay"), step("pay"), step("pay").named("pay-2"), step("other"), step("pay")

    assert [item.id for item in Intent("p", *steps).steps] == ["pay", "pay-3", "pay-2", "other", "pay-4"]


def test_bare_value_means_that_the_argument_equals_it() -> None:
    assert step("pay", to="ann", n=[1, 2], x=None) == step("pay", to=eq("ann"), n=eq([1, 2]), x=eq(None))


def test_keywords_of_step_are_tool_arguments_only() -> None:
    made = step("pay", tool="hammer", times=3, id="x")

    assert dict(made.args) == {"tool": eq("hammer"), "times": eq(3), "id": eq("x")}
    assert (made.tool, made.id, made.uses) == ("pay", "", None)


def test_alternatives_are_one_list() -> None:
    assert (eq("a") | eq("b")) | eq("c") == eq("a") | (eq("b") | eq("c"))
    with pytest.raises(TypeError):
        eq("a") | "b"


def test_in_takes_values_or_one_list_and_a_set_in_one_order() -> None:
    assert in_("a", "b") == in_(["a", "b"])
    assert in_({"b", "a", "c"}) == in_("a", "b", "c")


def test_what_the_caller_changes_later_changes_nothing() -> None:
    wanted = {"a": [1]}
    reads = ["account.read"]
    intent = Intent("p", step("pay", x=eq(wanted)), reads=reads)

    wanted["a"].append(2)
    reads.append("*")

    assert admitted(intent, call_of(x={"a": [1]}))
    assert intent.reads == ("account.read",)


def test_intent_and_its_parts_are_frozen() -> None:
    intent = Intent("p", step("pay", x=eq({"a": 1})))
    for target, name in ((intent, "purpose"), (intent.steps[0], "tool"), (intent.steps[0].args["x"], "values")):
        with pytest.raises(AttributeError):
            setattr(target, name, "other")
    with pytest.raises(TypeError):
        intent.steps[0].args["y"] = any_  # type: ignore[index]  # what it is about
    with pytest.raises(TypeError):
        intent.steps[0].args["x"].values[0]["a"] = 2  # type: ignore[attr-defined]  # of In


def test_intent_can_be_copied_and_pickled() -> None:
    intent = Intent("p", step("pay", x=in_("a", 5), n=between(1, 2)).times(2), reads=["a.*"], ttl=5)
    compile_intent(intent)

    assert copy.deepcopy(intent) == pickle.loads(pickle.dumps(intent)) == intent


def test_order_of_arguments_means_nothing() -> None:
    one, other = Intent("p", step("pay", a=1, b=2)), Intent("p", step("pay", b=2, a=1))

    assert one == other
    assert one.s256 == other.s256


def test_repr_is_short_and_holds_no_values() -> None:
    intent = Intent("Refund", step("refund", account="s3cret").named("r"), reads=["a.*"], everywhere={"u": "s3cret"})

    assert repr(intent) == "<Intent refund: steps r (refund); reads a.*; everywhere u>"
    assert "92 more" in repr(Intent("p", *[step("pay")] * 100))


@pytest.mark.parametrize("ttl", ["10m", "600s", 600, 600.0, datetime.timedelta(minutes=10)])
def test_ttl_is_a_duration(ttl: Any) -> None:
    assert Intent("p", ttl=ttl).ttl == 600.0


def test_sub_agent_is_an_intent_or_its_keywords() -> None:
    one = Intent("p", agents={"researcher": {"reads": ["a"], "steps": [step("pay")], "everywhere": {"u": 1}}})
    sub = Intent("p", step("pay"), name="p.researcher", reads=["a"], everywhere={"u": 1})

    assert one == Intent("p", agents={"researcher": sub})


def test_50_and_50_00_are_one_hash_and_text_is_another() -> None:
    hashes = [Intent("p", step("pay", x=value)).s256 for value in (50, 50.0, Decimal("50.00"), "50", True)]

    assert hashes[0] == hashes[1] == hashes[2]
    assert len(set(hashes)) == 3
    assert len(hashes[0]) == 43


@pytest.mark.parametrize(
    "change",
    [
        {"name": "q"},
        {"reads": ["a"]},
        {"everywhere": {"u": 1}},
        {"forbid": [{"tool": "pay"}]},
        {"agents": {"r": {"reads": ["a"]}}},
        {"ttl": 5},
    ],
)
def test_every_part_changes_the_hash(change: dict[str, Any]) -> None:
    assert Intent("p", step("pay"), **change).s256 != Intent("p", step("pay")).s256


BAD_VALUES: list[tuple[Any, str]] = [
    (lambda: at_most("nan"), "no number"),
    (lambda: at_most(float("nan")), "NaN"),
    (lambda: at_least(float("inf")), "NaN and infinities"),
    (lambda: at_least(Decimal("-Infinity")), "NaN and infinities"),
    (lambda: at_least(True), "bool is no number"),
    (lambda: at_least("1_000"), "no number"),
    (lambda: at_least("\u0661"), "no number"),
    (lambda: between(5, 1), "min is over max"),
    (lambda: at_most(-1), "min is over max"),
    (lambda: at_least(5) & at_most(1), "twice"),
    (lambda: at_least(5) & any_, "alone"),
    (lambda: at_least(5) & (eq(1) | eq(2)), "alone"),
    (lambda: eq("a", fold="case") & in_("a"), "fold"),
    (lambda: eq("a", fold="yes"), "fold"),
    (lambda: eq(5, fold="case"), "fold: case is for text"),
    (lambda: prefix(""), "not empty"),
    (lambda: prefix(5), "not empty"),  # type: ignore[arg-type]  # what it is about
    (lambda: in_(), "at least one value"),
    (lambda: in_([]), "at least one value"),
    (lambda: eq("cafe\u0301"), "NFC"),
    (lambda: prefix("cafe\u0301"), "NFC"),
    (lambda: eq(float("nan")), "cannot be compared"),
    (lambda: eq({1, 2}), "cannot be compared"),
    (lambda: eq(b"x"), "cannot be compared"),
    (lambda: text(max=0), "at least 1"),
    (lambda: not_(object()), "cannot be compared"),
    (lambda: step("", a=1), "no tool name"),
    (lambda: step("Refund"), "no tool name"),
    (lambda: step("refund.*"), "a pattern"),
    (lambda: step("pay", a={1}), "cannot be compared"),
    (lambda: step("pay").named("A b"), "no step id"),
    (lambda: step("pay").named("reads"), "no step id"),
    (lambda: step("pay").times(0), "at least 1"),
    (lambda: step("pay").times(True), "at least 1"),
    (lambda: step("pay").times(1, per="soon"), "no duration"),
    (lambda: step("pay", a=1).times(1, per=["a", "a"]), "each once"),
    (lambda: step("pay").attempts(0), "at least 1"),
    (lambda: step("pay").total(n=-1), "below 0"),
    (lambda: step("pay").total(n="x"), "no number"),
    (lambda: step("pay").total(n={"per": "1h"}), "a total is"),
]


@pytest.mark.parametrize(("make", "words"), BAD_VALUES)
def test_mistake_is_refused_where_it_is_made(make: Any, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        make()


BAD_INTENTS: list[tuple[dict[str, Any], str]] = [
    ({"purpose": ""}, "purpose: say in a sentence"),
    ({"purpose": None}, "purpose: say in a sentence"),
    ({"name": "No Name"}, "intent: 'No Name' is no name"),
    ({"reads": "account.read"}, "reads is a list"),
    ({"reads": ["*.read"]}, r"reads\[0\]: '\*.read' is no pattern"),
    ({"reads": [""]}, "is no pattern"),
    ({"reads": [5]}, "is no pattern"),
    ({"ttl": "soon"}, "ttl: no duration"),
    ({"ttl": 0}, "ttl: no duration"),
    ({"ttl": float("nan")}, "ttl: no duration"),
    ({"ttl": True}, "ttl: no duration"),
    ({"everywhere": {"u": {1}}}, "everywhere.u"),
    ({"everywhere": {"": 1}}, "no argument name"),
    ({"forbid": {"tool": "x"}}, "forbid is a list"),
    ({"forbid": [{}]}, r"forbid\[0\]: it names nothing"),
    ({"forbid": [{"tools": "x"}]}, "a mapping with some of"),
    ({"forbid": [{"tool": "x*"}]}, r"forbid\[0\].tool"),
    ({"forbid": [{"tags": "egress"}]}, "a list with at least one word"),
    ({"forbid": [{"tags": []}]}, "a list with at least one word"),
    ({"forbid": [{"seen": [5]}]}, "write a list of words"),
    ({"forbid": [{"args": {}}]}, "says nothing"),
    ({"forbid": [{"args": {"a": eq(1) | eq(2)}}, {"args": {"a": not_(1)}}, {"tool": ""}]}, r"forbid\[2\]"),
    ({"agents": {"a b": {"reads": ["x"]}}}, "is no name"),
    ({"agents": {"bot": {}}}, "write an Intent"),
    ({"agents": {"bot": {"read": ["x"]}}}, "write an Intent"),
    ({"agents": {"bot": Intent("p")}}, "gets neither reads nor steps"),
    ({"agents": {"bot": {"reads": ["*x"]}}}, r"agents.bot.reads\[0\]"),
]


@pytest.mark.parametrize(("words", "expected"), BAD_INTENTS)
def test_intent_refuses_a_mistake_with_its_path(words: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigurationError, match=expected):
        Intent(**({"purpose": "p"} | words))


def test_forbid_refuses_absence_because_it_would_never_match() -> None:
    from agentguard.intent import absent, optional

    for said in (absent, optional("a"), eq("a") | absent):
        with pytest.raises(ConfigurationError, match="never matches"):
            Intent("p", forbid=[{"args": {"to": said}}])


def test_step_mistakes_come_all_at_once() -> None:
    steps = step("a").named("x"), step("b").named("x"), step("c").times(1, per=["n"]), step("d").total(n=1)

    with pytest.raises(ConfigurationError) as caught:
        Intent("", *steps, "no step", reads=["?"])  # type: ignore[arg-type]  # what it is about

    assert len(caught.value.problems) == 6
