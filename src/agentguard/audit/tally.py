"""Counts what stands in verified chains: events, calls without an outcome, credentials without an end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from agentguard.model.record import Event, Position

_CALL_CLOSED: Final = frozenset({Event.CALL_COMPLETED, Event.CALL_FAILED, Event.CALL_CANCELLED, Event.CALL_UNKNOWN})


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """What stands in logs that verify.

    Args:
        files, records, chains: how many.
        heads: where each chain ends.
        events: how often each event code occurs.
        first, last: time of the earliest and latest record (RFC 3339), or empty.
        unknown: calls that were permitted and have no outcome, nor were closed as unknown at recovery: the process
            ended first. The log is valid all the same.
        outstanding: credentials that were issued and have no record of their end.
        unclosed: chains without `log.closed` at their end: the process still runs, or was killed.
    """

    files: int
    records: int
    chains: int
    heads: tuple[Position, ...]
    events: Mapping[str, int]
    first: str
    last: str
    unknown: int
    outstanding: int
    unclosed: int

    @property
    def last_hash(self) -> str:
        """The hash of the last record, of the last chain by file name where there are several."""
        return self.heads[-1].hash


@dataclass(slots=True)
class Tally:
    """Counts what a walk sees. INVARIANT: what has ended is forgotten, so memory is bounded by what is open."""

    files: int = 0
    records: int = 0
    unclosed: int = 0
    first: str = ""
    last: str = ""
    heads: list[Position] = field(default_factory=list)
    events: Counter[str] = field(default_factory=Counter)
    calls: dict[str, int] = field(default_factory=dict)
    leases: dict[str, int] = field(default_factory=dict)

    def add(self, record: Mapping[str, Any]) -> None:
        event, time = record["event"], record["time"]
        self.records += 1
        self.events[event] += 1
        self.first = min(self.first or time, time)
        self.last = max(self.last, time)
        if event == Event.CALL_PERMITTED or event in _CALL_CLOSED:
            _balance(self.calls, record.get("call"), 1 if event == Event.CALL_PERMITTED else -1)
        elif event in (Event.CREDENTIAL_ISSUED, Event.CREDENTIAL_REVOKED):
            _balance(self.leases, record.get("lease"), 1 if event == Event.CREDENTIAL_ISSUED else -1)

    def end(self, record: Mapping[str, Any], head: Position) -> None:
        self.heads.append(head)
        self.unclosed += record["event"] != Event.LOG_CLOSED

    def verified(self) -> Verified:
        return Verified(
            files=self.files,
            records=self.records,
            chains=len(self.heads),
            heads=tuple(self.heads),
            events=dict(sorted(self.events.items())),
            first=self.first,
            last=self.last,
            unknown=sum(count for count in self.calls.values() if count > 0),
            outstanding=sum(count for count in self.leases.values() if count > 0),
            unclosed=self.unclosed,
        )


def _balance(open_now: dict[str, int], key: object, change: int) -> None:
    # Over all chains, in any order: what one process began another may have ended.
    text = str(key)
    count = open_now.pop(text, 0) + change
    if count:
        open_now[text] = count
