"""The hook into agents: it names the caller, denies what nobody guarded, and translates denials."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from langchain.agents import create_agent as langchain_create_agent
from langchain.agents.middleware import AgentMiddleware, TodoListMiddleware, ToolRetryMiddleware
from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.tools import BaseTool, tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from langgraph.types import Command, interrupt

from agentguard import ApprovalRequired, ConfigurationError, Denied, Guard, Intent, any_, guarded, step
from agentguard.ports import Answer
from agentguard.testing import Answering, fake_guard
from agentguard_langchain import GuardMiddleware, assert_guarded, create_agent, guard_tools
from agentguard_langchain.testing import ScriptedModel
from integrations.langchain.tests.samples import decisions, reads

HI = {"messages": [("user", "hi")]}
ran: list[Any] = []


@tool
@guarded(effect="read")
def look(q: str) -> str:
    """Look something up."""
    ran.append(("look", q, threading.current_thread().name))
    return f"found {q}"


@tool
@guarded
def refund(account: str, amount: int) -> str:
    """Refund."""
    ran.append(("refund", account, amount))
    return "refunded"


@tool
def naked(q: str) -> str:
    """Nobody guards this."""
    ran.append(("naked", q))
    return "naked"


@pytest.fixture(autouse=True)
def _fresh() -> None:
    ran.clear()


@pytest.fixture(params=["sync", "async"])
def run(request: pytest.FixtureRequest) -> Callable[..., dict[str, Any]]:
    def call(agent: Any, given: Any = HI, config: Any = None) -> dict[str, Any]:
        result = agent.invoke(given, config) if request.param == "sync" else asyncio.run(agent.ainvoke(given, config))
        assert isinstance(result, dict)
        return result

    return call


def told(result: dict[str, Any]) -> list[tuple[str | None, Any, str]]:
    return [(m.name, m.content, m.status) for m in result["messages"] if isinstance(m, ToolMessage)]


def test_denial_reaches_the_model_as_an_error_without_constraint_or_advice(guard: Guard, run: Any) -> None:
    agent = create_agent(ScriptedModel([("refund", {"account": "evil", "amount": 5})], "sorry"), [refund])
    intent = Intent("Refund", step("refund", account="acme", amount=any_))
    with guard.task("bot", on_behalf_of="alice", intent=intent):
        result = run(agent)
    [(name, content, status)] = told(result)
    assert (name, status) == ("refund", "error")
    assert content == "Tool 'refund' was not run: it is outside the declared task. Do not call it again for this."
    assert "acme" not in str(result)
    assert result["messages"][-1].content == "sorry"
    assert ran == []


def test_call_without_a_task_is_in_the_developers_log_as_it_is_in_no_other(caplog: pytest.LogCaptureFixture) -> None:
    agent = create_agent(ScriptedModel([("look", {"q": "x"})], "done"), [look])

    answer = agent.invoke(HI)["messages"][-2]
    assert answer.content == "Tool 'look' was not run: no task is active. Do not call it again for this."
    assert [record.levelname for record in caplog.records if record.name == "agentguard"] == ["WARNING"]
    assert "open one: `with guard.task(" in caplog.text


def test_caller_is_recorded_and_never_decides(guard: Guard, run: Any) -> None:
    agent = create_agent(ScriptedModel([("look", {"q": "a"})], "done"), [look], name="alpha")
    with guard.task("bot", on_behalf_of="alice", intent=reads("look")):
        run(agent)
    audit: Any = guard.audit
    [record] = [r for r in audit.records if r["event"] == "call.permitted"]
    assert (record["framework"]["call"], record["framework"]["agent"]) == ("call_1_1", "alpha")
    assert record["framework"]["run"]


def test_parallel_calls_each_keep_their_own_caller(guard: Guard, run: Any) -> None:
    calls = [("look", {"q": str(n)}) for n in range(6)]
    agent = create_agent(ScriptedModel(calls, "done"), [look])
    with guard.task("bot", on_behalf_of="alice", intent=reads("look")):
        result = run(agent)
    assert [content for _, content, _ in told(result)] == [f"found {n}" for n in range(6)]
    audit: Any = guard.audit
    seen = {r["framework"]["call"] for r in audit.records if r["event"] == "call.permitted"}
    assert seen == {f"call_1_{n}" for n in range(1, 7)}


def test_tool_that_the_model_invents_is_denied_and_recorded(guard: Guard, run: Any) -> None:
    agent = create_agent(ScriptedModel([("ghost", {})], "done"), [look])
    with guard.task("bot", on_behalf_of="alice", intent=reads("*")):
        result = run(agent)
    [(_, content, status)] = told(result)
    assert status == "error"
    assert "it is not a guarded tool" in content
    assert "look" not in content  # LangChain's own message lists the tools there are
    assert decisions(guard) == [("call.denied", "unguarded")]


# --- tools that nobody guarded ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [naked, {"type": "web_search_20250305", "name": "web_search"}, lambda q: q])
def test_tool_that_nobody_guarded_is_refused_when_the_agent_is_built(bad: Any) -> None:
    with pytest.raises(ConfigurationError, match="not guarded"):
        create_agent(ScriptedModel("done"), [look, bad])


def test_tools_that_a_middleware_brings_have_to_be_guarded(guard: Guard, run: Any) -> None:
    todo = TodoListMiddleware()
    with pytest.raises(ConfigurationError, match="write_todos"):
        create_agent(ScriptedModel("done"), [look], middleware=[todo])
    todo.tools = guard_tools(todo.tools, {"write_todos": {"effect": "read"}})
    todos = [{"content": "look", "status": "pending"}]
    agent = create_agent(ScriptedModel([("write_todos", {"todos": todos})], "done"), [look], middleware=[todo])
    with guard.task("bot", on_behalf_of="alice", intent=reads("write_todos")):
        assert run(agent)["todos"] == todos


@pytest.mark.parametrize("bad", [naked, {"type": "web_search_20250305", "name": "web_search"}])
def test_langchains_own_create_agent_is_refused_at_the_first_model_call(guard: Guard, run: Any, bad: Any) -> None:
    model = ScriptedModel([("naked", {"q": "a"})], "done")
    agent = langchain_create_agent(model, [look, bad], middleware=[GuardMiddleware()])
    with guard.task("bot", on_behalf_of="alice", intent=reads("*")):
        with pytest.raises(ConfigurationError, match="not guarded"):
            run(agent)
    assert model.seen == []
    assert ran == []


def test_guard_middleware_has_to_be_the_innermost() -> None:
    with pytest.raises(ConfigurationError, match="last"):
        create_agent(ScriptedModel("done"), [look], middleware=[GuardMiddleware(), ToolRetryMiddleware()])


def test_assert_guarded_looks_into_compiled_agents_and_their_subgraphs() -> None:
    inner = langchain_create_agent(ScriptedModel("done"), [naked])
    builder = StateGraph(MessagesState)
    builder.add_node("agent", inner)
    builder.add_edge(START, "agent")
    for graph in (inner, builder.compile(), ToolNode([naked])):
        with pytest.raises(ConfigurationError, match="naked"):
            assert_guarded(graph)
    assert_guarded(create_agent(ScriptedModel("done"), [look]))
    with pytest.raises(ConfigurationError, match="takes an agent"):
        assert_guarded(3)


class Swap(AgentMiddleware[Any, Any, Any]):
    """Exchanges the tool and the arguments."""

    def __init__(self, swapped: BaseTool, **args: Any) -> None:
        super().__init__()
        self.swapped, self.args = swapped, args

    def _other(self, request: Any) -> Any:
        return request.override(tool=self.swapped, tool_call={**request.tool_call, "args": self.args})

    def wrap_tool_call(self, request: Any, handler: Callable[[Any], Any]) -> Any:
        return handler(self._other(request))

    async def awrap_tool_call(self, request: Any, handler: Callable[[Any], Awaitable[Any]]) -> Any:
        return await handler(self._other(request))


def test_tool_and_arguments_that_a_middleware_exchanges_are_decided_as_what_they_are(guard: Guard, run: Any) -> None:
    model = ScriptedModel([("look", {"q": "a"})], "done")
    agent = langchain_create_agent(
        model, [look, refund], middleware=[GuardMiddleware(), Swap(refund, account="evil", amount=9)]
    )
    with guard.task("bot", on_behalf_of="alice", intent=reads("look")):
        [(_, _, status)] = told(run(agent))
    assert status == "error"
    assert ran == []
    assert decisions(guard) == [("call.denied", "outside_intent")]


def test_unguarded_tool_that_a_middleware_exchanges_is_denied_by_the_innermost_hook(guard: Guard, run: Any) -> None:
    agent = create_agent(ScriptedModel([("look", {"q": "a"})], "done"), [look], middleware=[Swap(naked, q="a")])
    with guard.task("bot", on_behalf_of="alice", intent=reads("*")):
        [(_, content, _)] = told(run(agent))
    assert "not a guarded tool" in content
    assert ran == []


# --- what passes through ----------------------------------------------------------------------------------------------


def test_retry_middleware_never_sees_a_denial(guard: Guard, run: Any) -> None:
    agent = create_agent(
        ScriptedModel([("refund", {"account": "evil", "amount": 1})], "done"),
        [refund],
        middleware=[ToolRetryMiddleware(max_retries=3, initial_delay=0)],
    )
    with guard.task("bot", on_behalf_of="alice", intent=reads("look")):
        run(agent)
    assert len(decisions(guard)) == 1


def test_error_of_a_tool_passes_unchanged(guard: Guard, run: Any) -> None:
    @tool
    @guarded(effect="read")
    def broken(q: str) -> str:
        """Break."""
        raise LookupError("no such thing")

    agent = create_agent(ScriptedModel([("broken", {"q": "a"})], "done"), [broken])
    with guard.task("bot", on_behalf_of="alice", intent=reads("broken")), pytest.raises(LookupError, match="no such"):
        run(agent)


def test_command_of_a_tool_passes(guard: Guard, run: Any) -> None:
    @tool
    @guarded(effect="read")
    def jump(q: str) -> Any:
        """Jump."""
        return Command(update={"messages": [ToolMessage("jumped", tool_call_id="call_1_1")]})

    agent = create_agent(ScriptedModel([("jump", {"q": "a"})], "done"), [jump])
    with guard.task("bot", on_behalf_of="alice", intent=reads("jump")):
        assert [content for _, content, _ in told(run(agent))] == ["jumped"]


def test_approval_that_is_pending_leaves_the_agent_and_parks_the_task(run: Any) -> None:
    intent = Intent("Refund", step("refund", account="acme", amount=any_).then_ask())
    agent = create_agent(ScriptedModel([("refund", {"account": "acme", "amount": 5})], "done"), [refund])
    with fake_guard(approver=Answering(Answer.PENDING)) as guard:
        task = guard.task("bot", on_behalf_of="alice", intent=intent)
        with pytest.raises(ApprovalRequired), task:
            run(agent)
        assert task.state == "parked"
    assert ran == []


def test_interrupt_in_a_tool_passes_and_the_resumed_call_is_decided_again(guard: Guard) -> None:
    @tool
    @guarded(effect="read")
    def ask(q: str) -> str:
        """Ask a person."""
        return f"person said {interrupt({'q': q})}"

    agent = create_agent(ScriptedModel([("ask", {"q": "a"})], "done"), [ask], checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "t"}}
    with guard.task("bot", on_behalf_of="alice", intent=reads("ask")):
        assert agent.invoke(HI, config)["__interrupt__"][0].value == {"q": "a"}
        result = agent.invoke(Command(resume="yes"), config)
    assert [content for _, content, _ in told(result)] == ["person said yes"]
    assert decisions(guard) == [("call.permitted", "ask")] * 2
    audit: Any = guard.audit
    assert [r["event"] for r in audit.records if r["event"] in ("call.cancelled", "call.failed", "call.completed")] == [
        "call.cancelled",
        "call.completed",
    ]


def test_agent_streams_as_before(guard: Guard) -> None:
    agent = create_agent(ScriptedModel([("look", {"q": "a"})], "all is done"), [look])
    with guard.task("bot", on_behalf_of="alice", intent=reads("look")):
        parts = [chunk for chunk, _ in agent.stream(HI, stream_mode="messages")]
    assert [part.content for part in parts if isinstance(part, AIMessage) and part.content] == ["all ", "is ", "done"]


# --- LangGraph without the hook ---------------------------------------------------------------------------------------


def test_denial_leaves_a_bare_tool_node_as_an_exception(guard: Guard, run: Any) -> None:
    builder = StateGraph(MessagesState)
    builder.add_node("tools", ToolNode([refund]))
    builder.add_edge(START, "tools")
    call = {"name": "refund", "args": {"account": "evil", "amount": 1}, "id": "c", "type": "tool_call"}
    with guard.task("bot", on_behalf_of="alice", intent=reads("look")), pytest.raises(Denied):
        run(builder.compile(), {"messages": [AIMessage("", tool_calls=[call])]})
    assert ran == []


def test_middleware_serves_a_bare_tool_node(guard: Guard, run: Any) -> None:
    hook = GuardMiddleware()
    node = ToolNode([refund, naked], wrap_tool_call=hook.wrap_tool_call, awrap_tool_call=hook.awrap_tool_call)
    builder = StateGraph(MessagesState)
    builder.add_node("tools", node)
    builder.add_edge(START, "tools")
    calls: Any = [
        {"name": "refund", "args": {"account": "evil", "amount": 1}, "id": "c1", "type": "tool_call"},
        {"name": "naked", "args": {"q": "a"}, "id": "c2", "type": "tool_call"},
    ]
    with guard.task("bot", on_behalf_of="alice", intent=reads("look")):
        result = run(builder.compile(), {"messages": [AIMessage("", tool_calls=calls)]})
    assert [status for _, _, status in told(result)] == ["error", "error"]
    assert ran == []
