"""The ledger that `agentguard leases list` looks at: a file, or what a configuration names under `state`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

from agentguard._drive import drive
from agentguard.errors import ConfigurationError

if TYPE_CHECKING:
    from agentguard.config_tokens import State
    from agentguard.state.rows import Row

Held: TypeAlias = tuple[Sequence["Row"], frozenset[str]]  # the rows, and the instances of the owners that live
NO_STATE: Final = (
    "{} has no `state: {{sqlite: FILE, key: ...}}` or `state: {{postgres: ..., key: ...}}`, so no ledger outlives a "
    "process; the credentials of its issuer end by themselves"
)
_NAME_IT: Final = "name the one of `state: {sqlite: FILE}`"
_SQLITE: Final = b"SQLite format 3\0"  # the first bytes of each of its files
_KEY_BYTES: Final = 32


def of_file(file: Path, now: float) -> Held:
    """Return what may be alive by a file of SQLite.

    Raises:
        ConfigurationError: it is no ledger, or one of an earlier version.
    """
    from agentguard.state.sqlite import SqliteLedger

    if not file.is_file():
        raise ConfigurationError(f"{file}: there is no such file; {_NAME_IT}")
    if not _is_sqlite(file):  # not "damaged": nobody should move a configuration away
        raise ConfigurationError(f"{file}: this is no file of SQLite, so no ledger; {_NAME_IT}")
    if problem := _unlisted(file):
        raise ConfigurationError(f"{file}: {problem}")
    with closing(SqliteLedger(file, os.urandom(_KEY_BYTES))) as ledger:
        return drive(ledger.rows(now)), drive(ledger.living(now))


def of_config(config: Path, now: float) -> Held:
    """Return what may be alive by the state that a configuration names; its keys are not needed.

    Raises:
        ConfigurationError: the configuration is wrong, or names no state.
        Unavailable: the database cannot be asked.
    """
    from agentguard.config_file import read_settings
    from agentguard.intent.document import Problems
    from agentguard.intent.strict_file import read_strict_file

    document = read_strict_file(config)
    problems = Problems(document)
    state = read_settings(document, problems).state
    problems.raise_if_any(f"{document.file} is wrong:")
    if state is None:
        raise ConfigurationError(NO_STATE.format(config))
    return of_file(state.file, now) if state.file is not None else _of_database(state, now)


def _of_database(state: State, now: float) -> Held:
    """INVARIANT: what only looks brings no schema to another version, and is no owner of anything."""
    from agentguard.config_secrets import text_of, with_psycopg

    with_psycopg()
    from agentguard.state.ledger_postgres import PostgresLedger
    from agentguard.state.postgres import PostgresStore

    dsn = text_of(state.dsn) if state.dsn is not None else ""
    with closing(PostgresStore(dsn, **{**state.options, "migrate": False})) as store:
        ledger = PostgresLedger(store, os.urandom(_KEY_BYTES))
        return drive(ledger.rows(now)), drive(ledger.living(now))


def _is_sqlite(file: Path) -> bool:
    """Whether it begins as SQLite's files do, or is empty as one that nobody has written to."""
    with file.open("rb") as opened:
        return opened.read(len(_SQLITE)) in (_SQLITE, b"")


def _unlisted(file: Path) -> str:
    """INVARIANT: what only looks makes no file a ledger, and takes none from a program of an earlier version."""
    from agentguard.state.database import kind_of
    from agentguard.state.schema import APPLICATION, MIGRATIONS

    kind, version = kind_of(file)
    if version == 0 and kind in (0, APPLICATION):
        return f"it is no ledger yet; {_NAME_IT}"
    if kind == APPLICATION and version < len(MIGRATIONS):
        return (
            "it was written by an earlier version of agentguard; list it with that one, or let `agentguard leases "
            "recover` of this one bring it up to date once no program of the earlier one runs"
        )
    return ""
