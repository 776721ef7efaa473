"""Which fields that an outsider can write feed an argument."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from agentguard.intent.constraint import Constraint
from agentguard.intent.field_path import FieldPath, Wild, field_path
from agentguard.intent.presence import Not
from agentguard.intent.provenance import From
from agentguard.intent.references import Is
from agentguard.model.call import ToolSpec

_LITERAL: Final = ("eq", "in", "set")


def feeds(said: Constraint) -> Iterator[From]:
    """Yield every `from` that alone lets a value in; beside a literal kind it narrows only."""
    if any(part.word in _LITERAL for part in said.parts):
        return
    for part in said.parts:
        if isinstance(part, From):
            yield part
        elif isinstance(part, Is) and part.defined is not None:
            yield from feeds(part.defined)
        elif not isinstance(part, Not):
            for inner in part.inside():
                yield from feeds(inner)


def outsiders_write(spec: ToolSpec, field: FieldPath | None) -> bool:
    """Tell whether an outsider can write a field of a tool's result, or a part of it."""
    return field is not None and any(_meet(field_path(path), field) for path in spec.untrusted)


def _meet(untrusted: FieldPath, field: FieldPath) -> bool:
    """Whether one lies in the other; the keys of a mapping are no part of its values."""
    pairs = zip(untrusted.parts, field.parts, strict=False)
    return all(one == other or _any_key(one, other) or _any_key(other, one) for one, other in pairs)


def _any_key(one: object, other: object) -> bool:
    return one is Wild.VALUES and isinstance(other, str)
