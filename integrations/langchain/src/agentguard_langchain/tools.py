"""`guard_tools`: tools that others wrote, guarded."""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager, contextmanager
from typing import Any, TypeAlias

from langchain_core.tools import BaseTool, BaseToolkit, StructuredTool

from agentguard import ConfigurationError, Credential, current_credential
from agentguard_langchain.bodies import declared
from agentguard_langchain.checks import is_guarded
from agentguard_langchain.reviewed import REVIEWED, refuse_unreviewed
from agentguard_langchain.specs import Fields, Specs, guard_name, read_specs, refuse_unused
from agentguard_langchain.wrapping import wrap

Listed: TypeAlias = "BaseTool | BaseToolkit | Sequence[BaseTool | Callable[..., Any]]"
Factory: TypeAlias = "Callable[[Credential], Any]"  # Listed, or a context manager, sync or async, of Listed


def guard_tools(
    tools: Listed | Factory, specs: Specs = None, *, like: Listed | Callable[[], Listed] | None = None
) -> list[BaseTool]:
    """Return guarded tools that look the same to a model; every call of them goes through the active task's guard.

    The originals stay unguarded: give an agent only what this returns. A tool that is guarded already (`@tool` over
    `@guarded`, or wrapped here) is passed through. Values that a model writes for arguments that LangChain or
    LangGraph injects are dropped.

    Args:
        tools: a tool, a sequence of tools and `@guarded` functions, a toolkit, or `factory(credential)` for tools whose
            client takes a credential: it builds the tools anew inside each call, with that call's credential, or
            returns a context manager that does and closes what it opened when the call ends.
        specs: by LangChain's name of the tool, the fields of its ToolSpec (effect, audience, ...) and `name`, its guard
            name; or the path of a tools.yaml: `{version: 1, tools: {NAME: {effect: read}}}`. A tool that is not
            mentioned is a write under its own name. With `reviewed_s256`, the `tool_s256` of the tool that was
            reviewed, one whose name, description or schema changed since is refused.
        like: for a factory, tools with the same names, schemas and descriptions, or what makes them; they are never
            run. A toolkit over an empty database in memory will do. Without it the factory is called with None once,
            now, and has to build tools that need no credential yet.

    Raises:
        ConfigurationError: a name or a declaration is wrong, a spec names no tool, a tool cannot be guarded, or is not
            the one that was reviewed.
    """
    factory: Factory | None = _factory_in(tools)
    found = _listed(tools) if factory is None else _shapes(factory, like)
    if factory is None and like is not None:
        raise ConfigurationError("`like` describes what a factory builds; tools that exist already need none")
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


def _shapes(factory: Factory, like: Any) -> list[BaseTool]:
    made: Any = factory(None) if like is None else like  # type: ignore[arg-type]  # without `like` it takes None too
    if like is None and isinstance(made, AbstractContextManager | AbstractAsyncContextManager):
        raise ConfigurationError("a factory that is a context manager is opened inside a call only; pass like=[...]")
    return _listed(made() if _factory_in(made) is not None else made)


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
    refuse_unreviewed(tool, fields or {})
    return wrap(tool, guard_name(tool.name, fields or {}), _of_the_guard(fields or {}))


def _of_the_guard(fields: Fields) -> Fields:
    return {key: value for key, value in fields.items() if key not in ("name", REVIEWED)}


# --- tools that are built inside the call ---------------------------------------------------------------------------


def _from_factory(probe: BaseTool, factory: Factory, fields: Fields | None) -> BaseTool:
    if fields is None or not fields.get("audience"):
        raise ConfigurationError(
            f"tool {probe.name!r} is built with a credential, so its spec has to say what for: "
            f'specs={{"{probe.name}": {{"effect": "read", "audience": "https://api.example.com", "scopes": ["..."]}}}}'
        )
    if is_guarded(probe):
        raise ConfigurationError(f"tool {probe.name!r} of the factory is guarded already; build plain tools in it")
    refuse_unreviewed(probe, fields)
    return wrap(probe, guard_name(probe.name, fields), _of_the_guard(fields), _Rebuild(factory, probe.name, fields))


class _Rebuild:
    """Makes a body that builds the tools anew with the running call's credential, and runs the one of its name."""

    def __init__(self, factory: Factory, name: str, fields: Fields) -> None:
        self.factory, self.name, self.fields = factory, name, fields

    def __call__(self, attribute: str, raw: Any) -> Any:
        parameters = tuple(inspect.signature(raw).parameters)
        first = parameters[0] if attribute.startswith("_") and parameters else ""

        def arguments(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
            return args[1:] if first and kwargs.pop(first, None) is None else args  # the probe itself is never run

        if inspect.iscoroutinefunction(raw):

            @functools.wraps(raw)
            async def rebuilt_async(*args: Any, **kwargs: Any) -> Any:
                args = arguments(args, kwargs)
                async with self._abuilt() as tools:
                    return await self._body(tools, attribute, parameters)(*args, **kwargs)

            return rebuilt_async

        @functools.wraps(raw)
        def rebuilt(*args: Any, **kwargs: Any) -> Any:
            args = arguments(args, kwargs)
            with self._built() as tools:
                return self._body(tools, attribute, parameters)(*args, **kwargs)

        return rebuilt

    @contextmanager
    def _built(self) -> Iterator[Any]:
        made: Any = self.factory(current_credential())
        if isinstance(made, AbstractContextManager):
            with made as tools:
                yield tools
        elif isinstance(made, AbstractAsyncContextManager):
            raise ConfigurationError(f"tool {self.name!r} is called synchronously, and its factory has to be awaited")
        else:
            yield made

    @asynccontextmanager
    async def _abuilt(self) -> AsyncIterator[Any]:
        made: Any = self.factory(current_credential())
        if isinstance(made, AbstractAsyncContextManager):
            async with made as tools:
                yield tools
        elif isinstance(made, AbstractContextManager):
            with made as tools:
                yield tools
        else:
            yield made

    def _body(self, tools: Any, attribute: str, parameters: tuple[str, ...]) -> Any:
        """INVARIANT: what runs takes the arguments that were checked; another shape under the same name is refused."""
        for tool in _listed(tools):
            if tool.name != self.name:
                continue
            body = getattr(tool, attribute, None)
            expected = parameters[1:] if attribute.startswith("_") else parameters
            if not callable(body) or tuple(inspect.signature(body).parameters) != expected:
                raise ConfigurationError(f"the factory built another tool {self.name!r} than the one that was wrapped")
            refuse_unreviewed(tool, self.fields)
            return body
        raise ConfigurationError(f"the factory built no tool {self.name!r}, which it built when it was wrapped")


__all__ = ["guard_tools"]
