"""`agentguard audit`: verify a log, repair what a killed process left."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from agentguard.audit.repair import Repaired, repair
from agentguard.audit.tally import Verified
from agentguard.audit.verify import ChainBroken, verify
from agentguard.cli.output import FAILED, OK, UNUSABLE, complain, count, say, say_json
from agentguard.model.record import Event


def add(commands: Any) -> None:
    """Add `audit verify` and `audit repair`."""
    audit = commands.add_parser(
        "audit", help="verify and repair audit logs", description="Verify and repair audit logs."
    )
    actions = audit.add_subparsers(title="actions", metavar="ACTION", required=True)
    _add_verify(actions)
    _add_repair(actions)


def _add_verify(actions: Any) -> None:
    text = "Check every record of a log. It does not show that records at its end were removed."
    parser = actions.add_parser("verify", help="check every record of a log", description=text)
    parser.add_argument("path", type=Path, metavar="PATH", help="a directory of logs, or one file of a chain")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run_verify)


def _add_repair(actions: Any) -> None:
    text = "Cut a torn last line off the log of a killed process; the bytes are kept in FILE.torn and recorded."
    parser = actions.add_parser("repair", help="cut off a torn last line", description=text)
    parser.add_argument("file", type=Path, metavar="FILE", help="the last file of the chain")
    parser.set_defaults(run=run_repair)


def run_verify(arguments: argparse.Namespace) -> int:
    """Verify, and say what stands in the log or which record is broken first."""
    try:
        found = verify(arguments.path)
    except ChainBroken as broken:
        return _say_broken(broken, as_json=arguments.json)
    except OSError as error:
        if arguments.json:
            say_json({"ok": False, "why": f"cannot read {arguments.path}: {error.strerror or error}"})
            return UNUSABLE
        raise
    if arguments.json:
        say_json(_members(found))
    else:
        say(_summary(found))
    return OK


def _say_broken(broken: ChainBroken, *, as_json: bool) -> int:
    if as_json:
        place = {"file": str(broken.path), "record": broken.record, "line": broken.line}
        say_json({"ok": False, **place, "why": broken.why})
    else:
        line = f" (line {broken.line})" if broken.line not in (0, broken.record) else ""
        complain(f"BROKEN at record {broken.record} of {broken.path}{line}: {broken.why}")
    return FAILED


def _members(found: Verified) -> dict[str, Any]:
    heads = [{"chain": head.chain, "seq": head.seq, "hash": head.hash} for head in found.heads]
    counts = {
        name: getattr(found, name) for name in ("files", "records", "chains", "unknown", "outstanding", "unclosed")
    }
    return {
        "ok": True,
        **counts,
        "first": found.first,
        "last": found.last,
        "events": dict(found.events),
        "heads": heads,
    }


def _summary(found: Verified) -> str:
    permitted, denied = found.events.get(Event.CALL_PERMITTED, 0), found.events.get(Event.CALL_DENIED, 0)
    parts = [
        f"ok: {count(found.records, 'record')} in {count(found.chains, 'chain')}",
        f"{count(permitted, 'call')} permitted",
        f"{denied} denied",
        _credentials(found),
    ]
    if found.unknown:
        parts.append(f"{count(found.unknown, 'call')} with unknown outcome")
    if found.unclosed:
        parts.append(f"{count(found.unclosed, 'chain')} not closed (still written, or its process was killed)")
    return ", ".join(parts)


def _credentials(found: Verified) -> str:
    issued, revoked = found.events.get(Event.CREDENTIAL_ISSUED, 0), found.events.get(Event.CREDENTIAL_REVOKED, 0)
    if not found.outstanding and issued == revoked:
        return f"{count(issued, 'credential')} issued = {revoked} revoked"
    return f"{count(issued, 'credential')} issued, {revoked} revoked, {found.outstanding} without a record of their end"


def run_repair(arguments: argparse.Namespace) -> int:
    """Repair one file, and say what was done."""
    try:
        repaired = repair(arguments.file, time.time_ns)
    except ChainBroken as broken:
        return _say_broken(broken, as_json=False)
    say(f"nothing to repair in {arguments.file}" if repaired is None else _done(repaired))
    return OK


def _done(repaired: Repaired) -> str:
    if repaired.recreated:
        return f"began {repaired.recreated}, which the chain continues in"
    kept = f"{count(repaired.size, 'torn byte')} kept in {repaired.torn} (sha256 {repaired.sha256})"
    return f"repaired {repaired.path}: {kept}" if repaired.position else f"no whole record in {repaired.path}: {kept}"
