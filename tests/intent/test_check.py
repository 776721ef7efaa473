"""Which step a call uses: forbid, everywhere, steps, reads, deny."""

from __future__ import annotations

from decimal import Decimal

import pytest

from agentguard.intent import (
    Admitted,
    Facts,
    Intent,
    Refused,
    any_,
    at_most,
    compile_intent,
    not_,
    optional,
    prefix,
    step,
)
from agentguard.model.call import ToolCall
from agentguard.model.decision import Reason
from tests.intent.calls import admitted, call_of, check, miss, options, spec_of

REFUND = Intent("Refund ticket 4711", step("refund", account="acme", amount=at_most("50")))


def test_nothing_is_permitted_by_default() -> None:
    verdict = check(Intent("nothing"), call_of(spec_of("account.read", "read")))

    assert isinstance(verdict, Refused)
    assert verdict.reason is Reason.OUTSIDE_INTENT


def test_step_admits_the_call_it_declares() -> None:
    assert options(REFUND, call_of("refund", account="acme", amount=Decimal("49.99"))) == [("refund", "permit")]


def test_argument_that_no_step_mentions_must_be_absent_or_its_default() -> None:
    spec = spec_of("refund", defaults={"note": "", "cc": None}, null_is_empty=frozenset({"cc"}))

    assert admitted(REFUND, call_of(spec, account="acme", amount=5))
    assert admitted(REFUND, call_of(spec, account="acme", amount=5, note=""))
    assert admitted(REFUND, call_of(spec, account="acme", amount=5, cc=[]))
    assert not admitted(REFUND, call_of(spec, account="acme", amount=5, note="hello"))
    assert not admitted(REFUND, call_of(spec, account="acme", amount=5, note=None))
    assert miss(REFUND, call_of(spec, account="acme", amount=5, cc=["x"])).argument == "cc"


def test_unmentioned_argument_of_a_remote_tool_must_be_absent() -> None:
    assert not admitted(REFUND, call_of(spec_of("refund"), account="acme", amount=5, note=None))


def test_constraint_on_a_left_out_argument_is_checked_against_its_default() -> None:
    intent = Intent("p", step("pay", currency="EUR"))

    assert admitted(intent, call_of(spec_of(defaults={"currency": "EUR"})))
    assert not admitted(intent, call_of(spec_of(defaults={"currency": "USD"})))
    assert not admitted(intent, call_of(spec_of()))


def test_default_counts_even_when_the_call_was_bound_without_it() -> None:
    spec = spec_of(defaults={"currency": "USD"})
    bare = ToolCall(id="1", spec=spec, arguments={}, given=frozenset(), digest="")

    assert not admitted(Intent("p", step("pay", currency=optional("EUR") & not_("USD"))), bare)
    assert not admitted(Intent("p", step("pay"), everywhere={"currency": "EUR"}), bare)
    assert not admitted(Intent("p", step("pay"), forbid=[{"args": {"currency": "USD"}}]), bare)


def test_steps_that_permit_are_looked_at_before_those_that_ask() -> None:
    intent = Intent("p", step("pay", n=any_).then_ask().named("big"), step("pay", n=at_most(5)).named("small"))

    assert options(intent, call_of(n=3)) == [("small", "permit"), ("big", "ask")]
    assert options(intent, call_of(n=9)) == [("big", "ask")]


def test_every_step_that_holds_is_an_option_and_none_is_milder_than_the_one_before() -> None:
    intent = Intent("p", step("pay", n=any_), step("pay", n=at_most(5)), step("pay", n=at_most(9)).then_ask())

    assert options(intent, call_of(n=3)) == [("pay", "permit"), ("pay-2", "permit"), ("pay-3", "ask")]


def test_step_that_cannot_tell_denies_although_a_later_one_holds() -> None:
    intent = Intent("p", step("pay", to=prefix("a")), step("pay", to=5))

    assert miss(intent, call_of(to=5)).step == "pay"


def test_step_that_fails_for_another_argument_lets_a_later_one_hold() -> None:
    intent = Intent("p", step("pay", to=prefix("a"), kind="text"), step("pay", to=5, kind="number"))

    assert options(intent, call_of(to=5, kind="number")) == [("pay-2", "permit")]


def test_asking_step_behind_one_that_cannot_tell_is_not_reached() -> None:
    steps = step("pay", n=any_), step("pay", n=prefix("x")).then_ask(), step("pay", n=any_).then_ask()

    assert options(Intent("p", *steps), call_of(n=1)) == [("pay", "permit")]


READS = Intent("p", reads=["account.read", "ticket.*"])


@pytest.mark.parametrize(
    ("name", "fields", "expected"),
    [
        ("account.read", {}, True),
        ("ticket.read", {}, True),
        ("ticket.comment.read", {}, True),
        ("ticket", {}, False),
        ("tickets.read", {}, False),
        ("account.read.all", {}, False),
        ("account.read", {"data": frozenset({"pii"})}, True),
        ("ticket.read", {"data": frozenset({"pii"})}, False),
        ("account.read", {"tags": frozenset({"egress"})}, False),
        ("ticket.read", {"effect": "write"}, False),
        ("account.read", {"effect": "write"}, False),
        ("account.read", {"effect": "destructive"}, False),
    ],
)
def test_reads_admit_reads_without_egress_and_classified_data_by_exact_name(
    name: str, fields: dict[str, object], expected: bool
) -> None:
    spec = spec_of(name, **({"effect": "read"} | fields))  # type: ignore[arg-type]  # a table

    assert admitted(READS, call_of(spec, anything="goes")) is expected


def test_star_reads_everything_but_classified_data() -> None:
    intent = Intent("p", reads=["*"])

    assert admitted(intent, call_of(spec_of("a.b", "read")))
    assert not admitted(intent, call_of(spec_of("a.b", "read", data=frozenset({"pii"}))))


def test_read_says_reads_and_costs_nothing() -> None:
    verdict = check(READS, call_of(spec_of("account.read", "read")))

    assert isinstance(verdict, Admitted)
    assert [(option.step, option.charges) for option in verdict.options] == [("reads", ())]


def test_step_that_names_a_read_tool_closes_reads_for_it() -> None:
    intent = Intent("p", step("account.read", id="7"), reads=["*", "account.read"])

    assert admitted(intent, call_of(spec_of("account.read", "read"), id="7"))
    assert not admitted(intent, call_of(spec_of("account.read", "read"), id="8"))


def test_everywhere_holds_for_reads_too_and_only_where_the_argument_exists() -> None:
    intent = Intent("p", reads=["*"], everywhere={"user_id": "ann"})
    spec = spec_of("account.read", "read")

    assert admitted(intent, call_of(spec, user_id="ann"))
    assert admitted(intent, call_of(spec))
    assert not admitted(intent, call_of(spec, user_id="bo"))
    assert miss(intent, call_of(spec, user_id="bo")).step == "everywhere"


def test_everywhere_is_checked_against_the_default() -> None:
    intent = Intent("p", reads=["*"], everywhere={"scope": "own"})

    assert not admitted(intent, call_of(spec_of("account.read", "read", defaults={"scope": "all"})))


def test_forbid_wins_over_a_step() -> None:
    intent = Intent("p", step("pay", to=any_), forbid=[{"tool": "pay", "args": {"to": "evil"}}])

    assert admitted(intent, call_of(to="ann"))
    verdict = check(intent, call_of(to="evil"))
    assert isinstance(verdict, Refused)
    assert (verdict.reason, verdict.miss.step) == (Reason.ARGUMENT_VIOLATION, "forbid[0]")


def test_forbid_by_tag_and_class_seen() -> None:
    intent = Intent("p", step("mail.send"), forbid=[{"tags": ["egress"], "seen": ["pii", "health"]}])
    mail = call_of(spec_of("mail.send", tags=frozenset({"egress"})))

    assert admitted(intent, mail)
    assert admitted(intent, mail, seen=["public"])
    assert not admitted(intent, mail, seen=["health"])
    assert admitted(intent, call_of("mail.send"), seen=["pii"])


@pytest.mark.parametrize(
    ("pattern", "denied"), [("mail.send", True), ("mail.*", True), ("*", True), ("mail", False), ("mail.read", False)]
)
def test_forbid_by_tool_pattern(pattern: str, denied: bool) -> None:
    intent = Intent("p", step("mail.send"), step("other"), forbid=[{"tool": pattern}])

    assert admitted(intent, call_of("mail.send")) is not denied
    assert admitted(intent, call_of("other")) is not (pattern == "*")


def test_forbid_does_not_match_a_missing_argument() -> None:
    intent = Intent("p", step("pay"), forbid=[{"args": {"to": not_("ann")}}])

    assert admitted(intent, call_of())


def test_check_never_raises() -> None:
    compiled = compile_intent(REFUND)

    for bad in (None, 5, object()):
        verdict = compiled.check(bad, Facts())  # type: ignore[arg-type]  # what it is about
        assert isinstance(verdict, Refused)
        assert verdict.reason is Reason.ARGUMENT_VIOLATION
        assert "check itself failed" in verdict.miss.text


def test_value_outside_the_canonical_form_is_denied() -> None:
    class Odd:
        def __eq__(self, other: object) -> bool:
            raise RuntimeError("no")

        __hash__ = None  # type: ignore[assignment]  # as odd as can be

    spec = spec_of("refund")
    for odd in (Odd(), 5, 5.0, b"x", {1: 2}, float("nan")):
        call = ToolCall(id="1", spec=spec, arguments={"account": odd, "amount": odd}, given=frozenset(), digest="")  # type: ignore[dict-item]  # what it is about
        assert not admitted(REFUND, call)


def test_compiled_intent_carries_what_a_task_needs_and_is_made_once() -> None:
    intent = Intent("Refund", step("refund"), ttl="10m", agents={"researcher": {"reads": ["account.read"]}})
    compiled = compile_intent(intent)

    assert (compiled.name, compiled.purpose, compiled.ttl) == ("refund", "Refund", 600.0)
    assert (compiled.s256, compiled.source_s256, compiled.intent) == (intent.s256, None, intent)
    assert compiled.agents["researcher"].reads == ("account.read",)
    assert compile_intent(intent) is compiled
    assert compile_intent(intent, ceiling=True) is not compiled
