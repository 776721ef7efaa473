"""Proves to somebody without the log that a record stands in it (C2SP tlog-proof 1.0)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from agentguard.audit import chain
from agentguard.audit.checkpoint import Checkpoint, opened
from agentguard.audit.merkle import SIZE, RangeRoots, inclusion_ranges, verify_inclusion
from agentguard.audit.note import NoteKey, NoteRejected, b64, number, unb64
from agentguard.audit.verify import file_of, verify
from agentguard.errors import ConfigurationError
from agentguard.model.canonical import jcs
from agentguard.model.record import Position

MAX_PROOF: Final = 4 << 20  # bytes
_HEADER: Final = "c2sp.org/tlog-proof@v1"
_ID: Final = re.compile(r"([0-9a-f]{32}):([1-9][0-9]{0,15})")


def parsed_id(id: str) -> tuple[str, int]:
    """The chain and the number of a record, from its id.

    Raises:
        ConfigurationError: it is no record's id.
    """
    found = _ID.fullmatch(id)
    if found is None:
        raise ConfigurationError(f"{id!r} is no record's id; it reads CHAIN:NUMBER, as in `decision.id`")
    return found[1], int(found[2])


@dataclass(slots=True)
class _Collects:
    """Watches a walk for one record and for the hashes of its proof."""

    seq: int
    size: int
    roots: RangeRoots
    record: Mapping[str, Any] = field(default_factory=dict)

    def saw(self, record: Mapping[str, Any], position: Position, path: Path) -> None:
        if position.seq <= self.size:
            self.roots.append(bytes.fromhex(position.hash))
        if position.seq == self.seq:
            self.record = record

    def ended(self, head: Position, path: Path) -> None:
        """Nothing to do."""


def prove(directory: Path, id: str, notes: Iterable[bytes]) -> str:
    """Return a proof that holds the record, its place, the hashes beside it and a signed checkpoint.

    Args:
        directory: of the log.
        id: of the record.
        notes: checkpoints; the earliest one that covers the record is taken. Whoever checks the proof checks its key.

    Raises:
        ConfigurationError: it is no record's id.
        NoteRejected: no checkpoint covers the record, or the log is not what was signed.
        AuditBroken: the record's chain does not verify.
        OSError: a file cannot be read, or the chain is not there.
    """
    name, seq = parsed_id(id)
    covering = [(found, note) for note in notes if (found := _parsed(note)).chain == name and found.size >= seq]
    if not covering:
        raise NoteRejected(f"no checkpoint covers record {id} yet; one is written as the log grows, and at its end")
    checkpoint, note = min(covering, key=lambda pair: pair[0].size)
    collects = _Collects(seq, checkpoint.size, RangeRoots(inclusion_ranges(seq - 1, checkpoint.size)))
    verify(file_of(directory, name), collects)
    try:
        hashes = collects.roots.roots()
        leaf = bytes.fromhex(collects.record["hash"])
    except (KeyError, ValueError):
        raise NoteRejected(
            f"the log ends before record {checkpoint.size} of the checkpoint; verify it with that"
        ) from None
    if not verify_inclusion(leaf, seq - 1, checkpoint.size, hashes, checkpoint.root):
        raise NoteRejected("the log is not what the checkpoint was signed over; verify it with that checkpoint")
    line = b64(jcs(collects.record) + b"\n")
    lines = [_HEADER, f"extra {line}", f"index {seq - 1}", *map(b64, hashes), ""]
    return "\n".join(lines) + "\n" + note.decode()


def _parsed(note: bytes) -> Checkpoint:
    return Checkpoint.parse(note.decode("utf-8", "replace").partition("\n\n")[0] + "\n")


def verify_proof(proof: bytes, key: NoteKey) -> tuple[Mapping[str, Any], Checkpoint]:
    """Return the record that a proof proves, and the checkpoint that it stands under.

    Raises:
        NoteRejected: it proves nothing: it does not parse, the key did not sign it, or its hashes do not lead there.
    """
    if len(proof) > MAX_PROOF:
        raise NoteRejected("a proof is not longer than 4 MiB")
    head, gap, note = proof.partition(b"\n\n")
    try:
        lines = head.decode("ascii").split("\n")
    except UnicodeDecodeError:
        lines = []
    if not gap or len(lines) < 3 or lines[0] != _HEADER:
        raise NoteRejected(f"not a proof: it begins with {_HEADER}, a record and its index")
    extra, index = (_after(line, word) for line, word in zip(lines[1:3], ("extra ", "index "), strict=True))
    hashes = [unb64(line, SIZE) for line in lines[3:]]
    checkpoint = opened(note, key)
    try:
        record, position = chain.read(unb64(extra), None)
    except ValueError as error:
        raise NoteRejected(f"the record of the proof is broken: {error}") from None
    if (position.chain, position.seq) != (checkpoint.chain, number(index) + 1):
        raise NoteRejected("the record of the proof has another place than the proof says")
    leaf = bytes.fromhex(position.hash)
    if not verify_inclusion(leaf, position.seq - 1, checkpoint.size, hashes, checkpoint.root):
        raise NoteRejected("the hashes of the proof do not lead to the checkpoint: the record was not in the log")
    return record, checkpoint


def _after(line: str, word: str) -> str:
    if not line.startswith(word):
        raise NoteRejected(f"not a line of a proof: {line[:80]!r}")
    return line.removeprefix(word)
