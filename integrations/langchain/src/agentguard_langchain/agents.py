"""A sub-agent as a tool: it works inside a task of its own, which can only narrow the caller's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from langchain_core.callbacks import AsyncCallbackManagerForToolRun, CallbackManagerForToolRun
from langchain_core.messages import AIMessage
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.tools import BaseTool
from langgraph.errors import GraphInterrupt
from pydantic import BaseModel, Field

from agentguard import ConfigurationError, Intent, Reason, Task, current_task
from agentguard.intent import Step
from agentguard_langchain.denial import denied


class Request(BaseModel):
    """What a sub-agent is asked to do."""

    request: str = Field(description="What the agent should do, in full sentences; it sees nothing else.")


class AgentTool(BaseTool):
    """Runs an agent under `task.delegate(...)`: the delegation is what is decided and recorded. See `agent_tool`."""

    agentguard_delegates: ClassVar[bool] = True

    agent: Runnable[Any, Any]
    actor: str
    reads: tuple[str, ...] = ()
    steps: tuple[Step, ...] = ()
    intent: Intent | None = None
    args_schema: Any = Request

    def _run(self, request: str, config: RunnableConfig, run_manager: CallbackManagerForToolRun | None = None) -> str:
        with self._delegated():
            return _answer(self.agent.invoke(_asked(request), config))

    async def _arun(
        self, request: str, config: RunnableConfig, run_manager: AsyncCallbackManagerForToolRun | None = None
    ) -> str:
        async with self._delegated():
            return _answer(await self.agent.ainvoke(_asked(request), config))

    def _delegated(self) -> Task:
        task = current_task()
        if not (self.reads or self.steps or self.intent) and self.actor not in task.intent.agents:
            text = f"the intent's `agents` names no {self.actor!r}; add it there, or pass reads=, steps= or intent="
            raise denied(self.actor, Reason.OUTSIDE_INTENT, text)
        return task.delegate(self.actor, reads=list(self.reads), steps=list(self.steps), intent=self.intent)


def agent_tool(
    agent: Runnable[Any, Any],
    name: str,
    description: str,
    *,
    reads: Sequence[str] = (),
    steps: Step | Sequence[Step] = (),
    intent: Intent | None = None,
) -> BaseTool:
    """Return a tool that runs an agent as a sub-agent: `user > caller > name`, with less than the caller may.

    Without reads, steps and intent it gets what the caller's intent says under `agents`. A delegation that is refused
    reaches the caller's model as an error message, through GuardMiddleware.

    Args:
        agent: a compiled agent; give it a GuardMiddleware of its own, a caller's does not reach it.
        name: the tool's name and the sub-agent's name in the registry.
        description: when to use it, for the caller's model.
        reads: tool patterns it may read with.
        steps: steps made with `step(...)`.
        intent: a whole intent instead of reads and steps.

    Raises:
        ConfigurationError: reads is one text; its letters would be the patterns.
    """
    if isinstance(reads, str):
        raise ConfigurationError(f"agent_tool {name!r}: reads is a list, such as reads=[{reads!r}]")
    listed = (steps,) if isinstance(steps, Step) else tuple(steps)
    return AgentTool(
        name=name, description=description, agent=agent, actor=name, reads=tuple(reads), steps=listed, intent=intent
    )


def _asked(request: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": request}]}


def _answer(result: Any) -> str:
    """The text of the last message, when an agent wrote it.

    Raises:
        GraphInterrupt: the agent paused, which it says by its result where no graph runs around it.
    """
    if isinstance(result, dict) and result.get("__interrupt__"):
        raise GraphInterrupt(result["__interrupt__"])
    messages = result.get("messages", ()) if isinstance(result, dict) else ()
    last = messages[-1] if messages else None
    return str(last.text) if isinstance(last, AIMessage) else str(getattr(last, "content", result))
