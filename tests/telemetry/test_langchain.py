"""A call's span nests below the framework's span of the same step, with and without OpenInference."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.tools import BaseTool, tool
from openinference.instrumentation.langchain import LangChainInstrumentor
from opentelemetry.sdk.trace import ReadableSpan

from agentguard.model.call import ToolSpec
from agentguard.model.decision import Decision
from agentguard.telemetry.spans import Attributes, start_call, tool_attributes
from tests.telemetry.conftest import Traced

OURS = "execute_tool refund"


class Scripted(BaseChatModel):
    """Says what it is told to, one message after the other."""

    script: list[AIMessage]

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Any:
        return self

    def _generate(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=self.script.pop(0))])


def guarded(traced: Traced, task: Attributes, permit: Decision) -> tuple[BaseTool, BaseTool]:
    """The same tool twice, sync and async, with the span that the guard would open in its body."""

    def call(below: str) -> str:
        span = start_call("refund", task, tool_attributes(ToolSpec(name="refund")), None, "", provider=traced.provider)
        span.decided(permit)
        span.attach()
        try:
            with traced.tracer().start_as_current_span(below):
                return "done"
        finally:
            span.end()

    @tool("refund")
    def refund(account: str) -> str:
        """Refund an account."""
        return call("GET")

    @tool("refund")
    async def arefund(account: str) -> str:
        """Refund an account."""
        await asyncio.sleep(0)
        return call("GET")

    return refund, arefund


def agent_of(guarded_tool: BaseTool) -> Any:
    calls = [{"name": "refund", "args": {"account": "acme"}, "id": "call_1", "type": "tool_call"}]
    script = [AIMessage(content="", tool_calls=calls), AIMessage(content="done")]
    return create_agent(Scripted(script=script), [guarded_tool])


ASK: dict[str, Any] = {"messages": [("user", "refund acme")]}


def invoke(refund: BaseTool, arefund: BaseTool) -> None:
    agent_of(refund).invoke(ASK)


def ainvoke(refund: BaseTool, arefund: BaseTool) -> None:
    asyncio.run(agent_of(arefund).ainvoke(ASK))


def ainvoke_of_a_sync_tool(refund: BaseTool, arefund: BaseTool) -> None:
    asyncio.run(agent_of(refund).ainvoke(ASK))


WAYS: list[Callable[[BaseTool, BaseTool], None]] = [invoke, ainvoke, ainvoke_of_a_sync_tool]


@pytest.fixture
def openinference(traced: Traced) -> Iterator[None]:
    LangChainInstrumentor().instrument(tracer_provider=traced.provider)
    yield
    LangChainInstrumentor().uninstrument()


def run(
    traced: Traced, way: Callable[[BaseTool, BaseTool], None], tools: tuple[BaseTool, BaseTool], outer: bool
) -> None:
    with traced.tracer().start_as_current_span("outer") if outer else nullcontext():
        way(*tools)


def above(traced: Traced, child: str) -> list[str]:
    """The names of a span's ancestors, nearest first."""
    spans = {span.context.span_id: span for span in traced.exporter.get_finished_spans() if span.context}
    names: list[str] = []
    current: ReadableSpan | None = traced.spans()[child]
    while current is not None and current.parent is not None:
        current = spans.get(current.parent.span_id)
        names += [current.name] if current else []
    return names


@pytest.mark.parametrize("outer", [True, False])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.usefixtures("openinference")
def test_below_openinference_a_call_nests_under_the_span_of_the_tool(
    traced: Traced, task: Attributes, permit: Decision, way: Callable[[BaseTool, BaseTool], None], outer: bool,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    run(traced, way, guarded(traced, task, permit), outer)

    assert "refund" == above(traced, OURS)[0]
    assert [OURS, "refund"] == above(traced, "GET")[:2]
    assert ("outer" if outer else "LangGraph") == above(traced, OURS)[-1]
    assert 1 == len({span.context.trace_id for span in traced.exporter.get_finished_spans() if span.context})
    assert "" == capsys.readouterr().out


@pytest.mark.parametrize("outer", [True, False])
@pytest.mark.parametrize("way", WAYS)
def test_without_instrumentation_a_call_nests_under_the_ambient_span(
    traced: Traced, task: Attributes, permit: Decision, way: Callable[[BaseTool, BaseTool], None], outer: bool,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    run(traced, way, guarded(traced, task, permit), outer)

    assert (["outer"] if outer else []) == above(traced, OURS)
    assert OURS == above(traced, "GET")[0]
    assert "" == capsys.readouterr().out


@pytest.mark.usefixtures("openinference")
def test_a_span_opened_inside_the_tool_is_nearer_than_the_tools(
    traced: Traced, task: Attributes, permit: Decision
) -> None:
    refund, _ = guarded(traced, task, permit)

    @tool("wrapper")
    def wrapper(account: str) -> str:
        """Call the refund function from inside another tool."""
        with traced.tracer().start_as_current_span("inner"):
            return str(refund.func(account=account))  # type: ignore[attr-defined]  # a StructuredTool has it

    wrapper.invoke({"account": "acme"})

    assert "inner" == above(traced, OURS)[0]


@pytest.mark.usefixtures("openinference")
def test_a_guarded_tool_inside_a_guarded_tool_nests_below_it(
    traced: Traced, task: Attributes, permit: Decision
) -> None:
    refund, _ = guarded(traced, task, permit)

    @tool("wrapper")
    def wrapper(account: str) -> str:
        """Call the refund function from inside another guarded tool."""
        span = start_call("wrapper", task, {}, None, "", provider=traced.provider)
        span.attach()
        try:
            return str(refund.func(account=account))  # type: ignore[attr-defined]  # a StructuredTool has it
        finally:
            span.end()

    wrapper.invoke({"account": "acme"})

    assert ["execute_tool wrapper", "wrapper"] == above(traced, OURS)
