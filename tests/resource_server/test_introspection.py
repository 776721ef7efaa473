"""Tokens that their issuer is asked about (RFC 7662), and case 31 of the adversarial list."""

from __future__ import annotations

import base64
import hashlib
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

import anyio
import pytest

from agentguard._http import Http
from agentguard.errors import ConfigurationError, TokenRejected
from agentguard.model.lease import Secret
from agentguard.resource_server import ClientSecret, IntrospectionVerifier, VerificationUnavailable, VerifiedToken
from agentguard.resource_server.endpoint import IntrospectionEndpoint
from tests.loopback import Received, Slowly, reply, serving
from tests.resource_server.forging import ABSENT, AUDIENCE, ISSUER, NOW, actors
from tests.resource_server.proving import CLIENT, Clock, api, passed, proof, refused, send

TOKEN = "opaque-canary-token"
RS = ClientSecret("rs", "canary/secret:of the+api")


def active(**changes: Any) -> dict[str, Any]:
    """What an issuer says about a good token; ABSENT takes a member away."""
    good = {
        "active": True,
        "iss": ISSUER,
        "sub": "user:alice",
        "aud": AUDIENCE,
        "client_id": "support-bot",
        "exp": NOW + 60,
        "iat": NOW,
        "jti": "j-1",
        "scope": "refunds:write",
        "token_type": "Bearer",
        "act": {"sub": "agent:support-bot"},
    }
    return {name: value for name, value in {**good, **changes}.items() if value is not ABSENT}


@dataclass
class Issuer:
    """An introspection endpoint, and what asks it."""

    said: Any = field(default_factory=active)
    answer: Callable[[Received], Any] | None = None
    monotonic: Clock = field(default_factory=lambda: Clock(0))
    server: Any = None

    def served(self, received: Received) -> Any:
        return self.answer(received) if self.answer is not None else reply(self.said)

    def verifier(self, http: Http, **options: Any) -> IntrospectionVerifier:
        options.setdefault("endpoint", f"{self.server.url}/introspect")
        given = {"clock": Clock(), "monotonic": self.monotonic, **options}
        client = given.pop("client", RS)
        return IntrospectionVerifier(http, given.pop("issuer", ISSUER), AUDIENCE, client, **given)

    def asked(self) -> int:
        return len(self.server.seen)


@pytest.fixture
def http() -> Iterator[Http]:
    http = Http(attempts=1, timeout=2, deadline=2)
    yield http
    http.close()


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    made = Issuer()
    with serving(made.served) as made.server:
        yield made


def test_an_active_token_says_who_acts_for_whom(issuer: Issuer, http: Http) -> None:
    issuer.said = active(act=actors("agent:researcher", "agent:support-bot"), tenant="acme", txn="t-1")
    found = issuer.verifier(http).verify(TOKEN, NOW)

    assert (found.chain_text, *found.scopes) == ("user:alice > support-bot > researcher", "refunds:write")
    assert (found.client_id, found.issuer, found.audience, found.jti) == ("support-bot", ISSUER, AUDIENCE, "j-1")
    (asked,) = issuer.server.seen
    assert parse_qs(asked.body.decode()) == {"token": [TOKEN], "token_type_hint": ["access_token"]}
    pair = base64.b64decode(asked.headers["authorization"].removeprefix("Basic ")).decode()
    assert (asked.method, pair) == ("POST", "rs:canary%2Fsecret%3Aof+the%2Bapi")


@pytest.mark.control("RFC 7662: only `active: true` passes")
def test_case_31_a_token_that_is_not_active_is_refused(issuer: Issuer, http: Http) -> None:
    issuer.said = {"active": False}

    with pytest.raises(TokenRejected, match="not active") as caught:
        issuer.verifier(http).verify(TOKEN, NOW)
    assert (caught.value.error, caught.value.status) == ("invalid_token", 401)


@pytest.mark.control("RFC 7662: only `active: true` passes")
@pytest.mark.parametrize("value", ["true", 1, None, "yes", [True], {}, "", 0, 1.0, ABSENT])
def test_case_31_an_answer_that_is_not_plainly_true_is_refused_and_not_the_tokens_fault(
    issuer: Issuer, http: Http, value: object
) -> None:
    issuer.said = active(active=value)

    with pytest.raises(VerificationUnavailable) as caught:
        issuer.verifier(http).verify(TOKEN, NOW)
    assert caught.value.status == 503


@pytest.mark.control("RFC 7662: aud, exp, iss and cnf are checked")
@pytest.mark.parametrize(
    "changes",
    [
        {"aud": ABSENT}, {"aud": "https://other.test"}, {"aud": [AUDIENCE, "https://other.test"]}, {"aud": []},
        {"aud": 1}, {"exp": ABSENT}, {"exp": NOW - 30}, {"exp": "x"}, {"exp": True}, {"exp": NOW + 0.5},
        {"exp": NOW + 10**6}, {"iat": NOW + 31, "exp": NOW + 60}, {"iat": "x"}, {"nbf": NOW + 31},
        {"iss": "https://other.test"}, {"iss": 1}, {"sub": ABSENT, "client_id": ABSENT}, {"client_id": ABSENT},
        {"sub": 1}, {"sub": "a b"}, {"cnf": {"jkt": CLIENT.kid}}, {"cnf": None, "token_type": "DPoP"},
        {"cnf": {}}, {"token_type": 1}, {"token_type": "N_A"}, {"scope": 1}, {"act": "x"},
        {"act": {"sub": "user:alice"}}, {"authorization_details": "x"}, {"tenant": 1},
    ],
)  # fmt: skip
def test_case_31_an_active_token_that_is_wrong_otherwise_is_refused(issuer: Issuer, http: Http, changes: Any) -> None:
    issuer.said = active(**changes)

    with pytest.raises(TokenRejected) as caught:
        issuer.verifier(http).verify(TOKEN, NOW)
    assert caught.value.error == "invalid_token"


def test_what_the_standard_leaves_out_may_be_missing(issuer: Issuer, http: Http) -> None:
    issuer.said = active(iss=ABSENT, iat=ABSENT, jti=ABSENT, sub=ABSENT, token_type=ABSENT, act=ABSENT, scope=ABSENT)
    found = issuer.verifier(http).verify(TOKEN, NOW)

    assert (found.subject, found.issuer) == ("support-bot", ISSUER)
    assert found.jti == f"sha256:{hashlib.sha256(TOKEN.encode()).hexdigest()[:32]}"
    issuer.said = active(iat=ABSENT, exp=NOW + 3601)
    with pytest.raises(TokenRejected, match="lifetime"):
        issuer.verifier(http).verify(TOKEN, NOW)


@pytest.mark.control("RFC 7662: no answer is no pass")
@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (lambda received: None, ""),
        (lambda received: reply({}, 401), "does not accept this API's client"),
        (lambda received: reply({}, 403), "does not accept this API's client"),
        (lambda received: reply(active(), 500), "500"),
        (lambda received: reply(active(), 503), "503"),
        (lambda received: reply(active(), 404), "404"),
        (lambda received: reply(active(), 201), "201"),
        (lambda received: reply(active(), 302, Location="/x"), "redirect"),
        (lambda received: reply(b"<html>", media="text/html"), "content type"),
        (lambda received: reply(b'{"active": true, "active": true}'), "strict JSON"),
        (lambda received: reply(b"[]"), "strict JSON"),
        (lambda received: reply(b'{"active": true' + b" " * 2_000_000 + b"}"), ""),
        (lambda received: Slowly(reply(active()), pause=0.1), ""),
    ],
)
def test_case_31_without_a_usable_answer_the_request_is_refused_with_503(
    issuer: Issuer, http: Http, answer: Any, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    issuer.answer = answer
    caplog.set_level(logging.DEBUG)

    with pytest.raises(VerificationUnavailable, match="cannot be found out") as caught:
        issuer.verifier(http).verify(TOKEN, NOW)
    assert (caught.value.error, caught.value.status) == ("temporarily_unavailable", 503)
    assert "cannot be introspected" in caplog.text
    assert why in caplog.text
    assert "canary" not in caplog.text + repr(caught.value)


def test_an_issuer_that_is_down_is_logged_once_until_it_answers(
    issuer: Issuer, http: Http, caplog: pytest.LogCaptureFixture
) -> None:
    verifier = issuer.verifier(http)
    issuer.answer = lambda received: reply({}, 500)
    for _ in range(3):
        with pytest.raises(VerificationUnavailable):
            verifier.verify(TOKEN, NOW)
    assert len(caplog.records) == 1
    issuer.answer = None
    verifier.verify(TOKEN, NOW)
    issuer.answer = lambda received: reply({}, 500)
    with pytest.raises(VerificationUnavailable):
        verifier.verify("another", NOW)
    assert len(caplog.records) == 2


@pytest.mark.control("RFC 7662: nothing is reused unless asked for")
def test_every_request_is_asked_about_by_default(issuer: Issuer, http: Http) -> None:
    verifier = issuer.verifier(http)
    for _ in range(3):
        verifier.verify(TOKEN, NOW)
    assert issuer.asked() == 3


def test_an_answer_is_reused_as_long_as_configured(issuer: Issuer, http: Http) -> None:
    verifier = issuer.verifier(http, cache_seconds=10)
    for now, asked in ((0, 1), (9, 1), (10, 2)):
        issuer.monotonic.now = now
        verifier.verify(TOKEN, NOW)
        assert issuer.asked() == asked
    verifier.verify("another-token", NOW)
    assert issuer.asked() == 3


def test_what_an_application_does_with_the_details_changes_no_answer_that_is_kept(issuer: Issuer, http: Http) -> None:
    issuer.said = active(authorization_details=[{"type": "agentguard_tool_call", "actions": ["refund.read"]}])
    verifier = issuer.verifier(http, cache_seconds=60)
    first: Any = verifier.verify(TOKEN, NOW).details[0]
    first["actions"].append("refund.create")
    first.pop("type")

    assert verifier.verify(TOKEN, NOW).details == ({"type": "agentguard_tool_call", "actions": ["refund.read"]},)
    assert issuer.asked() == 1


@pytest.mark.control("RFC 7662: never kept beyond exp")
def test_case_31_an_answer_that_is_kept_does_not_outlive_the_token(issuer: Issuer, http: Http) -> None:
    verifier = issuer.verifier(http, cache_seconds=60, leeway=0)
    verifier.verify(TOKEN, NOW + 59)

    with pytest.raises(TokenRejected, match="expired"):
        verifier.verify(TOKEN, NOW + 60)
    assert issuer.asked() == 1


@pytest.mark.control("RFC 7662: never kept beyond exp")
def test_case_31_an_issuer_that_refuses_a_token_from_its_exp_is_heard_whatever_the_leeway(
    issuer: Issuer, http: Http
) -> None:
    clock = Clock()
    verifier = issuer.verifier(http, cache_seconds=60, clock=clock)
    issuer.said = active(exp=NOW + 10)
    verifier.verify(TOKEN)
    issuer.said = {"active": False}
    issuer.monotonic.now, clock.now = 9, NOW + 9
    verifier.verify(TOKEN)

    issuer.monotonic.now, clock.now = 11, NOW + 11
    with pytest.raises(TokenRejected, match="not active"):
        verifier.verify(TOKEN)


def test_a_token_that_is_not_active_is_not_asked_about_at_once_again(issuer: Issuer, http: Http) -> None:
    issuer.said = {"active": False}
    verifier = issuer.verifier(http)
    for now, asked in ((0, 1), (4, 1), (5, 2)):
        issuer.monotonic.now = now
        with pytest.raises(TokenRejected):
            verifier.verify(TOKEN, NOW)
        assert issuer.asked() == asked


@pytest.mark.anyio
async def test_fifty_requests_with_one_token_at_once_are_one_question(issuer: Issuer, http: Http) -> None:
    def late(received: Received) -> bytes:
        time.sleep(0.1)
        return reply(active())

    issuer.answer = late
    verifier, found = issuer.verifier(http), list[VerifiedToken]()

    async def ask() -> None:
        found.append(await verifier.verified(TOKEN, NOW))

    async with anyio.create_task_group() as group:
        for _ in range(50):
            group.start_soon(ask)
    await http.aclose()
    assert (issuer.asked(), len(found)) == (1, 50)


@pytest.mark.anyio
async def test_a_failure_is_shared_by_those_who_wait_and_by_nobody_after(issuer: Issuer, http: Http) -> None:
    def late(received: Received) -> bytes:
        time.sleep(0.1)
        return reply({}, 500)

    issuer.answer = late
    verifier, refusals = issuer.verifier(http), list[int]()

    async def ask() -> None:
        try:
            await verifier.verified(TOKEN, NOW)
        except VerificationUnavailable as error:
            refusals.append(error.status)

    async with anyio.create_task_group() as group:
        for _ in range(20):
            group.start_soon(ask)
    assert (issuer.asked(), refusals) == (1, [503] * 20)
    issuer.answer = None
    await verifier.verified(TOKEN, NOW)
    await http.aclose()


@pytest.mark.anyio
async def test_a_synchronous_question_in_an_event_loop_is_refused(issuer: Issuer, http: Http) -> None:
    with pytest.raises(ConfigurationError, match="await"):
        issuer.verifier(http).verify(TOKEN, NOW)
    with pytest.raises(ConfigurationError, match="await"):
        api(tokens=issuer.verifier(http)).verify_request("GET", "/", {"authorization": f"Bearer {TOKEN}"})


def test_an_opaque_token_that_is_bound_to_a_key_needs_its_proof(issuer: Issuer, http: Http) -> None:
    issuer.said = active(cnf={"jkt": CLIENT.kid}, token_type="DPoP")
    verifier = api(tokens=issuer.verifier(http))

    assert passed(send(verifier, TOKEN, proof(TOKEN))).token.thumbprint == CLIENT.kid
    refused(send(verifier, TOKEN, scheme="Bearer"), "proof is missing", error="invalid_token")
    issuer.said = active()
    refused(send(verifier, TOKEN, proof(TOKEN)), "not bound", error="invalid_token")
    issuer.said = active(cnf={"jkt": CLIENT.kid}, token_type="Bearer")
    refused(send(verifier, TOKEN, proof(TOKEN)), "another type", error="invalid_token")


class Asserting:
    """Proves the client by a form field, as `PrivateKeyJwt` does."""

    def __init__(self) -> None:
        self.made = 0

    async def fields(self, token_endpoint: str, now: float) -> list[tuple[str, str]]:
        self.made += 1
        return [("client_assertion", f"canary-{self.made}")]


class Broken:
    async def fields(self, token_endpoint: str, now: float) -> list[tuple[str, str]]:
        raise RuntimeError("canary in the text")


def test_a_client_may_prove_itself_by_an_assertion(
    issuer: Issuer, http: Http, caplog: pytest.LogCaptureFixture
) -> None:
    verifier = issuer.verifier(http, client=Asserting())
    for number in (1, 2):
        verifier.verify(TOKEN, NOW)
        assert parse_qs(issuer.server.seen[-1].body.decode())["client_assertion"] == [f"canary-{number}"]
    with pytest.raises(VerificationUnavailable):
        issuer.verifier(http, client=Broken()).verify(TOKEN, NOW)
    assert "canary" not in caplog.text


def discovered(issuer: Issuer, http: Http, document: Any, **options: Any) -> IntrospectionVerifier:
    at = issuer.server.url + options.pop("path", "")

    def answer(received: Received) -> bytes:
        if received.target.endswith("/introspect"):
            return reply(active(iss=at))
        found = document(at) if callable(document) else document
        return reply(found) if "oauth-authorization-server" in received.target else reply({}, 404)

    issuer.answer = answer
    return issuer.verifier(http, issuer=at, endpoint="", **options)


def test_the_endpoint_is_found_by_the_issuers_metadata_once(issuer: Issuer, http: Http) -> None:
    verifier = discovered(
        issuer,
        http,
        lambda at: {"issuer": at, "introspection_endpoint": f"{issuer.server.url}/introspect"},
        path="/t/1",
    )
    for _ in range(2):
        verifier.verify(TOKEN, NOW)

    targets = [seen.target for seen in issuer.server.seen]
    assert targets == ["/.well-known/oauth-authorization-server/t/1", "/introspect", "/introspect"]


def test_the_seconds_that_a_request_may_wait_bound_all_questions_together(issuer: Issuer, http: Http) -> None:
    def slow(received: Received) -> bytes:
        issuer.monotonic.now += 3
        return reply({}, 404)

    issuer.answer = slow
    verifier = issuer.verifier(http, issuer=f"{issuer.server.url}/tenant", endpoint="")
    with pytest.raises(VerificationUnavailable):
        verifier.verify(TOKEN, NOW)  # five seconds
    assert issuer.asked() == 2


@pytest.mark.control("RFC 8414: metadata of another issuer is not used")
@pytest.mark.parametrize(
    "document",
    [
        {},
        {"issuer": "https://evil.test", "introspection_endpoint": "https://evil.test/introspect"},
        lambda at: {"issuer": f"{at}/", "introspection_endpoint": f"{at}/introspect"},
        lambda at: {"issuer": at},
        lambda at: {"issuer": at, "introspection_endpoint": 1},
        lambda at: {"issuer": at, "introspection_endpoint": "http://evil.test/introspect"},
        lambda at: {"issuer": at, "introspection_endpoint": "https://169.254.169.254/"},
        lambda at: {"issuer": at, "introspection_endpoint": "javascript:x"},
    ],
)
def test_metadata_that_must_not_be_used_sends_no_token_anywhere(issuer: Issuer, http: Http, document: Any) -> None:
    with pytest.raises(VerificationUnavailable):
        discovered(issuer, http, document).verify(TOKEN, NOW)
    assert {seen.method for seen in issuer.server.seen} == {"GET"}


@pytest.mark.control("RFC 8414: an endpoint that leads inside is not used")
@pytest.mark.parametrize(
    "url", ["http://evil.test/", "https://169.254.169.254/", "javascript:x", "https://a@b.test/", ""]
)
def test_an_endpoint_that_credentials_may_not_be_sent_to_is_refused_when_it_is_read(http: Http, url: str) -> None:
    endpoint = IntrospectionEndpoint(http, ISSUER, "", time.monotonic)

    found = endpoint._read({"issuer": ISSUER, "introspection_endpoint": url})
    assert "no URL that credentials may be sent to" in found.why


def test_an_issuer_without_metadata_is_asked_again_only_after_a_while(issuer: Issuer, http: Http) -> None:
    issuer.answer = lambda received: reply({}, 404)
    verifier = issuer.verifier(http, issuer=issuer.server.url, endpoint="")
    for now, asked in ((0, 2), (4, 2), (5, 4)):
        issuer.monotonic.now = now
        with pytest.raises(VerificationUnavailable):
            verifier.verify(TOKEN, NOW)
        assert issuer.asked() == asked


def test_mistakes_of_the_api_are_told(http: Http) -> None:
    options: Any
    for options in (
        {"endpoint": "http://as.test/introspect"}, {"endpoint": "https://user@as.test/"}, {"cache_seconds": 61},
        {"cache_seconds": -1}, {"negative_seconds": 61}, {"leeway": 61}, {"max_lifetime": 0},
    ):  # fmt: skip
        with pytest.raises(ConfigurationError):
            IntrospectionVerifier(http, ISSUER, AUDIENCE, RS, **options)
    for issuer in ("", "as.bank.test", "https://as.test/?x=1"):
        with pytest.raises(ConfigurationError):
            IntrospectionVerifier(http, issuer, AUDIENCE, RS)
    for pair in (("", "x"), ("x", "")):
        with pytest.raises(ConfigurationError):
            ClientSecret(*pair)
    assert "canary" not in repr(RS) + repr(ClientSecret("rs", Secret("canary")))
