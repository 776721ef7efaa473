"""Case 71 of the adversarial list for every parser on this side: only typed refusals come of it, in bounded time."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from agentguard._drive import drive
from agentguard._http import Http, Response
from agentguard._jwt import Rejection
from agentguard.errors import ConfigurationError
from agentguard.keys import KeySet
from agentguard.resource_server import DpopProofs, ProtectedResource, RequestRejected, StatusListCheck
from agentguard.resource_server.dpop import normal_target
from agentguard.resource_server.endpoint import IntrospectionEndpoint
from agentguard.resource_server.introspection import IntrospectionVerifier, _read
from agentguard.resource_server.status_check import _inflated
from tests.resource_server.forging import AUDIENCE, ISSUER, KEY, KEYS, NOW, base64url, sign, token
from tests.resource_server.proving import URL, api, bound, proof
from tests.resource_server.test_introspection import RS, active

SECONDS = 0.5
_LEAF = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from([ISSUER, AUDIENCE])
)
_JSON = st.recursive(
    _LEAF,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
_HEADER = st.text(max_size=60) | st.sampled_from([token(), bound()]).flatmap(
    lambda good: st.sampled_from([f"Bearer {good}", f"DPoP {good}", f"Bearer  {good} x", f"DPoP\t{good}", good])
)
_PROOF = st.text(max_size=60) | st.builds(
    lambda name, value: proof(bound(), **{name: value}),
    st.sampled_from(["jti", "htm", "htu", "iat", "ath", "nonce", "exp"]),
    _JSON.filter(lambda value: "nan" not in json.dumps(value).lower() and "inf" not in json.dumps(value).lower()),
)
VERIFIER = api()


@contextmanager
def bounded() -> Iterator[None]:
    started = time.process_time()
    yield
    assert time.process_time() - started < SECONDS


@settings(deadline=None)
@given(headers=st.lists(st.tuples(st.sampled_from(["Authorization", "DPoP", "X"]), _HEADER | _PROOF), max_size=4),
       method=st.text(max_size=8) | st.just("POST"), url=st.text(max_size=40) | st.just(URL))  # fmt: skip
def test_case_71_headers_and_urls(headers: Any, method: str, url: str) -> None:
    with bounded():
        try:
            VERIFIER.verify_request(method, url, headers)
        except RequestRejected as rejected:
            assert rejected.status in (400, 401, 503)
            for name, value in rejected.headers:
                assert value.isascii(), name
                assert value.isprintable(), name


@settings(deadline=None)
@given(head=_JSON, claims=_JSON)
def test_case_71_proofs_that_are_signed_but_hold_anything(head: Any, claims: Any) -> None:
    jwk = {"kty": "EC", "crv": "P-256", "x": "", "y": ""}
    whole = {"typ": "dpop+jwt", "alg": "ES256", "jwk": {**jwk, **(head if isinstance(head, dict) else {"x": head})}}
    text = sign(json.dumps(claims, allow_nan=True).encode(), json.dumps(whole, allow_nan=True).encode())
    with bounded():
        assert isinstance(DpopProofs().examine([text], "POST", URL, token(), NOW), Rejection)


@settings(deadline=None)
@given(url=st.text(max_size=80) | st.from_regex(r"https?://[\[\]a-z0-9.:@%/?#-]{0,40}", fullmatch=True))
def test_case_71_one_url_has_one_normal_form_and_normalising_twice_changes_nothing(url: str) -> None:
    once = normal_target(url)

    assert once == (normal_target(once) if once else "")


@settings(deadline=None)
@given(claims=_JSON, name=st.sampled_from(["sub", "iat", "exp", "ttl", "status_list", "bits", "lst", "all"]))
def test_case_71_status_lists(claims: Any, name: str) -> None:
    uri = "https://as.bank.test/status/1"
    good: dict[str, Any] = {
        "sub": uri, "iat": NOW, "exp": NOW + 60, "ttl": 60, "status_list": {"bits": 1, "lst": "eNrbuRgAAhcBXQ"},
    }  # fmt: skip
    inner = {**good["status_list"], name: claims}
    whole = claims if name == "all" else {**good, "status_list": inner} if name in inner else {**good, name: claims}
    with closing_http() as http, bounded():
        checked = StatusListCheck(KeySet.of(KEY), http)._checked(whole if isinstance(whole, dict) else {}, uri, NOW)
    assert isinstance(checked, str | tuple)


@settings(deadline=None)
@given(data=st.binary(max_size=200))
def test_case_71_what_is_unpacked(data: bytes) -> None:
    found = _inflated(base64url(data), 1000)

    assert found is None or len(found) <= 1000


@settings(deadline=None)
@given(status=_JSON)
def test_case_71_references_to_status_lists(status: Any) -> None:
    with closing_http() as http, bounded():
        check = StatusListCheck(KEYS, http, uris=[])
        for one in (status, {"status_list": status}):
            assert isinstance(drive(check.refusal(one, NOW, 1)), Rejection)


@settings(deadline=None)
@given(body=st.binary(max_size=100) | _JSON.map(lambda value: json.dumps(value).encode()),
       media=st.sampled_from(["application/json", "application/x+json", "text/html", ""]),
       status=st.sampled_from([200, 201, 400, 401, 500]))  # fmt: skip
def test_case_71_introspection_answers(body: bytes, media: str, status: int) -> None:
    with bounded():
        said = _read(Response(status, {"content-type": media}, body))

    assert said.claims is None or said.claims["active"] is True


@settings(deadline=None)
@given(name=st.sampled_from(sorted(active())), value=_JSON)
def test_case_71_introspected_claims(name: str, value: Any) -> None:
    class Said(IntrospectionVerifier):
        async def _ask(self, token: Any, seconds: float) -> Any:
            return _read(
                Response(200, {"content-type": "application/json"}, json.dumps(active(**{name: value})).encode())
            ), 0

    with closing_http() as http, bounded():
        verifier = Said(http, ISSUER, AUDIENCE, RS, endpoint="https://as.bank.test/introspect")
        drive(verifier.examined("text", now=NOW))


@settings(deadline=None)
@given(document=st.dictionaries(st.sampled_from(["issuer", "introspection_endpoint", "x"]), _JSON))
def test_case_71_metadata_of_an_issuer(document: Any) -> None:
    with closing_http() as http:
        found = IntrospectionEndpoint(http, ISSUER, "", time.monotonic)._read(document)

    assert bool(found.why) != bool(found.url)
    assert not found.url or (document["issuer"] == ISSUER and found.url.startswith("https://"))


@settings(deadline=None)
@given(resource=st.text(max_size=40), issuers=st.lists(st.text(max_size=20), max_size=2))
def test_case_71_metadata_of_an_api(resource: str, issuers: Any) -> None:
    try:
        ProtectedResource(resource, issuers)
    except ConfigurationError:
        pass


@contextmanager
def closing_http() -> Iterator[Http]:
    http = Http(attempts=1)
    try:
        yield http
    finally:
        http.close()
