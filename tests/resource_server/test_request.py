"""One core for every framework: headers in, a verified token or a complete refusal out."""

from __future__ import annotations

import json
import time
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from agentguard._dpop import DpopKey
from agentguard.errors import ConfigurationError
from agentguard.resource_server import (
    DpopProofs,
    InsufficientScope,
    ProtectedResource,
    RequestRejected,
    RequestVerifier,
    ServerNonces,
    TokenMiddleware,
    TokenRejected,
    TokenVerifier,
    metadata_url,
)
from tests.resource_server.forging import AUDIENCE, ISSUER, KEYS, token
from tests.resource_server.proving import CLIENT, Clock, api, bound, passed, proof, refused, send

TOKENS = TokenVerifier(KEYS, ISSUER, AUDIENCE)


def plain(**options: Any) -> RequestVerifier:
    return RequestVerifier(TOKENS, clock=Clock(), **options)


def ask(verifier: RequestVerifier, headers: Any, url: str = "/refunds") -> Any:
    try:
        return verifier.verify_request("POST", url, headers)
    except TokenRejected as rejected:
        return rejected


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": f"Bearer {token()}"},
        {"authorization": f"bearer  {token()} "},
        [("X", "y"), ("AUTHORIZATION", f"BEARER {token()}")],
        [("Authorization", f"Bearer {token()}"), ("DPoP", "ignored")],
    ],
)
def test_a_request_with_a_good_token_passes(headers: Any) -> None:
    found = passed(ask(plain(), headers))

    assert (found.scheme, found.token.subject, found.headers) == ("Bearer", "user:alice", ())


@pytest.mark.parametrize(
    ("headers", "url", "error", "status"),
    [
        ({}, "/", "invalid_token", 401),
        ({"Authorization": "Basic YTpi"}, "/", "invalid_token", 401),
        ({"Authorization": "Bearer"}, "/", "invalid_request", 400),
        ({"Authorization": f"Bearer {token()}, Bearer {token()}"}, "/", "invalid_request", 400),
        ([("Authorization", f"Bearer {token()}")] * 2, "/", "invalid_request", 400),
        ({"Authorization": f"Bearer {token()}"}, f"/?access_token={token()}", "invalid_request", 400),
        ({"Authorization": "Bearer " + "x" * 20_000}, "/", "invalid_token", 401),
        ({"Authorization": "Bearer x.y.z"}, "/", "invalid_token", 401),
        ({"Authorization": f"Bearer {bound()}"}, "/", "invalid_token", 401),
    ],
)
def test_a_refusal_has_its_status(headers: Any, url: str, error: str, status: int) -> None:
    rejected = ask(plain(), headers, url)

    assert isinstance(rejected, RequestRejected)
    assert (rejected.error, rejected.status) == (error, status)
    assert ("WWW-Authenticate", rejected.challenge) in rejected.headers
    assert token() not in f"{rejected} {rejected.headers} {rejected.body!r}"


def test_without_a_token_the_challenge_has_no_error_and_all_schemes() -> None:
    rejected = ask(api(realm="bank", resource_metadata="https://a.test/m"), {})

    assert rejected.challenge == (
        'Bearer realm="bank", resource_metadata="https://a.test/m", '
        'DPoP realm="bank", algs="ES256 EdDSA Ed25519", resource_metadata="https://a.test/m"'
    )
    assert [value for name, value in rejected.headers if name == "WWW-Authenticate"] == [
        'Bearer realm="bank", resource_metadata="https://a.test/m"',
        'DPoP realm="bank", algs="ES256 EdDSA Ed25519", resource_metadata="https://a.test/m"',
    ]
    assert rejected.body == b""
    assert rejected.header_map["WWW-Authenticate"] == rejected.challenge


def test_the_scheme_that_was_used_is_told_what_went_wrong_and_comes_first() -> None:
    text = bound()

    by_proof = refused(send(api(), text, proof(text, htm="GET")), "another method")
    by_bearer = refused(send(api(), text, scheme="Bearer"), "", error="invalid_token")
    assert by_proof.challenge.startswith('DPoP error="invalid_dpop_proof", error_description="the DPoP proof is for')
    assert by_proof.challenge.endswith("Bearer")
    assert by_bearer.challenge.startswith('Bearer error="invalid_token"')
    assert by_bearer.challenge.endswith('DPoP algs="ES256 EdDSA Ed25519"')
    assert json.loads(by_proof.body) == {"error": "invalid_dpop_proof", "error_description": by_proof.why}


def test_what_an_application_raises_becomes_a_complete_answer() -> None:
    verifier, text = api(), bound()
    request = passed(send(verifier, text, proof(text)))
    with pytest.raises(InsufficientScope) as caught:
        request.token.require(scope="refunds:big")
    answer = verifier.rejected(caught.value, request)

    assert answer.status == 403
    assert answer.challenge.startswith('DPoP error="insufficient_scope"')
    assert 'scope="refunds:big"' in answer.challenge
    assert verifier.rejected(answer) is answer


def test_scheme_dpop_is_no_scheme_where_no_proofs_are_verified() -> None:
    assert ask(plain(), {"Authorization": f"DPoP {bound()}", "DPoP": proof(bound())}).challenge == "Bearer"


@pytest.mark.parametrize("url", ["/refunds", "refunds", "/refunds?a=b", "https://x.test/refunds", "HTTP://x/refunds#y"])
def test_only_the_path_of_the_url_is_looked_at(url: str) -> None:
    text = bound()

    passed(send(api(), text, proof(text), url=url))


def test_an_audience_that_is_no_url_needs_a_base_url() -> None:
    tokens = TokenVerifier(KEYS, ISSUER, "payments-api")
    text = token(aud="payments-api", cnf={"jkt": CLIENT.kid})
    with pytest.raises(ConfigurationError, match="base_url"):
        RequestVerifier(tokens, dpop=DpopProofs())
    verifier = RequestVerifier(tokens, dpop=DpopProofs(), base_url=AUDIENCE, clock=Clock())

    passed(send(verifier, text, proof(text)))


@pytest.mark.anyio
async def test_in_an_event_loop_it_is_awaited_and_does_the_same() -> None:
    found = await plain().verified_request("GET", "/", {"authorization": f"Bearer {token()}"})
    assert found.token.subject == "user:alice"
    with pytest.raises(RequestRejected):
        await plain().verified_request("GET", "/", {})
    assert plain().verify_request("GET", "/", {"authorization": f"Bearer {token()}"}).scheme


# ASGI


def app(**options: Any) -> Any:
    async def who(request: Request) -> JSONResponse:
        if request.query_params.get("need"):
            request.state.agentguard.require(scope="more")
        return JSONResponse({"key": request.state.agentguard.thumbprint})

    made = Starlette(routes=[Route("/who/{name}", who), Route("/who", who, methods=["GET", "POST"])])
    made.add_middleware(TokenMiddleware, verifier=TOKENS, **options)
    return made


async def get(made: Any, path: str = "/who", method: str = "GET", **headers: str) -> httpx.Response:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(made), base_url="http://internal:8000") as client:
        return await client.request(method, path, headers=headers)


@pytest.mark.anyio
@pytest.mark.parametrize("path", ["/who", "/who/a%20b?x=1", "/who/%C3%A9"])
async def test_asgi_a_bound_token_with_its_proof_passes_whatever_the_host_says(path: str) -> None:
    key, now = DpopKey(), int(time.time())
    text = token(iat=now, exp=now + 30, cnf={"jkt": key.thumbprint})
    made = app(dpop=DpopProofs())

    answer = await get(made, path, authorization=f"DPoP {text}", dpop=key.proof("GET", AUDIENCE + path, text))
    assert (answer.status_code, answer.json()) == (200, {"key": key.thumbprint})
    wrong = await get(made, path, authorization=f"DPoP {text}", dpop=key.proof("POST", AUDIENCE + path, text))
    assert wrong.status_code == 401
    assert wrong.headers.get_list("www-authenticate")[0].startswith('DPoP error="invalid_dpop_proof"')


@pytest.mark.anyio
async def test_asgi_a_nonce_is_demanded_given_and_renewed() -> None:
    key, now = DpopKey(), int(time.time())
    text = token(iat=now, exp=now + 30, cnf={"jkt": key.thumbprint})
    nonces = ServerNonces(3600)
    made = app(dpop=DpopProofs(nonces=nonces))

    def headers(nonce: str) -> dict[str, str]:
        return {"authorization": f"DPoP {text}", "dpop": key.proof("GET", f"{AUDIENCE}/who", text, nonce)}

    first = await get(made, **headers(""))
    assert (first.status_code, first.json()["error"]) == (401, "use_dpop_nonce")
    assert (await get(made, **headers(first.headers["dpop-nonce"]))).status_code == 200
    older = nonces.current(time.time() - 3600)
    assert (await get(made, **headers(older))).headers["dpop-nonce"] != older
    refusal = await get(made, "/who?need=1", **headers(nonces.current(time.time() - 3600)))
    assert (refusal.status_code, "dpop-nonce" in refusal.headers) == (403, True)


# metadata


METADATA = ProtectedResource(
    AUDIENCE,
    [ISSUER],
    scopes=["refunds:write"],
    details_types=["agentguard_tool_call"],
    dpop_algorithms=["ES256"],
    dpop_required=True,
    name="Payments",
    more={"resource_documentation": "https://docs.bank.test/"},
)


@pytest.mark.anyio
async def test_metadata_is_served_to_everybody_and_named_in_every_challenge() -> None:
    made = app(metadata=METADATA)
    answer = await get(made, "/.well-known/oauth-protected-resource")

    assert answer.json() == {
        "resource": AUDIENCE,
        "authorization_servers": [ISSUER],
        "scopes_supported": ["refunds:write"],
        "bearer_methods_supported": ["header"],
        "resource_name": "Payments",
        "authorization_details_types_supported": ["agentguard_tool_call"],
        "dpop_signing_alg_values_supported": ["ES256"],
        "dpop_bound_access_tokens_required": True,
        "resource_documentation": "https://docs.bank.test/",
    }
    assert (answer.headers["content-type"], answer.headers["access-control-allow-origin"]) == ("application/json", "*")
    url = f"{AUDIENCE}/.well-known/oauth-protected-resource"
    assert (await get(made)).headers["www-authenticate"] == f'Bearer resource_metadata="{url}"'
    assert (await get(made, "/.well-known/oauth-protected-resource", "HEAD")).content == b""
    assert (await get(made, "/.well-known/oauth-protected-resource", "POST")).status_code == 405
    for path in ("/.well-known/oauth-protected-resource/x", "/.well-known/oauth-protected-resourcex", "/.well-known/"):
        assert (await get(made, path)).status_code == 401


@pytest.mark.parametrize(
    ("resource", "url"),
    [
        ("https://a.test", "https://a.test/.well-known/oauth-protected-resource"),
        ("https://a.test/", "https://a.test/.well-known/oauth-protected-resource"),
        ("https://a.test:8443/mcp", "https://a.test:8443/.well-known/oauth-protected-resource/mcp"),
        ("https://a.test/a/b?k=1", "https://a.test/.well-known/oauth-protected-resource/a/b?k=1"),
    ],
)
def test_metadata_stands_between_host_and_path(resource: str, url: str) -> None:
    """RFC 9728 section 3.1."""
    assert metadata_url(resource) == url
    assert ProtectedResource(resource, [ISSUER]).url == url


@pytest.mark.control("RFC 9728: the resource is the audience")
def test_metadata_of_another_resource_than_the_audience_is_a_mistake() -> None:
    with pytest.raises(ConfigurationError, match="same URL"):
        TokenMiddleware(app(), TOKENS, metadata=ProtectedResource(f"{AUDIENCE}/", [ISSUER]))


@pytest.mark.parametrize(
    "mistake",
    [
        {"resource": "http://a.test"},
        {"resource": "payments"},
        {"resource": "https://a.test/#x"},
        {"authorization_servers": []},
        {"authorization_servers": ISSUER},
        {"authorization_servers": ["http://as.test"]},
        {"authorization_servers": ["https://as.test?x"]},
        {"scopes": ["a b"]},
        {"more": {"resource": "x"}},
        {"more": {"jwks_uri": "http://a.test"}},
    ],
)
def test_metadata_that_clients_could_not_use_is_a_mistake(mistake: Any) -> None:
    with pytest.raises(ConfigurationError):
        ProtectedResource(**{"resource": AUDIENCE, "authorization_servers": [ISSUER], **mistake})


@pytest.mark.anyio
async def test_metadata_is_an_app_of_its_own_too() -> None:
    assert (await get(METADATA, "/")).json() == METADATA.document()
    with pytest.raises(ConfigurationError):
        await METADATA({"type": "websocket"}, None, None)  # type: ignore[arg-type]  # never called
