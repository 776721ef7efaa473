"""Configures the test OpenBao as docs/credentials/openbao.md says: logins, policies, a database role, KV secrets.

`python -m tests.services.bao_setup` does it for the servers of `make services-up`; once more changes nothing.
"""

from __future__ import annotations

import sys
from typing import Any, Final

import httpx
import msgspec
import psycopg
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt import PyJWK

from tests.services import endpoints
from tests.services.endpoints import Bao, Postgres, Services

AUDIENCE: Final = "https://vault.test"  # of the JWT-SVIDs that log in
AS_AUDIENCE: Final = "https://api.test/jwt/vault"  # of the authorization server's tokens that log in
SECRET: Final = "legacy-api-key-0123456789"
DEFAULT_TTL: Final = 20

# What a task's token may do: its own life, what it is for, and to let go of it early.
POLICY: Final = """
path "database/creds/ag-reader"   { capabilities = ["read"] }
path "secret/data/legacy/*"       { capabilities = ["read"] }
path "auth/token/lookup-self"     { capabilities = ["read"] }
path "auth/token/renew-self"      { capabilities = ["update"] }
path "auth/token/revoke-self"     { capabilities = ["update"] }
path "sys/leases/revoke"          { capabilities = ["update"] }
"""
SELF: Final = """
path "auth/token/revoke-self"     { capabilities = ["update"] }
"""
SWEEP: Final = f"""{SELF}
path "sys/leases/revoke-prefix/database/creds/ag-reader" {{ capabilities = ["sudo", "update"] }}
"""
# NOLOGIN first: a session that is opened again between the two others would live on. VALID UNTIL ends the password by
# itself, also where the vault cannot reach the database.
CREATION: Final = [
    "CREATE ROLE \"{{name}}\" WITH LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'",
    'GRANT SELECT ON ag_invoices TO "{{name}}"',
]
REVOCATION: Final = [
    'ALTER ROLE "{{name}}" NOLOGIN',
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{{name}}'",
    'REVOKE ALL ON ag_invoices FROM "{{name}}"',
    'DROP ROLE IF EXISTS "{{name}}"',
]


class Operator:
    """The vault's operator, with the root token, for the time of a `with`."""

    def __init__(self, bao: Bao) -> None:
        self._http = httpx.Client(base_url=f"{bao.url}/v1/", headers={"X-Vault-Token": bao.token}, trust_env=False)

    def __enter__(self) -> Operator:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def write(self, path: str, **fields: Any) -> None:
        answer = self._http.post(path, json=fields)
        if answer.status_code == 400 and "already in use" in answer.text:
            return
        assert answer.is_success, f"{path}: {answer.status_code} {answer.text}"

    def listed(self, path: str) -> list[str]:
        answer = self._http.request("LIST", path)
        return list(answer.json()["data"]["keys"]) if answer.status_code == 200 else []

    def tokens(self, role: str) -> int:
        """How many tokens of a login role are alive."""
        found = 0
        for accessor in self.listed("auth/token/accessors"):
            answer = self._http.post("auth/token/lookup-accessor", json={"accessor": accessor})
            found += answer.status_code == 200 and (answer.json()["data"].get("meta") or {}).get("role") == role
        return found

    def leases(self) -> list[str]:
        """The leases of the database role that are alive."""
        return self.listed("sys/leases/lookup/database/creds/ag-reader/")


def configure(services: Services) -> None:
    """Write everything that the tests and the page's example need."""
    tables(services.postgres)
    with Operator(services.bao) as operator:
        for name, policy in (("ag-task", POLICY), ("ag-self", SELF), ("ag-sweep", SWEEP)):
            operator.write(f"sys/policies/acl/{name}", policy=policy)
        _logins(operator, services)
        _database(operator, services.postgres)
        operator.write("secret/data/legacy/api", data={"key": SECRET, "user": "svc"})


def _logins(operator: Operator, services: Services) -> None:
    operator.write("sys/auth/spiffe", type="jwt")
    operator.write("auth/spiffe/config", jwt_validation_pubkeys=_bundle(services))
    operator.write("sys/auth/ag-jwt", type="jwt")
    issuer = services.authorization_server.issuer
    operator.write("auth/ag-jwt/config", jwks_url=_jwks_uri(issuer), bound_issuer=issuer)
    spiffe = {"bound_audiences": [AUDIENCE], "bound_subject": services.workload_api.spiffe_id}
    _role(operator, "spiffe", "support", "30s", ["ag-task"], **spiffe)
    _role(operator, "spiffe", "brief", "5s", ["ag-task"], **spiffe)
    _role(operator, "spiffe", "long", "1h", ["ag-task"], **spiffe)
    _role(operator, "spiffe", "blind", "30s", ["ag-self"], **spiffe)
    _role(operator, "spiffe", "sweeper", "30s", ["ag-sweep"], **spiffe)
    _role(operator, "ag-jwt", "support", "30s", ["ag-task"], bound_audiences=[AS_AUDIENCE], bound_subject="support-bot")


def _role(operator: Operator, mount: str, name: str, ttl: str, policies: list[str], **bound: Any) -> None:
    operator.write(
        f"auth/{mount}/role/{name}", role_type="jwt", user_claim="sub", token_ttl=ttl, token_max_ttl="2h",
        token_policies=policies, token_no_default_policy=True, token_type="service", **bound,
    )  # fmt: skip


def _database(operator: Operator, postgres: Postgres) -> None:
    operator.write("sys/mounts/database", type="database")
    operator.write(
        "database/config/ag", plugin_name="postgresql-database-plugin", allowed_roles=["ag-reader"],
        connection_url=f"postgresql://{{{{username}}}}:{{{{password}}}}@{postgres.host}:{postgres.port}/postgres?sslmode=disable",
        username=postgres.user, password=postgres.password,
    )  # fmt: skip
    role(operator, f"{DEFAULT_TTL}s")


def role(operator: Operator, ttl: str) -> None:
    """Write the database role: SELECT on one table, gone after `ttl`."""
    operator.write(
        "database/roles/ag-reader", db_name="ag", default_ttl=ttl, max_ttl=ttl,
        creation_statements=CREATION, revocation_statements=REVOCATION,
    )  # fmt: skip


def tables(postgres: Postgres) -> None:
    """Two tables, of which the role may read one."""
    with psycopg.connect(postgres.dsn, autocommit=True) as admin:
        for table in ("ag_invoices", "ag_payroll"):
            admin.execute(f"CREATE TABLE IF NOT EXISTS {table} (id int PRIMARY KEY, amount int)")
            admin.execute(f"INSERT INTO {table} VALUES (1, 100), (2, 200) ON CONFLICT DO NOTHING")


def roles_left(postgres: Postgres, names: list[str]) -> list[str]:
    """Which of these users PostgreSQL still has."""
    with psycopg.connect(postgres.dsn) as admin:
        found = admin.execute("SELECT rolname FROM pg_roles WHERE rolname = ANY(%s)", (names,)).fetchall()
    return [name for (name,) in found]


def _bundle(services: Services) -> list[str]:
    keys = msgspec.json.decode(services.workload_api.bundle_jwks.read_bytes())["keys"]
    public = [PyJWK({**key, "use": "sig"}).key for key in keys]
    return [key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode() for key in public]


def _jwks_uri(issuer: str) -> str:
    with httpx.Client(trust_env=False) as http:
        return str(http.get(f"{issuer}/.well-known/oauth-authorization-server").json()["jwks_uri"])


if __name__ == "__main__":
    found = endpoints.load()
    if found is None:
        sys.exit("the servers are not up: run `make services-up`")
    configure(found)
    print(f"configured {found.bao.url}")
