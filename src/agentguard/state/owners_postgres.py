"""Owners of rows in PostgreSQL: they beat by the server's clock."""

from __future__ import annotations

from typing import Final, LiteralString

from psycopg import sql

from agentguard.state.owner import Owner
from agentguard.state.postgres_session import Rows
from agentguard.state.rows import owner_columns, read_owner

_NAMES: Final = ("instance", "host", "boot", "namespace", "pid", "started", "beat", "closed")
_INSERT: Final[LiteralString] = (
    "INSERT INTO agentguard.{table} (instance, host, boot, namespace, pid, started, beat, closed) VALUES "
    "({instance}, {host}, {boot}, {namespace}, {pid}, {started}, extract(epoch FROM clock_timestamp()), {closed}) "
    "ON CONFLICT (instance) DO UPDATE SET beat = excluded.beat, closed = excluded.closed"
)
_SELECT: Final[LiteralString] = (
    "SELECT instance, host, boot, namespace, pid, started, beat, closed, extract(epoch FROM clock_timestamp())::float8 "
    "FROM agentguard.{} ORDER BY instance"
)


def say(table: str, owner: Owner) -> sql.Composed:
    """The statement that says that an owner lives; `beat` is the server's time."""
    columns = dict(zip(_NAMES, owner_columns(owner), strict=True))
    return sql.SQL(_INSERT).format(table=sql.Identifier(table), **{k: sql.Literal(v) for k, v in columns.items()})


def listed(table: str, *, lock: bool = False) -> sql.Composed:
    """The statement that lists every owner, with the server's time; locked ones cannot beat meanwhile."""
    text = sql.SQL(_SELECT).format(sql.Identifier(table))
    return text + sql.SQL(" FOR UPDATE") if lock else text


def read(rows: Rows) -> tuple[list[Owner], float]:
    """Return the owners that were listed, and the server's time; it is 0 where there are none."""
    owners = [
        read_owner((instance, host, boot, namespace, int(pid or 0), int(started or 0), float(beat or 0), closed == "1"))
        for instance, host, boot, namespace, pid, started, beat, closed, _ in rows
    ]
    return owners, float(rows[0][8] or 0) if rows else 0.0
