"""What the convention says of a metric and of an event; the values stand in `semconv`, which is made from its file."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Instrument:
    """One metric.

    Args:
        kind: `counter`, `updowncounter`, `histogram` or `gauge`.
        unit: in UCUM.
        brief: what it counts or measures.
        attributes: all that it may carry; whatever else is known is left out.
        buckets: upper bounds of a histogram, in its unit.
    """

    kind: str
    unit: str
    brief: str
    attributes: frozenset[str]
    buckets: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Copy:
    """One kind of audit record that is copied as an event.

    Args:
        name: the event's name.
        severity: `info`, `warn` or `error`.
        attributes: all that it may carry.
    """

    name: str
    severity: str
    attributes: frozenset[str]
