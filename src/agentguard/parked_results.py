"""What earlier calls left for `from`, as text and back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any, Final

import msgspec

from agentguard.intent.earlier import UNTOLD, Found, Row
from agentguard.intent.truth import MISSING
from agentguard.model.call import Effect, ToolSpec
from agentguard.model.canonical import Digest
from agentguard.results import Entry

_SETS: Final = frozenset({"data", "tags", "secret", "hidden", "null_is_empty"})
_LISTS: Final = frozenset({"scopes", "untrusted", "record"})


class ResultState(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """What one earlier call left for `from`."""

    path: tuple[str, ...]
    keys: tuple[tuple[str, str], ...]
    found: list[Any]
    size: int


def kept(entry: Entry, names: Mapping[int, str]) -> ResultState:
    """Return what one call left, with the names of its projections."""
    found = [
        [names[number], _spec(one.spec), _written(dict(one.arguments)), None if one.rows is None else
         [[_written(row.value), [_written(item) for item in row.beside]] for row in one.rows], one.call]
        for number, one in entry.found.items()
    ]  # fmt: skip
    return ResultState(path=entry.path, keys=entry.keys, found=found, size=entry.size)


def read_kept(state: ResultState) -> tuple[Entry, list[tuple[str, Found]]]:
    """Return it as it was, and what it holds by the name of each projection."""
    named = [(name, _found(spec, arguments, rows, call)) for name, spec, arguments, rows, call in state.found]
    return Entry(state.path, state.keys, {}, state.size), named


def _found(spec: Mapping[str, Any], arguments: Any, rows: Iterable[Any] | None, call: str) -> Found:
    made = None if rows is None else tuple(Row(_read(value), tuple(map(_read, beside))) for value, beside in rows)
    return Found(_read_spec(spec), _read(arguments), made, frozenset(row.value for row in made or ()), call)


def _spec(spec: ToolSpec) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in spec.__struct_fields__:
        value = getattr(spec, name)
        if name == "parameters":
            found[name] = None if value is None else sorted(value)
        elif name == "defaults":
            found[name] = _written(dict(value))
        else:
            found[name] = sorted(value) if name in _SETS else list(value) if name in _LISTS else value
    return found


def _read_spec(said: Mapping[str, Any]) -> ToolSpec:
    values = dict(said)
    for name in _SETS:
        values[name] = frozenset(values[name])
    for name in _LISTS:
        values[name] = tuple(values[name])
    parameters = values["parameters"]
    values["parameters"] = None if parameters is None else frozenset(parameters)
    return ToolSpec(**{**values, "effect": Effect(values["effect"]), "defaults": _read(values["defaults"])})


def _written(value: Any) -> Any:
    """A canonical value in JSON, with what JSON cannot tell apart marked by one letter."""
    if isinstance(value, Decimal):
        return {"n": str(value)}
    if isinstance(value, Digest):
        return {"d": value.sha256}
    if isinstance(value, tuple):
        return [_written(item) for item in value]
    if isinstance(value, dict):
        return {"m": {key: _written(item) for key, item in value.items()}}
    if value is MISSING or value is UNTOLD:
        return {"u": value is UNTOLD}
    return value


def _read(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(map(_read, value))
    if not isinstance(value, dict):
        return value
    ((kind, inner),) = value.items()
    match kind:
        case "n":
            return Decimal(inner)
        case "d":
            return Digest(inner)
        case "m":
            return {key: _read(item) for key, item in inner.items()}
    return UNTOLD if inner else MISSING
