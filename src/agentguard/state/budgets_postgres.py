"""Counters in PostgreSQL: exact over all hosts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Final, LiteralString

from psycopg import sql

from agentguard.ports import Candidate, Exhausted, Reservation, Settlement
from agentguard.state.counted import (
    KEPT,
    TASK,
    Changes,
    CounterRow,
    EntryRow,
    Key,
    Page,
    RetryRow,
    Wanted,
    wanted,
    wanted_back,
)
from agentguard.state.postgres import PostgresStore
from agentguard.state.postgres_schema import COMMIT, NOW
from agentguard.state.postgres_session import Rows, Session, query

# INVARIANT: rows are locked in one order, that of the scopes' names, so two reservations never wait for each other.
_LOCK: Final[LiteralString] = (
    "BEGIN; INSERT INTO agentguard.scopes (scope, touched) "
    "SELECT s, extract(epoch FROM clock_timestamp()) FROM unnest({scopes}::text[]) WITH ORDINALITY AS w(s, n) "
    "ORDER BY n ON CONFLICT (scope) DO UPDATE SET touched = excluded.touched"
)
_COUNTERS: Final[LiteralString] = (
    "SELECT scope, name, total, value, holders FROM agentguard.counters "
    "WHERE (scope, name) IN (SELECT * FROM unnest({scopes}::text[], {names}::text[]))"
)
_RETRIES: Final[LiteralString] = (
    "SELECT scope, name, remaining, identifier FROM agentguard.retries "
    "WHERE (scope, name) IN (SELECT * FROM unnest({scopes}::text[], {names}::text[]))"
)
_WINDOWS: Final[LiteralString] = (
    "SELECT t.now, e.id, e.scope, e.name, e.at, e.amount, e.reservation FROM t LEFT JOIN "
    "(unnest({scopes}::text[], {names}::text[], {pers}::float8[]) AS w(scope, name, per) "
    "JOIN agentguard.entries AS e ON e.scope = w.scope AND e.name = w.name) "
)
_EXPIRED: Final[LiteralString] = _WINDOWS + "ON e.at <= t.now - w.per ORDER BY e.at, e.id"
_HELD: Final[LiteralString] = _WINDOWS + "ON e.reservation = {reservation} ORDER BY e.at, e.id"


class PostgresBudgets:
    """The counters of several hosts; implements the port `Budgets`.

    Windows slide by the server's clock; the `now` of `reserve` is a monotonic time of one process and is not looked at.
    A reservation that nobody settled stays counted until its scope is forgotten. Calls that use up one counter wait for
    each other, on all hosts, for the two round trips that a reservation takes.

    Args:
        store: the database.
    """

    suspends = False
    waits = True
    remote = True
    _clock: ClassVar[LiteralString] = NOW  # seam of the tests

    def __init__(self, store: PostgresStore) -> None:
        self._store = store

    async def reserve(self, levels: Sequence[Sequence[Candidate]], now: float) -> Reservation | Exhausted:
        """Choose for every level its first candidate with budget left and take them all, or none, in one transaction.

        Raises:
            Unavailable: nothing was taken, or there was no answer: what may have been taken stays counted.
        """
        needed = wanted(levels)
        if not needed.scopes:
            return Page().take(levels, now)

        def work(session: Session, deadline: float) -> Reservation | Exhausted:
            page, at = self._page(session, deadline, needed, "")
            found = page.take(levels, at)
            session.run(_written(page.changes()), deadline)
            return found

        return await self._store.run(work, needed.scopes[-1])

    async def settle(self, reservation: Reservation, settlement: Settlement) -> None:
        """Give the reservation back if the call never ran; keep it open for another attempt if the tool raised.

        Raises:
            Unavailable: it may not have been given back; then it stays counted.
        """
        needed = wanted_back(reservation, settlement)
        if not needed.scopes:
            return

        def work(session: Session, deadline: float) -> None:
            page, _ = self._page(session, deadline, needed, reservation.id)
            page.give(reservation, settlement)
            session.run(_written(page.changes()), deadline)

        await self._store.run(work, needed.scopes[-1])

    async def standing(self, keys: Sequence[str]) -> Sequence[str]:
        """Return what each counter stands for: its value, else its sum, or ""."""
        if not keys:
            return []
        statement = query(_COUNTERS, **_columns(list(map(Key.of, keys))))

        def work(session: Session, deadline: float) -> Sequence[str]:
            return Page(_counters(session.run(statement, deadline)[0])).says(keys)

        return await self._store.run(work, keys[0])

    async def forget(self, scope: str) -> None:
        """Drop all counters of a scope, and those of tasks that nobody has touched for a month."""
        lock = query(
            "BEGIN; SELECT scope FROM agentguard.scopes WHERE scope = {scope} OR (starts_with(scope, {task}) AND "
            "touched < extract(epoch FROM clock_timestamp()) - {kept}) ORDER BY scope FOR UPDATE",
            scope=scope, task=TASK, kept=KEPT,
        )  # fmt: skip

        def work(session: Session, deadline: float) -> None:
            gone = [row[0] for row in session.run(lock, deadline)[-1]]
            session.run(_dropped([str(name) for name in gone]), deadline)

        await self._store.run(work, scope)

    def _page(self, session: Session, deadline: float, needed: Wanted, reservation: str) -> tuple[Page, float]:
        """Lock the scopes and read what is needed, and the server's time, in one round trip."""
        windows = {key: per for key, per in needed.windows.items() if per}
        entries = query(
            _HELD if reservation else _EXPIRED,
            **_columns(list(windows)), pers=list(windows.values()), reservation=reservation,
        )  # fmt: skip
        found = session.run(
            sql.SQL("; ").join([
                query(_LOCK, scopes=needed.scopes),
                query(_COUNTERS, **_columns(list(needed.windows))),
                query(_RETRIES, **_columns(list(needed.retries))),
                sql.SQL("WITH t AS MATERIALIZED (SELECT {} AS now) ").format(sql.SQL(self._clock)) + entries,
            ]),
            deadline,
        )  # fmt: skip
        counters, retries, rows = found[2:]
        return Page(_counters(counters), _entries(rows), _retries(retries)), float(rows[0][0] or 0)


def _columns(keys: Sequence[Key]) -> dict[str, list[str]]:
    return {"scopes": [key.scope for key in keys], "names": [key.name for key in keys]}


def _counters(rows: Rows) -> list[CounterRow]:
    return [CounterRow(Key(s or "", n or ""), t or "0", v or "", int(h or 0)) for s, n, t, v, h in rows]


def _retries(rows: Rows) -> list[RetryRow]:
    return [RetryRow(Key(s or "", n or ""), int(left or 0), identifier or "") for s, n, left, identifier in rows]


def _entries(rows: Rows) -> list[EntryRow]:
    return [
        EntryRow(int(number), Key(scope or "", name or ""), float(at or 0), amount or "0", reservation or "")
        for _, number, scope, name, at, amount, reservation in rows
        if number is not None
    ]


def _written(changes: Changes) -> sql.Composed:
    """The statements that write what changed, and the end of the transaction."""
    statements = [
        query(
            "INSERT INTO agentguard.counters (scope, name, total, value, holders) VALUES ({scope}, {name}, {total}, "
            "{value}, {holders}) ON CONFLICT (scope, name) DO UPDATE SET total = excluded.total, "
            "value = excluded.value, holders = excluded.holders",
            scope=row.key.scope, name=row.key.name, total=row.total, value=row.value, holders=row.holders,
        )
        for row in changes.counters
    ]  # fmt: skip
    if changes.removed:
        statements.append(query("DELETE FROM agentguard.entries WHERE id = ANY({ids}::bigint[])", ids=changes.removed))
    statements += [
        query(
            "INSERT INTO agentguard.entries (scope, name, at, amount, reservation) VALUES ({scope}, {name}, {at}, "
            "{amount}, {reservation})",
            scope=row.key.scope, name=row.key.name, at=row.at, amount=row.amount, reservation=row.reservation,
        )
        for row in changes.added
    ]  # fmt: skip
    statements += [
        query("DELETE FROM agentguard.retries WHERE scope = {scope} AND name = {name}", scope=key.scope, name=key.name)
        for key in changes.spent
    ]
    statements += [
        query(
            "INSERT INTO agentguard.retries (scope, name, remaining, identifier) VALUES ({scope}, {name}, {left}, "
            "{identifier}) ON CONFLICT (scope, name) DO UPDATE SET remaining = excluded.remaining, "
            "identifier = excluded.identifier",
            scope=row.key.scope, name=row.key.name, left=row.left, identifier=row.identifier,
        )
        for row in changes.retries
    ]  # fmt: skip
    return sql.SQL("; ").join([*statements, COMMIT])


def _dropped(scopes: Sequence[str]) -> sql.Composed:
    return query(
        "DELETE FROM agentguard.entries WHERE scope = ANY({gone}::text[]); "
        "DELETE FROM agentguard.retries WHERE scope = ANY({gone}::text[]); "
        "DELETE FROM agentguard.counters WHERE scope = ANY({gone}::text[]); "
        "DELETE FROM agentguard.scopes WHERE scope = ANY({gone}::text[]); COMMIT",
        gone=list(scopes),
    )
