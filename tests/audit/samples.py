"""Records and chains for the tests of the audit room."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from agentguard.audit.chain import link, start
from agentguard.model.record import Event, Facts, Position, Record

NOW = 1_795_300_000_123_456_789


def record(n: int = 0, event: Event = Event.CALL_PERMITTED, **fields: Any) -> Record:
    return Record(event, {"call": f"call-{n}", "tool": "refund.create", **fields})


def linked(event: str, fields: Mapping[Any, Any], facts: Facts | None = None) -> tuple[bytes, Position]:
    """The first record of a chain, whatever its event is called."""
    return link(start("c"), NOW, Record(event, fields, facts))  # type: ignore[arg-type]  # what a form must stand


def chained(records: Iterable[Record], chain: str = "c" * 32) -> list[bytes]:
    """The lines of a chain."""
    head, lines = start(chain), []
    for number, each in enumerate(records):
        line, head = link(head, NOW + number, each)
        lines.append(line)
    return lines


def written(directory: Path, lines: Iterable[bytes], name: str = "audit-test.jsonl") -> Path:
    path = directory / name
    path.write_bytes(b"".join(lines))
    return path


def records_in(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().split(b"\n") if line]


def only_file(directory: Path) -> Path:
    (path,) = directory.glob("audit-*.jsonl")
    return path


def calls(records: Iterable[Mapping[str, Any]]) -> list[str]:
    return [each["call"] for each in records if "call" in each]
