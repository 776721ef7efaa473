"""Credentials of a real authorization server, from the first request to what the server says is alive afterwards."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import anyio
import pytest

from agentguard import CredentialUnavailable, Intent, User, current_credential, guarded
from agentguard._drive import drive
from agentguard._http import Http
from agentguard._jwks import Jwks
from agentguard.credentials.leases import Leases
from agentguard.credentials.ledger import MemoryLedger
from agentguard.credentials.oauth import (
    AuthorizationServer,
    ClientCredentials,
    IdJag,
    PrivateKeyJwt,
    ServerMetadata,
    SignedActor,
    TokenExchange,
    TokenRules,
)
from agentguard.identity.id_token import IdTokenVerifier
from agentguard.keys import SigningKey
from agentguard.model.credential import Issued
from agentguard.model.lease import Ending, Grant, LeaseKey, Placement, Secret, SubjectToken
from agentguard.model.principal import Agent, Chain, Proof, Subject
from agentguard.testing import fake_guard
from tests.credentials.oauth_server import header, payload, thumbprint
from tests.services import endpoints
from tests.services.chaos import ChaosProxy
from tests.services.endpoints import Services
from tests.services.raw_client import ID_TOKEN, JWT_RESOURCE, OPAQUE_RESOURCE, RawClient

# The subject is this test's own, so that other users of the servers do not change its counts.
USER = f"oauth-{time.time_ns():x}"
DETAIL = {
    "type": "agentguard_tool_call",
    "actions": ["pay"],
    "locations": [OPAQUE_RESOURCE],
    "arguments": {"amount": "1"},
}


class Client:
    """`support-bot` at one of the servers, by our own code."""

    def __init__(self, at: endpoints.AuthorizationServer, http: Http) -> None:
        registered = at.clients["support-bot"]
        key = SigningKey.from_pem_file(registered.pem)
        self.proof = PrivateKeyJwt(registered.client_id, key, at.issuer, kid=registered.kid)
        self.server = AuthorizationServer(at.issuer, self.proof, http)
        self.raw = RawClient(at)

    def exchange(self, **rules: Any) -> TokenExchange:
        return TokenExchange(self.server, SignedActor(self.proof), TokenRules(**rules))

    def subject_token(self, kind: str = "access_token", **body: Any) -> SubjectToken:
        minted = self.raw.minted(**{"type": kind, "sub": USER, "scope": "pay:write pay:read", **body})
        return SubjectToken(Secret(minted), ID_TOKEN.replace("id_token", kind))

    def alive(self) -> int:
        return int(self.raw.get(f"/test/live?sub={USER}")["count"])


@pytest.fixture
def http() -> Iterator[Http]:
    http = Http()
    yield http
    http.close()


@pytest.fixture
def client(services: Services, http: Http) -> Iterator[Client]:
    one = Client(services.authorization_server, http)
    with one.raw:
        yield one


@pytest.fixture
def nonce_client(services: Services, http: Http) -> Iterator[Client]:
    one = Client(services.authorization_server_nonce, http)
    with one.raw:
        yield one


def grant(token: SubjectToken | None, audience: str, *agents: str, **fields: Any) -> Grant:
    subject = fields.pop("subject", Subject(USER, proof=Proof.VERIFIED))
    chain = Chain(subject, tuple(Agent(name) for name in agents or ("support-bot",)))
    key = LeaseKey("", subject.sub, "t", chain.names(), "pay", audience, fields.pop("scopes", ("pay:write",)), "")
    return Grant(
        key=key, chain=chain, task="t", intent_s256="s", deadline=time.time() + 60, subject_token=token, **fields
    )


def issued_by(issuer: Any, asked: Grant) -> Issued:
    now = time.time()
    issued: Issued = drive(issuer.issue(asked, issuer.prepare(asked, now), now))
    return issued


@pytest.mark.parametrize("kind", ["access_token", "id_token"])
def test_one_exchange_carries_the_whole_chain_in_a_token_of_the_server(client: Client, kind: str) -> None:
    asked = grant(client.subject_token(kind), JWT_RESOURCE, "support-bot", "researcher")

    issued = issued_by(client.exchange(), asked)

    claims = client.raw.claims(issued.secret.reveal(), JWT_RESOURCE)
    assert {"sub": "agent:researcher", "act": {"sub": "agent:support-bot"}} == claims["act"]
    assert (USER, "pay:write", issued.lease.jti) == (claims["sub"], claims["scope"], claims["jti"])
    assert claims["exp"] == issued.lease.expires_at


def test_an_opaque_token_is_introspected_and_revoked(client: Client) -> None:
    issuer = client.exchange(introspect=True)
    issued = issued_by(issuer, grant(client.subject_token(), OPAQUE_RESOURCE, "a", "b"))
    assert client.raw.introspect(issued.secret.reveal())["active"] is True

    assert Ending.REVOKED is drive(issuer.revoke(issued.lease, issued.handle))

    assert {"status": 200, "active": False} == client.raw.introspect(issued.secret.reveal())
    assert Ending.REVOKED is drive(issuer.revoke(issued.lease, issued.handle))


def test_a_jwt_cannot_be_revoked_and_is_never_called_revoked(client: Client) -> None:
    issuer = client.exchange()
    issued = issued_by(issuer, grant(client.subject_token(), JWT_RESOURCE))

    assert Ending.EXPIRES is drive(issuer.revoke(issued.lease, issued.handle))


@pytest.mark.parametrize("audience", [JWT_RESOURCE, OPAQUE_RESOURCE])
def test_details_come_back_as_they_were_asked_for(client: Client, audience: str) -> None:
    issued = issued_by(
        client.exchange(introspect=True), grant(client.subject_token(), audience, authorization_details=(DETAIL,))
    )

    token = issued.secret.reveal()
    said = client.raw.claims(token) if audience == JWT_RESOURCE else client.raw.introspect(token)
    assert [DETAIL] == said["authorization_details"]


def test_details_that_the_server_does_not_know_are_refused(client: Client) -> None:
    unknown = ({**DETAIL, "steps": [{"id": "pay"}]},)

    with pytest.raises(CredentialUnavailable, match="invalid_authorization_details"):
        issued_by(client.exchange(), grant(client.subject_token(), JWT_RESOURCE, authorization_details=unknown))


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"scopes": ("pay:write", "admin:all")}, "invalid_scope"),
        ({"audience": "https://other.test"}, "invalid_target"),
        ({"token": SubjectToken(Secret("no-token-at-all"), ID_TOKEN)}, "invalid_request"),
    ],
)
def test_a_refusal_is_told_by_its_code(client: Client, fields: Mapping[str, Any], error: str) -> None:
    given = {"token": client.subject_token(), "audience": JWT_RESOURCE, **fields}

    with pytest.raises(CredentialUnavailable, match=error):
        issued_by(client.exchange(), grant(given.pop("token"), given.pop("audience"), **given))


def test_a_server_that_grants_all_where_no_scope_is_asked_for_is_refused_and_the_token_revoked(client: Client) -> None:
    before = client.alive()

    with pytest.raises(CredentialUnavailable, match="broader"):
        issued_by(client.exchange(), grant(client.subject_token(), OPAQUE_RESOURCE, scopes=()))

    assert before == client.alive()


@pytest.mark.parametrize("audience", [JWT_RESOURCE, OPAQUE_RESOURCE])
def test_an_agent_on_its_own_account_gets_a_token_of_the_client(client: Client, audience: str) -> None:
    itself = Subject("support-bot", proof=Proof.ITSELF)
    issuer = ClientCredentials(client.server, TokenRules(introspect=True))

    issued = issued_by(issuer, grant(None, audience, subject=itself))

    ending = drive(issuer.revoke(issued.lease, issued.handle))
    assert (Ending.EXPIRES if audience == JWT_RESOURCE else Ending.REVOKED) is ending


@pytest.mark.parametrize("audience", [JWT_RESOURCE, OPAQUE_RESOURCE])
def test_a_bound_token_of_a_server_that_demands_nonces(nonce_client: Client, audience: str) -> None:
    issuer = nonce_client.exchange(dpop=True, introspect=True)
    asked = grant(nonce_client.subject_token(), audience)

    issued, second = issued_by(issuer, asked), issued_by(issuer, asked)

    token = issued.secret.reveal()
    said = nonce_client.raw.claims(token) if audience == JWT_RESOURCE else nonce_client.raw.introspect(token)
    assert issued.prover is not None
    jwk = header(issued.prover.proof("GET", audience, token))["jwk"]
    assert Placement.DPOP is issued.lease.placement is second.lease.placement
    assert said["cnf"]["jkt"] == thumbprint(jwk)
    for one in (issued, second):
        drive(issuer.revoke(one.lease, one.handle))


@pytest.mark.parametrize("dpop", [False, True])
@pytest.mark.parametrize("audience", [JWT_RESOURCE, OPAQUE_RESOURCE])
def test_id_jag_in_two_legs_between_two_servers(
    client: Client, nonce_client: Client, audience: str, dpop: bool
) -> None:
    rules = TokenRules(dpop=dpop, introspect=True)
    issuer = IdJag(client.server, nonce_client.server, SignedActor(client.proof), rules)

    issued = issued_by(issuer, grant(client.subject_token("id_token"), audience, "support-bot", "researcher"))

    token = issued.secret.reveal()
    said = nonce_client.raw.claims(token) if audience == JWT_RESOURCE else nonce_client.raw.introspect(token)
    assert {"sub": "agent:researcher", "act": {"sub": "agent:support-bot"}} == said["act"]
    assert (USER, nonce_client.raw.issuer) == (said["sub"], issued.lease.issuer)
    ending = drive(issuer.revoke(issued.lease, issued.handle))
    assert (Ending.EXPIRES if audience == JWT_RESOURCE else Ending.REVOKED) is ending


def test_explicit_endpoints_do_as_well(client: Client, http: Http) -> None:
    at = client.server.issuer
    fixed = ServerMetadata(issuer=at, token_endpoint=f"{at}/token", revocation_endpoint=f"{at}/token/revocation")
    issuer = TokenExchange(AuthorizationServer(at, client.proof, http, metadata=fixed), SignedActor(client.proof))

    issued = issued_by(issuer, grant(client.subject_token(), OPAQUE_RESOURCE))

    assert Ending.REVOKED is drive(issuer.revoke(issued.lease, issued.handle))


def test_a_server_that_is_busy_for_a_moment_is_asked_again(client: Client) -> None:
    token = client.subject_token()
    client.raw.fault(path="/token", status=503, headers={"retry-after": "0"}, times=2)
    issuer = client.exchange()

    issued = issued_by(issuer, grant(token, OPAQUE_RESOURCE))

    assert Ending.REVOKED is drive(issuer.revoke(issued.lease, issued.handle))


@pytest.mark.anyio
async def test_hundred_calls_at_once_share_one_exchange_and_leave_nothing(client: Client) -> None:
    leases = Leases(client.exchange(), MemoryLedger(), lambda event, fields: None, time.time)
    leases.open_task("t")
    asked, before, uses = grant(client.subject_token(), OPAQUE_RESOURCE), client.alive(), list[Any]()

    async def ask() -> None:
        uses.append(await leases.obtain(asked))

    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            for _ in range(100):
                group.start_soon(ask)
    assert (before + 1, 1) == (client.alive(), len({use.credential.lease.id for use in uses}))
    assert 1 == await leases.end_task("t")
    assert (before, 0) == (client.alive(), await leases.outstanding())


@guarded("pay", effect="write", audience=OPAQUE_RESOURCE, scopes=["pay:write"])
def pay(amount: str) -> str:
    """Pay, as a tool that shows which credential it was given."""
    return current_credential().lease.id


def test_a_guarded_call_for_a_verified_user_ends_with_nothing_alive_at_the_server(client: Client, http: Http) -> None:
    issuer = client.server.issuer
    users = IdTokenVerifier(Jwks(http, f"{issuer}/jwks"), issuer, "support-bot")
    id_token, before = client.subject_token("id_token").secret.reveal(), client.alive()
    intent = Intent.from_yaml(
        "{version: 1, intent: pay, purpose: Pay, steps: [{tool: pay, args: {amount: {eq: '1'}}}]}"
    )

    with fake_guard(issuer=client.exchange(introspect=True), users=users) as guard:
        with guard.task("support-bot", on_behalf_of=User.verified(id_token), intent=intent):
            assert pay("1")
            assert before + 1 == client.alive()
        assert before == client.alive()


def test_the_users_own_token_goes_nowhere_but_to_the_server(client: Client) -> None:
    token = client.subject_token()
    issued = issued_by(client.exchange(), grant(token, JWT_RESOURCE))

    assert token.secret.reveal() not in repr(issued) + issued.secret.reveal()
    assert "act" not in payload(token.secret.reveal())


def test_the_example_of_the_page_prints_what_the_page_says(services: Services) -> None:
    page = (endpoints.ROOT / "docs" / "credentials" / "oauth.md").read_text()
    code, said = (
        re.findall(rf"^```{language}\n(.*?)^```", page, flags=re.M | re.S)[0] for language in ("python", "text")
    )

    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=endpoints.ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert said == done.stdout, done.stderr


def test_after_lost_answers_the_ledger_watches_until_every_unknown_token_has_ended(client: Client, http: Http) -> None:
    at, token = client.server.issuer, client.subject_token()
    host, port = at.removeprefix("http://").split(":")
    events: Counter[str] = Counter()
    with ChaosProxy(host, int(port), rates={"drop_reply": 0.4, "reset": 0.2}, seed=7) as proxy:
        near = f"http://{proxy.host}:{proxy.port}"
        places = ServerMetadata(issuer=at, token_endpoint=f"{near}/token", revocation_endpoint=f"{at}/token/revocation")
        rules = TokenRules(max_lifetime=60)
        server = AuthorizationServer(at, client.proof, http, metadata=places)
        issuer, before = TokenExchange(server, SignedActor(client.proof), rules), client.alive()
        ledger = MemoryLedger()
        leases = Leases(issuer, ledger, lambda event, fields: events.update([str(event)]), time.time)
        leases.open_task("t")
        for _ in range(25):
            with suppress(CredentialUnavailable):
                drive(leases.release(drive(leases.obtain(grant(token, OPAQUE_RESOURCE, single_use=True)))))
        drive(leases.end_task("t"))

    unknown = client.raw.get(f"/test/live?sub={USER}")["tokens"]
    watched = drive(ledger.outstanding(time.time()))
    assert proxy.counts["drop_reply"] > 0
    assert len(unknown) > before
    assert events["credential.revoked"] > 0 < events["credential.expires"]
    assert max(token["exp"] for token in unknown) <= max(lease.expires_by for lease in watched)
