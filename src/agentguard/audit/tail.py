"""The last records of a log, and those that come: over all chains of a directory, by time."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from agentguard.audit.chain import MAX_LINE, read

Found = tuple[Mapping[str, Any] | None, Path]  # None: a line that is no record
_BLOCK: Final = 1 << 16


class Tail:
    """Reads what a directory's logs have grown by since it last looked. Not safe for concurrent use.

    Args:
        directory: of the logs.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._read: dict[str, int] = {}

    def last(self, count: int) -> list[Found]:
        """Return the last records of all chains together, by time, and go on behind them."""
        found: list[Found] = []
        for path in self._paths():
            end = _whole(path, path.stat().st_size)
            self._read[path.name] = end
            found += _lines(path, *_last_lines(path, end, count))
        return sorted(found, key=_time)[-count:] if count else []

    def grown(self) -> list[Found]:
        """Return the whole records that were written since, by time."""
        found: list[Found] = []
        for path in self._paths():
            at, size = self._read.get(path.name, 0), path.stat().st_size
            if size < at:  # cut off: what is behind it is new, and `audit verify` says what happened
                at = _whole(path, size)
            end = _whole(path, size) if size > at else at
            found += _lines(path, at, end)
            self._read[path.name] = end
        return sorted(found, key=_time)

    def _paths(self) -> list[Path]:
        return sorted(self._directory.glob("audit-*.jsonl"))


def _time(found: Found) -> str:
    return found[0]["time"] if found[0] is not None else ""


def _whole(path: Path, size: int) -> int:
    """Where the last whole line ends."""
    with path.open("rb") as file:
        for begin in range(max(0, size - _BLOCK), -_BLOCK, -_BLOCK):
            begin = max(0, begin)
            file.seek(begin)
            newline = file.read(min(_BLOCK, size - begin)).rfind(b"\n")
            if newline >= 0:
                return begin + newline + 1
            if begin == 0 or size - begin > 2 * MAX_LINE:
                break
    return 0


def _last_lines(path: Path, end: int, count: int) -> tuple[int, int]:
    """Where the last lines of a file begin and end."""
    begin, block = end, b""
    with path.open("rb") as file:
        while begin and block.count(b"\n") <= count:
            step = min(begin, _BLOCK)
            begin -= step
            file.seek(begin)
            block = file.read(step) + block
    lines = block.split(b"\n")[:-1]  # at no other character: a line that is no record may hold any
    return end - sum(len(line) + 1 for line in (lines[-count:] if count else [])), end


def _lines(path: Path, begin: int, end: int) -> Iterator[Found]:
    with path.open("rb") as file:
        file.seek(begin)
        while begin < end:
            line = file.readline(MAX_LINE)
            begin += len(line) or end
            try:
                yield read(line, None)[0], path
            except ValueError:
                yield None, path


def watched(path: Path) -> Path:
    """The directory of a path: itself, or the one that the file is in.

    Raises:
        FileNotFoundError: there is no log in it.
    """
    directory = path if path.is_dir() else path.parent
    if not any(directory.glob("audit-*.jsonl")):
        raise FileNotFoundError(f"no audit log (audit-*.jsonl) in {os.fspath(directory)}")
    return directory
