"""DPoP proofs and nonces (RFC 9449), with the test vectors of the RFC."""

from __future__ import annotations

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jwt.algorithms import ECAlgorithm

from agentguard._dpop import DpopKey, base64url, htu, origin_of
from agentguard._jwk import from_jwk, public_key
from agentguard._nonces import DpopNonces
from agentguard.keys import SigningKey
from agentguard.testing import FakeClock
from tests.credentials.oauth_server import header, payload, thumbprint

private_stays = pytest.mark.control("8 a proof shows no private key")
nonce_of_origin = pytest.mark.control("8 a DPoP nonce goes only to its origin")

# RFC 9449 section 4.1 (key), section 6.1 (thumbprint), section 7.1 (token and ath).
JWK = {
    "kty": "EC",
    "crv": "P-256",
    "x": "l8tFrhx-34tV3hRICRDY9zCkDlpBhF42UQUfWVAWBFs",
    "y": "9VE4jf_Ok_o64zbTTlcuNJajHmt6v9TDVrU0CdvGRDA",
}
TOKEN = "Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxU"


def verified(proof: str) -> dict[str, Any]:
    """The claims, verified by PyJWT with the key that the proof brings."""
    jwk = jwt.get_unverified_header(proof)["jwk"]
    key: Any = ECAlgorithm.from_jwk(jwk)
    options: Any = {"verify_aud": False, "verify_iat": False}
    return jwt.decode(proof, key, algorithms=["ES256"], options=options)


def test_the_thumbprint_is_the_one_of_the_rfc() -> None:
    key = from_jwk({**JWK, "kid": "any"}, 0).key

    assert "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I" == public_key(key).kid == thumbprint(JWK)


def test_the_hash_of_the_token_is_the_one_of_the_rfc() -> None:
    proof = DpopKey().proof("GET", "https://resource.example.org/protectedresource", TOKEN)

    assert "fUHyO2r2Z3DZ53EsNrWBb0xWXoaNy59IiKCAqksmQEo" == payload(proof)["ath"]


def test_a_proof_says_what_is_done_where_and_when() -> None:
    clock = FakeClock(1562262616.9)
    key = DpopKey(clock=clock)

    proof = key.proof("POST", "https://server.example.com/token?x=1#y")

    claims = verified(proof)
    assert {"jti", "htm", "htu", "iat"} == claims.keys()
    assert ("POST", "https://server.example.com/token", 1562262616) == (claims["htm"], claims["htu"], claims["iat"])
    assert ("dpop+jwt", "ES256") == (header(proof)["typ"], header(proof)["alg"])
    assert key.thumbprint == thumbprint(header(proof)["jwk"])


def test_a_nonce_and_a_token_are_in_the_proof_only_where_given() -> None:
    claims = verified(DpopKey().proof("GET", "https://api.test/x", "token", "nonce-1"))

    assert "nonce-1" == claims["nonce"]
    assert claims["ath"]


@private_stays
def test_a_proof_holds_the_public_members_of_the_key_and_no_other() -> None:
    assert {"kty", "crv", "x", "y"} == header(DpopKey().proof("GET", "https://api.test"))["jwk"].keys()


def test_each_proof_has_a_new_jti_of_128_bits() -> None:
    key = DpopKey()
    jtis = {payload(key.proof("GET", "https://api.test"))["jti"] for _ in range(100)}

    assert 100 == len(jtis)
    assert {22} == {len(jti) for jti in jtis}


@private_stays
def test_a_key_can_be_neither_copied_nor_pickled_and_shows_only_its_thumbprint() -> None:
    key = DpopKey()

    assert f"<DpopKey {key.thumbprint}>" == repr(key)
    with pytest.raises(TypeError, match="copied nor pickled"):
        pickle.dumps(key)
    with pytest.raises(TypeError, match="copied nor pickled"):
        copy.deepcopy(key)


def test_every_key_is_another_one() -> None:
    assert DpopKey().thumbprint != DpopKey().thumbprint
    shared = SigningKey.generate()
    assert shared.kid == DpopKey(shared).thumbprint


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("https://api.test", "https://api.test/"),
        ("https://API.test:443/A?b#c", "https://api.test/A"),
        ("HTTPS://api.test:8443/a/", "https://api.test:8443/a/"),
        ("http://[::1]:80/x", "http://[::1]/x"),
        ("http://127.0.0.1:8080?q", "http://127.0.0.1:8080/"),
    ],
)
def test_the_target_has_neither_query_nor_fragment_nor_default_port(url: str, target: str) -> None:
    assert target == htu(url)


@nonce_of_origin
def test_a_nonce_is_known_for_its_origin_only() -> None:
    nonces = DpopNonces()

    nonces.put(origin_of("https://as.test/token"), "n-1")

    assert "n-1" == nonces.get(origin_of("https://AS.test:443/other"))
    assert "" == nonces.get(origin_of("https://as.test:8443/token"))
    assert "" == nonces.get(origin_of("https://api.test"))


def test_the_newest_nonce_counts_and_a_malformed_one_does_not() -> None:
    nonces = DpopNonces()
    nonces.put("o", "first")
    nonces.put("o", "second")
    for bad in ("", "a b", 'a"b', "a\\b", "a\nb", "é", "x" * 1025):
        nonces.put("o", bad)

    assert "second" == nonces.get("o")


@given(st.lists(st.tuples(st.integers(0, 20), st.sampled_from(["a", "b", "c"]))))
def test_nonces_are_bounded_and_never_another_origins(steps: list[tuple[int, str]]) -> None:
    nonces, known = DpopNonces(most=5), dict[str, str]()
    for number, nonce in steps:
        nonces.put(f"https://{number}.test", nonce)
        known[f"https://{number}.test"] = nonce

    kept = {origin: nonces.get(origin) for origin in known if nonces.get(origin)}
    assert len(kept) <= 5
    assert kept.items() <= known.items()


def test_threads_share_the_nonces() -> None:
    nonces = DpopNonces(most=50)

    def work(number: int) -> None:
        for turn in range(200):
            nonces.put(f"https://{(number + turn) % 60}.test", "n")
            nonces.get(f"https://{turn % 60}.test")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert sum(bool(nonces.get(f"https://{number}.test")) for number in range(60)) <= 50


def test_base64url_has_no_padding() -> None:
    assert [b"", b"AA", b"AAA", b"-_-_"] == [base64url(data) for data in (b"", b"\0", b"\0\0", b"\xfb\xff\xbf")]
