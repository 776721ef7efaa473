"""`agentguard audit bypass`: hold exported traces against the log, and say what went past the guard."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from agentguard.audit.bypass import Finding, findings, is_tool, known_from
from agentguard.audit.span_file import Span, read_spans
from agentguard.audit.tail import watched
from agentguard.audit.verify import ChainBroken
from agentguard.cli.output import FAILED, OK, UNUSABLE, complain, count, say, say_json
from agentguard.model.duration import seconds


def add(actions: Any) -> None:
    """Add `audit bypass`."""
    text = (
        "Find tool calls in traces (`execute_tool` spans) that no guard decided about, decisions that are not in the "
        "log, and credentials that were used after they were gone. Status 0: none; 1: some; 2: it could not be told."
    )
    parser = actions.add_parser("bypass", help="find what went past the guard", description=text)
    parser.add_argument("path", type=Path, nargs="?", default=Path("audit"), metavar="DIR",
                        help="a directory of logs; default audit")  # fmt: skip
    parser.add_argument(
        "--traces", type=Path, action="append", required=True, metavar="FILE",
        help="exported spans: OTLP JSON, one or one a line, or what the console exporter prints; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--credential", action="append", default=[], metavar="ATTRIBUTE",
        help="a further span attribute that holds a lease's id or a jti",
    )  # fmt: skip
    parser.add_argument("--skew", default="1s", metavar="TIME",
                        help="by how much clocks may differ; default 1s")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Compare, and say what was found."""
    skew = int(seconds(arguments.skew, "--skew: ") * 1_000_000)
    try:
        known = known_from(watched(arguments.path))
    except ChainBroken as broken:
        complain(f"BROKEN at record {broken.record} of {broken.path}: {broken.why}; a broken log proves nothing")
        return UNUSABLE
    read = [read_spans(path) for path in arguments.traces]
    spans, unread = [span for file in read for span in file.spans], sum(file.unread for file in read)
    found = findings(spans, known, arguments.credential, skew)
    early = sum(1 for span in spans if known.first is not None and span.start // 1000 < known.first)
    tools = sum(map(is_tool, spans))
    if arguments.json:
        ok = not found and bool(spans)
        totals = {"ok": ok, "spans": len(spans), "tools": tools, "unread": unread, "before_log": early}
        say_json({**totals, "findings": [_members(finding) for finding in found]})
    else:
        _say(found, spans, tools)
    if unread:
        complain(f"agentguard: {count(unread, 'part')} of the traces could not be read as spans")
    if early:
        complain(f"agentguard: {count(early, 'span')} began before the first record of this log")
    if not spans:
        complain("agentguard: there is no span in the traces, so nothing was compared")
        return UNUSABLE
    return FAILED if found else OK


def _say(found: Sequence[Finding], spans: Sequence[Span], tools: int) -> None:
    for finding in found:
        span = finding.span
        service = f"{span.service}  " if span.service else ""
        place = f"trace {span.trace} span {span.span}"
        say(f"{_time(span.start)}  {finding.kind:<20}  {finding.what}  {service}{place}: {finding.why}")
    total = f"{count(tools, 'tool call')} in {count(len(spans), 'span')}"
    say(f"{count(len(found), 'finding')}: {total}" if found else f"ok: {total}, each with its decision in the log")


def _time(nanoseconds: int) -> str:
    moment = datetime.fromtimestamp(nanoseconds // 1_000_000_000, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{nanoseconds // 1000 % 1_000_000:06d}Z"


def _members(finding: Finding) -> Mapping[str, Any]:
    span = finding.span
    return {
        "kind": finding.kind, "what": finding.what, "why": finding.why, "trace": span.trace, "span": span.span,
        "name": span.name, "service": span.service, "time": _time(span.start),
    }  # fmt: skip
