"""The resource server side against tokens of a real authorization server: bound ones, opaque ones, and their end."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import anyio
import pytest

from agentguard._drive import drive
from agentguard._http import Http
from agentguard._jwks import Jwks
from agentguard.keys import KeySet
from agentguard.model.credential import Issued
from agentguard.resource_server import (
    ClientSecret,
    DpopProofs,
    InsufficientScope,
    IntrospectionVerifier,
    RequestRejected,
    RequestVerifier,
    ServerNonces,
    TokenRejected,
    TokenVerifier,
    VerificationUnavailable,
    check_call,
)
from tests.services import endpoints
from tests.services.endpoints import Services
from tests.services.raw_client import JWT_RESOURCE, OPAQUE_RESOURCE
from tests.services.test_oauth import Client, grant, issued_by

BOUNDS = {"account": {"eq": "acme"}, "amount": {"max": "50"}}
DETAIL = {
    "type": "agentguard_tool_call",
    "actions": ["refund.create"],
    "locations": [OPAQUE_RESOURCE],
    "identifier": "account/acme",
    "steps": [{"step": "refund", "args": BOUNDS}],
}


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


def opaque(at: endpoints.AuthorizationServer, http: Http, **options: Any) -> IntrospectionVerifier:
    rs = ClientSecret(at.resource_server.client_id, at.resource_server.client_secret)
    return IntrospectionVerifier(http, at.issuer, OPAQUE_RESOURCE, rs, **options)


def signed(at: endpoints.AuthorizationServer, http: Http) -> TokenVerifier:
    keys: KeySet = drive(Jwks(http, f"{at.issuer}/jwks").keys())
    return TokenVerifier(keys, at.issuer, JWT_RESOURCE)


def send(api: RequestVerifier, issued: Issued, *, scheme: str = "DPoP", nonce: str = "", proof: str = "") -> Any:
    token = issued.secret.reveal()
    assert issued.prover is not None
    proof = proof or issued.prover.proof("POST", "https://api.test/jwt/payments", token, nonce)
    try:
        headers = {"Authorization": f"{scheme} {token}", "DPoP": proof}
        return api.verify_request("POST", "/jwt/payments?page=1", headers)
    except RequestRejected as rejected:
        return rejected


def bound(client: Client, audience: str) -> Issued:
    return issued_by(client.exchange(dpop=True, introspect=True), grant(client.subject_token(), audience))


@pytest.mark.parametrize("audience", [JWT_RESOURCE, OPAQUE_RESOURCE])
def test_a_bound_token_of_the_server_serves_with_its_proof_and_only_so(
    client: Client, services: Services, http: Http, audience: str
) -> None:
    at = services.authorization_server
    tokens = opaque(at, http) if audience == OPAQUE_RESOURCE else signed(at, http)
    api = RequestVerifier(tokens, dpop=DpopProofs(nonces=ServerNonces()))
    issued, other = bound(client, audience), bound(client, audience)
    assert issued.prover is not None
    assert other.prover is not None

    first = send(api, issued)
    assert (first.error, first.status) == ("use_dpop_nonce", 401)
    nonce = dict(first.headers)["DPoP-Nonce"]
    once = issued.prover.proof("POST", "https://api.test/jwt/payments", issued.secret.reveal(), nonce)
    passed = send(api, issued, proof=once)
    assert passed.token.actor == "agent:support-bot"
    assert "used before" in send(api, issued, proof=once).why
    assert send(api, issued, scheme="Bearer").error == "invalid_token"
    theirs = other.prover.proof("POST", "https://api.test/jwt/payments", issued.secret.reveal(), nonce)
    assert "not bound" in send(api, issued, proof=theirs).why


def test_an_opaque_token_is_good_until_it_is_revoked(client: Client, services: Services, http: Http) -> None:
    issuer = client.exchange(introspect=True)
    issued = issued_by(issuer, grant(client.subject_token(), OPAQUE_RESOURCE, "support-bot", "researcher"))
    verifier = opaque(services.authorization_server, http)

    found = verifier.verify(issued.secret.reveal())
    assert (*found.chain[1:], *found.scopes) == ("agent:support-bot", "agent:researcher", "pay:write")
    drive(issuer.revoke(issued.lease, issued.handle))
    with pytest.raises(TokenRejected, match="not active"):
        verifier.verify(issued.secret.reveal())


def test_what_a_token_is_not_for_is_refused(client: Client, services: Services, http: Http) -> None:
    at = services.authorization_server
    rs = ClientSecret(at.resource_server.client_id, at.resource_server.client_secret)
    issued = issued_by(client.exchange(introspect=True), grant(client.subject_token(), OPAQUE_RESOURCE))
    elsewhere = IntrospectionVerifier(http, at.issuer, "https://api.test/opaque/other", rs)

    with pytest.raises(TokenRejected, match="another audience"):
        elsewhere.verify(issued.secret.reveal())
    with pytest.raises(TokenRejected, match="not active"):
        opaque(at, http).verify("no-token-at-all")
    with pytest.raises(VerificationUnavailable):
        IntrospectionVerifier(http, at.issuer, OPAQUE_RESOURCE, ClientSecret("rs", "wrong")).verify("x")


def test_a_server_that_fails_is_told_from_a_token_that_is_bad(client: Client, services: Services, http: Http) -> None:
    issued = issued_by(client.exchange(introspect=True), grant(client.subject_token(), OPAQUE_RESOURCE))
    quick = Http(attempts=1)
    verifier = opaque(services.authorization_server, quick)
    client.raw.fault(path="/token/introspection", status=503, times=1)

    with pytest.raises(VerificationUnavailable):
        verifier.verify(issued.secret.reveal())
    assert verifier.verify(issued.secret.reveal()).subject
    quick.close()


def test_details_of_the_server_are_held_against_the_request(client: Client, services: Services, http: Http) -> None:
    asked = grant(client.subject_token(), OPAQUE_RESOURCE, authorization_details=(DETAIL,))
    issued = issued_by(client.exchange(introspect=True), asked)

    held = opaque(services.authorization_server, http, require_details=True).verify(issued.secret.reveal())

    check_call(held, "refund.create", "account/acme", {"account": "acme", "amount": 50})
    for arguments in ({"account": "acme", "amount": 51}, {"account": "evil", "amount": 1}):
        with pytest.raises(InsufficientScope):
            check_call(held, "refund.create", "account/acme", arguments)


@pytest.mark.anyio
async def test_fifty_requests_at_once_in_an_event_loop_are_one_question(client: Client, services: Services) -> None:
    issued = issued_by(client.exchange(introspect=True), grant(client.subject_token(), OPAQUE_RESOURCE))
    http, found = Http(), list[str]()
    verifier = opaque(services.authorization_server, http, cache_seconds=10)

    async def ask() -> None:
        found.append((await verifier.verified(issued.secret.reveal())).subject)

    began = time.perf_counter()
    async with anyio.create_task_group() as group:
        for _ in range(50):
            group.start_soon(ask)
    await http.aclose()
    assert len(found) == 50
    assert time.perf_counter() - began < 5
