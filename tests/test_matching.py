"""Step 3: what was made of a tool's levels once answers as the levels do, one by one."""

from __future__ import annotations

from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentguard import Denied, guarded
from agentguard._drive import drive
from agentguard.intent import Facts, Intent, any_, at_most, compile_intent, from_, step
from agentguard.intent.step import Step
from agentguard.levels import Level, Levels, Matched
from agentguard.matching import _match, match
from agentguard.model.call import ToolCall
from agentguard.model.decision import Reason
from agentguard.ports import Candidate, Charge, Settlement
from agentguard.refusal import Refusal
from agentguard.state.budgets_memory import MemoryBudgets
from agentguard.testing import fake_guard
from tests.intent.calls import call_of, spec_of
from tests.intent.test_properties import calls, intents

SPEC = spec_of("pay")
quick = pytest.mark.control("a quick yes is a yes of every level")


def levels_with(*chain: Intent) -> Levels:
    levels = [
        Level(
            f"agent-{n}",
            f"task:{n}",
            compile_intent(intent),
            cast("Any", object()),
            None,
            frozenset(),
            None,
            {},
            f"task:{n}",
        )
        for n, intent in enumerate(chain)
    ]
    return Levels(tuple(levels), (), {}, {})


def answered(ask: Any, call: ToolCall, levels: Levels, facts: Facts, budgets: MemoryBudgets) -> Any:
    try:
        found: Matched = drive(ask(call, levels, facts, budgets, 0.0))
    except Refusal as no:
        return no.reason, no.level, no.miss
    reserved = found.reservation
    taken = (reserved.chosen, reserved.charges, len(reserved.retries)) if reserved is not None else None
    return found.decision, found.ending, taken


@quick
@pytest.mark.slow
@given(
    st.lists(intents(), min_size=1, max_size=3), st.lists(calls(), min_size=1, max_size=3),
    st.sampled_from([(), ("pii",)]),
)  # fmt: skip
def test_answers_are_those_of_the_levels_one_by_one(
    chain: list[Intent], made: list[ToolCall], seen: tuple[str, ...]
) -> None:
    facts, levels, again = Facts(frozenset(seen)), levels_with(*chain), levels_with(*chain)
    again = again._replace(
        levels=tuple(level._replace(task=levels.levels[n].task) for n, level in enumerate(again.levels))
    )
    one, other = MemoryBudgets(), MemoryBudgets()

    for call in made * 3:
        assert answered(match, call, levels, facts, one) == answered(_match, call, again, facts, other)


@quick
def test_budget_that_is_used_up_is_the_same_refusal() -> None:
    spec = spec_of("pay")
    levels, budgets = levels_with(*[Intent("p", step("pay", a=any_).times(n)) for n in (3, 2)]), MemoryBudgets()

    found = [answered(match, call_of(spec, a=1), levels, Facts(), budgets) for _ in range(3)]

    assert [answer[0] == Reason.BUDGET_EXHAUSTED for answer in found] == [False, False, True]
    assert found[2][1] == "agent-1"
    assert drive(budgets.standing(["task:0/pay#times", "task:1/pay#times"])) == ["2", "2"]


@quick
def test_step_whose_budget_is_used_up_falls_through_to_the_next() -> None:
    spec, intent = spec_of("pay"), Intent("p", *[step("pay", a=any_).times(1).named(name) for name in ("one", "two")])
    levels, budgets = levels_with(intent), MemoryBudgets()

    found = [answered(match, call_of(spec, a=1), levels, Facts(), budgets)[0] for _ in range(3)]

    assert [getattr(answer, "steps", None) for answer in found] == [("one",), ("two",), None]


@quick
def test_amount_that_cannot_be_counted_is_a_refusal() -> None:
    levels = levels_with(Intent("p", step("pay", a=any_).times(9).total(a=10)))

    reason, level, miss = answered(match, call_of("pay", a=-1), levels, Facts(), MemoryBudgets())

    assert (reason, level, miss.kind) == (Reason.ARGUMENT_VIOLATION, "agent-0", "total")


@quick
@pytest.mark.parametrize(
    "counting", [step("pay", a=any_).times(1, per=["a"]), step("pay", a=any_).distinct("a").times(9)]
)
def test_what_is_counted_for_each_value_is_counted_for_the_value_of_the_call(counting: Step) -> None:
    levels, budgets = levels_with(Intent("p", counting)), MemoryBudgets()

    found = [answered(match, call_of(SPEC, a=value), levels, Facts(), budgets)[0] for value in (1, 2, 1, 3)]

    assert [answer == Reason.BUDGET_EXHAUSTED for answer in found] == [False, False, True, False]


@quick
def test_sum_is_that_of_the_amounts_of_the_calls() -> None:
    levels, budgets = levels_with(Intent("p", step("pay", a=any_).times(9).total(a=10))), MemoryBudgets()

    for amount in (2, 3, 4):
        assert answered(match, call_of(SPEC, a=amount), levels, Facts(), budgets)[0].permitted

    assert drive(budgets.standing(["task:0/pay#total.a"])) == ["9"]


@quick
def test_attempts_are_those_of_the_very_same_call() -> None:
    levels, budgets = levels_with(Intent("p", step("pay", a=any_).attempts(2).times(1))), MemoryBudgets()
    first: Matched = drive(match(call_of(SPEC, a=1), levels, Facts(), budgets, 0.0))
    assert first.reservation is not None
    drive(budgets.settle(first.reservation, Settlement.RAISED))

    assert answered(match, call_of(SPEC, a=2), levels, Facts(), budgets)[0] == Reason.BUDGET_EXHAUSTED
    assert answered(match, call_of(SPEC, a=1), levels, Facts(), budgets)[0].permitted


@quick
def test_limit_of_an_agent_counts_with_the_steps() -> None:
    limit = (Candidate("limits", (Charge("agent:bot/calls", "2", per=60.0),)),)
    levels = levels_with(Intent("p", step("pay", a=any_).times(9)))._replace(limits=(limit,))
    budgets = MemoryBudgets()

    found = [answered(match, call_of("pay", a=1), levels, Facts(), budgets) for _ in range(3)]

    assert [answer[0] == Reason.BUDGET_EXHAUSTED for answer in found] == [False, False, True]
    assert found[2][1] == "limits"


@guarded("look", effect="read")
def look(account: str) -> str:
    return account


@guarded("pay", effect="write")
def pay(account: str) -> str:
    return account


@quick
def test_step_that_waits_for_another_waits() -> None:
    intent = Intent("p", step("look", account=any_), step("pay", account=any_).after("look").times(9))
    with fake_guard() as guard, guard.task("bot", on_behalf_of="ann", intent=intent):
        with pytest.raises(Denied) as caught:
            pay("acme")
        assert caught.value.decision.miss.text == "it comes after look, which has not happened"
        look("acme")
        assert pay("acme") == "acme"


@quick
def test_value_that_has_to_come_from_a_result_is_looked_for_there() -> None:
    intent = Intent("p", step("look", account=any_), step("pay", account=from_(tool="look", field="$")).times(9))
    with fake_guard() as guard, guard.task("bot", on_behalf_of="ann", intent=intent):
        look("acme")
        assert pay("acme") == "acme"
        with pytest.raises(Denied):
            pay("evil")


@quick
def test_tools_that_share_a_name_are_not_taken_for_each_other() -> None:
    plain, forgiving = spec_of("pay"), spec_of("pay", defaults={"b": 1})
    levels, budgets = levels_with(Intent("p", step("pay", a=any_).times(9))), MemoryBudgets()

    assert answered(match, call_of(forgiving, a=1), levels, Facts(), budgets)[0].permitted
    assert answered(match, call_of(plain, a=1, b=1), levels, Facts(), budgets)[0] == Reason.ARGUMENT_VIOLATION


def test_what_is_known_of_tools_does_not_grow_for_ever() -> None:
    levels = levels_with(Intent("p", step("pay", a=at_most(5)).times(5000)))

    for _ in range(1001):
        assert answered(match, call_of(spec_of("pay"), a=1), levels, Facts(), MemoryBudgets())[0].permitted

    assert 0 < len(levels.known) <= 1000


def test_what_is_said_of_a_used_up_step_holds_no_value_by_which_it_counts() -> None:
    spec = spec_of("pay", secret=frozenset({"pin"}))
    intent = Intent("p", step("pay", to=any_, pin=any_).times(1, per=["to", "pin"]))
    levels, budgets = levels_with(intent), MemoryBudgets()
    call = call_of(spec, to="canary@acme.test", pin="1234")
    answered(match, call, levels, Facts(), budgets)

    reason, _, miss = answered(match, call, levels, Facts(), budgets)

    assert reason is Reason.BUDGET_EXHAUSTED
    assert miss.text == "step pay is used up (pay#times, limit 1)"
