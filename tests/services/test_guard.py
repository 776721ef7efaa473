"""One `agentguard.yaml` with every kind of broker: what real servers hold while a task runs, and after it ended."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

import agentguard
from agentguard import Denied, Guard, GuardAuth, Intent, User, any_, current_credential, guarded, step
from tests.services import bao_setup
from tests.services.endpoints import Services

pytestmark = pytest.mark.services
OPAQUE = "https://api.test/opaque/payments"
LEGACY = "https://legacy.test"
DATABASE = "postgresql://127.0.0.1:1/direct"  # replaced by the fixture


class Estate:
    """A guard on real servers, and what the servers say is alive."""

    def __init__(self, services: Services, folder: Path) -> None:
        self.services, self.folder = services, folder
        self.client = services.authorization_server.clients["support-bot"]
        self.http = httpx.Client(base_url=services.authorization_server.issuer, trust_env=False)
        self.owner, self.sub = "g" + secrets.token_hex(4), "alice-" + secrets.token_hex(4)

    def write(self) -> Path:
        services, postgres = self.services, self.services.postgres
        for name, text in (
            ("pseudonym", secrets.token_hex(32)),
            ("ledger", secrets.token_hex(32)),
            ("dsn", postgres.dsn),
        ):
            (self.folder / name).write_text(text)
            (self.folder / name).chmod(0o600)
        os.chmod(self.folder, 0o700)
        file = self.folder / "agentguard.yaml"
        file.write_text(f"""\
version: 1
environment: test
agents:
  support-bot:
    owners: {{business: ann@bank.test}}
    purpose: refunds
    identity: {services.workload_api.spiffe_id}
identity: {{spiffe: {{socket: "{services.workload_api.socket}", timeout: 5s}}}}
users:
  issuer: {services.authorization_server.issuer}
  audience: support-bot
  jwks: {services.authorization_server.issuer}/jwks
tokens:
  exchange:
    issuer: {services.authorization_server.issuer}
    client_id: support-bot
    kid: {self.client.kid}
    key: {self.client.pem}
    audiences: ["https://api.test"]
  openbao:
    address: {services.bao.url}
    login: {{mount: spiffe, role: support, audience: "{bao_setup.AUDIENCE}"}}
    ttl: 60s
    databases: {{"{self.vault_database}": {{role: ag-reader, scopes: ["db:read"]}}}}
    secrets: {{"{LEGACY}": {{path: legacy/api, field: key, header: X-Api-Key}}}}
  postgres:
    dsn: {{file: dsn}}
    owner: {self.owner}
    audience: {self.direct_database}
    grants: {{table/invoices: {{public.ag_invoices: {{"db:read": [SELECT]}}}}}}
audit: {{dir: audit, pseudonym_key: {{file: pseudonym}}}}
state: {{sqlite: state.db, key: {{file: ledger}}}}
""")
        return file

    @property
    def vault_database(self) -> str:
        postgres = self.services.postgres
        return f"postgresql://{postgres.host}:{postgres.port}/{postgres.database}"

    @property
    def direct_database(self) -> str:
        postgres = self.services.postgres
        return f"postgresql://localhost:{postgres.port}/{postgres.database}"

    def id_token(self) -> str:
        said = {"type": "id_token", "client_id": "support-bot", "sub": self.sub, "scope": "refunds:write"}
        return str(self.http.post("/test/tokens", json=said).raise_for_status().json()["token"])

    def live(self) -> list[dict[str, Any]]:
        return list(self.http.get("/test/live", params={"sub": self.sub}).raise_for_status().json()["tokens"])

    def roles(self) -> set[str]:
        with psycopg.connect(self.services.postgres.dsn) as admin:
            found = admin.execute(
                "SELECT rolname FROM pg_roles WHERE rolname LIKE %s OR rolname LIKE %s", (f"ag_{self.owner}%", "v-%")
            )
            return {name for (name,) in found}


@pytest.fixture
def estate(services: Services, tmp_path: Path) -> Iterator[Estate]:
    bao_setup.configure(services)
    made = Estate(services, tmp_path)
    with made.http:
        yield made


SEEN: dict[str, Any] = {}


@guarded("refund", audience=OPAQUE, scopes=["refunds:write"], record=["account"])
def refund(account: str) -> str:
    lease = current_credential().lease
    SEEN["refund"] = lease
    return "refunded"


@guarded("legacy", effect="read", audience=LEGACY)
def legacy() -> str:
    def answer(request: httpx.Request) -> httpx.Response:
        SEEN["key"] = {name.decode(): value.decode() for name, value in request.headers.raw}.get("X-Api-Key")
        return httpx.Response(200, text="ok")

    with httpx.Client(auth=GuardAuth(), transport=httpx.MockTransport(answer), trust_env=False) as http:
        return http.get(LEGACY).text


def invoices(credential: Any) -> int:
    audience = credential.audience.removeprefix("postgresql://")
    with psycopg.connect(f"postgresql://{credential.username}:{credential.password}@{audience}") as session:
        row = session.execute("SELECT count(*) FROM ag_invoices").fetchone()
        assert row is not None
        return int(row[0])


def tools(estate: Estate) -> tuple[Any, Any]:
    @guarded("vault.count", effect="read", audience=estate.vault_database, scopes=["db:read"])
    def from_vault() -> int:
        return invoices(current_credential())

    @guarded(
        "direct.count", effect="read", audience=estate.direct_database, scopes=["db:read"], resource="table/invoices"
    )
    def direct() -> int:
        return invoices(current_credential())

    return from_vault, direct


INTENT = Intent("Refund ticket 4711", step("refund", account="acme"), reads=["legacy", "vault.count", "direct.count"])


def run(guard: Guard, estate: Estate, before: set[str]) -> None:
    from_vault, direct = tools(estate)
    with guard.task("support-bot", on_behalf_of=User.verified(estate.id_token()), intent=INTENT) as task:
        assert task.chain.actor.identity == estate.services.workload_api.spiffe_id
        assert refund("acme") == "refunded"
        assert legacy() == "ok"
        assert from_vault() > 0
        assert direct() == from_vault()
        with pytest.raises(Denied):
            refund("evil")
        (token,) = estate.live()
        assert (token["act"], token["aud"]) == ({"sub": "agent:support-bot"}, OPAQUE)
        assert len(estate.roles() - before) == 2
        assert guard.outstanding() == 5


def test_one_task_uses_every_broker_and_leaves_nothing(estate: Estate) -> None:
    before = estate.roles()
    with agentguard.load(estate.write()) as guard:
        run(guard, estate, before)
        assert estate.live() == []
        assert estate.roles() <= before
        # What is left is the static secret, which nobody revokes: it is not called revoked.
        assert guard.outstanding() == 1
    assert SEEN["key"] == bao_setup.SECRET
    log = "".join(file.read_text() for file in (estate.folder / "audit").iterdir() if file.suffix == ".jsonl")
    assert bao_setup.SECRET not in log
    assert '"type":"static"' in log
    assert log.count('"event":"credential.issued"') == 5


def test_one_task_does_so_under_an_event_loop_too(estate: Estate) -> None:
    import asyncio

    async def work() -> None:
        async with agentguard.load(estate.write()) as guard:
            user = User.verified(estate.id_token())
            async with guard.task("support-bot", on_behalf_of=user, intent=Intent("x", step("arefund", account=any_))):
                assert await arefund("acme") == "refunded"
                assert len(estate.live()) == 1
            assert estate.live() == []

    @guarded("arefund", audience=OPAQUE, scopes=["refunds:write"])
    async def arefund(account: str) -> str:
        assert current_credential().token
        return "refunded"

    asyncio.run(work())
