"""Attacks on values: names that look alike, paths and URLs with two readings, slow patterns, juggled types."""

from __future__ import annotations

import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from agentguard.errors import ConfigurationError, NotCanonical
from agentguard.intent import (
    Constraint,
    Intent,
    any_,
    at_least,
    at_most,
    between,
    each,
    email,
    eq,
    glob,
    in_,
    keys,
    path,
    regex,
    step,
    template,
    text,
    url,
)
from agentguard.model.call import ToolSpec
from tests.intent.calls import admitted, call_of


def passes(said: Constraint, value: Any) -> bool:
    return admitted(Intent("p", step("pay", a=said)), call_of(a=value))


CONFUSABLE_NAMES = [
    "r\u0435ad_file",  # Cyrillic e
    "\uff52ead_file",  # fullwidth r
    "read\u200b_file",  # zero width
    "\u202eread_file",  # right to left
    "re\u0301ad_file",  # combining
    "read_file\n",
    "read_file ",
    "Read_file",
    "read_file\x00",
]


@pytest.mark.parametrize("name", CONFUSABLE_NAMES)
def test_40_confusable_tool_name_is_no_tool_and_no_step(name: str) -> None:
    with pytest.raises((ConfigurationError, ValueError)):
        ToolSpec(name=name)
    with pytest.raises(ConfigurationError):
        step(name)
    with pytest.raises(ConfigurationError):
        Intent("p", reads=[name])


TRAVERSALS = [
    "docs/../../etc/passwd",
    "docs/..",
    "docs/%2e%2e",
    "docs/%2E%2e/etc",
    "docs/..%2fetc",
    "docs/%252e%252e",
    "docs//x",
    "docs/..\\x",
    "docs\\..\\x",
    "docs/a\x00.md",
    "docs/./x",
    "docs/.",
    "docs/..;/x",
    "docs/a\n",
    "DOCS/a",
    "xdocs/a",
    "docs",
    "docs/",
    "",
]


@pytest.mark.parametrize("value", TRAVERSALS)
@pytest.mark.parametrize("pattern", ["docs/*", "docs/**", "docs/**/*"])
def test_41_glob_stays_in_its_folder(pattern: str, value: str) -> None:
    assert not passes(glob(pattern), value)


def test_41_star_does_not_cross_a_slash() -> None:
    assert passes(glob("docs/*"), "docs/a")
    assert not passes(glob("docs/*"), "docs/a/b")


@pytest.mark.parametrize("value", TRAVERSALS)
def test_41_path_stays_below_its_directory(tmp_path: Path, value: str) -> None:
    (tmp_path / "docs").mkdir()

    if value not in ("docs//x", "docs/./x", "docs/..;/x"):  # these have one reading
        assert not passes(path(tmp_path / "docs"), f"{tmp_path}/{value}")
    assert not passes(path(tmp_path / "docs"), value)


def test_41_symbolic_link_does_not_lead_out(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "etc").symlink_to("/etc")

    assert not passes(path(tmp_path / "docs"), f"{tmp_path}/docs/etc/passwd")


URLS = [
    "https://good.test@evil.test/",
    "https://good.test:pw@evil.test/",
    "https://evil.test\\@good.test/",
    "https://good.test\\.evil.test/",
    "https:/\\good.test/",
    "https://good.test\t.evil.test/",
    "https://good\n.test/",
    "https://go\u00f6d.test/",
    "https://xn--god-sna.test/",
    "https://good.test:8443/",
    "https://good.test:/",
    "https://good.test:00443/",
    "https://good.test:443.evil.test/",
    "https://good.test./",
    "https://good.test%2eevil.test/",
    "https://[fe80::1%25eth0]/",
    "https://[::ffff:127.0.0.1]/",
    "https://good.test/%2e%2e/x",
    "https://good.test/a/../x",
    "https://good.test/a%5cb",
    "https://good.test/%00",
    "https://good.test/a b",
    "http://good.test/",
    "//good.test/",
    "https:good.test",
    "javascript://good.test/%0aalert(1)",
    "https://good.test.evil.test/",
    "https://evil.test/?https://good.test/",
    "https://evil.test#@good.test/",
    "https://127.1/",
    "https://0177.0.0.1/",
    "https://2130706433/",
]


@pytest.mark.parametrize("value", URLS)
def test_42_url_with_two_readings_or_another_host_is_denied(value: str) -> None:
    assert not passes(url(["good.test"]), value)
    assert not admitted(Intent("p", step("pay", a=any_), forbid=[{"args": {"a": url(["good.test"])}}]), call_of(
        a="https://good.test/"))  # fmt: skip


ONE_READING = ["https://good.test/", "HTTPS://GOOD.test:443/", "https://good.test", "https://good.test/a#x"]


@pytest.mark.parametrize("value", ONE_READING)
def test_42_url_with_one_reading_is_one_form(value: str) -> None:
    assert passes(url(["good.test"]), value)


SLOW: list[tuple[Constraint, Any]] = [
    (regex("(a+)+$"), "a" * 4000 + "!"),
    (regex("(a|aa)+b"), "a" * 60000),
    (glob("a*" * 60 + "b"), "a" * 4095),
    (glob("/".join(["**", "a"] * 30 + ["b"])), "/".join("a" * 2000)),
    (glob("/".join(["*a*a*a*"] * 30 + ["**", "b"])), "/".join(["aaaaaaa"] * 500)),
    (
        template(" ".join(f"{{h{i}}}" for i in range(16)), **{f"h{i}": any_ for i in range(16)}),
        " ".join("a" * 2000) + "\n ",
    ),
    (template("{a} {b} {c} {d}!", a=any_, b=any_, c=any_, d=eq("x")), "y " * 2000 + "!"),
    (url(["good.test"], "/**/a/**/b"), "https://good.test/" + "a/" * 2000),
    (email(["a.test"]), "a." * 30000 + "@a.test"),
    (path("/srv"), "/srv/" + "a/" * 2000),
    (text(max=10**6), "a.b " * 20000),
    (each(glob("**/a/**/b")), ["a/" * 200] * 200),
    (keys({f"k{i}": any_ for i in range(500)}), {f"k{i}": "a" for i in range(500)}),
    (in_(*(f"v{i}" for i in range(2000))), "v" * 100000),
    (at_most(5), Decimal("1e300")),
]


@pytest.mark.parametrize(("said", "value"), SLOW, ids=lambda item: str(item)[:30])
def test_43_no_value_makes_a_check_slow(said: Constraint, value: Any) -> None:
    intent, call = Intent("p", step("pay", a=said)), call_of(a=value)
    started = time.process_time()

    admitted(intent, call)

    assert time.process_time() - started < 5.0  # each takes a few milliseconds


def test_43_expression_that_is_not_linear_does_not_load() -> None:
    for expression in (r"(a)\1", "a(?=b)", "(?<!a)b"):
        with pytest.raises(ConfigurationError, match="RE2 refuses"):
            regex(expression)


def test_43_template_tries_a_bounded_number_of_splits() -> None:
    tried: list[str] = []

    class Counting(type(any_)):  # type: ignore[misc]  # a class of the package, taken from its instance
        def test(self, argument: str) -> Any:
            from agentguard.intent.truth import FAIL

            def judge(value: Any, call: Any, facts: Any) -> Any:
                tried.append(value)
                return FAIL

            return judge

    said = template("{a} {b}", a=any_, b=Counting())
    passes(said, "x " * 2000)

    assert 0 < len(tried) <= 1000


JUGGLED: list[tuple[Constraint, Any, bool]] = [
    (eq(1), "1", False),
    (eq("1"), 1, False),
    (eq(1), True, False),
    (eq(True), 1, False),
    (eq(True), "true", False),
    (eq(None), "", False),
    (eq(""), None, False),
    (eq(0), None, False),
    (eq(0), False, False),
    (eq(0), -0.0, True),
    (eq(1), Decimal("1.00"), True),
    (eq(1), 1.0, True),
    (eq(1), "\u0661", False),
    (between(0, 100), "50", False),
    (between(0, 100), True, False),
    (between(0, 100), None, False),
    (between(0, 100), [50], False),
    (between(0, 100), Decimal("100.000000000000000000001"), False),
    (at_most(100), -1, False),
    (at_least(0), 10**40, True),
    (eq(2**53), 2**53 + 1, False),
    (eq(["a"]), "a", False),
    (eq({"a": 1}), {"a": "1"}, False),
    (in_("a", 1), True, False),
]


@pytest.mark.parametrize(("said", "value", "expected"), JUGGLED)
def test_44_types_are_never_juggled(said: Constraint, value: Any, expected: bool) -> None:
    assert passes(said, value) is expected


def test_44_null_is_not_a_missing_argument() -> None:
    intent = Intent("p", step("pay"))

    assert admitted(intent, call_of())
    assert not admitted(intent, call_of(a=None))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), Decimal("NaN"), Decimal("-Infinity"), {1, 2}, b"x"])
def test_44_value_without_a_canonical_form_never_reaches_a_check(value: Any) -> None:
    with pytest.raises(NotCanonical):
        call_of(a=value)
