"""Which tools are guarded, and which are not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from langchain_core.tools import BaseTool, BaseToolkit

from agentguard import ConfigurationError
from agentguard_langchain.bodies import bodies_of, declared
from agentguard_langchain.wrapping import is_wrapped


def is_guarded(tool: object) -> bool:
    """Tell whether all code of a tool is guarded: by `guard_tools`, by `@guarded` below `@tool`, or as an agent_tool.

    Raises:
        ConfigurationError: only a part of it is.
    """
    if is_wrapped(tool) or getattr(type(tool), "agentguard_delegates", False):
        return True
    if not isinstance(tool, BaseTool):
        return declared(tool) is not None
    guarded = {name: declared(body) is not None for name, body in bodies_of(tool).items()}
    if any(guarded.values()) and not all(guarded.values()):
        bare = ", ".join(name for name, is_so in guarded.items() if not is_so)
        raise ConfigurationError(
            f"tool {tool.name!r} is guarded in part: {bare} is not; put @guarded on each or on none"
        )
    return bool(guarded) and all(guarded.values())


def assert_guarded(agent_or_tools: object) -> None:
    """Refuse an agent or a collection of tools that holds a tool which nobody guarded.

    Looks into compiled graphs, their sub-graphs and the agents of an `agent_tool` for their ToolNodes. Tools that the
    model's provider runs are seen in a list of tools only: a compiled agent does not show them (`create_agent` of this
    package checks before).

    Args:
        agent_or_tools: a compiled graph, a ToolNode, a tool, a toolkit, or an iterable of tools.

    Raises:
        ConfigurationError: names every tool that is not guarded.
    """
    bare = [
        name_of(tool) for tool in _tools_in(agent_or_tools, set()) if isinstance(tool, dict) or not is_guarded(tool)
    ]
    if bare:
        raise ConfigurationError(
            f"these tools are not guarded: {', '.join(sorted(bare))}; pass them through guard_tools(...), put @guarded "
            "below @tool, or leave out what the model's provider runs itself"
        )


def name_of(tool: object) -> str:
    """A tool's name for people: of a tool object, a function, or a provider's mapping."""
    if isinstance(tool, Mapping):
        return str(tool.get("name") or tool.get("type") or tool)
    return str(getattr(tool, "name", None) or getattr(tool, "__name__", None) or tool)


def _tools_in(found: Any, seen: set[int]) -> Iterator[Any]:
    if id(found) in seen:
        return
    seen.add(id(found))
    if isinstance(found, BaseTool | dict) or (callable(found) and not hasattr(found, "invoke")):
        yield found
        agent = getattr(found, "agent", None) if getattr(type(found), "agentguard_delegates", False) else None
        if isinstance(getattr(agent, "nodes", None), Mapping):
            yield from _tools_in(agent, seen)
    elif isinstance(found, BaseToolkit):
        yield from found.get_tools()
    elif isinstance(getattr(found, "tools_by_name", None), Mapping):  # a ToolNode
        yield from found.tools_by_name.values()
    elif isinstance(getattr(found, "nodes", None), Mapping):  # a compiled graph
        for node in found.nodes.values():
            inner = getattr(node, "bound", None)
            if hasattr(inner, "tools_by_name") or isinstance(getattr(inner, "nodes", None), Mapping):
                yield from _tools_in(inner, seen)
    elif isinstance(found, Iterable) and not isinstance(found, str):
        for item in found:
            yield from _tools_in(item, seen)
    else:
        raise ConfigurationError(f"assert_guarded takes an agent, a ToolNode or tools, not a {type(found).__name__}")
