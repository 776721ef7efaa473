"""The authorization server keeps to the standards that our own clients are tested against."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from tests.services.endpoints import Services
from tests.services.raw_client import (
    ID_JAG,
    ID_TOKEN,
    JWT,
    JWT_BEARER,
    JWT_RESOURCE,
    OPAQUE_RESOURCE,
    RawClient,
    dpop_proof,
    thumbprint,
)

DETAIL = {
    "type": "agentguard_tool_call",
    "actions": ["refund.create"],
    "locations": [JWT_RESOURCE],
    "arguments": {"a": 1},
}


@pytest.fixture
def client(services: Services) -> Iterator[RawClient]:
    with RawClient(services.authorization_server) as client:
        yield client


@pytest.fixture
def other(services: Services) -> Iterator[RawClient]:
    """The same client at the other server, which wants nonces in DPoP proofs."""
    with RawClient(services.authorization_server_nonce) as client:
        yield client


def test_both_metadata_documents_name_the_issuer(client: RawClient):
    documents = [client.get(f"/.well-known/{name}") for name in ("oauth-authorization-server", "openid-configuration")]

    assert [client.issuer, client.issuer] == [document["issuer"] for document in documents]
    assert f"{client.issuer}/token" == documents[0]["token_endpoint"]
    assert f"{client.issuer}/token/revocation" == documents[0]["revocation_endpoint"]


def test_a_client_gets_a_token_of_its_own(client: RawClient):
    answer = client.token("client_credentials", resource=JWT_RESOURCE, scope="pay:write admin:all").json()

    claims = client.claims(answer["access_token"], JWT_RESOURCE)
    assert ("support-bot", "support-bot") == (claims["sub"], claims["client_id"])
    assert ("pay:write", "pay:write") == (answer["scope"], claims["scope"])
    assert answer["expires_in"] <= client.server.token_ttl


@pytest.mark.parametrize("audience", ["{issuer}/token", ["{issuer}", "https://other.test"], "https://other.test"])
def test_a_client_assertion_for_anything_but_the_issuer_alone_is_refused(client: RawClient, audience: str | list[str]):
    texts = [text.format(issuer=client.issuer) for text in ([audience] if isinstance(audience, str) else audience)]

    answer = client.token("client_credentials", resource=JWT_RESOURCE, aud=texts if len(texts) > 1 else texts[0])

    assert (401, "invalid_client") == (answer.status_code, answer.json()["error"])


def test_an_exchange_by_a_signed_actor_nests_it_above_its_earlier_actors_and_the_subject_s(client: RawClient):
    subject = client.minted(scope="pay:write pay:read", tenant="bank", act={"sub": "agent:front"})
    actor = client.actor("agent:researcher", act={"sub": "agent:support-bot"})

    answer = client.exchange(subject, scope="pay:read", **actor).json()

    claims = client.claims(answer["access_token"], JWT_RESOURCE)
    assert {"sub": "agent:researcher", "act": {"sub": "agent:support-bot", "act": {"sub": "agent:front"}}} == claims[
        "act"
    ]
    assert ("alice", "bank", "pay:read") == (claims["sub"], claims["tenant"], claims["scope"])
    assert ("Bearer", f"{ID_TOKEN.removesuffix('id_token')}access_token") == (
        answer["token_type"],
        answer["issued_token_type"],
    )


def test_an_exchange_by_an_actor_s_access_token_names_that_client(services: Services, client: RawClient):
    with RawClient(services.authorization_server, "reporting") as reporting:
        actor = reporting.token("client_credentials", resource=JWT_RESOURCE).json()["access_token"]

    answer = client.exchange(
        client.minted(), actor_token=actor, actor_token_type=ID_JAG.removesuffix("id-jag") + "access_token"
    ).json()

    assert {"sub": "reporting"} == client.claims(answer["access_token"])["act"]


def test_a_token_of_a_second_exchange_carries_the_whole_chain(client: RawClient):
    first = client.exchange(client.minted(scope="pay:read"), **client.actor("agent:a")).json()["access_token"]

    second = client.exchange(first, JWT, **client.actor("agent:b")).json()["access_token"]

    assert {"sub": "agent:b", "act": {"sub": "agent:a"}} == client.claims(second)["act"]


def test_an_exchange_never_widens_the_scope(client: RawClient):
    answer = client.exchange(client.minted(scope="pay:read"), scope="pay:read pay:write")

    assert (400, "invalid_scope") == (answer.status_code, answer.json()["error"])


def test_an_exchanged_token_ends_no_later_than_its_subject_token(client: RawClient):
    answer = client.exchange(client.minted(ttl=5)).json()

    assert 0 < answer["expires_in"] <= 5


@pytest.mark.parametrize(
    "form",
    [
        {"resource": [JWT_RESOURCE, OPAQUE_RESOURCE]},
        {"resource": JWT_RESOURCE, "audience": JWT_RESOURCE},
        {"resource": "https://elsewhere.test/"},
        {"audience": "not an address"},
    ],
)
def test_an_exchange_has_exactly_one_known_target(client: RawClient, form: dict[str, Any]):
    answer = client.exchange(client.minted(), **form)

    assert (400, "invalid_target") == (answer.status_code, answer.json()["error"])


def test_may_act_names_the_only_actor(client: RawClient):
    subject = client.minted(may_act={"sub": "agent:a"})

    allowed = client.exchange(subject, **client.actor("agent:a"))
    refused = client.exchange(subject, **client.actor("agent:b"))

    assert (200, 400) == (allowed.status_code, refused.status_code)
    assert "invalid_request" == refused.json()["error"]


@pytest.mark.parametrize("claims", [{"iss": "reporting"}, {"aud": "https://other.test"}, {"exp": 1}, {"jti": None}])
def test_an_actor_statement_that_is_not_the_client_s_own_for_this_server_is_refused(
    client: RawClient, claims: dict[str, object]
):
    answer = client.exchange(client.minted(), **client.actor("agent:a", **claims))

    assert (400, "invalid_request") == (answer.status_code, answer.json()["error"])


def test_an_actor_statement_serves_once(client: RawClient):
    actor = client.actor("agent:a")
    client.exchange(client.minted(), **actor).raise_for_status()

    assert 400 == client.exchange(client.minted(), **actor).status_code


def test_a_subject_token_of_another_server_is_refused(client: RawClient, other: RawClient):
    answer = client.exchange(other.minted())

    assert (400, "invalid_request") == (answer.status_code, answer.json()["error"])


def test_details_come_back_in_the_response_and_in_the_token(client: RawClient):
    answer = client.exchange(client.minted(), authorization_details=[DETAIL]).json()

    assert [DETAIL] == answer["authorization_details"]
    assert [DETAIL] == client.claims(answer["access_token"])["authorization_details"]


@pytest.mark.parametrize(
    "change", [{"surprise": 1}, {"actions": [1]}, {"actions": "all"}, {"identifier": 7}, {"type": "x"}]
)
def test_a_detail_with_an_unknown_member_or_type_is_refused(client: RawClient, change: dict[str, object]):
    answer = client.exchange(client.minted(), authorization_details=[{**DETAIL, **change}])

    assert (400, "invalid_authorization_details") == (answer.status_code, answer.json()["error"])


def test_details_only_narrow_and_stay_where_none_are_asked(client: RawClient):
    first = client.exchange(client.minted(), authorization_details=[DETAIL]).json()["access_token"]

    wider = client.exchange(first, authorization_details=[{**DETAIL, "actions": ["refund.create", "pay"]}])
    silent = client.exchange(first).json()

    assert "invalid_authorization_details" == wider.json()["error"]
    assert [DETAIL] == silent["authorization_details"]


def test_an_id_token_is_exchanged_by_its_own_client_only(services: Services, client: RawClient):
    token = client.minted(type="id_token", scope="pay:read")

    with RawClient(services.authorization_server, "reporting") as reporting:
        assert 400 == reporting.exchange(token, ID_TOKEN).status_code
    assert "alice" == client.claims(client.exchange(token, ID_TOKEN).json()["access_token"])["sub"]


def test_id_jag_takes_two_legs_over_two_servers(client: RawClient, other: RawClient):
    user = client.minted(type="id_token", scope="pay:read pay:write")
    first = client.exchange(
        user, ID_TOKEN, requested_token_type=ID_JAG, audience=other.issuer, resource=JWT_RESOURCE, scope="pay:read",
        **client.actor("agent:support-bot"),
    ).json()  # fmt: skip

    second = other.token(JWT_BEARER, assertion=first["access_token"]).json()

    assert ("N_A", ID_JAG) == (first["token_type"], first["issued_token_type"])
    claims = other.claims(second["access_token"], JWT_RESOURCE)
    assert ("alice", {"sub": "agent:support-bot"}, "pay:read") == (claims["sub"], claims["act"], claims["scope"])


def test_an_id_jag_serves_once_and_only_its_client_and_its_audience(
    services: Services, client: RawClient, other: RawClient
):
    def assertion() -> str:
        user = client.minted(type="id_token")
        form = {"requested_token_type": ID_JAG, "audience": other.issuer, "resource": JWT_RESOURCE}
        return str(client.exchange(user, ID_TOKEN, **form).json()["access_token"])

    used = assertion()
    other.token(JWT_BEARER, assertion=used).raise_for_status()
    with RawClient(services.authorization_server_nonce, "reporting") as reporting:
        foreign = reporting.token(JWT_BEARER, assertion=assertion())

    refused = [other.token(JWT_BEARER, assertion=used), client.token(JWT_BEARER, assertion=assertion()), foreign]
    assert ["invalid_grant"] * 3 == [answer.json()["error"] for answer in refused]


def test_no_server_makes_an_id_jag_for_itself(client: RawClient):
    user = client.minted(type="id_token")

    answer = client.exchange(user, ID_TOKEN, requested_token_type=ID_JAG, audience=client.issuer)

    assert "invalid_target" == answer.json()["error"]


def test_a_dpop_proof_binds_the_token(client: RawClient):
    key = ec.generate_private_key(ec.SECP256R1())

    answer = client.exchange(client.minted(), headers=dpop_proof(key, f"{client.issuer}/token")).json()

    assert "DPoP" == answer["token_type"]
    assert {"jkt": thumbprint(key)} == client.claims(answer["access_token"])["cnf"]


def test_a_nonce_is_asked_for_and_then_accepted(other: RawClient):
    key, url = ec.generate_private_key(ec.SECP256R1()), f"{other.issuer}/token"
    form = {"resource": JWT_RESOURCE}

    first = other.token("client_credentials", headers=dpop_proof(key, url), **form)
    second = other.token("client_credentials", headers=dpop_proof(key, url, first.headers["DPoP-Nonce"]), **form)

    assert (400, "use_dpop_nonce") == (first.status_code, first.json()["error"])
    assert (200, "DPoP") == (second.status_code, second.json()["token_type"])


def test_a_revoked_opaque_token_is_inactive_and_no_longer_alive(client: RawClient):
    token = client.exchange(
        client.minted(scope="pay:read"), resource=OPAQUE_RESOURCE, **client.actor("agent:opaque")
    ).json()
    before = client.introspect(token["access_token"])
    alive = _alive(client, "agent:opaque")

    revoked = client.post("/token/revocation", {"token": token["access_token"]})

    assert (True, "alice", {"sub": "agent:opaque"}) == (before["active"], before["sub"], before["act"])
    assert (1, 200, 0) == (alive, revoked.status_code, _alive(client, "agent:opaque"))
    assert {"status": 200, "active": False} == client.introspect(token["access_token"])


def test_another_client_s_revocation_is_refused(services: Services, client: RawClient):
    token = client.token("client_credentials", resource=OPAQUE_RESOURCE).json()["access_token"]

    with RawClient(services.authorization_server, "reporting") as reporting:
        answer = reporting.post("/token/revocation", {"token": token})

    assert (400, "invalid_request") == (answer.status_code, answer.json()["error"])
    assert client.introspect(token)["active"]


def test_a_jwt_can_be_neither_revoked_nor_introspected(client: RawClient):
    token = client.exchange(client.minted()).json()["access_token"]

    answer = client.post("/token/revocation", {"token": token})

    assert (400, "unsupported_token_type") == (answer.status_code, answer.json()["error"])
    assert "unsupported_token_type" == client.introspect(token)["error"]


def test_a_jwt_is_alive_until_it_expires(client: RawClient):
    client.exchange(client.minted(ttl=2), **client.actor("agent:short"))
    assert 1 == _alive(client, "agent:short")

    time.sleep(2.1)

    assert 0 == _alive(client, "agent:short")


def test_requests_are_counted_by_grant_and_a_fault_comes_once(client: RawClient):
    before = client.get("/test/requests")["grants"].get("client_credentials", {"success": 0})["success"]
    client.fault(status=503, headers={"retry-after": "1"})

    answers = [client.token("client_credentials", resource=JWT_RESOURCE) for _ in range(2)]

    assert [503, 200] == [answer.status_code for answer in answers]
    assert before < client.get("/test/requests")["grants"]["client_credentials"]["success"]


def _alive(client: RawClient, actor: str) -> int:
    return sum(token.get("act", {}).get("sub") == actor for token in client.get("/test/live")["tokens"])
