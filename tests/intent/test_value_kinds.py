"""Kinds for dates, patterns, paths, addresses, templates, lists and mappings: hold, fail, or cannot tell."""

from __future__ import annotations

import datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentguard.errors import ConfigurationError
from agentguard.intent import (
    Constraint,
    Facts,
    Intent,
    Truth,
    absent,
    any_,
    at_least,
    between,
    compile_intent,
    date,
    each,
    email,
    eq,
    glob,
    in_,
    in_set,
    is_,
    items,
    keys,
    not_,
    optional,
    path,
    prefix,
    regex,
    same_as,
    step,
    template,
    text,
    url,
)
from agentguard.intent.constraint import Names
from agentguard.intent.globs import glob_match
from agentguard.intent.truth import MISSING
from agentguard.model.canonical import canonical
from tests.intent.calls import admitted, call_of, check

HOLD, FAIL, CANNOT_TELL = Truth
NOT_NFC = "cafe\u0301"
DOCS = url(["docs.example.com", "*.example.org"], "/guide/**")
NAMES = Names(
    {"team": ("ann@acme.test", "Bo@acme.test"), "ids": tuple(canonical([7, "a"]))},  # type: ignore[arg-type]  # a list
    {"addr": keys(street=in_("Main St 1"), city=any_)},
)

TABLE: list[tuple[Constraint, Any, Truth]] = [
    (in_set("team"), "ann@acme.test", HOLD),
    (in_set("team"), "ANN@acme.test", FAIL),
    (in_set("team", fold="case"), "ANN@acme.TEST", HOLD),
    (in_set("team", fold="case"), "eve@acme.test", FAIL),
    (in_set("team"), NOT_NFC, CANNOT_TELL),
    (in_set("ids"), 7, HOLD),
    (in_set("ids"), "7", FAIL),
    (date("2027-03-31"), "2027-03-31", HOLD),
    (date("2027-03-31"), datetime.date(2027, 3, 31), HOLD),
    (date("2027-03-31"), "2027-03-31T23:30:00-10:00", HOLD),
    (date("2027-03-31"), "2027-03-31 10:00", HOLD),
    (date("2027-03-31"), "2027-04-01", FAIL),
    (date("2027-03-31"), "2027-03-31; rm", CANNOT_TELL),
    (date("2027-03-31"), "2027-03-31T10:00; rm", CANNOT_TELL),
    (date("2027-03-31"), "2027-03-31T25:00", CANNOT_TELL),
    (date("2027-03-31"), "31.03.2027", CANNOT_TELL),
    (date("2027-03-31"), "2027-02-30", CANNOT_TELL),
    (date("2027-03-31"), "\u0662\u0660\u0662\u0667-03-31", CANNOT_TELL),
    (date("2027-03-31"), "2027-03-31\n", CANNOT_TELL),
    (date("2027-03-31"), 20270331, CANNOT_TELL),
    (date(min="2027-03-01", max="2027-03-31"), "2027-03-01", HOLD),
    (date(min="2027-03-01", max="2027-03-31"), "2027-03-31T23:59:59", HOLD),
    (date(min="2027-03-01", max="2027-03-31"), "2027-04-01", FAIL),
    (date(min="2027-03-01T12:00:00Z"), "2027-03-01T12:00:00+00:00", HOLD),
    (date(min="2027-03-01T12:00:00Z"), "2027-03-01T12:30:00+01:00", FAIL),
    (date(min="2027-03-01T12:00:00Z"), "2027-03-01T13:00:00", CANNOT_TELL),
    (date(min="2027-03-01T12:00:00Z"), "2027-03-02", CANNOT_TELL),
    (date(month=12, day=24), "2027-12-24", HOLD),
    (date(month=12), "2031-12-01T00:00:00Z", HOLD),
    (date(month=12, day=24), "2027-12-25", FAIL),
    (glob("docs/*"), "docs/a.md", HOLD),
    (glob("docs/*"), "docs/a/b", FAIL),
    (glob("docs/*"), "docs/", FAIL),
    (glob("docs/*"), "docs", FAIL),
    (glob("docs/*"), "docs/..", CANNOT_TELL),
    (glob("docs/**"), "docs/../etc", CANNOT_TELL),
    (glob("docs/**"), "docs/a/b/c", HOLD),
    (glob("docs/**"), "docs", FAIL),
    (glob("docs/**"), "docs//x", CANNOT_TELL),
    (glob("docs/**"), "docs/a\\b", CANNOT_TELL),
    (glob("docs/**"), "docs/%2e%2E/x", CANNOT_TELL),
    (glob("docs/**"), "docs/a\x00", CANNOT_TELL),
    (glob("docs/**/x.md"), "docs/x.md", HOLD),
    (glob("docs/**/x.md"), "docs/a/b/x.md", HOLD),
    (glob("docs/**/x.md"), "docs/a/b/y.md", FAIL),
    (glob("**/x"), "x", HOLD),
    (glob("**/x"), "a/b/x", HOLD),
    (glob("**/x"), "/x", FAIL),
    (glob("/**"), "/a/b", HOLD),
    (glob("a*b*c"), "a-b-b-c", HOLD),
    (glob("a*b*c"), "abc", HOLD),
    (glob("a*b*c"), "a-c-b", FAIL),
    (glob("ab*ba"), "aba", FAIL),
    (glob(".*"), "..", CANNOT_TELL),
    (glob("*.md"), ".md", HOLD),
    (glob(r"a\*b"), "a*b", HOLD),
    (glob(r"a\*b"), "axb", FAIL),
    (glob("a?c"), "abc", FAIL),
    (glob("a[bc]"), "a[bc]", HOLD),
    (glob("*"), NOT_NFC, CANNOT_TELL),
    (glob("*"), 5, CANNOT_TELL),
    (glob("*"), "x" * 5000, CANNOT_TELL),
    (regex("[a-z]{2,4}"), "abc", HOLD),
    (regex("[a-z]{2,4}"), "abc\n", FAIL),
    (regex("a|b"), "ab", FAIL),
    (regex("a.c"), "a\nc", FAIL),
    (regex("[a-z]+"), 5, CANNOT_TELL),
    (regex("[a-z]+"), NOT_NFC, CANNOT_TELL),
    (path("/srv/data"), "/srv/data/a.txt", HOLD),
    (path("/srv/data"), "/srv//data/./a.txt", HOLD),
    (path("/srv/data"), Path("/srv/data/a/b"), HOLD),
    (path("/srv/data"), "/srv/data", FAIL),
    (path("/srv/data"), "/srv/data/", FAIL),
    (path("/srv/data"), "/srv/database/x", FAIL),
    (path("/srv/data"), "/etc/passwd", FAIL),
    (path("/srv/data"), "/srv/data/../../etc/passwd", CANNOT_TELL),
    (path("/srv/data"), "/srv/data/..", CANNOT_TELL),
    (path("/srv/data"), "data/a", CANNOT_TELL),
    (path("/srv/data"), "/srv/data/a\x00", CANNOT_TELL),
    (path("/srv/data"), "/srv/data/..\\x", CANNOT_TELL),
    (path("/srv/data"), "/srv/data/%2e%2e/x", CANNOT_TELL),
    (path("/srv/data"), "/srv/data/%252e", CANNOT_TELL),
    (path("/srv/data"), 5, CANNOT_TELL),
    (DOCS, "https://docs.example.com/guide/a", HOLD),
    (DOCS, "HTTPS://DOCS.example.com:443/guide/a#top", HOLD),
    (DOCS, "https://a.b.example.org/guide/a/b?q=1", HOLD),
    (DOCS, "https://example.org/guide/a", FAIL),
    (DOCS, "https://docs.example.com.evil.test/guide/a", FAIL),
    (DOCS, "https://evil.test/docs.example.com/guide/a", FAIL),
    (DOCS, "http://docs.example.com/guide/a", FAIL),
    (DOCS, "https://docs.example.com/other", FAIL),
    (DOCS, "https://docs.example.com/%67uide/a", HOLD),
    (not_(DOCS), "https://docs.example.com/%67uide/a", FAIL),
    (not_(DOCS), "https://docs.example.com/%67%55ide/a", HOLD),
    (url(["a.test"], "/caf%c3%a9/%61*"), "https://a.test/caf%C3%A9/a;x", HOLD),
    (url(["a.test"], "/a;b"), "https://a.test/a%3Bb", FAIL),
    (DOCS, "https://docs.example.com", FAIL),
    (DOCS, "https://docs.example.com@evil.test/guide/a", CANNOT_TELL),
    (DOCS, "https://user:pw@docs.example.com/guide/a", CANNOT_TELL),
    (DOCS, "https://docs.example.com:8443/guide/a", CANNOT_TELL),
    (DOCS, "https://docs.example.com:/guide/a", CANNOT_TELL),
    (DOCS, "https://docs.example.com:0443/guide/a", CANNOT_TELL),
    (DOCS, "https://docs.example.com./guide/a", CANNOT_TELL),
    (DOCS, "https:\\\\docs.example.com/guide/a", CANNOT_TELL),
    (DOCS, "https://docs.example.com\\@evil.test/guide", CANNOT_TELL),
    (DOCS, "https://docs.example.com/guide/../x", CANNOT_TELL),
    (DOCS, "https://docs.example.com/guide/%2e%2e/x", CANNOT_TELL),
    (DOCS, "https://docs.example.com/guide/..;/x", CANNOT_TELL),
    (DOCS, "https://docs.example.com/guide%2Fa", CANNOT_TELL),
    (DOCS, "https://docs.example.com/guide/\ta", CANNOT_TELL),
    (DOCS, " https://docs.example.com/guide/a", CANNOT_TELL),
    (DOCS, "https://docs.ex\u0430mple.com/guide/a", CANNOT_TELL),
    (DOCS, "https://xn--docs-exmple.example.org/guide/a", CANNOT_TELL),
    (DOCS, "https://127.1/guide/a", CANNOT_TELL),
    (DOCS, "https://2130706433/guide/a", CANNOT_TELL),
    (DOCS, "https://0x7f.1/guide/a", CANNOT_TELL),
    (DOCS, "https://[::1]/guide/a", CANNOT_TELL),
    (DOCS, "https://127.0.0.1/guide/a", FAIL),
    (DOCS, "docs.example.com/guide/a", CANNOT_TELL),
    (DOCS, 5, CANNOT_TELL),
    (url(["a.test"]), "https://a.test?q=../..", HOLD),
    (url(["127.0.0.1"], schemes=["http"]), "http://127.0.0.1:80/x", HOLD),
    (url(["xn--bcher-kva.example"]), "https://xn--bcher-kva.example/", HOLD),
    (email(["acme.com"]), "ann.b+c@ACME.com", HOLD),
    (email(["acme.com"]), "ann@evil.test", FAIL),
    (email(["acme.com"]), "ann@sub.acme.com", FAIL),
    (email(["acme.com"]), "ann@acme.com, eve@evil.test", CANNOT_TELL),
    (email(["acme.com"]), "eve@evil.test,ann@acme.com", CANNOT_TELL),
    (email(["acme.com"]), "Ann <ann@acme.com>", CANNOT_TELL),
    (email(["acme.com"]), '"ann@evil.test"@acme.com', CANNOT_TELL),
    (email(["acme.com"]), "eve%evil.test@acme.com", CANNOT_TELL),
    (email(["acme.com"]), "evil.test!eve@acme.com", CANNOT_TELL),
    (email(["acme.com"]), "=?utf-8?q?eve?=@acme.com", CANNOT_TELL),
    (email(["acme.com"]), "ann..b@acme.com", CANNOT_TELL),
    (email(["acme.com"]), "ann@acme.com\n", CANNOT_TELL),
    (email(["acme.com"]), "ann@\u0430cme.com", CANNOT_TELL),
    (email(["acme.com"]), "ann", CANNOT_TELL),
    (template("Dinner at {place}", place=in_("Roma", "Da Vito")), "Dinner at Roma", HOLD),
    (template("Dinner at {place}", place=in_("Roma")), "Dinner at Roma, see http://evil.test", FAIL),
    (template("Dinner at {place}", place=any_), "Dinner at ", FAIL),
    (template("{a} and {a}", a=any_), "x and x", HOLD),
    (template("{a} and {a}", a=any_), "x and y", FAIL),
    (template("{a} and {b}", a=eq("x and y"), b=eq("z")), "x and y and z", HOLD),
    (template("Pay {n} EUR", n=between(1, 50)), "Pay 50 EUR", HOLD),
    (template("Pay {n} EUR", n=between(1, 50)), "Pay 51 EUR", FAIL),
    (template("Pay {n} EUR", n=between(1, 50)), "Pay 050 EUR", CANNOT_TELL),
    (template("Pay {n} EUR", n=between(1, 50)), "Pay 1e1 EUR", CANNOT_TELL),
    (template("Pay {n} EUR", n=not_(eq(5))), "Pay 5 EUR", FAIL),
    (template("{{x}} {n}", n=eq("a")), "{x} a", HOLD),
    (template("plain"), "plain", HOLD),
    (template("plain"), "plainer", FAIL),
    (template("a {x}", x=any_), 5, CANNOT_TELL),
    (each(in_("a", "b")), ["a", "b", "a"], HOLD),
    (each(in_("a", "b")), [], HOLD),
    (each(in_("a", "b")), ["a", "c"], FAIL),
    (each(prefix("a")), ["a", 5], CANNOT_TELL),
    (each(prefix("a")), ["b", 5], CANNOT_TELL),
    (each(in_("a")), "a", CANNOT_TELL),
    (each(each(at_least(1))), [[1], [2, 3]], HOLD),
    (items(1, 2), ["a"], HOLD),
    (items(1, 2), [], FAIL),
    (items(max=2), ["a", "b", "c"], FAIL),
    (items(1, 2), "ab", CANNOT_TELL),
    (items(1, 2), {"a": 1}, CANNOT_TELL),
    (keys(a="x", b=any_), {"a": "x", "b": 1}, HOLD),
    (keys(a="x", b=any_), {"a": "x"}, HOLD),
    (keys(a="x", b=eq(1)), {"a": "x"}, FAIL),
    (keys(a="x", b=optional(1)), {"a": "x"}, HOLD),
    (keys(a="x", b=absent), {"a": "x"}, HOLD),
    (keys(a="x"), {"a": "x", "b": 1}, FAIL),
    (keys(a=prefix("x")), {"a": 5}, CANNOT_TELL),
    (keys(a="x"), {"a": "x", NOT_NFC: 1}, CANNOT_TELL),
    (keys(a="x"), ["a"], CANNOT_TELL),
    (is_("addr"), {"street": "Main St 1", "city": "Rome"}, HOLD),
    (is_("addr"), {"street": "Evil St"}, FAIL),
    (is_("addr"), "Main St 1", CANNOT_TELL),
    (same_as("other"), "there", HOLD),
    (same_as("other"), "THERE", FAIL),
    (same_as("gone"), "there", CANNOT_TELL),
    (same_as("other"), NOT_NFC, CANNOT_TELL),
]
OPPOSITE = {HOLD: FAIL, FAIL: HOLD, CANNOT_TELL: CANNOT_TELL}
CASES = pytest.mark.parametrize(("said", "value", "expected"), TABLE, ids=lambda item: str(item)[:40])


def judge(said: Constraint, value: Any) -> Truth:
    exact = value if value is MISSING else canonical(value)
    return said.filled(NAMES).test("a")(exact, call_of(other="there"), Facts())


def admits(said: Constraint, value: Any, **where: Any) -> bool:
    """Whether a call passes where the constraint stands in everywhere, or forbids."""
    sets = {name: list(members) for name, members in NAMES.sets.items()}
    args = step("pay", a=any_, other=any_)
    intent = Intent("p", args, sets=sets, define=dict(NAMES.define), **where)
    return admitted(intent, call_of(a=value, other="there"))


@CASES
def test_kind_holds_fails_or_cannot_tell(said: Constraint, value: Any, expected: Truth) -> None:
    assert judge(said, value) is expected


@CASES
def test_not_turns_hold_and_fail_and_keeps_cannot_tell(said: Constraint, value: Any, expected: Truth) -> None:
    assert judge(not_(said), value) is OPPOSITE[expected]


@CASES
def test_alternative_that_holds_is_enough_else_cannot_tell_stays(said: Constraint, value: Any, expected: Truth) -> None:
    assert judge(said | any_, value) is HOLD
    assert judge(said | eq("no such value"), value) in (expected, CANNOT_TELL)


@CASES
def test_each_of_one_element_is_as_the_element(said: Constraint, value: Any, expected: Truth) -> None:
    assert judge(each(said), [value]) is expected
    assert judge(each(said), [value, value]) is expected


@CASES
def test_everywhere_admits_only_what_holds(said: Constraint, value: Any, expected: Truth) -> None:
    assert admits(said, value, everywhere={"a": said}) is (expected is HOLD)


@CASES
def test_forbid_denies_what_holds_or_cannot_be_told(said: Constraint, value: Any, expected: Truth) -> None:
    denied = not admits(said, value, forbid=[{"args": {"a": said}}])

    assert denied or expected is FAIL
    if not isinstance(value, list | dict):
        assert denied is (expected is not FAIL)


@CASES
def test_kind_survives_the_file_form(said: Constraint, value: Any, expected: Truth) -> None:
    sets = {name: list(members) for name, members in NAMES.sets.items()}
    intent = Intent("p", step("pay", a=said, other=any_, gone=any_), sets=sets, define=dict(NAMES.define))

    again = Intent.from_yaml(intent.to_yaml())

    assert again == intent
    assert again.s256 == intent.s256
    assert isinstance(compile_intent(again).intent.steps[0].args["a"].must(), str)


def test_missing_argument_fails_every_kind_about_a_value() -> None:
    for said in {said for said, _, _ in TABLE}:
        assert judge(said, MISSING) is FAIL


def test_symbolic_link_out_of_the_directory_cannot_be_told(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "out"
    inside.mkdir()
    outside.mkdir()
    (inside / "away").symlink_to(outside)
    (outside / "back").symlink_to(inside)
    said = path(inside)

    assert judge(said, str(inside / "file")) is HOLD
    assert judge(said, str(inside / "away" / "file")) is CANNOT_TELL
    assert judge(said, str(outside / "back" / "file")) is CANNOT_TELL
    assert judge(said, str(outside / "file")) is FAIL


def test_directory_that_is_a_link_is_resolved_when_the_intent_is_made(tmp_path: Path) -> None:
    (tmp_path / "v1").mkdir()
    (tmp_path / "v2").mkdir()
    link = tmp_path / "now"
    link.symlink_to(tmp_path / "v1")
    said = path(link)
    assert judge(said, str(link / "file")) is HOLD
    assert judge(said, str(tmp_path / "v1" / "file")) is HOLD

    link.unlink()
    link.symlink_to(tmp_path / "v2")

    assert judge(said, str(link / "file")) is CANNOT_TELL


def test_forbid_of_a_mapping_looks_at_the_named_keys_only() -> None:
    said = keys(city="Evil")

    assert not admits(said, {"city": "Evil"}, forbid=[{"args": {"a": said}}])
    assert not admits(said, {"city": "Evil", "street": "x"}, forbid=[{"args": {"a": said}}])
    assert not admits(said, [{"city": "Rome"}, {"city": "Evil", "x": 1}], forbid=[{"args": {"a": said}}])
    both = said & not_(eq("Rome"))
    assert not admits(both, {"city": "Evil", "street": "x"}, forbid=[{"args": {"a": both}}])
    assert admits(said, {"city": "Rome"}, forbid=[{"args": {"a": said}}])
    assert admits(said, {"street": "x"}, forbid=[{"args": {"a": said}}])


def test_forbid_of_each_matches_a_list_of_nothing_else() -> None:
    said = each(in_("evil"))

    assert not admits(said, ["evil", "evil"], forbid=[{"args": {"a": said}}])
    assert not admits(said, [], forbid=[{"args": {"a": said}}])
    assert admits(said, ["evil", "ann"], forbid=[{"args": {"a": said}}])


WRONG: list[tuple[Any, str]] = [
    (lambda: glob(""), "a pattern of 1"),
    (lambda: glob("a**"), r"\*\* stands alone"),
    (lambda: glob("**/**"), "write it once"),
    (lambda: glob("a\\b"), "a backslash in a glob"),
    (lambda: glob("/".join("a" * 65)), "at most 64 segments"),
    (lambda: regex("(a)\\1"), "RE2 refuses"),
    (lambda: regex(""), "1 to 1024"),
    (lambda: path("srv"), "absolute directory"),
    (lambda: path("/srv/../etc"), "absolute directory"),
    (lambda: url([]), "at least one host"),
    (lambda: url("a.test"), "is a list"),
    (lambda: url(["*"]), "is no host"),
    (lambda: url(["*.com"]), "is no host"),
    (lambda: url(["A.test"]), "is no host"),
    (lambda: url(["127.1"]), "is no host"),
    (lambda: url(["a.test"], "docs/**"), "starts with a slash"),
    (lambda: url(["a.test"], schemes=["https:"]), "is no scheme"),
    (lambda: email([]), "at least one domain"),
    (lambda: email(["ann@acme.com"]), "is no domain"),
    (lambda: date(), "takes one of"),
    (lambda: date("2027-03-31", month=3), "takes one of"),
    (lambda: date("2027-02-30"), "'on' of date is a date"),
    (lambda: date("2027-03-31T10:00:00Z"), "'on' of date is a date"),
    (lambda: date(min="2027-03-31", max="2027-03-01"), "min of date is over max"),
    (lambda: date(month=13), "from 1 to 12"),
    (lambda: template("{a}{b}", a=any_, b=any_), "two holes touch"),
    (lambda: template("{a}"), "has no constraint"),
    (lambda: template("a", b=any_), "has no hole"),
    (lambda: template("a {", a=any_), "written twice"),
    (lambda: items(), "how many"),
    (lambda: items(3, 2), "min is over max"),
    (lambda: items(-1), "at least 0"),
    (lambda: keys({}), "takes the keys"),
    (lambda: in_set(""), "takes the name"),
    (lambda: same_as(""), "takes the name"),
    (lambda: eq("a", fold="case") & in_set("s"), "fold: case counts for all"),
]


@pytest.mark.parametrize(("make", "expected"), WRONG)
def test_mistake_says_what_to_write(make: Any, expected: str) -> None:
    with pytest.raises(ConfigurationError, match=expected):
        make()


def test_regex_without_re2_does_not_load(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "re2", None)

    with pytest.raises(ConfigurationError, match=r"agentguard\[re2\]"):
        regex("a+")


def test_fold_beside_a_set_of_numbers_is_a_mistake_when_the_set_is_known() -> None:
    intent = Intent("p", step("pay", a=in_set("ids", fold="case")), sets={"ids": [7]})

    with pytest.raises(ConfigurationError, match="fold: case is for text only"):
        compile_intent(intent)


HEAD = "version: 1\npurpose: p\nparams: {x: string}\nsteps: [{tool: pay, args: {a: %s}}]\n"


@pytest.mark.parametrize(
    ("form", "brought", "value", "other"),
    [
        ("{glob: '${x}'}", "docs/*", "docs/*", "docs/a"),
        ("{glob: '${x}'}", "**", "**", "a"),
        ("{regex: '${x}'}", ".*", ".*", "a"),
        ("{template: {text: '${x}'}}", "hi {name}", "hi {name}", "hi eve"),
        ("{url: {hosts: [a.test], path: '${x}'}}", "/a*", "https://a.test/a*", "https://a.test/ab"),
    ],
)
def test_parameter_stands_for_itself_inside_a_pattern(form: str, brought: str, value: str, other: str) -> None:
    intent = Intent.from_yaml(HEAD % form, x=brought)

    assert admitted(intent, call_of(a=value))
    assert not admitted(intent, call_of(a=other))
    assert Intent.from_yaml(intent.to_yaml()) == intent


@pytest.mark.parametrize("form", ["{set: '${x}'}", "{is: '${x}'}", "{same_as: '${x}'}"])
def test_parameter_never_chooses_a_rule(form: str) -> None:
    with pytest.raises(ConfigurationError, match="a parameter is a value, no name"):
        Intent.from_yaml(HEAD % form, x="a")


def test_parameter_brings_an_exact_host_only() -> None:
    with pytest.raises(ConfigurationError, match="never a pattern"):
        Intent.from_yaml(HEAD % "{url: {hosts: ['${x}']}}", x="*.evil.test")


def test_secret_argument_is_named_without_what_it_must_be() -> None:
    from tests.intent.calls import miss, spec_of

    intent = Intent("p", step("pay", a=glob("s3cret/*")))
    refused = miss(intent, call_of(spec_of(secret=frozenset({"a"})), a="x"))

    assert "s3cret" not in refused.text


def test_text_beside_a_set_must_hold_too() -> None:
    intent = Intent("p", step("pay", a=in_set("s") & text(max=3)), sets={"s": ["abc", "abcd"]})

    assert admitted(intent, call_of(a="abc"))
    assert not admitted(intent, call_of(a="abcd"))
    assert not isinstance(check(intent, call_of(a="x")), bool)


SEGMENTS = st.sampled_from(["a", "b", "ab", "ba", "", ".", "..", "a\\", "%2e", "x.md", "..;x"])


def plain_match(pattern: list[str], text: list[str]) -> bool:
    """A second matcher that goes back as often as it likes."""
    if not pattern:
        return not text
    if pattern[0] == "**":
        least = 1 if len(pattern) == 1 else 0
        taken = range(least, len(text) + 1)
        return any(all(map(clean, text[:n])) and plain_match(pattern[1:], text[n:]) for n in taken)
    if not text:
        return False
    fits = text[0] == pattern[0] if "*" not in pattern[0] else clean(text[0]) and fnmatchcase(text[0], pattern[0])
    return fits and plain_match(pattern[1:], text[1:])


def clean(segment: str) -> bool:
    return segment not in ("", ".", "..") and not any(odd in segment for odd in ("\\", "%2e", ".;"))


@settings(max_examples=500, deadline=None)
@given(
    st.lists(st.sampled_from(["**", "a", "*", "a*", "*b", "*.md", "", "b"]), min_size=1, max_size=5),
    st.lists(SEGMENTS, min_size=1, max_size=6),
)
def test_glob_matches_what_a_plain_matcher_matches(pattern: list[str], segments: list[str]) -> None:
    pattern = [part for part, before in zip(pattern, ["", *pattern], strict=False) if not part == before == "**"]
    if pattern != [""]:
        assert glob_match("/".join(pattern))("/".join(segments)) is plain_match(pattern, segments)
