"""The admin's connections: few, kept for a while, and every wait on them ends.

They are driven through libpq's asynchronous commands, because a server that stops answering would hold a blocking
`execute` for as long as the network likes.
"""

from __future__ import annotations

import re
import selectors
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final, TypeAlias

import psycopg
from psycopg import pq, sql

from agentguard.errors import ConfigurationError, CredentialUnavailable
from agentguard.model.lease import Secret

Rows: TypeAlias = "list[tuple[str | None, ...]]"
_IDLE: Final = 4
_AT_ONCE: Final = 8
_KEPT: Final = 300.0  # seconds that a connection is used again, so that a changed password or rule is felt
_CONNECT: Final = 3
_LONGEST: Final = 200
_SERVER: Final = sql.SQL("SELECT system_identifier FROM pg_catalog.pg_control_system()").format()
# libpq's other messages can hold parts of a connection string that it could not read.
_SAFE: Final = re.compile(r"connection to server (?:at|on) .*|connection timeout expired")
_inherited: Final[list[psycopg.Connection]] = []  # a forked child neither uses nor closes its parent's connections


class Refused(Exception):  # private: it becomes a public error before it leaves this package
    """The server answered with an error: what was asked did not happen."""

    def __init__(self, sqlstate: str, text: str) -> None:
        self.sqlstate, self.text = sqlstate, text[:_LONGEST]
        super().__init__(f"{sqlstate} {self.text}")


class Admin:
    """One connection."""

    def __init__(self, connection: psycopg.Connection) -> None:
        self.connection, self.since = connection, time.monotonic()
        self._server: str | None = None
        self._pgconn = connection.pgconn
        self._pgconn.nonblocking = 1

    def server(self, deadline: float) -> str:
        """Return what tells this server and its copies from every other one; empty where the admin may not ask."""
        if self._server is None:
            try:
                [(found,)] = self.run(_SERVER, deadline)
            except Refused:
                found = ""
            self._server = found or ""
        return self._server

    def verifier(self, role: str, password: Secret) -> str:
        """Return the SCRAM-SHA-256 verifier of a password (RFC 5803), computed here."""
        return self._pgconn.encrypt_password(password.reveal().encode(), role.encode(), b"scram-sha-256").decode()

    def run(self, statements: sql.Composed, deadline: float) -> Rows:
        """Run statements in one round trip and return the rows of the last one.

        Raises:
            Refused: the server's error; the transaction was rolled back.
            TimeoutError: no answer by the deadline, on the monotonic clock.
            psycopg.Error: the connection broke.
        """
        last, refused = self._answer(statements.as_bytes(self.connection), deadline)
        if refused is not None:
            if self._pgconn.transaction_status != pq.TransactionStatus.IDLE:
                self._answer(b"ROLLBACK", deadline)
            raise refused
        return [] if last is None else _rows(last)

    def _answer(self, statements: bytes, deadline: float) -> tuple[pq.abc.PGresult | None, Refused | None]:
        self._pgconn.send_query(statements)
        while self._pgconn.flush():
            self._wait(selectors.EVENT_WRITE, deadline)
        last: pq.abc.PGresult | None = None
        refused: Refused | None = None
        while (result := self._result(deadline)) is not None:
            if result.status == pq.ExecStatus.FATAL_ERROR:
                refused = refused or _refusal(result)
            elif result.status == pq.ExecStatus.TUPLES_OK:
                last = result
        return last, refused

    def _result(self, deadline: float) -> pq.abc.PGresult | None:
        while self._pgconn.is_busy():
            self._wait(selectors.EVENT_READ, deadline)
            self._pgconn.consume_input()
        return self._pgconn.get_result()

    def _wait(self, event: int, deadline: float) -> None:
        if not self._ready(event, max(0.0, deadline - time.monotonic())):
            raise TimeoutError

    def _ready(self, event: int, seconds: float) -> bool:
        with selectors.DefaultSelector() as selector:
            selector.register(self._pgconn.socket, event)
            return bool(selector.select(seconds))

    def usable(self) -> bool:
        """Whether it is young and silent: what an idle connection has to say is that it is closed."""
        fresh = time.monotonic() - self.since < _KEPT and self._pgconn.status == pq.ConnStatus.OK
        return fresh and not self._ready(selectors.EVENT_READ, 0)

    def close(self) -> None:
        with suppress(psycopg.Error):
            self.connection.close()


class Connections:
    """Admin connections to one database. Safe for threads.

    Args:
        dsn: returns the connection string, asked at every new connection.
        database: the only one that is accepted.
    """

    def __init__(self, dsn: Callable[[], str], database: str) -> None:
        self._dsn, self._database = dsn, database
        self._idle: list[Admin] = []
        self._start()

    def _start(self) -> None:
        self._lock, self._slots, self._closed = threading.Lock(), threading.BoundedSemaphore(_AT_ONCE), False

    @contextmanager
    def one(self, deadline: float) -> Iterator[Admin]:
        """Lend a connection; one on which anything but a statement failed is closed.

        Raises:
            CredentialUnavailable: there was none in time.
        """
        if not self._slots.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise CredentialUnavailable("too many roles are being created and dropped at once; try again")
        try:
            admin = self._kept() or Admin(self._connect(deadline))
            try:
                yield admin
            except Refused:
                self._keep(admin)
                raise
            except BaseException:
                admin.close()
                raise
            self._keep(admin)
        finally:
            self._slots.release()

    def _kept(self) -> Admin | None:
        while True:
            with self._lock:
                if not self._idle:
                    return None
                admin = self._idle.pop()
            if admin.usable():
                return admin
            admin.close()

    def _keep(self, admin: Admin) -> None:
        with self._lock:
            if len(self._idle) < _IDLE and not self._closed:
                self._idle.append(admin)
                return
        admin.close()

    def _connect(self, deadline: float) -> psycopg.Connection:
        seconds = min(_CONNECT, int(deadline - time.monotonic()))
        connection, why = _connected(self._dsn, seconds) if seconds >= 1 else (None, "no time was left")
        if connection is None:
            raise CredentialUnavailable(f"the database that makes roles cannot be reached: {why}")
        database, version = connection.info.dbname, connection.info.server_version
        if database == self._database and version >= 140000:
            return connection
        connection.close()
        if database != self._database:
            raise ConfigurationError(f"the admin connects to database {database!r}, and the audience names another")
        raise ConfigurationError(f"PostgreSQL {version // 10000} is too old for roles of a task; 14 is the oldest")

    def close(self) -> None:
        """Close what is idle; what is lent out is closed when it comes back."""
        with self._lock:
            idle, self._idle, self._closed = self._idle, [], True
        for admin in idle:
            admin.close()

    def forget(self) -> None:
        """After a fork: leave the parent's connections alone."""
        _inherited.extend(admin.connection for admin in self._idle)
        self._idle = []
        self._start()


def _connected(dsn: Callable[[], str], seconds: int) -> tuple[psycopg.Connection | None, str]:
    """Return a connection, or why there is none; libpq's frames and errors, which hold the password, end here."""
    try:
        connection = psycopg.connect(dsn(), autocommit=True, connect_timeout=seconds, application_name="agentguard")
    except psycopg.OperationalError as error:
        found = _SAFE.search(str(error))
        return None, found[0][:_LONGEST] if found else "its address cannot be resolved or its connection string read"
    except Exception as error:
        return None, f"{type(error).__name__} while its connection string was read"
    return connection, ""


def _refusal(result: pq.abc.PGresult) -> Refused:
    state, text = (result.error_field(f) for f in (pq.DiagnosticField.SQLSTATE, pq.DiagnosticField.MESSAGE_PRIMARY))
    return Refused((state or b"").decode("ascii", "replace"), (text or b"").decode("utf-8", "replace"))


def _rows(result: pq.abc.PGresult) -> Rows:
    def text(row: int, column: int) -> str | None:
        value = result.get_value(row, column)
        return None if value is None else value.decode()

    return [tuple(text(row, column) for column in range(result.nfields)) for row in range(result.ntuples)]
