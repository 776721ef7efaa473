"""Where checkpoints go: a file of their own, or a callback; a log event is a callback too."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, TypeAlias

from agentguard.audit.directory import make_directory, sync_directory, unavailable
from agentguard.errors import AuditUnavailable

EVENT_NAME: Final = "agentguard.audit.checkpoint"
Callback: TypeAlias = Callable[[str], object]
_FLAGS: Final = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)

# The seam: the calls of the operating system that can fail under us.
_write = os.write
_sync_file = getattr(os, "fdatasync", os.fsync)


class CheckpointFile:
    """Appends the checkpoints of one chain to `<chain>.checkpoints`, durably; an empty line parts them.

    Args:
        directory: created (mode 0700) if missing.
        chain: whose checkpoints.

    Raises:
        AuditUnavailable: the directory cannot be used.
    """

    def __init__(self, directory: Path, chain: str) -> None:
        make_directory(directory)
        self.path = directory / f"{chain}.checkpoints"

    def __call__(self, note: str) -> None:
        """Append a checkpoint, and return once it is on the disk.

        Raises:
            AuditUnavailable: it is not, and nothing of it is left in the file unless the disk refuses that too.
        """
        try:
            fd = os.open(self.path, _FLAGS, 0o600)
        except OSError as error:
            raise unavailable(self.path, "open", error) from error
        try:
            self._append(fd, note.encode())
        except OSError as error:
            raise unavailable(self.path, "write", error) from error
        finally:
            os.close(fd)

    def _append(self, fd: int, note: bytes) -> None:
        size = _whole(fd)
        if size != os.fstat(fd).st_size:
            os.ftruncate(fd, size)  # what a killed process, or a disk that was full, left of a checkpoint
        data = note if not size else b"\n" + note
        try:
            written = _write(fd, data)
            if written != len(data):
                raise AuditUnavailable(f"checkpoints {self.path}: only a part was written; is the disk full?")
            _sync_file(fd)
        except BaseException:
            os.ftruncate(fd, size)
            raise
        if not size:
            sync_directory(self.path.parent)


def _whole(fd: int) -> int:
    """How many bytes of a file are whole checkpoints; each ends with a signature line."""
    size = os.fstat(fd).st_size
    block = min(size, 1 << 17)  # longer than any checkpoint
    tail = os.pread(fd, block, size - block)
    signature = tail.rfind("\n\n\u2014 ".encode(), 0, tail.rfind(b"\n") - 1)
    end = tail.find(b"\n", signature + 2) + 1 if signature >= 0 else 0
    return size - block + end if end else 0


def log_event(emit: Callable[[str, Mapping[str, str]], object]) -> Callback:
    """Return a callback that hands each checkpoint on as a log event, `agentguard.audit.checkpoint`.

    With OpenTelemetry: `log_event(lambda name, attributes: logger.emit(event_name=name, attributes=attributes))`.

    Args:
        emit: takes the event's name and its attributes; a raise means that it was not taken.
    """

    def send(note: str) -> None:
        origin, size, root = note.split("\n", 3)[:3]
        emit(EVENT_NAME, {"origin": origin, "size": size, "root": root, "checkpoint": note})

    return send
