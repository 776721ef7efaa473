"""`guard_tools`: tools that others wrote, guarded."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from langchain_core.tools import BaseTool, BaseToolkit, StructuredTool

from agentguard import ConfigurationError, Credential, current_credential
from agentguard_langchain.bodies import declared
from agentguard_langchain.checks import is_guarded
from agentguard_langchain.specs import Fields, Specs, guard_name, read_specs, refuse_unused
from agentguard_langchain.wrapping import wrap

Listed: TypeAlias = "BaseTool | BaseToolkit | Sequence[BaseTool | Callable[..., Any]]"
Factory: TypeAlias = "Callable[[Credential | None], Listed]"


def guard_tools(tools: Listed | Factory, specs: Specs = None) -> list[BaseTool]:
    """Return guarded tools that look the same to a model; every call of them goes through the active task's guard.

    The originals stay unguarded: give an agent only what this returns. A tool that is guarded already (`@tool` over
    `@guarded`, or wrapped here) is passed through. Values that a model writes for arguments that LangChain or
    LangGraph injects are dropped.

    Args:
        tools: a tool, a sequence of tools and `@guarded` functions, a toolkit, or `factory(credential)` for tools whose
            client takes a token: it builds the tools anew inside each call, with that call's credential. It is called
            with None once, now, for names and schemas; the tools it builds then are never run.
        specs: by LangChain's name of the tool, the fields of its ToolSpec (effect, audience, ...) and `name`, its guard
            name; or the path of a tools.yaml: `{version: 1, tools: {NAME: {effect: read}}}`. A tool that is not
            mentioned is a write under its own name.

    Raises:
        ConfigurationError: a name or a declaration is wrong, a spec names no tool, or a tool cannot be guarded.
    """
    factory = _factory_in(tools)
    found = _listed(tools if factory is None else factory(None))
    fields = read_specs(specs)
    names = [tool.name for tool in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigurationError(f"two tools are named {', '.join(twice)}; an agent would see only one of them")
    refuse_unused(fields, names)
    if factory is not None:
        return [_from_factory(tool, factory, fields.get(tool.name)) for tool in found]
    return [_guarded(tool, fields.get(tool.name)) for tool in found]


def _factory_in(tools: Any) -> Factory | None:
    known = isinstance(tools, BaseTool | BaseToolkit | Sequence) or declared(tools) is not None
    return tools if callable(tools) and not known else None


def _listed(tools: Any) -> list[BaseTool]:
    if isinstance(tools, BaseToolkit):
        return list(tools.get_tools())
    if isinstance(tools, BaseTool) or (callable(tools) and declared(tools) is not None):
        tools = [tools]
    if not isinstance(tools, Sequence) or isinstance(tools, str):
        raise ConfigurationError(
            f"guard_tools takes a tool, a list of tools, a toolkit or a factory, not {type(tools).__name__}"
        )
    return [_as_tool(tool) for tool in tools]


def _as_tool(tool: Any) -> BaseTool:
    if isinstance(tool, BaseTool):
        return tool
    if isinstance(tool, dict):
        raise ConfigurationError(
            f"tool {tool.get('name') or tool.get('type')!r} is run by the model's provider, where no guard stands"
        )
    if not callable(tool) or inspect.isclass(tool):
        raise ConfigurationError(f"{tool!r} is no tool; pass tools made with @tool, or functions under @guarded")
    if inspect.iscoroutinefunction(tool):
        return StructuredTool.from_function(coroutine=tool)
    return StructuredTool.from_function(tool)


def _guarded(tool: BaseTool, fields: Fields | None) -> BaseTool:
    if is_guarded(tool):
        if fields is not None:
            raise ConfigurationError(f"tool {tool.name!r} is guarded already and declares itself; drop its spec")
        return tool
    return wrap(tool, guard_name(tool.name, fields or {}), _without_name(fields or {}))


def _without_name(fields: Fields) -> Fields:
    return {key: value for key, value in fields.items() if key != "name"}


# --- tools that are built inside the call ---------------------------------------------------------------------------


def _from_factory(probe: BaseTool, factory: Factory, fields: Fields | None) -> BaseTool:
    if fields is None or not fields.get("audience"):
        raise ConfigurationError(
            f"tool {probe.name!r} is built with a credential, so its spec has to say what for: "
            f'specs={{"{probe.name}": {{"effect": "read", "audience": "https://api.example.com", "scopes": ["..."]}}}}'
        )
    if is_guarded(probe):
        raise ConfigurationError(f"tool {probe.name!r} of the factory is guarded already; build plain tools in it")
    rebuild = _Rebuild(factory, probe.name)
    return wrap(probe, guard_name(probe.name, fields), _without_name(fields), rebuild)


class _Rebuild:
    """Makes a body that builds the tools anew with the running call's credential, and runs the one of its name."""

    def __init__(self, factory: Factory, name: str) -> None:
        self.factory, self.name = factory, name

    def __call__(self, attribute: str, raw: Any) -> Any:
        first = next(iter(inspect.signature(raw).parameters), "") if attribute.startswith("_") else ""

        def fresh(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if first and kwargs.pop(first, None) is None:
                args = args[1:]  # the probe itself, which is never run
            return getattr(self._built(), attribute)(*args, **kwargs)

        if inspect.iscoroutinefunction(raw):

            @functools.wraps(raw)
            async def rebuilt_async(*args: Any, **kwargs: Any) -> Any:
                return await fresh(args, kwargs)

            return rebuilt_async

        @functools.wraps(raw)
        def rebuilt(*args: Any, **kwargs: Any) -> Any:
            return fresh(args, kwargs)

        return rebuilt

    def _built(self) -> BaseTool:
        for tool in _listed(self.factory(current_credential())):
            if tool.name == self.name:
                return tool
        raise ConfigurationError(f"the factory built no tool {self.name!r}, which it built when it was wrapped")


__all__ = ["guard_tools"]
