"""What is kept of a result: the candidates of the fields that a `from` names, each with the values beside it."""

from __future__ import annotations

import dataclasses
import enum
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, Final, NoReturn

from agentguard.errors import NotCanonical
from agentguard.intent.earlier import UNTOLD, Candidate, Found, Projection, Row
from agentguard.intent.field_path import FieldPath
from agentguard.intent.truth import MISSING
from agentguard.model.call import ToolCall, ToolSpec
from agentguard.model.canonical import Canonical, canonical

MAX_CANDIDATES: Final = 10_000  # of one call
MAX_BYTES: Final = 4 << 20  # of all calls
_PRICE: Final = 64  # bytes that a call, a row or a value counts for beside its text
_MAX_TEXT: Final = 1 << 18

Wanted = tuple[Projection, frozenset[str]]  # with the names of the arguments that are looked at


def whole_of(parts: Sequence[Any]) -> Any:
    """Return the parts of a stream as one result: one text if all of them are, else a list; UNTOLD if too many."""
    if len(parts) > MAX_CANDIDATES:
        return UNTOLD
    return "".join(parts) if all(isinstance(part, str) for part in parts) else list(parts)


def projected(call: ToolCall, value: Any, wanted: Collection[Wanted], largest: int) -> tuple[dict[Wanted, Found], int]:
    """Return what a call offers to each that wants something of it, and for how many bytes that counts.

    Args:
        call: the call.
        value: its result.
        wanted: the projections, each with the names of the arguments that are looked at.
        largest: the most bytes; what does not fit is left out, and said so.
    """
    found: dict[Wanted, Found] = {}
    size = _PRICE
    result = _structured(value, call.spec) if any(not projection.of_arguments for projection, _ in wanted) else None
    for one in wanted:
        projection, names = one
        arguments = {name: call.arguments[name] for name in names if name in call.arguments}
        rows = _rows(projection, dict(call.arguments) if projection.of_arguments else result)
        taken = _size_of(rows, arguments)
        if size + taken > largest:
            rows, taken = None, 0
        size += taken
        values = frozenset(row.value for row in rows or ())
        found[one] = Found(call.spec, arguments, rows, values, call.id)
    return found, size


def _rows(projection: Projection, value: Any) -> tuple[Row, ...] | None:
    """The candidates, or None where they cannot be had: there are too many, or the result cannot be read."""
    rows: list[Row] = []
    if value is UNTOLD:
        return None
    try:
        for item, around in projection.field.places(value, shown):
            beside = tuple(_sibling(path, around) for path in projection.beside)
            for candidate in _candidates(item, projection):
                rows.append(Row(candidate, beside))
                if len(rows) > MAX_CANDIDATES:
                    return None
    except Exception:  # a property of the tool's own class may raise anything
        return None
    return tuple(rows)


def _candidates(item: Any, projection: Projection) -> Iterator[Candidate]:
    """INVARIANT: text stays text and a number stays a number; empty text, null and bool prove nothing."""
    if item is None or isinstance(item, bool | Mapping | list | tuple):
        return
    if isinstance(item, str) and len(item) > _MAX_TEXT:
        raise ValueError("a text that is too long to be kept")
    try:
        value = canonical(item)
    except NotCanonical:
        return  # it could not be compared with any argument
    finder = projection.match.finder()
    if finder is None:
        yield from (value,) if isinstance(value, Decimal) or (isinstance(value, str) and value) else ()
    elif isinstance(value, str):
        yield from finder(value)


def _sibling(path: FieldPath, around: Sequence[Mapping[Any, Any]]) -> Any:
    """The field of the nearest mapping around that has its first key; canonical, or MISSING, or UNTOLD."""
    for mapping in reversed(around):
        if path.parts[0] in mapping:
            value = next(path.select(mapping, shown), MISSING)
            if value is MISSING:
                return MISSING
            try:
                return canonical(value)
            except NotCanonical:
                return UNTOLD
    return MISSING


def _size_of(rows: Collection[Row] | None, arguments: Mapping[str, Canonical]) -> int:
    size = sum(_price(value) for value in arguments.values())
    for row in rows or ():
        size += _price(row.value) + sum(map(_price, row.beside))
    return size


def _price(value: Any) -> int:
    if isinstance(value, tuple):
        return _PRICE + sum(map(_price, value))
    if isinstance(value, dict):
        return _PRICE + sum(len(key) + _price(item) for key, item in value.items())
    return _PRICE + (len(value) if isinstance(value, str) else 0)


def _structured(value: Any, spec: ToolSpec) -> Any:
    """The result as structure: as the tool returned it, or read from JSON text where the tool says so.

    INVARIANT: text is text. What only looks like JSON stays one text, and so does JSON with a key that is there twice,
    or with a number that JSON does not have.
    """
    if spec.returns == "json" and isinstance(value, str) and len(value) <= MAX_BYTES:
        try:
            return json.loads(
                value, object_pairs_hook=_once, parse_float=Decimal, parse_int=Decimal, parse_constant=_refused
            )
        except (ValueError, ArithmeticError, RecursionError):
            return value
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is there twice")
    return found


def _refused(word: str) -> NoReturn:
    raise ValueError(f"{word} is no JSON")


def shown(value: Any) -> Any:
    """Return a value whose fields have names as a mapping, everything else as it is: one level, nothing is copied."""
    if isinstance(value, str | int | float | Decimal | list | Mapping) or value is None:
        return value
    if isinstance(value, enum.Enum):
        return shown(value.value)
    if isinstance(value, tuple):
        return value._asdict() if hasattr(value, "_asdict") else value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    names = getattr(type(value), "model_fields", None)
    if isinstance(names, Mapping):
        return {name: getattr(value, name) for name in names} | (getattr(value, "model_extra", None) or {})
    return value
