"""ID-JAG: two legs, two servers, and an assertion that is held against the same rules as a token."""

from __future__ import annotations

from typing import Any

import pytest

from agentguard import CredentialUnavailable
from agentguard._drive import drive
from agentguard._http import HttpFailure, Request, Response
from agentguard.credentials.oauth import IdJag, SignedActor, TokenRules
from agentguard.errors import ConfigurationError
from agentguard.model.credential import Issued
from agentguard.model.lease import Ending, Placement
from agentguard.testing import FakeClock
from tests.credentials.oauth_server import (
    ABSENT,
    API,
    CLIENT,
    ISSUER,
    URN,
    FakeServer,
    answered,
    client,
    grant,
    header,
    own_grant,
    payload,
    server_of,
    signed,
    thumbprint,
    without,
)

OTHER = "https://as.partner.test"
two_legs = pytest.mark.control("8 an assertion is verified before it is used")


class Provider(FakeServer):
    """An identity provider that issues ID-JAGs; `assertion`, `said` and `typ` say what differs."""

    def __init__(self, clock: Any) -> None:
        super().__init__(clock)
        self.assertion: dict[str, Any] = {}
        self.said: dict[str, Any] = {}
        self.typ = "oauth-id-jag+jwt"

    def _token(self, request: Request, form: Any) -> Response:
        claims = self._claims(form, request.headers.get("DPoP", ""))
        jag = {**claims, "aud": form["audience"], "resource": form["resource"], **self.assertion}
        token = signed(without(jag), self.typ)
        good = {
            "access_token": token,
            "token_type": "N_A",
            "issued_token_type": f"{URN}token-type:id-jag",
            "expires_in": 60,
        }
        return answered(body=without({**good, **self.said}))


class Pair:
    """Both servers, and the issuer under test."""

    def __init__(self, **rules: Any) -> None:
        self.clock = FakeClock()
        self.provider, self.api = Provider(self.clock), FakeServer(self.clock, OTHER)
        self.api.claims = {"act": {"sub": "agent:support-bot"}}
        actor = SignedActor(client())
        self.issuer = IdJag(server_of(self.provider), server_of(self.api), actor, TokenRules(**rules))

    def issued(self, *agents: str) -> Issued:
        now, asked = self.clock(), grant(*agents)
        issued: Issued = drive(self.issuer.issue(asked, self.issuer.prepare(asked, now), now))
        return issued

    def refusal(self, asked: Any = None) -> str:
        now, asked = self.clock(), asked or grant()
        with pytest.raises(CredentialUnavailable) as caught:
            drive(self.issuer.issue(asked, self.issuer.prepare(asked, now), now))
        return str(caught.value)


def test_the_provider_vouches_and_the_other_server_issues() -> None:
    pair = Pair()

    issued = pair.issued()

    [first], [second] = pair.provider.posts(), pair.api.posts()
    assert (f"{URN}token-type:id-jag", OTHER, API) == (
        first["requested_token_type"],
        first["audience"],
        first["resource"],
    )
    assert f"{URN}grant-type:jwt-bearer" == second["grant_type"]
    assert ("alice", CLIENT) == tuple(payload(second["assertion"])[name] for name in ("sub", "client_id"))
    assert (OTHER, API) == tuple(payload(issued.secret.reveal())[name] for name in ("iss", "aud"))
    assert OTHER == issued.lease.issuer
    assert ISSUER == payload(first["client_assertion"])["aud"]
    assert OTHER == payload(second["client_assertion"])["aud"]


@two_legs
@pytest.mark.parametrize(
    "differs",
    [
        {"iss": OTHER}, {"aud": API}, {"aud": [OTHER, API]}, {"aud": ABSENT}, {"sub": "mallory"}, {"sub": ABSENT},
        {"client_id": "other"}, {"client_id": ABSENT}, {"jti": ABSENT}, {"exp": ABSENT}, {"iat": ABSENT},
        {"exp": 1_800_000_301}, {"resource": "https://other.test"}, {"scope": "pay admin"},
        {"act": ABSENT}, {"act": {"sub": "agent:other"}}, {"cnf": {"jkt": "x"}},
    ],
)  # fmt: skip
def test_an_assertion_that_is_not_what_was_asked_for_is_not_used(differs: dict[str, Any]) -> None:
    pair = Pair()
    pair.provider.assertion = differs

    assert "identity provider" in pair.refusal()
    assert [] == pair.api.seen


@two_legs
@pytest.mark.parametrize("typ", ["JWT", "at+jwt", "jag+jwt"])
def test_another_kind_of_token_is_no_assertion(typ: str) -> None:
    pair = Pair()
    pair.provider.typ = typ

    assert "typ" in pair.refusal()
    assert [] == pair.api.seen


@two_legs
@pytest.mark.parametrize(
    "said", [{"token_type": "Bearer"}, {"issued_token_type": ABSENT}, {"issued_token_type": f"{URN}token-type:jwt"}]
)
def test_an_answer_that_says_another_type_is_refused(said: dict[str, Any]) -> None:
    pair = Pair()
    pair.provider.said = said

    pair.refusal()

    assert [] == pair.api.seen


@two_legs
@pytest.mark.parametrize(
    ("said", "revoking", "left"),
    [
        ({"issued_token_type": f"{URN}token-type:access_token", "token_type": "Bearer"}, None, Ending.REVOKED),
        ({"issued_token_type": ABSENT}, answered(503), Ending.EXPIRES),
        ({"issued_token_type": ABSENT}, answered(400, {"error": "unsupported_token_type"}), Ending.EXPIRES),
        ({"scope": "pay admin"}, answered(503), Ending.REVOKED),  # an assertion, which nothing has to end
    ],
)
def test_a_token_that_the_provider_gives_instead_of_an_assertion_is_ended_there(
    said: dict[str, Any], revoking: Any, left: Ending
) -> None:
    pair, now = Pair(), 1_800_000_000.0
    pair.provider.said, pair.provider.script = said, [None, revoking]
    lease = pair.issuer.prepare(grant(), now)

    with pytest.raises(CredentialUnavailable, match="identity provider"):
        drive(pair.issuer.issue(grant(), lease, now))

    assert ("scope" not in said) == bool(pair.provider.posts("/revoke"))
    assert (left, []) == (drive(pair.issuer.revoke(lease)), pair.api.seen)


@two_legs
@pytest.mark.parametrize("said", [{}, {"issued_token_type": ABSENT}])
@pytest.mark.parametrize(("revoking", "left"), [(None, Ending.REVOKED), (answered(503), Ending.EXPIRES)])
def test_a_refresh_token_that_the_provider_gives_too_is_ended_there(
    said: dict[str, Any], revoking: Any, left: Ending
) -> None:
    pair, now = Pair(), 1_800_000_000.0
    pair.provider.said = {"refresh_token": "a refresh token", **said}
    pair.provider.alive["a refresh token"], pair.provider.script = {}, [None, revoking]
    lease = pair.issuer.prepare(grant(), now)

    with pytest.raises(CredentialUnavailable, match="identity provider"):
        drive(pair.issuer.issue(grant(), lease, now))

    assert ("a refresh token" in pair.provider.alive) == (left is Ending.EXPIRES)
    assert left is drive(pair.issuer.revoke(lease))


def test_the_token_is_held_against_what_was_asked_too() -> None:
    pair = Pair()
    pair.api.claims = {"act": {"sub": "agent:other"}}

    assert "chain of agents" in pair.refusal()
    assert {} == pair.api.alive


def test_assertion_and_token_are_bound_to_the_same_key() -> None:
    pair = Pair(dpop=True)

    issued = pair.issued()

    jwk = [
        header(one.headers["DPoP"])["jwk"]
        for fake in (pair.provider, pair.api)
        for one in fake.seen
        if "DPoP" in one.headers
    ]
    assert 1 == len({thumbprint(one) for one in jwk})
    assert Placement.DPOP is issued.lease.placement
    assert payload(pair.api.posts()[0]["assertion"])["cnf"] == payload(issued.secret.reveal())["cnf"]


def test_a_provider_that_is_away_leaves_nothing_behind() -> None:
    pair = Pair()
    pair.provider.script = [HttpFailure("reset", sent=True)]
    now = pair.clock()
    lease = pair.issuer.prepare(grant(), now)

    with pytest.raises(CredentialUnavailable, match="identity provider"):
        drive(pair.issuer.issue(grant(), lease, now))

    assert Ending.REVOKED is drive(pair.issuer.revoke(lease))


def test_a_lost_answer_of_the_other_server_may_be_a_token() -> None:
    pair = Pair()
    pair.api.script = [HttpFailure("reset", sent=True)]
    now = pair.clock()
    lease = pair.issuer.prepare(grant(), now)

    with pytest.raises(CredentialUnavailable, match="no answer"):
        drive(pair.issuer.issue(grant(), lease, now))

    assert Ending.EXPIRES is drive(pair.issuer.revoke(lease))


def test_it_is_for_users_that_are_proved() -> None:
    pair = Pair()

    assert "User.verified" in pair.refusal(grant(subject_token=None))
    assert "client credentials" in pair.refusal(own_grant())
    assert [] == pair.provider.seen


def test_no_server_takes_an_assertion_of_its_own() -> None:
    fake = FakeServer()
    with pytest.raises(ConfigurationError, match="another authorization server"):
        IdJag(server_of(fake), server_of(fake), SignedActor(client()))


def test_revocation_goes_to_the_server_that_issued() -> None:
    pair = Pair()
    issued = pair.issued()

    assert Ending.REVOKED is drive(pair.issuer.revoke(issued.lease, issued.handle))
    assert ([], 1) == (pair.provider.posts("/revoke"), len(pair.api.posts("/revoke")))
    pair.issuer.after_fork()
    pair.issuer.close()
