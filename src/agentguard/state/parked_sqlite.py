"""Tasks that wait in a file: parked by one process, taken by another, and there after a restart."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import Final

from agentguard.model.lease import Secret
from agentguard.ports import Parked
from agentguard.state.database import MAX_BYTES
from agentguard.state.parked_limits import (
    AT_ONCE,
    AT_ONCE_BYTES,
    MAX_KEPT,
    UNREADABLE,
    Undelivered,
    checked,
    no_room,
    too_many,
)
from agentguard.state.parked_sealed import SealedStates, say_other_key
from agentguard.state.shared_file import TIMEOUT, SharedFile

_FORGET: Final = "DELETE FROM parked WHERE key_name != ? AND expires_at < ?"
_KEPT: Final = "SELECT count(*), coalesce(sum(length(state)), 0) FROM parked WHERE id != ?"
_PARK: Final = (
    "INSERT INTO parked (id, key_name, expires_at, state) VALUES (?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET "
    "key_name = excluded.key_name, expires_at = excluded.expires_at, state = excluded.state"
)
_TAKE: Final = "DELETE FROM parked WHERE id = ? AND key_name = ? AND expires_at > ? RETURNING id, state, expires_at"
_FIND: Final = "SELECT id, state, expires_at FROM parked WHERE id = ? AND key_name = ? AND expires_at > ?"
_ELSEWHERE: Final = "SELECT 1 FROM parked WHERE id = ? AND key_name != ? AND expires_at > ?"
_LAPSED: Final = (
    "SELECT id, expires_at, length(state) AS size FROM parked WHERE key_name = ? AND expires_at <= ? "
    "ORDER BY expires_at, id LIMIT ?"
)
_TAKE_LAPSED: Final = (
    "DELETE FROM parked WHERE id IN (SELECT id FROM (SELECT id, row_number() OVER ended AS place, "  # noqa: S608  # constants
    f"sum(size) OVER ended AS so_far FROM ({_LAPSED}) WINDOW ended AS (ORDER BY expires_at, id)) "
    "WHERE place = 1 OR so_far <= ?) RETURNING id, state, expires_at"
)


class SqliteParkedTasks(SharedFile):
    """Parked tasks of the processes of one host; implements the port `ParkedTasks`.

    States are sealed under `key`; a task under another key is left to a process that has it, and dropped a month after
    its end. INVARIANT: `take` and `lapsed` are each one conditional delete in a write transaction that is on the disk
    when it returns: no task is given out twice, in no process, and after no crash.

    Args:
        path: the file; created (mode 0600) if missing. The ledger's may be the same one.
        key: at least 32 bytes, the same in every process that shares the file.
        clock: seconds since the epoch, the same in all processes.
        timeout: seconds that an operation waits for other threads, and again for other processes.
        most: the largest size of the file in bytes; parked tasks take up at most half of it, because the ledger in the
            same file needs room before anything may be issued.

    Raises:
        ConfigurationError: the key is too short, others can write the file or its folder, it lies on a network file
            system, or it is no state file of this version or an earlier one.
        Unavailable: it cannot be opened, or it is damaged.
    """

    def __init__(
        self, path: str | os.PathLike[str], key: Secret | bytes, *, clock: Callable[[], float] = time.time,
        timeout: float = TIMEOUT, most: int = MAX_BYTES,
    ) -> None:  # fmt: skip
        self._states, self._undelivered, self._room = SealedStates(key), Undelivered(), most // 2
        super().__init__(path, clock=clock, timeout=timeout, most=most)

    async def park(self, parked: Parked) -> None:
        """Keep a task in place of what was kept under its id; when this returns, it is on the disk.

        Raises:
            Unavailable: it is not kept: its state is too long, too much is kept, or it cannot be written.
        """
        checked(parked)
        await self._run(lambda: self._park(parked))

    def _park(self, parked: Parked) -> None:
        key_name, sealed = self._states.key_name, self._states.seal(parked)
        with self._database.write(durable=True) as database:
            database.execute(_FORGET, (key_name, self._clock() - UNREADABLE))
            ((count, used),) = database.execute(_KEPT, (parked.id,)).fetchall()
            if count >= MAX_KEPT:
                raise too_many()
            if used + len(sealed) > self._room:
                raise no_room(self._room)
            database.execute(_PARK, (parked.id, key_name, parked.expires_at, sealed))
        self._undelivered.drop(parked.id)

    async def find(self, id: str, now: float) -> Parked | None:
        """Return a task that is in date, and leave it, or None.

        Raises:
            Unavailable: the file is out of reach.
        """

        def work() -> list[tuple[str, bytes, float]]:
            with self._database.read() as database:
                return list(database.execute(_FIND, (id, self._states.key_name, now)))

        for row in await self._run(work):
            return self._states.open(*row)
        return self._undelivered.find(id, now)

    async def take(self, id: str, now: float) -> Parked | None:
        """Return a task that is in date, once, or None; what was taken for a caller that was cancelled is the next's.

        Raises:
            Unavailable: the file is out of reach.
        """
        await self._run(lambda: self._take(id, now))
        return self._undelivered.take(id, now)

    def _take(self, id: str, now: float) -> None:
        values = (id, self._states.key_name, now)
        with self._database.write(durable=True) as database:
            found = database.execute(_TAKE, values).fetchall()
            elsewhere = database.execute(_ELSEWHERE, values).fetchall()
        if elsewhere:
            say_other_key(id)
        self._opened(found)

    async def lapsed(self, now: float) -> Sequence[Parked]:
        """Return tasks that have expired, each once, the first to end first, at most 100 and 16 MiB.

        Raises:
            Unavailable: the file is out of reach.
        """
        await self._run(lambda: self._lapsed(now))
        return self._undelivered.lapsed(now)

    def _lapsed(self, now: float) -> None:
        # A process whose clock is ahead must not end tasks for the others.
        values = (self._states.key_name, min(now, self._clock()), AT_ONCE, AT_ONCE_BYTES)
        with self._database.write(durable=True) as database:
            found = database.execute(_TAKE_LAPSED, values).fetchall()
        self._opened(found)

    def _opened(self, rows: list[tuple[str, bytes, float]]) -> None:
        for row in rows:
            if (parked := self._states.open(*row)) is not None:
                self._undelivered.put(parked)
