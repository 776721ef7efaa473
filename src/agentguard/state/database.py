"""One SQLite file that the processes of a host share: who may touch it, its version, and short write transactions.

POSIX locks belong to a process: closing any descriptor of the file would drop the locks of every connection to it. So
nothing here opens the file beside SQLite itself, but to create it.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import quote

from agentguard.errors import ConfigurationError, Unavailable
from agentguard.state.inherited import Inherited
from agentguard.state.place import check_place

MAX_BYTES: Final = 256 << 20
_PAGE: Final = 4096
_WAL_PAGES: Final = 1000
_PAUSE: Final = 0.005
_BUSY: Final = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL})
_DAMAGED: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_FORK: Final = 1.0  # seconds that a fork waits for operations of other threads
_inherited: Final = Inherited()


class Database:
    """A file in WAL mode. Safe for concurrent use by threads, and by processes of one host.

    Args:
        path: the file; created (mode 0600) if missing. Its folder must exist.
        application: the number that marks files of this kind (`PRAGMA application_id`).
        migrations: the statements that lead to version 1, 2, ...; the last one is the version that is used.
        timeout: seconds that one operation waits for other threads, and again for other processes.
        most: the largest size in bytes; what does not fit is refused.

    Raises:
        ConfigurationError: others can write the file or its folder, it lies on a network file system, it is no file of
            this kind, or a later version wrote it.
        Unavailable: it cannot be opened, or it is damaged.
    """

    def __init__(
        self, path: Path, application: int, migrations: Sequence[Sequence[str]], *,
        timeout: float, most: int = MAX_BYTES,
    ) -> None:  # fmt: skip
        self.path, self._timeout, self._most = path, timeout, most
        self._application, self._migrations = application, migrations
        check_place(path)
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._files: tuple[int, ...] = ()
        self._closed = False
        _databases.add(self)
        with self.turn():
            self._open()

    # --- transactions -------------------------------------------------------------------------------------------

    @contextmanager
    def write(self, *, durable: bool) -> Iterator[sqlite3.Connection]:
        """One write transaction: all of it or nothing.

        Args:
            durable: it has reached the disk when this returns; else it survives the process, not always the machine.

        Raises:
            Unavailable: nothing was written: the disk is full, read-only or failing, or others held the file too long.
        """
        with self.turn(), self._errors("write to"):
            connection = self._open()
            _roll_back(connection)  # an interrupt (Ctrl-C) may have left a transaction open
            connection.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
            with self._transaction(connection):
                yield connection

    @contextmanager
    def _transaction(self, connection: sqlite3.Connection) -> Iterator[None]:
        try:
            self._retried(lambda: connection.execute("BEGIN IMMEDIATE"))
            yield
            connection.execute("COMMIT")
        except BaseException:
            _roll_back(connection)
            raise

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """Read without waiting for writers.

        Raises:
            Unavailable: it cannot be read.
        """
        with self.turn(), self._errors("read"):
            yield self._open()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Keep other threads out; a thread that has its turn may take it again.

        Raises:
            Unavailable: others had it for too long.
        """
        if not self._lock.acquire(timeout=self._timeout):
            raise Unavailable(f"{self.path}: other threads used it for {self._timeout:g} s")
        try:
            yield
        finally:
            self._lock.release()

    @contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise unavailable(self.path, what, error) from None

    def _retried(self, work: Callable[[], object]) -> None:
        """SQLite waits for locks by itself, but not while another process recovers or converts the file."""
        deadline = time.monotonic() + self._timeout
        while True:
            try:
                work()
                return
            except sqlite3.OperationalError as error:
                if _code(error) not in _BUSY or time.monotonic() >= deadline:
                    raise
            time.sleep(_PAUSE)

    # --- opening and closing ------------------------------------------------------------------------------------

    def _open(self) -> sqlite3.Connection:
        if self._closed:
            raise Unavailable(f"{self.path} is closed; make a new ledger")
        if self._connection is None:
            _inherited.close(self.path)
            with self._errors("open"):
                self._connection = self._connected()
            self._files = self._found()
        elif self._found() != self._files:  # what is written from here on would be gone with this process
            raise Unavailable(f"{self.path}: somebody removed or replaced it while it was in use; start again")
        return self._connection

    def _found(self) -> tuple[int, ...]:
        try:
            return os.stat(self.path).st_ino, os.stat(f"{self.path}-wal").st_ino
        except OSError:
            return ()

    def _connected(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            f"file:{quote(os.fsencode(self.path))}?mode=rw", uri=True, timeout=self._timeout, isolation_level=None,
            check_same_thread=False,
        )  # fmt: skip
        try:
            self._retried(lambda: connection.execute("PRAGMA journal_mode=WAL").fetchone())
            self._migrate(connection)
            for name, value in self._settings().items():
                connection.execute(f"PRAGMA {name}={value}").fetchall()
            self._check(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _settings(self) -> Mapping[str, int]:
        return {
            "max_page_count": self._most // _PAGE, "wal_autocheckpoint": _WAL_PAGES, "trusted_schema": 0,
            "journal_size_limit": 2 * _WAL_PAGES * _PAGE, "cell_size_check": 1, "secure_delete": 1,
        }  # fmt: skip

    def _check(self, connection: sqlite3.Connection) -> None:
        if connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
            raise ConfigurationError(f"{self.path}: its file system does not support WAL; use a local disk")
        if connection.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
            raise _damaged(self.path)

    def _migrate(self, connection: sqlite3.Connection) -> None:
        """Bring the schema to the newest version, one process at a time."""
        newest = len(self._migrations)
        with self._transaction(connection):
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            self._check_kind(connection, version)
            if version > newest:
                raise ConfigurationError(
                    f"{self.path} was written by a later version of agentguard (schema {version}, this one reads "
                    f"{newest}); use that version, or another file"
                )
            for statements in self._migrations[version:]:
                for statement in statements:
                    connection.execute(statement)
            if version < newest:
                connection.execute(f"PRAGMA application_id={self._application}")
                connection.execute(f"PRAGMA user_version={newest}")

    def _check_kind(self, connection: sqlite3.Connection, version: int) -> None:
        kind = connection.execute("PRAGMA application_id").fetchone()[0]
        used = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if kind != self._application and (kind or version or used):
            raise ConfigurationError(f"{self.path} is a database of something else; name another file")

    def close(self) -> None:
        """Close it; closing it twice does nothing."""
        with self.turn():
            self._closed = True
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.close()

    def after_fork(self) -> None:
        """In a child: leave the connection to the parent; the next use makes another one."""
        quiet = self._lock.acquire(blocking=False)  # False: a thread of the parent had its turn
        self._lock = threading.RLock()
        connection, self._connection = self._connection, None
        if connection is not None or not quiet:
            _inherited.add(self.path, connection, quiet=quiet)

    def __del__(self) -> None:
        connection = getattr(self, "_connection", None)
        if connection is not None:
            connection.close()


def _roll_back(connection: sqlite3.Connection) -> None:
    if connection.in_transaction:
        connection.execute("ROLLBACK")


def unavailable(path: Path, what: str, error: sqlite3.Error) -> Unavailable:
    """What to say about an error of SQLite; its own text may name what was written, so it is not passed on."""
    code = _code(error)
    if code in _DAMAGED:
        return _damaged(path)
    if code in _BUSY:
        return Unavailable(f"{path}: another process held it for too long")
    name = str(getattr(error, "sqlite_errorname", "") or type(error).__name__)
    reasons = {
        sqlite3.SQLITE_FULL: "the disk is full, or the file has reached its largest size",
        sqlite3.SQLITE_READONLY: "it is read-only",
        sqlite3.SQLITE_CANTOPEN: "it cannot be opened",
        sqlite3.SQLITE_IOERR: "the disk failed",
    }
    return Unavailable(f"cannot {what} {path}: {reasons.get(code, 'SQLite failed')} ({name})")


def kind_of(path: Path) -> tuple[int, int]:
    """Return the application and the schema's version of a file, without changing it; zeros where it says none.

    Raises:
        Unavailable: it cannot be read.
    """
    try:
        with closing(sqlite3.connect(f"file:{quote(os.fsencode(path.absolute()))}?mode=ro", uri=True)) as connection:
            names = ("application_id", "user_version")
            kind, version = (connection.execute(f"PRAGMA {name}").fetchone()[0] for name in names)
    except sqlite3.Error as error:
        raise unavailable(path, "read", error) from None
    return kind, version


def _code(error: sqlite3.Error) -> int:
    return int(getattr(error, "sqlite_errorcode", None) or 0) & 0xFF


def _damaged(path: Path) -> Unavailable:
    return Unavailable(
        f"{path} is damaged, so what credentials may be alive is not known: move it and its -wal and -shm files away, "
        "end what its servers still list, and start again with a new file"
    )


_databases: Final[weakref.WeakSet[Database]] = weakref.WeakSet()
_paused: Final[list[threading.RLock]] = []


def _before_fork() -> None:
    """Let operations of other threads end, so that a child inherits nothing that is in use."""
    until = time.monotonic() + _FORK
    for database in list(_databases):
        lock = database._lock
        if lock.acquire(timeout=max(0.0, until - time.monotonic())):
            _paused.append(lock)


def _after_fork_in_parent() -> None:
    while _paused:
        _paused.pop().release()


def _after_fork_in_child() -> None:
    _paused.clear()
    _inherited.after_fork()
    for database in list(_databases):
        database.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
