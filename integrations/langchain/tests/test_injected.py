"""Arguments that LangChain and LangGraph inject: they arrive, the intent does not see them, and no model fills them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated, Any

import pytest
from langchain.tools import ToolRuntime
from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import BaseTool, InjectedToolArg, InjectedToolCallId, tool
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import InjectedState, InjectedStore, ToolNode
from langgraph.store.base import BaseStore
from langgraph.store.memory import InMemoryStore
from pydantic import AliasChoices, AliasPath, BaseModel, Field, ValidationError

from agentguard import Denied, Guard, Intent, guarded, step
from agentguard_langchain import create_agent, guard_tools
from agentguard_langchain.testing import ScriptedModel
from integrations.langchain.tests.samples import decisions, reads

got: dict[str, Any] = {}


def look(
    q: str,
    state: Annotated[dict[str, Any], InjectedState],
    messages: Annotated[list[Any], InjectedState("messages")],
    store: Annotated[BaseStore, InjectedStore()],
    runtime: ToolRuntime,
    tool_call_id: Annotated[str, InjectedToolCallId],
    config: RunnableConfig,
) -> str:
    """Look something up."""
    got.update(q=q, state=state, messages=messages, store=store, runtime=runtime, id=tool_call_id, config=config)
    return "found"


def paid(q: str, cred: Annotated[str, InjectedToolArg] = "none") -> str:
    """Look something up with a credential of the application's."""
    got.update(cred=cred)
    return cred


class PaidArgs(BaseModel):
    q: str
    cred: Annotated[str, InjectedToolArg]


class Paid(BaseTool):
    name: str = "paid"
    description: str = "d"
    args_schema: Any = PaidArgs

    def _run(self, q: str, cred: str) -> str:
        return cred


@pytest.fixture(params=["wrapped", "guarded below @tool"])
def make(request: pytest.FixtureRequest) -> Callable[[Any], BaseTool]:
    if request.param == "wrapped":
        return lambda fn: guard_tools(tool(fn), {fn.__name__: {"effect": "read"}})[0]
    return lambda fn: tool(guarded(fn.__name__, effect="read")(fn))


def graph_of(node: ToolNode) -> Any:
    builder = StateGraph(MessagesState)
    builder.add_node("tools", node)
    builder.add_edge(START, "tools")
    return builder.compile(store=InMemoryStore())


def asks(name: str, **args: Any) -> dict[str, Any]:
    return {"messages": [AIMessage("", tool_calls=[{"name": name, "args": args, "id": "c7", "type": "tool_call"}])]}


@pytest.mark.parametrize("how", ["sync", "async"])
def test_all_that_langgraph_injects_arrives(guard: Guard, make: Callable[[Any], BaseTool], how: str) -> None:
    got.clear()
    look_ = make(look)
    graph = graph_of(ToolNode([look_]))
    intent = Intent("x", reads=["look"], forbid=[{"tool": "look", "args": {"q": "never"}}])
    with guard.task("bot", on_behalf_of="alice", intent=intent):
        given, config = asks("look", q="a"), {"configurable": {"who": "me"}}
        result = graph.invoke(given, config) if how == "sync" else asyncio.run(graph.ainvoke(given, config))
    assert result["messages"][-1].content == "found"
    assert (got["q"], got["id"], got["config"]["configurable"]["who"]) == ("a", "c7", "me")
    assert got["state"]["messages"] == got["messages"] != []
    assert isinstance(got["store"], InMemoryStore)
    assert isinstance(got["runtime"], ToolRuntime)
    assert list(look_.tool_call_schema.model_json_schema()["properties"]) == ["q"]  # type: ignore[union-attr]
    assert decisions(guard) == [("call.permitted", "look")]


def test_model_cannot_fill_what_langgraph_injects(guard: Guard) -> None:
    got.clear()
    [look_] = guard_tools(tool(look), {"look": {"effect": "read"}})
    forged = {"state": {"messages": ["forged"]}, "messages": ["forged"], "tool_call_id": "forged", "config": {}}
    graph = graph_of(ToolNode([look_]))
    with guard.task("bot", on_behalf_of="alice", intent=reads("look")):
        graph.invoke(asks("look", q="a", **forged))
        assert got["id"] == "c7"
        assert [type(message) for message in got["messages"]] == [AIMessage]
        assert got["state"]["messages"] == got["messages"]
        with pytest.raises((ValidationError, Denied)):  # bare: nobody injects, and what the model wrote is dropped
            look_.invoke({"name": "look", "args": {"q": "a", **forged}, "id": "c8", "type": "tool_call"})
    assert got["id"] == "c7"


def test_state_that_a_model_writes_is_dropped_where_no_graph_fills_it(guard: Guard) -> None:
    def owner(state: Annotated[dict[str, Any], InjectedState]) -> str:
        """Tell the owner."""
        return str(state["owner"])

    [tool_] = guard_tools(tool(owner), {"owner": {"effect": "read"}})
    with guard.task("bot", on_behalf_of="alice", intent=reads("owner")), pytest.raises(ValidationError):
        tool_.invoke({"name": "owner", "args": {"state": {"owner": "EVIL"}}, "id": "c", "type": "tool_call"})


@pytest.mark.parametrize("how", ["invoke", "ainvoke", "tool call"])
def test_value_that_a_model_writes_for_an_injected_argument_is_dropped(guard: Guard, how: str) -> None:
    [tool_] = guard_tools(tool(paid), {"paid": {"effect": "read"}})
    args = {"q": "a", "cred": "EVIL"}
    with guard.task("bot", on_behalf_of="alice", intent=reads("paid")):
        if how == "invoke":
            assert tool_.invoke(args) == "none"
        elif how == "ainvoke":
            assert asyncio.run(tool_.ainvoke(args)) == "none"
        else:
            message = tool_.invoke({"name": "paid", "args": args, "id": "c", "type": "tool_call"})
            assert message.content == "none"
    assert args["cred"] == "EVIL"  # the caller's mapping is not touched


def test_injected_argument_of_a_schema_is_dropped_too(guard: Guard) -> None:
    [tool_] = guard_tools(Paid(), {"paid": {"effect": "read"}})
    with guard.task("bot", on_behalf_of="alice", intent=reads("paid")), pytest.raises(ValidationError, match="cred"):
        tool_.invoke({"q": "a", "cred": "EVIL"})


@pytest.mark.parametrize(
    "field",
    [
        Field("none", alias="user"),
        Field("none", validation_alias="user"),
        Field("none", validation_alias=AliasChoices("account", AliasPath("user"))),
    ],
)
def test_value_under_another_name_of_an_injected_argument_is_dropped_too(guard: Guard, field: Any) -> None:
    class Named(PaidArgs):
        cred: Annotated[str, InjectedToolArg] = field

    [tool_] = guard_tools(Paid(args_schema=Named), {"paid": {"effect": "read"}})
    with guard.task("bot", on_behalf_of="alice", intent=reads("paid")):
        assert tool_.invoke({"q": "a", "user": "EVIL"}) == "none"


def test_application_may_pass_an_injected_argument_to_the_function_itself(guard: Guard) -> None:
    [tool_] = guard_tools(tool(paid), {"paid": {"effect": "read"}})
    with guard.task("bot", on_behalf_of="alice", intent=Intent("x", step("paid", q="a"))):
        assert tool_.func("a", cred="own") == "own"  # type: ignore[attr-defined]  # a StructuredTool


def test_tool_call_id_reaches_a_tool_without_a_graph(guard: Guard) -> None:
    @tool
    def which(q: str, tool_call_id: Annotated[str, InjectedToolCallId]) -> str:
        """Tell."""
        return tool_call_id

    [tool_] = guard_tools(which, {"which": {"effect": "read"}})
    with guard.task("bot", on_behalf_of="alice", intent=reads("which")):
        args = {"q": "a", "tool_call_id": "forged"}
        message = tool_.invoke({"name": "which", "args": args, "id": "c9", "type": "tool_call"})
    assert isinstance(message, ToolMessage)
    assert message.content == "c9"


# --- what a model can write is checked --------------------------------------------------------------------------------


def of_config(q: str, whose: RunnableConfig | None = None) -> str:
    """Look something up."""
    return str(whose)


def of_injected(q: str, whose: Annotated[dict[str, Any], InjectedToolArg] | None = None) -> str:
    """Look something up."""
    return str(whose)


@pytest.mark.parametrize("body", [of_config, of_injected])
def test_argument_that_langchain_shows_a_model_is_checked_whatever_its_annotation(
    guard: Guard, make: Callable[[Any], BaseTool], body: Any
) -> None:
    tool_ = make(body)
    assert list(tool_.args) == ["q", "whose"]
    model = ScriptedModel(
        [(tool_.name, {"q": "a"})], [(tool_.name, {"q": "a", "whose": {"configurable": {"user": "EVIL"}}})], "done"
    )
    agent = create_agent(model, [tool_])
    with guard.task("bot", on_behalf_of="alice", intent=Intent("x", step(tool_.name, q="a").times(2))):
        told = [
            message
            for message in agent.invoke({"messages": [("user", "look")]})["messages"]
            if isinstance(message, ToolMessage)
        ]
    assert [message.status for message in told] == ["success", "error"]
    assert "EVIL" not in str(told)


class Hooked(BaseTool):
    name: str = "hooked"
    description: str = "d"

    def _run(self, q: str, callbacks: Any = None, run_manager: Any = None) -> str:
        assert run_manager is not None  # LangChain fills it in
        return str(callbacks)


def test_argument_of_a_method_that_is_named_as_what_langchain_fills_in_functions_is_checked(guard: Guard) -> None:
    [tool_] = guard_tools(Hooked())
    with guard.task("bot", on_behalf_of="alice", intent=Intent("x", step("hooked", q="a").times(2))):
        assert tool_.invoke({"q": "a", "run_manager": "EVIL"}) == "None"
        with pytest.raises(Denied):
            tool_.invoke({"q": "a", "callbacks": ["https://evil.test"]})
