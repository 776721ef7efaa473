"""The ledger in a file: every credential that may exist, so that a later process ends what a dead one left."""

from __future__ import annotations

import logging
import math
import os
import threading
import time
import weakref
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from sqlite3 import Connection
from typing import Final, TypeVar

import anyio

from agentguard._drive import driven
from agentguard.errors import Unavailable
from agentguard.model.lease import Ending, Lease, LeaseState, Secret
from agentguard.ports import Owed
from agentguard.state.database import MAX_BYTES, Database
from agentguard.state.owner import Owner, dead
from agentguard.state.rows import Columns, LeftToOthers, Row, Undelivered, read, taken, written
from agentguard.state.schema import (
    ALIVE,
    APPLICATION,
    INSERT,
    MIGRATIONS,
    drop_orphans,
    instances,
    moved,
    owners,
    prune,
    rows_of,
    say,
    unnamed,
)  # fmt: skip
from agentguard.state.sealed import Sealer

T = TypeVar("T")
_log: Final = logging.getLogger("agentguard")
TIMEOUT: Final = 5.0
BEAT: Final = 5.0  # seconds between two beats
_WHY_CHARACTERS: Final = 80


class SqliteLedger:
    """The ledger of the processes of one host. Safe for concurrent use by threads, event loops and processes.

    `pending` returns once its row is on the disk. A forked child is another owner. Handles are sealed under `key`; one
    that was sealed under another key is not known any more, its row stays.

    Args:
        path: the file; created (mode 0600) if missing.
        key: at least 32 bytes, the same in every process that shares the file.
        clock: seconds since the epoch.
        timeout: seconds that an operation waits for other threads, and again for other processes.
        most: the largest size of the file in bytes; a row that does not fit is refused, so nothing is issued.

    Raises:
        ConfigurationError: the key is too short, others can write the file or its folder, it lies on a network file
            system, or it is no ledger of this version or an earlier one.
        Unavailable: it cannot be opened, or it is damaged.
    """

    suspends = False
    waits = True
    by_broker = True  # `adopt` takes over what some brokers issued, and leaves the rest

    def __init__(
        self, path: str | os.PathLike[str], key: Secret | bytes, *, clock: Callable[[], float] = time.time,
        timeout: float = TIMEOUT, most: int = MAX_BYTES,
    ) -> None:  # fmt: skip
        self._sealer, self._clock = Sealer(key), clock
        self._database = Database(Path(path).absolute(), APPLICATION, MIGRATIONS, timeout=timeout, most=most)
        self._renew()
        _open.add(self)

    def _renew(self) -> None:
        self._owner = Owner.here(self._clock())
        self._beat_at = -math.inf
        self._pid = os.getpid()
        self._undelivered = Undelivered()
        self._others = LeftToOthers()
        self.adopted = 0  # rows taken over from dead owners, in all

    @property
    def path(self) -> Path:
        """The file."""
        return self._database.path

    @property
    def instance(self) -> str:
        """The id under which this ledger owns rows."""
        self._refresh()
        return self._owner.instance

    def after_fork(self) -> None:
        """In a child: the rows are the parent's, and so is the connection."""
        if self._pid != os.getpid():
            self._database.after_fork()
            self._renew()

    def _refresh(self) -> None:
        if self._pid != os.getpid():  # a fork that the hook below did not see
            self.after_fork()

    async def _run(self, work: Callable[[], T]) -> T:
        """Do blocking work: here for a synchronous caller, else in a thread.

        INVARIANT: work of a caller that was cancelled either is finished before any later work, or is never done: a row
        cannot appear after the one that waited for it has ended the lease.
        """
        self._refresh()
        if driven():
            return work()
        called_off = threading.Event()
        database = self._database

        def unless_called_off() -> T:
            with database.turn():
                if called_off.is_set():
                    raise Unavailable("the caller did not wait")
                return work()

        try:
            return await anyio.to_thread.run_sync(unless_called_off)
        except BaseException:
            called_off.set()
            raise

    # --- a lease's life -----------------------------------------------------------------------------------------

    async def pending(self, lease: Lease) -> None:
        """A credential is about to be asked for; when this returns, its row is on the disk.

        Raises:
            Unavailable: there may be no such row, so nothing may be issued.
        """
        await self._run(lambda: self._put(lease, LeaseState.PENDING, None, durable=True))

    async def active(self, lease: Lease, handle: Secret | None = None) -> None:
        """The credential exists; one that was prolonged has another end. A handle is on the disk when this returns."""
        await self._run(lambda: self._put(lease, LeaseState.ACTIVE, handle, durable=handle is not None))

    def _put(self, lease: Lease, state: LeaseState, handle: Secret | None, *, durable: bool) -> None:
        text, sealed, now = written(lease), self._sealer.seal(handle, lease.id), self._clock()
        with self._database.write(durable=durable) as database:
            # INVARIANT: where a row stands its owner stands, also after another process took that owner for dead.
            say(database, self._owner.at(now))
            values = (lease.id, self._owner.instance, state.value, text, sealed, now, lease.expires_by, lease.parent)
            if not database.execute(INSERT, values).rowcount:
                raise Unavailable(f"lease {lease.id} belongs to another process now; it is being ended there")

    async def failed(self, lease: Lease, why: str, *, irrevocable: bool = False) -> None:
        """It could not be revoked; the row stays until it was, or until it expired."""
        state = LeaseState.IRREVOCABLE if irrevocable else LeaseState.REVOKING
        values = (state.value, why[:_WHY_CHARACTERS], lease.id)

        def work() -> None:
            with self._database.write(durable=False) as database:
                database.execute(
                    "UPDATE leases SET state = ?, why = ?, attempts = attempts + 1, with_parent = 0 WHERE id = ?",
                    values,
                )

        await self._run(work)

    async def ended(self, lease: Lease, ending: Ending) -> None:
        """The credential is gone, or ends by itself or with its parent: then its row stays until it did."""

        def work() -> None:
            with self._database.write(durable=False) as database:
                if ending is Ending.REVOKED:
                    database.execute("DELETE FROM leases WHERE id = ?", (lease.id,))
                    return
                with_parent = ending is Ending.WITH_PARENT and bool(lease.parent)
                values = (LeaseState.EXPIRES.value, with_parent, lease.id)
                database.execute("UPDATE leases SET state = ?, with_parent = ? WHERE id = ?", values)

        await self._run(work)

    # --- looking ------------------------------------------------------------------------------------------------

    async def outstanding(self, now: float, *, instance: str = "") -> Sequence[Lease]:
        """Issued or possibly issued, not revoked, not expired for every verifier; of all owners, or of one.

        Raises:
            Unavailable: the file cannot be read, or one of its rows cannot: it may be alive.
        """
        return [row.lease for row in await self.rows(now, instance=instance)]

    async def rows(self, now: float, *, instance: str = "") -> Sequence[Row]:
        """Return every row that may be alive, the oldest first; as `outstanding`, with their states."""

        def work() -> Sequence[Columns]:
            with self._database.read() as database:
                return database.execute(ALIVE, (now, now, instance)).fetchall()

        return [read(columns) for columns in await self._run(work)]

    async def living(self, now: float) -> frozenset[str]:
        """Return the instances of the owners that are not dead."""

        def work() -> frozenset[str]:
            with self._database.read() as database:
                return frozenset(instances(database)) - self._dead(database, now)

        return await self._run(work)

    # --- after a crash ------------------------------------------------------------------------------------------

    async def adopt(self, now: float, brokers: Collection[str] | None = None) -> Sequence[Owed]:
        """Take over the rows of dead owners, each exactly once among all who ask, and return them, parents first.

        Args:
            now: seconds since the epoch.
            brokers: whose rows, beside those that expired; None for all.
        """
        await self._run(lambda: self._adopt(now, brokers))
        # A caller that was cancelled while its rows were taken over has not got them: the next one gets them too.
        return sorted(self._undelivered.all(), key=lambda row: bool(row.lease.parent))

    async def take(self, lease: str, now: float) -> Sequence[Owed]:
        """Take over one row, whoever owns it, alive or dead: for a person who ends it by hand.

        Returns:
            The row and those under it, or nothing if there is no such row.
        """

        def work() -> list[Columns]:
            with self._database.write(durable=True) as database:
                say(database, self._owner.at(now))
                return moved(database, self._owner.instance, "? IN (id, parent)", [lease])

        return sorted(self._owed(await self._run(work)), key=lambda row: bool(row.lease.parent))

    def _adopt(self, now: float, brokers: Collection[str] | None = None) -> None:
        others: frozenset[str] = frozenset()
        with self._database.write(durable=True) as database:
            gone = list(self._dead(database, now) | unnamed(database))
            say(database, self._owner.at(now))
            marks = ", ".join("?" * len(gone))
            drop_orphans(database)
            if brokers is None:
                found = moved(database, self._owner.instance, f"instance IN ({marks})", gone)
            else:
                ids, others = taken(rows_of(database, gone), brokers, now)
                found = [row for one in ids for row in moved(database, self._owner.instance, "id = ?", [one])]
            database.execute(f"DELETE FROM owners WHERE instance IN ({marks})", gone)  # noqa: S608  # question marks
            prune(database, self._owner.instance, now)
        self._others.say(others)
        self.adopted += len(found)
        self._undelivered.put(self._owed(found))

    def _owed(self, found: Iterable[Columns]) -> list[Owed]:
        """What can be read; the rest stays in the file, and is said."""
        owed = []
        for columns in found:
            try:
                row = read(columns)
            except Unavailable as error:
                _log.error("%s", error)
                continue
            handle = self._sealer.open(columns[4], row.lease.id) if columns[4] is not None else None
            if columns[4] is not None and handle is None:
                _log.error(
                    "the revocation handle of credential %s of %s was sealed under another key; start with that key to "
                    "revoke it by its handle", row.lease.id, row.lease.issuer,
                )  # fmt: skip
            owed.append(Owed(row.lease, row.state, handle, row.attempts))
        return owed

    def _dead(self, database: Connection, now: float) -> frozenset[str]:
        mine = {ledger._owner.instance for ledger in list(_open)}
        return frozenset(
            owner.instance
            for owner in owners(database)
            # Of this very process it is known which ledgers are open.
            if (owner.instance not in mine if owner.same_process(self._owner) else dead(owner, self._owner, now))
        )

    # --- this owner's life --------------------------------------------------------------------------------------

    async def beat(self, now: float) -> None:
        """Say that this owner lives, at most every five seconds, and drop own rows that expired long ago."""
        if abs(now - self._beat_at) < BEAT:
            return

        def work() -> None:
            with self._database.write(durable=False) as database:
                say(database, self._owner.at(now))
                prune(database, self._owner.instance, now)

        await self._run(work)
        self._beat_at = now

    def close(self) -> None:
        """Close the file. Rows that are left are for whoever adopts next; closing it twice does nothing."""
        if self not in _open:
            return
        _open.discard(self)
        self._refresh()
        try:
            with self._database.write(durable=False) as database:
                database.execute("UPDATE owners SET closed = 1 WHERE instance = ?", (self._owner.instance,))
                prune(database, self._owner.instance, self._clock())
        except Unavailable as error:
            _log.error("the ledger could not say that it is closed: %s", error)
        finally:
            self._database.close()


_open: Final[weakref.WeakSet[SqliteLedger]] = weakref.WeakSet()


def _after_fork() -> None:
    for ledger in list(_open):
        ledger.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
