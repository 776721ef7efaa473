"""Checkpoints: what a chain was at a time, signed (C2SP tlog-checkpoint), and what its file holds.

Text of a checkpoint, before its signature:

    bank.test/audit/<chain>                    the origin: a key's name and a chain
    1200                                       records so far
    <base64>                                   root of the Merkle tree over them
    time 2026-11-21T22:26:40.123456Z
    chain <chain> <seq> <base64>               where each other chain of the directory stands: its last record's hash

For another chain the hash of its last record is enough: through `prev` it stands for all records before it, and
it is had without reading the chain.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from agentguard.audit.merkle import SIZE
from agentguard.audit.note import NoteKey, NoteRejected, b64, number, unb64
from agentguard.model.record import Position

MAX_FILE: Final = 1 << 30
_CHAIN: Final = re.compile(r"[0-9a-f]{32}")
_TIME: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a chain was at a time.

    Args:
        name: of the key, the same for all chains of a log.
        chain: which chain.
        size: how many records it had.
        root: of the Merkle tree over their hashes, 32 bytes.
        time: when, RFC 3339 in UTC with microseconds.
        others: where the other chains in the directory stood.
    """

    name: str
    chain: str
    size: int
    root: bytes
    time: str
    others: tuple[Position, ...] = ()

    @property
    def origin(self) -> str:
        """Which log this is, as the format wants to know it: each chain is a log."""
        return f"{self.name}/{self.chain}"

    def text(self) -> str:
        """The text that is signed."""
        others = [f"chain {other.chain} {other.seq} {b64(bytes.fromhex(other.hash))}" for other in self.others]
        return "\n".join([self.origin, str(self.size), b64(self.root), f"time {self.time}", *others, ""])

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the checkpoint in a note's text.

        Raises:
            NoteRejected: it is none of ours, strictly.
        """
        lines = text.removesuffix("\n").split("\n")
        if len(lines) < 4 or not all(lines):
            raise NoteRejected("a checkpoint has an origin, a size, a root and a time, one a line")
        name, slash, chain = lines[0].rpartition("/")
        if not slash or not _CHAIN.fullmatch(chain):
            raise NoteRejected(f"a checkpoint of another kind of log: {lines[0][:120]!r}")
        word, _, time = lines[3].partition(" ")
        if word != "time" or not _TIME.fullmatch(time):
            raise NoteRejected(f"not the time of a checkpoint: {lines[3][:80]!r}")
        return cls(name, chain, number(lines[1]), unb64(lines[2], SIZE), time, tuple(map(_other, lines[4:])))


def _other(line: str) -> Position:
    word, chain, seq, digest = line.split(" ") if line.count(" ") == 3 else ("", "", "", "")
    if word != "chain" or not _CHAIN.fullmatch(chain):
        raise NoteRejected(f"not a line of a checkpoint: {line[:120]!r}")
    return Position(chain, number(seq), unb64(digest, SIZE).hex())


def opened(note: bytes, key: NoteKey) -> Checkpoint:
    """Return the checkpoint that a key signed.

    Raises:
        NoteRejected: the key did not sign it, or it is of another log.
    """
    found = Checkpoint.parse(key.open(note))
    if found.name != key.name:
        raise NoteRejected(f"a checkpoint of another log: its origin is {found.origin!r}, the key is {key.name}'s")
    return found


def notes(data: bytes) -> Iterator[bytes]:
    """Yield each note of a file of checkpoints, whose texts hold no empty line.

    A part of one at the end is passed over: the process was killed while writing it.
    """
    blocks = data.split(b"\n\n")
    for text, signatures in zip(blocks[::2], blocks[1::2], strict=False):
        last = signatures is blocks[-1]
        if last and not signatures.endswith(b"\n"):
            return
        yield text + b"\n\n" + signatures + (b"" if last else b"\n")


def files(path: Path) -> list[Path]:
    """The files of checkpoints at a path: the file itself, or `*.checkpoints` of a directory."""
    return sorted(path.glob("*.checkpoints")) if path.is_dir() else [path]


def read_notes(file: Path) -> list[bytes]:
    """Return the notes of a file, unverified.

    Raises:
        NoteRejected: it is larger than 1 GiB.
        OSError: it cannot be read.
    """
    if file.stat().st_size > MAX_FILE:
        raise NoteRejected(f"{file}: larger than any file of checkpoints")
    return list(notes(file.read_bytes()))


def read(path: Path, key: NoteKey) -> list[Checkpoint]:
    """Return the checkpoints of a file, or of each `*.checkpoints` file in a directory, in their order.

    Raises:
        NoteRejected: the key did not sign one of them, one does not parse, or there is none.
        OSError: a file cannot be read.
    """
    found: list[Checkpoint] = []
    for file in files(path):
        for count, note in enumerate(read_notes(file), 1):
            why = ""
            try:
                found.append(opened(note, key))
            except NoteRejected as error:
                why = str(error)
            if why:
                raise NoteRejected(f"{file}: checkpoint {count}: {why}")
    if not found:
        raise NoteRejected(f"{path}: holds no checkpoint")
    return found
