"""Parameters that LangChain or LangGraph fills, and how a model is kept from filling them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, get_type_hints

from langchain_core.tools import BaseTool

# LangChain fills these by their names, annotated or not: the one in a method, the other in `func` and `coroutine`.
_IN_METHODS: Final = frozenset({"run_manager"})
_IN_FUNCTIONS: Final = frozenset({"callbacks"})
_PLAIN: Final = (str, int, float, bool, type(None), list, tuple, dict)


def filled_by_name(attribute: str) -> frozenset[str]:
    """Return the parameters that LangChain fills by their names in one place of a tool's code.

    INVARIANT: one of the same name in another place is an argument like others, which a model may write.
    """
    return _IN_METHODS if attribute.startswith("_") else _IN_FUNCTIONS


def injected_names(tool: BaseTool) -> frozenset[str]:
    """Return the arguments that LangChain keeps out of the schema that a model sees, and fills itself.

    The other names that a schema gives them are among them: a model could write a value under one of those.
    """
    by_signature: frozenset[str] = getattr(tool, "_injected_args_keys", frozenset())
    if isinstance(tool.args_schema, dict):
        return by_signature
    shown, fields = _fields(tool.tool_call_schema), _fields(tool.get_input_schema())
    names = by_signature | (frozenset(fields) - frozenset(shown))
    aliases = {alias for name in names & fields.keys() for alias in _aliases(fields[name])}
    return names | (aliases - fields.keys())


def shown_among(hidden: frozenset[str], tool: BaseTool) -> frozenset[str]:
    """Return those of some arguments that a model sees in the tool's schema, and so may fill."""
    if isinstance(tool.args_schema, dict):
        return hidden & dict(tool.args_schema.get("properties", {})).keys()
    if not hidden & _fields(tool.get_input_schema()).keys():
        return frozenset()
    return hidden & _fields(tool.tool_call_schema).keys()


def state_names(tool: BaseTool, bodies: Mapping[str, Any]) -> frozenset[str]:
    """Return the arguments that LangGraph fills with its state: the only ones whose real values may look like JSON."""
    found = {name for body in bodies.values() for name, hint in _hints(body).items() if _is_state(_marks(hint))}
    if not isinstance(tool.args_schema, dict):
        fields = _fields(tool.get_input_schema())
        found |= {name for name, field in fields.items() if _is_state(getattr(field, "metadata", ()))}
    return frozenset(found)


def without_forged(
    given: Mapping[str, Any], filled: frozenset[str], state: frozenset[str], config: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return a tool's input without values for injected arguments that a model could have written.

    LangGraph's ToolNode drops them too, before it fills in its own; `tool.invoke` alone does not. A value that is not
    made of JSON's types (a ToolRuntime, a store) was put there by code and stays, and so does LangGraph's state in a
    LangGraph run. LangChain itself fills the tool call id, the config and the callbacks afterwards.
    """
    return {
        name: value
        for name, value in given.items()
        if name not in filled or not isinstance(value, _PLAIN) or (name in state and _in_graph(config))
    }


def _in_graph(config: Mapping[str, Any] | None) -> bool:
    settings = (config or {}).get("configurable") or {}
    return any(str(key).startswith("__pregel_") for key in settings)


def _fields(schema: Any) -> Mapping[str, Any]:
    fields = getattr(
        schema, "model_fields" if hasattr(schema, "model_fields") else "__fields__", None
    )  # pydantic 2 or 1
    return fields if isinstance(fields, Mapping) else {}


def _aliases(field: Any) -> Iterator[str]:
    """The names under which pydantic takes a field: one, several (AliasChoices), or the first part of a path."""
    for alias in (getattr(field, "alias", None), getattr(field, "validation_alias", None)):
        for one in getattr(alias, "choices", None) or (alias,):
            first = next(iter(getattr(one, "path", ())), one)
            if isinstance(first, str):
                yield first


def _hints(body: Any) -> Mapping[str, Any]:
    try:
        return get_type_hints(body, include_extras=True)
    except Exception:  # what cannot be resolved is no marker that LangGraph would see
        return getattr(body, "__annotations__", {})


def _marks(hint: Any) -> Iterator[Any]:
    yield from getattr(hint, "__metadata__", ())


def _is_state(marks: Any) -> bool:
    kinds = (mark if isinstance(mark, type) else type(mark) for mark in marks)
    return any(base.__name__ == "InjectedState" for kind in kinds for base in kind.__mro__)
