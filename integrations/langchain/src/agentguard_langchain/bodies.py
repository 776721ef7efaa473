"""Where the code of a tool stands: in `func` and `coroutine`, or in methods that its class overrides."""

from __future__ import annotations

import functools
import inspect
from typing import Any, Final

from langchain_core.tools import BaseTool, StructuredTool, Tool

import agentguard
from agentguard import ConfigurationError

_CORE: Final = (BaseTool, StructuredTool, Tool)
_FUNCTIONS: Final = ("func", "coroutine")
_METHODS: Final = ("_run", "_arun")
# What leads to a body. A class that overrides one of these could run something that nobody sees.
_ENTRANCES: Final = ("run", "arun", "invoke", "ainvoke", "batch", "abatch", "stream", "astream")


def own_methods(kind: type[BaseTool]) -> dict[str, Any]:
    """Return those of `_run` and `_arun` that the tool's class overrides."""
    return {name: getattr(kind, name) for name in _METHODS if not _from_core(kind, name)}


def bodies_of(tool: BaseTool) -> dict[str, Any]:
    """Return all places where the tool's own code stands, by attribute."""
    functions = {name: tool.__dict__[name] for name in _FUNCTIONS if callable(tool.__dict__.get(name))}
    return {**functions, **own_methods(type(tool))}


def declared(body: Any) -> agentguard.ToolSpec | None:
    """Return the declaration of a guarded body, also behind a partial. `__wrapped__` is not followed.

    INVARIANT: the way goes towards the function that is called, never past a guard to what it protects.
    """
    while isinstance(body, functools.partial):
        body = body.func
    return agentguard.spec_of(body)


def refuse_unguardable(tool: BaseTool) -> None:
    """Refuse a tool whose code could not be guarded.

    Raises:
        ConfigurationError: there is no code, it is an async generator, or the class overrides an entrance.
    """
    bodies, kind = bodies_of(tool), type(tool)
    if not bodies:
        raise ConfigurationError(f"tool {tool.name!r} has no function of its own that could be guarded")
    for name in _ENTRANCES:
        if not _from_core(kind, name):
            raise ConfigurationError(
                f"tool {tool.name!r}: {kind.__name__} overrides {name}(), which runs around the guard; "
                f"move its work into _run and _arun, or put @guarded on the function that does it"
            )
    if "_run" in bodies and kind._arun in (StructuredTool._arun, Tool._arun):
        missing = {"config", "run_manager"} - set(inspect.signature(kind._run).parameters)
        if missing:
            raise ConfigurationError(
                f"tool {tool.name!r}: {kind.__name__}._run is called with config and run_manager by the _arun it "
                "inherits, and could not tell them from arguments; declare both parameters as StructuredTool._run does"
            )
    for name, body in bodies.items():
        if inspect.isasyncgenfunction(_called(body)):
            raise ConfigurationError(
                f"tool {tool.name!r}: {name} is an async generator, which LangChain returns without running it; "
                "collect its parts and return them, or stream with LangGraph's get_stream_writer()"
            )


def _called(body: Any) -> Any:
    while isinstance(body, functools.partial):
        body = body.func
    return body if inspect.isroutine(body) else type(body).__call__


def _from_core(kind: type[BaseTool], name: str) -> bool:
    found = getattr(kind, name)
    return any(found is getattr(core, name) for core in _CORE)
