"""A guarded tool, as its decoration made it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, Generic, NoReturn, TypeVar

if TYPE_CHECKING:
    from agentguard.binding import Binder
    from agentguard.model.call import ToolSpec
    from agentguard.model.plain import PlainForm

T = TypeVar("T")


class _Once(Generic[T]):
    """An attribute that is made when it is first asked for.

    `functools.cached_property` of Python 3.11 has one lock for all tools, which a forked child can find held for ever.
    """

    def __init__(self, make: Callable[[Any], T]) -> None:
        self._make: Final = make

    def __get__(self, tool: Tool | None, kind: type[Tool]) -> T:
        if tool is None:
            return self  # type: ignore[return-value]  # the class's own
        made = vars(tool)[self._make.__name__] = self._make(tool)
        return made


class Tool:
    """A guarded tool: its function, its declaration and its binder, made once at decoration.

    Its telemetry attributes, and what forms its plain arguments, are made by the first call that asks for them, and
    stay with it.
    """

    fn: Any
    spec: ToolSpec
    binder: Binder
    waits_for_disk: bool

    def __init__(self, fn: Any, spec: ToolSpec, binder: Binder) -> None:
        vars(self).update(fn=fn, spec=spec, binder=binder, waits_for_disk=spec.waits_for_disk)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"a tool does not change; {name!r} was set by its decoration")

    @_Once
    def attributes(self) -> Mapping[str, Any]:
        """What the spans of its calls carry."""
        from agentguard.telemetry.attributes import tool_attributes

        return tool_attributes(self.spec)

    @_Once
    def plain(self) -> PlainForm:
        """What forms its plain arguments."""
        from agentguard.model.plain import PlainForm

        defaults = self.spec.defaults
        return PlainForm(defaults, self.spec.parameters, self.binder.by_names(defaults))
