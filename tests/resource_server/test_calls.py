"""The amount is checked again where the money is: what a token says about a call, held against the request."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import agentguard
from agentguard import Intent, at_most, current_credential, guarded, step
from agentguard.errors import ConfigurationError
from agentguard.intent import any_, in_
from agentguard.resource_server import InsufficientScope, TokenVerifier, VerifiedToken, check_call
from agentguard.resource_server.calls import DETAILS_TYPE
from tests.resource_server.forging import ABSENT, AUDIENCE, NOW, token, verifier

ASK = {"account": "acme", "amount": Decimal("49.90")}


def entry(**changes: Any) -> dict[str, Any]:
    good = {
        "type": DETAILS_TYPE,
        "actions": ["refund.create"],
        "locations": [AUDIENCE],
        "identifier": "account/acme",
        "steps": [{"step": "refund", "args": {"account": {"eq": "acme"}, "amount": {"max": "50"}}}],
    }
    return {name: value for name, value in {**good, **changes}.items() if value is not ABSENT}


def said(*entries: Any, **claims: Any) -> VerifiedToken:
    claims.setdefault("agentguard_resource", "account/acme")
    return verifier().verify(token(authorization_details=list(entries), **claims), NOW)


def check(held: VerifiedToken, arguments: Any = ASK, resource: str = "account/acme", **more: Any) -> None:
    check_call(held, more.pop("action", "refund.create"), resource, arguments, **more)


def refused(held: VerifiedToken, why: str, *args: Any, **more: Any) -> None:
    with pytest.raises(InsufficientScope, match=why) as caught:
        check(held, *args, **more)
    assert (caught.value.status, caught.value.error) == (403, "insufficient_scope")


def test_a_request_within_the_steps_passes() -> None:
    check(said(entry()))
    check(said(entry()), {"account": "acme", "amount": 50})


@pytest.mark.control("RFC 9396: the steps hold at the API")
@pytest.mark.parametrize(
    "arguments",
    [
        {"account": "acme", "amount": Decimal("50.01")},
        {"account": "evil", "amount": 1},
        {"account": "acme", "amount": "49.90"},
        {"account": "acme"},
        {"amount": 1},
        {},
        {"account": "acme", "amount": 1, "to": "evil"},
        {"account": ["acme"], "amount": 1},
        {"account": "acme", "amount": True},
        {"account": "acme", "amount": None},
        {"account": "\u0430cme", "amount": 1},
    ],
)
def test_a_request_beyond_the_steps_is_refused(arguments: Any) -> None:
    refused(said(entry()), "within what the token allows", arguments)


@pytest.mark.control("RFC 9396: exact arguments")
@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"account": "acme", "amount": Decimal("49.91")}, "argument amount is not"),
        ({"account": "acme", "amount": 50}, "argument amount is not"),
        ({"account": "evil", "amount": Decimal("49.9")}, "argument account is not"),
        ({"account": "acme"}, "does not have"),
        ({**ASK, "to": "evil"}, "does not hold the argument to"),
        ({}, "does not have"),
        ({"account": "acme", "amount": True}, "argument amount is not"),
    ],
)
def test_a_request_with_other_arguments_than_the_single_use_token_is_refused(arguments: Any, why: str) -> None:
    exact = said(entry(arguments={"account": "acme", "amount": "49.9"}, arguments_hash="hmac-sha256:00"))

    refused(exact, why, arguments)
    check(exact)
    check(exact, {"account": "acme", "amount": 49.90})


@pytest.mark.control("RFC 9396: exact arguments")
@pytest.mark.parametrize("arguments", [None, [], "x", 1])
def test_arguments_that_are_malformed_cover_nothing(arguments: object) -> None:
    refused(said(entry(arguments=arguments)), "malformed")


@pytest.mark.control("RFC 9396: exact arguments and the steps too")
def test_exact_arguments_do_not_excuse_a_step_that_fails() -> None:
    refused(said(entry(arguments={"account": "acme", "amount": "90"})), "within", {"account": "acme", "amount": 90})


@pytest.mark.control("RFC 9396: action, resource, API")
@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"actions": ["refund.read"]}, "another action"),
        ({"actions": []}, "another action"),
        ({"actions": "refund.create"}, "another action"),
        ({"actions": ABSENT}, "another action"),
        ({"actions": ["refund.*"]}, "another action"),
        ({"actions": ["refund.create", 1]}, "another action"),
        ({"identifier": "account/evil"}, "another resource"),
        ({"identifier": ABSENT}, "another resource"),
        ({"identifier": ["account/acme"]}, "another resource"),
        ({"locations": ["https://other.test"]}, "another API"),
        ({"locations": []}, "another API"),
        ({"locations": AUDIENCE}, "another API"),
        ({"datatypes": ["x"]}, "does not understand"),
        ({"privileges": ["admin"]}, "does not understand"),
        ({"steps": ABSENT}, "cannot be checked"),
        ({"steps": []}, "cannot be told"),
        ({"steps": "x"}, "cannot be told"),
        ({"steps": [{"step": "a", "more": 1}]}, "cannot be told"),
        ({"steps": [{"step": "a", "args": []}]}, "cannot be told"),
        ({"steps": [{"step": "a"}]}, "within"),
        ({"steps": [{"step": "a", "args": {"account": {"unknown": 1}}}]}, "cannot be told"),
        ({"steps": [{"step": "a", "args": {}}] * 100}, "cannot be told"),
    ],
)
def test_an_entry_that_is_about_something_else_covers_nothing(changes: Any, why: str) -> None:
    refused(said(entry(**changes)), why)


@pytest.mark.control("RFC 9396: action, resource, API")
def test_the_resource_of_the_token_counts_beside_the_one_of_the_entry() -> None:
    refused(said(entry(), agentguard_resource="account/other"), "another resource")
    check(said(entry(), agentguard_resource=ABSENT))
    refused(said(entry()), "another resource", resource="account/other")
    refused(said(entry()), "another resource", resource="")


@pytest.mark.control("RFC 9396: no entry, no call")
def test_without_an_entry_for_tools_nothing_is_covered() -> None:
    refused(verifier().verify(token(), NOW), "no authorization_details")
    refused(said({"type": "payment_initiation", "amount": "49.9"}), "no authorization_details")
    refused(said(entry(type="Agentguard_tool_call")), "no authorization_details")


@pytest.mark.control("RFC 9396: no entry, no call")
def test_entries_of_other_types_are_for_other_apis_and_one_that_covers_is_enough() -> None:
    check(said({"type": "openid"}, entry(actions=["account.read"]), entry()))
    refused(said(entry(actions=["account.read"]), entry(identifier="account/evil")), "another")
    refused(said(*[{"type": DETAILS_TYPE}] * 65), "more than 64")


@pytest.mark.control("RFC 9396: every level of the chain")
def test_all_steps_of_one_entry_hold_and_rights_of_two_entries_are_not_mixed() -> None:
    wide = {"step": "wide", "args": {"account": "any", "amount": {"max": "1000"}}}
    narrow = entry()["steps"][0]

    refused(said(entry(steps=[wide, narrow])), "within", {"account": "acme", "amount": 51})
    refused(said(entry(steps=[narrow, wide])), "within", {"account": "acme", "amount": 51})
    check(said(entry(steps=[wide, narrow])))
    other = entry(identifier="account/other", steps=[wide])
    refused(said(entry(), other, agentguard_resource=ABSENT), "within", {"account": "acme", "amount": 51})


@pytest.mark.control("RFC 9396: cannot tell refuses")
@pytest.mark.parametrize(
    "kind",
    [
        {"from": {"tool": "account.read", "field": "iban"}},
        {"said": True},
        {"bind": "customer"},
        {"set": "payees"},
        {"set": "payees", "fold": "case"},
        {"is": "safe"},
        {"not": {"bind": "customer"}},
        {"optional": {"set": "payees"}},
        {"bind": "customer", "prefix": "ac"},
        {"same_as": "payer"},
        [{"eq": "evil"}, {"set": "payees"}],
    ],
)
def test_what_only_the_task_knows_refuses_unless_the_very_values_are_in_the_token(kind: Any) -> None:
    steps = [{"step": "refund", "args": {"account": kind, "amount": {"max": "50"}}}]

    refused(said(entry(steps=steps)), "cannot be told")
    check(said(entry(steps=steps, arguments={"account": "acme", "amount": "49.9"})))
    refused(said(entry(steps=steps, arguments={"account": "acme", "amount": "49.9"})), "account is not",
            {**ASK, "account": "evil"})  # fmt: skip


def test_case_is_ignored_beside_a_set_that_only_the_task_knows() -> None:
    team = {"in": ["ann", "bo"], "fold": "case", "set": "team"}
    within = [{"step": "a", "args": {"to": team}}]
    without = [{"step": "a", "args": {"to": {"not": team}}}]

    check(said(entry(steps=within, arguments={"to": "ANN"})), {"to": "ANN"})
    refused(said(entry(steps=within, arguments={"to": "EVE"})), "within", {"to": "EVE"})
    refused(said(entry(steps=without)), "cannot be told", {"to": "ANN"})
    refused(said(entry(steps=[{"step": "a", "args": {"to": {"set": "team", "fold": "case"}}}])), "be told", {"to": "x"})


def test_one_alternative_that_holds_is_enough_and_one_constraint_that_fails_decides() -> None:
    either = [{"eq": "acme"}, {"set": "payees"}]
    check(said(entry(steps=[{"step": "a", "args": {"account": either, "amount": {"max": "50"}}}])))
    both = {"set": "payees", "prefix": "zz"}
    refused(said(entry(steps=[{"step": "a", "args": {"account": both, "amount": {"max": "50"}}}])), "within")


@pytest.mark.parametrize(
    ("kind", "value", "holds"),
    [
        ({"eq": "50"}, 50, True),
        ({"eq": "50"}, "50", True),
        ({"eq": "50"}, Decimal("50.00"), True),
        ({"eq": "50"}, 51, False),
        ({"eq": "50.00"}, Decimal(50), False),
        ({"in": ["1", "2"]}, 2, True),
        ({"in": ["1", "2"]}, 3, False),
        ({"not": {"eq": "50"}}, 50, False),
        ({"not": {"eq": "50"}}, "50", False),
        ({"eq": ["1", {"a": "2"}]}, [1, {"a": 2}], True),
        ({"each": {"in": ["1", "2"]}}, [1, 2, "2"], True),
        ({"items": {"min": "1", "max": "2"}}, [1, 2], True),
        ({"items": {"min": "1", "max": "2"}}, [1, 2, 3], False),
        ({"text": {"max": "3"}}, "abc", True),
        ({"text": {"max": "3"}}, "abcd", False),
        ({"keys": {"a": {"eq": "1"}}}, {"a": 1}, True),
        ({"keys": {"a": {"eq": "1"}}}, {"a": 1, "b": 2}, False),
        ({"eq": {"from": "x", "set": "1"}}, {"from": "x", "set": 1}, True),
        ({"eq": {"zip": "10115", "count": "2"}}, {"zip": "10115", "count": 2}, True),
        ({"eq": {"zip": "10115", "count": "2"}}, {"zip": "10115", "count": 3}, False),
        ({"not": {"eq": {"zip": "10115", "count": "2"}}}, {"zip": "10115", "count": 2}, False),
        ({"in": [["1", "2"], "x"]}, ["1", 2], True),
        ({"in": [["1", "2"], "x"]}, ["1", True], False),
        ({"in": ["A", "B"], "fold": "case"}, "a", True),
        ({"template": {"text": "pay {n}", "n": {"max": "5"}}}, "pay 4", True),
        ({"eq": True}, True, True),
        ({"eq": True}, 1, False),
        ({"optional": {"eq": "1"}}, 1, True),
        ("any", [1, "x"], True),
        ("absent", 1, False),
    ],
)
def test_numbers_that_a_token_writes_as_text_are_numbers(kind: Any, value: object, holds: bool) -> None:
    held = said(entry(steps=[{"step": "a", "args": {"x": kind}}]))

    check(held, {"x": value}) if holds else refused(held, ".", {"x": value})


def test_an_argument_that_is_no_part_of_the_request_is_passed_over_only_by_name() -> None:
    steps = [{"step": "a", "args": {"account": {"eq": "acme"}, "amount": "any", "note": {"eq": "x"}}}]
    exact = entry(steps=steps, arguments={"account": "acme", "amount": "49.9", "note": "x"})

    for held in (said(entry(steps=steps)), said(exact)):
        refused(held, ".")
        check(held, unchecked=["note"])
    refused(said(exact), ".", {**ASK, "account": "evil"}, unchecked=["note"])


def test_a_default_that_was_left_out_is_compared_as_the_value() -> None:
    steps = [{"step": "a", "args": {"account": {"eq": "acme"}, "amount": "any"}}]
    held = said(entry(steps=steps))

    refused(held, "within", {**ASK, "note": ""})
    check(held, {**ASK, "note": ""}, defaults={"note": ""})
    check(held, defaults={"note": ""})
    refused(held, "within", {**ASK, "note": "x"}, defaults={"note": ""})
    exact = said(entry(steps=steps, arguments={"account": "acme", "amount": "49.9", "note": ""}))
    check(exact, defaults={"note": ""})
    refused(exact, "does not have")


@pytest.mark.parametrize("value", [float("nan"), {1, 2}, b"x", object(), "x" * 2_000_000])
def test_an_argument_without_a_canonical_form_is_refused(value: object) -> None:
    refused(said(entry()), "cannot be compared", {"account": "acme", "amount": value})


def test_the_text_of_a_refusal_holds_no_value() -> None:
    exact = said(entry(arguments={"account": "canary-of-the-token", "amount": "1"}))
    with pytest.raises(InsufficientScope) as caught:
        check(exact, {"account": "canary-of-the-request", "amount": 1})
    assert "canary" not in str(caught.value)


def test_mistakes_of_the_api_are_told() -> None:
    with pytest.raises(ConfigurationError, match="tool's name"):
        check_call(said(entry()), "")
    with pytest.raises(ConfigurationError, match="its name must"):
        check_call(said(entry()), "Refund Create")
    with pytest.raises(ConfigurationError, match="list of arguments"):
        check(said(entry()), unchecked="note")


@guarded("refund.create", audience=AUDIENCE, resource="account/{account}", lease="call")
def refund(account: str, amount: Decimal, note: str = "") -> None:
    held = ACCEPTS[0].verify(current_credential().token)
    for sent, status in ((amount, 200), (amount + 1, 403), (str(amount), 200 if str(amount) != "3.00" else 403)):
        arguments = {"account": account, "amount": sent, "note": note}
        try:
            check_call(held, "refund.create", f"account/{account}", arguments)
        except InsufficientScope as error:
            assert status == error.status, (sent, error)
        else:
            assert status == 200, sent


ACCEPTS: list[TokenVerifier] = []


@pytest.mark.parametrize("amount", [at_most("50"), in_(Decimal("49.9"), Decimal(3)), any_])
@pytest.mark.parametrize("value", ["49.9", "3", "3.00"])
def test_tokens_of_the_guard_cover_the_call_they_are_for_and_no_other_amount(amount: Any, value: str) -> None:
    intent = Intent("Refund", step("refund.create", account="acme", amount=amount, note=any_))
    with agentguard.local() as guard:
        ACCEPTS[:] = [TokenVerifier(guard.keys, "agentguard", AUDIENCE)]
        with guard.task("support-bot", on_behalf_of="alice", intent=intent):
            refund("acme", Decimal(value))


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=4) | st.sampled_from(["eq", "said", "50"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(["eq", "in", "min", "max", "each", "keys", "not", "set", "from", "said", "text", "step", "args",
                         "x", "account"]), inner, max_size=3),
    max_leaves=12,
)  # fmt: skip


@given(steps=_JSON, arguments=_JSON, value=st.integers() | st.text(max_size=5))
def test_case_71_whatever_a_token_says_about_calls_only_a_refusal_comes_of_it(
    steps: Any, arguments: Any, value: Any
) -> None:
    held = said(entry(steps=steps, arguments=arguments))
    try:
        check(held, {"x": value})
    except InsufficientScope:
        pass


@given(amount=st.decimals(0, 100, places=2), limit=st.integers(0, 100))
def test_a_limit_holds_exactly_up_to_itself(amount: Decimal, limit: int) -> None:
    held = said(entry(steps=[{"step": "a", "args": {"account": "any", "amount": {"max": str(limit)}}}]))
    try:
        check(held, {"account": "acme", "amount": amount})
    except InsufficientScope:
        assert amount > limit
    else:
        assert amount <= limit
