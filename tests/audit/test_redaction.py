"""Personal data and secrets go before values are kept; numbers count only with their check digits."""

from __future__ import annotations

import sys
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentguard.audit.patterns import NAMED, Pattern, expression, iban, literal, luhn
from agentguard.audit.redaction import MAX_TEXT, Redactor
from agentguard.errors import ConfigurationError

redacts = pytest.mark.control("the redactor")
JWT = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhbGljZSJ9.c2lnbmF0dXJl"
PEM = "-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMGByqGSM49\n-----END PRIVATE KEY-----"
GONE = {
    "iban": ["DE02120300000000202051", "de02 1203 0000 0000 2020 51", "GB82WEST12345698765432", "NO93 8601 1117 947"],
    "card": ["4111111111111111", "5500 0055 5555 5559", "3400-0000-0000-009"],
    "email": ["ann@bank.test", "a.b+tag@mail.example.co.uk"],
    "phone": ["+49 30 901820", "0049 (30) 901820", "+1-555-123-4567", "+442079460958"],
    "jwt": [JWT, JWT.rpartition(".")[0]],
    "aws_key": ["AKIAIOSFODNN7EXAMPLE"],
    "pem": [PEM, PEM.replace("\n", "\\n"), PEM.partition("-----END")[0]],
    "bearer": ["Bearer abcdefgh12345678", "authorization: bearer=abcdefgh12345678", "DPoP abc.def-ghi~123"],
}


@redacts
@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in GONE.items() for text in texts])
def test_named_pattern_takes_out_what_it_is_for(name: str, text: str) -> None:
    shown = Redactor([name]).text(f"before {text} after")
    assert f"[redacted: {name}]" in shown
    assert text not in shown
    assert shown.startswith("before ")
    assert "after" in shown or name == "pem"


@redacts
@pytest.mark.parametrize("text", [text for texts in GONE.values() for text in texts])
def test_all_patterns_together_leave_none_of_it(text: str) -> None:
    assert text not in Redactor().text(f"'{text}', and more")


@pytest.mark.parametrize(
    "text",
    ["order 4111111111111112", "DE02120300000000202052", "2026-11-21T22:26:00Z", "10.0.0.1:8080", "version 1.2.3",
     "account acme, 49.99 EUR", "0000000000000000", "a@b", "sha256:" + "ab12" * 16, "+1 2 3"],
)  # fmt: skip
def test_what_only_looks_like_it_stays(text: str) -> None:
    assert text == Redactor().text(text)


def test_iban_is_found_before_words_that_look_like_more_of_it() -> None:
    assert "to [redacted: iban] by tomorrow" == Redactor().text("to DE02120300000000202051 by tomorrow")


@redacts
@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Ref AB12 DE02120300000000202051", "Ref AB12 [redacted: iban]"),
        ("DE02120300000000202051 GB82WEST12345698765432", "[redacted: iban] [redacted: iban]"),
        ("4111 1111 1111 1111 12/27 123", "[redacted: card] 12/27 123"),
        ("4111111111111111 123", "[redacted: card] 123"),
        ("pay 1 4111 1111 1111 1111", "pay 1 [redacted: card]"),
        (f"session-cookie.value.{JWT}", "session-cookie.value.[redacted: jwt]"),
        ("call 0049 30 1234567 202", "call [redacted: phone]"),
    ],
)
def test_what_stands_beside_it_does_not_hide_it(text: str, shown: str) -> None:
    assert shown == Redactor().text(text)


@redacts
def test_values_are_redacted_at_any_depth_with_their_keys_and_numbers() -> None:
    value = {"a": ["ann@bank.test", 4111111111111111, 7, True, None, 1.5], "ann@bank.test": {"b": ("ok",)}}
    assert {
        "a": ["[redacted: email]", "[redacted: card]", 7, True, None, 1.5], "[redacted: email]": {"b": ["ok"]}
    } == Redactor().value(value)  # fmt: skip


@redacts
@pytest.mark.parametrize("name", ["password", "API_Key", "client-secret", "Set-Cookie", "employee"])
def test_members_whose_names_say_that_they_are_secret_go_as_a_whole(name: str) -> None:
    redactor = Redactor(members=["employee"])
    assert {"a": [{name: "[redacted: secret]"}]} == redactor.value({"a": [{name: {"x": "anything"}}]})
    assert "[redacted: secret]" == redactor.member(name, "anything")


def test_users_patterns_come_beside_the_named_ones() -> None:
    own: list[str | Pattern] = [*NAMED, literal("project", "Blue Heron"), expression("ticket", r"TCK-\d+")]
    redactor = Redactor(own)
    assert redactor.names[-2:] == ("project", "ticket")
    assert "[redacted: project]: [redacted: ticket] of [redacted: email]" == redactor.text(
        "BLUE heron: TCK-12 of a@b.de"
    )


@redacts
def test_expression_of_a_user_cannot_be_slow() -> None:
    slow, began = Redactor([expression("slow", r"(a+)+$")]), time.process_time()
    slow.text("a" * 100_000 + "!")
    assert time.process_time() - began < 5


@pytest.mark.parametrize("name", [*NAMED, "all"])
def test_named_patterns_are_not_slow_on_text_made_to_slow_them(name: str) -> None:
    redactor = Redactor() if name == "all" else Redactor([name])
    for piece in (
        "a",
        "ey",
        "eyJ.",
        "1 ",
        "1-",
        "a@",
        "a.",
        "eyJ",
        "eyJaaaaaaaa.",
        "-----BEGIN A-----",
        "bearer ",
        "DE02 1",
        "+1 (",
        "DE02",
        "AB12 ",
        "4111 1111 1111 1112 ",
        "aaaaaaaaaaa.aaaa.",
    ):
        text, began = piece * (MAX_TEXT // len(piece)), time.process_time()
        redactor.text(text)
        assert time.process_time() - began < 3, piece


def test_without_re2_an_expression_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "re2", None)
    with pytest.raises(ConfigurationError, match=r"ticket.*install agentguard\[re2\]"):
        expression("ticket", r"TCK-\d+")
    assert "[redacted: project]" == Redactor([literal("project", "Heron")]).text("heron")


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: Redactor(["iabn"]), "no pattern is called 'iabn'"),
        (lambda: Redactor(["iban", literal("iban", "abc")]), "one name"),
        (lambda: literal("x", "ab"), "3 to 1000"),
        (lambda: literal("x"), "3 to 1000"),
        (lambda: literal("No Name", "abc"), "no name for a pattern"),
        (lambda: expression("x", "a*"), "empty text"),
        (lambda: expression("x", r"(a)\1"), "RE2 refuses"),
        (lambda: expression("x", "a" * 1001), "1 to 1000"),
    ],
)
def test_mistakes_are_said_when_it_is_made(make: Any, why: str) -> None:
    with pytest.raises(ConfigurationError, match=why):
        make()


@redacts
def test_what_cannot_be_searched_goes_as_a_whole() -> None:
    def failing(text: str) -> Any:
        raise RuntimeError(text)

    nested: Any = []
    nested.append(nested)
    assert "[redacted: broken]" == Redactor([Pattern("broken", failing)]).text("anything")
    assert "[redacted: too long]" == Redactor().text("x" * (MAX_TEXT + 1))
    assert "[redacted: a bytes]" == Redactor().value(b"ann@bank.test")
    assert {"a": "[redacted: a object]"} == Redactor().value({"a": object()})
    assert "[redacted: a dict]" == Redactor().value({1: "x"})
    assert "too large" in str(Redactor().value(nested))


@given(st.text())
def test_redacting_again_changes_nothing(text: str) -> None:
    redactor = Redactor()
    once = redactor.text(text)
    assert once == redactor.text(once)


@given(st.integers(min_value=10**11, max_value=10**17))
def test_one_digit_in_ten_makes_a_card_number_and_a_wrong_one_none(number: int) -> None:
    assert 1 == sum(luhn(f"{number}{digit}") for digit in range(10)) or len(set(str(number))) == 1


@given(st.from_regex(r"[A-Z0-9]{11,30}", fullmatch=True))
def test_check_digits_of_an_iban_are_those_of_iso_7064(account: str) -> None:
    checks = [f"{check:02}" for check in range(2, 99) if iban(f"DE{check:02}{account}")]
    assert 1 == len(checks)


@redacts
def test_members_whose_names_show_alike_are_all_kept() -> None:
    cards = ["4111111111111111", "5500005555555559", "340000000000009"]
    value = {cards[0]: 1, "[redacted: card] (2)": 2, cards[1]: 3, cards[2]: 4}
    shown = Redactor(["card"]).value(value)
    assert list(shown.values()) == [1, 2, 3, 4]
    assert next(iter(shown)) == "[redacted: card]"
    assert not [card for card in cards if card in str(shown)]


def test_many_members_that_show_alike_are_soon_told_apart() -> None:
    numbers = (f"{n:015}" for n in range(200_000))
    value = dict.fromkeys(found for n in numbers if luhn(found := f"4{n}"))
    began = time.perf_counter()
    shown = Redactor(["card"]).value(value)
    assert time.perf_counter() - began < 30
    assert len(shown) == len(value)
