"""Which tools are guarded, and which are not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool, BaseToolkit

from agentguard import ConfigurationError
from agentguard_langchain.bodies import bodies_of, declared
from agentguard_langchain.injected import shown_among
from agentguard_langchain.wrapping import is_wrapped

# Where LangChain's runnables and a graph's nodes keep what they run: of retries, sequences, fallbacks, parallels.
_AROUND: Final = ("bound", "steps", "runnable", "fallbacks", "steps__")


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

    Looks into compiled graphs, their sub-graphs and the agents of an `agent_tool` for their ToolNodes, also behind
    `with_retry`, `with_fallbacks` and `|`; not into a node that is a function of your own. Tools that the
    model's provider runs are seen in a list of tools only: a compiled agent does not show them (`create_agent` of this
    package checks before).

    Args:
        agent_or_tools: a compiled graph, a ToolNode, a tool, a toolkit, or an iterable of tools.

    Raises:
        ConfigurationError: names every tool that is not guarded, or one that shows the model an argument which its
            guard takes for filled by the framework, and does not check.
    """
    tools = list(_tools_in(agent_or_tools, set()))
    bare = [name_of(tool) for tool in tools if isinstance(tool, dict) or not is_guarded(tool)]
    if bare:
        raise ConfigurationError(
            f"these tools are not guarded: {', '.join(sorted(bare))}; pass them through guard_tools(...), put @guarded "
            "below @tool, or leave out what the model's provider runs itself"
        )
    for tool in tools:
        _refuse_unchecked(tool)


def _refuse_unchecked(tool: Any) -> None:
    if not isinstance(tool, BaseTool) or is_wrapped(tool):  # what guard_tools wrapped drops what a model writes there
        return
    specs = filter(None, map(declared, bodies_of(tool).values()))
    shown = shown_among(frozenset().union(*(spec.hidden for spec in specs)), tool)
    if shown:
        names = ", ".join(sorted(shown))
        raise ConfigurationError(
            f"tool {tool.name!r} shows the model {names}, which @guarded takes for filled by others and does not "
            "check; take it out of args_schema, mark it there as injected too, or take the mark from the function"
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
        if getattr(type(found), "agentguard_delegates", False):
            yield from _tools_below(getattr(found, "agent", None), seen)
    elif isinstance(found, BaseToolkit):
        yield from _tools_in(found.get_tools(), seen)
    elif _parts_of(found) and _shows_tools(found):
        yield from _tools_below(found, seen)
    elif isinstance(getattr(found, "tools_by_name", None), Mapping):  # a ToolNode
        yield from _tools_in(list(found.tools_by_name.values()), seen)
    elif isinstance(getattr(found, "nodes", None), Mapping):  # a compiled graph
        for node in found.nodes.values():
            yield from _tools_below(node, seen)
    elif isinstance(found, Iterable) and not isinstance(found, str | Runnable):
        for item in found:
            yield from _tools_in(item, seen)
    else:
        raise ConfigurationError(f"assert_guarded takes an agent, a ToolNode or tools, not a {type(found).__name__}")


def _tools_below(runnable: Any, seen: set[int]) -> Iterator[Any]:
    """Look through what is run as a whole for a tool, a ToolNode or a graph, whatever LangChain put around it.

    INVARIANT: the parts come first: what stands around one shows attributes of that one as its own.
    """
    parts = _parts_of(runnable)
    for part in parts:
        yield from _tools_below(part, seen)
    if not parts and _shows_tools(runnable):
        yield from _tools_in(runnable, seen)


def _shows_tools(runnable: Any) -> bool:
    if parts := _parts_of(runnable):
        return any(map(_shows_tools, parts))
    held = (getattr(runnable, name, None) for name in ("tools_by_name", "nodes"))
    return isinstance(runnable, BaseTool) or any(isinstance(one, Mapping) for one in held)


def _parts_of(runnable: Any) -> list[Any]:
    parts: list[Any] = []
    for name in _AROUND:
        held = getattr(runnable, name, None)
        held = held.values() if isinstance(held, Mapping) else held
        parts += [held] if isinstance(held, Runnable) else held if isinstance(held, Iterable) else []
    return [part for part in parts if isinstance(part, Runnable)]
