"""The tables of the shared state in PostgreSQL: schema `agentguard`, by version."""

from __future__ import annotations

from typing import Final, LiteralString

from psycopg import sql

NOW: Final[LiteralString] = "extract(epoch FROM clock_timestamp())::float8"
# Advisory locks have two parts: 4278092 ("AGL") is ours; 1 migrating, 2 stopping, 3 asking, 4 adopting, 5 parking.
_TEXT: Final[LiteralString] = 'text COLLATE "C" NOT NULL'
MIGRATIONS: Final[tuple[tuple[LiteralString, ...], ...]] = (
    (
        # budgets
        f"CREATE TABLE agentguard.scopes (scope {_TEXT} PRIMARY KEY, touched float8 NOT NULL)",
        f"CREATE TABLE agentguard.counters (scope {_TEXT}, name {_TEXT}, total {_TEXT}, value {_TEXT}, "
        "holders bigint NOT NULL, PRIMARY KEY (scope, name))",
        f"CREATE TABLE agentguard.entries (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, scope {_TEXT}, "
        f"name {_TEXT}, at float8 NOT NULL, amount {_TEXT}, reservation {_TEXT})",
        "CREATE INDEX entries_by_time ON agentguard.entries (scope, name, at)",
        "CREATE INDEX entries_by_reservation ON agentguard.entries (reservation)",
        f"CREATE TABLE agentguard.retries (scope {_TEXT}, name {_TEXT}, remaining bigint NOT NULL, "
        f"identifier {_TEXT}, PRIMARY KEY (scope, name))",
        # suspensions
        "CREATE TABLE agentguard.epochs (one int PRIMARY KEY CHECK (one = 1), epoch bigint NOT NULL, "
        "revision bigint NOT NULL)",
        "INSERT INTO agentguard.epochs (one, epoch, revision) VALUES (1, 0, 0)",
        f"CREATE TABLE agentguard.stops (key {_TEXT} PRIMARY KEY, why {_TEXT}, since float8 NOT NULL, "
        "epoch bigint NOT NULL)",
        f"CREATE TABLE agentguard.running (call {_TEXT} PRIMARY KEY, instance {_TEXT}, since float8 NOT NULL)",
        "CREATE INDEX running_by_instance ON agentguard.running (instance)",
        # approvals
        f"CREATE TABLE agentguard.questions (id {_TEXT} PRIMARY KEY, binding {_TEXT}, verdict {_TEXT}, by {_TEXT}, "
        f"asked_at float8 NOT NULL, expires_at float8 NOT NULL, question {_TEXT})",
        "CREATE INDEX questions_by_binding ON agentguard.questions (binding, verdict)",
        "CREATE INDEX questions_by_end ON agentguard.questions (expires_at)",
        # owners of marks and of the ledger's rows
        *(
            f"CREATE TABLE agentguard.{table} (instance {_TEXT} PRIMARY KEY, host {_TEXT}, boot {_TEXT}, "
            f"namespace {_TEXT}, pid bigint NOT NULL, started bigint NOT NULL, beat float8 NOT NULL, "
            "closed int NOT NULL)"
            for table in ("runners", "owners")
        ),
        # the ledger; `ends` is Lease.expires_by, infinite for a lease that lasts
        f"CREATE TABLE agentguard.leases (id {_TEXT} PRIMARY KEY, instance {_TEXT}, state {_TEXT}, lease {_TEXT}, "
        "handle text, attempts bigint NOT NULL, since float8 NOT NULL, ends float8 NOT NULL, "
        f"parent {_TEXT}, with_parent int NOT NULL, why {_TEXT})",
        "CREATE INDEX leases_of_owner ON agentguard.leases (instance)",
        "CREATE INDEX leases_by_end ON agentguard.leases (ends)",
        "CREATE INDEX leases_by_parent ON agentguard.leases (parent) WHERE parent <> ''",
    ),
    (
        f"CREATE TABLE agentguard.redeemed (key {_TEXT} PRIMARY KEY, until float8 NOT NULL)",
        "CREATE INDEX redeemed_by_end ON agentguard.redeemed (until)",
    ),
    (
        f"CREATE TABLE agentguard.parked (id {_TEXT} PRIMARY KEY, key_name {_TEXT}, expires_at float8 NOT NULL, "
        f"state {_TEXT})",
        # What is sealed does not compress.
        "ALTER TABLE agentguard.parked ALTER COLUMN state SET STORAGE EXTERNAL",
        "CREATE INDEX parked_by_end ON agentguard.parked (key_name, expires_at)",
    ),
)
NEWEST: Final = len(MIGRATIONS)
_LOCK: Final[LiteralString] = "BEGIN; SELECT pg_advisory_xact_lock(4278092, 1); "
# The catalog itself is asked: what `to_regclass` has cached may be older than a lock that was waited for.
LOOK: Final = sql.SQL(
    "SELECT EXISTS (SELECT 1 FROM pg_namespace WHERE nspname = 'agentguard'), EXISTS (SELECT 1 FROM pg_class AS c "
    "JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE n.nspname = 'agentguard' AND c.relname = 'version')"
)
VERSION: Final = sql.SQL("SELECT version FROM agentguard.version")
BEGIN: Final = sql.SQL(_LOCK) + LOOK
CREATE_SCHEMA: Final = sql.SQL("CREATE SCHEMA agentguard")
CREATE_VERSION: Final = sql.SQL(
    "CREATE TABLE agentguard.version (one int PRIMARY KEY CHECK (one = 1), version int NOT NULL); "
    "INSERT INTO agentguard.version (one, version) VALUES (1, 0)"
)
# Where the server may answer before a commit is on its disk, it does not for what must not be lost.
DURABLE: Final = sql.SQL(
    "SELECT set_config('synchronous_commit', 'on', true) WHERE current_setting('synchronous_commit') = 'off'"
)
COMMIT: Final = sql.SQL("COMMIT")


def migration(present: int) -> sql.Composable:
    """Return the statements that lead from a version to the newest, within the transaction that `BEGIN` began."""
    statements: list[sql.Composable] = [sql.SQL(statement) for version in MIGRATIONS[present:] for statement in version]
    newest = sql.SQL("UPDATE agentguard.version SET version = {}").format(sql.Literal(NEWEST))
    return sql.SQL("; ").join([*statements, newest])
