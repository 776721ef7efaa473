"""What agents reach, alone and through others: the same as what a guard would let through, by other means."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentguard.cli.agents.ceilings import Ceiling
from agentguard.cli.agents.inventory import Entry
from agentguard.cli.agents.reach import handed_reach, own_reach
from agentguard.cli.agents.separation import Who, cell
from agentguard.intent import Admitted, Facts, Intent, Step, any_, compile_intent, eq, step
from agentguard.model.call import Effect, ToolCall, ToolSpec
from agentguard.model.decision import Outcome
from agentguard.model.principal import Agent
from agentguard.registry import RegisteredAgent

NAMES = ("a", "b", "c", "d")
TOOL = ToolSpec(name="pay", audience="https://pay.test", scopes=("pay",), data=frozenset({"payments"}))
OWNERS = {"business": "ann"}
PATTERNS = st.sampled_from([frozenset({"pay"}), frozenset({"look"}), frozenset({"*"}), frozenset()])
REGISTRIES = st.fixed_dictionaries({
    name: st.builds(
        lambda tools, handed, depth, closed, name=name: entry(name, tools, handed, depth, closed=closed),
        st.none() | PATTERNS,
        st.dictionaries(st.sampled_from([other for other in (*NAMES, "x") if other != name]), PATTERNS, max_size=3),
        st.integers(0, 4),
        st.sampled_from([False, False, False, True]),
    )
    for name in NAMES
})  # fmt: skip


def entry(
    name: str,
    tools: frozenset[str] | None,
    handed: Mapping[str, frozenset[str]] | None = None,
    depth: int = 3,
    *,
    closed: bool = False,
    ceiling: Intent | None = None,
) -> Entry:
    agent = RegisteredAgent(agent=Agent(name), owners=OWNERS, tools=tools, hand_on=handed or {}, max_depth=depth)
    intent = Intent("nothing", reads=["nothing"]) if closed else ceiling
    return Entry(agent, Ceiling(Path("c.yaml"), None, intent, ()) if intent else None, frozenset())


def callers(root: Entry, entries: Mapping[str, Entry]) -> set[str]:
    """Every agent that may call the tool at the end of a chain which the guard's own rules let through."""
    return {chain[-1].name for chain in _chains([root], entries) if len(chain) > 1 and _passes(chain)}


def _chains(chain: list[Entry], entries: Mapping[str, Entry]) -> Iterator[list[Entry]]:
    yield chain
    if len(chain) <= min(link.agent.max_depth for link in chain):
        for other in entries.values():
            if other not in chain:
                yield from _chains([*chain, other], entries)


def _passes(chain: list[Entry]) -> bool:
    heirs = [*(link.name for link in chain[1:]), None]
    closed = any(link.ceiling for link in chain)
    return not closed and all(link.agent.allows("pay", heir) for link, heir in zip(chain, heirs, strict=True))


@pytest.mark.control("what is reached through others is what the guard lets through")
@settings(max_examples=300)
@given(REGISTRIES)
def test_reach_through_others_is_that_of_every_chain(entries: dict[str, Entry]) -> None:
    for root in entries.values():
        found = handed_reach(root, entries, [TOOL])

        mine = root.agent.allows("pay", None)
        assert (set() if mine else callers(root, entries)) == {name for _, by in found.tools for name in by}
        assert found.unknown == ()


def test_agent_that_may_call_a_tool_passes_it_on_to_any_other_that_may() -> None:
    entries = {
        "a": entry("a", frozenset(), {"b": frozenset({"pay"})}),
        "b": entry("b", frozenset({"pay"})),
        "c": entry("c", frozenset({"pay"})),
    }

    found = handed_reach(entries["a"], entries, [TOOL])

    assert [(TOOL, ("b", "c"))] == list(found.tools)


def test_long_circles_end() -> None:
    names = [f"n{index}" for index in range(60)]
    everybody = dict.fromkeys(names, frozenset({"pay"}))
    entries = {name: entry(name, frozenset(), {**everybody, "end": frozenset({"pay"})}, 16) for name in names}
    entries["end"] = entry("end", frozenset({"pay"}))

    found = handed_reach(entries["n0"], entries, [TOOL])

    assert [(TOOL, ("end",))] == list(found.tools)


@pytest.mark.control("a ceiling that cannot be read makes the reach unknown")
def test_ceiling_that_cannot_be_read_leaves_the_reach_unknown() -> None:
    broken = Ceiling(Path("c.yaml"), None, None, ())
    first = Entry(entry("a", frozenset(), {"b": frozenset({"pay"})}).agent, None, frozenset())
    second = Entry(entry("b", frozenset({"pay"})).agent, broken, frozenset())

    handed, own = handed_reach(first, {"a": first, "b": second}, [TOOL]), own_reach(second, [TOOL])

    assert ((), ("b: the ceiling c.yaml is missing",)) == (handed.tools, handed.unknown) == (own.tools, own.unknown)


def test_audiences_scopes_and_data_are_those_of_the_tools() -> None:
    other = ToolSpec(name="ask", audience="https://pay.test", scopes=("ask",), data=frozenset({"pii"}))

    found = own_reach(entry("a", None), [TOOL, other, ToolSpec(name="free")])

    assert {"https://pay.test": ("ask", "pay")} == found.audiences
    assert ("payments", "pii") == found.data


def a_step(said: object, ask: bool, tool: str) -> Step:
    made = step(tool, to=said)
    return made.then_ask() if ask else made


STEPS = st.lists(
    st.builds(a_step, st.sampled_from([any_, eq("ann"), eq("bob")]), st.booleans(), st.sampled_from(["pay", "look"])),
    max_size=3,
)


@given(
    STEPS,
    st.sampled_from([[], ["pay"], ["*"]]),
    st.sampled_from([None, {"tools": ["pay"]}, {"tools": ["*"]}]),
    st.sampled_from([[], [{"tool": "pay"}], [{"args": {"to": eq("bob")}}], [{"seen": ["pii"]}]]),
    st.sampled_from(list(Effect)),
    st.sampled_from(["ann", "bob", "eve"]),
)
def test_table_never_says_less_than_the_ceiling_admits(
    steps: list[Step], reads: list[str], otherwise: object, forbid: list[object], effect: Effect, to: str
) -> None:
    numbered = [each.named(f"s{index}") for index, each in enumerate(steps)]
    intent = Intent("c", *numbered, reads=reads or ["nothing"], otherwise=otherwise, forbid=forbid)
    spec = ToolSpec(name="pay", effect=effect)
    call = ToolCall(id="", spec=spec, arguments={"to": to}, given=frozenset({"to"}), digest="")

    found = cell(entry("a", None, ceiling=intent), spec)
    verdict = compile_intent(intent, ceiling=True).check(call, Facts())

    if isinstance(verdict, Admitted):
        who = {Outcome.PERMIT: Who.ALONE, Outcome.ASK: Who.PERSON}
        assert {who[option.outcome] for option in verdict.options} <= set(found.outcomes)
        if not found.conditional:
            assert len(found.outcomes) == 1
    else:
        assert found.conditional or found.outcomes == (Who.NEVER,)
