"""The ledger in PostgreSQL: a process on any host ends what a dead one left on another."""

from __future__ import annotations

import base64
import logging
import math
import os
import time
import weakref
from binascii import Error as NotBase64
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Final, LiteralString

from psycopg import sql

from agentguard.errors import Unavailable
from agentguard.model.lease import Ending, Lease, LeaseState, Secret
from agentguard.ports import Owed
from agentguard.state import owners_postgres as owners
from agentguard.state.owner import Owner, dead
from agentguard.state.postgres import PostgresStore
from agentguard.state.postgres_schema import COMMIT, DURABLE
from agentguard.state.postgres_session import Rows, Session, query
from agentguard.state.rows import Columns, LeftToOthers, Row, Undelivered, read, taken, written
from agentguard.state.schema import KEPT
from agentguard.state.sealed import Sealer

_log: Final = logging.getLogger("agentguard")
BEAT: Final = 5.0
_WHY_CHARACTERS: Final = 80
_BEGIN: Final = sql.SQL("BEGIN")
_COLUMNS: Final[LiteralString] = "id, instance, state, lease, handle, attempts, since"
_PUT: Final[LiteralString] = (
    "INSERT INTO agentguard.leases (id, instance, state, lease, handle, attempts, since, ends, parent, with_parent, "
    "why) VALUES ({id}, {instance}, {state}, {lease}, {handle}, 0, extract(epoch FROM clock_timestamp()), "
    "{ends}::float8, {parent}, 0, '') ON CONFLICT (id) DO UPDATE SET state = excluded.state, lease = excluded.lease, "
    "handle = coalesce(excluded.handle, leases.handle), ends = excluded.ends, parent = excluded.parent "
    "WHERE leases.instance = excluded.instance RETURNING id"
)
_FAILED: Final[LiteralString] = (
    "UPDATE agentguard.leases SET state = {state}, why = {why}, attempts = attempts + 1, with_parent = 0 "
    "WHERE id = {id}"
)
_DROP: Final[LiteralString] = "DELETE FROM agentguard.leases WHERE id = {id} OR (parent = {id} AND with_parent = 1)"
_EXPIRES: Final[LiteralString] = (
    "UPDATE agentguard.leases SET state = {state}, with_parent = {with_parent} WHERE id = {id}"
)
_ALIVE: Final[LiteralString] = (
    "SELECT {columns} FROM agentguard.leases AS l WHERE ends > {now}::float8 AND (with_parent = 0 OR EXISTS "
    "(SELECT 1 FROM agentguard.leases AS p WHERE p.id = l.parent AND p.ends > {now}::float8)) "
    "AND {instance} IN ('', instance) ORDER BY since, id"
)
_ORPHANS: Final[LiteralString] = (
    "DELETE FROM agentguard.leases AS l WHERE with_parent = 1 AND NOT EXISTS "
    "(SELECT 1 FROM agentguard.leases AS p WHERE p.id = l.parent)"
)
_MOVE: Final[LiteralString] = (
    "UPDATE agentguard.leases SET instance = {mine} WHERE instance = ANY({gone}::text[]) OR instance NOT IN "
    "(SELECT instance FROM agentguard.owners) RETURNING {columns}"
)
_LEFT: Final[LiteralString] = (
    "SELECT {columns} FROM agentguard.leases WHERE instance = ANY({gone}::text[]) OR instance NOT IN "
    "(SELECT instance FROM agentguard.owners) FOR UPDATE"
)
_MOVE_THESE: Final[LiteralString] = (
    "UPDATE agentguard.leases SET instance = {mine} WHERE id = ANY({ids}::text[]) RETURNING {columns}"
)
_TAKE: Final[LiteralString] = (
    "UPDATE agentguard.leases SET instance = {mine} WHERE {id} IN (id, parent) RETURNING {columns}"
)
_GONE: Final[LiteralString] = "DELETE FROM agentguard.owners WHERE instance = ANY({gone}::text[])"
_PRUNE: Final[LiteralString] = (
    "DELETE FROM agentguard.leases WHERE instance = {mine} AND ends < {long_ago}::float8; "
    # Those that somebody holds wait for the next time: two who held some of each other's would wait for ever.
    "DELETE FROM agentguard.owners WHERE instance IN (SELECT instance FROM agentguard.owners WHERE (closed = 1 OR "
    "beat < extract(epoch FROM clock_timestamp()) - {kept}) AND instance NOT IN (SELECT instance FROM "
    "agentguard.leases) FOR UPDATE SKIP LOCKED)"
)
_CLOSED: Final[LiteralString] = "UPDATE agentguard.owners SET closed = 1 WHERE instance = {mine}"


def _with_columns(text: LiteralString, **values: object) -> sql.Composed:
    names = {name: sql.Literal(value) for name, value in values.items()}
    return sql.SQL(text).format(columns=sql.SQL(_COLUMNS), **names)


def _joined(*statements: sql.Composable) -> sql.Composed:
    return sql.SQL("; ").join(statements)


class PostgresLedger:
    """The ledger of several hosts; implements the port `Ledger`. Safe for threads and event loops.

    `pending` returns once its row is on the server's disk. A forked child is another owner. An owner lives while its
    process does, where that can be looked up, else while it beats: its last beat is at most a minute old by the
    server's clock. When leases end is said by the hosts' clocks, which have to agree within a few seconds. Handles are
    sealed under `key`, so the server never sees one.

    Args:
        store: the database.
        key: at least 32 bytes, the same on every host.
        clock: seconds since the epoch.

    Raises:
        ConfigurationError: the key is too short.
    """

    suspends = False
    waits = True
    by_broker = True  # `adopt` takes over what some brokers issued, and leaves the rest
    remote = True

    def __init__(
        self, store: PostgresStore, key: Secret | bytes, *, clock: Callable[[], float] = time.time
    ) -> None:  # fmt: skip
        self._store, self._sealer, self._clock = store, Sealer(key), clock
        self._renew()
        _open.add(self)

    def _renew(self) -> None:
        self._owner, self._pid = Owner.here(self._clock()), os.getpid()
        self._beat_at = -math.inf
        self._undelivered = Undelivered()
        self._others = LeftToOthers()
        self.adopted = 0  # rows taken over from dead owners, in all

    @property
    def instance(self) -> str:
        """The id under which this ledger owns rows."""
        self.after_fork()
        return self._owner.instance

    def after_fork(self) -> None:
        """In a child: the rows are the parent's, and so are the connections."""
        if self._pid != os.getpid():
            self._renew()

    async def _run(self, lane: str, *statements: sql.Composable) -> list[Rows]:
        """Statements in one transaction and one round trip."""
        self.after_fork()
        return await self._store.run(lambda s, deadline: s.run(_joined(_BEGIN, *statements, COMMIT), deadline), lane)

    # --- a lease's life -----------------------------------------------------------------------------------------

    async def pending(self, lease: Lease) -> None:
        """A credential is about to be asked for; when this returns, its row is on the server's disk.

        Raises:
            Unavailable: there may be no such row, so nothing may be issued.
        """
        await self._put(lease, LeaseState.PENDING, None)

    async def active(self, lease: Lease, handle: Secret | None = None) -> None:
        """The credential exists; one that was prolonged has another end."""
        await self._put(lease, LeaseState.ACTIVE, handle)

    async def _put(self, lease: Lease, state: LeaseState, handle: Secret | None) -> None:
        self.after_fork()
        sealed = self._sealer.seal(handle, lease.id)
        put = query(
            _PUT, id=lease.id, instance=self._owner.instance, state=state.value, lease=written(lease).decode(),
            handle=base64.b64encode(sealed).decode() if sealed is not None else None, ends=lease.expires_by,
            parent=lease.parent,
        )  # fmt: skip
        # INVARIANT: where a row stands its owner stands, also after another process took that owner for dead.
        found = await self._run(lease.id, DURABLE, owners.say("owners", self._owner), put)
        if not found[-2]:
            raise Unavailable(f"lease {lease.id} belongs to another process now; it is being ended there")

    async def failed(self, lease: Lease, why: str, *, irrevocable: bool = False) -> None:
        """It could not be revoked; the row stays until it was, or until it expired."""
        state = LeaseState.IRREVOCABLE if irrevocable else LeaseState.REVOKING
        await self._run(lease.id, query(_FAILED, state=state.value, why=why[:_WHY_CHARACTERS], id=lease.id))

    async def ended(self, lease: Lease, ending: Ending) -> None:
        """The credential is gone, or ends by itself or with its parent: then its row stays until it did."""
        if ending is Ending.REVOKED:
            await self._run(lease.id, query(_DROP, id=lease.id))
            return
        with_parent = int(ending is Ending.WITH_PARENT and bool(lease.parent))
        expires = query(_EXPIRES, state=LeaseState.EXPIRES.value, with_parent=with_parent, id=lease.id)
        await self._run(lease.id, expires)

    # --- looking ------------------------------------------------------------------------------------------------

    async def outstanding(self, now: float, *, instance: str = "") -> Sequence[Lease]:
        """Issued or possibly issued, not revoked, not expired for every verifier; of all owners, or of one.

        Raises:
            Unavailable: the store cannot be read, or one of its rows cannot: it may be alive.
        """
        return [row.lease for row in await self.rows(now, instance=instance)]

    async def rows(self, now: float, *, instance: str = "") -> Sequence[Row]:
        """Return every row that may be alive, the oldest first; as `outstanding`, with their states."""
        found = await self._run("", _with_columns(_ALIVE, now=now, instance=instance))
        return [read(columns) for columns in _columns(found[-2])]

    async def living(self, now: float) -> frozenset[str]:
        """Return the instances of the owners that are not dead, by the server's clock."""
        found = await self._run("", owners.listed("owners"))
        everybody, at = owners.read(found[-2])
        return frozenset(owner.instance for owner in everybody) - self._dead(everybody, at)

    # --- after a crash ------------------------------------------------------------------------------------------

    async def adopt(self, now: float, brokers: Collection[str] | None = None) -> Sequence[Owed]:
        """Take over the rows of dead owners, each exactly once among all who ask, and return them, parents first.

        Args:
            now: seconds since the epoch.
            brokers: whose rows, beside those that expired; None for all.
        """
        self.after_fork()
        await self._store.run(lambda session, deadline: self._adopt(session, deadline, now, brokers), "adopt")
        # A caller that was cancelled while its rows were taken over has not got them: the next one gets them too.
        return sorted(self._undelivered.all(), key=lambda row: bool(row.lease.parent))

    async def take(self, lease: str, now: float) -> Sequence[Owed]:
        """Take over one row, whoever owns it, alive or dead: for a person who ends it by hand.

        Returns:
            The row and those under it, or nothing if there is no such row.
        """
        take = _with_columns(_TAKE, mine=self.instance, id=lease)
        found = await self._run(lease, DURABLE, owners.say("owners", self._owner), take)
        return sorted(self._owed(_columns(found[-2])), key=lambda row: bool(row.lease.parent))

    def _adopt(self, session: Session, deadline: float, now: float, brokers: Collection[str] | None) -> None:
        # INVARIANT: owners are locked while they are judged, so none that comes back loses rows it has just written.
        # Whoever adopts holds the lock of adopting before any row, so two of them never wait for each other.
        lock = query("SELECT pg_advisory_xact_lock(4278092, 4)")
        look = _joined(_BEGIN, lock, DURABLE, owners.listed("owners", lock=True))
        everybody, at = owners.read(session.run(look, deadline)[-1])
        gone, mine = sorted(self._dead(everybody, at)), self._owner.instance
        move, others = _with_columns(_MOVE, mine=mine, gone=gone), frozenset[str]()
        if brokers is not None:
            left = session.run(_with_columns(_LEFT, gone=gone), deadline)[0]
            ids, others = taken(_columns(left), brokers, now)
            move = _with_columns(_MOVE_THESE, mine=mine, ids=ids)
        found = session.run(
            _joined(
                query(_ORPHANS), owners.say("owners", self._owner), move,
                query(_GONE, gone=gone), self._pruning(now), COMMIT,
            ),
            deadline,
        )[2]  # fmt: skip
        self._others.say(others)
        self.adopted += len(found)
        self._undelivered.put(self._owed(_columns(found)))

    def _pruning(self, now: float) -> sql.Composed:
        """Keep the table bounded: own rows that expired long ago, and owners who have nothing left and are silent."""
        return query(_PRUNE, mine=self._owner.instance, long_ago=now - KEPT, kept=KEPT)

    def _owed(self, found: Iterable[Columns]) -> list[Owed]:
        """What can be read; the rest stays in the store, and is said."""
        owed = []
        for columns in found:
            try:
                row = read(columns)
            except Unavailable as error:
                _log.error("%s", error)
                continue
            handle = self._opened(columns[4], row.lease.id)
            if columns[4] is not None and handle is None:
                _log.error(
                    "the revocation handle of credential %s of %s was sealed under another key; start with that key to "
                    "revoke it by its handle", row.lease.id, row.lease.issuer,
                )  # fmt: skip
            owed.append(Owed(row.lease, row.state, handle, row.attempts))
        return owed

    def _opened(self, sealed: str | None, lease: str) -> Secret | None:
        try:
            return self._sealer.open(base64.b64decode(sealed, validate=True), lease) if sealed is not None else None
        except NotBase64:
            return None

    def _dead(self, everybody: Sequence[Owner], now: float) -> frozenset[str]:
        mine = {ledger._owner.instance for ledger in list(_open)}
        return frozenset(
            owner.instance
            for owner in everybody
            # Of this very process it is known which ledgers are open.
            if (owner.instance not in mine if owner.same_process(self._owner) else dead(owner, self._owner, now))
        )

    # --- this owner's life --------------------------------------------------------------------------------------

    async def beat(self, now: float) -> None:
        """Say that this owner lives, at most every five seconds, and drop own rows that expired long ago."""
        self.after_fork()
        if abs(now - self._beat_at) < BEAT:
            return
        await self._run("", owners.say("owners", self._owner), self._pruning(now))
        self._beat_at = now

    def close(self) -> None:
        """Say that this owner is done; the store stays open. Rows that are left are for whoever adopts next."""
        if self not in _open:
            return
        self.after_fork()
        _open.discard(self)
        closed = _joined(query(_CLOSED, mine=self._owner.instance), self._pruning(self._clock()))
        try:
            self._store.call(lambda session, deadline: session.run(closed, deadline))
        except Unavailable as error:
            _log.error("the ledger could not say that it is closed: %s", error)


def _columns(rows: Rows) -> list[Columns]:
    """As `rows.read` takes them."""
    return [
        (identifier, instance, state, (lease or "").encode(), handle, int(attempts or 0), float(since or 0))
        for identifier, instance, state, lease, handle, attempts, since in rows
    ]


_open: Final[weakref.WeakSet[PostgresLedger]] = weakref.WeakSet()
