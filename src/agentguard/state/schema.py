"""The ledger's tables, and the statements that more than one of its methods needs."""

from __future__ import annotations

from collections.abc import Sequence
from sqlite3 import Connection
from typing import Final

from agentguard.state.owner import Owner
from agentguard.state.rows import LEASE_COLUMNS, OWNER_COLUMNS, Columns, owner_columns, read_owner
from agentguard.state.shared_schema import PARKED, REDEEMED, SHARED

APPLICATION: Final = 0x41474C31  # "AGL1"
KEPT: Final = 86_400.0  # seconds for which an expired row waits for somebody to record its end
MIGRATIONS: Final = (
    (
        "CREATE TABLE owners (instance TEXT PRIMARY KEY, host TEXT NOT NULL, boot TEXT NOT NULL, "
        "namespace TEXT NOT NULL, pid INTEGER NOT NULL, started INTEGER NOT NULL, beat REAL NOT NULL, "
        "closed INTEGER NOT NULL) WITHOUT ROWID, STRICT",
        # `ends` is Lease.expires_by; infinite for a lease that lasts, so that no time ever drops it.
        "CREATE TABLE leases (id TEXT PRIMARY KEY, instance TEXT NOT NULL, state TEXT NOT NULL, lease BLOB NOT NULL, "
        "handle BLOB, attempts INTEGER NOT NULL, since REAL NOT NULL, ends REAL NOT NULL, parent TEXT NOT NULL, "
        "with_parent INTEGER NOT NULL, why TEXT NOT NULL) STRICT",
        "CREATE INDEX leases_of_owner ON leases (instance)",
        "CREATE INDEX leases_by_end ON leases (ends)",
        "CREATE INDEX leases_by_parent ON leases (parent) WHERE parent != ''",
    ),
    SHARED,
    REDEEMED,
    PARKED,
)
INSERT_OWNER: Final = (
    f"INSERT INTO owners ({OWNER_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?) "  # noqa: S608  # names of columns
    "ON CONFLICT (instance) DO UPDATE SET beat = max(beat, excluded.beat), closed = excluded.closed"
)
_UNDER_A_LIVING_PARENT: Final = "EXISTS (SELECT 1 FROM leases AS p WHERE p.id = leases.parent AND p.ends > ?)"
ALIVE: Final = (
    f"SELECT {LEASE_COLUMNS} FROM leases WHERE ends > ? AND (with_parent = 0 OR {_UNDER_A_LIVING_PARENT}) "  # noqa: S608  # constants
    "AND ? IN ('', instance) ORDER BY since, id"
)
INSERT: Final = (
    "INSERT INTO leases (id, instance, state, lease, handle, attempts, since, ends, parent, with_parent, why) "
    "VALUES (?, ?, ?, ?, ?, 0, ?, ?, ?, 0, '') ON CONFLICT (id) DO UPDATE SET state = excluded.state, "
    "lease = excluded.lease, handle = coalesce(excluded.handle, handle), ends = excluded.ends, "
    "parent = excluded.parent WHERE instance = excluded.instance"
)


def moved(database: Connection, to: str, where: str, values: Sequence[str]) -> list[Columns]:
    statement = f"UPDATE leases SET instance = ? WHERE {where} RETURNING {LEASE_COLUMNS}"  # noqa: S608  # constants
    return database.execute(statement, (to, *values)).fetchall()


def rows_of(database: Connection, owners: Sequence[str]) -> list[Columns]:
    marks = ", ".join("?" * len(owners))
    return database.execute(
        f"SELECT {LEASE_COLUMNS} FROM leases WHERE instance IN ({marks})",  # noqa: S608  # question marks
        owners,
    ).fetchall()


def instances(database: Connection) -> list[str]:
    return [instance for (instance,) in database.execute("SELECT instance FROM owners")]


def unnamed(database: Connection) -> frozenset[str]:
    """Owners of rows that are in no table of owners: nobody can be alive for them."""
    query = "SELECT DISTINCT instance FROM leases WHERE instance NOT IN (SELECT instance FROM owners)"
    return frozenset(instance for (instance,) in database.execute(query))


def drop_orphans(database: Connection) -> None:
    """What could only end with its parent has ended when there is no such parent any more."""
    parents = "SELECT 1 FROM leases AS p WHERE p.id = leases.parent"
    database.execute(f"DELETE FROM leases WHERE with_parent = 1 AND NOT EXISTS ({parents})")  # noqa: S608  # a constant


def prune(database: Connection, instance: str, now: float) -> None:
    """Keep the file bounded: own rows that expired long ago, and owners who have nothing left and were not heard."""
    long_ago = now - KEPT
    database.execute("DELETE FROM leases WHERE ends < ? AND instance = ?", (long_ago, instance))
    drop_orphans(database)
    database.execute(
        "DELETE FROM owners WHERE (closed = 1 OR beat < ?) AND instance NOT IN (SELECT instance FROM leases)",
        (long_ago,),
    )


def say(database: Connection, owner: Owner) -> None:
    """Say that an owner lives."""
    database.execute(INSERT_OWNER, owner_columns(owner))


def owners(database: Connection) -> list[Owner]:
    """Return everybody who may own rows."""
    return [read_owner(columns) for columns in database.execute(f"SELECT {OWNER_COLUMNS} FROM owners")]  # noqa: S608  # names of columns
