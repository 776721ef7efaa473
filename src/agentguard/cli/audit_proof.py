"""`agentguard audit prove` and `verify-proof`: that a record stands in a log, shown to who has no log."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from agentguard.audit import checkpoint
from agentguard.audit.note import NoteKey, NoteRejected
from agentguard.audit.proof import MAX_PROOF, parsed_id, prove, verify_proof
from agentguard.cli.output import FAILED, OK, complain, say_json


def add(actions: Any) -> None:
    """Add `audit prove` and `audit verify-proof`."""
    text = (
        "Print a proof that a record stands in the log: the record, hashes and a signed checkpoint (C2SP tlog-proof)."
    )
    parser = actions.add_parser("prove", help="prove that a record stands in a log", description=text)
    parser.add_argument("id", metavar="ID", help="of the record: CHAIN:NUMBER, the decision id of spans and errors")
    parser.add_argument("path", type=Path, metavar="DIR", help="a directory of logs")
    parser.add_argument("--checkpoint", type=Path, metavar="FILE", help="checkpoints; DIR.checkpoints by default")
    parser.set_defaults(run=run_prove)
    text = "Check a proof that `audit prove` printed, without the log, and print its record."
    parser = actions.add_parser("verify-proof", help="check such a proof", description=text)
    parser.add_argument("file", type=Path, metavar="FILE", help="the proof; - for standard input")
    add_key(parser, required=True)
    parser.set_defaults(run=run_verify_proof)


def add_key(parser: Any, *, required: bool) -> None:
    """Add the options that name a trusted key."""
    parser.add_argument(
        "--key", metavar="PUB", required=required,
        help="the public key of checkpoints: a PEM file, or a verifier key (NAME+ID+BASE64) or a file with one",
    )  # fmt: skip
    parser.add_argument(
        "--name", default="agentguard", metavar="NAME", help="the name of a key in a PEM file; default agentguard"
    )


def key(arguments: argparse.Namespace) -> tuple[str, str]:
    """The key and the name that were given."""
    return arguments.key, arguments.name


def beside(path: Path) -> Path:
    """Where the checkpoints of a log are written by default."""
    return Path(f"{os.path.abspath(path if path.is_dir() else path.parent)}.checkpoints")


def run_prove(arguments: argparse.Namespace) -> int:
    """Print a proof of one record."""
    where: Path = arguments.checkpoint or beside(arguments.path)
    chain = parsed_id(arguments.id)[0]
    files = checkpoint.files(where)
    own = [file for file in files if file.stem == chain] or files
    try:
        proof = prove(arguments.path, arguments.id, [note for file in own for note in checkpoint.read_notes(file)])
    except NoteRejected as rejected:
        complain(f"agentguard: {rejected}")
        return FAILED
    sys.stdout.write(proof)
    return OK


def run_verify_proof(arguments: argparse.Namespace) -> int:
    """Check a proof, and print what it proves."""
    trusted = NoteKey.read(*key(arguments))
    try:
        record, under = verify_proof(_proof(arguments.file), trusted)
    except NoteRejected as rejected:
        complain(f"REJECTED {rejected}")
        return FAILED
    say_json(record)
    place = f"{under.chain}:{record['seq']} stands in {under.origin}"
    complain(f"ok: record {place}, which had {under.size} records at {under.time}")
    return OK


def _proof(file: Path) -> bytes:
    if str(file) == "-":
        return sys.stdin.buffer.read(MAX_PROOF + 1)
    with file.open("rb") as opened:
        return opened.read(MAX_PROOF + 1)
