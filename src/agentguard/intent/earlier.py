"""What a constraint asks of the results of earlier calls, and what they offer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, Final, NamedTuple, Protocol, TypeAlias

from msgspec import Struct

from agentguard.intent.field_path import FieldPath
from agentguard.intent.finders import WHOLE, Match
from agentguard.model.call import ToolSpec
from agentguard.model.canonical import Canonical

Candidate: TypeAlias = "str | Decimal"


class Projection(Struct, frozen=True):
    """What is kept of a call: the candidates of one field, each with the values beside it.

    Args:
        field: where the candidates stand.
        match: what is found inside a text field.
        beside: the siblings that `where` names.
        of_arguments: it is a field of the call's arguments, not of its result.
    """

    field: FieldPath
    match: Match = WHOLE
    beside: tuple[FieldPath, ...] = ()
    of_arguments: bool = False


class Source(Struct, frozen=True):
    """Whose result: every call of a tool, or the calls that consumed a step; and what is kept of them.

    Args:
        tool, step: exactly one of them.
        projection: the candidates.
        arguments: names of the call's arguments that are looked at.
    """

    tool: str
    step: str
    projection: Projection
    arguments: frozenset[str]


class Row(NamedTuple):
    """A candidate with the values beside it, in the order of the projection: canonical, MISSING or UNTOLD."""

    value: Candidate
    beside: tuple[Any, ...] = ()


class Untold:
    """Stands for a value that has no canonical form: no constraint can tell anything about it."""


UNTOLD: Final = Untold()


class Found(Struct, frozen=True, eq=False):
    """What one earlier call offers.

    Args:
        spec: the tool.
        arguments: those of its checked arguments that a source looks at, canonical.
        rows: the candidates; None where they could not be kept.
        values: the candidates alone.
        call: the call's id, as in the records.
    """

    spec: ToolSpec
    arguments: Mapping[str, Canonical]
    rows: tuple[Row, ...] | None
    values: frozenset[Candidate]
    call: str = ""


class Results(Protocol):
    """The results that a task may see, at one level of its chain."""

    def of(self, source: Source) -> tuple[Sequence[Found], bool]:
        """Return what earlier calls offer, the oldest first, and whether that is all of it."""
