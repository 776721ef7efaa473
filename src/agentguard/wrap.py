"""`@guarded` and `guard_tool`: from a callable to one that goes through the pipeline at every call."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Generator, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, TypeVar, overload

from agentguard.async_streams import async_generator
from agentguard.binding import Binder
from agentguard.errors import ConfigurationError
from agentguard.model.call import Effect, ToolSpec
from agentguard.model.canonical import Canonical, canonical
from agentguard.tool import Tool

if TYPE_CHECKING:
    from agentguard import calls
    from agentguard.running import Running
    from agentguard.streams import Pipeline

F = TypeVar("F", bound=Callable[..., Any])
_TUPLES: Final = ("scopes", "untrusted", "record")
_SETS: Final = ("data", "tags", "secret", "null_is_empty")


@overload
def guarded(fn: F, /) -> F: ...
@overload
def guarded(name: str = "", /, **declared: Any) -> Callable[[F], F]: ...
def guarded(fn: Any = "", /, **declared: Any) -> Any:
    """Declare a function as a guarded tool; every call of it goes through the active task's guard.

    Bare, `@guarded` takes the function's name and effect "write". Works on functions, coroutines, generators, async
    generators, methods, class methods, partials and callable objects. Put it below a framework's `@tool`.

    Args:
        fn: the guard name, such as "refund.create"; or the function itself, when used bare.
        declared: the fields of `ToolSpec` (effect, audience, scopes, resource, data, tags, lease, record, hidden, ...).

    Raises:
        ConfigurationError: at decoration, if the declaration is wrong.
        Denied: at a call that is refused.
    """
    if isinstance(fn, str):
        return lambda function: guard_tool(function, fn, **declared)
    return guard_tool(fn, **declared)


def guard_tool(fn: Any, name: str = "", /, **declared: Any) -> Any:
    """Return a guarded form of any callable; see `guarded`."""
    if isinstance(fn, classmethod | staticmethod):
        return type(fn)(guard_tool(fn.__func__, name, **declared))
    if spec_of(fn) is not None:
        raise ConfigurationError(f"{_name_of(fn)!r} is guarded already; one guard decides once")
    if not callable(fn):
        raise ConfigurationError(
            f"@guarded is for callables, not for a {type(fn).__name__}; put it directly above the function, "
            "below a framework's decorator such as @tool"
        )
    binder = Binder(fn, frozenset(_words(declared.pop("hidden", ()), "hidden")))
    spec = _spec(name or _name_of(fn), binder, declared)
    return _dressed(Tool(fn, spec, binder))


def spec_of(fn: object) -> ToolSpec | None:
    """Return the declaration of a guarded callable, or None for one that nobody guarded."""
    tool = getattr(fn, "__agentguard__", None)
    return tool.spec if isinstance(tool, Tool) else None


def _spec(name: str, binder: Binder, declared: dict[str, Any]) -> ToolSpec:
    known = set(ToolSpec.__struct_fields__) - {"name", "defaults", "parameters", "credential", "hidden"} | {"args"}
    unknown = sorted(set(declared) - known)
    if unknown:
        from agentguard.intent.document import nearest

        raise ConfigurationError(
            f"tool {name!r}: unknown {', '.join(unknown)} (a tool declares {', '.join(sorted(known))})"
            f"{nearest(unknown[0], known)}"
        )
    defaults = {**binder.defaults, **_declared_defaults(name, declared.pop("args", {}))}
    effect = declared.pop("effect", "write")
    if effect not in tuple(Effect):
        raise ConfigurationError(f"tool {name!r}: effect {effect!r}; write read, write or destructive")
    lists: dict[str, Any] = {key: tuple(_words(declared.pop(key), key)) for key in _TUPLES if key in declared}
    sets: dict[str, Any] = {key: frozenset(_words(declared.pop(key), key)) for key in _SETS if key in declared}
    return ToolSpec(
        name=name, effect=Effect(effect), hidden=binder.hidden, credential=binder.credential, defaults=defaults,
        parameters=binder.names, **lists, **sets, **declared,
    )  # fmt: skip


def _declared_defaults(tool: str, arguments: object) -> dict[str, Canonical]:
    """Defaults of a tool whose signature does not show them: `{NAME: {"default": value}}`."""
    if not isinstance(arguments, Mapping) or not all(
        isinstance(entry, Mapping) and set(entry) == {"default"} for entry in arguments.values()
    ):
        raise ConfigurationError(f"tool {tool!r}: args takes {{NAME: {{default: VALUE}}}}")
    return {str(name): canonical(entry["default"], str(name)) for name, entry in arguments.items()}


def _words(value: Collection[str], what: str) -> Collection[str]:
    if isinstance(value, str) or not all(isinstance(word, str) for word in value):
        raise ConfigurationError(f'{what} takes a list of names, such as {what}=["a", "b"]')
    return value


def _name_of(fn: Any) -> str:
    inner = fn.func if isinstance(fn, functools.partial) else fn
    return str(getattr(inner, "__name__", "") or type(inner).__name__)


# --- what runs a call ---------------------------------------------------------------------------------------


class _NotLoaded:
    """Stands for `calls` until a tool is called: a program that only declares tools pays for no pipeline.

    It puts the module into its own place, so that a call finds it there without asking whether it was loaded. Threads
    that are first together put the same module there.
    """

    def __getattr__(self, name: str) -> Any:
        globals()["calls"] = loaded = import_module("agentguard.calls")
        return getattr(loaded, name)


if not TYPE_CHECKING:
    calls = _NotLoaded()


# --- the four kinds of callable -----------------------------------------------------------------------------


def _dressed(tool: Tool) -> Any:
    """The wrapper of the right kind, with the signature, annotations and names that schema builders look at."""
    fn, binder = tool.fn, tool.binder
    wrapper = _wrapper(tool)
    body = _body(fn)
    functools.update_wrapper(wrapper, body, assigned=("__module__", "__doc__", "__qualname__"), updated=())
    wrapper.__wrapped__ = fn
    wrapper.__name__ = getattr(fn, "__name__", None) or tool.spec.name.replace(".", "_")
    wrapper.__signature__ = binder.signature
    shown = binder.signature.parameters
    wrapper.__annotations__ = {name: hint for name, hint in binder.hints.items() if name in shown or name == "return"}
    wrapper.__agentguard__ = tool
    return wrapper


def _body(fn: Any) -> Any:
    """The function that runs: of a partial what it calls, of an object its `__call__`."""
    inner = fn.func if isinstance(fn, functools.partial) else fn
    return inner if inspect.isroutine(inner) else type(inner).__call__


def _wrapper(tool: Tool) -> Any:
    body = _body(tool.fn)
    if inspect.isasyncgenfunction(body):

        async def start(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Pipeline, Running, Any]:
            pipeline, running = await calls.admitted(tool, args, kwargs, calls.unlisted)
            return pipeline, running, None  # called where its error is the call's

        return async_generator(start)
    if inspect.isgeneratorfunction(body):

        def guarded_generator(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
            calls.refuse_blocking(calls.active_task(tool.spec.name).host)
            pipeline, running = calls.drive(calls.admitted(tool, args, kwargs))
            parts = calls.stream_parts(pipeline, running)
            del pipeline, running  # as below
            return (yield from parts)

        return guarded_generator
    if inspect.iscoroutinefunction(body):

        async def guarded_coroutine(*args: Any, **kwargs: Any) -> Any:
            pipeline, running = await calls.admitted(tool, args, kwargs)
            result = calls.finish_coroutine(pipeline, running)
            del pipeline, running  # a traceback of the tool's error holds this frame, and nothing of the call with it
            return await result

        return guarded_coroutine

    def guarded_function(*args: Any, **kwargs: Any) -> Any:
        return calls.call_function(tool, args, kwargs)

    return guarded_function
