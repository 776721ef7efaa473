"""The hook into LangChain's agents. It never authorises: that is done at the tool's own function, below it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from langchain.agents import create_agent as _create_agent
from langchain.agents.middleware import AgentMiddleware, ModelRequest, ModelResponse
from langchain_core.messages import ToolMessage
from langchain_core.tools import BaseTool
from langgraph.errors import GraphBubbleUp
from langgraph.prebuilt.tool_node import ToolCallRequest
from langgraph.types import Command, interrupt

from agentguard import ApprovalRequired, Caller, ConfigurationError, Denied, Reason
from agentguard_langchain.checks import assert_guarded, is_guarded
from agentguard_langchain.denial import denied, message_of

if TYPE_CHECKING:
    from langgraph.graph.state import CompiledStateGraph

Result = ToolMessage | Command[Any]


class _ApprovalRequired(ApprovalRequired, GraphBubbleUp):
    """Leaves a graph as its own control flow does: nothing that retries or handles a tool's errors keeps it in."""


class GuardMiddleware(AgentMiddleware[Any, Any, Any]):
    """Tells the guard which call and agent it is, denies tools that nobody guarded, and translates denials.

    Put it last, so that it is the innermost: then no other middleware can exchange the tool below it, and none that
    retries sees a denial. `create_agent` of this package does so. With LangChain's own, tools that are not guarded are
    refused at the first model call: LangChain shows a middleware no tools while an agent is built.

    LangGraph's interrupts pass through, and so does every error of a tool.

    Args:
        on_approval: what becomes of a call that waits for a person. `raise`: `ApprovalRequired` leaves the agent, and
            the task is parked. `interrupt`: the graph pauses by LangGraph's own `interrupt()`, which needs a
            checkpointer; the task is parked as well when its block is left. To go on, resume the task, and then the
            graph under it. The value it is resumed with is no answer: that is `guard.answer(...)`, or a command.

    Raises:
        ConfigurationError: `on_approval` is something else.
    """

    def __init__(self, *, on_approval: Literal["raise", "interrupt"] = "raise") -> None:
        super().__init__()
        if on_approval not in ("raise", "interrupt"):
            raise ConfigurationError(f"on_approval {on_approval!r}: write 'raise' or 'interrupt'")
        self._interrupts = on_approval == "interrupt"

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Any]
    ) -> ModelResponse[Any]:
        """Refuse to show tools to a model that nobody guarded.

        Raises:
            ConfigurationError: names them.
        """
        assert_guarded(request.tools)
        return handler(request)  # type: ignore[no-any-return]  # what the model's node returns

    async def awrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Awaitable[Any]]
    ) -> ModelResponse[Any]:
        """As `wrap_model_call`."""
        assert_guarded(request.tools)
        return await handler(request)  # type: ignore[no-any-return]  # what the model's node returns

    def wrap_tool_call(self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], Result]) -> Result:
        """Run one tool call; a denial becomes an error message that invites no retry."""
        while True:
            try:
                with _called(request):
                    return handler(request)
            except ApprovalRequired as waits:
                asked = self._asked(waits)
            except Denied as denial:
                return message_of(denial, request.tool_call)
            # It returns in a graph that is resumed. INVARIANT: then the call is decided again, whatever it returns.
            interrupt(asked)

    async def awrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], Awaitable[Result]]
    ) -> Result:
        """As `wrap_tool_call`."""
        while True:
            try:
                with _called(request):
                    return await handler(request)
            except ApprovalRequired as waits:
                asked = self._asked(waits)
            except Denied as denial:
                return message_of(denial, request.tool_call)
            interrupt(asked)

    def _asked(self, waits: ApprovalRequired) -> dict[str, str]:
        """What whoever resumes the graph sees: no argument, which `agentguard approvals show` does show."""
        if not self._interrupts:
            raise _ApprovalRequired(waits.decision, waits.question) from None
        return {"question": waits.question, "tool": waits.decision.tool, "reason": waits.reason}


@contextmanager
def _called(request: ToolCallRequest) -> Iterator[None]:
    if not is_guarded(request.tool):
        raise denied(request.tool_call["name"], Reason.UNGUARDED, "pass it through guard_tools(...)")
    with _caller_of(request).calling():
        yield


def _caller_of(request: ToolCallRequest) -> Caller:
    config: Any = getattr(request.runtime, "config", None) or {}
    metadata, info = config.get("metadata") or {}, getattr(request.runtime, "execution_info", None)
    run = config.get("run_id") or getattr(info, "run_id", None) or getattr(info, "task_id", None) or ""
    return Caller(request.tool_call["id"] or "", str(metadata.get("lc_agent_name") or ""), str(run))


def create_agent(
    model: Any,
    tools: Sequence[BaseTool | Callable[..., Any] | dict[str, Any]] | None = None,
    *,
    middleware: Sequence[AgentMiddleware[Any, Any, Any]] = (),
    **options: Any,
) -> CompiledStateGraph[Any, Any, Any, Any]:
    """LangChain's `create_agent`, which refuses tools that nobody guarded before anything is built.

    Args:
        model: as there.
        tools: as there; tools that the model's provider runs itself are refused, for no guard stands there.
        middleware: as there; a GuardMiddleware is put last if there is none. The tools that a middleware brings have
            to be guarded as well: `todo.tools = guard_tools(todo.tools, {...})`.
        options: as there.

    Raises:
        ConfigurationError: names the tools that are not guarded, or a GuardMiddleware is not the last.
    """
    assert_guarded([*(tools or ()), *(tool for each in middleware for tool in getattr(each, "tools", ()))])
    guards = [index for index, each in enumerate(middleware) if isinstance(each, GuardMiddleware)]
    if guards and guards != [len(middleware) - 1]:
        raise ConfigurationError("GuardMiddleware must be the last middleware, so that no other stands below it")
    stack = list(middleware) if guards else [*middleware, GuardMiddleware()]
    agent: CompiledStateGraph[Any, Any, Any, Any] = _create_agent(model, tools, middleware=stack, **options)
    return agent
