"""`from`, `said` and `bind`: what they hold for, what proves nothing, and that they only ever narrow."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentguard.errors import ConfigurationError
from agentguard.intent import (
    Admitted,
    Constraint,
    Facts,
    Intent,
    Truth,
    any_,
    at_most,
    bind,
    compile_intent,
    eq,
    from_,
    in_,
    not_,
    optional,
    prefix,
    said,
    step,
    template,
    text,
)  # fmt: skip
from agentguard.intent.binds import binds_of
from agentguard.intent.sources import sources_of
from agentguard.model.canonical import canonical, digest
from agentguard.results import Store, View
from tests.intent.calls import call_of, problems, spec_of

HOLD, FAIL, CANNOT_TELL = Truth.HOLD, Truth.FAIL, Truth.CANNOT_TELL


class Earlier:
    """Earlier calls of one task, recorded for one constraint."""

    def __init__(self, said: Constraint, **how: int) -> None:
        self.intent = Intent("p", step("r"), step("pay", to=said))
        self.store = Store(**how)
        self.store.need(sources_of(self.intent), "task:1")

    def returned(
        self, tool: str, value: Any, /, *, returns: Any = "", used: str = "reads", **arguments: Any
    ) -> Earlier:
        spec = spec_of(tool, "read", returns=returns)
        self.store.record(call_of(spec, **arguments), value, ("1",), [("task:1", used)])
        return self

    @property
    def facts(self) -> Facts:
        return Facts(results=View(self.store, ("1",), "task:1"))


def truth(said: Constraint, value: Any, facts: Facts = Facts(), **others: Any) -> Truth:  # noqa: B008  # frozen
    return said.test("to")(canonical(value), call_of("pay", to=value, **others), facts)


PEOPLE = [{"name": "ann", "iban": "DE1", "age": 40}, {"name": "bo", "iban": "DE2", "age": 50}]


# --- from: what it holds for ------------------------------------------------------------------------------------------


def test_value_holds_if_it_stood_in_the_named_field_of_the_named_tool() -> None:
    said = from_(tool="people.list", field="[].iban")
    facts = Earlier(said).returned("people.list", PEOPLE).facts
    assert truth(said, "DE1", facts) is HOLD
    assert truth(said, "ann", facts) is FAIL
    assert truth(said, "DE3", facts) is FAIL


def test_result_of_another_tool_proves_nothing() -> None:
    said = from_(tool="people.list", field="[].iban")
    assert truth(said, "DE1", Earlier(said).returned("people.find", PEOPLE).facts) is FAIL


def test_without_any_results_nothing_can_be_told() -> None:
    assert truth(from_(tool="people.list", field="[].iban"), "DE1") is CANNOT_TELL


def test_numbers_and_text_do_not_cross() -> None:
    said = from_(tool="a", field="[]")
    facts = Earlier(said).returned("a", [50, "60", 7.5]).facts
    assert truth(said, 50, facts) is HOLD
    assert truth(said, 50.0, facts) is HOLD
    assert truth(said, 7.5, facts) is HOLD
    assert truth(said, "50", facts) is FAIL
    assert truth(said, 60, facts) is FAIL


def test_hole_of_a_template_is_no_number_because_the_earlier_call_was_about_one() -> None:
    number = from_(tool="people.list", field="[].iban", where={"age": at_most(45)})
    said = template("Account {a}", a=number)
    facts = Earlier(said).returned("people.list", [{"iban": "4711", "age": 40}, {"iban": "4712", "age": 50}]).facts
    assert truth(said, "Account 4711", facts) is HOLD
    assert truth(said, "Account 4712", facts) is FAIL


@pytest.mark.parametrize("value", ["", None, True, False])
def test_empty_text_null_and_bool_prove_nothing(value: Any) -> None:
    said = from_(tool="a", field="[]")
    facts = Earlier(said).returned("a", ["", None, True, False, 1, 0]).facts
    assert truth(said, value, facts) is not HOLD
    assert truth(not_(said), None, facts) is CANNOT_TELL


def test_text_is_text_and_json_only_where_the_tool_says_so() -> None:
    said = from_(tool="a", field="iban")
    assert truth(said, "DE1", Earlier(said).returned("a", '{"iban": "DE1"}').facts) is FAIL
    assert truth(said, "DE1", Earlier(said).returned("a", '{"iban": "DE1"}', returns="json").facts) is HOLD


@pytest.mark.parametrize("text", ['{"iban": "DE1", "iban": "DE2"}', '{"iban": "DE1", "n": NaN}', '{"iban": "DE1"',
                                  '{"x": {"iban": 1, "iban": 2}, "iban": "DE1"}', "[" * 100_000])  # fmt: skip
def test_json_with_a_key_twice_or_that_is_no_json_is_plain_text(text: str) -> None:
    said = from_(tool="a", field="iban")
    assert truth(said, "DE1", Earlier(said).returned("a", text, returns="json").facts) is FAIL


def test_key_with_a_dot_proves_nothing_about_a_path() -> None:
    said = from_(tool="a", field="owner.iban")
    assert truth(said, "EVIL", Earlier(said).returned("a", {"owner.iban": "EVIL"}).facts) is FAIL


def test_unique_fails_where_the_source_offers_two_candidates() -> None:
    said = from_(tool="people.list", field="[].iban", unique=True)
    assert truth(said, "DE1", Earlier(said).returned("people.list", PEOPLE).facts) is FAIL
    assert truth(said, "DE1", Earlier(said).returned("people.list", PEOPLE[:1] * 2).facts) is HOLD
    both = Earlier(said).returned("people.list", PEOPLE[:1]).returned("people.list", PEOPLE[1:])
    assert truth(said, "DE1", both.facts) is FAIL


def test_where_selects_siblings() -> None:
    said = from_(tool="people.list", field="[].iban", where={"name": "ann", "age": at_most(45)}, unique=True)
    facts = Earlier(said).returned("people.list", PEOPLE).facts
    assert truth(said, "DE1", facts) is HOLD
    assert truth(said, "DE2", facts) is FAIL


def test_where_resolves_outward_to_the_root_and_to_the_call_that_was_made() -> None:
    said = from_(tool="a", field="rows[].id", where={"owner": "ann", "args.folder": "in", "kind": not_("spam")})
    result = {"owner": "ann", "kind": "spam", "rows": [{"id": 1, "kind": "mail"}, {"id": 2}, {"id": 3, "owner": "bo"}]}
    facts = Earlier(said).returned("a", result, folder="in").facts
    assert [truth(said, number, facts) for number in (1, 2, 3)] == [HOLD, FAIL, FAIL]
    assert truth(said, 1, Earlier(said).returned("a", result, folder="out").facts) is FAIL


def test_where_that_cannot_be_told_makes_the_whole_cannot_tell() -> None:
    said = from_(tool="a", field="[].id", where={"n": at_most(5)})
    facts = Earlier(said).returned("a", [{"id": "x", "n": "text"}, {"id": "y", "n": float("nan")}]).facts
    assert truth(said, "x", facts) is CANNOT_TELL
    assert truth(said, "y", facts) is CANNOT_TELL
    assert truth(said, "z", facts) is FAIL


def test_args_choose_the_call() -> None:
    said = from_(tool="fetch", field="$", match="email", args={"url": prefix("https://acme.example/")})
    earlier = Earlier(said).returned("fetch", "a@acme.com", url="https://acme.example/x")
    facts = earlier.returned("fetch", "b@acme.com", url="https://evil.example/").facts
    assert truth(said, "a@acme.com", facts) is HOLD
    assert truth(said, "b@acme.com", facts) is FAIL


def test_step_takes_the_result_or_an_argument_of_the_call_that_consumed_it() -> None:
    by_field, by_arg = from_(step="r", field="id"), from_(step="r", arg="user")
    for which, value in ((by_field, "i1"), (by_arg, "ann")):
        used = Earlier(which).returned("r", {"id": "i1"}, used="r", user="ann")
        assert truth(which, value, used.facts) is HOLD
        other = Earlier(which).returned("r", {"id": "i1"}, used="r-2", user="ann")
        assert truth(which, value, other.facts) is FAIL


def test_keys_of_a_mapping_can_be_named() -> None:
    said = from_(tool="a", field="files.~keys", where={"owner": "ann"})
    facts = Earlier(said).returned("a", {"files": {"13": {"owner": "ann"}, "14": {"owner": "bo"}}}).facts
    assert truth(said, "13", facts) is HOLD
    assert truth(said, "14", facts) is FAIL


def test_found_values_inside_a_text_field_are_candidates() -> None:
    said = from_(tool="file.read", field="body", match="iban")
    facts = Earlier(said).returned("file.read", {"body": "Pay to DE89 3704 0044 0532 0130 00."}).facts
    assert truth(said, "DE89370400440532013000", facts) is HOLD
    assert truth(said, "Pay to DE89 3704 0044 0532 0130 00.", facts) is FAIL


@pytest.mark.parametrize(
    ("how", "wrong"),
    [
        ({"field": "x"}, "name a tool"),
        ({"tool": "a", "step": "b", "field": "x"}, "name a tool"),
        ({"tool": "a.*", "field": "x"}, "no tool name"),
        ({"tool": "a"}, "which field"),
        ({"tool": "a", "arg": "x"}, "'arg'"),
        ({"step": "a", "arg": "x", "where": {"y": 1}}, "'arg'"),
        ({"step": "a", "arg": "[]"}, "name of an argument"),
        ({"tool": "a", "field": "x", "where": {"[].y": 1}}, "sibling"),
        ({"tool": "a", "field": "x", "where": {"$.y": 1}}, "sibling"),
        ({"tool": "a", "field": "x", "where": {"args": 1}}, "args.NAME"),
        ({"tool": "a", "field": "x", "where": {}}, "mapping"),
        ({"tool": "a", "field": "x", "match": "words"}, "match"),
        ({"tool": "a", "field": "x", "unique": "yes"}, "unique"),
    ],
)
def test_wrong_from_is_refused_with_what_to_write(how: dict[str, Any], wrong: str) -> None:
    with pytest.raises(ConfigurationError, match=wrong):
        from_(**how)


def test_from_and_bind_and_said_go_through_yaml_and_back() -> None:
    intent = Intent(
        "p",
        step("a.read", id=any_).named("r"),
        step(
            "pay",
            to=from_(tool="b", field='[]."x.y"', where={"o.p": "ann", "args.q": in_(1, 2)}, args={"u": eq("v")}),
            by=from_(step="r", arg="id") | from_(step="r", field="$", match="line", unique=True),
            who=said & prefix("A"),
            customer=bind("customer") & prefix("c-"),
            maybe=optional(bind("other")),
        ),
    )
    again = Intent.from_yaml(intent.to_yaml())
    assert again == intent
    assert again.s256 == intent.s256


def test_mistakes_in_a_file_name_their_place() -> None:
    body = "steps:\n- tool: pay\n  args:\n    a: {from: {step: zz, field: x}}\n    b: {from: {tool: t, feld: x}}\n"
    assert any(
        "zz" in line and "steps[0].args.a" in line
        for line in problems(body.replace("    b: {from: {tool: t, feld: x}}\n", ""))
    )
    assert any("feld" in line for line in problems(body))
    assert problems("steps:\n- tool: pay\n  args: {a: {said: false}, b: {bind: Not A Name}}\n")


# --- links in a text --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("see https://docs.example/a, please", HOLD),
        ("see https://docs.example/a/evil", FAIL),
        ("see https://docs.example/a?x=1", FAIL),
        ("see https://docs.example/a|evil.com", FAIL),
        ("see https://docs.example/a https://evil.example", FAIL),
        ("see docs.evil.com", FAIL),
        ("<https://docs.example/a'.evil.md/x>", FAIL),
        ('see https://docs.example/a".evil.md/x', FAIL),
        ("see https://docs.example/a`.evil.md/x", FAIL),
        ("see https://docs.example/a\\@evil.md/x", FAIL),
        ("see 'https://docs.example/a', \"https://docs.example/a\". (https://docs.example/a)", HOLD),
        ("[a](https://docs.example/a) <https://docs.example/a>", HOLD),
        ("<a href='https://docs.example/a'>here</a>", HOLD),
        ("no link", HOLD),
    ],
)
def test_link_in_a_text_may_be_one_that_was_read_before(value: str, expected: Truth) -> None:
    said = text(max=200, urls=from_(tool="a", field="$", match="url"))
    facts = Earlier(said).returned("a", "read https://docs.example/a.").facts
    assert truth(said, value, facts) is expected
    assert truth(said, "see https://docs.example/a") is CANNOT_TELL
    intent = Intent("p", step("pay", to=said))
    assert Intent.from_yaml(intent.to_yaml()) == intent


# --- what is forgotten ------------------------------------------------------------------------------------------------


def test_what_was_evicted_cannot_be_told() -> None:
    said = from_(tool="a", field="id")
    earlier = Earlier(said, entries=2)
    for number in range(3):
        earlier.returned("a", {"id": f"x{number}"})
    assert truth(said, "x0", earlier.facts) is CANNOT_TELL
    assert truth(not_(said), "x0", earlier.facts) is CANNOT_TELL
    assert truth(said, "x2", earlier.facts) is HOLD
    assert truth(from_(tool="a", field="id", unique=True), "x2", earlier.facts) is FAIL


def test_result_with_too_many_candidates_or_that_cannot_be_read_cannot_be_told() -> None:
    class Broken:
        model_fields = {"id": None}  # noqa: RUF012  # as pydantic has it

        @property
        def id(self) -> str:
            raise RuntimeError

    said = from_(tool="a", field="[]")
    assert truth(said, 1, Earlier(said).returned("a", list(range(20_000))).facts) is CANNOT_TELL
    said = from_(tool="a", field="id")
    assert truth(said, "x", Earlier(said).returned("a", Broken()).facts) is CANNOT_TELL


# --- properties -------------------------------------------------------------------------------------------------------

values = st.one_of(st.sampled_from(["a", "b", "a.b", "", "é"]), st.integers(0, 3), st.none(), st.booleans())
trees = st.recursive(
    values,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(["x", "y", "x.y", "[]"]), inner, max_size=3)
    ),
    max_leaves=8,
)
paths = st.sampled_from(["$", "x", "x.y", "[]", "[].x", "*", "*.y", "~keys", '"x.y"', "x[]"])
sources = st.builds(
    lambda field, unique, where: from_(tool="a", field=field, unique=unique, where={"y": where} if where else None),
    paths, st.booleans(), st.sampled_from([None, "a", 1]),
)  # fmt: skip
bases = st.sampled_from([any_, in_("a", "b"), at_most(2), eq("a.b"), prefix("a"), not_("b")])


@settings(deadline=None)
@given(bases, sources, st.lists(trees, max_size=3), values)
def test_adding_a_from_never_permits_more(base: Constraint, extra: Constraint, results: list[Any], value: Any) -> None:
    earlier = Earlier(extra)
    for result in results:
        earlier.returned("a", result)
    both = base & extra if base is not any_ else extra
    narrow, wide = Intent("p", step("pay", to=both)), Intent("p", step("pay", to=base))
    call = call_of("pay", to=value)
    if isinstance(compile_intent(narrow).check(call, earlier.facts), Admitted):
        assert isinstance(compile_intent(wide).check(call, earlier.facts), Admitted)


@settings(deadline=None)
@given(sources, st.lists(trees, min_size=1, max_size=4), values)
def test_forgetting_never_permits_more(said: Constraint, results: list[Any], value: Any) -> None:
    whole, short = Earlier(said), Earlier(said, entries=1)
    for result in results:
        whole.returned("a", result)
        short.returned("a", result)
    if truth(said, value, short.facts) is HOLD:
        assert truth(said, value, whole.facts) is HOLD
    if truth(not_(said), value, short.facts) is HOLD:
        assert truth(not_(said), value, whole.facts) is HOLD


@settings(deadline=None)
@given(paths, trees, values)
def test_value_that_stands_nowhere_in_the_result_never_holds(field: str, result: Any, value: Any) -> None:
    said = from_(tool="a", field=field)
    facts = Earlier(said).returned("a", {"wrapped": result}).facts
    if truth(said, value, facts) is HOLD:
        assert value in ("wrapped",) or repr(value) in repr(result)


# --- said -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "words", "expected"),
    [
        ("Dora", "Please pay Dora today", HOLD),
        ("Dora", "Dora's report", HOLD),
        ("La Paz", "dinner at La Paz.", HOLD),
        ("dora", "Please pay Dora", FAIL),
        ("Dor", "Please pay Dora", FAIL),
        ("acme.com", "mail ann@acme.com", FAIL),
        ("ann", "mail ann@acme.com", FAIL),
        ("4711", "ticket 4711-B", FAIL),
        ("4711", "ticket 4711.5", FAIL),
        ("4711", "ticket 4711.", HOLD),
        ("", "anything", FAIL),
        (".", "Wait. What?", FAIL),
        (" Dora", "pay Dora", FAIL),
        ("Zoë", "pay Zoë", HOLD),
        ("Zoe\u0308", "pay Zoë", CANNOT_TELL),
        (50, "pay 50", CANNOT_TELL),
        (
            "\u0939\u093f\u0928",
            "\u0939\u093f\u0928\u094d\u0926\u0940 \u092d\u093e\u0937\u093e",
            FAIL,
        ),  # a vowel sign follows
        ("\u0939\u093f\u0928\u094d\u0926\u0940", "\u0939\u093f\u0928\u094d\u0926\u0940 \u092d\u093e\u0937\u093e", HOLD),
    ],
)
def test_said_holds_for_whole_words_of_the_subject(value: Any, words: str, expected: Truth) -> None:
    assert truth(said, value, Facts(heard=("first", words))) is expected


def test_where_nothing_was_heard_said_cannot_tell() -> None:
    assert truth(said, "Dora") is CANNOT_TELL
    assert truth(not_(said), "Dora") is CANNOT_TELL


# --- bind -------------------------------------------------------------------------------------------------------------


def test_bind_holds_for_the_first_value_and_then_for_that_one_only() -> None:
    said = bind("customer")
    assert truth(said, "c1") is HOLD
    bound = Facts(bound={"customer": digest("c1")})
    assert truth(said, "c1", bound) is HOLD
    assert truth(said, "c2", bound) is FAIL
    assert truth(bind("other"), "c2", bound) is HOLD


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Intent("p", step("a", x=bind("n") | eq(1))),
        lambda: Intent("p", step("a", x=not_(bind("n")))),
        lambda: Intent("p", step("a", x=1), forbid=[{"args": {"x": bind("n")}}]),
        lambda: Intent("p", step("a", x=from_(tool="b", field="y", where={"z": bind("n")}))),
    ],
)
def test_bind_stands_only_where_its_value_is_certainly_consumed(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match="bind"):
        wrong()


def test_bind_charges_the_digest_of_the_value_and_nothing_for_what_was_left_out() -> None:
    binds = binds_of(Intent("p", step("a", x=optional(bind("n"))), everywhere={"y": bind("m")}))
    spec = spec_of("a", defaults={"x": None})
    assert binds.charges("a", call_of(spec)) == ()
    charges = binds.charges("a", call_of(spec, x="v", y="w"))
    assert [(charge.key, charge.value) for charge in charges] == [("bind.m", digest("w")), ("bind.n", digest("v"))]
