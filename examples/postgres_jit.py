"""A database role that lives as long as its task: PostgreSQL itself refuses what the task may not read.

Run it: `make services-up`, then `python -m examples.postgres_jit`
"""

from __future__ import annotations

import json
import logging
import secrets
import sys
from pathlib import Path

import psycopg

from agentguard import Guard, Intent, any_, current_credential, guarded, step
from agentguard.audit.memory import MemoryLog
from agentguard.credentials.postgres import PostgresRoles
from agentguard.registry import OpenRegistry

ENDPOINTS = Path(__file__).resolve().parent.parent / ".services" / "endpoints.json"
if not ENDPOINTS.exists():
    sys.exit("no PostgreSQL is running for this example: run `make services-up` first")
server = json.loads(ENDPOINTS.read_text())["postgres"]
address = f"{server['host']}:{server['port']}/{server['database']}"
# In production: a role with CREATEROLE and grant options, see docs/credentials/postgres.md.
ADMIN, DATABASE = f"postgresql://{server['user']}:{server['password']}@{address}", f"postgresql://{address}"
SCHEMA = f"shop_{secrets.token_hex(4)}"
GRANTS = {"table/invoices": {f"{SCHEMA}.invoices": {"db:read": ["SELECT"]}}}
logging.getLogger("agentguard").setLevel(logging.ERROR)  # it warns: this admin is a superuser
left_open: list[psycopg.Connection] = []


@guarded("sql.query", effect="read", audience=DATABASE, scopes=["db:read"], resource="table/invoices")
def query(statement: str) -> list[tuple[object, ...]]:
    """Run a statement; the connection is left open, as a careless tool does."""
    login = current_credential()
    connection = psycopg.connect(DATABASE, user=login.username, password=login.password, autocommit=True)
    left_open.append(connection)
    return connection.execute(statement.encode()).fetchall()


def roles(admin: psycopg.Connection) -> list[str]:
    return [name for (name,) in admin.execute("SELECT rolname FROM pg_roles WHERE rolname LIKE 'ag\\_shop\\_%'")]


issuer = PostgresRoles(ADMIN, audience=DATABASE, grants=GRANTS, owner="shop")
guard = Guard(audit=MemoryLog(), registry=OpenRegistry(), issuer=issuer, pseudonym_key=secrets.token_bytes(32))
with psycopg.connect(ADMIN, autocommit=True) as admin:
    admin.execute(f"""
        CREATE SCHEMA {SCHEMA};
        CREATE TABLE {SCHEMA}.invoices AS SELECT 300 AS amount; CREATE TABLE {SCHEMA}.payroll ();
    """)
    try:
        print("roles before the task:", roles(admin))
        with (
            guard,
            guard.task(
                "analyst", on_behalf_of="alice", intent=Intent("Sum up", step("sql.query", statement=any_).times(9))
            ),
        ):
            print("invoices:", query(f"SELECT sum(amount) FROM {SCHEMA}.invoices"))
            try:
                query(f"SELECT * FROM {SCHEMA}.payroll")
            except psycopg.errors.InsufficientPrivilege as refusal:
                print("payroll:", str(refusal).splitlines()[0])
            print("roles during the task:", len(roles(admin)))
        print("roles after the task:", roles(admin))
        try:
            left_open[0].execute("SELECT 1")
        except psycopg.OperationalError as ended:
            print("the session it left open:", str(ended).splitlines()[0])
    finally:
        for connection in left_open:
            connection.close()
        issuer.close()
        admin.execute(f"DROP SCHEMA {SCHEMA} CASCADE")
