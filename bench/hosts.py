"""What a guarded tool costs inside LangChain and LangGraph, over the same tool without a guard.

Between two calls a host runs much Python of its own, so caches are cold and everything costs more than in a loop; F is
measured inside the host too. The time is that of the whole process: LangGraph runs tools in threads. Run as
`python -m bench.hosts [--json]`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.tools import BaseTool, StructuredTool
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from opentelemetry import trace

import agentguard
from bench.floor import floor, provider
from bench.harness import Bar, Case, Ratio, compare, figure, number, valid, versions
from bench.report import printed
from bench.workload import chain, read_again, read_once

ARGUMENTS: Final = {"customer": "c-1", "limit": 10}
BATCH: Final = 0.02  # seconds: a step of a graph takes several milliseconds
BARS: Final[Mapping[str, Bar]] = {"langchain_guarded_over_plain": Bar(1.75, 1.65)}


def read_plain(customer: str, limit: int = 5, region: str = "eu") -> str:
    """Read with no guard at all."""
    return customer


def tools() -> Mapping[str, BaseTool]:
    """The same tool four times: plain, guarded with a credential of its own or a kept one, and with F in its body."""
    bare = floor(provider().get_tracer("bench"))

    def read_with_floor(customer: str, limit: int = 5, region: str = "eu") -> str:
        """Read, and do what nobody can save."""
        bare()
        return customer

    bodies = {"plain": read_plain, "guarded": read_once, "reused": read_again, "floor": read_with_floor}
    return {name: StructuredTool.from_function(body, name="read", description="Read.") for name, body in bodies.items()}


def invoking(tool: BaseTool) -> Case:
    """One `invoke`; what it returns is looked at first."""
    if tool.invoke(ARGUMENTS) != "c-1":
        raise AssertionError("the tool did not run")
    return lambda: tool.invoke(ARGUMENTS)


def stepping(tool: BaseTool) -> Case:
    """One step of a LangGraph graph whose only node runs the tool that a model's message calls."""
    graph = StateGraph(MessagesState)
    graph.add_node("tools", ToolNode([tool]))
    graph.add_edge(START, "tools")
    graph.add_edge("tools", END)
    compiled = graph.compile()
    called = AIMessage("", tool_calls=[{"name": "read", "args": ARGUMENTS, "id": "call-1", "type": "tool_call"}])
    state: Any = {"messages": [called]}
    last = compiled.invoke(state)["messages"][-1]
    if not isinstance(last, ToolMessage) or last.content != "c-1":
        raise AssertionError(f"the tool did not run: {last.content}")
    return lambda: compiled.invoke(state)


def over_plain(host: str, cases: Mapping[str, Case], rounds: int) -> Mapping[str, Ratio]:
    """Every case over the plain one."""
    others = {f"{host}_{name}_over_plain": case for name, case in cases.items() if name != "plain"}
    found = compare(cases["plain"], others, rounds=rounds, batch_seconds=BATCH, clock=time.process_time_ns)
    return {**{name: found[name] for name in others}, f"control_{host}": found["control"]}


def measure(rounds: int) -> Mapping[str, Ratio]:
    """Both hosts, in a task of three agents with an SDK."""
    trace.set_tracer_provider(provider())
    with tempfile.TemporaryDirectory() as name, agentguard.local(audit=Path(name)) as guard, chain(guard):
        made = tools()
        invoked = over_plain("langchain", {name: invoking(tool) for name, tool in made.items()}, rounds)
        stepped = over_plain("langgraph_step", {name: stepping(tool) for name, tool in made.items()}, rounds)
    return {**invoked, **stepped}


def share(ratios: Mapping[str, Ratio], host: str, name: str) -> float:
    """What a guard adds to the plain call, over what F in its place adds."""
    plain, added = 1.0, {case: ratios[f"{host}_{case}_over_plain"].median for case in (name, "floor")}
    return (added[name] - plain) / (added["floor"] - plain)


def report(rounds: int) -> Mapping[str, Any]:
    """All figures, with the bars they are held against; it is void when a plain call differs from itself."""
    ratios = measure(rounds)
    figures: dict[str, Mapping[str, Any]] = {name: figure(ratio, BARS.get(name)) for name, ratio in ratios.items()}
    for name in ("guarded", "reused"):
        figures[f"langchain_{name}_added_over_floor_added"] = number(share(ratios, "langchain", name), None, 2)
    ok = all(valid(ratio) for name, ratio in ratios.items() if name.startswith("control"))
    return {"valid": ok, "figures": figures, "versions": versions("langchain-core", "langgraph")}


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.hosts", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--rounds", type=int, default=40)
    options = parser.parse_args()
    return printed(report(options.rounds), json_wanted=options.json)


if __name__ == "__main__":
    sys.exit(main())
