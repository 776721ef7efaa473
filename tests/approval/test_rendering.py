"""What a person sees is what the call is: nothing invisible, nothing that moves, and no two arguments alike."""

from __future__ import annotations

import hashlib
import unicodedata
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from agentguard.approval.characters import is_shown, plain, quoted
from agentguard.approval.message import MOST_BYTES as LONGEST_MESSAGE
from agentguard.approval.message import binding_message, message
from agentguard.approval.rendering import MOST_BYTES, rendered, rendered_value
from agentguard.errors import ConfigurationError
from agentguard.model.canonical import Canonical, Digest, digest, same
from agentguard.ports import Origin
from tests.approval.asked import call_of, question

ODD = st.sampled_from(
    list(
        '\u0430a\u0435\u0301\u200b\u202e\u2066\u2028\u00a0\u00ad\ufeff\ue000\ud800\U000e0041\n\r\t\x1b"\\\u05d0\u096b\uff455{}'
    )
)
TEXTS = st.text(st.one_of(ODD, st.characters()), max_size=40)
SCALARS = st.one_of(
    TEXTS, st.none(), st.booleans(), st.decimals(allow_nan=False, allow_infinity=False, places=2),
    st.binary(max_size=4).map(lambda data: Digest(hashlib.sha256(data).hexdigest())),
)  # fmt: skip
VALUES: st.SearchStrategy[Any] = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=5).map(tuple), st.dictionaries(st.text(ODD, max_size=6), inner, max_size=4)
    ),
    max_leaves=12,
)


def allowed(char: str) -> bool:
    """Written apart from the code: what the terminal of whoever approves may be sent."""
    if char == "\n":
        return True
    ignorable = "\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0\u2800"
    category = unicodedata.category(char)
    return (
        category not in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
        and (category != "Zs" or char == " ")
        and unicodedata.bidirectional(char) not in ("R", "AL", "AN", "RLE", "RLO", "LRE", "LRO", "PDF", "BN")
        and char not in ignorable
        and not 0xFE00 <= ord(char) <= 0xFE0F
        and not 0xE0000 <= ord(char) <= 0xE0FFF
    )


@pytest.mark.control("approval shows what runs")
@given(VALUES)
def test_a_value_is_shown_in_characters_that_hide_and_move_nothing(value: Canonical) -> None:
    shown = rendered_value(value)

    assert all(map(allowed, shown)), [hex(ord(char)) for char in shown if not allowed(char)]
    assert len(shown.encode()) <= 6 * 1024


@pytest.mark.control("approval shows what runs")
@given(VALUES, VALUES)
@settings(max_examples=300)
def test_two_different_values_are_never_shown_alike(one: Canonical, other: Canonical) -> None:
    assume(not same(one, other))

    assert rendered_value(one) != rendered_value(other)


@given(st.text(ODD, max_size=12), st.text(ODD, max_size=12))
@settings(max_examples=300)
def test_two_different_odd_texts_are_never_shown_alike(one: str, other: str) -> None:
    assume(one != other)

    assert quoted(one) != quoted(other)


@given(st.dictionaries(st.text(ODD, min_size=1, max_size=5), SCALARS, max_size=4), st.data())
def test_two_different_calls_are_never_shown_alike(arguments: dict[str, Canonical], data: Any) -> None:
    other = data.draw(st.dictionaries(st.text(ODD, min_size=1, max_size=5), SCALARS, max_size=4))
    assume(not same(arguments, other))

    first, second = rendered(call_of(arguments)), rendered(call_of(other))

    assert first != second
    assert all(map(allowed, first))


@given(st.integers(0, 0x10FFFF).map(chr))
@settings(max_examples=2000)
def test_each_character_is_shown_or_escaped_by_its_number(char: str) -> None:
    shown = plain(f"a{char}")

    assert is_shown(char) == (shown == f"a{char}") or char in '"\\'
    assert is_shown(char) <= allowed(char)
    if not is_shown(char) and char not in "\n\r\t":
        assert f"a\\u{{{ord(char):x}}}" == shown


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("acme", '"acme"'),
        (" acme ", '" acme "'),
        ('a "b" \\u{202e}', r'"a \"b\" \\u{202e}"'),
        ("line\nnext\x1b[2K", r'"line\nnext\u{1b}[2K"'),
        ("pay\u202eecila", r'"pay\u{202e}ecila"'),
        ("a\u200bb", r'"a\u{200b}b"'),
        ("50 \u05d0 5", r'"50 \u{5d0} 5"'),
        ("", '""'),
        (Decimal("49.9900"), "49.99"),
        (Decimal("-0.0"), "0"),
        ("49.99", '"49.99"'),
        (True, "true"),
        (None, "null"),
        (Digest("ab12"), "bytes sha256:ab12"),
        ((), "[]"),
        ({}, "{}"),
        ({"to": ("a", Decimal(1)), "b": {"c": None}}, '{"to": ["a", 1], "b": {"c": null}}'),
    ],
)
def test_a_value_in_its_plain_form(value: Canonical, expected: str) -> None:
    assert expected == rendered_value(value)


@pytest.mark.control("approval shows what runs")
def test_a_cyrillic_letter_among_latin_ones_is_named() -> None:
    shown = rendered_value("\u0430cme")

    assert '"\u0430cme" (not ASCII, mixed scripts CYRILLIC and LATIN: U+0430 CYRILLIC SMALL LETTER A)' == shown


def test_text_of_another_language_is_shown_and_its_first_letters_named() -> None:
    shown = rendered_value("Überweisung nach Łódź für Señor Ñ")

    assert shown.startswith('"Überweisung nach Łódź für Señor Ñ" (not ASCII: U+00DC LATIN CAPITAL LETTER U WITH')
    assert shown.endswith("3 more)")


def test_two_forms_of_one_letter_are_told_apart() -> None:
    composed, decomposed = rendered_value("é"), rendered_value("e\u0301")

    assert "not in NFC" in decomposed
    assert "not in NFC" not in composed


def test_marks_on_one_letter_are_bounded() -> None:
    shown = rendered_value("Z" + "\u0300" * 200)

    assert 3 == shown.partition("(")[0].count("\u0300")
    assert r"\u{300}\u{300}" in shown


def test_a_mark_never_sits_on_the_quote() -> None:
    assert rendered_value("\u0301x").startswith(r'"\u{301}x"')


def test_a_long_text_is_cut_with_its_length_and_digest() -> None:
    text = "abc" * 2000

    shown = rendered_value(text)

    assert shown.startswith('"abcabc')
    assert shown.endswith(f'..." (6,000 characters, sha256:{hashlib.sha256(text.encode()).hexdigest()})')
    assert len(shown) < 400


def test_long_values_that_differ_at_their_end_are_told_apart() -> None:
    long = "x" * 10_000
    assert rendered_value(long + "a") != rendered_value(long + "b")
    assert rendered_value((long,) * 50) != rendered_value((*(long,) * 49, long + "b"))
    assert rendered_value(tuple(map(Decimal, range(9999)))) != rendered_value(tuple(map(Decimal, range(9998))))
    assert rendered_value(Decimal(10**390 + 1)) != rendered_value(Decimal(10**390))


def test_a_structure_is_indented_where_a_line_is_too_short_for_it() -> None:
    shown = rendered_value({"to": ("ann@bank.test", "bob@bank.test"), "subject": "x" * 70})

    assert '{\n  "to": [\n    "ann@bank.test",\n    "bob@bank.test"\n  ],\n  "subject": "' + "x" * 70 + '"\n}' == shown


def test_depth_is_bounded_with_a_digest() -> None:
    value: Canonical = "deep"
    for _ in range(20):
        value = (value,)
    other: Canonical = "other"
    for _ in range(20):
        other = (other,)

    assert "1 items in all, sha256:" in rendered_value(value)
    assert rendered_value(value) != rendered_value(other)


def test_arguments_stand_by_name_in_the_tools_order_with_defaults_marked_and_secrets_left_out() -> None:
    call = call_of(
        {"zebra": "z", "account": "acme", "pin": "4711", "note": None, "x y\n": Decimal(1)},
        defaults={"note", "pin"},
        secret={"pin"},
    )

    assert "\n".join(
        [
            'zebra: "z"',
            'account: "acme"',
            "pin: (secret, not shown) (default)",
            "note: null (default)",
            r'"x y\n": 1',
        ]
    ) == rendered(call)


def test_a_value_can_not_look_like_the_next_argument() -> None:
    shown = rendered(call_of({"memo": 'x"\namount: 1', "tree": {"a": "x" * 100}, "amount": Decimal(900)}))

    names = [line.partition(":")[0] for line in shown.split("\n") if not line.startswith(" ")]
    assert ["memo", "tree", "amount"] == names


def test_all_arguments_together_are_bounded_and_what_is_left_out_is_said() -> None:
    arguments: dict[str, Canonical] = {f"a{number}": "ü" * 250 for number in range(100)}
    other = {**arguments, "a99": "evil"}

    shown = rendered(call_of(arguments))

    assert len(shown.encode()) <= MOST_BYTES
    left = 100 - shown.count("\na") - 1
    names = list(arguments)[-left:]
    assert shown.endswith(
        f"... {left} more arguments, not shown here (sha256:{digest({name: arguments[name] for name in names})})"
    )
    assert shown != rendered(call_of(other))


def test_what_is_left_out_gives_no_digest_of_a_secret() -> None:
    arguments: dict[str, Canonical] = {**{f"a{number}": "x" * 250 for number in range(100)}, "pin": "1"}
    other = {**arguments, "pin": "2"}

    assert rendered(call_of(arguments, secret={"pin"})) == rendered(call_of(other, secret={"pin"}))


def test_the_largest_value_is_shown_without_walking_through_it() -> None:
    many: Canonical = tuple("x" * 100 for _ in range(9000))

    shown = rendered_value({"a": many, "b": many})

    assert len(shown.encode()) <= 2300


def test_the_message_says_who_what_why_where_from_and_until_when() -> None:
    origin = Origin("account", "tickets.read", "customer", ("acme", "evil\u202e"))

    shown = message(question(origins=(origin,), expires_at=1_800_000_000.0))

    assert shown.splitlines() == [
        "Approve this call, once, with exactly these arguments?",
        "who:       user:alice > support-bot > researcher",
        "purpose:   Refund ticket 4711",
        "tool:      refund.create",
        "step:      refund",
        "arguments:",
        '    account: "acme"',
        "    amount: 49.99",
        "origin:    account has to stand in tickets.read, customer; there stand:",
        '    "acme"',
        r'    "evil\u{202e}"',
        "owner:     ann@bank.test",
        "policy:    v7",
        "asked:     an operator",
        "until:     2027-01-15 08:00:00 UTC",
        "code:      1a2b3c4d",
    ]


@given(TEXTS, TEXTS, TEXTS)
def test_no_field_of_a_question_begins_a_line_of_the_message(arguments: str, purpose: str, name: str) -> None:
    origin = Origin(name, name, name, (name, purpose))
    shown = message(
        question(arguments=arguments, purpose=purpose, owner=name, policy=name, step=name, origins=(origin,))
    )

    ours = ("Approve", "who:", "purpose:", "tool:", "step:", "arguments:", "origin:", "owner:", "policy:", "asked:",
            "until:", "code:", "    ")  # fmt: skip
    assert all(line.startswith(ours) for line in shown.splitlines())
    assert all(map(allowed, shown))


def test_the_message_is_bounded() -> None:
    origins = tuple(Origin("a" * 300, "b" * 300, "c" * 300, ("ü" * 999,) * 30) for _ in range(40))

    for fields in (
        {"arguments": "x" * 10**6},
        {"arguments": "\n" * 10**6},
        {"origins": origins},
        {"chain": "é" * 10**5},
    ):
        assert len(message(question(**fields)).encode()) <= LONGEST_MESSAGE


@pytest.mark.parametrize("expires_at", [0.0, float("nan"), float("inf"), 1e300, -5.0])
def test_an_end_that_is_no_time_is_not_shown_as_one(expires_at: float) -> None:
    assert "until:     not said" in message(question(expires_at=expires_at))


def test_the_binding_message_is_tool_and_code() -> None:
    assert "refund.create-1a2b3c4d" == binding_message(question())


@given(TEXTS, st.integers(12, 64))
def test_the_binding_message_is_short_ascii_and_keeps_its_code(tool: str, longest: int) -> None:
    shown = binding_message(question(tool=tool), longest=longest)

    assert len(shown) <= longest
    assert shown.endswith("1a2b3c4d")
    assert shown.isascii()
    assert set(shown) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 -._")


@pytest.mark.parametrize("longest", [0, 11, 65])
def test_a_binding_message_has_room_for_its_code(longest: int) -> None:
    with pytest.raises(ConfigurationError, match="from 12 to 64"):
        binding_message(question(), longest=longest)
