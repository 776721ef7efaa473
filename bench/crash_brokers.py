"""The brokers of `bench.crash`, one plug-in each: what a client needs to use it, and what its server says is alive.

A plug-in's `spec` is JSON, so that the client that is killed makes the same issuer from it, through a proxy that fails;
recovery makes it with a connection that does not.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
import psycopg
from psycopg import sql

from agentguard import User
from agentguard._http import Http
from agentguard.credentials.oauth.actor import SignedActor
from agentguard.credentials.oauth.client_auth import PrivateKeyJwt
from agentguard.credentials.oauth.metadata import ServerMetadata
from agentguard.credentials.oauth.rules import TokenRules
from agentguard.credentials.oauth.server import AuthorizationServer
from agentguard.credentials.oauth.token_exchange import TokenExchange
from agentguard.credentials.openbao import Database, JwtLogin, OpenBaoIssuer
from agentguard.credentials.postgres import PostgresRoles
from agentguard.credentials.routes import Route, Routes
from agentguard.keys import SigningKey
from agentguard.model.lease import Secret, SubjectToken
from agentguard.model.principal import Proof, Subject
from agentguard.ports import Issuer
from bench.authority import AUDIENCE, HOST, Client, RemoteIssuer
from tests.services import bao_setup
from tests.services.chaos import ChaosProxy, Mode
from tests.services.endpoints import Services

TTL: Final = 10  # seconds that what a server issues lives, where that is ours to say
# The limits of the clients' patience are those of their issuers; a blackhole would only make the run longer.
RATES: Final[Mapping[Mode, float]] = {"delay": 0.1, "drop_reply": 0.1, "truncate": 0.05, "reset": 0.1}
DELAY: Final = 0.3
ID_TOKEN: Final = "urn:ietf:params:oauth:token-type:id_token"
CLIENT: Final = "support-bot"
NETWORKS: Final = ["127.0.0.0/8"]

Spec = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Broker:
    """One broker.

    Args:
        name: for the report.
        spec: for the client; goes through the proxy.
        direct: the same, past the proxy.
        alive: asks the server how many of our credentials are alive.
        proxy: that goes wrong.
        share: of the kills.
    """

    name: str
    spec: Spec
    direct: Spec
    alive: Callable[[], int]
    proxy: ChaosProxy
    share: int = 1


def issuer_of(spec: Spec) -> Issuer:
    """The issuer that a spec describes, as a configuration makes it; for the client, and for whoever recovers."""
    make = {"bench": _bench, "exchange": _exchange, "openbao": _openbao, "postgres": _postgres}[spec["kind"]]
    return Routes([Route("broker", make(spec))])


def user_of(spec: Spec) -> User | str:
    """Whom the client's tasks act for."""
    if "id_token" not in spec:
        return "alice"
    subject = Subject(spec["sub"], issuer=spec["issuer"], proof=Proof.VERIFIED)
    return User(subject=subject, subject_token=SubjectToken(Secret(spec["id_token"]), ID_TOKEN))


def _http() -> Http:
    return Http(timeout=2.0, deadline=4.0, networks=NETWORKS)


# a token server of the bench's own ---------------------------------------------------------------------------------


def _bench(spec: Spec) -> Issuer:
    return RemoteIssuer(spec["port"], ttl=TTL, named=spec["named"])


@contextmanager
def bench_broker(port: int, *, named: bool, seed: int) -> Iterator[Broker]:
    """Tokens that their server ends by the lease's name, or only by themselves."""
    with ChaosProxy(HOST, port, rates=RATES, seed=seed, delay=DELAY) as proxy:
        spec = {"kind": "bench", "named": named, "audience": AUDIENCE, "scopes": [], "resource": ""}
        yield Broker(
            f"bench, {'named' if named else 'opaque'} tokens", {**spec, "port": proxy.port}, {**spec, "port": port},
            lambda: len(Client(port)("/state")["alive"]), proxy,
        )  # fmt: skip


# token exchange at oidc-provider -----------------------------------------------------------------------------------


def _exchange(spec: Spec) -> Issuer:
    issuer, base = spec["issuer"], spec["base"]
    metadata = ServerMetadata(
        issuer=issuer,
        token_endpoint=f"{base}{spec['token']}",
        revocation_endpoint=f"{base}{spec['revocation']}",
        jwks_uri=f"{base}{spec['jwks']}",
    )
    client = PrivateKeyJwt(CLIENT, SigningKey.from_pem_file(Path(spec["pem"])), issuer, kid=spec["kid"])
    server = AuthorizationServer(issuer, client, _http(), metadata=metadata)
    rules = TokenRules(max_lifetime=spec["lifetime"], targets={AUDIENCE: spec["target"]})
    return TokenExchange(server, SignedActor(client), rules)


@contextmanager
def exchange_broker(services: Services, form: str, *, seed: int) -> Iterator[Broker]:
    """Opaque tokens, which are revoked, or JWTs, which only expire."""
    found = services.authorization_server
    client, place = found.clients[CLIENT], urlsplit(found.issuer)
    sub = f"crash-{form}-{secrets.token_hex(4)}"
    with httpx.Client(base_url=found.issuer, trust_env=False) as http, ChaosProxy(
        str(place.hostname), int(place.port or 0), rates=RATES, seed=seed, delay=DELAY
    ) as proxy:  # fmt: skip
        document = http.get("/.well-known/oauth-authorization-server").json()
        asked = {"type": "id_token", "sub": sub, "client_id": CLIENT, "ttl": 900}
        token = http.post("/test/tokens", json=asked).json()["token"]
        paths = {name: urlsplit(document[name]).path for name in ("token_endpoint", "revocation_endpoint", "jwks_uri")}
        spec = {
            "kind": "exchange", "issuer": found.issuer, "lifetime": found.token_ttl,
            "token": paths["token_endpoint"], "revocation": paths["revocation_endpoint"], "jwks": paths["jwks_uri"],
            "pem": str(client.pem), "kid": client.kid, "sub": sub, "id_token": token,
            "target": f"https://api.test/{form}/crash", "audience": AUDIENCE, "scopes": [], "resource": "",
        }  # fmt: skip
        base = f"http://{HOST}:{proxy.port}"
        yield Broker(
            f"token exchange, {form} tokens", {**spec, "base": base}, {**spec, "base": found.issuer},
            lambda: int(http.get("/test/live", params={"sub": sub}).json()["count"]), proxy, share=2,
        )  # fmt: skip


# OpenBao -----------------------------------------------------------------------------------------------------------


class _Fixed:
    """A workload's token that was made before the run."""

    def __init__(self, token: str) -> None:
        self._token = Secret(token)

    async def token(self, audience: str, now: float) -> Secret:
        return self._token


def _openbao(spec: Spec) -> Issuer:
    login = JwtLogin(_Fixed(spec["jwt"]), bao_setup.AS_AUDIENCE, spec["role"], "ag-jwt")
    targets = [Database(spec["audience"], spec["role"])]
    return OpenBaoIssuer(_http(), spec["url"], login=login, targets=targets, ttl=TTL)


@contextmanager
def openbao_broker(services: Services, *, seed: int) -> Iterator[Broker]:
    """A token for the task, and under it a database role."""
    bao_setup.configure(services)
    place, unique = urlsplit(services.bao.url), f"crash-{secrets.token_hex(4)}"
    asked = {
        "type": "access_token", "sub": CLIENT, "client_id": CLIENT, "ttl": 900, "resource": bao_setup.AS_AUDIENCE,
    }  # fmt: skip
    jwt = httpx.post(
        f"{services.authorization_server.issuer}/test/tokens", json=asked, trust_env=False
    ).json()["token"]  # fmt: skip
    with bao_setup.Operator(services.bao) as operator, ChaosProxy(
        str(place.hostname), int(place.port or 0), rates=RATES, seed=seed, delay=DELAY
    ) as proxy:  # fmt: skip
        _prepare_vault(operator, services, unique)
        spec = {
            "kind": "openbao", "jwt": jwt, "role": unique, "audience": "postgresql://db.test/app", "scopes": [],
            "resource": "",
        }  # fmt: skip
        leases = f"sys/leases/lookup/database/creds/{unique}/"
        yield Broker(
            "OpenBao, token and database role", {**spec, "url": f"http://{HOST}:{proxy.port}"},
            {**spec, "url": services.bao.url}, lambda: operator.tokens(unique) + len(operator.listed(leases)), proxy,
            share=2,
        )  # fmt: skip


def _prepare_vault(operator: bao_setup.Operator, services: Services, name: str) -> None:
    """A policy, a login role and a database role of this run's own."""
    operator.write(f"sys/policies/acl/{name}", policy=bao_setup.POLICY.replace("ag-reader", name))
    operator.write(
        f"auth/ag-jwt/role/{name}", role_type="jwt", user_claim="sub", token_ttl=f"{TTL}s", token_max_ttl="1h",
        token_policies=[name], token_no_default_policy=True, token_type="service",
        bound_audiences=[bao_setup.AS_AUDIENCE], bound_subject=CLIENT,
    )  # fmt: skip
    postgres = services.postgres
    operator.write(
        f"database/config/{name}", plugin_name="postgresql-database-plugin", allowed_roles=[name],
        connection_url=f"postgresql://{{{{username}}}}:{{{{password}}}}@{postgres.host}:{postgres.port}/postgres?sslmode=disable",
        username=postgres.user, password=postgres.password,
    )  # fmt: skip
    operator.write(
        f"database/roles/{name}", db_name=name, default_ttl=f"{TTL}s", max_ttl=f"{TTL}s",
        creation_statements=bao_setup.CREATION, revocation_statements=bao_setup.REVOCATION,
    )  # fmt: skip


# PostgreSQL --------------------------------------------------------------------------------------------------------

TABLE_GRANTS: Final = {"table/invoices": {"public.invoices": {"db:read": ["SELECT"]}}}


def _postgres(spec: Spec) -> Issuer:
    return PostgresRoles(
        Secret(spec["dsn"]), audience=spec["audience"], grants=TABLE_GRANTS, ttl=TTL, owner=spec["owner"]
    )


@contextmanager
def postgres_broker(services: Services, *, seed: int) -> Iterator[Broker]:
    """A role for each lease, in a database of this run's own."""
    server, unique = services.postgres, f"crash{secrets.token_hex(4)}"
    password = secrets.token_hex(16)
    name = sql.Identifier(unique)
    with ExitStack() as stack:
        superuser = stack.enter_context(psycopg.connect(server.dsn, autocommit=True))
        superuser.execute(sql.SQL("CREATE DATABASE {}").format(name))
        superuser.execute(sql.SQL("CREATE ROLE {} LOGIN CREATEROLE PASSWORD {}").format(name, sql.Literal(password)))
        stack.callback(_drop_database, superuser, unique)
        with psycopg.connect(server.dsn, dbname=unique, autocommit=True) as inside:
            inside.execute("CREATE TABLE invoices (id int)")
            inside.execute(sql.SQL("GRANT SELECT ON invoices TO {} WITH GRANT OPTION").format(name))
            inside.execute(sql.SQL("GRANT CONNECT ON DATABASE {0} TO {0} WITH GRANT OPTION").format(name))
            inside.execute(sql.SQL("GRANT USAGE ON SCHEMA public TO {} WITH GRANT OPTION").format(name))
        proxy = stack.enter_context(ChaosProxy(server.host, server.port, rates=RATES, seed=seed, delay=DELAY))
        spec = {
            "kind": "postgres", "audience": f"postgresql://{server.host}:{server.port}/{unique}", "owner": unique,
            "scopes": ["db:read"], "resource": "table/invoices",
        }  # fmt: skip

        def alive() -> int:
            query = "SELECT count(*) FROM pg_roles WHERE rolname LIKE %s"
            return int(superuser.execute(query, (f"ag_{unique}_%",)).fetchall()[0][0])

        def dsn(port: int) -> str:
            return f"postgresql://{unique}:{password}@{server.host}:{port}/{unique}"

        yield Broker(
            "PostgreSQL roles",
            {**spec, "dsn": dsn(proxy.port)},
            {**spec, "dsn": dsn(server.port)},
            alive,
            proxy,
            share=2,
        )


def _drop_database(superuser: psycopg.Connection[Any], unique: str) -> None:
    superuser.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(unique)))
    superuser.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(unique)))
