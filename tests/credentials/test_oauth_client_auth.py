"""Client authentication: assertions that live a minute, serve once, and are for one server (RFC 7523, rfc7523bis)."""

from __future__ import annotations

from typing import Any

import pytest

from agentguard._drive import drive
from agentguard.credentials.oauth import PrivateKeyJwt, WorkloadAssertion
from agentguard.errors import ConfigurationError
from agentguard.model.lease import Secret
from tests.credentials.oauth_server import CLIENT_KEY, ISSUER, URN, header, payload

NOW = 1_800_000_000.7
one_server = pytest.mark.control("8 a client assertion is for one server")


class Tokens:
    async def token(self, audience: str, now: float) -> Secret:
        return Secret(f"svid-for-{audience}")


def fields(client: Any) -> dict[str, str]:
    return dict(drive(client.fields(f"{ISSUER}/token", NOW)))


@one_server
def test_the_assertion_names_the_issuer_as_its_only_audience() -> None:
    sent = fields(PrivateKeyJwt("bot", CLIENT_KEY, ISSUER))

    claims = payload(sent["client_assertion"])
    assert (ISSUER, "bot", "bot") == (claims["aud"], claims["iss"], claims["sub"])
    assert {"alg": "ES256", "typ": "client-authentication+jwt", "kid": CLIENT_KEY.kid} == header(
        sent["client_assertion"]
    )
    assert ("bot", f"{URN}client-assertion-type:jwt-bearer") == (sent["client_id"], sent["client_assertion_type"])


@one_server
def test_a_legacy_server_gets_its_token_endpoint_as_the_only_audience() -> None:
    sent = fields(PrivateKeyJwt("bot", CLIENT_KEY, ISSUER, legacy_aud="token_endpoint"))

    assert f"{ISSUER}/token" == payload(sent["client_assertion"])["aud"]


def test_an_assertion_lives_a_minute_and_has_an_id_of_its_own() -> None:
    client = PrivateKeyJwt("bot", CLIENT_KEY, ISSUER)
    claims = [payload(fields(client)["client_assertion"]) for _ in range(50)]

    assert {60} == {one["exp"] - one["iat"] for one in claims}
    assert {int(NOW)} == {one["iat"] for one in claims}
    assert 50 == len({one["jti"] for one in claims})
    assert min(len(one["jti"]) for one in claims) >= 22


def test_the_server_may_know_the_key_by_another_id() -> None:
    assert "k-1" == header(fields(PrivateKeyJwt("bot", CLIENT_KEY, ISSUER, kid="k-1"))["client_assertion"])["kid"]


@pytest.mark.parametrize(("kind", "type_"), [("spiffe", "jwt-spiffe"), ("jwt", "jwt-bearer")])
def test_a_workload_proves_the_client_by_its_own_token(kind: Any, type_: str) -> None:
    sent = fields(WorkloadAssertion("spiffe://bank.test/bot", Tokens(), ISSUER, kind=kind))

    assert f"svid-for-{ISSUER}" == sent["client_assertion"]
    assert f"{URN}client-assertion-type:{type_}" == sent["client_assertion_type"]


@pytest.mark.parametrize(
    "make",
    [
        lambda: PrivateKeyJwt("", CLIENT_KEY, ISSUER),
        lambda: PrivateKeyJwt("a\nb", CLIENT_KEY, ISSUER),
        lambda: PrivateKeyJwt("bot", CLIENT_KEY, ""),
        lambda: PrivateKeyJwt("bot", CLIENT_KEY, ISSUER, legacy_aud="both"),  # type: ignore[arg-type]  # a mistake
        lambda: WorkloadAssertion("bot", Tokens(), ISSUER, kind="saml"),  # type: ignore[arg-type]  # a mistake
    ],
)
def test_a_client_without_a_name_or_with_two_audiences_is_a_mistake(make: Any) -> None:
    with pytest.raises(ConfigurationError):
        make()


def test_a_client_shows_no_key() -> None:
    client = PrivateKeyJwt("bot", CLIENT_KEY, ISSUER)

    assert f"<PrivateKeyJwt bot at {ISSUER}>" == repr(client)
    assert f"<WorkloadAssertion bot at {ISSUER}>" == repr(WorkloadAssertion("bot", Tokens(), ISSUER))
