"""One file of a chain: a line is in it whole, or not at all."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from agentguard._version import VERSION
from agentguard.audit.chain import link
from agentguard.audit.directory import sync_directory, unavailable
from agentguard.errors import AuditUnavailable
from agentguard.model.record import Event, Position, Record

if sys.platform != "win32":
    import fcntl

_FLAGS: Final = os.O_RDWR | os.O_APPEND | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)

# The seam: the calls of the operating system that can fail under us.
_write = os.write
_truncate = os.ftruncate
_sync_file = getattr(os, "fdatasync", os.fsync)


class Segment:
    """A file that is open for appending. Not safe for concurrent use: the log's locks see to that.

    The lock on the file (flock) lasts as long as the process that writes it, so nobody repairs a living log.

    Attributes:
        tip: size of the file up to its last whole line, and where the chain stands there. INVARIANT: one assignment
            changes both, so an interrupt (Ctrl-C) cannot part them.
        room: the size from which on the next record needs a look at `ready` first, and what is full gets no more. It is
            0, so that every size is beyond it, once the file is closed or poisoned, or half a record may be in it.
        poisoned: it may have lost records that were written; nothing more is written to it.
        next: name of the file the chain continues in, once its last record says so.
    """

    _fd = -1  # of one whose making was interrupted

    def __init__(self, path: Path, fd: int, size: int, head: Position) -> None:
        self.path, self.tip = path, (size, head)
        self.room = self._most = sys.maxsize
        self.poisoned = False
        self.next = ""
        self._fd = fd
        self._dirty = False

    @classmethod
    def create(cls, path: Path, head: Position) -> Segment:
        """Create a file that did not exist, readable by its owner only.

        Raises:
            AuditUnavailable: it cannot be created.
        """
        return cls(path, _open(path, os.O_CREAT | os.O_EXCL), 0, head)

    @classmethod
    def begin(
        cls, path: Path, head: Position, origin: Mapping[str, Any], now_ns: int, most: int = sys.maxsize
    ) -> Segment:  # fmt: skip
        """Create a file with its first record, `log.opened`, and make record and name durable.

        Args:
            path: the file; its name is this chain's alone.
            head: where the chain stands.
            origin: what the first record says of what was before.
            now_ns: nanoseconds since the epoch.
            most: as for `limit`.

        Raises:
            AuditUnavailable: there is no such file now, unless there was one before.
        """
        segment: Segment | None = None
        try:
            segment = cls.create(path, head)
            segment.append(opened(origin), now_ns)
            segment.sync()
            sync_directory(path.parent)
            segment.limit(most)
        except BaseException as error:
            if segment is not None:
                segment.close()
            if not isinstance(error.__cause__, FileExistsError):  # else it would be in the way of the next attempt
                path.unlink(missing_ok=True)
            if isinstance(error, OSError) and segment is not None:
                raise unavailable(path, "make it durable", error) from error
            raise
        return segment

    @classmethod
    def reopen(cls, path: Path, head: Position) -> Segment:
        """Open an existing file that no living process writes.

        Raises:
            AuditUnavailable: it cannot be opened, or another process writes it.
        """
        fd = _open(path, 0)
        return cls(path, fd, os.fstat(fd).st_size, head)

    @property
    def head(self) -> Position:
        """Where the chain stands."""
        return self.tip[1]

    def limit(self, size: int) -> None:
        """From this size on there is no more room; what needs a look stays without."""
        self._most = size
        self._make_room()

    def _make_room(self) -> None:
        self.room = self._most
        # INVARIANT: looked at last. The thread that syncs may poison it meanwhile: it says so, and then takes the room.
        if self.poisoned or self._dirty or self._fd < 0:
            self.room = 0

    def ready(self) -> None:
        """Remove what a failed write has left.

        Raises:
            AuditUnavailable: it could not be removed, so nothing may be written behind it.
        """
        if self._dirty:
            self._cut(self.tip[0])

    def append(self, record: Record, now_ns: int) -> Position:
        """Write a record: it survives the process (not yet the machine) when this returns.

        Where there is no `room`, `ready` comes first.

        Raises:
            AuditUnavailable: nothing of it is in the file, or `ready` removes what is.
        """
        size, head = self.tip
        line, position = link(head, now_ns, record)
        # INVARIANT: from the first byte in the file to the tip behind the last one, whatever is raised, Ctrl-C too, is
        # caught, and takes the room before anything else can be raised.
        try:
            written = _write(self._fd, line)
            if written != len(line):
                raise AuditUnavailable(
                    f"audit log {self.path}: only a part of a record could be written; is the disk full?"
                )
            self.tip = (size + written, position)
        except BaseException as error:
            self.room, self._dirty = 0, True
            with suppress(AuditUnavailable):  # the next record tries again first, and fails until that works
                self._cut(self.tip[0])
            if isinstance(error, OSError):
                raise unavailable(self.path, "write", error) from error
            raise
        return position

    def _cut(self, size: int) -> None:
        try:
            _truncate(self._fd, size)
        except OSError as error:
            raise unavailable(self.path, "remove a half-written record", error) from error
        self._dirty = False
        self._make_room()

    def tail(self) -> bytes:
        """What stands behind the last whole line.

        Raises:
            AuditUnavailable: it cannot be read.
        """
        try:
            with self.path.open("rb") as file:
                file.seek(self.tip[0])
                return file.read()
        except OSError as error:
            raise unavailable(self.path, "read", error) from error

    def cut(self) -> None:
        """Remove what stands behind the last whole line.

        Raises:
            AuditUnavailable: it could not be removed.
        """
        self._cut(self.tip[0])

    def sync(self) -> Position:
        """Make everything written so far durable, and return where the chain stood then.

        Raises:
            AuditUnavailable: it is not durable and never will be. After a failed fdatasync the kernel may call pages
                clean that never reached the disk, so trying again proves nothing: the file is poisoned.
        """
        size, head = self.tip
        try:
            if self.poisoned:
                raise AuditUnavailable(f"audit log {self.path}: records before this one may be lost")
            _sync_file(self._fd)
            found = os.fstat(self._fd)
            if found.st_nlink == 0 or found.st_size < size:
                raise AuditUnavailable(f"audit log {self.path}: somebody removed or shortened it")
        # INVARIANT: poisoned before anything is called, where an interrupt (Ctrl-C) that came meanwhile is raised: the
        # kernel tells of a failure once, so the next sync would find nothing wrong.
        except OSError as error:
            self.poisoned, self.room = True, 0
            raise unavailable(self.path, "make records durable", error) from error
        except AuditUnavailable:
            self.poisoned, self.room = True, 0
            raise
        return head

    def close(self) -> None:
        """Close the file; closing it twice does nothing."""
        fd, self._fd, self.room = self._fd, -1, 0
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        self.close()


def _open(path: Path, flags: int) -> int:
    try:
        fd = os.open(path, _FLAGS | flags, 0o600)
    except OSError as error:
        raise unavailable(path, "open", error) from error
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise AuditUnavailable(f"audit log {path}: not a regular file")
        if sys.platform != "win32":
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException as error:
        os.close(fd)
        if isinstance(error, BlockingIOError):
            raise AuditUnavailable(f"audit log {path}: another process is writing it") from None
        if isinstance(error, OSError):
            raise unavailable(path, "lock", error) from error
        raise
    return fd


def is_written(path: Path) -> bool:
    """Tell whether a living process writes a file; False where nobody can tell, and where there is no such file."""
    if sys.platform == "win32":
        return False
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def opened(origin: Mapping[str, Any]) -> Record:
    """The first record of a file: which process writes it, and what it continues or was forked from."""
    host = os.uname().nodename if hasattr(os, "uname") else ""
    return Record(Event.LOG_OPENED, {"pid": os.getpid(), "host": host, "version": VERSION, **origin})
