"""The audit log in files: a chain and a file per process, hash-chained lines, durable on demand."""

from __future__ import annotations

import os
import secrets
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from agentguard._drive import driven, loop_running
from agentguard.audit.chain import start
from agentguard.audit.commit import Committer, Leadership
from agentguard.audit.directory import file_name, make_directory
from agentguard.audit.fork import tell_of_forks
from agentguard.audit.segment import Segment, opened
from agentguard.errors import AuditUnavailable, ConfigurationError
from agentguard.model.record import Event, Position, Record

if TYPE_CHECKING:
    from agentguard.audit.checkpoints import Checkpointer, Checkpoints
    from agentguard.audit.repair import Repaired

MAX_BYTES: Final = 64 << 20
MIN_BYTES: Final = 4096


class FileLog:
    """Appends records to `audit-<UTC time>-<pid>-<chain>.jsonl`. Safe for concurrent use by threads and event loops.

    `append` returns when the record is in the page cache: a killed process loses nothing, a crashed machine may.
    `flush` returns when it is on the disk; concurrent flushes share one fdatasync. A forked child writes a chain and a
    file of its own, from its first record on.

    Args:
        directory: where the files go; created (mode 0700) if missing.
        max_bytes: a file that has reached this size is followed by another one, which continues the chain.
        clock: nanoseconds since the epoch.
        checkpoints: when and where to write signed checkpoints; none without.

    Raises:
        AuditUnavailable: the first file cannot be written, or the place of checkpoints cannot be used.
    """

    suspends = False

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        max_bytes: int = MAX_BYTES,
        clock: Callable[[], int] = time.time_ns,
        checkpoints: Checkpoints | None = None,
    ) -> None:
        path = Path(directory).absolute()
        self._setup(path, max_bytes, clock, checkpoints)
        make_directory(path)
        self._start_chain({})

    @classmethod
    def reopen(
        cls, path: str | os.PathLike[str], *, max_bytes: int = MAX_BYTES, clock: Callable[[], int] = time.time_ns,
        checkpoints: Checkpoints | None = None,
    ) -> FileLog:  # fmt: skip
        """Continue the chain of a file whose process has ended; a torn last line is cut off and recorded.

        Args:
            path: the last file of the chain; all of it is verified first.
            max_bytes, clock, checkpoints: as for a new log; checkpoints cover the chain from its first record.

        Raises:
            AuditBroken: the file does not verify.
            AuditUnavailable: it cannot be written, or a living process writes it.
        """
        log = cls.__new__(cls)
        file = Path(path).absolute()
        log._setup(file.parent, max_bytes, clock, checkpoints)
        from agentguard.audit.repair import take_over

        segment, _ = take_over(file, clock)
        segment.limit(max_bytes)
        log._segment = segment
        log._notes = log._begin_notes(segment.head.chain)
        log._write(segment, opened({"continues": file.name}))
        log._durable = segment.sync().seq
        return log

    @staticmethod
    def repair(path: str | os.PathLike[str], *, clock: Callable[[], int] = time.time_ns) -> Repaired | None:
        """Cut a torn last line off a file whose process was killed, and record that; see `repair.repair`."""
        from agentguard.audit.repair import repair

        return repair(Path(path).absolute(), clock)

    def _setup(self, where: Path, max_bytes: int, clock: Callable[[], int], checkpoints: Checkpoints | None) -> None:
        if max_bytes < MIN_BYTES:
            raise ConfigurationError(f"max_bytes is {max_bytes}: an audit file needs at least {MIN_BYTES}")
        self._directory, self._max_bytes, self._clock, self._checkpoints = where, max_bytes, clock, checkpoints
        self._segment: Segment | None = None
        self._origin: dict[str, Any] = {}
        self._closed = False
        self._renew()
        tell_of_forks(self)

    def _renew(self) -> None:
        # Order of locks: `_lock` (the chain), then `_sync_lock` (who syncs, and whether the file may be swapped).
        self._lock, self._sync_lock = threading.Lock(), threading.Lock()
        self._threads, self._loops = Leadership(), Committer(self._commit)
        self._durable = 0
        self._lost: tuple[tuple[int, int], ...] = ()
        self._notes: Checkpointer | None = None

    def _begin_notes(self, chain: str) -> Checkpointer | None:
        if not self._checkpoints:
            return None
        from agentguard.audit.checkpoints import Checkpointer

        return Checkpointer(self._checkpoints, self._directory, chain, self._made_durable, self._clock)

    def _made_durable(self) -> int:
        self._commit()
        return self._durable

    def after_fork_in_child(self) -> None:
        """Leave the parent's chain to the parent: new locks, and a new chain once there is something to record."""
        self._renew()
        segment, self._segment = self._segment, None
        if segment is not None and not self._closed:
            head = segment.head
            self._origin = {"forked_from": head.chain, "parent_seq": head.seq, "parent_hash": head.hash}
            segment.close()

    def append(self, record: Record) -> Position:
        """Write a record; when this returns it survives the process.

        Raises:
            AuditUnavailable: nothing was written, so nothing may be done.
        """
        with self._lock:
            segment = self._segment
            # INVARIANT: a file that is closed, poisoned, full or left with half a record has no room.
            if segment is None or segment.tip[0] >= segment.room:
                segment = self._ready()
            # The chain lock is held over the write: the order of lines is the order of seq, and a failed write leaves
            # no gap. A queue with one writer measured no faster: whoever appends has to wait for the write anyway.
            position = segment.append(record, self._clock())
            if self._notes is not None:
                self._notes.add(position)
            return position

    def _write(self, segment: Segment, record: Record) -> None:
        segment.ready()
        position = segment.append(record, self._clock())
        if self._notes is not None:
            self._notes.add(position)

    def _ready(self) -> Segment:
        """The file to write to; `_lock` is held."""
        if self._closed:
            raise AuditUnavailable("the audit log is closed")
        segment = self._segment
        if segment is None:
            return self._start_chain(self._origin)
        if segment.poisoned or segment.tip[0] >= self._max_bytes:
            return self._rotate(segment)
        segment.ready()
        return segment

    def _start_chain(self, origin: dict[str, Any]) -> Segment:
        head = start(secrets.token_hex(16))
        self._notes = self._begin_notes(head.chain)
        segment = self._create(file_name(head, self._clock()), head, origin)
        self._durable, self._segment = segment.tip[1].seq, segment
        if self._notes is not None:
            self._notes.add(segment.head)
        return segment

    def _rotate(self, old: Segment) -> Segment:
        """Continue the chain in another file; what fails here is tried again by the next append."""
        if not old.poisoned and not old.next:
            name = file_name(old.head, self._clock())
            self._write(old, Record(Event.LOG_ROTATED, {"next": name}))
            old.next = name
        with self._sync_lock:
            with suppress(AuditUnavailable):  # poisoned then, and the new file says so
                self._durable = old.sync().seq
            head, origin = old.head, dict[str, Any](continues=old.path.name)
            if self._durable < head.seq:
                origin["not_durable_from"] = self._durable + 1
            new = self._create(old.next or file_name(head, self._clock()), head, origin)
            # INVARIANT: nothing is called until the chain goes on in the new file: an interrupt (Ctrl-C) would leave it
            # in the way of the next attempt. `_lost` changes before `_durable`, so no reader takes a lost record for a
            # durable one.
            if self._durable < head.seq:
                self._lost = (*self._lost, (self._durable + 1, head.seq))
            self._durable, self._segment = new.tip[1].seq, new
            old.close()
        if self._notes is not None:
            self._notes.add(new.head)
        return new

    def _create(self, name: str, head: Position, origin: dict[str, Any]) -> Segment:
        return Segment.begin(self._directory / name, head, origin, self._clock(), self._max_bytes)

    async def flush(self, position: Position) -> None:
        """Return once a record and all before it are on the disk.

        Driven by a synchronous caller, the first who waits syncs for all who wait; on an event loop one thread does.
        The caller shields it from cancellation.

        Raises:
            AuditUnavailable: the record is not durable.
        """
        if self._is_durable(position):
            return
        if driven() or not loop_running():
            self._threads.run(lambda: self._is_durable(position), self._commit)
        else:
            await self._loops.wait()
        if not self._is_durable(position):
            raise AuditUnavailable(f"record {position.id} is not in the audit log")

    def _is_durable(self, position: Position) -> bool:
        segment, durable = self._segment, self._durable
        if segment is None or position.chain != segment.head.chain:
            raise AuditUnavailable(f"record {position.id} is in the log of another process")
        if any(first <= position.seq <= last for first, last in self._lost):
            raise AuditUnavailable(f"record {position.id} may be lost: the disk failed")
        return position.seq <= durable

    def behind(self) -> int:
        """How many records are written and not on the disk yet: what a crash of the machine may lose."""
        segment = self._segment
        return max(0, segment.head.seq - self._durable) if segment is not None else 0

    def _commit(self) -> None:
        with self._sync_lock:
            segment = self._segment
            if segment is None or segment.head.seq <= self._durable:
                return
            self._durable = segment.sync().seq

    def close(self) -> None:
        """Write `log.closed`, make everything durable and close the file; closing it twice does nothing.

        Raises:
            AuditUnavailable: the last records may not be durable; the log is closed all the same.
        """
        with self._lock:
            if self._closed:
                return
            try:
                if self._segment is not None:
                    self._write(self._ready(), Record(Event.LOG_CLOSED, {}))
                    self._commit()
                    if self._notes is not None:
                        self._notes.close()
            finally:
                self._closed = True
                with self._sync_lock:
                    if self._segment is not None:
                        self._segment.close()
