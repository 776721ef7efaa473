"""How an index knows its own file, and the log's files, again."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

APPLICATION: Final = 0x61677561  # marks the file as ours, in the header of every SQLite file


def is_index(place: Path) -> bool:
    """Tell whether a file may be written over: there is none, it is empty, or it is an index."""
    try:
        with place.open("rb") as file:
            header = file.read(72)
    except FileNotFoundError:
        return True
    return not header or int.from_bytes(header[68:72], "big") == APPLICATION


def mark_of(line: bytes) -> str:
    """What is remembered of a file's last line, to see whether it is still the same file."""
    return hashlib.sha256(line).hexdigest()[:32] + f":{len(line)}"


def is_still(path: Path, size: int, mark: str) -> bool:
    """Tell whether a file still begins with what was read of it, as its last line there shows."""
    length = int(mark.rpartition(":")[2])
    if path.stat().st_size < size:
        return False
    with path.open("rb") as file:
        file.seek(size - length)
        return mark_of(file.read(length)) == mark
