"""Who is stopped, in a file: a stop reaches every process of a host before it returns."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from sqlite3 import Connection
from typing import Final

from agentguard.errors import Unavailable
from agentguard.ports import Stop
from agentguard.state.owner import Owner, dead
from agentguard.state.rows import OWNER_COLUMNS, owner_columns, read_owner
from agentguard.state.shared_file import SharedFile

_log: Final = logging.getLogger("agentguard")
BEAT: Final = 5.0
WHY_CHARACTERS: Final = 1000
_SAY: Final = (
    f"INSERT INTO runners ({OWNER_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?) "  # noqa: S608  # names of columns
    "ON CONFLICT (instance) DO UPDATE SET beat = max(beat, excluded.beat)"
)


class SqliteSuspensions(SharedFile):
    """Stops of the processes of one host; implements the port `Suspensions`.

    INVARIANT: `start` checks and marks in one write transaction, and `suspend` returns after its own committed. SQLite
    lets one writer in at a time, so a call is either marked before the stop, or it finds it.
    """

    def _renew(self) -> None:
        self._owner = Owner.here(self._clock())
        self._said_at = -math.inf

    async def start(self, call: str, keys: Sequence[str], *, reads: bool = False) -> str:
        """Mark a call as running and return "", or return the key that is suspended.

        Raises:
            Unavailable: it is not marked, so it must not start.
        """
        return await self._run(lambda: self._start(call, keys))

    def _start(self, call: str, keys: Sequence[str]) -> str:
        now = self._clock()
        says = abs(now - self._said_at) >= BEAT
        with self._database.write(durable=False) as database:
            stopped = _first(database, keys)
            if stopped:
                return stopped
            if says:
                database.execute(_SAY, owner_columns(self._owner.at(now)))
            values = (call, self._owner.instance, now)
            database.execute("INSERT OR REPLACE INTO running (call, instance, since) VALUES (?, ?, ?)", values)
        if says:
            self._said_at = now
        return ""

    async def finish(self, call: str) -> None:
        """The call no longer runs."""

        def work() -> None:
            with self._database.write(durable=False) as database:
                database.execute("DELETE FROM running WHERE call = ?", (call,))

        await self._run(work)

    async def suspend(self, key: str, why: str) -> None:
        """Stop a key; nothing starts under it after this returned, in any process that uses the file.

        Raises:
            Unavailable: it may not be stopped; suspend it again.
        """
        await self._run(lambda: self._suspend(key, why))

    def _suspend(self, key: str, why: str) -> None:
        now = self._clock()
        with self._database.write(durable=True) as database:
            (epoch,) = database.execute("UPDATE epochs SET epoch = epoch + 1 RETURNING epoch").fetchall()[0]
            values = (key, why[:WHY_CHARACTERS], now, epoch)
            database.execute("INSERT OR REPLACE INTO stops (key, why, since, epoch) VALUES (?, ?, ?, ?)", values)
            self._prune(database, now)

    async def lift(self, key: str) -> None:
        """Let a key go on."""

        def work() -> None:
            with self._database.write(durable=True) as database:
                database.execute("DELETE FROM stops WHERE key = ?", (key,))

        await self._run(work)

    async def suspended(self, keys: Sequence[str]) -> str:
        """Return the first suspended key, or ""."""

        def work() -> str:
            with self._database.read() as database:
                return _first(database, keys)

        return await self._run(work)

    async def standing(self) -> Sequence[Stop]:
        """Return every stop that stands, the oldest first."""
        return (await self.news(-1))[1]

    async def news(self, since: int) -> tuple[int, Sequence[Stop]]:
        """Return the epoch, and the stops that were set after `since`."""

        def work() -> tuple[int, Sequence[Stop]]:
            with self._database.read() as database:
                # One statement, so that the epoch and the stops are those of one moment.
                found = database.execute(
                    "SELECT e.epoch, s.key, s.why, s.since, s.epoch FROM epochs AS e LEFT JOIN stops AS s "
                    "ON s.epoch > ? AND e.epoch > ? ORDER BY s.epoch", (since, since),
                ).fetchall()  # fmt: skip
            return found[0][0], [Stop(*row[1:]) for row in found if row[1] is not None]

        return await self._run(work)

    async def running(self) -> Sequence[str]:
        """Return the calls that run now, in all processes; marks that dead ones left are dropped first."""

        def work() -> Sequence[str]:
            with self._database.write(durable=False) as database:
                self._prune(database, self._clock())
                return [call for (call,) in database.execute("SELECT call FROM running ORDER BY since, call")]

        return await self._run(work)

    def _prune(self, database: Connection, now: float) -> None:
        """Drop the marks of processes that are dead, and of nobody."""
        found = [read_owner(row) for row in database.execute(f"SELECT {OWNER_COLUMNS} FROM runners")]  # noqa: S608  # names of columns
        gone = [(one.instance,) for one in found if one.instance != self._owner.instance and self._gone(one, now)]
        database.executemany("DELETE FROM runners WHERE instance = ?", gone)
        database.execute("DELETE FROM running WHERE instance NOT IN (SELECT instance FROM runners)")

    def _gone(self, owner: Owner, now: float) -> bool:
        return dead(owner, self._owner, now)

    def close(self) -> None:
        """Close the file, and drop the marks of this process; closing it twice does nothing."""
        self.after_fork()
        try:
            with self._database.write(durable=False) as database:
                for table in ("running", "runners"):
                    database.execute(f"DELETE FROM {table} WHERE instance = ?", (self._owner.instance,))  # noqa: S608  # constants
        except Unavailable as error:
            _log.debug("the marks of this process were left for others to drop: %s", error)
        super().close()


def _first(database: Connection, keys: Sequence[str]) -> str:
    marks = ", ".join("?" * len(keys))
    found = {key for (key,) in database.execute(f"SELECT key FROM stops WHERE key IN ({marks})", tuple(keys))}  # noqa: S608  # question marks
    return next((key for key in keys if key in found), "") if found else ""
