"""One connection to PostgreSQL on which every wait ends at a deadline.

It is driven through libpq's asynchronous commands, because a server that stops answering would hold a blocking
`execute` for as long as the network likes. Several statements go in one round trip.
"""

from __future__ import annotations

import re
import selectors
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final, LiteralString, TypeAlias

import psycopg
from psycopg import pq, sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from agentguard.errors import ConfigurationError, Unavailable

Rows: TypeAlias = "list[tuple[str | None, ...]]"
OLDEST: Final = 140000
_LONGEST: Final = 200
_UNREADABLE: Final = "the connection string of the shared state cannot be had or read; write postgresql://..."
_OF_ALL: Final = ("target_session_attrs", "load_balance_hosts")
# libpq's other messages can hold parts of a connection string that it could not read.
_SAFE: Final = re.compile(r"connection to server (?:at|on) .*")
# Whoever is silent within a transaction, or waits for a lock, must not hold up the others: both end on the server.
_SETTINGS: Final = (
    "SET search_path = pg_catalog, pg_temp; SET default_transaction_isolation = 'read committed'; "
    "SET client_min_messages = error; SET extra_float_digits = 1; SET statement_timeout = {limit}; "
    "SET lock_timeout = {limit}; SET idle_in_transaction_session_timeout = {limit}; "
    "SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3"
)


class Refused(Exception):  # private: it becomes a public error before it leaves the store
    """The server answered with an error: what was asked did not happen. Its text may hold values and is not kept."""

    def __init__(self, sqlstate: str) -> None:
        self.sqlstate = sqlstate
        super().__init__(sqlstate)


def query(text: LiteralString, /, **values: Any) -> sql.Composed:
    """Return statements with their values in place, each quoted by libpq."""
    return sql.SQL(text).format(**{name: sql.Literal(value) for name, value in values.items()})


class Session:
    """One connection.

    Args:
        dsn: returns the connection string.
        deadline: by when it has to stand, on the monotonic clock.
        limit: seconds that the server lets one statement, one wait for a lock or a silent transaction take.

    Raises:
        Unavailable: it does not stand by then. Neither the text nor a frame holds the password.
        ConfigurationError: the connection string cannot be read, or the server is too old.
    """

    def __init__(self, dsn: Callable[[], str], deadline: float, limit: float) -> None:
        pgconn, why = _connected(dsn, deadline)
        if pgconn is None:
            raise ConfigurationError(_UNREADABLE) if why == _UNREADABLE else Unavailable(why)
        self.connection = psycopg.Connection(pgconn)
        self._pgconn = self.connection.pgconn
        try:
            if (version := self._pgconn.server_version) < OLDEST:
                raise ConfigurationError(f"PostgreSQL {version // 10000} is too old for shared state; 14 is the oldest")
            self._pgconn.nonblocking = 1
            self.run(query(_SETTINGS, limit=f"{max(1, int(limit * 1000))}ms"), deadline)
        except BaseException:
            self.close()
            raise

    def run(self, statements: sql.Composable, deadline: float) -> list[Rows]:
        """Run statements in one round trip and return the rows of each.

        Raises:
            Refused: the server's error; the transaction was rolled back.
            TimeoutError: no answer by the deadline.
            psycopg.Error: the connection broke.
        """
        found, refused = self._answer(statements.as_bytes(self.connection), deadline)
        if refused is not None:
            if self._pgconn.transaction_status != pq.TransactionStatus.IDLE:
                self._answer(b"ROLLBACK", deadline)
            raise refused
        return found

    def _answer(self, statements: bytes, deadline: float) -> tuple[list[Rows], Refused | None]:
        self._pgconn.send_query(statements)
        while self._pgconn.flush():
            self._wait(selectors.EVENT_WRITE, deadline)
        found: list[Rows] = []
        refused: Refused | None = None
        while (result := self._result(deadline)) is not None:
            if result.status == pq.ExecStatus.FATAL_ERROR:
                state = result.error_field(pq.DiagnosticField.SQLSTATE) or b""
                refused = refused or Refused(state.decode("ascii", "replace"))
            else:
                found.append(_rows(result))
        return found, refused

    def _result(self, deadline: float) -> pq.abc.PGresult | None:
        while self._pgconn.is_busy():
            self._wait(selectors.EVENT_READ, deadline)
            self._pgconn.consume_input()
        return self._pgconn.get_result()

    def _wait(self, event: int, deadline: float) -> None:
        if not _ready(self._pgconn.socket, event, deadline - time.monotonic()):
            raise TimeoutError

    def heard(self, seconds: float) -> bool:
        """Wait for notifications, drop their texts, and tell whether there was one.

        Raises:
            psycopg.Error: the connection broke.
        """
        if _ready(self._pgconn.socket, selectors.EVENT_READ, seconds):
            self._pgconn.consume_input()
        found = False
        while self._pgconn.notifies() is not None:
            found = True
        return found

    def usable(self) -> bool:
        """Whether it is silent: what an idle connection has to say is that it is closed."""
        return self._pgconn.status == pq.ConnStatus.OK and not _ready(self._pgconn.socket, selectors.EVENT_READ, 0)

    def close(self) -> None:
        """Close it."""
        with suppress(psycopg.Error):
            self.connection.close()


def _connected(dsn: Callable[[], str], deadline: float) -> tuple[pq.abc.PGconn | None, str]:
    """Return a connection, or why there is none; the frames and errors of libpq, which hold the password, end here."""
    try:
        texts = _by_host(make_conninfo(dsn(), client_encoding="utf8", application_name="agentguard"))
    except Exception:  # its text shows the connection string
        return None, _UNREADABLE
    why = ""
    for left in range(len(texts), 0, -1):  # one that hangs has its share of the time, and no more
        now = time.monotonic()
        pgconn, why = _connected_to(texts[-left], now + (deadline - now) / left)
        if pgconn is not None:
            return pgconn, ""
    return None, why


def _by_host(text: str) -> list[str]:
    """Return a connection string for each host: libpq tries them in turn, and bounds the time for none of them."""
    given = conninfo_to_dict(text)
    lists = {name: str(given[name]).split(",") for name in ("host", "hostaddr", "port") if given.get(name)}
    most = max((len(lists[name]) for name in ("host", "hostaddr") if name in lists), default=1)
    odd = any(len(found) != most for name, found in lists.items() if name != "port" or len(found) != 1)
    if most < 2 or odd or {"prefer-standby", "random"} & {str(given.get(name)) for name in _OF_ALL}:
        return [text]  # what libpq decides by all of them
    one_each = [{name: found[at % len(found)] for name, found in lists.items()} for at in range(most)]
    return [make_conninfo(text, **one) for one in one_each]


def _connected_to(text: str, deadline: float) -> tuple[pq.abc.PGconn | None, str]:
    try:
        pgconn: pq.abc.PGconn = pq.PGconn.connect_start(text.encode())
    except Exception:  # its text shows the connection string
        return None, _UNREADABLE
    try:
        why = _poll(pgconn, deadline)
    except psycopg.Error as error:
        why = type(error).__name__
    except BaseException:
        pgconn.finish()
        raise
    if not why:
        return pgconn, ""
    pgconn.finish()
    return None, f"the database of the shared state cannot be reached: {why}"


def _poll(pgconn: pq.abc.PGconn, deadline: float) -> str:
    """Connect; return why it failed, or ""."""
    if pgconn.status == pq.ConnStatus.BAD:
        return _why(pgconn)
    event = selectors.EVENT_WRITE
    while _ready(pgconn.socket, event, deadline - time.monotonic()):
        status = pgconn.connect_poll()
        if status == pq.PollingStatus.OK:
            return ""
        if status == pq.PollingStatus.FAILED:
            return _why(pgconn)
        event = selectors.EVENT_READ if status == pq.PollingStatus.READING else selectors.EVENT_WRITE
    return "it did not answer in time"


def _why(pgconn: pq.abc.PGconn) -> str:
    found = _SAFE.search(pgconn.error_message.decode("utf-8", "replace"))
    return found[0][:_LONGEST] if found else "its address cannot be resolved or its connection string read"


def _ready(descriptor: int, event: int, seconds: float) -> bool:
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, event)
        return bool(selector.select(max(0.0, seconds)))


def _rows(result: pq.abc.PGresult) -> Rows:
    def text(row: int, column: int) -> str | None:
        value = result.get_value(row, column)
        return None if value is None else value.decode()

    return [tuple(text(row, column) for column in range(result.nfields)) for row in range(result.ntuples)]


_REASONS: Final[Mapping[str, str]] = {
    "08": "the connection broke",
    "22": "a value cannot be stored",
    "23": "a value cannot be stored",
    "25": "it is read-only, or a standby; connect to the primary",
    "28": "it refused the login",
    "3D": "there is no such database",
    "40": "others changed the same rows at the same time, again and again",
    "42": "the role lacks a privilege, or the tables are not those of this version",
    "53": "its disk, its memory or its connections are used up",
    "55": "others held a lock for too long",
    "57": "it stopped the statement, or shuts down",
    "58": "its disk failed",
}


def unavailable(refused: Refused) -> Unavailable:
    """What to say about an error of the server."""
    reason = _REASONS.get(refused.sqlstate[:2], "it failed")
    return Unavailable(f"the shared state in PostgreSQL: {reason} (SQLSTATE {refused.sqlstate})")
