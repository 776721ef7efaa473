"""The directory of a log: made, made durable, and how the files in it are called."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from agentguard.errors import AuditUnavailable
from agentguard.model.record import Position


def unavailable(path: Path, what: str, error: OSError) -> AuditUnavailable:
    """The error to raise when the operating system refused something."""
    return AuditUnavailable(f"audit log {path}: cannot {what}: {error.strerror or type(error).__name__}")


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable.

    Raises:
        OSError: they are not durable.
    """
    if sys.platform == "win32":
        return  # a directory cannot be opened there; the file system's journal keeps names
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def file_name(head: Position, now_ns: int) -> str:
    """The name of a file that begins behind a record: its time, its process, its chain, and where in the chain."""
    seconds, rest = divmod(now_ns, 1_000_000_000)
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(seconds)) + f".{rest // 1000:06d}Z"
    part = f"-{head.seq + 1}" if head.seq else ""
    return f"audit-{stamp}-{os.getpid()}-{head.chain}{part}.jsonl"


def make_directory(path: Path) -> None:
    """Create the directory of a log, for its owner only, unless it exists.

    Raises:
        AuditUnavailable: it cannot be created.
    """
    try:
        if not path.is_dir():
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            sync_directory(path.parent)
        sync_directory(path)
    except OSError as error:
        raise unavailable(path, "use this directory", error) from error
