"""The real evaluator against a plain second one, and what narrowing guarantees, over generated intents and calls."""

from __future__ import annotations

from contextlib import ExitStack
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import agentguard
from agentguard import Denied, Guard, guarded
from agentguard.intent import (
    Admitted,
    Constraint,
    Facts,
    Intent,
    Step,
    absent,
    any_,
    at_least,
    compile_intent,
    each,
    eq,
    glob,
    in_,
    in_set,
    is_,
    items,
    not_,
    optional,
    prefix,
    same_as,
    step,
)
from agentguard.intent.tree import intent_tree
from agentguard.intent.values import Max
from agentguard.model.call import ToolCall
from agentguard.ports import Answer, Approval, ApprovalRequest
from tests.intent import oracle
from tests.intent.calls import call_of

pytestmark = pytest.mark.slow  # many generated cases

TOOLS = ("pay", "send")
NAMES = ("a", "b")
SETS = {"people": ["ann", "bo", 7]}
DEFINES: dict[str, Constraint] = {"person": in_set("people"), "people": each(is_("person"))}
TEXTS = st.sampled_from(["ann", "bo", "eve", "docs/x", "docs/..", "docs//x", "docs/a/b", ""])
SCALARS = TEXTS | st.integers(0, 9)
VALUES = SCALARS | st.lists(SCALARS, max_size=3)
LEAVES: st.SearchStrategy[Constraint] = st.one_of(
    st.builds(eq, SCALARS),
    st.builds(lambda values: in_(*values), st.lists(SCALARS, min_size=1, max_size=3)),
    st.builds(at_least, st.integers(0, 9)),
    st.builds(Max, st.integers(0, 9)),
    st.builds(prefix, st.sampled_from(["a", "docs/"])),
    st.builds(glob, st.sampled_from(["docs/*", "*", "a*", "*/x"])),
    st.builds(items, st.integers(0, 1), st.integers(1, 2)),
    st.sampled_from([any_, absent, in_set("people"), is_("person"), is_("people"), same_as("a"), same_as("b")]),
)
SAID = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.builds(not_, inner),
        st.builds(each, inner),
        st.builds(optional, inner),
        st.builds(lambda left, right: left | right, inner, inner),
    ),
    max_leaves=4,
)
ARGS = st.fixed_dictionaries(dict.fromkeys(NAMES, SAID))
# In a forbid a constraint on a single value looks at each element: calls with lists are not compared there.
FORBIDS = st.fixed_dictionaries(
    {},
    optional={
        "tool": st.sampled_from(TOOLS),
        "args": st.dictionaries(st.sampled_from(NAMES), st.builds(eq, TEXTS), min_size=1),
    },
).filter(bool)  # fmt: skip


@st.composite
def steps(draw: st.DrawFn) -> Step:
    made = step(draw(st.sampled_from(TOOLS)), **draw(ARGS))
    return draw(st.sampled_from([made, made.then_ask(), made.times(3)]))


@st.composite
def intents(draw: st.DrawFn) -> Intent:
    found = [made.named(f"s{index}") for index, made in enumerate(draw(st.lists(steps(), max_size=4)))]
    found = [made.after("s0") if index and draw(st.integers(0, 3)) == 0 else made for index, made in enumerate(found)]
    return Intent(
        "p", *found, sets=SETS, define=DEFINES,
        everywhere=draw(st.dictionaries(st.sampled_from(NAMES), SAID, max_size=1)),
        forbid=draw(st.lists(FORBIDS, max_size=2)),
        otherwise=draw(st.sampled_from([None, {"tools": ["send"]}])),
    )  # fmt: skip


CALLS = st.builds(
    lambda tool, given: call_of(tool, **given), st.sampled_from(TOOLS), st.dictionaries(st.sampled_from(NAMES), VALUES)
)
HAPPENED = st.sampled_from([frozenset[str](), frozenset({"s0"})])


def answer(intent: Intent, call: ToolCall, happened: frozenset[str] = frozenset()) -> list[str]:
    verdict = compile_intent(intent).check(call, Facts(happened=happened))
    return [option.step for option in verdict.options] if isinstance(verdict, Admitted) else []


@settings(max_examples=500, deadline=None)
@given(intents(), CALLS, HAPPENED)
def test_answer_is_that_of_the_plain_evaluator(intent: Intent, call: ToolCall, happened: frozenset[str]) -> None:
    lists = any(isinstance(value, tuple) for value in call.arguments.values())
    if lists and any(entry.args for entry in intent.forbid):
        return

    expected = oracle.admits(intent_tree(intent), call.spec.name, dict(call.arguments), happened)

    assert answer(intent, call, happened) == expected


@settings(deadline=None)
@given(intents(), FORBIDS, CALLS)
def test_adding_a_forbid_never_permits_more(intent: Intent, entry: dict[str, Any], call: ToolCall) -> None:
    stricter = rebuilt(intent, forbid=[*intent.forbid, entry])

    assert set(answer(stricter, call)) <= set(answer(intent, call))


@settings(deadline=None)
@given(intents(), CALLS)
def test_order_of_forbids_means_nothing(intent: Intent, call: ToolCall) -> None:
    assert answer(rebuilt(intent, forbid=intent.forbid[::-1]), call) == answer(intent, call)


@settings(deadline=None)
@given(intents(), st.sampled_from(TOOLS), CALLS)
def test_adding_a_permit_behind_all_others_never_denies_more(intent: Intent, tool: str, call: ToolCall) -> None:
    added = step(tool, a=any_, b=any_).named("added")
    wider = rebuilt(intent, steps=(*intent.steps, added))
    before = answer(intent, call)

    # A new step closes the fallback for its tool, as it closes reads.
    if before and before != ["otherwise"] and not any(made.outcome.value == "ask" for made in intent.steps):
        assert answer(wider, call)[: len(before)] == before


@settings(deadline=None)
@given(intents(), CALLS)
def test_intent_that_says_nothing_denies_and_an_error_inside_denies(intent: Intent, call: ToolCall) -> None:
    broken = ToolCall(id="1", spec=call.spec, arguments=None, given=frozenset(), digest="")  # type: ignore[arg-type]

    assert answer(Intent("p"), call) == []
    assert answer(intent, broken) in ([], ["otherwise"])


@settings(deadline=None)
@given(intents(), CALLS)
def test_same_call_gets_the_same_answer_after_a_round_trip(intent: Intent, call: ToolCall) -> None:
    again = Intent.from_yaml(intent.to_yaml())

    assert again == intent
    assert answer(again, call) == answer(intent, call) == answer(intent, call)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(intents(), min_size=1, max_size=3), st.sampled_from(TOOLS), st.dictionaries(st.sampled_from(NAMES), VALUES)
)
def test_what_passes_a_chain_passes_each_ancestor(chain: list[Intent], tool: str, given: dict[str, Any]) -> None:
    call = call_of(tool, **given)
    passed = passes(chain, tool, given)

    # Every level admits the call alone, and nothing but that is needed: no child widens what stands above it.
    assert passed is all(answer(intent, call) for intent in chain)
    if passed:
        assert all(passes(chain[: depth + 1], tool, given) for depth in range(len(chain)))


class Approving:
    """Says yes to everything."""

    suspends = False

    async def ask(self, request: ApprovalRequest) -> Approval:
        return Approval(Answer.APPROVED, "somebody")


@guarded("pay")
def pay(**given: Any) -> None:
    """Pay."""


@guarded("send")
def send(**given: Any) -> None:
    """Send."""


@cache
def guard() -> Guard:
    return agentguard.local(approver=Approving())


def passes(chain: list[Intent], tool: str, given: dict[str, Any]) -> bool:
    """Whether a call under a chain of tasks runs."""
    with ExitStack() as stack:
        task = stack.enter_context(guard().task("agent-0", on_behalf_of="ann", intent=chain[0]))
        for depth, intent in enumerate(chain[1:], 1):
            task = stack.enter_context(task.delegate(f"agent-{depth}", intent=intent))
        try:
            {"pay": pay, "send": send}[tool](**given)
        except Denied:
            return False
        return True


def rebuilt(intent: Intent, **changes: Any) -> Intent:
    words = {"forbid": intent.forbid, "steps": intent.steps} | changes
    return Intent(
        "p", *words.pop("steps"), sets=SETS, define=DEFINES, everywhere=intent.everywhere,
        otherwise=intent.otherwise, **words,
    )  # fmt: skip
