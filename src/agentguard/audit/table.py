"""Records as rows of a table, safe to open in a spreadsheet."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

COLUMNS: Final = (
    "time", "id", "event", "outcome", "reason", "agent", "subject", "delegation", "tool", "effect", "arguments", "task",
    "call", "lease", "why", "error", "trace", "hash",
)  # fmt: skip
_FORMULA: Final = frozenset("=+-@\t\r\n|%")  # what a spreadsheet may take for the start of a formula


def row(record: Mapping[str, Any]) -> list[str]:
    """Return a record's cells, in the order of `COLUMNS`."""
    return [cell(record, name) for name in COLUMNS]


def cell(record: Mapping[str, Any], name: str) -> str:
    """Return one cell: text that no spreadsheet runs, without control characters."""
    value = f"{record['chain']}:{record['seq']}" if name == "id" else record.get(name, "")
    if name == "delegation" and isinstance(value, list):
        value = " > ".join(map(str, value))
    elif not isinstance(value, str):
        value = json.dumps(value)
    return inert(value)


def inert(text: str) -> str:
    """Return text that a spreadsheet shows and never runs.

    INVARIANT: an apostrophe stands before whatever could begin a formula, also behind leading spaces.
    """
    shown = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
    return f"'{shown}" if text.lstrip(" ")[:1] in _FORMULA and text.strip(" ") else shown
