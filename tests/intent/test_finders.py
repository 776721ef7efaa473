"""What `match` finds inside a text."""

from __future__ import annotations

import time
from typing import Any

import pytest

from agentguard.errors import ConfigurationError
from agentguard.intent.finders import Match, checked_iban, match_of


def found(match: Any, text: str) -> list[str]:
    finder = match_of(match).finder()
    assert finder is not None
    return list(finder(text))


@pytest.mark.parametrize(
    ("text", "urls"),
    [
        ("see https://a.example/x.", ["https://a.example/x"]),
        ("(https://a.example/b_(c)), www.b.example!", ["https://a.example/b_(c)", "www.b.example"]),
        ("<https://a.example/?q=1&r=2>", ["https://a.example/?q=1&r=2"]),
        ("http://evil.example/?u=https://good.example", ["http://evil.example/?u=https://good.example"]),
        ("xhttps://a.example a/www.b.example ftp://c.example", []),
        ("https://a.example\nhttps://b.example", ["https://a.example", "https://b.example"]),
    ],
)
def test_urls_are_found_whole_without_the_punctuation_behind_them(text: str, urls: list[str]) -> None:
    assert found("url", text) == urls


@pytest.mark.parametrize(
    ("text", "emails"),
    [
        ("Ann <ann@acme.com>, bo@x.co.uk.", ["ann@acme.com", "bo@x.co.uk"]),
        ("evil@ann@acme.com", []),
        ("éann@acme.com", []),
        ("ann@acme.com.evil.example", ["ann@acme.com.evil.example"]),
        ("ann@acme", []),
    ],
)
def test_emails_are_found_whole(text: str, emails: list[str]) -> None:
    assert found("email", text) == emails


@pytest.mark.parametrize(
    ("text", "ibans"),
    [
        ("pay DE89370400440532013000.", ["DE89370400440532013000"]),
        ("pay GB29 NWBK 6016 1331 9268 19 EUR", ["GB29NWBK60161331926819"]),
        ("DE89370400440532013001", []),
        ("DE893704004405320130001", []),
        ("xDE89370400440532013000", []),
        ("DE89  370400440532013000", []),
        ("ZZ89370400440532013000", []),
    ],
)
def test_only_ibans_of_the_right_length_and_check_digits_are_found(text: str, ibans: list[str]) -> None:
    assert found("iban", text) == ibans


def test_check_digits_are_those_of_iso_7064() -> None:
    assert checked_iban("NO9386011117947")
    assert not checked_iban("NO9386011117948")


def test_lines_are_found_without_white_space() -> None:
    assert found("line", " a \r\n\n\tb c") == ["a", "b c"]


def test_regex_offers_the_named_group() -> None:
    pytest.importorskip("re2")
    assert found({"regex": r"order (\d+)", "group": 1}, "order 12, order 7") == ["12", "7"]
    assert found({"regex": r"\d+"}, "order 12") == ["12"]
    assert found({"regex": r"(x)?1", "group": 1}, "1") == []


@pytest.mark.parametrize(
    "said", ["regex", "any", {}, {"regex": ""}, {"regex": "("}, {"regex": "a", "group": 1},
             {"regex": "a", "group": True}, {"regex": "a", "x": 1}, {"regex": r"(a)\1"}, None, 3]
)  # fmt: skip
def test_what_is_no_match_is_refused(said: Any) -> None:
    pytest.importorskip("re2")
    with pytest.raises(ConfigurationError):
        match_of(said)


def test_match_is_written_as_it_is_read() -> None:
    pytest.importorskip("re2")
    for match in (Match(), Match("url"), Match("regex", "a(b)", 1), Match("regex", "a")):
        assert match_of(match.form()) == match


@pytest.mark.parametrize("text", ["a" * 200_000, "a@" * 100_000, "GB29" * 50_000, "https://a)" * 20_000,
                                  "http://a" + ")" * 200_000, ("http://a" + ")" * 4080 + " ") * 900,
                                  "a.b@" + "a." * 100_000, "!" * 200_000])  # fmt: skip
@pytest.mark.parametrize("word", ["url", "email", "iban", "line"])
def test_finding_takes_linear_time(word: str, text: str) -> None:
    began = time.process_time()
    found(word, text)
    assert time.process_time() - began < 2
