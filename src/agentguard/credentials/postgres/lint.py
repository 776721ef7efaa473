"""What every role of a database may do beside what it is granted, because PUBLIC may."""

from __future__ import annotations

from typing import Final

from psycopg import sql

from agentguard.credentials.postgres.connections import Rows

# One row a finding: its code, and the object's name.
FINDINGS: Final = sql.SQL("""
SELECT 'superuser', current_user::text FROM pg_catalog.pg_roles WHERE rolname = current_user AND rolsuper
UNION ALL
SELECT CASE WHEN acl.privilege_type = 'TEMPORARY' THEN 'temporary' ELSE 'connect' END, datname::text
FROM pg_catalog.pg_database AS d,
  LATERAL pg_catalog.aclexplode(coalesce(d.datacl, pg_catalog.acldefault('d', d.datdba))) AS acl
WHERE acl.grantee = 0 AND d.datallowconn
  AND (acl.privilege_type = 'TEMPORARY') = (d.datname = pg_catalog.current_database())
UNION ALL
SELECT 'create', nspname::text FROM pg_catalog.pg_namespace AS n, LATERAL pg_catalog.aclexplode(n.nspacl) AS acl
WHERE acl.grantee = 0 AND acl.privilege_type = 'CREATE'
UNION ALL
SELECT DISTINCT 'table', n.nspname || '.' || c.relname
FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace,
  LATERAL pg_catalog.aclexplode(c.relacl) AS acl
WHERE acl.grantee = 0 AND n.nspname NOT IN ('pg_catalog', 'information_schema')
UNION ALL
SELECT DISTINCT 'definer', n.nspname || '.' || p.proname
FROM pg_catalog.pg_proc AS p JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace,
  LATERAL pg_catalog.aclexplode(coalesce(p.proacl, pg_catalog.acldefault('f', p.proowner))) AS acl
WHERE p.prosecdef AND acl.grantee = 0 AND n.nspname NOT IN ('pg_catalog', 'information_schema')
ORDER BY 1, 2 LIMIT 200
""").format()
_FEW: Final = 5
_TEXTS: Final = {
    "superuser": "the admin {} is a superuser; a role with CREATEROLE and grant options is enough",
    "connect": "every role may connect to {}; REVOKE CONNECT ON DATABASE ... FROM PUBLIC",
    "temporary": "every role may make temporary tables in {}; REVOKE TEMPORARY ON DATABASE ... FROM PUBLIC",
    "create": "every role may make objects in the schema {}; REVOKE CREATE ON SCHEMA ... FROM PUBLIC",
    "table": "every role has privileges on {}; REVOKE ALL ON TABLE ... FROM PUBLIC",
    "definer": "every role may call {}, which runs as its owner; REVOKE EXECUTE ON FUNCTION ... FROM PUBLIC",
}


def findings_text(rows: Rows) -> tuple[str, ...]:
    """Say each kind of finding in one line, with the statement that ends it."""
    names: dict[str, list[str]] = {}
    for code, name in rows:
        names.setdefault(code or "", []).append(name or "")
    return tuple(_TEXTS[code].format(_listed(found)) for code, found in names.items())


def _listed(names: list[str]) -> str:
    more = len(names) - _FEW
    return ", ".join(names[:_FEW]) + (f" and {more} more" if more > 0 else "")
