"""Connections to SQLite that a fork copied: a child does not use them, and lets go of them before it opens the file.

INVARIANT: for all its connections to a file together SQLite notes in one place which locks its process has. A fork
copies the note and not the locks. A connection made beside an inherited one goes by that note, so it takes no lock that
others see: whoever closes the file takes himself for the last one, and removes the log that the child writes. Once what
was inherited is closed, the note is gone. That takes nothing from the parent: POSIX locks are those of one process.
"""

from __future__ import annotations

import sqlite3
import threading
from contextlib import suppress
from pathlib import Path

from agentguard.errors import Unavailable


class Inherited:
    """What this process has inherited. Safe for threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._quiet: list[sqlite3.Connection] = []
        # In use by another thread when the process was forked, so it can never be closed here: SQLite may be locked
        # within, and a transaction that is rolled back here would be rolled back under the parent's hands.
        self._torn: list[tuple[Path, sqlite3.Connection | None]] = []

    def after_fork(self) -> None:
        """In a child: whoever held the lock is the parent's."""
        self._lock = threading.Lock()

    def add(self, path: Path, connection: sqlite3.Connection | None, *, quiet: bool) -> None:
        """Note a connection to a file; `quiet` says that nobody used it when the process was forked."""
        if not quiet:
            self._torn.append((path, connection))
        elif connection is not None:
            self._quiet.append(connection)

    def close(self, path: Path) -> None:
        """Let go of everything, before a file is opened.

        Raises:
            Unavailable: this file cannot be opened in this process.
        """
        with self._lock:
            while self._quiet:
                with suppress(sqlite3.Error):
                    self._quiet[-1].close()
                self._quiet.pop()
        if any(torn == path for torn, _ in self._torn):
            raise Unavailable(
                f"{path}: this process was forked while another thread used it, so it cannot be used here; fork before "
                "the guard is made, or start processes instead (multiprocessing: spawn)"
            )
