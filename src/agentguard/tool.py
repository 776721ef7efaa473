"""A guarded tool, as its decoration made it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from agentguard.binding import Binder
    from agentguard.model.call import ToolSpec
    from agentguard.model.plain import PlainForm


class Tool:
    """A guarded tool: its function, its declaration and its binder, made once at decoration.

    Its telemetry attributes, and what forms its plain arguments, are made by the first call that asks for them, and
    stay in their slot.
    """

    __slots__ = ("attributes", "binder", "fn", "plain", "spec")
    fn: Any
    spec: ToolSpec
    binder: Binder
    attributes: Mapping[str, Any]
    plain: PlainForm

    def __init__(self, fn: Any, spec: ToolSpec, binder: Binder) -> None:
        for field, value in (("fn", fn), ("spec", spec), ("binder", binder)):
            object.__setattr__(self, field, value)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"a tool does not change; {name!r} was set by its decoration")

    def __getattr__(self, name: str) -> Any:
        made: Any
        if name == "attributes":
            from agentguard.telemetry.attributes import tool_attributes

            made = tool_attributes(self.spec)
        elif name == "plain":
            from agentguard.model.plain import PlainForm

            defaults = self.spec.defaults
            made = PlainForm(defaults, self.spec.parameters, self.binder.by_names(defaults))
        else:
            raise AttributeError(f"a tool has no {name!r}")
        object.__setattr__(self, name, made)
        return made
