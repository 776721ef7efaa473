"""Who is stopped, in PostgreSQL: a stop reaches every host before a write starts there, and within a second a read."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Sequence
from typing import Final, LiteralString

import psycopg
from psycopg import sql

from agentguard.errors import Unavailable
from agentguard.ports import Stop
from agentguard.state import owners_postgres as owners
from agentguard.state.listener import Listener
from agentguard.state.offload import offload
from agentguard.state.owner import Owner, dead
from agentguard.state.postgres import PostgresStore
from agentguard.state.postgres_schema import COMMIT, DURABLE
from agentguard.state.postgres_session import Rows, Session, query

_log: Final = logging.getLogger("agentguard")
BEAT: Final = 5.0
_WHY_CHARACTERS: Final = 1000
_MOST_DOUBTFUL: Final = 1000
# Who waits for the exclusive lock is not overtaken by those who ask for a shared one later.
_SHARED: Final[LiteralString] = "BEGIN; SELECT pg_advisory_xact_lock_shared(4278092, 2)"
_EXCLUSIVE: Final[LiteralString] = "BEGIN; SELECT pg_advisory_xact_lock(4278092, 2)"
_STOPPED: Final[LiteralString] = "SELECT key FROM agentguard.stops WHERE key = ANY({keys}::text[])"
_MARK: Final[LiteralString] = (
    "INSERT INTO agentguard.running (call, instance, since) SELECT {call}, {instance}, "
    "extract(epoch FROM clock_timestamp()) WHERE NOT EXISTS "
    "(SELECT 1 FROM agentguard.stops WHERE key = ANY({keys}::text[])) ON CONFLICT (call) DO NOTHING; COMMIT"
)
_CHANGED: Final[LiteralString] = "; SELECT pg_notify('agentguard_stops', ''); COMMIT"
_SUSPEND: Final[LiteralString] = (
    "; UPDATE agentguard.epochs SET epoch = epoch + 1, revision = revision + 1; "  # noqa: S608  # constants
    "INSERT INTO agentguard.stops (key, why, since, epoch) SELECT {key}, {why}, extract(epoch FROM clock_timestamp()), "
    "epoch FROM agentguard.epochs ON CONFLICT (key) DO UPDATE SET why = excluded.why, since = excluded.since, "
    "epoch = excluded.epoch" + _CHANGED
)
_LIFT: Final[LiteralString] = (
    "; UPDATE agentguard.epochs SET revision = revision + 1; DELETE FROM agentguard.stops WHERE key = {key}" + _CHANGED  # noqa: S608  # constants
)
_NEWS: Final[LiteralString] = (
    "SELECT e.epoch, s.key, s.why, s.since, s.epoch FROM agentguard.epochs AS e "
    "LEFT JOIN agentguard.stops AS s ON s.epoch > {since} ORDER BY s.epoch"
)


class PostgresSuspensions:
    """Stops of several hosts; implements the port `Suspensions`.

    INVARIANT: a call that writes is checked and marked in one transaction under a lock that it shares with others like
    it, and `suspend` holds alone until it committed. A call that only reads asks what this process heard: at most a
    second ago, on a connection that is not lost; else it is refused.

    Args:
        store: the database. Its connections must be the server's own sessions: a pooler that lends them by transaction
            passes no notifications on, so every call that reads would be refused.
    """

    suspends = False
    waits = True
    remote = True

    def __init__(self, store: PostgresStore) -> None:
        self._store = store
        self._renew()

    def _renew(self) -> None:
        self._pid, self._closed = os.getpid(), False
        self._owner, self._said_at = Owner.here(time.time()), -math.inf
        self._listener = Listener(self._store, self._owner.instance)
        self._marked: set[str] = set()
        self._doubtful: set[str] = set()  # no answer came: they may be marked, and do not run

    def after_fork(self) -> None:
        """In a child: the marks, the connection and the thread are the parent's."""
        if self._pid != os.getpid():
            self._renew()

    async def _run(self, work: Callable[[], sql.Composable], lane: str) -> list[Rows]:
        return await self._store.run(lambda session, deadline: session.run(work(), deadline), lane)

    # --- calls --------------------------------------------------------------------------------------------------

    async def start(self, call: str, keys: Sequence[str], *, reads: bool = False) -> str:
        """Mark a call as running and return "", or return the key that is suspended; one that reads leaves no mark.

        Raises:
            Unavailable: it cannot be told, so it must not start.
        """
        if reads:
            await self._hear()
            return self._listener.mirror.stopped(keys)
        self._listen()
        # INVARIANT: noted before it is asked for, so the end of a call whose caller was cancelled meanwhile finds it,
        # and waits in the lane of this call until what is under way has marked it.
        self._marked.add(call)
        try:
            return await self._store.run(lambda session, deadline: self._start(session, deadline, call, keys), call)
        except Exception:
            self._marked.discard(call)
            raise

    def _start(self, session: Session, deadline: float, call: str, keys: Sequence[str]) -> str:
        now = time.monotonic()
        says = now - self._said_at >= BEAT
        values = {"call": call, "instance": self._owner.instance, "keys": list(keys)}
        statements = [
            *([owners.say("runners", self._owner)] if says else []),
            query(_SHARED), query(_STOPPED, keys=list(keys)), query(_MARK, **values),
        ]  # fmt: skip
        try:
            found = session.run(sql.SQL("; ").join(statements), deadline)
        except (TimeoutError, psycopg.Error):
            self._doubt(call)
            raise
        if says:
            self._said_at = now
        stopped = {row[0] for row in found[-3]}
        if stopped:
            self._marked.discard(call)
        return next((key for key in keys if key in stopped), "")

    def _doubt(self, call: str) -> None:
        """The next call that ends drops its mark too."""
        if len(self._doubtful) < _MOST_DOUBTFUL:
            self._doubtful.add(call)

    async def finish(self, call: str) -> None:
        """The call no longer runs."""
        self.after_fork()
        if call not in self._marked:
            return

        def work(session: Session, deadline: float) -> None:
            calls = [call, *tuple(self._doubtful)]
            session.run(
                query("DELETE FROM agentguard.running WHERE call = ANY({calls}::text[])", calls=calls), deadline
            )
            self._marked.discard(call)
            self._doubtful.difference_update(calls)

        try:
            await self._store.run(work, call)
        except Exception:
            self._marked.discard(call)
            self._doubt(call)
            raise

    # --- stops --------------------------------------------------------------------------------------------------

    async def suspend(self, key: str, why: str) -> None:
        """Stop a key; after this returned no call that writes starts under it, on any host, and within a second none.

        Raises:
            Unavailable: it may not be stopped; suspend it again.
        """
        statements = query(_EXCLUSIVE) + sql.SQL("; ") + DURABLE + query(_SUSPEND, key=key, why=why[:_WHY_CHARACTERS])
        await self._run(lambda: statements, key)
        try:
            await self._store.run(self._prune, key)
        except Unavailable as error:
            _log.debug("marks that dead processes left were not looked at: %s", error)

    async def lift(self, key: str) -> None:
        """Let a key go on."""
        statements = query(_EXCLUSIVE) + sql.SQL("; ") + DURABLE + query(_LIFT, key=key)
        await self._run(lambda: statements, key)

    async def suspended(self, keys: Sequence[str]) -> str:
        """Return the first suspended key, or ""; as it was heard, or else as the store says."""
        self._listen()
        if self._listener.mirror.fresh():
            return self._listener.mirror.stopped(keys)
        (found,) = await self._run(lambda: query(_STOPPED, keys=list(keys)), "")
        stopped = {row[0] for row in found}
        return next((key for key in keys if key in stopped), "")

    async def standing(self) -> Sequence[Stop]:
        """Return every stop that stands, the oldest first, as the store says."""
        return (await self._news(-1))[1]

    async def news(self, since: int) -> tuple[int, Sequence[Stop]]:
        """Return the epoch, and the stops that were set after `since`; as it was heard, or else as the store says."""
        self._listen()
        if self._listener.mirror.fresh():
            return self._listener.mirror.news(since)
        return await self._news(since)

    async def _news(self, since: int) -> tuple[int, Sequence[Stop]]:
        (rows,) = await self._run(lambda: query(_NEWS, since=since), "")
        stops = [Stop(key, why or "", float(at or 0), int(e or 0)) for _, key, why, at, e in rows if key is not None]
        return int(rows[0][0] or 0), stops

    # --- marks --------------------------------------------------------------------------------------------------

    async def running(self) -> Sequence[str]:
        """Return the calls that write and run now, on all hosts; marks that dead processes left are dropped first."""

        def work(session: Session, deadline: float) -> Sequence[str]:
            self._prune(session, deadline)
            rows = session.run(query("SELECT call FROM agentguard.running ORDER BY since, call"), deadline)[0]
            return [call or "" for (call,) in rows]

        return await self._store.run(work, "")

    def _prune(self, session: Session, deadline: float) -> None:
        found, now = owners.read(session.run(owners.listed("runners"), deadline)[0])
        mine = self._owner.instance
        gone = [one.instance for one in found if one.instance != mine and dead(one, self._owner, now)]
        if gone:
            session.run(
                query(
                    "BEGIN; DELETE FROM agentguard.running WHERE instance = ANY({gone}::text[]); "
                    "DELETE FROM agentguard.runners WHERE instance = ANY({gone}::text[])", gone=gone,
                ) + sql.SQL("; ") + COMMIT,
                deadline,
            )  # fmt: skip

    # --- life ---------------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        self.after_fork()
        if not self._closed:
            self._listener.start()

    async def _hear(self) -> None:
        """Wait, once, for the first answer to the listener."""
        self._listen()
        first = self._listener.mirror.first
        if not first.is_set() and not self._closed:
            await offload(lambda: first.wait(self._store.timeout), lambda: _NO_TURN)

    def close(self) -> None:
        """End the listener and drop the marks of this process; the store stays open. Closing it twice does nothing."""
        self.after_fork()
        if self._closed:
            return
        self._closed = True
        self._listener.stop()
        if self._said_at == -math.inf:
            return
        gone = query(
            "DELETE FROM agentguard.running WHERE instance = {mine}; "
            "DELETE FROM agentguard.runners WHERE instance = {mine}", mine=self._owner.instance,
        )  # fmt: skip
        try:
            self._store.call(lambda session, deadline: session.run(gone, deadline))
        except Unavailable as error:
            _log.debug("the marks of this process were left for others to drop: %s", error)

    def __del__(self) -> None:
        listener = getattr(self, "_listener", None)
        if listener is not None:
            listener.stop(wait=False)


class _NoTurn:
    def __enter__(self) -> None: ...

    def __exit__(self, *exc: object) -> None: ...


_NO_TURN: Final = _NoTurn()
