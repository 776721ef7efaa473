"""Tasks that wait in PostgreSQL: parked on one host, taken on another."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Final, LiteralString

from psycopg import sql

from agentguard.model.lease import Secret
from agentguard.ports import Parked
from agentguard.state.parked_limits import (
    AT_ONCE,
    AT_ONCE_BYTES,
    MAX_KEPT,
    UNREADABLE,
    Undelivered,
    checked,
    too_many,
)
from agentguard.state.parked_sealed import SealedStates, say_other_key
from agentguard.state.postgres import PostgresStore
from agentguard.state.postgres_schema import COMMIT, DURABLE, NOW
from agentguard.state.postgres_session import Rows, Session, query

# INVARIANT: a task has expired for `take` when either clock says so, the caller's or the server's, and for `lapsed`
# only when both do: a host whose clock is ahead must not end tasks for the others.
_EXPIRED: Final[LiteralString] = "greatest({now}::float8, " + NOW + ")"
_EXPIRED_FOR_ALL: Final[LiteralString] = "least({now}::float8, " + NOW + ")"
_COUNT_IN_TURN: Final = sql.SQL("SELECT pg_advisory_xact_lock(4278092, 5)")
_PARK: Final[LiteralString] = (
    "DELETE FROM agentguard.parked WHERE key_name <> {key} AND expires_at < " + NOW + " - {unreadable}; "  # noqa: S608  # constants
    "INSERT INTO agentguard.parked (id, key_name, expires_at, state) "
    "SELECT {id}, {key}, {expires_at}::float8, {state} "
    "WHERE (SELECT count(*) FROM agentguard.parked WHERE id <> {id}) < {most} ON CONFLICT (id) DO UPDATE SET "
    "key_name = excluded.key_name, expires_at = excluded.expires_at, state = excluded.state RETURNING id"
)  # fmt: skip
_FIND: Final[LiteralString] = (
    "SELECT id, state, expires_at FROM agentguard.parked WHERE id = {id} AND key_name = {key} AND expires_at > "  # noqa: S608  # constants
    + _EXPIRED
)  # fmt: skip
_TAKE: Final[LiteralString] = (
    "DELETE FROM agentguard.parked WHERE id = {id} AND key_name = {key} AND expires_at > " + _EXPIRED  # noqa: S608  # constants
    + " RETURNING id, state, expires_at; "
    "SELECT id FROM agentguard.parked WHERE id = {id} AND key_name <> {key} AND expires_at > " + _EXPIRED
)  # fmt: skip
# The rows are chosen once, whatever the plan, because they stand in a WITH of their own.
_LAPSED: Final[LiteralString] = (
    "WITH ended AS MATERIALIZED (SELECT id, expires_at, octet_length(state) AS size FROM agentguard.parked "  # noqa: S608  # constants
    "WHERE key_name = {key} AND expires_at <= " + _EXPIRED_FOR_ALL + " ORDER BY expires_at, id LIMIT {at_once} "
    "FOR UPDATE SKIP LOCKED), counted AS (SELECT id, row_number() OVER w AS place, sum(size) OVER w AS so_far "
    "FROM ended WINDOW w AS (ORDER BY expires_at, id)) DELETE FROM agentguard.parked WHERE id IN "
    "(SELECT id FROM counted WHERE place = 1 OR so_far <= {bytes}) RETURNING id, state, expires_at"
)  # fmt: skip


class PostgresParkedTasks:
    """Parked tasks of several hosts; implements the port `ParkedTasks`.

    States are sealed under `key` before they are sent; a task under another key is left to a process that has it, and
    dropped a month after its end. INVARIANT: `take` and `lapsed` are each one conditional delete that is on the
    server's disk when it returns, and that is committed only after its rows have arrived: a caller that gave up, or a
    lock that is released too late, takes nothing.

    Args:
        store: the database.
        key: at least 32 bytes, the same on every host.

    Raises:
        ConfigurationError: the key is too short.
    """

    suspends = False
    waits = True
    remote = True

    def __init__(self, store: PostgresStore, key: Secret | bytes) -> None:
        self._store, self._states, self._undelivered = store, SealedStates(key), Undelivered()

    async def park(self, parked: Parked) -> None:
        """Keep a task in place of what was kept under its id; when this returns, it is on the server's disk.

        Raises:
            Unavailable: it may not be kept: no answer came, its state is too long, or too many are kept.
        """
        checked(parked)

        def work(session: Session, deadline: float) -> Rows:
            park = query(
                _PARK, id=parked.id, key=self._states.key_name, expires_at=parked.expires_at, most=MAX_KEPT,
                unreadable=UNREADABLE, state=base64.b64encode(self._states.seal(parked)).decode(),
            )  # fmt: skip
            return session.run(_begun(_COUNT_IN_TURN, park, COMMIT), deadline)[-2]

        if not await self._store.run(work, parked.id):
            raise too_many()
        self._undelivered.drop(parked.id)

    async def find(self, id: str, now: float) -> Parked | None:
        """Return a task that is in date, and leave it, or None.

        Raises:
            Unavailable: no answer came.
        """
        find = query(_FIND, id=id, key=self._states.key_name, now=now)
        for name, text, expires_at in (await self._store.run(lambda session, due: session.run(find, due), id))[-1]:
            return self._states.open(name or "", _bytes(text or ""), float(expires_at or 0))
        return self._undelivered.find(id, now)

    async def take(self, id: str, now: float) -> Parked | None:
        """Return a task that is in date, once, or None; what was taken for a caller that was cancelled is the next's.

        Raises:
            Unavailable: it is not taken; or no answer to the commit came, and nobody goes on with it.
        """
        take = query(_TAKE, id=id, key=self._states.key_name, now=now)

        def work(session: Session, deadline: float) -> None:
            found, elsewhere = session.run(_begun(take), deadline)[-2:]
            session.run(COMMIT, deadline)
            if elsewhere:
                say_other_key(id)
            self._opened(found)

        await self._store.run(work, id)
        return self._undelivered.take(id, now)

    async def lapsed(self, now: float) -> Sequence[Parked]:
        """Return tasks that have expired, each once, the first to end first, at most 100 and 16 MiB.

        Raises:
            Unavailable: none is taken; or no answer to the commit came, and what they reserved stays counted.
        """
        lapsed = query(_LAPSED, key=self._states.key_name, now=now, at_once=AT_ONCE, bytes=AT_ONCE_BYTES)

        def work(session: Session, deadline: float) -> None:
            found = session.run(_begun(lapsed), deadline)[-1]
            session.run(COMMIT, deadline)
            self._opened(found)

        await self._store.run(work, "")
        return self._undelivered.lapsed(now)

    def _opened(self, rows: Rows) -> None:
        for name, text, expires_at in rows:
            if (parked := self._states.open(name or "", _bytes(text or ""), float(expires_at or 0))) is not None:
                self._undelivered.put(parked)


def _begun(*statements: sql.Composable) -> sql.Composed:
    return sql.SQL("; ").join([sql.SQL("BEGIN"), DURABLE, *statements])


def _bytes(text: str) -> bytes:
    """What is no base64 was not written by us, and opens as nothing."""
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        return b""
