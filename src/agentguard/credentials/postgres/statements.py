"""What is sent to PostgreSQL, each in one round trip. Every name and value is quoted by psycopg; none is a model's.

How a lost statement is kept from creating a role after its revocation was given up: `create` inserts the role first and
looks at the server's clock then. So once the server's clock is past the creation window, a creation that can still
succeed has its entry in the unique index of role names already, and `probe` waits for it. No advisory lock is used: any
role in the database can take one, so a hostile task could hold up every revocation.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final

from psycopg import sql

from agentguard.credentials.postgres.grants import Privileges

LATE: Final = "AG001"  # the creation window has passed, or has not begun
NOT_GRANTED: Final = "AG002"  # a privilege that the admin may not hand on; PostgreSQL only warns
SESSIONS: Final = "AG003"  # the role still has sessions
# The search path keeps functions that somebody else made from being called by the admin; a commit waits for the disk,
# so that no crash brings a dropped role back.
_BEGIN: Final = sql.SQL(
    "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL search_path = pg_catalog, pg_temp;"
    " SET LOCAL synchronous_commit = on; SET LOCAL lock_timeout = {lock}; SET LOCAL statement_timeout = {time};"
    " {body}; COMMIT; {after}"
)
_LOCK: Final = 500  # milliseconds
_NONE: Final = sql.SQL("")


def _transaction(body: sql.Composable, milliseconds: int, after: sql.Composable = _NONE) -> sql.Composed:
    lock = sql.Literal(min(_LOCK, milliseconds))
    return _BEGIN.format(lock=lock, time=sql.Literal(milliseconds), body=body, after=after)


def _joined(*statements: sql.Composable) -> sql.Composed:
    return sql.SQL("; ").join(statements)


def _block(code: sql.Composable) -> sql.Composed:
    return sql.SQL("DO {}").format(sql.Literal(code.as_string(None)))


def create(
    role: str, verifier: str, privileges: tuple[Privileges, ...], *, prepared: float, window: float, until: float,
    connections: int, settings: Iterable[tuple[str, sql.Composable]], database: str, milliseconds: int,
) -> sql.Composed:  # fmt: skip
    """Create a login role with exactly these privileges, all of it or nothing.

    Args:
        role: its name.
        verifier: the SCRAM verifier of its password (RFC 5803), so that the password itself is in no log.
        privileges: on which objects.
        prepared, window: seconds since the epoch, and seconds: the server's clock has to be between them.
        until: seconds since the epoch after which nobody can log in.
        connections: how many at once.
        settings: of its sessions. They are defaults, no bounds: a role may change its own.
        database: that it may connect to.
        milliseconds: bounds each statement.
    """
    valid = datetime.fromtimestamp(until, UTC).isoformat()
    statements = [
        sql.SQL(
            "CREATE ROLE {role} WITH LOGIN PASSWORD {verifier} VALID UNTIL {valid} CONNECTION LIMIT {connections}"
            " NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS NOINHERIT"
        ).format(role=sql.Identifier(role), verifier=verifier, valid=valid, connections=connections),
        _block(_IN_TIME.format(prepared=prepared, window=window, code=LATE)),
        *(
            sql.SQL("ALTER ROLE {} SET {} = {}").format(sql.Identifier(role), sql.Identifier(name), value)
            for name, value in settings
        ),
        *_grants(role, privileges, database),
        _block(_granted(role, privileges, database)),
    ]
    return _transaction(sql.SQL("; ").join(statements), milliseconds)


# INVARIANT: this stands behind CREATE ROLE, see above.
_IN_TIME: Final = sql.SQL(
    "DECLARE late double precision := extract(epoch FROM pg_catalog.clock_timestamp()) - {prepared};"
    " BEGIN IF late > {window} OR late < -{window} THEN"
    " RAISE EXCEPTION USING ERRCODE = {code}, MESSAGE = pg_catalog.round(late::numeric, 1)::text; END IF; END"
)


def _schemas(privileges: tuple[Privileges, ...]) -> list[str]:
    return list(dict.fromkeys(item.schema for item in privileges))


def _grants(role: str, privileges: tuple[Privileges, ...], database: str) -> Iterable[sql.Composed]:
    to = sql.Identifier(role)
    yield sql.SQL("GRANT CONNECT ON DATABASE {} TO {}").format(sql.Identifier(database), to)
    for schema in _schemas(privileges):
        yield sql.SQL("GRANT USAGE ON SCHEMA {} TO {}").format(sql.Identifier(schema), to)
    for item in privileges:
        words = sql.SQL(", ").join(sql.SQL(_KEYWORDS[name]) for name in item.privileges)
        on = sql.SQL(_KEYWORDS[item.kind])
        yield sql.SQL("GRANT {} ON {} {} TO {}").format(words, on, sql.Identifier(item.schema, item.name), to)


_KEYWORDS: Final = {
    "SELECT": "SELECT", "INSERT": "INSERT", "UPDATE": "UPDATE", "DELETE": "DELETE", "USAGE": "USAGE",
    "TABLE": "TABLE", "SEQUENCE": "SEQUENCE",
}  # fmt: skip


def _granted(role: str, privileges: tuple[Privileges, ...], database: str) -> sql.Composed:
    """Ask for every privilege: a GRANT without the grant option gives nothing, and only warns."""
    asked = [("pg_catalog.has_database_privilege", database, "CONNECT", f"CONNECT ON DATABASE {database}")]
    asked += [
        ("pg_catalog.has_schema_privilege", schema, "USAGE", f"USAGE ON SCHEMA {schema}")
        for schema in _schemas(privileges)
    ]
    for item in privileges:
        test = f"pg_catalog.has_{item.kind.lower()}_privilege"
        name = sql.Identifier(item.schema, item.name).as_string(None)
        asked += [(test, name, one, f"{one} ON {item.kind} {item.schema}.{item.name}") for one in item.privileges]
    checks = (
        sql.SQL("IF NOT {}({}, {}, {}) THEN RAISE EXCEPTION USING ERRCODE = {}, MESSAGE = {}; END IF;").format(
            sql.SQL(test), role, on, privilege, NOT_GRANTED, text
        )
        for test, on, privilege, text in asked
    )  # fmt: skip
    return sql.SQL("BEGIN {} END").format(sql.SQL(" ").join(checks))


# --- ending one -------------------------------------------------------------------------------------------------------


def _if_there(role: str, then: sql.Composable) -> sql.Composed:
    return sql.SQL(
        "DECLARE given record; BEGIN IF EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = {}) THEN {} END IF; END"
    ).format(role, then)


def _terminate(role: str, wait: int) -> sql.Composed:
    call = sql.SQL("pg_catalog.pg_terminate_backend(pid, {})").format(wait) if wait else sql.SQL(_TERMINATE)
    return sql.SQL("SELECT count({}) FROM pg_catalog.pg_stat_activity WHERE usename = {}").format(call, role)


_TERMINATE: Final = "pg_catalog.pg_terminate_backend(pid)"


def stop(role: str, milliseconds: int) -> sql.Composed:
    """End the role's sessions, and tell its oid, if there is such a role, and the server's time.

    First, because an open transaction of the role could hold up what follows. Membership lets an admin who is no
    superuser end them.
    """
    joined = _block(_if_there(role, sql.SQL("GRANT {} TO CURRENT_USER;").format(sql.Identifier(role))))
    found = sql.SQL(
        "{}; SELECT (SELECT oid FROM pg_catalog.pg_roles WHERE rolname = {}),"
        " extract(epoch FROM pg_catalog.clock_timestamp())"
    )
    return _transaction(joined, milliseconds, found.format(_terminate(role, 0), role))


def lock_out(role: str, wait: int, milliseconds: int) -> sql.Composed:
    """Let nobody log in any more; then end the sessions that began meanwhile, and wait until they are gone.

    Tell at last whether the role owns large objects.
    """
    locked = _block(_if_there(role, sql.SQL("ALTER ROLE {} NOLOGIN;").format(sql.Identifier(role))))
    return _transaction(locked, milliseconds, _joined(_terminate(role, wait), _owns_large_objects(role)))


# Every role may make any number of large objects, and each that is dropped needs a lock to its transaction's end.
_LARGE_OBJECTS: Final = sql.SQL("""
SELECT d.objid FROM pg_catalog.pg_roles AS r
  JOIN pg_catalog.pg_shdepend AS d ON d.refobjid = r.oid AND d.refclassid = 'pg_catalog.pg_authid'::regclass
WHERE r.rolname = {} AND d.classid = 'pg_catalog.pg_largeobject'::regclass AND d.deptype = 'o'
  AND d.dbid = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()) LIMIT {}
""")
_AT_ONCE: Final = 1000


def _owns_large_objects(role: str) -> sql.Composed:
    return sql.SQL("SELECT EXISTS ({})").format(_LARGE_OBJECTS.format(role, 1))


def unlink(role: str, milliseconds: int) -> sql.Composed:
    """Drop some of the role's large objects, and tell whether there are more."""
    some = _LARGE_OBJECTS.format(role, _AT_ONCE)
    body = sql.SQL("PERFORM pg_catalog.lo_unlink(objid) FROM ({}) AS mine;").format(some)
    return _transaction(_block(_if_there(role, body)), milliseconds, _owns_large_objects(role))


# DROP OWNED revokes ALL, columns included, which an admin may not who has no grant option for one of them. So each
# privilege is taken back as it was given.
_TAKE_BACK: Final = """
FOR given IN
  SELECT c.oid::regclass AS name, acl.privilege_type AS privilege,
    CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END AS kind
  FROM pg_catalog.pg_roles AS r
    JOIN pg_catalog.pg_shdepend AS d ON d.refobjid = r.oid AND d.refclassid = 'pg_authid'::regclass
    JOIN pg_catalog.pg_class AS c ON c.oid = d.objid AND d.classid = 'pg_class'::regclass,
    LATERAL pg_catalog.aclexplode(c.relacl) AS acl
  WHERE r.rolname = {role} AND d.deptype = 'a' AND acl.grantee = r.oid
    AND d.dbid = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
LOOP
  EXECUTE pg_catalog.format('REVOKE %s ON %s %s FROM %I', given.privilege, given.kind, given.name, {role});
END LOOP;
"""


def drop(role: str, milliseconds: int) -> sql.Composed:
    """Drop what the role owns and was granted, and the role.

    What it owns is dropped and not reassigned: a function with SECURITY DEFINER that it made would become the admin's.
    """
    body = sql.SQL(
        "IF EXISTS (SELECT FROM pg_catalog.pg_stat_activity WHERE usename = {role}) THEN"
        " RAISE EXCEPTION USING ERRCODE = {code}, MESSAGE = 'sessions are still open'; END IF;"
        " {given} DROP OWNED BY {name}; DROP ROLE {name};"
    ).format(role=role, code=SESSIONS, name=sql.Identifier(role), given=sql.SQL(_TAKE_BACK).format(role=role))
    return _transaction(_block(_if_there(role, body)), milliseconds)


def probe(role: str, milliseconds: int) -> sql.Composed:
    """Prove that no creation of the role is under way: the unique index waits for one, and it fails if there is one."""
    name = sql.Identifier(role)
    return _transaction(sql.SQL("CREATE ROLE {} NOLOGIN; DROP ROLE {}").format(name, name), milliseconds)


def ended_before(prefix: str, moment: float, most: int) -> sql.Composed:
    """List roles whose name begins so, and whose VALID UNTIL is before a moment."""
    return sql.SQL(
        "SELECT rolname FROM pg_catalog.pg_roles WHERE pg_catalog.starts_with(rolname::text, {})"
        " AND rolvaliduntil < pg_catalog.to_timestamp({}) ORDER BY rolvaliduntil LIMIT {}"
    ).format(prefix, moment, most)
