"""Verifies chains of audit records: a stream, in constant memory, up to the first record that is broken.

What a hash chain cannot show by itself: that records at the end, or a whole chain, were removed, or that somebody wrote
all of it anew. That needs a signed checkpoint kept elsewhere: `trusted` watches a walk for it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

from agentguard.audit.chain import FRESH, MAX_LINE, decode, read
from agentguard.audit.segment import is_written
from agentguard.audit.tally import Tally, Verified
from agentguard.errors import AuditBroken
from agentguard.model.record import Event, Position

_LOOKS: Final = 25  # at a file that is empty still
_PAUSE: Final = 0.02


class ChainBroken(AuditBroken):
    """A record does not verify.

    Args:
        record: its number, counted from 1 over the whole chain.
        why: what is wrong with it.
        path: the file it stands in.
        line: its line in that file, from 1; 0 where the record or its file is missing.
    """

    def __init__(self, record: int, why: str, path: Path, line: int = 0) -> None:
        super().__init__(record, why)
        self.path, self.line = path, line


class TornLine(ChainBroken):
    """The last line has no end; `size` is how many bytes stand before it."""

    def __init__(self, record: int, path: Path, line: int, size: int) -> None:
        what = "torn last line: the process was killed while writing it"
        if not line:
            what = "the file is empty: the process was killed before its first record"
        super().__init__(record, f"{what}; repair with: agentguard audit repair {path}", path, line)
        self.size = size


class Watch(Protocol):
    """Sees every record of a walk once it has verified, and each chain's end; raises what it finds wrong."""

    def saw(self, record: Mapping[str, Any], position: Position, path: Path) -> None: ...
    def ended(self, head: Position, path: Path) -> None: ...


def verify(path: str | Path, watch: Watch | None = None) -> Verified:
    """Verify a log: all chains in a directory, or the whole chain that a file belongs to.

    Args:
        path: a directory (its files `audit-*.jsonl`) or a file; a chain is followed over its rotated files.
        watch: sees the records too.

    Raises:
        AuditBroken: the first record that does not verify (a ChainBroken, which names the file too).
        OSError: a file cannot be read, or there is none.
    """
    where = Path(path)
    walk = _walk(where, watch)
    if where.is_dir():
        walk.all()
    else:
        walk.chain_of(where)
    return walk.tally.verified()


def _walk(where: Path, watch: Watch | None) -> _Walk:
    directory = where if where.is_dir() else where.parent
    return _Walk({file.name: _first(file) for file in sorted(directory.glob("audit-*.jsonl"))}, directory, watch)


def file_of(directory: Path, chain: str) -> Path:
    """A file of a chain.

    Raises:
        FileNotFoundError: there is none in the directory.
    """
    for path in sorted(directory.glob("audit-*.jsonl")):
        if _first(path).get("chain") == chain:
            return path
    raise FileNotFoundError(f"no audit log of chain {chain} in {directory}")


def replay(path: Path, take: Callable[[Position], object]) -> None:
    """Hand on where each record stands of the whole chain that a file belongs to.

    Raises:
        AuditBroken: the first record that does not verify.
        OSError: a file cannot be read, or there is none.
    """
    _walk(path, _Taking(take)).chain_of(path)


@dataclass(slots=True)
class _Taking:
    take: Callable[[Position], object]

    def saw(self, record: Mapping[str, Any], position: Position, path: Path) -> None:
        self.take(position)

    def ended(self, head: Position, path: Path) -> None:
        """Nothing to do."""


def lines(path: Path, head: Position | None) -> Iterator[tuple[dict[str, Any], Position]]:
    """Yield each record of one file and where the chain then stands.

    Args:
        path: the file.
        head: the record before its first one, `FRESH` where a chain must begin, None to take the first at its word.

    Raises:
        ChainBroken: a record does not verify (TornLine: the last line has no end, or there is no line).
    """
    number = size = 0
    with path.open("rb") as file:
        while line := file.readline(MAX_LINE):
            number += 1
            seq = (head.seq if head else number - 1) + 1
            if not line.endswith(b"\n"):
                if len(line) == MAX_LINE:
                    raise ChainBroken(seq, "longer than any record", path, number)
                raise TornLine(seq, path, number, size)
            try:
                record, head = read(line, head)
            except ValueError as error:
                raise ChainBroken(seq, str(error), path, number) from None
            size += len(line)
            yield record, head
    if not number:
        raise TornLine((head.seq if head else 0) + 1, path, 0, 0)


def _first(path: Path) -> dict[str, Any]:
    """The first record of a file, not verified; empty if it cannot be read as one."""
    with path.open("rb") as file:
        line = file.readline(MAX_LINE)
    try:
        return decode(line)
    except ValueError:
        return {}


def follower(path: Path) -> Path | None:
    """The file beside `path` that says it continues it, or None."""
    files = sorted(path.parent.glob("audit-*.jsonl"))
    return next((file for file in files if file != path and _first(file).get("continues") == path.name), None)


def sibling(path: Path, name: object) -> Path | None:
    """The file beside `path` that a record names; None if that is no plain file name."""
    plain = isinstance(name, str) and name not in ("", ".", "..") and not set(name) & {"/", "\\", "\x00"}
    return path.parent / str(name) if plain else None


@dataclass(slots=True)
class _Walk:
    """Follows chains from file to file, each file once."""

    firsts: dict[str, dict[str, Any]]
    directory: Path
    watch: Watch | None = None
    tally: Tally = field(default_factory=Tally)
    visited: set[str] = field(default_factory=set)
    chains: set[str] = field(default_factory=set)

    def all(self) -> None:
        if not self.firsts:
            raise FileNotFoundError(f"no audit log (audit-*.jsonl) in {self.directory}")
        # Those that begin a chain first, so that a broken record is counted from the start of its chain.
        for begins in (True, False):
            for name, first in self.firsts.items():
                if name not in self.visited and (not begins or first.get("seq") == 1):
                    self.chain(self.directory / name)

    def chain_of(self, path: Path) -> None:
        self.firsts.setdefault(path.name, _first(path))
        name, seen = path.name, set[str]()
        while name not in seen:
            seen.add(name)
            before = self.firsts[name].get("continues")
            name = before if isinstance(before, str) and before in self.firsts else name
        self.chain(self.directory / name)
        if path.name not in self.visited:
            raise ChainBroken(1, f"the chain it continues, from {name!r} on, does not lead to it", path, 1)

    def chain(self, path: Path) -> None:
        head, record = FRESH, dict[str, Any]()
        following: Path | None = path
        while following is not None:
            before, path = path, following
            self.visited.add(path.name)
            self.tally.files += 1
            if head is FRESH:
                self._await_first(path)
            self._require_predecessor(path, head)
            try:
                for found, position in lines(path, head):
                    if head is FRESH:
                        self._require_new(position.chain, path)
                    record, head = found, position
                    self.tally.add(record)
                    if self.watch is not None:
                        self.watch.saw(found, position, path)
            except TornLine as torn:
                if not record and torn.line and is_written(path):
                    return  # a chain whose first record a living process is at now
                # What a living process is at now is whole in a moment. INVARIANT: an empty file is not locked here,
                # as that process is about to: it holds the one before until this one is begun.
                if not record or not is_written(path if torn.line else before):
                    raise
                break
            following = self._next(path, record, head)
        self.tally.end(record, head)
        if self.watch is not None:
            self.watch.ended(head, path)

    def _await_first(self, path: Path) -> None:
        """A process that begins makes its file first. It is not locked here, which could get in its way."""
        for _ in range(_LOOKS):
            if self.firsts.get(path.name) or path.stat().st_size:
                break
            time.sleep(_PAUSE)
        self.firsts[path.name] = self.firsts.get(path.name) or _first(path)

    def _require_predecessor(self, path: Path, head: Position) -> None:
        before = self.firsts.get(path.name, {}).get("continues")
        if head is FRESH and before is not None:
            raise ChainBroken(1, f"it continues {before!r}, which is missing or does not lead to it", path, 1)

    def _require_new(self, chain: str, path: Path) -> None:
        """INVARIANT: one chain of a name, else checkpoints would vouch for the first, and for others beside it too."""
        if chain in self.chains:
            raise ChainBroken(1, f"chain {chain} begins here, and in another file too: one of them is a copy", path, 1)
        self.chains.add(chain)

    def _next(self, path: Path, record: Mapping[str, Any], head: Position) -> Path | None:
        if record["event"] != Event.LOG_ROTATED:
            # A file that failed on disk has no last word; the one behind it names it.
            names = (name for name, first in self.firsts.items() if first.get("continues") == path.name)
            return next((self.directory / name for name in names if name not in self.visited), None)
        found = sibling(path, record.get("next"))
        if found is not None and not found.exists() and is_written(path):
            return None  # a living process makes it now
        if found is None or not found.is_file():
            why = f"the chain continues in {record.get('next')!r}, which is missing"
            hint = f"if the process was killed at that moment, repair with: agentguard audit repair {path}"
            raise ChainBroken(head.seq + 1, f"{why}; {hint}", path)
        return found
