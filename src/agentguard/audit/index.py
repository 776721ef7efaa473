"""An index beside a log, so that a question about a million records is answered at once (SQLite).

It is made from the log whenever it is missing, old or odd, and is never trusted: what is found is read from the log
itself and must match its own hash. It grows with each question by what the log has grown.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Self

import msgspec

from agentguard.audit.chain import MAX_LINE
from agentguard.audit.fields import MAX_INT
from agentguard.audit.index_file import APPLICATION, is_index, is_still, mark_of
from agentguard.errors import ConfigurationError
from agentguard.model.record import Event

_VERSION: Final = 1
_BATCH: Final = 20_000
_TABLES: Final = """
create table files (id integer primary key, name text unique not null, size integer not null, last text not null);
create table texts (id integer primary key, text text unique not null);
create table tasks (task text primary key, agent integer, subject integer, delegation integer) without rowid;
create table records (
    id integer primary key, file integer not null, at integer not null, length integer not null,
    time integer not null, chain integer not null, seq integer not null, event integer not null,
    agent integer, subject integer, delegation integer, tool integer, outcome integer
);
"""
_INDEXES: Final = ("time", "agent, time", "subject, time", "delegation, time", "tool, time", "outcome, time",
                   "event, time", "chain, seq", "file")  # fmt: skip
_OUTCOMES: Final = {
    Event.CALL_COMPLETED: "completed", Event.CALL_FAILED: "failed", Event.CALL_CANCELLED: "cancelled",
    "call.unknown": "unknown",
}  # fmt: skip


class _Line(msgspec.Struct):
    """What the index keeps of a record."""

    chain: str
    seq: int
    time: str
    event: str
    agent: str = ""
    subject: str = ""
    delegation: list[str] = []
    tool: str = ""
    outcome: str = ""
    task: str = ""


_decode: Final = msgspec.json.Decoder(_Line).decode


@lru_cache(maxsize=64)
def _second(text: str) -> int:
    return int(datetime.strptime(text, "%Y-%m-%dT%H:%M:%S").replace(tzinfo=UTC).timestamp()) * 1_000_000


def microseconds(time: str) -> int:
    """Microseconds since the epoch of a record's time.

    Raises:
        ValueError: it is not of that form.
    """
    return _second(time[:19]) + int(time[20:26])


def outcome_of(event: str, said: Any) -> str:
    """How a call went, as questions name it; empty for a record that does not say."""
    return str(_OUTCOMES.get(event) or said or "")


class Index:
    """The index of a directory of logs. Not safe for concurrent use; several processes may use one file.

    Args:
        directory: of the logs.
        place: the index's file, or None to keep it in memory.

    Raises:
        ConfigurationError: the file is something else than an index.
        OSError, sqlite3.Error: the place cannot be used.
    """

    def __init__(self, directory: Path, place: Path | None) -> None:
        self._directory = directory
        self._texts, self._tasks = dict[str, int](), dict[str, tuple[int | None, ...]]()
        self.unread = 0  # lines that are no records
        if place is not None:
            if not is_index(place):
                raise ConfigurationError(f"{place} is no index of an audit log; name another file, or remove it")
            with suppress(FileExistsError):
                os.close(os.open(place, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        self._db = sqlite3.connect(place if place is not None else ":memory:", timeout=60, isolation_level=None)
        try:
            self._prepare()
        except sqlite3.DatabaseError:
            self._db.close()
            raise

    def _prepare(self) -> None:
        for pragma in ("journal_mode=memory", "synchronous=off", "cache_size=-65536"):
            self._db.execute(f"pragma {pragma}")
        self._db.execute("begin immediate")
        if self._db.execute("pragma user_version").fetchone()[0] == _VERSION:
            self._db.execute("rollback")
            return
        for (name,) in self._db.execute("select name from sqlite_master where type = 'table'").fetchall():
            self._db.execute(f'drop table "{name}"')
        for statement in _TABLES.split(";"):
            self._db.execute(statement)
        self._db.execute(f"pragma application_id = {APPLICATION}")
        self._db.execute(f"pragma user_version = {_VERSION}")
        self._db.execute("commit")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._db.close()

    def update(self) -> int:
        """Take in what the logs have grown by; return how many records that were.

        Raises:
            sqlite3.Error: the index cannot be written, or is damaged.
            OSError: a log cannot be read.
        """
        self._db.execute("begin immediate")
        try:
            added = self._update()
            self._db.execute("commit")
        except BaseException:
            self._db.rollback()
            self._texts.clear()
            self._tasks.clear()
            raise
        return added

    def _update(self) -> int:
        known = {name: (file, size, last) for file, name, size, last in self._db.execute("select * from files")}
        added, paths = 0, sorted(self._directory.glob("audit-*.jsonl"))
        if any(path.name in known and not is_still(path, *known[path.name][1:]) for path in paths):
            # INVARIANT: of a log that was written anew nothing is kept: what a task's first record said stands in
            # the rows of others.
            self._forget_all()
            known = {}
        for path in paths:
            file, size, _ = known.pop(path.name, (0, 0, ""))
            if path.stat().st_size > size:
                added += self._take(path, file, size)
        for file, _, _ in known.values():
            self._forget(file)
        for number, columns in enumerate(_INDEXES):
            self._db.execute(f"create index if not exists by_{number} on records ({columns})")
        if added > _BATCH:
            self._db.execute("analyze")
        return added

    def _forget(self, file: int) -> None:
        self._db.execute("delete from records where file = ?", (file,))
        self._db.execute("delete from files where id = ?", (file,))

    def _forget_all(self) -> None:
        for table in ("records", "files", "tasks"):
            self._db.execute(f"delete from {table}")  # noqa: S608  # one of three names
        self._tasks.clear()

    def _take(self, path: Path, file: int, at: int) -> int:
        if not file:
            cursor = self._db.execute(
                "insert into files (name, size, last) values (?, 0, ?)", (path.name, mark_of(b""))
            )
            file = cursor.lastrowid or 0
        rows: list[tuple[Any, ...]] = []
        added, line = 0, b""
        with path.open("rb") as lines:
            lines.seek(at)
            # A part of a line that is longer than any record is none either; what stands behind it is looked at.
            while (found := lines.readline(MAX_LINE)).endswith(b"\n") or len(found) == MAX_LINE:
                line = found
                try:
                    rows.append((file, at, len(line), *self._row(_decode(line))))
                except (ValueError, IndexError):
                    self.unread += 1  # `audit verify` says what is wrong with it
                at += len(line)
                if len(rows) >= _BATCH:
                    added += self._insert(rows)
        added += self._insert(rows)
        if line:
            self._db.execute("update files set size = ?, last = ? where id = ?", (at, mark_of(line), file))
        return added

    def _insert(self, rows: list[tuple[Any, ...]]) -> int:
        marks = ",".join("?" * 12)
        columns = "file, at, length, time, chain, seq, event, agent, subject, delegation, tool, outcome"
        self._db.executemany(f"insert into records ({columns}) values ({marks})", rows)  # noqa: S608  # constants only
        count = len(rows)
        rows.clear()
        return count

    def _row(self, line: _Line) -> tuple[Any, ...]:
        if not 0 < line.seq < MAX_INT:
            raise ValueError("no number of a record")
        outcome = outcome_of(line.event, line.outcome)
        who = tuple(map(self._text, (line.agent, line.subject, " > ".join(line.delegation))))
        if line.task:
            who = self._who(line.task, who)
        return (microseconds(line.time), self._text(line.chain), line.seq, self._text(line.event), *who,
                self._text(line.tool), self._text(outcome))  # fmt: skip

    def _who(self, task: str, who: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """What the task's first record said, for those that only name the task."""
        known = self._tasks.get(task)
        if known is None:
            found = self._db.execute("select agent, subject, delegation from tasks where task = ?", (task,)).fetchone()
            known = found or who
            if found is None and any(who):
                self._db.execute("insert into tasks values (?, ?, ?, ?)", (task, *who))
            if any(known):
                if len(self._tasks) > _BATCH:
                    self._tasks.clear()
                self._tasks[task] = known
        return tuple(own or its for own, its in zip(who, known, strict=True))

    def _text(self, text: str) -> int | None:
        if not text:
            return None
        number = self._texts.get(text)
        if number is None:
            self._db.execute("insert or ignore into texts (text) values (?)", (text,))
            number = int(self._db.execute("select id from texts where text = ?", (text,)).fetchone()[0])
            if len(self._texts) > 5 * _BATCH:
                self._texts.clear()
            self._texts[text] = number
        return number

    def rows(self, sql: str, values: Iterable[object]) -> Iterator[Any]:
        """The rows of a question; see `query`."""
        return self._db.execute(sql, tuple(values))
