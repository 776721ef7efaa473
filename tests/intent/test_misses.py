"""What is said about a refusal: the nearest miss, and what each step says of a call."""

from __future__ import annotations

import pytest

from agentguard.intent import (
    Facts,
    Intent,
    Refused,
    Truth,
    any_,
    at_most,
    compile_intent,
    eq,
    explain,
    step,
    text,
)
from agentguard.model.decision import Reason
from tests.intent.calls import call_of, check, miss, spec_of

REFUND = Intent("Refund ticket 4711", step("refund", account="acme", amount=at_most("50")))


READS = Intent("p", reads=["account.read", "ticket.*"])


def test_refusal_says_what_did_not_hold_but_not_what_was_passed() -> None:
    found = miss(REFUND, call_of("refund", account="evil-account", amount=5))

    assert (found.step, found.argument, found.kind, found.text) == ("refund", "account", "eq", 'account must be "acme"')


def test_refusal_for_an_argument_is_an_argument_violation() -> None:
    verdict = check(REFUND, call_of("refund", account="acme", amount=51))

    assert isinstance(verdict, Refused)
    assert verdict.reason is Reason.ARGUMENT_VIOLATION
    assert verdict.miss.text == "amount must be at most 50"


def test_constraint_on_a_secret_argument_is_not_shown() -> None:
    intent = Intent("p", step("login", pin=eq("4711"), user="ann"))

    found = miss(intent, call_of(spec_of("login", secret=frozenset({"pin"})), pin="0815", user="ann"))

    assert "4711" not in str(found)
    assert "0815" not in str(found)
    assert (found.argument, found.kind) == ("pin", "eq")


def test_value_that_cannot_be_judged_says_so() -> None:
    assert "cannot be judged" in miss(REFUND, call_of("refund", account="acme", amount="50")).text


def test_missing_and_misspelt_arguments_say_so() -> None:
    spec = spec_of("refund", parameters=frozenset({"acount", "amount"}))

    assert miss(REFUND, call_of("refund", amount=5)).text == 'account is missing, and must be "acme"'
    assert "no argument account" in miss(REFUND, call_of(spec, amount=5)).text


def test_nearest_miss_is_the_step_that_got_furthest() -> None:
    intent = Intent("p", step("pay", to="ann", n=1), step("pay", to="bo", n=2).named("second"))

    assert miss(intent, call_of(to="bo", n=3)).step == "second"


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"effect": "write"}, "effect write"),
        ({"tags": frozenset({"egress"})}, "lets data out"),
        ({"data": frozenset({"pii"})}, "exact name"),
    ],
)
def test_denied_read_says_why_the_pattern_did_not_admit_it(fields: dict[str, object], word: str) -> None:
    spec = spec_of("ticket.read", **({"effect": "read"} | fields))  # type: ignore[arg-type]  # a table

    assert word in miss(READS, call_of(spec)).text


def test_explain_tells_for_each_step_what_did_not_hold_first() -> None:
    intent = Intent(
        "p",
        step("pay", to="ann", n=at_most(5)),
        step("pay", to="bo", n=any_),
        step("pay", note=text(), to=any_, n=any_),
    )

    found = explain(compile_intent(intent), call_of(to="bo", n=9), Facts())

    assert [(item.step, item.holds, item.miss.text) for item in found] == [
        ("pay", False, 'to must be "ann"'),
        ("pay-2", True, ""),
        ("pay-3", False, "note is missing, and must be text with no links and no hidden characters"),
    ]
    assert explain(compile_intent(intent), call_of("other"), Facts()) == ()


def test_explain_knows_cannot_tell() -> None:
    (found,) = explain(compile_intent(REFUND), call_of("refund", account="acme", amount="5"), Facts())

    assert (found.truth, found.holds) == (Truth.CANNOT_TELL, False)
