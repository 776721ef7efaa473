"""Counters in a file: exact over all processes of a host."""

from __future__ import annotations

from collections.abc import Sequence
from sqlite3 import Connection

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
from agentguard.state.shared_file import SharedFile

_PUT_COUNTER = (
    "INSERT INTO counters (scope, name, total, value, holders, touched) VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT "
    "(scope, name) DO UPDATE SET total = excluded.total, value = excluded.value, holders = excluded.holders, "
    "touched = excluded.touched"
)
_PUT_RETRY = (
    "INSERT INTO retries (scope, name, left, identifier, touched) VALUES (?, ?, ?, ?, ?) ON CONFLICT (scope, name) "
    "DO UPDATE SET left = excluded.left, identifier = excluded.identifier, touched = excluded.touched"
)
_ENTRY = "SELECT id, at, amount, reservation FROM entries WHERE scope = ? AND name = ? AND "


class SqliteBudgets(SharedFile):
    """The counters of the processes of one host; implements the port `Budgets`.

    Windows slide by the file's clock (`clock`, the wall clock): the `now` of `reserve` is a monotonic time of one
    process, means nothing to another, and is not looked at. A clock that is set back keeps charges counted for longer.
    A reservation that nobody settled, because its process died, stays counted until its scope is forgotten. What is
    reserved survives the process; with the machine the last moments may be lost, unless a ledger in the same file has
    written since: its row is on the disk before a credential is asked for, and with it all that was written before.
    """

    async def reserve(self, levels: Sequence[Sequence[Candidate]], now: float) -> Reservation | Exhausted:
        """Choose for every level its first candidate with budget left and take them all, or none, in one transaction.

        Raises:
            Unavailable: nothing was taken.
        """
        needed = wanted(levels)
        if not needed.scopes:
            return Page().take(levels, now)
        return await self._run(lambda: self._reserve(levels, needed))

    def _reserve(self, levels: Sequence[Sequence[Candidate]], needed: Wanted) -> Reservation | Exhausted:
        with self._database.write(durable=False) as database:
            now = self._clock()
            entries = [row for key, per in needed.windows.items() if per for row in _expired(database, key, now - per)]
            page = _page(database, needed, entries)
            found = page.take(levels, now)
            _write(database, page.changes(), now)
        return found

    async def standing(self, keys: Sequence[str]) -> Sequence[str]:
        """Return what each counter stands for: its value, else its sum, or ""."""
        marks = ", ".join(["(?, ?)"] * len(keys))
        # One statement, so that all are read at one moment.
        query = f"SELECT scope, name, total, value, holders FROM counters WHERE (scope, name) IN (VALUES {marks})"  # noqa: S608  # question marks

        def work() -> Sequence[str]:
            with self._database.read() as database:
                found = database.execute(query, [part for key in keys for part in Key.of(key)])
                return Page([CounterRow(Key(*row[:2]), *row[2:]) for row in found]).says(keys)

        return await self._run(work) if keys else []

    async def settle(self, reservation: Reservation, settlement: Settlement) -> None:
        """Give the reservation back if the call never ran; keep it open for another attempt if the tool raised.

        Raises:
            Unavailable: nothing was given back; it stays counted.
        """
        needed = wanted_back(reservation, settlement)
        if needed.scopes:
            await self._run(lambda: self._settle(reservation, settlement, needed))

    def _settle(self, reservation: Reservation, settlement: Settlement, needed: Wanted) -> None:
        with self._database.write(durable=False) as database:
            entries = [
                row for key, per in needed.windows.items() if per for row in _held(database, key, reservation.id)
            ]
            page = _page(database, needed, entries)
            page.give(reservation, settlement)
            _write(database, page.changes(), self._clock())

    async def forget(self, scope: str) -> None:
        """Drop all counters of a scope, and those of tasks that nobody has touched for a month."""

        def work() -> None:
            long_ago = (f"{TASK}*", self._clock() - KEPT)
            with self._database.write(durable=False) as database:
                found = database.execute("SELECT scope FROM counters WHERE scope GLOB ? AND touched < ?", long_ago)
                for gone in {scope, *(row[0] for row in found.fetchall())}:
                    for table in ("counters", "entries", "retries"):
                        database.execute(f"DELETE FROM {table} WHERE scope = ?", (gone,))  # noqa: S608  # constants
                database.execute("DELETE FROM retries WHERE scope GLOB ? AND touched < ?", long_ago)

        await self._run(work)


def _page(database: Connection, needed: Wanted, entries: Sequence[EntryRow]) -> Page:
    counters, retries = [], []
    for key in needed.windows:
        query = "SELECT total, value, holders FROM counters WHERE scope = ? AND name = ?"
        counters += [CounterRow(key, *columns) for columns in database.execute(query, key)]
    for key in needed.retries:
        query = "SELECT left, identifier FROM retries WHERE scope = ? AND name = ?"
        retries += [RetryRow(key, *columns) for columns in database.execute(query, key)]
    return Page(counters, entries, retries)


def _expired(database: Connection, key: Key, until: float) -> list[EntryRow]:
    found = database.execute(f"{_ENTRY} at <= ? ORDER BY at, id", (*key, until))
    return [EntryRow(number, key, at, amount, holder) for number, at, amount, holder in found]


def _held(database: Connection, key: Key, reservation: str) -> list[EntryRow]:
    found = database.execute(f"{_ENTRY} reservation = ? ORDER BY at, id", (*key, reservation))
    return [EntryRow(number, key, at, amount, holder) for number, at, amount, holder in found]


def _write(database: Connection, changes: Changes, now: float) -> None:
    database.executemany(_PUT_COUNTER, [(*row.key, *row[1:], now) for row in changes.counters])
    database.executemany("DELETE FROM entries WHERE id = ?", [(number,) for number in changes.removed])
    added = [(*row.key, *row[2:]) for row in changes.added]
    database.executemany("INSERT INTO entries (scope, name, at, amount, reservation) VALUES (?, ?, ?, ?, ?)", added)
    database.executemany("DELETE FROM retries WHERE scope = ? AND name = ?", changes.spent)
    database.executemany(_PUT_RETRY, [(*row.key, *row[1:], now) for row in changes.retries])
