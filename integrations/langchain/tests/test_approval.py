"""A graph that pauses for a person is resumed under its task's own identity, and decided again."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from langchain.agents.middleware import ToolRetryMiddleware
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command, interrupt

from agentguard import ApprovalRequired, ConfigurationError, Guard, Intent, any_, current_call, guarded, step
from agentguard.ports import Answer
from agentguard.testing import Answering, fake_guard
from agentguard_langchain import GuardMiddleware, create_agent
from agentguard_langchain.testing import ScriptedModel

paid: list[tuple[str, int]] = []
keys: list[str] = []
CONFIG: Any = {"configurable": {"thread_id": "t1"}}
INTENT = Intent("Pay", step("approval.pay", account=any_, amount=any_).times(3).then_ask())


@tool
@guarded("approval.pay")
def pay(account: str, amount: int) -> str:
    """Pay an amount to an account."""
    paid.append((account, amount))
    return f"paid {amount}"


@tool
@guarded("approval.pay")
async def apay(account: str, amount: int) -> str:
    """Pay an amount to an account."""
    paid.append((account, amount))
    return f"paid {amount}"


@pytest.fixture
def guard() -> Any:
    paid.clear()
    with fake_guard(approver=Answering(Answer.PENDING)) as made:
        yield made


def agent_of(body: Any, *calls: tuple[str, int]) -> Any:
    script = [[(body.name, {"account": account, "amount": amount})] for account, amount in calls]
    middleware = [GuardMiddleware(on_approval="interrupt")]
    model = ScriptedModel(*script, "done")
    return create_agent(model, [body], middleware=middleware, checkpointer=InMemorySaver())


def begun(guard: Guard, agent: Any) -> tuple[str, str]:
    """Run until the graph pauses; return the ids of the task and the question."""
    with guard.task("bot", on_behalf_of="alice", intent=INTENT) as task:
        found = agent.invoke({"messages": [("user", "pay")]}, CONFIG)
    (asked,) = found["__interrupt__"]
    assert str(task.state) == "parked"
    return task.id, asked.value["question"]


def test_graph_pauses_and_goes_on_once_the_call_is_approved(guard: Guard) -> None:
    agent = agent_of(pay, ("acme", 40))
    task, question = begun(guard, agent)
    assert guard.answer(question, approved=True, by="ann")
    with guard.resume(task, on_behalf_of="alice"):
        found = agent.invoke(Command(resume="go on"), CONFIG)
    assert (paid, found["messages"][-1].text) == ([("acme", 40)], "done")


@pytest.mark.control("7 what a graph is resumed with is no answer")
@pytest.mark.parametrize("value", [True, "approved", {"approved": True, "by": "ann"}, "yes"])
def test_graph_that_is_resumed_without_an_answer_pauses_again(guard: Guard, value: Any) -> None:
    agent = agent_of(pay, ("acme", 40))
    task, question = begun(guard, agent)
    with guard.resume(task, on_behalf_of="alice"):
        found = agent.invoke(Command(resume=value), CONFIG)
    assert (paid, found["__interrupt__"][0].value["question"]) == ([], question)


def test_call_that_was_rejected_is_told_to_the_model_as_a_denial(guard: Guard) -> None:
    agent = agent_of(pay, ("acme", 40))
    task, question = begun(guard, agent)
    guard.answer(question, approved=False, by="ann")
    with guard.resume(task, on_behalf_of="alice"):
        found = agent.invoke(Command(resume="go on"), CONFIG)
    assert paid == []
    assert "was not approved" in found["messages"][-2].text


@pytest.mark.control("7 the graph runs under the resumed identity")
def test_graph_is_not_resumed_under_another_task(guard: Guard) -> None:
    agent = agent_of(pay, ("acme", 40))
    _, question = begun(guard, agent)
    guard.answer(question, approved=True, by="ann")
    with guard.task("bot", on_behalf_of="mallory", intent=INTENT):
        found = agent.invoke(Command(resume="go on"), CONFIG)
    assert (paid, found["__interrupt__"][0].value["question"] != question) == ([], True)


def test_next_call_with_other_arguments_is_asked_about_anew(guard: Guard) -> None:
    agent = agent_of(pay, ("acme", 40), ("acme", 41))
    task, question = begun(guard, agent)
    guard.answer(question, approved=True, by="ann")
    with guard.resume(task, on_behalf_of="alice"):
        found = agent.invoke(Command(resume="go on"), CONFIG)
    assert (paid, found["__interrupt__"][0].value["question"] != question) == ([("acme", 40)], True)


@pytest.mark.anyio
async def test_graph_of_an_event_loop_pauses_and_goes_on_too(anyio_backend_name: str) -> None:
    if anyio_backend_name != "asyncio":
        pytest.skip("LangGraph runs on asyncio only")
    paid.clear()
    agent = agent_of(apay, ("acme", 40))
    with fake_guard(approver=Answering(Answer.PENDING)) as guard:
        async with guard.task("bot", on_behalf_of="alice", intent=INTENT) as task:
            found = await agent.ainvoke({"messages": [("user", "pay")]}, CONFIG)
        await guard.aanswer(found["__interrupt__"][0].value["question"], approved=True, by="ann")
        async with await guard.aresume(task.id, on_behalf_of="alice"):
            await agent.ainvoke(Command(resume="go on"), CONFIG)
    assert paid == [("acme", 40)]


@tool
@guarded("approval.sign")
def sign(amount: int) -> str:
    """Sign for an amount, once a person said how."""
    keys.append(current_call().idempotency_key)
    return f"signed {amount} {interrupt(amount)}"


@pytest.mark.parametrize(("attempts", "told"), [(1, "was not run"), (2, "signed 5 in ink")])
def test_tool_that_interrupts_itself_goes_on_where_its_step_has_another_attempt(
    guard: Guard, attempts: int, told: str
) -> None:
    keys.clear()
    model = ScriptedModel([("sign", {"amount": 5})], "done")
    agent = create_agent(model, [sign], checkpointer=InMemorySaver())
    intent = Intent("Sign", step("approval.sign", amount=5).attempts(attempts))
    with guard.task("bot", on_behalf_of="alice", intent=intent):
        agent.invoke({"messages": [("user", "sign")]}, CONFIG)
        found = agent.invoke(Command(resume="in ink"), CONFIG)
    assert told in found["messages"][-2].text
    assert (len(keys), len(set(keys))) == (attempts, 1)


def test_unknown_way_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="'raise' or 'interrupt'"):
        GuardMiddleware(on_approval="ignore")  # type: ignore[arg-type]  # on purpose


@pytest.mark.parametrize("how", ["sync", "async"])
def test_question_leaves_an_agent_that_retries_its_tools_and_is_asked_once(guard: Guard, how: str) -> None:
    model = ScriptedModel([("pay", {"account": "acme", "amount": 40})], "done")
    agent = create_agent(model, [pay], middleware=[ToolRetryMiddleware(max_retries=2, initial_delay=0)])
    hi = {"messages": [("user", "pay")]}
    with pytest.raises(ApprovalRequired) as waits, guard.task("bot", on_behalf_of="alice", intent=INTENT) as task:
        agent.invoke(hi) if how == "sync" else asyncio.run(agent.ainvoke(hi))
    audit: Any = guard.audit
    assert [r["event"] for r in audit.records].count("call.denied") == 1
    assert (len(model.seen), str(task.state), paid) == (1, "parked", [])
    assert guard.answer(waits.value.question, approved=True, by="ann")
