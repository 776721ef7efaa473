"""A guarded tool, as its decoration made it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from agentguard.binding import Binder
    from agentguard.model.call import ToolSpec
    from agentguard.model.plain import PlainForm


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

    @cached_property
    def attributes(self) -> Mapping[str, Any]:
        """What the spans of its calls carry."""
        from agentguard.telemetry.attributes import tool_attributes

        return tool_attributes(self.spec)

    @cached_property
    def plain(self) -> PlainForm:
        """What forms its plain arguments."""
        from agentguard.model.plain import PlainForm

        defaults = self.spec.defaults
        return PlainForm(defaults, self.spec.parameters, self.binder.by_names(defaults))
