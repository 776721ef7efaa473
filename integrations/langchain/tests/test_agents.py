"""A sub-agent works in a task of its own, which extends the chain and can only narrow."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from langchain.agents import create_agent as plain_agent
from langchain.tools import ToolRuntime
from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.errors import GraphInterrupt
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Command, interrupt

from agentguard import ConfigurationError, Denied, Guard, Intent, Task, current_call, current_task, guarded
from agentguard_langchain import agent_tool, assert_guarded, create_agent
from agentguard_langchain.testing import ScriptedModel
from integrations.langchain.tests.samples import decisions, reads

HI = {"messages": [("user", "hi")]}
chains: list[tuple[str, ...]] = []


@tool
@guarded(effect="read")
def look(q: str) -> str:
    """Look something up."""
    chains.append(current_call().chain)
    return f"found {q}"


@tool
@guarded(effect="read")
def secret(q: str) -> str:
    """Look up a secret."""
    chains.append(current_call().chain)
    return "secret"


@pytest.fixture(params=["sync", "async"])
def run(request: pytest.FixtureRequest) -> Callable[..., Any]:
    chains.clear()
    return lambda agent: agent.invoke(HI) if request.param == "sync" else asyncio.run(agent.ainvoke(HI))


def researcher(*turns: Any, tools: Any = (look, secret)) -> Any:
    return create_agent(ScriptedModel(*turns), list(tools), name="researcher")


def parent(*tools: Any, calls: Any = None) -> Any:
    model = ScriptedModel(calls or [("researcher", {"request": "look it up"}), ("look", {"q": "own"})], "done")
    return create_agent(model, [*tools, look], name="bot")


def answers(result: dict[str, Any]) -> list[tuple[str, str]]:
    return [(str(m.content), m.status) for m in result["messages"] if isinstance(m, ToolMessage)]


@pytest.mark.parametrize("how", ["reads", "intent", "the caller's intent"])
def test_sub_agent_extends_the_chain_and_gets_less(guard: Guard, run: Any, how: str) -> None:
    chains.clear()
    less: dict[str, dict[str, Any]] = {
        "reads": {"reads": ["look"]},
        "intent": {"intent": Intent("less", reads=["look"])},
    }
    given = less.get(how) or {}
    inner = researcher([("look", {"q": "x"}), ("secret", {"q": "y"})], "it is x")
    research = agent_tool(inner, "researcher", "Finds things out.", **given)
    intent = Intent("Research", reads=["look", "secret"], agents={} if given else {"researcher": {"reads": ["look"]}})
    with guard.task("bot", on_behalf_of="alice", intent=intent) as task:
        result = run(parent(research))
        assert current_task() is task
    assert answers(result) == [("it is x", "success"), ("found own", "success")]
    assert sorted(chains) == [("user:alice", "bot"), ("user:alice", "bot", "researcher")]
    assert ("call.denied", "outside_intent") in decisions(guard)


def test_delegation_that_the_intent_does_not_name_is_denied_and_told(guard: Guard, run: Any) -> None:
    research = agent_tool(researcher("never"), "researcher", "Finds things out.")
    with guard.task("bot", on_behalf_of="alice", intent=Intent("Research", reads=["look"])):
        result = run(parent(research))
    assert answers(result)[0][1] == "error"
    assert ("call.denied", "outside_intent") in decisions(guard)


def test_cycle_of_agents_is_denied_and_told(guard: Guard, run: Any) -> None:
    again = agent_tool(researcher("never"), "bot", "Itself.", reads=["look"])
    with guard.task("bot", on_behalf_of="alice", intent=Intent("Research", reads=["look"])):
        result = run(parent(again, calls=[("bot", {"request": "x"})]))
    assert answers(result)[0][1] == "error"
    assert ("delegation.denied", "cycle") in decisions(guard)


@pytest.mark.parametrize("reads", ["look", "*look"])
def test_text_in_place_of_a_list_of_reads_is_refused_and_not_read_letter_by_letter(reads: str) -> None:
    with pytest.raises(ConfigurationError, match="reads is a list"):
        agent_tool(researcher("x"), "researcher", "Finds things out.", reads=reads)


def test_agent_tool_counts_as_guarded_and_is_a_tool_like_others() -> None:
    research = agent_tool(researcher("x"), "researcher", "Finds things out.", reads=["look"])
    assert_guarded([research])
    assert list(research.args) == ["request"]


def test_sub_agent_with_a_tool_that_nobody_guarded_is_refused() -> None:
    @tool
    def bare(q: str) -> str:
        """Look something up."""
        return q

    helper = agent_tool(plain_agent(ScriptedModel("done"), [look, bare]), "helper", "Helps.", reads=["look"])
    for refuse in (assert_guarded, lambda tools: create_agent(ScriptedModel("done"), tools)):
        with pytest.raises(ConfigurationError, match="not guarded: bare"):
            refuse([helper])
    assert_guarded([agent_tool(researcher("done"), "helper", "Helps.", reads=["look"])])


@tool
@guarded(effect="read")
def ask(q: str) -> str:
    """Ask a person."""
    return str(interrupt(q))


def test_sub_agent_that_pauses_has_not_answered_where_no_graph_runs_around_it(guard: Guard) -> None:
    agent = create_agent(ScriptedModel([("ask", {"q": "a"})], "done"), [ask], checkpointer=InMemorySaver())
    helper = agent_tool(agent, "helper", "Helps.", reads=["ask"])
    with guard.task("bot", on_behalf_of="alice", intent=reads("ask")):
        with pytest.raises(GraphInterrupt):
            helper.invoke({"request": "help"}, {"configurable": {"thread_id": "t"}})
    assert "task.parked" in [record["event"] for record in guard.audit.records]  # type: ignore[attr-defined]  # a fake


@tool
@guarded(effect="read")
def hand_off(runtime: ToolRuntime) -> Any:
    """Hand the conversation to another agent."""
    told = ToolMessage("handed off", tool_call_id=runtime.tool_call_id or "")
    return Command(goto="other", graph=Command.PARENT, update={"messages": [*runtime.state["messages"], told]})


def test_task_of_an_agent_that_hands_off_to_another_ends(guard: Guard, run: Any) -> None:
    agent, tasks = create_agent(ScriptedModel([("hand_off", {})]), [hand_off]), list[Task]()

    def first(state: MessagesState) -> Any:
        tasks.append(guard.task("bot", on_behalf_of="alice", intent=reads("hand_off")))
        with tasks[0]:
            return agent.invoke(state)

    builder = StateGraph(MessagesState)
    builder.add_node("first", first, destinations=("other",))
    builder.add_node("other", lambda state: {"messages": [AIMessage("on it")]})
    builder.add_edge(START, "first")
    assert run(builder.compile())["messages"][-1].text == "on it"
    assert str(tasks[0].state) == "ended"
    with pytest.raises(Denied):
        guard.resume(tasks[0].id, on_behalf_of="alice")
