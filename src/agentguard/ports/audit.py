"""Where records go."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from agentguard.model.record import Position, Record


@runtime_checkable
class AuditSink(Protocol):
    """Writes records, in order.

    `append` is synchronous, so that no cancellation falls between a decision and its record; a raise means that
    nothing was written. What is to be written is `record.whole()`. `flush` returns once the record and all before it
    are durable; a raise means "not durable". A sink that can tell how many records it has written that are not durable
    yet says so by a method `behind() -> int`, which a gauge reads.
    """

    suspends: bool

    def append(self, record: Record) -> Position: ...
    async def flush(self, position: Position) -> None: ...
    def close(self) -> None: ...
