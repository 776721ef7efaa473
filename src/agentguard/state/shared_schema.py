"""The tables that budgets, suspensions, approvals, redemptions and parked tasks have in the state file, by version."""

from __future__ import annotations

from typing import Final

SHARED: Final = (
    "CREATE TABLE counters (scope TEXT NOT NULL, name TEXT NOT NULL, total TEXT NOT NULL, value TEXT NOT NULL, "
    "holders INTEGER NOT NULL, touched REAL NOT NULL, PRIMARY KEY (scope, name)) WITHOUT ROWID, STRICT",
    "CREATE TABLE entries (id INTEGER PRIMARY KEY, scope TEXT NOT NULL, name TEXT NOT NULL, at REAL NOT NULL, "
    "amount TEXT NOT NULL, reservation TEXT NOT NULL) STRICT",
    "CREATE INDEX entries_by_time ON entries (scope, name, at)",
    "CREATE INDEX entries_by_reservation ON entries (reservation)",
    "CREATE TABLE retries (scope TEXT NOT NULL, name TEXT NOT NULL, left INTEGER NOT NULL, identifier TEXT NOT NULL, "
    "touched REAL NOT NULL, PRIMARY KEY (scope, name)) WITHOUT ROWID, STRICT",
    "CREATE TABLE epochs (one INTEGER PRIMARY KEY CHECK (one = 1), epoch INTEGER NOT NULL) STRICT",
    "INSERT INTO epochs (one, epoch) VALUES (1, 0)",
    "CREATE TABLE stops (key TEXT PRIMARY KEY, why TEXT NOT NULL, since REAL NOT NULL, epoch INTEGER NOT NULL) "
    "WITHOUT ROWID, STRICT",
    "CREATE TABLE running (call TEXT PRIMARY KEY, instance TEXT NOT NULL, since REAL NOT NULL) WITHOUT ROWID, STRICT",
    # Apart from the ledger's owners, whose rows end with their leases.
    "CREATE TABLE runners (instance TEXT PRIMARY KEY, host TEXT NOT NULL, boot TEXT NOT NULL, "
    "namespace TEXT NOT NULL, pid INTEGER NOT NULL, started INTEGER NOT NULL, beat REAL NOT NULL, "
    "closed INTEGER NOT NULL) WITHOUT ROWID, STRICT",
    "CREATE TABLE questions (id TEXT PRIMARY KEY, binding TEXT NOT NULL, verdict TEXT NOT NULL, by TEXT NOT NULL, "
    "asked_at REAL NOT NULL, expires_at REAL NOT NULL, question BLOB NOT NULL) STRICT",
    "CREATE INDEX questions_by_binding ON questions (binding, verdict)",
    "CREATE INDEX questions_by_end ON questions (expires_at)",
)

REDEEMED: Final = (
    "CREATE TABLE redeemed (key TEXT PRIMARY KEY, until REAL NOT NULL) WITHOUT ROWID, STRICT",
    "CREATE INDEX redeemed_by_end ON redeemed (until)",
)

PARKED: Final = (
    "CREATE TABLE parked (id TEXT PRIMARY KEY, key_name TEXT NOT NULL, expires_at REAL NOT NULL, "
    "state BLOB NOT NULL) STRICT",
    "CREATE INDEX parked_by_end ON parked (key_name, expires_at)",
)
