"""`agentguard audit export`: a log for a SIEM or a spreadsheet."""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TextIO

from agentguard.audit.index import microseconds
from agentguard.audit.ocsf import VERSION, Mapper
from agentguard.audit.table import COLUMNS, row
from agentguard.audit.verify import ChainBroken, verify
from agentguard.cli.audit_query import moment
from agentguard.cli.output import FAILED, OK, complain, count, writable
from agentguard.model.record import Position

_FORMATS: Final = ("ocsf", "csv")


def add(actions: Any) -> None:
    """Add `audit export`."""
    text = (
        f"Print a log as OCSF {VERSION} events, one JSON object a line, or as CSV. Each record is verified first: the "
        "export ends at the first one that is broken, with status 1."
    )
    parser = actions.add_parser("export", help="print a log for other programs", description=text)
    parser.add_argument("path", type=Path, metavar="PATH", help="a directory of logs, or one file of a chain")
    parser.add_argument("--format", choices=_FORMATS, required=True, help="ocsf or csv")
    parser.add_argument("--since", type=moment, metavar="TIME", help="2026-11-21T22:26Z, or 30m, 2h, 7d ago")
    parser.add_argument("--until", type=moment, metavar="TIME", help="before that time")
    parser.set_defaults(run=run)


@dataclass(slots=True)
class _Exports:
    """Watches a walk, and writes each record that has verified."""

    write: Callable[[Mapping[str, Any], bool], None]
    since: int | None
    until: int | None
    written: int = 0

    def saw(self, record: Mapping[str, Any], position: Position, path: Path) -> None:
        at = microseconds(record["time"])
        wanted = (self.since is None or at >= self.since) and (self.until is None or at < self.until)
        self.write(record, wanted)
        self.written += wanted

    def ended(self, head: Position, path: Path) -> None:
        """Nothing to do."""


def run(arguments: argparse.Namespace) -> int:
    """Export, and say on standard error how many records."""
    write = _ocsf(sys.stdout) if arguments.format == "ocsf" else _csv(sys.stdout)
    exports = _Exports(write, arguments.since, arguments.until)
    try:
        verify(arguments.path, exports)
    except ChainBroken as broken:
        complain(f"BROKEN at record {broken.record} of {broken.path}: {broken.why}")
        complain(f"agentguard: {count(exports.written, 'record')} exported before it; the export is not whole")
        return FAILED
    complain(f"agentguard: {count(exports.written, 'record')} exported")
    return OK


def _ocsf(out: TextIO) -> Callable[[Mapping[str, Any], bool], None]:
    mapper = Mapper()

    def write(record: Mapping[str, Any], wanted: bool) -> None:
        event = mapper.event(record)  # also of what is not wanted: later records build on it
        if wanted:
            out.write(json.dumps(event, separators=(",", ":")) + "\n")

    return write


def _csv(out: TextIO) -> Callable[[Mapping[str, Any], bool], None]:
    table = csv.writer(out, quoting=csv.QUOTE_ALL, lineterminator="\n")
    table.writerow(COLUMNS)

    def write(record: Mapping[str, Any], wanted: bool) -> None:
        if wanted:
            table.writerow([writable(each, out) for each in row(record)])

    return write
