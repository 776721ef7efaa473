"""Case 28 of the adversarial list: every check of RFC 9449 section 4.3, by its number, and what surrounds them."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
import traceback
from typing import Any

import anyio
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from agentguard._dpop import DpopKey
from agentguard._drive import drive
from agentguard.errors import ConfigurationError
from agentguard.keys import SigningKey
from agentguard.resource_server import DpopProofs, MemoryReplays, RequestRejected, ServerNonces, TokenVerifier
from agentguard.resource_server.dpop import normal_target, token_hash
from agentguard.resource_server.replays import ReplaysFull
from tests.resource_server.forging import ABSENT, AUDIENCE, ISSUER, KEYS, NOW, base64url, token
from tests.resource_server.proving import CLIENT, URL, Clock, api, ath, bound, passed, proof, public, refused, send

TOKEN = bound()


def test_case_28_a_bound_token_with_its_proof_passes_and_says_so() -> None:
    found = passed(send(api(), TOKEN, proof(TOKEN)))

    assert (found.scheme, found.token.thumbprint, found.token.subject) == ("DPoP", CLIENT.kid, "user:alice")


def test_case_28_proofs_of_our_own_client_pass() -> None:
    key = DpopKey(clock=lambda: NOW)
    text = token(cnf={"jkt": key.thumbprint})

    passed(send(api(), text, key.proof("POST", f"{URL}?page=2#top", text)))


@pytest.mark.control("RFC 9449 4.3 check 1: one DPoP header")
def test_case_28_check_1_no_header_or_two_are_refused() -> None:
    refused(send(api(), TOKEN), "is missing")
    refused(send(api(), TOKEN, proof(TOKEN), proof(TOKEN)), "more than one")
    one = proof(TOKEN)
    refused(send(api(), TOKEN, one, one), "more than one")
    refused(send(api(), TOKEN, f"{proof(TOKEN)}, {proof(TOKEN)}"), "proof is refused")


@pytest.mark.control("RFC 9449 4.3 check 2: one well-formed JWT")
@pytest.mark.parametrize("change", [str.upper, lambda text: text[:-1], lambda text: f"{text}=", lambda text: f" {text}",
                                    lambda text: "", lambda text: f"{text}.{text}", lambda text: "a.b.c",
                                    lambda text: text.replace(".", "..", 1), lambda text: "x" * 5000,
                                    lambda text: "é" + text])  # fmt: skip
def test_case_28_check_2_what_is_no_jwt_is_refused(change: Any) -> None:
    refused(send(api(), TOKEN, change(proof(TOKEN))), "proof is refused")


@pytest.mark.control("RFC 9449 4.3 check 2: one well-formed JWT")
def test_case_28_check_2_a_claim_that_is_there_twice_is_refused() -> None:
    claims = f'{{"jti":"12345678","htm":"GET","htm":"POST","htu":"{URL}","iat":{NOW},"ath":"{ath(TOKEN)}"}}'
    head = json.dumps({"typ": "dpop+jwt", "alg": "ES256", "jwk": public()})
    signed = f"{base64url(head.encode())}.{base64url(claims.encode())}"

    refused(send(api(), TOKEN, f"{signed}.{base64url(CLIENT.sign(signed.encode()))}"), "strict JSON")


@pytest.mark.control("RFC 9449 4.3 check 3: required claims")
@pytest.mark.parametrize("name", ["jti", "htm", "htu", "iat", "ath"])
@pytest.mark.parametrize("value", [ABSENT, None, "", [], {}, True, 7.5, ["POST"]])
def test_case_28_check_3_a_claim_that_is_missing_or_of_another_type_is_refused(name: str, value: object) -> None:
    refused(send(api(), TOKEN, proof(TOKEN, **changed(name, value))), "")


@pytest.mark.control("RFC 9449 4.3 check 3: required claims")
@pytest.mark.parametrize("jti", ["short", "x" * 257, "with space in it", "näher-am-ende"])
def test_case_28_check_3_an_id_that_is_no_id_is_refused(jti: str) -> None:
    refused(send(api(), TOKEN, proof(TOKEN, jti=jti)), "jti")


@pytest.mark.control("RFC 9449 4.3 check 3: required claims")
@pytest.mark.parametrize("issued", [float(NOW), NOW + 0.5, str(NOW)])
def test_case_28_check_3_a_time_that_is_no_whole_number_is_refused(issued: object) -> None:
    refused(send(api(), TOKEN, proof(TOKEN, iat=issued)), "iat in whole seconds")


@pytest.mark.control("RFC 9449 4.3 check 4: typ")
@pytest.mark.parametrize("typ", [ABSENT, "", "JWT", "at+jwt", "application/dpop+jwt", "dpop", 1, None, "dpop+jwt "])
def test_case_28_check_4_another_typ_is_refused(typ: object) -> None:
    refused(send(api(), TOKEN, proof(TOKEN, head={"typ": typ})), "typ")


@pytest.mark.control("RFC 9449 4.3 check 5: algorithm")
@pytest.mark.parametrize("alg", [ABSENT, "none", "None", "HS256", "ES384", "RS256", "es256", "EdDSA", 1, None])
def test_case_28_check_5_an_algorithm_that_is_not_listed_or_not_of_the_key_is_refused(alg: object) -> None:
    refused(send(api(), TOKEN, proof(TOKEN, head={"alg": alg})), "")


@pytest.mark.control("RFC 9449 4.3 check 5: algorithm")
def test_case_28_check_5_a_mac_with_the_public_key_is_refused() -> None:
    good = proof(TOKEN)
    head = {"typ": "dpop+jwt", "alg": "HS256", "jwk": public()}
    signed = f"{base64url(json.dumps(head).encode())}.{good.split('.')[1]}"
    for secret in (b"", json.dumps(public()).encode()):
        mac = hmac.digest(secret, signed.encode(), hashlib.sha256)
        refused(send(api(), TOKEN, f"{signed}.{base64url(mac)}"), "algorithm")


@pytest.mark.control("RFC 9449 4.3 check 5: algorithm")
def test_case_28_check_5_a_good_signature_of_an_algorithm_that_is_not_listed_is_refused() -> None:
    key = rsa.generate_private_key(65537, 2048)
    jwk = RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
    kept = {name: jwk[name] for name in ("kty", "n", "e")}
    thumb = hashlib.sha256(json.dumps(kept, sort_keys=True, separators=(",", ":")).encode()).digest()
    text = token(cnf={"jkt": base64url(thumb)})
    claims = {"jti": "12345678", "htm": "POST", "htu": URL, "iat": NOW, "ath": ath(text)}
    made = jwt.encode(claims, key, algorithm="PS256", headers={"typ": "dpop+jwt", "jwk": kept})

    refused(send(api(), text, made), "algorithm")
    passed(send(api(proofs=DpopProofs(algorithms=["PS256"])), text, made))


@pytest.mark.control("RFC 9449 4.3 check 5: algorithm")
def test_case_28_check_5_a_key_that_names_another_algorithm_is_refused() -> None:
    key = SigningKey.generate("EdDSA")
    text = bound(key)

    refused(send(api(), text, proof(text, key=key, head={"jwk": {**public(key), "alg": "Ed25519"}})), "algorithm")


@pytest.mark.parametrize("name", ["EdDSA", "Ed25519"])
def test_case_28_check_5_both_names_of_ed25519_pass(name: str) -> None:
    key = SigningKey.generate("EdDSA")
    text = bound(key)

    passed(send(api(), text, proof(text, key=key, head={"alg": name})))


@pytest.mark.control("RFC 9449 4.3 check 6: signature by the jwk")
def test_case_28_check_6_a_signature_of_another_key_is_refused() -> None:
    other = SigningKey.generate()
    good = proof(TOKEN)
    head, body, _ = good.split(".")
    forged = f"{head}.{body}.{base64url(other.sign(f'{head}.{body}'.encode()))}"

    refused(send(api(), TOKEN, forged), "does not verify")
    refused(send(api(), TOKEN, proof(TOKEN, key=other, head={"jwk": public()})), "does not verify")


@pytest.mark.control("RFC 9449 4.3 check 7: no private key")
def test_case_28_check_7_a_private_key_in_the_header_is_refused() -> None:
    private = ECAlgorithm.to_jwk(ec.generate_private_key(ec.SECP256R1()), as_dict=True)

    assert "d" in private
    refused(send(api(), TOKEN, proof(TOKEN, head={"jwk": {**public(), "d": private["d"]}})), "public key")
    refused(send(api(), TOKEN, proof(TOKEN, head={"jwk": {"kty": "oct", "k": "AQAB"}})), "public key")


@pytest.mark.parametrize("jwk", [ABSENT, None, "", [], {}, {"kty": "EC"}, {**public(), "x": "AA"},
                                 {**public(), "crv": "P-384"}, {**public(), "use": "enc"}, {**public(), "alg": "ES384"},
                                 "https://keys.test/1"])  # fmt: skip
def test_case_28_check_7_what_is_no_key_is_refused(jwk: object) -> None:
    refused(send(api(), TOKEN, proof(TOKEN, head={"jwk": jwk})), "jwk")


def test_case_28_check_7_a_key_under_another_header_is_not_looked_at() -> None:
    head = {"jwk": ABSENT, "kid": CLIENT.kid, "x5c": ["MIIB"], "jku": "https://keys.test/1"}

    refused(send(api(), TOKEN, proof(TOKEN, head=head)), "no jwk")


@pytest.mark.control("RFC 9449 4.3 check 8: htm")
@pytest.mark.parametrize("method", ["GET", "post", "PUT", "", "POST "])
def test_case_28_check_8_another_method_is_refused(method: str) -> None:
    refused(send(api(), TOKEN, proof(TOKEN, htm=method)), "")
    refused(send(api(), TOKEN, proof(TOKEN), method=method), "another method")


@pytest.mark.control("RFC 9449 4.3 check 9: htu")
@pytest.mark.parametrize(
    "url",
    [
        f"{AUDIENCE}/refund",
        f"{AUDIENCE}/refunds/",
        f"{AUDIENCE}/Refunds",
        f"{AUDIENCE}/x/../refunds",
        f"{AUDIENCE}//refunds",
        f"{AUDIENCE}:8443/refunds",
        AUDIENCE,
        "https://evil.test/refunds",
        "http://payments.bank.test/refunds",
        "https://payments.bank.test.evil.test/refunds",
        "https://payments.bank.test@evil.test/refunds",
        "https://evil.test@payments.bank.test/refunds",
        "https://payments.bank.test\\@evil.test/refunds",
        "https://payments.bank.test%2erefunds/refunds",
        "//payments.bank.test/refunds",
        "/refunds",
        "https:/payments.bank.test/refunds",
        f"{AUDIENCE}/refunds%2F",
        f"{AUDIENCE}/refunds\n",
        f" {AUDIENCE}/refunds",
        f"{AUDIENCE}:99999/refunds",
        "https://[::1/refunds",
        f"{AUDIENCE}/" + "x" * 3000,
    ],
)
def test_case_28_check_9_another_url_is_refused(url: str) -> None:
    refused(send(api(), TOKEN, proof(TOKEN, htu=url)), "")


@pytest.mark.parametrize(
    "url",
    [
        "HTTPS://payments.bank.test/refunds",
        "https://PAYMENTS.Bank.test/refunds",
        "https://payments.bank.test:443/refunds",
        "https://payments.bank.test:/refunds",
        "https://payments.bank.test/refunds?x=1",
        "https://payments.bank.test/refunds#x",
        "https://payments.bank.test/%72efunds",
        "https://payments.bank.test/refund%73?a=%2F",
    ],
)
def test_case_28_check_9_the_same_url_in_another_form_passes(url: str) -> None:
    passed(send(api(), TOKEN, proof(TOKEN, htu=url)))


@pytest.mark.control("RFC 9449 4.3 check 9: htu")
def test_case_28_check_9_what_the_request_says_about_its_host_is_not_believed() -> None:
    forged = proof(TOKEN, htu="https://evil.test/refunds")

    refused(send(api(), TOKEN, forged, url="https://evil.test/refunds"), "another URL")
    passed(send(api(), TOKEN, proof(TOKEN), url="http://10.0.0.7:8080/refunds?page=1"))
    behind = api(base_url="https://api.bank.test/payments/")
    passed(send(behind, TOKEN, proof(TOKEN, htu="https://api.bank.test/payments/refunds"), url="/refunds"))


def changed(name: str, value: object) -> dict[str, Any]:
    return {name: value}


def nonce_api(clock: Clock, window: int = 100) -> Any:
    return api(clock, DpopProofs(nonces=ServerNonces(window, b"k" * 32), window=600))


@pytest.mark.control("RFC 9449 4.3 check 10: nonce")
def test_case_28_check_10_without_the_nonce_a_proof_is_refused_and_the_nonce_is_told() -> None:
    clock = Clock()
    verifier = nonce_api(clock)
    for claim in ({}, {"nonce": ""}, {"nonce": "x"}, {"nonce": 1}, {"nonce": None}, {"nonce": "é"}, {"nonce": ["a"]}):
        answer = refused(send(verifier, TOKEN, proof(TOKEN, **claim)), "nonce", error="use_dpop_nonce")
        assert 'DPoP error="use_dpop_nonce"' in answer.challenge

    nonce = dict(answer.headers)["DPoP-Nonce"]
    assert passed(send(verifier, TOKEN, proof(TOKEN, nonce=nonce))).headers == ()


@pytest.mark.control("RFC 9449 4.3 check 10: nonce")
def test_case_28_check_10_a_nonce_ends_and_the_next_one_comes_in_time() -> None:
    clock = Clock()
    verifier = nonce_api(clock)
    nonce = dict(refused(send(verifier, TOKEN, proof(TOKEN)), "", error="use_dpop_nonce").headers)["DPoP-Nonce"]

    clock.now += 100
    text = bound(iat=int(clock.now), exp=int(clock.now) + 30)
    later = passed(send(verifier, text, proof(text, nonce=nonce, iat=int(clock.now))))
    following = dict(later.headers)["DPoP-Nonce"]
    assert following != nonce
    clock.now += 100
    text = bound(iat=int(clock.now), exp=int(clock.now) + 30)
    refused(send(verifier, text, proof(text, nonce=nonce, iat=int(clock.now))), "ended", error="use_dpop_nonce")
    passed(send(verifier, text, proof(text, nonce=following, iat=int(clock.now))))


@pytest.mark.control("RFC 9449 4.3 check 10: nonce")
def test_case_28_check_10_a_nonce_of_another_key_or_from_the_future_is_none() -> None:
    nonces, others = ServerNonces(100), ServerNonces(100)

    assert not nonces.accepts(others.current(NOW), NOW)
    assert not nonces.accepts(nonces.current(NOW + 100), NOW)
    assert nonces.accepts(nonces.current(NOW - 100), NOW)
    assert ServerNonces(100, b"s" * 32).current(NOW) == ServerNonces(100, b"s" * 32).current(NOW)


@pytest.mark.control("RFC 9449 4.3 check 11: iat")
@pytest.mark.parametrize(("offset", "good"), [(-60, True), (-61, False), (0, True), (30, True), (31, False),
                                              (10**9, False), (-(10**9), False)])  # fmt: skip
def test_case_28_check_11_a_proof_from_another_time_is_refused(offset: int, good: bool) -> None:
    outcome = send(api(), TOKEN, proof(TOKEN, iat=NOW + offset))

    passed(outcome) if good else refused(outcome, "proof is")


@pytest.mark.control("RFC 9449 4.3 check 11: iat")
@pytest.mark.parametrize("now", [float("nan"), float("inf"), float("-inf")])
def test_case_28_check_11_a_clock_that_is_broken_refuses(now: float) -> None:
    refused(send(api(Clock(now)), TOKEN, proof(TOKEN)), "")


@pytest.mark.control("RFC 9449 4.3 check 12: ath and cnf")
def test_case_28_check_12_a_proof_for_another_token_is_refused() -> None:
    other = bound(jti="j-2")

    refused(send(api(), TOKEN, proof(other)), "another token")
    refused(send(api(), TOKEN, proof(TOKEN, ath=ath(TOKEN).upper())), "another token")


@pytest.mark.control("RFC 9449 4.3 check 12: ath and cnf")
def test_case_28_check_12_the_proof_of_another_key_is_refused() -> None:
    thief = SigningKey.generate()

    refused(send(api(), TOKEN, proof(TOKEN, key=thief)), "not bound to the key", error="invalid_token")


@pytest.mark.control("RFC 9449 4.3 check 12: ath and cnf")
@pytest.mark.parametrize("cnf", [None, {}, [], "x", {"jkt": ""}, {"jkt": 1}, {"x5t#S256": "a"},
                                 {"jkt": CLIENT.kid, "x5t#S256": "a"}, {"jkt": [CLIENT.kid]}])  # fmt: skip
def test_case_28_check_12_a_binding_of_another_kind_or_beside_it_is_refused(cnf: object) -> None:
    text = token(cnf=cnf)

    refused(send(api(), text, proof(text)), "", error="invalid_token")


@pytest.mark.control("DPoP: no downgrade to Bearer")
def test_case_28_a_bound_token_sent_as_bearer_is_refused_even_with_its_proof() -> None:
    answer = refused(send(api(), TOKEN, proof(TOKEN), scheme="Bearer"), "proof is missing", error="invalid_token")

    assert answer.challenge.startswith('Bearer error="invalid_token"')
    assert 'DPoP algs="ES256 EdDSA Ed25519"' in answer.challenge


@pytest.mark.control("DPoP: no downgrade to Bearer")
def test_case_28_a_bearer_token_sent_as_dpop_is_refused() -> None:
    plain = token()

    refused(send(api(), plain, proof(plain)), "not bound to the key", error="invalid_token")
    passed(send(api(), plain, scheme="Bearer"))


@pytest.mark.control("DPoP: no downgrade to Bearer")
def test_case_28_an_api_that_requires_dpop_takes_no_bearer_token_and_offers_none() -> None:
    answer = refused(send(api(require_dpop=True), token(), scheme="Bearer"), "bound to a key", error="invalid_token")

    assert "Bearer" not in answer.challenge
    passed(send(api(require_dpop=True), TOKEN, proof(TOKEN)))


@pytest.mark.control("DPoP: a proof serves once")
def test_case_28_a_proof_that_was_used_is_refused() -> None:
    verifier, one = api(), proof(TOKEN)

    passed(send(verifier, TOKEN, one))
    refused(send(verifier, TOKEN, one), "used before")
    passed(send(verifier, TOKEN, proof(TOKEN)))


@pytest.mark.control("DPoP: a proof serves once")
def test_case_28_the_same_id_counts_once_for_a_key_and_url_in_whatever_form() -> None:
    verifier, other = api(), SigningKey.generate()
    theirs = bound(other)

    passed(send(verifier, TOKEN, proof(TOKEN, jti="the-same-1")))
    refused(send(verifier, TOKEN, proof(TOKEN, jti="the-same-1", htu=f"{URL}?x", iat=NOW + 1)), "used before")
    passed(send(verifier, theirs, proof(theirs, key=other, jti="the-same-1")))
    elsewhere = proof(TOKEN, jti="the-same-1", htu=f"{AUDIENCE}/other")
    passed(send(verifier, TOKEN, elsewhere, url="/other"))


@pytest.mark.control("DPoP: a proof serves once")
def test_case_28_a_proof_is_remembered_as_long_as_it_could_be_accepted() -> None:
    monotonic = Clock(0)
    clock, replays = Clock(), MemoryReplays(clock=monotonic)
    verifier = api(clock, DpopProofs(replays=replays))
    text, one = bound(exp=NOW + 600), proof(TOKEN, iat=NOW + 30)
    one = proof(text, iat=NOW + 30)

    passed(send(verifier, text, one))
    clock.now, monotonic.now = NOW + 90, 90
    refused(send(verifier, text, one), "used before")
    clock.now, monotonic.now = NOW + 93, 93
    refused(send(verifier, text, one), "too old")
    passed(send(verifier, text, proof(text, iat=NOW + 93)))
    assert len(replays) == 1


@pytest.mark.control("DPoP: a proof serves once")
def test_case_28_a_proof_is_refused_that_ends_while_its_token_is_verified() -> None:
    clock, seconds = Clock(), Clock(0)

    def slow(iss: str, jti: str) -> bool:
        clock.now += 4
        seconds.now += 4
        return False

    tokens = TokenVerifier(KEYS, ISSUER, AUDIENCE, revoked=slow)
    verifier = api(clock, DpopProofs(replays=MemoryReplays(clock=seconds)), tokens=tokens)
    text = bound(exp=NOW + 600)
    one = proof(text, iat=NOW + 30)  # the clock of the client is ahead
    passed(send(verifier, text, one))

    clock.now, seconds.now = NOW + 90, 90  # the last second of the proof; the memory forgets it meanwhile

    refused(send(verifier, text, one), "too old")


@pytest.mark.control("DPoP: a full memory refuses")
def test_case_28_a_full_memory_of_proofs_refuses_and_says_that_it_is_not_the_token() -> None:
    verifier = api(proofs=DpopProofs(replays=MemoryReplays(2)))
    for _ in range(2):
        passed(send(verifier, TOKEN, proof(TOKEN)))

    answer = refused(send(verifier, TOKEN, proof(TOKEN)), "cannot be told", error="temporarily_unavailable", status=503)
    assert answer.challenge == ""


@pytest.mark.control("DPoP: a full memory refuses")
@pytest.mark.parametrize("answer", [None, 1, "yes", ConnectionError("down")])
def test_case_28_a_memory_without_a_clear_answer_refuses(answer: object) -> None:
    class Broken:
        async def first_use(self, key: str, seconds: float) -> Any:
            if isinstance(answer, Exception):
                raise answer
            return answer

    outcome = send(api(proofs=DpopProofs(replays=Broken())), TOKEN, proof(TOKEN))
    if isinstance(answer, Exception):
        refused(outcome, "cannot be told", error="temporarily_unavailable", status=503)
    else:
        refused(outcome, "used before")


@pytest.mark.control("DPoP: only good tokens fill the memory")
def test_case_28_proofs_of_tokens_that_are_refused_are_not_remembered() -> None:
    replays = MemoryReplays()
    verifier = api(proofs=DpopProofs(replays=replays))
    for text in (bound(exp=NOW - 90, iat=NOW - 99), bound(aud="https://other.test"), "opaque-token"):
        refused(send(verifier, text, proof(text)), "", error="invalid_token")

    assert len(replays) == 0


@pytest.mark.anyio
async def test_case_28_of_many_requests_with_one_proof_at_once_exactly_one_passes() -> None:
    verifier, one = api(), proof(TOKEN)
    outcomes: list[bool] = []

    async def ask() -> None:
        try:
            await verifier.verified_request("POST", URL, {"authorization": f"DPoP {TOKEN}", "dpop": one})
        except RequestRejected:
            outcomes.append(False)
        else:
            outcomes.append(True)

    async with anyio.create_task_group() as group:
        for _ in range(50):
            group.start_soon(ask)
    assert (outcomes.count(True), outcomes.count(False)) == (1, 49)


def test_case_28_vectors_of_the_rfc() -> None:
    """RFC 9449 sections 6.1, 7.1 and figure 12."""
    rfc_token = "Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxU"
    made = (
        "eyJ0eXAiOiJkcG9wK2p3dCIsImFsZyI6IkVTMjU2IiwiandrIjp7Imt0eSI6IkVDIiwieCI6Imw4dEZyaHgtMzR0VjNoUklDUkRZOXpDa0RscE"
        "JoRjQyVVFVZldWQVdCRnMiLCJ5IjoiOVZFNGpmX09rX282NHpiVFRsY3VOSmFqSG10NnY5VERWclUwQ2R2R1JEQSIsImNydiI6IlAtMjU2In19."
        "eyJqdGkiOiJlMWozVl9iS2ljOC1MQUVCIiwiaHRtIjoiR0VUIiwiaHR1IjoiaHR0cHM6Ly9yZXNvdXJjZS5leGFtcGxlLm9yZy9wcm90ZWN0ZW"
        "RyZXNvdXJjZSIsImlhdCI6MTU2MjI2MjYxOCwiYXRoIjoiZlVIeU8ycjJaM0RaNTNFc05yV0JiMHhXWG9hTnk1OUlpS0NBcWtzbVFFbyJ9."
        "2oW9RP35yRqzhrtNP86L-Ey71EOptxRimPPToA1plemAgR6pxHF8y6-yqyVnmcw6Fy1dqd-jfxSYoMxhAJpLjA"
    )
    at, when = "https://resource.example.org/protectedresource", 1_562_262_618

    found: Any = DpopProofs().examine([made], "GET", at, rfc_token, when)

    assert found.thumbprint == "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"
    assert token_hash(rfc_token) == b"fUHyO2r2Z3DZ53EsNrWBb0xWXoaNy59IiKCAqksmQEo"


def test_case_28_no_refusal_shows_anything_of_token_or_proof(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    one = proof(TOKEN, htm="PUT", jti="canary-of-the-proof")
    secrets = (TOKEN, one, *TOKEN.split("."), *one.split("."), "canary")
    try:
        api().verify_request("POST", URL, {"Authorization": f"DPoP {TOKEN}", "DPoP": one})
    except RequestRejected as error:
        shown = f"{error!r} {error} {error.challenge} {error.headers} {error.body!r} {error.__context__} {vars(error)}"
        walked = error.__traceback__.tb_next if error.__traceback__ else None
        while walked is not None:
            shown += f"{walked.tb_frame.f_locals}"
            walked = walked.tb_next
        shown += "".join(traceback.format_exception(error))
    assert not [secret for secret in secrets if secret in shown.replace(__file__, "") + caplog.text]


def test_case_28_mistakes_of_whoever_sets_it_up_are_told() -> None:
    options: Any
    for options in ({"algorithms": []}, {"algorithms": ["HS256"]}, {"algorithms": "ES256"}, {"algorithms": ["none"]},
                    {"window": 0}, {"window": 601}, {"window": True}, {"leeway": 61}, {"leeway": -1}):  # fmt: skip
        with pytest.raises(ConfigurationError):
            DpopProofs(**options)
    bad: Any
    for bad in ({"window": 0}, {"window": 4000}, {"key": b"short"}):
        with pytest.raises(ConfigurationError):
            ServerNonces(**bad)
    with pytest.raises(ConfigurationError):
        MemoryReplays(0)
    for base in ("payments", "https://a.test/?x=1", "ftp://a.test"):
        with pytest.raises(ConfigurationError):
            api(base_url=base)
    with pytest.raises(ConfigurationError, match="take no token"):
        from agentguard.resource_server import RequestVerifier, TokenVerifier
        from tests.resource_server.forging import ISSUER, KEYS

        RequestVerifier(TokenVerifier(KEYS, ISSUER, AUDIENCE), require_dpop=True)


def test_case_28_keys_of_nonces_are_shown_nowhere() -> None:
    import pickle

    nonces = ServerNonces(key=b"canary-key-of-the-nonces-32-bytes")
    assert "canary" not in repr(nonces)
    with pytest.raises(TypeError):
        pickle.dumps(nonces)


def test_case_28_the_memory_forgets_what_has_ended() -> None:
    clock = Clock(0)
    replays = MemoryReplays(2, clock=clock)
    assert [drive(replays.first_use(key, 10)) for key in ("a", "a", "b")] == [True, False, True]
    with pytest.raises(ReplaysFull):
        drive(replays.first_use("c", 10))
    clock.now = 10
    assert [drive(replays.first_use(key, 10)) for key in ("a", "c")] == [True, True]


@pytest.mark.parametrize(
    ("url", "normal"),
    [
        ("https://A.test", "https://a.test/"),
        ("HTTP://a.test:80/%7e%2f", "http://a.test/~%2F"),
        ("https://[::1]:443/a?b#c", "https://[::1]/a"),
        ("https://a.test:444", "https://a.test:444/"),
        ("ftp://a.test/", ""),
        ("https:///a", ""),
        ("", ""),
    ],
)
def test_case_28_one_url_has_one_normal_form(url: str, normal: str) -> None:
    assert normal_target(url) == normal


def test_case_28_thumbprints_do_not_depend_on_how_the_key_is_written() -> None:
    jwk = {**public(), "kid": "whatever", "ext": True, "key_ops": ["verify"], "use": "sig"}
    passed(send(api(), TOKEN, proof(TOKEN, head={"jwk": jwk})))
    x = base64.urlsafe_b64decode(public()["x"] + "=")
    longer = base64.urlsafe_b64encode(b"\0" + x).rstrip(b"=").decode()
    refused(send(api(), TOKEN, proof(TOKEN, head={"jwk": {**public(), "x": longer}})), "")
