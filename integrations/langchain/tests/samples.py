"""Tools of every make, as others write them, and what went on in them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from langchain_core.callbacks import CallbackManagerForToolRun
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import BaseTool, StructuredTool, Tool, tool
from pydantic import BaseModel, Field

from agentguard import Guard, Intent
from agentguard.model.record import Event

ran: list[Any] = []


def add(a: int, b: int = 2) -> int:
    """Add two numbers.

    Args:
        a: the first.
        b: the second.
    """
    ran.append(("add", a, b))
    return a + b


async def aadd(a: int, b: int = 2) -> int:
    """Add two numbers."""
    await asyncio.sleep(0)
    ran.append(("aadd", a, b))
    return a + b


class AddArgs(BaseModel):
    """Two numbers."""

    a: int = Field(description="the first")
    b: int = 2


class Adder(BaseTool):
    """Sync only."""

    name: str = "adder"
    description: str = "Add."
    args_schema: Any = AddArgs
    calls: int = 0

    def _run(self, a: int, b: int = 2, run_manager: CallbackManagerForToolRun | None = None) -> int:
        self.calls += 1
        ran.append(("adder", a, b))
        return a + b


class BothAdder(BaseTool):
    """`_arun` calls `_run` in a thread that gets no context."""

    name: str = "both_adder"
    description: str = "Add."

    def _run(self, a: int, b: int = 2) -> int:
        ran.append(("both_adder", a, b))
        return a + b

    async def _arun(self, a: int, b: int = 2) -> int:
        return await asyncio.get_running_loop().run_in_executor(None, self._run, a, b)


class Around(StructuredTool):
    """A StructuredTool that overrides `_run` and calls `func` inside."""

    def _run(
        self, *args: Any, config: RunnableConfig, run_manager: CallbackManagerForToolRun | None = None, **kwargs: Any
    ) -> Any:
        assert self.func is not None
        return self.func(*args, **kwargs)


@tool
async def parts(count: int) -> AsyncIterator[str]:
    """An async generator."""
    yield str(count)


def plain_tools() -> dict[str, BaseTool]:
    """One tool of every make; each adds two numbers."""
    return {
        "sync": tool(add),
        "async": StructuredTool.from_function(coroutine=aadd, name="aadd", description="Add."),
        "both": StructuredTool.from_function(add, aadd, name="add_both", description="Add."),
        "subclass": Adder(),
        "subclass_both": BothAdder(),
        "around": Around.from_function(add, name="around", description="Add."),
    }


class OneText(BaseModel):
    """One text."""

    tool_input: str


def single(args_schema: Any = None) -> Tool:
    """A tool with a single text."""
    return Tool(name="shout", description="Shout.", func=lambda text: text.upper(), args_schema=args_schema)


def reads(*patterns: str) -> Intent:
    """An intent that reads only."""
    return Intent("Read for a test", reads=list(patterns) or ["*"])


def decisions(guard: Guard) -> list[tuple[str, str]]:
    """(event, tool or reason) of every decision in the audit log."""
    lines: Any = guard.audit
    kept = {Event.CALL_PERMITTED: "tool", Event.CALL_DENIED: "reason", Event.DELEGATION_DENIED: "reason"}
    return [(str(r["event"]), str(r[kept[r["event"]]])) for r in lines.records if r["event"] in kept]
