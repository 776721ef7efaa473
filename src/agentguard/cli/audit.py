"""`agentguard audit`: verify a log, alone or against signed checkpoints; repair what a killed process left."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from agentguard.audit import checkpoint
from agentguard.audit.note import NoteKey, NoteRejected
from agentguard.audit.repair import Repaired, repair
from agentguard.audit.tally import Verified
from agentguard.audit.trusted import Held, Trusted
from agentguard.audit.verify import ChainBroken, verify
from agentguard.cli import audit_bypass, audit_export, audit_proof, audit_query
from agentguard.cli.output import FAILED, OK, UNUSABLE, complain, count, say, say_json
from agentguard.errors import ConfigurationError
from agentguard.model.record import Event


def add(commands: Any) -> None:
    """Add `audit` and its actions."""
    text = "Verify, prove and repair audit logs."
    audit = commands.add_parser("audit", help="verify, prove and repair audit logs", description=text)
    actions = audit.add_subparsers(title="actions", metavar="ACTION", required=True)
    _add_verify(actions)
    _add_repair(actions)
    audit_proof.add(actions)
    audit_query.add(actions)
    audit_export.add(actions)
    audit_bypass.add(actions)


def _add_verify(actions: Any) -> None:
    text = (
        "Check every record of a log. Alone it does not show that records at its end were removed, or that all of it "
        "was written anew; against checkpoints that were kept elsewhere it does."
    )
    parser = actions.add_parser("verify", help="check every record of a log", description=text)
    parser.add_argument("path", type=Path, metavar="PATH", help="a directory of logs, or one file of a chain")
    parser.add_argument(
        "--checkpoint", type=Path, metavar="FILE",
        help="signed checkpoints: a file, or a directory of *.checkpoints; with --key alone: PATH.checkpoints",
    )  # fmt: skip
    audit_proof.add_key(parser, required=False)
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
        trusted = _trusted(arguments)
        found = verify(arguments.path, trusted)
        held = trusted.finish(arguments.path) if trusted is not None else None
    except ChainBroken as broken:
        return _say_broken(broken, as_json=arguments.json)
    except NoteRejected as rejected:
        return _say_rejected(rejected, as_json=arguments.json)
    except OSError as error:
        if arguments.json:
            say_json({"ok": False, "why": f"cannot read {error.filename or arguments.path}: {error.strerror or error}"})
            return UNUSABLE
        raise
    if arguments.json:
        say_json({**_members(found), **(_held_members(held) if held is not None else {})})
    else:
        say(_summary(found))
        if held is not None:
            say(_held(held))
    return OK


def _trusted(arguments: argparse.Namespace) -> Trusted | None:
    where: Path | None = arguments.checkpoint
    if arguments.key is None:
        if where is not None:
            raise ConfigurationError("--checkpoint needs --key: a checkpoint proves nothing without the key you trust")
        return None
    return Trusted(
        checkpoint.read(where or audit_proof.beside(arguments.path), NoteKey.read(*audit_proof.key(arguments)))
    )


def _say_rejected(rejected: NoteRejected, *, as_json: bool) -> int:
    if as_json:
        say_json({"ok": False, "why": str(rejected)})
    else:
        complain(f"REJECTED {rejected}; nothing was compared with it")
    return FAILED


def _held_members(held: Held) -> dict[str, Any]:
    names = ("checkpoints", "latest", "chained_only", "uncovered")
    return {"checkpoint": {name: getattr(held, name) for name in names}}


def _held(held: Held) -> str:
    parts = [f"ok: {count(held.checkpoints, 'checkpoint')} held, the latest of {held.latest}"]
    if held.chained_only:
        parts.append(f"{count(held.chained_only, 'record')} behind the last one of their chain")
    if held.uncovered:
        parts.append(f"{count(held.uncovered, 'chain')} in no checkpoint")
    return ", ".join(parts)


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
