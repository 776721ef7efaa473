"""`assert_guarded` finds a tool that nobody guarded wherever LangChain lets one stand."""

from __future__ import annotations

from typing import Annotated, Any

import pytest
from langchain.agents import create_agent as langchain_create_agent
from langchain_core.runnables import RunnableLambda, RunnableParallel
from langchain_core.tools import BaseTool, InjectedToolArg, tool
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from pydantic import BaseModel

from agentguard import ConfigurationError, guarded
from agentguard_langchain import agent_tool, assert_guarded, create_agent, guard_tools
from agentguard_langchain.testing import ScriptedModel


@tool
def naked(q: str) -> str:
    """Look something up."""
    return q


@tool
@guarded(effect="read")
def look(q: str) -> str:
    """Look something up."""
    return q


def agent_of(tool_: BaseTool) -> Any:
    return langchain_create_agent(ScriptedModel("done"), [tool_])


def helper_of(agent: Any) -> BaseTool:
    return agent_tool(agent, "helper", "Helps.", reads=["look"])


def graph_of(node: Any) -> Any:
    builder = StateGraph(MessagesState)
    builder.add_node("inner", node)
    builder.add_edge(START, "inner")
    return builder.compile()


def passed_on(state: Any) -> Any:
    return state


AROUND: dict[str, Any] = {
    "with_config": lambda runnable: runnable.with_config(tags=["x"]),
    "with_retry": lambda runnable: runnable.with_retry(stop_after_attempt=2),
    "sequence": lambda runnable: runnable | RunnableLambda(passed_on),
    "with_fallbacks": lambda runnable: runnable.with_fallbacks([RunnableLambda(passed_on)]),
    "fallback": lambda runnable: create_agent(ScriptedModel("done"), [look]).with_fallbacks([runnable]),
    "parallel": lambda runnable: RunnableParallel(a=runnable, b=RunnableLambda(passed_on)),
    "twice": lambda runnable: (RunnableLambda(passed_on) | runnable).with_retry(),
}


@pytest.mark.parametrize("what", [agent_of, lambda tool_: ToolNode([tool_])], ids=["agent", "node"])
@pytest.mark.parametrize("around", AROUND.values(), ids=AROUND)
def test_what_langchain_puts_around_tools_hides_none(around: Any, what: Any) -> None:
    for place in (lambda one: one, graph_of, helper_of):
        with pytest.raises(ConfigurationError, match="not guarded: naked"):
            assert_guarded(place(around(what(naked))))
        assert_guarded(place(around(what(look))))


def test_agent_of_a_sub_agent_of_a_compiled_agent_is_looked_into() -> None:
    with pytest.raises(ConfigurationError, match="not guarded: naked"):
        assert_guarded(agent_of(helper_of(agent_of(naked))))
    assert_guarded(agent_of(helper_of(agent_of(look))))


def test_tool_that_something_stands_around_is_looked_at() -> None:
    for around in (lambda tool_: tool_.bind(), lambda tool_: tool_.with_retry(), lambda tool_: graph_of(tool_)):
        with pytest.raises(ConfigurationError, match="not guarded: naked"):
            assert_guarded([around(naked)])
        assert_guarded([around(look)])


def test_what_shows_no_tools_is_not_taken_for_guarded() -> None:
    plain = RunnableLambda(passed_on)
    for hidden in (plain, plain | plain, plain.with_retry()):
        with pytest.raises(ConfigurationError, match="takes an agent"):
            assert_guarded(hidden)


class Shown(BaseModel):
    q: str
    user: str = "me"


class Marked(BaseModel):
    q: str
    user: Annotated[str, InjectedToolArg] = "me"


SHOWN_AS_JSON = {"type": "object", "properties": {"q": {"type": "string"}, "user": {"type": "string"}}}


def reading(schema: Any = None) -> Any:
    @guarded("checks.read", effect="read")
    def read(q: str, user: Annotated[str, InjectedToolArg] = "me") -> str:
        """Read for a user, whom the application names."""
        return f"{q} for {user}"

    return tool("read", args_schema=schema)(read) if schema is not None else tool("read")(read)


@pytest.mark.parametrize("schema", [Shown, SHOWN_AS_JSON], ids=["model", "json"])
def test_argument_that_a_model_sees_and_no_intent_looks_at_is_refused(schema: Any) -> None:
    for place in (lambda one: [one], lambda one: ToolNode([one]), agent_of):
        with pytest.raises(ConfigurationError, match="'read' shows the model user"):
            assert_guarded(place(reading(schema)))


def test_argument_that_no_model_sees_is_left_to_whoever_fills_it() -> None:
    assert_guarded([reading(), reading(Marked), *guard_tools([reading(Marked)])])
