"""What is declared about tools that others wrote: a mapping, or a tools.yaml."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, TypeAlias

from agentguard import ConfigurationError, ToolSpec, load_tools

Fields: TypeAlias = Mapping[str, Any]
Specs: TypeAlias = "Mapping[str, Fields] | str | os.PathLike[str] | None"


def read_specs(specs: Specs) -> dict[str, Fields]:
    """Return the declarations by LangChain's names.

    Args:
        specs: a mapping from a tool's name to its ToolSpec fields, the path of a tools.yaml, or None.

    Raises:
        ConfigurationError: the file cannot be read, or its form is wrong.
    """
    if specs is None:
        return {}
    if isinstance(specs, str | os.PathLike):
        return dict(load_tools(specs))
    for tool, fields in specs.items():
        if not isinstance(fields, Mapping):
            raise ConfigurationError(f'specs: {tool!r} needs a mapping of fields, such as {{"effect": "read"}}')
    return dict(specs)


def guard_name(tool: str, fields: Fields) -> str:
    """Return the guard name of a tool: the one that is declared, or LangChain's if that can be one.

    Raises:
        ConfigurationError: it cannot, and none is declared.
    """
    name = fields.get("name", tool)
    if isinstance(name, str) and _is_guard_name(name):
        return name
    raise ConfigurationError(
        f"tool {tool!r} needs a guard name of a-z 0-9 _ and dots; write "
        f'specs={{"{tool}": {{"name": "{_suggested(tool)}", "effect": "write"}}}}'
    )


def _is_guard_name(name: str) -> bool:
    try:
        ToolSpec(name=name)
    except ConfigurationError:
        return False
    return True


def _suggested(tool: str) -> str:
    words = "".join(f"_{char.lower()}" if char.isupper() else char for char in tool)
    kept = "".join(char if char.isascii() and char.isalnum() else "_" for char in words)
    return "_".join(filter(None, kept.split("_"))) or "my_tool"


def refuse_unused(specs: Mapping[str, Fields], tools: list[str]) -> None:
    """Refuse a declaration of a tool that is not there: it is a wrong name, and its tool would go undeclared."""
    unused = sorted(set(specs) - set(tools))
    if unused:
        raise ConfigurationError(
            f"specs name {', '.join(unused)}; the tools here are {', '.join(sorted(tools)) or 'none'}"
        )
