"""The quick yes: it never says yes where a judge does not hold, and says it wherever all of them do."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentguard.intent import (
    Admitted,
    Constraint,
    Facts,
    Intent,
    any_,
    at_most,
    between,
    compile_intent,
    in_,
    in_set,
    is_,
    prefix,
    step,
)
from agentguard.intent.references import InSet
from agentguard.intent.sure import Sure, sure_of
from agentguard.intent.values import In
from agentguard.model.call import ToolCall, ToolSpec
from tests.intent.calls import call_of, spec_of
from tests.intent.test_properties import SAID, calls, intents

sure_yes = pytest.mark.control("a quick yes is a yes of every level")
TOOL = spec_of("pay", defaults={"currency": "eur", "urgent": False, "note": None, "days": 5})


def levels_sure(spec: ToolSpec, *intents: Intent) -> Sure | None:
    """The test of a chain; None where one of them does not say what admits the tool in one step, or a pattern."""
    levels = []
    for intent in intents:
        rules = compile_intent(intent).rules
        steps = rules.steps.get(spec.name, ())
        if len(steps) > 1 or (not steps and not rules.reads(spec)):
            return None
        levels.append((rules, steps[0] if steps else None))
    return sure_of(levels, spec)


def judged(call: ToolCall, facts: Facts, *intents: Intent) -> bool:
    """Whether every level admits the call, whatever it would charge."""
    for intent in intents:
        rules = compile_intent(intent).rules
        for compiled in rules.steps.get(call.spec.name, ()):
            if compiled.judge(call, facts).value != "hold":
                return False
        if not isinstance(compile_intent(intent).check(call, facts), Admitted):
            return False
    return True


@sure_yes
@pytest.mark.slow
@given(st.lists(intents(), min_size=1, max_size=3), calls(), st.sampled_from([(), ("pii",)]))
def test_quick_yes_is_a_yes_of_every_intent(chain: list[Intent], call: ToolCall, seen: tuple[str, ...]) -> None:
    facts, sure = Facts(frozenset(seen)), levels_sure(call.spec, *chain)

    if sure is not None and sure(call, facts):
        for intent in chain:
            step_of = compile_intent(intent).rules.steps.get(call.spec.name)
            if step_of is None or isinstance(step_of[0].admits(call), Admitted):
                assert isinstance(compile_intent(intent).check(call, facts), Admitted)


@sure_yes
@pytest.mark.slow
@given(st.lists(st.dictionaries(st.sampled_from(["a", "b", "c"]), SAID, max_size=3), min_size=1, max_size=2), calls())
def test_quick_yes_and_the_judges_are_one(chain: list[dict[str, Constraint]], call: ToolCall) -> None:
    said = [Intent("p", step(call.spec.name, **args)) for args in chain]
    sure = levels_sure(call.spec, *said)

    assert sure is not None
    assert sure(call, Facts()) == judged(call, Facts(), *said)


@sure_yes
@pytest.mark.parametrize(
    ("args", "given", "holds"),
    [
        ({"account": "acme"}, {"account": "acme"}, True),
        ({"account": "acme"}, {"account": "evil"}, False),
        ({"account": "acme"}, {}, False),
        ({"account": "acme"}, {"account": "acme", "other": 1}, False),
        ({"account": "acme"}, {"account": "acme", "currency": "usd"}, False),
        ({"account": "acme"}, {"account": "acme", "urgent": True}, False),
        ({"account": "acme"}, {"account": "acme", "note": "x"}, False),
        ({"account": "acme"}, {"account": "acme", "days": "5"}, False),
        ({"account": "acme"}, {"account": "acme", "days": 5, "currency": "eur"}, True),
        ({"account": between(1, 3)}, {"account": 0}, False),
        ({"account": between(1, 3)}, {"account": 1}, True),
        ({"account": between(1, 3)}, {"account": 3}, True),
        ({"account": between(1, 3)}, {"account": 4}, False),
        ({"account": between(1, 3)}, {"account": "2"}, False),
        ({"account": between(1, 3)}, {"account": True}, False),
        ({"account": 1}, {"account": True}, False),
        ({"account": True}, {"account": 1}, False),
        ({"account": True}, {"account": True}, True),
        ({"account": in_("a", 1, None)}, {"account": None}, True),
        ({"account": in_("a", 1, None)}, {"account": False}, False),
        ({"account": prefix("a")}, {"account": "acme"}, True),
        ({"account": prefix("a")}, {"account": "evil"}, False),
        ({"account": in_set("people")}, {"account": "ann"}, True),
        ({"account": in_set("people")}, {"account": "eve"}, False),
        ({"account": is_("small")}, {"account": 10}, True),
        ({"account": is_("small")}, {"account": 11}, False),
        ({"account": is_("short")}, {"account": "ab"}, True),
        ({"account": is_("short")}, {"account": "b"}, False),
        ({"account": In(("acme",), fold=True)}, {"account": "ACME"}, True),
        ({"account": In(("acme",), fold=True)}, {"account": "evil"}, False),
        ({"account": InSet("people", fold=True)}, {"account": "ANN"}, True),
        ({"account": any_}, {"account": ["anything"]}, True),
        ({"account": in_("a") | in_("b")}, {"account": "b"}, True),
        ({"account": in_("a") | in_("b")}, {"account": "c"}, False),
    ],
)
def test_what_a_step_says_is_said_quickly_too(args: dict[str, Any], given: dict[str, Any], holds: bool) -> None:
    define = {"small": at_most(10), "short": in_("ab", "b") & prefix("a")}
    intent = Intent("p", step("pay", **args), sets={"people": ["ann", "bo"]}, define=define).resolve()
    sure, call = levels_sure(TOOL, intent), call_of(TOOL, **given)

    assert sure is not None
    assert sure(call, Facts()) is holds
    assert judged(call, Facts(), intent) is holds


@sure_yes
def test_every_level_counts() -> None:
    wide, narrow = Intent("p", step("pay", a=between(1, 100))), Intent("p", step("pay", a=between(50, 500)))
    spec = spec_of("pay")
    sure = levels_sure(spec, wide, narrow)

    assert sure is not None
    assert [sure(call_of(spec, a=number), Facts()) for number in (49, 50, 100, 101)] == [False, True, True, False]


@sure_yes
def test_levels_that_want_different_values_admit_none() -> None:
    spec = spec_of("pay")
    sure = levels_sure(spec, Intent("p", step("pay", a="x")), Intent("p", step("pay", a=in_("y", "z"))))
    mixed = levels_sure(spec, Intent("p", step("pay", a=1)), Intent("p", step("pay", a=True)))

    assert sure is not None
    assert mixed is not None
    assert not any(sure(call_of(spec, a=text), Facts()) for text in "xyz")
    assert not any(mixed(call_of(spec, a=value), Facts()) for value in (1, True))


@sure_yes
def test_argument_that_one_level_does_not_mention_is_left_out() -> None:
    spec = spec_of("pay")
    sure = levels_sure(spec, Intent("p", step("pay", a="x", b=any_)), Intent("p", step("pay", a="x")))

    assert sure is not None
    assert sure(call_of(spec, a="x"), Facts())
    assert not sure(call_of(spec, a="x", b=1), Facts())


@sure_yes
def test_forbid_and_what_holds_everywhere_stand_beside_the_step() -> None:
    spec = spec_of("mail.send", tags=frozenset({"egress"}))
    intent = Intent(
        "p", step("mail.send", to=any_), forbid=[{"tags": ["egress"], "seen": ["pii"]}], everywhere={"to": "ann"}
    )
    sure = levels_sure(spec, intent)

    assert sure is not None
    assert sure(call_of(spec, to="ann"), Facts())
    assert sure(call_of(spec), Facts())
    assert not sure(call_of(spec, to="eve"), Facts())
    assert not sure(call_of(spec, to="ann"), Facts(frozenset({"pii"})))


@sure_yes
def test_null_may_stand_for_an_empty_default() -> None:
    spec = spec_of("pay", defaults={"tags": [], "note": None}, null_is_empty=frozenset({"tags", "note"}))
    sure = levels_sure(spec, Intent("p", step("pay")))

    assert sure is not None
    assert sure(call_of(spec, tags=None, note=[]), Facts())
    assert not sure(call_of(spec, tags=["x"]), Facts())


def test_bounds_of_any_precision_are_compared_exactly() -> None:
    spec, tight = spec_of("pay"), Decimal("0.1000000000000000000000000000000000001")
    sure = levels_sure(spec, Intent("p", step("pay", a=at_most(tight))))

    assert sure is not None
    assert sure(call_of(spec, a=tight), Facts())
    assert not sure(call_of(spec, a=Decimal("0.1000000000000000000000000000000000002")), Facts())
