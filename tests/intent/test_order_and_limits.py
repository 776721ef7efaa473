"""Order, shared budgets, limits, the fallback that asks, and what follows a call."""

from __future__ import annotations

from typing import Any

import pytest

from agentguard.errors import ConfigurationError
from agentguard.intent import (
    Admitted,
    Example,
    Facts,
    Intent,
    Limit,
    Limits,
    Refused,
    any_,
    compile_intent,
    eq,
    explain,
    prefix,
    step,
)
from agentguard.model.decision import Reason
from agentguard.ports import Charge
from tests.intent.calls import admitted, call_of, charges, check, miss, options, spec_of


def happened(intent: Intent, call: Any, *steps: str) -> bool:
    verdict = compile_intent(intent).check(call, Facts(happened=frozenset(steps)))
    return isinstance(verdict, Admitted)


def test_step_is_no_option_before_the_steps_it_waits_for() -> None:
    intent = Intent("p", step("pay", n=any_).named("one"), step("send", to="ann").after("one"))
    call = call_of("send", to="ann")

    assert not happened(intent, call)
    assert not happened(intent, call, "send")
    assert happened(intent, call, "one")
    assert miss(intent, call).kind == "after"
    assert "which has not happened" in miss(intent, call).text


def test_step_that_waits_for_two_needs_both() -> None:
    steps = (step("a").named("a"), step("b").named("b"), step("send").after("a", "b"))

    assert not happened(Intent("p", *steps), call_of("send"), "a")
    assert happened(Intent("p", *steps), call_of("send"), "a", "b")


def test_step_that_waits_is_not_looked_at_so_it_does_not_block_the_next() -> None:
    intent = Intent(
        "p", step("a").named("a"), step("send", to=prefix("x")).after("a"), step("send", to=any_).named("open")
    )

    assert options(intent, call_of("send", to=5)) == [("open", "permit")]
    assert not happened(intent, call_of("send", to=5), "a")


def test_explanation_names_the_step_that_has_not_happened() -> None:
    intent = Intent("p", step("a").named("a"), step("send").after("a"))

    (found,) = explain(compile_intent(intent), call_of("send"), Facts())

    assert not found.holds
    assert "after a" in found.miss.text


def test_shared_budget_is_one_counter() -> None:
    first = step("pay", n=any_).named("a").times(2).total(n=100).budget("money")
    second = step("send", n=any_).named("b").times(2).total(n=100).budget("money")
    intent = Intent("p", first, second)

    assert charges(intent, call_of(n=5)) == {
        "budget:money#times": ("2", "1"),
        "budget:money#total.n": ("100", "5"),
    }
    assert charges(intent, call_of("send", n=7)).keys() == charges(intent, call_of(n=5)).keys()


def test_shared_budget_with_two_limits_is_a_mistake() -> None:
    with pytest.raises(ConfigurationError, match="another limit before"):
        Intent("p", step("a").times(1).budget("x"), step("b").times(2).budget("x"))


def test_distinct_counts_each_value_once() -> None:
    intent = Intent("p", step("pay", to=any_, n=any_).times(9).distinct("to"))

    found = charges(intent, call_of(to="ann", n=1))

    assert found == {"pay#times": ("9", "1"), 'pay#distinct[to="ann"]': ("1", "1")}
    assert charges(intent, call_of(to="bo", n=1)).keys() != found.keys()
    assert charges(intent, call_of(to="ann", n=2)).keys() == found.keys()


def test_distinct_without_times_keeps_the_default_of_one_call() -> None:
    assert charges(Intent("p", step("pay", to=any_).distinct("to")), call_of(to="a")) == {
        "pay#times": ("1", "1"),
        'pay#distinct[to="a"]': ("1", "1"),
    }


def test_value_that_cannot_be_compared_is_not_counted_as_distinct() -> None:
    intent = Intent("p", step("pay", to=any_).distinct("to"))

    assert miss(intent, call_of(to="cafe\u0301")).kind == "distinct"


def test_limits_are_charges_on_every_option() -> None:
    intent = Intent(
        "p", step("pay", n=any_), step("send", n=any_).total(n=5), reads=["mail.read"],
        otherwise={"tools": ["crm.*"], "calls": 3}, limits={"calls": 50, "rate": "10/m", "denials": 5, "asks": 2},
    )  # fmt: skip
    both = {"limits#calls": ("50", "1"), "limits#rate": ("10", "1")}

    assert charges(intent, call_of(n=1)) == {"pay#times": ("1", "1"), **both}
    assert charges(intent, call_of("send", n=1)) == {"send#times": ("1", "1"), "send#total.n": ("5", "1"), **both}
    assert charges(intent, call_of(spec_of("mail.read", "read"))) == both
    assert charges(intent, call_of("crm.add")) == {"otherwise#calls": ("3", "1"), **both}
    verdict = check(intent, call_of(n=1))
    assert isinstance(verdict, Admitted)
    assert Charge("limits#rate", "10", per=60.0) in verdict.options[0].charges
    assert compile_intent(intent).limits == Limits(Limit(50), Limit(5), Limit(2), Limit(10, 60.0))
    assert compile_intent(Intent("p")).limits == Limits()


def test_otherwise_asks_for_what_no_step_names_and_no_read_admits() -> None:
    intent = Intent(
        "p", step("crm.add", n=1), reads=["crm.find"], otherwise={"then": "ask", "tools": ["crm.*"]}
    )  # fmt: skip

    assert options(intent, call_of("crm.note", x=1)) == [("otherwise", "ask")]
    assert options(intent, call_of(spec_of("crm.find", "read"))) == [("reads", "permit")]
    assert options(intent, call_of("crm.add", n=1)) == [("crm.add", "permit")]
    assert not admitted(intent, call_of("crm.add", n=2))
    assert not admitted(intent, call_of("pay"))
    assert not admitted(intent, call_of(spec_of("crm.drop", "destructive")))


def test_otherwise_asks_only_within_everywhere_and_forbid() -> None:
    intent = Intent("p", otherwise={"tools": ["*"]}, everywhere={"u": "ann"}, forbid=[{"tags": ["egress"]}])

    assert admitted(intent, call_of("crm.note", u="ann"))
    assert not admitted(intent, call_of("crm.note", u="eve"))
    assert not admitted(intent, call_of(spec_of("crm.note", tags=frozenset({"egress"})), u="ann"))


def test_what_follows_a_call_stands_on_its_option() -> None:
    intent = Intent("p", step("pay", n=1).then_ask(by="subject"), step("pay", n=1).named("last").then_end_task())
    verdict = check(intent, call_of(n=1))
    assert isinstance(verdict, Admitted)

    last, asking = verdict.options

    assert (last.step, str(last.outcome), last.ends_task) == ("last", "permit", True)
    assert (asking.step, str(asking.outcome), asking.by, asking.ends_task) == ("pay", "ask", "subject", False)


def test_step_cannot_ask_and_end_the_task() -> None:
    with pytest.raises(ConfigurationError):
        step("pay").then_ask().then_end_task()
    with pytest.raises(ConfigurationError):
        step("pay").then_ask(by="model")


def test_ceiling_has_windows_and_no_order() -> None:
    intent = Intent(
        "p", step("a").times(5, per="1h"), step("b").after("a"), step("c", x=any_).distinct("x"),
        limits={"calls": 5, "denials": {"n": 5, "per": "1h"}, "rate": "5/m"}, otherwise={"tools": ["x"], "calls": 2},
    )  # fmt: skip

    with pytest.raises(ConfigurationError) as caught:
        compile_intent(intent, ceiling=True)

    found = [line.split(": ")[0] for line in caught.value.problems]
    assert found == ["steps[1].after", "steps[2].distinct", "limits.calls", "otherwise.calls"]
    bounded = Intent("p", limits={"calls": {"n": 5, "per": "1h"}}, otherwise={"tools": ["x"]})
    assert compile_intent(bounded, ceiling=True).limits.calls == Limit(5, 3600.0)


def test_everything_survives_the_file_form() -> None:
    intent = Intent(
        "p",
        step("a", x=any_, y=eq(1)).times(2).distinct("x").budget("b"),
        step("c").after("a").then_end_task(),
        step("d").then_ask(by="subject"),
        limits=Limits(Limit(5), Limit(3, 3600.0), None, Limit(10, 90.0)),
        otherwise={"tools": ["crm.*"], "calls": {"n": 3, "per": "1h"}},
        examples={"permit": [{"tool": "a", "args": {"x": [1, {"k": "v"}], "y": 1}}], "deny": [{"tool": "e"}]},
    )

    again = Intent.from_yaml(intent.to_yaml())

    assert again == intent
    assert again.s256 == intent.s256
    assert again.examples is not None
    assert again.examples.deny == (Example("e"),)


def test_forbid_wins_over_the_fallback_with_its_reason() -> None:
    verdict = check(Intent("p", otherwise={"tools": ["*"]}, forbid=[{"tool": "pay"}]), call_of())

    assert isinstance(verdict, Refused)
    assert verdict.reason is Reason.OUTSIDE_INTENT
