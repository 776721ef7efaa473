"""Where the other chains of a directory stand, without reading them: the last whole line of each one's last file."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

from agentguard.audit.chain import MAX_LINE, read
from agentguard.model.record import Position

MAX_CHAINS: Final = 64  # those that were written last; earlier checkpoints tied the others
_NAME: Final = re.compile(r"audit-[^-]+-[0-9]+-([0-9a-f]{32})(?:-([0-9]+))?\.jsonl")
_BLOCK: Final = 1 << 13
_sync_file = getattr(os, "fdatasync", os.fsync)
_Stamp = tuple[str, int, int]


class Neighbours:
    """Looks at the other chains of a directory again and again; an unchanged file is not read twice.

    Args:
        directory: of the logs.
        own: the chain to leave out.
    """

    def __init__(self, directory: Path, own: str) -> None:
        self._directory, self._own = directory, own
        self._known: dict[str, tuple[_Stamp, Position | None]] = {}

    def look(self) -> tuple[Position, ...]:
        """Return where each other chain stands on the disk, sorted; a file that tells nothing is left out."""
        latest: dict[str, tuple[int, Path]] = {}
        for path in self._directory.glob("audit-*.jsonl"):
            name = _NAME.fullmatch(path.name)
            if name is not None and name[1] != self._own:
                part = int(name[2] or 0)
                latest[name[1]] = max(latest.get(name[1], (-1, path)), (part, path))
        stamped = {chain: stamp for chain, (_, path) in latest.items() if (stamp := _stamp(path)) is not None}
        recent = sorted(stamped, key=lambda chain: stamped[chain][2], reverse=True)[:MAX_CHAINS]
        known = {chain: self._position(chain, stamped[chain]) for chain in recent}
        self._known = known
        return tuple(position for chain in sorted(known) if (position := known[chain][1]) is not None)

    def _position(self, chain: str, stamp: _Stamp) -> tuple[_Stamp, Position | None]:
        before = self._known.get(chain)
        if before is not None and before[0] == stamp:
            return before
        found = last_position(self._directory / stamp[0])
        return stamp, found if found is not None and found.chain == chain else None


def _stamp(path: Path) -> _Stamp | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return path.name, status.st_size, status.st_mtime_ns


def last_position(path: Path) -> Position | None:
    """Where a chain stands at the last whole line of a file, made durable; None if that cannot be said.

    INVARIANT: the line is on the disk before anything is signed about it, so a power failure makes no checkpoint lie.
    """
    try:
        fd = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0))
        try:
            line = _last_line(fd)
            _sync_file(fd)
        finally:
            os.close(fd)
        return read(line, None)[1]
    except (OSError, ValueError):
        return None  # `audit verify` says what is wrong with that file


def _last_line(fd: int) -> bytes:
    size = os.fstat(fd).st_size
    tail, block = b"", _BLOCK
    while True:
        block = min(block, size)
        tail = os.pread(fd, block, size - block)
        end = tail.rfind(b"\n")
        begin = tail.rfind(b"\n", 0, max(end, 0))
        if end >= 0 and (begin >= 0 or block == size):
            return tail[begin + 1 : end + 1]
        if block == size or block > 2 * MAX_LINE:
            return b""
        block *= 4
