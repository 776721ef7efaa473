"""The database: real tables in a SQLite file, built for one run; the agent gets a connection that cannot write."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from urllib.parse import quote

from langchain_community.utilities import SQLDatabase
from sqlalchemy import create_engine

SCHEMA = Path(__file__).with_name("support.sql")


@dataclass(frozen=True, slots=True)
class Ticket:
    """What the application knows about a ticket from its own columns; the text is for the agent only."""

    id: int
    account: str
    order: int
    total: Decimal
    text: str

    @property
    def ticket_query(self) -> str:
        """The one statement that reads this ticket."""
        return f"SELECT account, subject, body FROM tickets WHERE id = {self.id}"

    @property
    def order_query(self) -> str:
        """The one statement that reads its order."""
        return f"SELECT item, total, status FROM orders WHERE id = {self.order}"


def build(folder: Path) -> Path:
    """Build the database in a folder and return its file."""
    path = folder / "support.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executescript(SCHEMA.read_text("utf-8"))
    return path


def read_ticket(path: Path, number: int) -> Ticket:
    """Read what the application itself knows about a ticket."""
    query = (
        "SELECT t.id, t.account, o.id, o.total, t.body FROM tickets t JOIN orders o ON o.id = t.order_id WHERE t.id = ?"
    )
    with closing(sqlite3.connect(path)) as connection:
        found, account, order, total, text = connection.execute(query, (number,)).fetchone()
    return Ticket(found, account, order, Decimal(total), text)


@contextmanager
def read_only(path: Path) -> Iterator[SQLDatabase]:
    """Open it for the agent; SQLite itself refuses every write (https://sqlite.org/uri.html, mode=ro)."""
    engine = create_engine(f"sqlite:///file:{quote(str(path))}?mode=ro&uri=true")
    try:
        yield SQLDatabase(engine)
    finally:
        engine.dispose()
