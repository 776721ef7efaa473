"""Cases 1 to 14 (tokens) and 24 to 31 (an OAuth client under attack) of the adversarial list, each by its number.

The strict profile and the verifier of the resource server see each of the first ones; what each part does in detail is
in tests/test_jwt.py and tests/resource_server.
"""

from __future__ import annotations

import functools
import gc
import hashlib
import hmac
import itertools
import json
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from agentguard import CredentialUnavailable
from agentguard._dpop import DpopKey, base64url
from agentguard._drive import drive
from agentguard._http import Http
from agentguard._jwt import ACCESS_TOKEN, Profile, verify_jwt
from agentguard._nonces import DpopNonces
from agentguard.credentials.leases import Leases
from agentguard.credentials.ledger import MemoryLedger
from agentguard.credentials.oauth import TokenExchange
from agentguard.credentials.oauth.issuer import TokenIssuer
from agentguard.errors import ConfigurationError, TokenRejected
from agentguard.identity.id_token import IdTokenVerifier
from agentguard.keys import KeySet, SigningKey
from agentguard.model.credential import Issued
from agentguard.model.lease import Ending
from agentguard.testing import FakeClock
from tests.credentials.oauth_server import (
    ABSENT as GONE,
)
from tests.credentials.oauth_server import (
    API,
    FakeServer,
    answered,
    client,
    exchange_at,
    grant,
    on_loopback,
    payload,
    server_of,
    thumbprint,
)
from tests.credentials.oauth_server import (
    ISSUER as AS,
)
from tests.resource_server.forging import (
    ABSENT,
    AUDIENCE,
    ISSUER,
    KEY,
    KEYS,
    NOW,
    actors,
    claims,
    header,
    sign,
    token,
    verifier,
)
from tests.resource_server.forging import (
    base64url as encoded,
)

strict = pytest.mark.control("8 one strict profile for every token")
downgrade = pytest.mark.control("8 nothing broader than asked")
fresh = pytest.mark.control("8 every attempt has its own proof")
honest = pytest.mark.control("8 what is not revoked is not called revoked")


def profile(**changes: Any) -> Profile:
    required = frozenset({"sub", "client_id", "jti"})
    return Profile(**{"typ": ACCESS_TOKEN, "issuer": ISSUER, "audience": AUDIENCE, "required": required, **changes})


def refused(text: Any, *, now: float = NOW, keys: Any = KEYS, **changes: Any) -> None:
    """The strict profile and the resource server both refuse it, and say nothing of it."""
    for verify in (
        lambda: verify_jwt(text, profile(**changes), keys, now),
        lambda: verifier(keys=keys, **changes).verify(text, now),
    ):
        with pytest.raises(TokenRejected) as caught:
            verify()
        assert "invalid_token" == caught.value.error
        assert len(str(caught.value)) < 120


def passes(text: str, *, now: float = NOW, keys: Any = KEYS, **changes: Any) -> None:
    assert verify_jwt(text, profile(**changes), keys, now)
    verifier(keys=keys, **changes).verify(text, now)


# tokens --------------------------------------------------------------------------------------------------------------


class NoLookUp(KeySet):
    """Fails the test when a key is looked up."""

    def find(self, kid: str) -> None:
        raise AssertionError("a key was looked up")


@strict
@pytest.mark.parametrize("algorithm", ["none", "None", "nOnE", "NONE", "", None])
def test_case_01_unsigned_tokens_are_refused_before_a_key_is_looked_up(algorithm: object) -> None:
    unsigned = sign(claims(), header(alg=algorithm))

    refused(unsigned, keys=NoLookUp([]))
    refused(unsigned.rpartition(".")[0] + ".")
    refused(token().rpartition(".")[0] + ".")


@strict
def test_case_02_a_public_key_in_no_form_is_an_hmac_secret() -> None:
    public: Any = KEY.public.key
    spki = serialization.PublicFormat.SubjectPublicKeyInfo
    pem = public.public_bytes(serialization.Encoding.PEM, spki)
    der = public.public_bytes(serialization.Encoding.DER, spki)
    for secret in (pem, der, json.dumps(KEY.public_jwk()).encode(), b"\xef\xbb\xbf" + pem, pem.strip()):
        for algorithm, digest in (("HS256", hashlib.sha256), ("HS384", hashlib.sha384), ("HS512", hashlib.sha512)):
            signed = sign(claims(), header(alg=algorithm)).rpartition(".")[0]
            refused(f"{signed}.{encoded(hmac.digest(secret, signed.encode(), digest))}")


@strict
def test_case_03_a_key_has_one_algorithm() -> None:
    private = rsa.generate_private_key(65537, 2048)
    jwk = {**RSAAlgorithm.to_jwk(private.public_key(), as_dict=True), "kid": "r", "alg": "RS256"}
    keys = KeySet.from_jwks({"keys": [{**jwk, "key_ops": ["verify"]}]})

    def signed(algorithm: str) -> str:
        return jwt.encode(claims(), private, algorithm, {"typ": "at+jwt", "kid": "r"})

    passes(signed("RS256"), keys=keys)
    refused(signed("PS256"), keys=keys)
    refused(signed("RS512"), keys=keys)


@strict
@pytest.mark.parametrize(
    "extra", [{"crit": ["x"], "x": 1}, {"crit": ["b64"], "b64": False}, {"b64": False}, {"crit": []}]
)
def test_case_04_critical_headers_are_refused(extra: Mapping[str, object]) -> None:
    refused(sign(claims(), {**header(), **extra}))


@strict
def test_case_05_a_key_that_a_token_brings_or_points_to_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*args: Any, **options: Any) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket, "create_connection", no_network)
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    thief = SigningKey.generate()
    brought = {
        "jwk": thief.public_jwk(),
        "jku": "https://evil.test/jwks",
        "x5u": "https://evil.test/x",
        "x5c": ["MIIB"],
    }

    refused(sign(claims(), {**header(), **brought}, thief))
    refused(sign(claims(), {**header(thief), **brought}, thief))


@strict
@pytest.mark.parametrize("kid", ["../../etc/passwd", "' OR 1=1", "k" * 10_240, 7, None, ["a"], ABSENT, "a\nb", ""])
def test_case_06_a_strange_kid_finds_nothing_and_is_not_repeated(kid: object) -> None:
    with pytest.raises(TokenRejected) as caught:
        verify_jwt(sign(claims(), header(kid=kid)), profile(), KEYS, NOW)

    assert "invalid_token: the token names no known key" == str(caught.value)
    refused(sign(claims(), header(kid=kid)))


@strict
def test_case_07_duplicate_members_are_refused() -> None:
    head, body = json.dumps(header()).encode(), json.dumps(claims()).encode()

    refused(sign(body, head[:-1] + b', "alg": "ES256"}'))
    refused(sign(body[:-1] + b', "sub": "user:mallory"}'))
    refused(sign(body[:-1] + b', "\\u0073ub": "user:mallory"}'))


@strict
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "utf-8-sig"])
def test_case_08_other_encodings_and_lone_surrogates_are_refused(encoding: str) -> None:
    refused(sign(json.dumps(claims()).encode(encoding)))
    refused(sign(claims(), json.dumps(header()).encode(encoding)))
    refused(sign(json.dumps(claims()).encode()[:-1] + b', "x": "\\ud800"}'))


@strict
@pytest.mark.parametrize("junk", ["=", "\n", "!!", " ", "\u00e9"])
@pytest.mark.parametrize("part", [0, 1, 2])
def test_case_09_a_token_has_one_text_and_a_deny_list_counts_its_id(part: int, junk: str) -> None:
    parts = token(jti="denied").split(".")
    parts[part] += junk
    refused(".".join(parts))

    with pytest.raises(TokenRejected, match="revoked"):
        verifier(revoked=lambda iss, jti: (iss, jti) == (ISSUER, "denied")).verify(token(jti="denied"), NOW)


@strict
@pytest.mark.parametrize("value", ["1800000030", True, -1, 10**30, 1.5, None, [], {}])
@pytest.mark.parametrize("name", ["exp", "iat", "nbf"])
def test_case_10_times_are_whole_seconds_within_bounds(name: str, value: object) -> None:
    refused(token(**{name: value}))


@strict
@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_case_10_times_that_are_no_json_are_refused(text: str) -> None:
    refused(sign(json.dumps(claims(exp="@")).replace('"@"', text).encode()))


@strict
def test_case_10_missing_future_and_far_away_times_are_refused() -> None:
    refused(token(exp=ABSENT))
    refused(token(iat=NOW + 31, exp=NOW + 60))
    refused(token(nbf=NOW + 31))
    refused(token(exp=NOW + 3601))
    refused(token(exp=NOW))


@strict
@pytest.mark.parametrize("issuer", [ISSUER[:-1], ISSUER + "/", ISSUER.upper(), [ISSUER], "https://", 1])
def test_case_11_the_issuer_is_the_same_text(issuer: object) -> None:
    refused(token(iss=issuer))


@strict
def test_case_11_more_than_one_audience_is_refused_unless_configured() -> None:
    both = token(aud=[AUDIENCE, "https://other.test"])

    refused(both)
    assert verify_jwt(both, profile(extra_audiences=True), KEYS, NOW)


_TYPES = ("JWT", "at+jwt", "dpop+jwt", "txntoken+jwt", "secevent+jwt", "statuslist+jwt", "oauth-id-jag+jwt")


@strict
@pytest.mark.parametrize("typ", _TYPES)
def test_case_12_only_its_own_kind_passes_each_validator(typ: str) -> None:
    text = sign(claims(), header(typ=typ))
    wanted: dict[str, Callable[[], object]] = {
        other: functools.partial(verify_jwt, text, profile(typ=frozenset({other})), KEYS, NOW) for other in _TYPES[2:]
    }
    wanted["JWT"] = lambda: drive(IdTokenVerifier(KEYS, ISSUER, AUDIENCE).verify(text, NOW))
    wanted["at+jwt"] = lambda: verifier().verify(text, NOW)
    for own, verify in wanted.items():
        if own == typ:
            verify()
        else:
            with pytest.raises(TokenRejected, match="typ"):
                verify()


@strict
def test_case_13_oversized_and_deep_tokens_are_refused_at_once() -> None:
    body = json.dumps(claims())
    huge = {
        "5 MB": "a" * 5_000_000,
        "100k deep": f"{encoded(b'[' * 100_000)}.a.b",
        "deep": sign(f'{{"x": {"[" * 5_000}{"]" * 5_000}}}'.encode()),
        "5000 digits": sign(body.replace(str(NOW + 30), "9" * 5_000).encode()),
        "deep actors": token(act=actors(*(f"agent:{n}" for n in range(31)))),
        "huge base64": ".".join(["A" * 400_000] * 3),
    }
    gc.collect()  # or all that the process has comes to be collected within one of these times
    for text in huge.values():
        began = time.thread_time()
        refused(text)
        assert time.thread_time() - began < 0.05


@strict
def test_case_14_the_clock_may_differ_by_the_leeway_and_no_second_more() -> None:
    text = token(exp=NOW + 30)

    passes(text, now=NOW + 30)
    passes(text, now=NOW + 59)
    refused(text, now=NOW + 60)
    refused(text, now=NOW + 61)
    refused(text, now=float("nan"))
    for leeway in (61, -1, float("inf")):
        with pytest.raises(ConfigurationError, match="leeway"):
            profile(leeway=leeway)


# the OAuth client ----------------------------------------------------------------------------------------------------


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def fake(clock: FakeClock) -> FakeServer:
    return FakeServer(clock)


def obtained(issuer: TokenIssuer, now: float, **fields: Any) -> Issued:
    asked = grant(**fields)
    return drive(issuer.issue(asked, issuer.prepare(asked, now), now))


BROADER: Mapping[str, Mapping[str, Any]] = {
    "a broader scope": {"scope": "pay admin"},
    "another scope": {"scope": "admin"},
    "a scope that is a list": {"scope": ["pay"]},
    "another issued_token_type": {"issued_token_type": "urn:ietf:params:oauth:token-type:refresh_token"},
    "no issued_token_type": {"issued_token_type": GONE},
    "no token_type": {"token_type": GONE},
    "another token_type": {"token_type": "N_A"},
    "a huge expires_in": {"expires_in": 10**12},
    "an expires_in over the bound": {"expires_in": 121},
    "an expires_in of nothing": {"expires_in": 0},
    "a negative expires_in": {"expires_in": -60},
    "an expires_in in text": {"expires_in": "60"},
    "an expires_in that is true": {"expires_in": True},
    "a broken expires_in": {"expires_in": 59.9},
    "details nobody asked for": {"authorization_details": [{"type": "t"}]},
    "a refresh token": {"refresh_token": "canary-of-a-refresh-token"},
}


@downgrade
@pytest.mark.parametrize("name", list(BROADER))
@pytest.mark.parametrize("opaque", [True, False])
def test_case_24_what_is_broader_or_other_than_asked_is_denied_and_revoked(
    fake: FakeServer, name: str, opaque: bool
) -> None:
    fake.opaque, fake.answer = opaque, dict(BROADER[name])

    with pytest.raises(CredentialUnavailable) as caught:
        obtained(exchange_at(fake), fake.clock())

    revoked = 2 if name == "a refresh token" else 1
    assert ({}, revoked) == (fake.alive, len(fake.posts("/revoke")))
    assert "canary" not in str(caught.value)


@downgrade
@pytest.mark.parametrize("opaque", [True, False])
def test_case_24_a_bearer_token_where_dpop_was_asked_for_is_denied_and_revoked(fake: FakeServer, opaque: bool) -> None:
    fake.opaque, fake.answer = opaque, {"token_type": "Bearer"}

    with pytest.raises(CredentialUnavailable, match="token_type is not DPoP"):
        obtained(exchange_at(fake, dpop=True), fake.clock())

    assert {} == fake.alive


@downgrade
def test_case_24_without_expires_in_an_opaque_token_is_denied_and_revoked(fake: FakeServer) -> None:
    fake.opaque, fake.answer = True, {"expires_in": GONE}

    with pytest.raises(CredentialUnavailable, match="no expires_in"):
        obtained(exchange_at(fake), fake.clock())

    assert {} == fake.alive


CANARY = "canary-in-the-answer"
BODIES: Mapping[str, Any] = {
    "an error with 200": answered(200, {"error": CANARY}),
    "HTML": answered(200, f"<html>{CANARY}</html>".encode(), content_type="text/html"),
    "JSON that says it is HTML": answered(200, {"access_token": CANARY}, content_type="text/html"),
    "duplicate members": answered(200, f'{{"access_token": "{CANARY}", "access_token": "{CANARY}"}}'.encode()),
    "a list": answered(200, [CANARY]),
    "nothing": answered(200, b""),
    "UTF-16": answered(200, json.dumps({"access_token": CANARY}).encode("utf-16")),
    "a token with a line break": answered(200, {"access_token": f"{CANARY}\r\nX: y", "token_type": "Bearer"}),
    "a token that is no text": answered(200, {"access_token": [CANARY], "token_type": "Bearer"}),
    "a token of 20 KB": answered(200, {"access_token": CANARY * 1_000, "token_type": "Bearer"}),
    "an unknown error": answered(400, {"error": CANARY, "error_description": CANARY}),
    "an error that is no text": answered(400, {"error": [CANARY]}),
    "a 500": answered(500, CANARY.encode()),
}


@pytest.mark.parametrize("name", list(BODIES))
def test_case_25_an_answer_that_is_none_is_an_error_without_its_body(fake: FakeServer, name: str) -> None:
    fake.script = [BODIES[name]]

    with pytest.raises(CredentialUnavailable) as caught:
        obtained(exchange_at(fake), fake.clock())

    assert "canary" not in str(caught.value)
    assert "<" not in str(caught.value)


@pytest.mark.parametrize("text", [f"{CANARY}\r\nX-Injected: y", f"{CANARY} y", "", "é", CANARY * 1_000, 7])
def test_case_25_a_token_that_could_break_a_header_is_none(fake: FakeServer, text: object) -> None:
    fake.opaque, fake.answer = True, {"access_token": text}

    with pytest.raises(CredentialUnavailable, match="no access token that can be sent") as caught:
        obtained(exchange_at(fake), fake.clock())
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize("code", ["invalid_grant", "invalid_target", "invalid_scope", "unauthorized_client"])
def test_case_25_a_registered_error_code_is_passed_on_and_says_what_to_do(fake: FakeServer, code: str) -> None:
    fake.script = [answered(400, {"error": code, "error_description": CANARY})]

    with pytest.raises(CredentialUnavailable, match=f"{code}: .{{20}}") as caught:
        obtained(exchange_at(fake), fake.clock())
    assert "canary" not in str(caught.value)


def test_case_25_an_answer_of_two_megabytes_is_not_read() -> None:
    with remote(lambda handler: dripped(handler, b'{"x": "' + b"a" * 2_000_000 + b'"}')) as (_, issuer, _http):
        with pytest.raises(CredentialUnavailable, match="no answer"):
            obtained(issuer, time.time())


@fresh
def test_case_26_a_nonce_is_answered_once_with_a_new_proof_and_kept_for_its_origin(fake: FakeServer) -> None:
    fake.nonce = "n-1"
    nonces = DpopNonces()
    nonces.put(API, "nonce-of-the-api")
    issuer = TokenExchange(
        server_of(fake, nonces=nonces), exchange_at(fake)._actor, exchange_at(fake, dpop=True)._rules
    )

    obtained(issuer, fake.clock())
    obtained(issuer, fake.clock())

    proofs = [payload(one.headers["DPoP"]) for one in fake.seen if "DPoP" in one.headers]
    assert [None, "n-1", "n-1"] == [proof.get("nonce") for proof in proofs]
    assert 3 == len({proof["jti"] for proof in proofs})
    assert ("n-1", "nonce-of-the-api") == (nonces.get(AS), nonces.get(API))
    for name in ("client_assertion", "actor_token"):
        assert 3 == len({payload(form[name])["jti"] for form in fake.posts()})


@fresh
def test_case_26_a_server_that_wants_another_nonce_for_ever_is_asked_twice(fake: FakeServer) -> None:
    numbers = itertools.count()
    again = lambda request: answered(400, {"error": "use_dpop_nonce"}, dpop_nonce=f"n-{next(numbers)}")  # noqa: E731
    fake.script = [again] * 9

    with pytest.raises(CredentialUnavailable, match="use_dpop_nonce"):
        obtained(exchange_at(fake, dpop=True), fake.clock())

    assert 2 == len(fake.posts())


def test_case_26_a_good_answer_brings_the_next_nonce(fake: FakeServer) -> None:
    issuer = exchange_at(fake, dpop=True)
    good = fake._routes()["/token"]

    def rotating(request: Any) -> Any:
        answer = good(request, dict(request.form))
        return answered(200, json.loads(answer.body), dpop_nonce="next")

    fake.script = [rotating]
    obtained(issuer, fake.clock())
    obtained(issuer, fake.clock())

    assert "next" == payload(fake.seen[-1].headers["DPoP"])["nonce"]


def test_case_26_requests_at_once_survive_a_nonce_that_rotates() -> None:
    fake = FakeServer()
    fake.nonce = "n-0"
    issuer = exchange_at(fake, dpop=True)
    numbers = itertools.count(1)

    def ask(number: int) -> bool:
        if number % 8 == 0:
            fake.nonce = f"n-{next(numbers)}"
        try:
            obtained(issuer, time.time())
        except CredentialUnavailable as refused:
            return "use_dpop_nonce" in str(refused)
        return True

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(40)))
    assert len(fake.posts()) <= 80


# real connections ----------------------------------------------------------------------------------------------------

Wire = Callable[[Any], bool]


@contextmanager
def remote(wire: Wire | None = None, **options: Any) -> Iterator[tuple[FakeServer, TokenExchange, Http]]:
    """A server on a loopback port, and an issuer that reaches it by the real client."""
    limits = {"attempts": 3, "timeout": 0.5, "deadline": 3.0, **options}
    http = Http(**limits)
    wired = wire and (lambda handler: handler.path in ("/token", "/revoke") and wire(handler))
    try:
        with on_loopback(lambda issuer: FakeServer(issuer=issuer), wired) as fake:
            yield fake, exchange_at(fake, http), http
            http.close()
    finally:
        http.close()


def dripped(handler: Any, body: bytes) -> bool:
    handler.send_response(200)
    handler.send_header("content-type", "application/json")
    handler.send_header("content-length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)
    return True


def reset(handler: Any) -> bool:
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()
    handler.close_connection = True
    return True


@fresh
def test_case_27_every_attempt_has_its_own_assertions_and_proof() -> None:
    statuses = iter([503, 429, 502])

    with remote(attempts=4) as (fake, issuer, _):
        issuer._rules = exchange_at(fake, dpop=True)._rules
        fake.script = [lambda request: answered(next(statuses), {"error": "temporarily_unavailable"})] * 3
        obtained(issuer, time.time())

        forms, seen = fake.posts(), fake.seen
        assert 4 == len(forms)
        for name in ("client_assertion", "actor_token"):
            assert 4 == len({payload(form[name])["jti"] for form in forms})
        assert 4 == len({payload(one.headers["DPoP"])["jti"] for one in seen if "DPoP" in one.headers})


def test_case_27_a_refusal_is_not_tried_again() -> None:
    with remote() as (fake, issuer, _):
        fake.script = [answered(400, {"error": "invalid_grant"})]
        with pytest.raises(CredentialUnavailable, match="invalid_grant"):
            obtained(issuer, time.time())

        assert 1 == len(fake.posts())


def test_case_27_retry_after_is_kept_to_and_ends_with_the_deadline() -> None:
    with remote(deadline=1.0) as (fake, issuer, _):
        fake.script = [answered(503, {}, retry_after="3600")] * 9
        began = time.monotonic()
        with pytest.raises(CredentialUnavailable):
            obtained(issuer, time.time(), deadline=time.time() + 1)

        assert time.monotonic() - began < 2.5
        assert len(fake.posts()) <= 2


@honest
def test_case_27_after_a_lost_answer_two_tokens_may_exist_and_the_lease_never_counts_as_revoked() -> None:
    drops = iter([True])

    def acts_and_says_nothing(handler: Any) -> bool:
        return False

    with remote(acts_and_says_nothing) as (fake, issuer, _):
        good = fake._routes()["/token"]

        def lost(request: Any) -> Any:
            good(request, dict(request.form))
            if next(drops, False):
                time.sleep(0.8)  # longer than one attempt may last
            return None

        fake.script = [lost]
        now = time.time()
        lease = issuer.prepare(grant(), now)
        issued = drive(issuer.issue(grant(), lease, now))

        assert 2 <= len(fake.posts())
        assert issued.lease.expires_by >= lease.expires_by
        assert Ending.EXPIRES is drive(issuer.revoke(issued.lease, issued.handle))
        assert issued.secret.reveal() not in fake.alive


def test_case_28_our_proofs_pass_the_checks_of_the_rfc_and_fit_nothing_else() -> None:
    key = DpopKey()
    access_token = "Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxU"  # of RFC 9449
    proof = key.proof("POST", "https://api.test/pay?x=1", access_token)

    def fits(method: str, url: str, text: str, jkt: str) -> bool:
        head = jwt.get_unverified_header(proof)
        public: Any = ECAlgorithm.from_jwk(head["jwk"])
        said = jwt.decode(proof, public, algorithms=["ES256"])
        ath = base64url(hashlib.sha256(text.encode()).digest()).decode()
        return (
            head["typ"] == "dpop+jwt"
            and "d" not in head["jwk"]
            and (said["htm"], said["htu"], said["ath"]) == (method, url, ath)
            and abs(said["iat"] - time.time()) < 5
            and thumbprint(head["jwk"]) == jkt
        )

    assert fits("POST", "https://api.test/pay", access_token, key.thumbprint)
    assert not fits("GET", "https://api.test/pay", access_token, key.thumbprint)
    assert not fits("POST", "https://api.test/other", access_token, key.thumbprint)
    assert not fits("POST", "https://api.test/pay", access_token + "x", key.thumbprint)
    assert not fits("POST", "https://api.test/pay", access_token, DpopKey().thumbprint)


@pytest.mark.parametrize("audience", [f"{AS}/token", [AS, "https://other.test"], [AS], f"{AS}/"])
def test_case_29_only_the_issuer_alone_is_the_audience_of_an_assertion(
    fake: FakeServer, audience: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    issuer = exchange_at(fake)
    obtained(issuer, fake.clock())
    good = client()
    issuer._server.client = type(good)(good.client_id, good._key, AS)
    monkeypatch.setattr(issuer._server.client, "issuer", audience)

    with pytest.raises(CredentialUnavailable, match="invalid_client"):
        obtained(issuer, fake.clock())


def test_case_29_an_assertion_serves_once(fake: FakeServer) -> None:
    obtained(exchange_at(fake), fake.clock())
    [form] = fake.posts()

    assert 401 == fake._routes()["/revoke"](fake.seen[-1], form | {"token": "x"}).status


REVOCATIONS: Mapping[str, tuple[Any, Any]] = {
    "200": (answered(), Ending.REVOKED),
    "200 for a token it does not know": (answered(200, b""), Ending.REVOKED),
    "unsupported_token_type": (answered(400, {"error": "unsupported_token_type"}), Ending.EXPIRES),
    "503 with Retry-After": (answered(503, {}, retry_after="1"), None),
    "429": (answered(429, {}), None),
    "500": (answered(500, b"x"), None),
    "401": (answered(401, {"error": "invalid_client"}), None),
    "another 400": (answered(400, {"error": "invalid_request"}), None),
    "a 400 with no error": (answered(400, b"no"), None),
    "204": (answered(204, b""), None),
    "403": (answered(403, {"error": "access_denied"}), None),
}


@honest
@pytest.mark.parametrize("name", list(REVOCATIONS))
def test_case_30_each_answer_of_a_revocation_has_its_ending(fake: FakeServer, name: str) -> None:
    answer, ending = REVOCATIONS[name]
    issuer = exchange_at(fake)
    issued = obtained(issuer, fake.clock())
    fake.script = [answer]

    if ending is None:
        with pytest.raises(CredentialUnavailable, match="not revoked yet"):
            drive(issuer.revoke(issued.lease, issued.handle))
    else:
        assert ending is drive(issuer.revoke(issued.lease, issued.handle))


@honest
def test_case_30_without_an_endpoint_or_a_handle_or_for_jwts_that_are_not_asked_for_it_expires(
    fake: FakeServer,
) -> None:
    issued = obtained(exchange_at(fake), fake.clock())

    assert Ending.EXPIRES is drive(exchange_at(fake).revoke(issued.lease))
    assert Ending.EXPIRES is drive(exchange_at(fake, revocable=False).revoke(issued.lease, issued.handle))
    assert [] == fake.posts("/revoke")
    fake.metadata = {"revocation_endpoint": GONE}
    assert Ending.EXPIRES is drive(exchange_at(fake).revoke(issued.lease, issued.handle))
    assert 1 == len(fake.alive)


def test_case_30_a_client_that_is_not_accepted_is_an_alert(fake: FakeServer, caplog: pytest.LogCaptureFixture) -> None:
    issuer = exchange_at(fake)
    issued = obtained(issuer, fake.clock())
    fake.script = [answered(401, {"error": "invalid_client", "error_description": CANARY})]

    with pytest.raises(CredentialUnavailable):
        drive(issuer.revoke(issued.lease, issued.handle))

    assert ["ERROR"] == [record.levelname for record in caplog.records]
    assert "refuses the credentials of client support-bot" in caplog.text
    assert "canary" not in caplog.text
    assert "eyJ" not in caplog.text


def hang(handler: Any) -> bool:
    time.sleep(1.2)
    return reset(handler)


@honest
@pytest.mark.parametrize("wire", [reset, hang])
def test_case_30_a_connection_that_breaks_or_hangs_means_ask_again(wire: Wire) -> None:
    broken = threading.Event()
    with remote(lambda handler: broken.is_set() and wire(handler), attempts=2) as (fake, issuer, _):
        issued = obtained(issuer, time.time())
        broken.set()
        with pytest.raises(CredentialUnavailable, match="not revoked yet"):
            drive(issuer.revoke(issued.lease, issued.handle))
        broken.clear()

        assert Ending.REVOKED is drive(issuer.revoke(issued.lease, issued.handle))
        assert {} == fake.alive


@honest
def test_case_30_a_server_without_tls_where_https_was_written_gets_nothing() -> None:
    with remote(attempts=1) as (fake, _, http):
        secure = FakeServer(issuer=fake.issuer.replace("http:", "https:"))
        issuer = exchange_at(secure, http)
        with pytest.raises(CredentialUnavailable, match="metadata could not be read"):
            obtained(issuer, time.time())

        assert [] == fake.seen


@honest
def test_case_30_a_failing_revocation_reaches_no_caller_and_is_asked_for_again(
    fake: FakeServer, clock: FakeClock
) -> None:
    events: Counter[str] = Counter()
    leases = Leases(exchange_at(fake), MemoryLedger(), lambda event, fields: events.update([str(event)]), clock)
    leases.open_task("t")
    use = drive(leases.obtain(grant(single_use=True)))
    fake.script = [answered(503)]

    assert "failed" == drive(leases.release(use))
    clock.advance(2)
    drive(leases.retry_failed())

    assert ({}, 0) == (fake.alive, drive(leases.outstanding()))
    assert 1 == events["credential.revoke_failed"] == events["credential.revoked"]


INTROSPECTIONS: Mapping[str, Mapping[str, Any]] = {
    "active in text": {"active": "true"},
    "active as a number": {"active": 1},
    "active missing": {"active": GONE},
    "inactive": {"active": False},
    "another audience": {"aud": "https://other.test"},
    "more audiences": {"aud": [API, "https://other.test"]},
    "no audience": {"aud": GONE},
    "bound to a key": {"cnf": {"jkt": "x"}},
    "expired": {"exp": 1_799_999_999},
    "an end in text": {"exp": "1800000060"},
    "no end": {"exp": GONE},
    "an end far away": {"exp": 1_800_009_999},
    "another subject": {"sub": "mallory"},
    "another actor": {"act": {"sub": "agent:other"}},
    "no actor": {"act": GONE},
    "a broader scope": {"scope": "pay admin"},
    "another client": {"client_id": "other"},
}


@downgrade
@pytest.mark.parametrize("name", list(INTROSPECTIONS))
def test_case_31_introspection_that_does_not_confirm_the_token_denies(fake: FakeServer, name: str) -> None:
    fake.opaque, fake.introspection = True, dict(INTROSPECTIONS[name])

    with pytest.raises(CredentialUnavailable):
        obtained(exchange_at(fake, introspect=True), fake.clock())

    assert {} == fake.alive


@downgrade
@pytest.mark.parametrize("cnf", [GONE, {"jkt": "another"}, {}])
def test_case_31_introspection_of_a_bound_token_names_our_key(fake: FakeServer, cnf: Any) -> None:
    fake.opaque, fake.introspection = True, {"cnf": cnf}

    with pytest.raises(CredentialUnavailable, match="bound"):
        obtained(exchange_at(fake, introspect=True, dpop=True), fake.clock())


@pytest.mark.parametrize(
    "answer", [answered(401, {}), answered(500, b""), answered(200, b"[]"), answered(200, b"true")]
)
def test_case_31_introspection_that_fails_denies(fake: FakeServer, answer: Any) -> None:
    fake.opaque, fake.script = True, [None, answer]

    with pytest.raises(CredentialUnavailable):
        obtained(exchange_at(fake, introspect=True), fake.clock())

    assert {} == fake.alive


def test_case_31_nothing_of_an_introspection_is_kept(fake: FakeServer) -> None:
    fake.opaque = True
    issuer = exchange_at(fake, introspect=True)

    issued = obtained(issuer, fake.clock())
    obtained(issuer, fake.clock())

    assert 2 == len(fake.posts("/introspect"))
    assert fake.clock() + 60 == issued.lease.expires_at
