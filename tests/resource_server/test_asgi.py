from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import anyio
import httpx
import pytest
from fastapi import FastAPI
from fastapi import Request as FastRequest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.websockets import WebSocket

from agentguard.errors import ConfigurationError, TokenRejected
from agentguard.resource_server import TokenMiddleware, TokenVerifier, asgi
from tests.resource_server.forging import AUDIENCE, ISSUER, KEYS, token

pytestmark = pytest.mark.anyio
VERIFIER = TokenVerifier(KEYS, ISSUER, AUDIENCE)


def fresh(**changes: Any) -> str:
    now = int(time.time())
    return token(**{"iat": now, "exp": now + 30, **changes})


async def who(request: Request) -> JSONResponse:
    verified = request.state.agentguard
    return JSONResponse({"chain": verified.chain_text, "same": request.scope["agentguard"] is verified})


async def refund(request: Request) -> JSONResponse:
    request.state.agentguard.require(scope="refunds:write refunds:big")
    return JSONResponse({"refunded": True})


async def health(request: Request) -> JSONResponse:
    return JSONResponse({"verified": hasattr(request.state, "agentguard")})


async def rejecting(request: Request) -> JSONResponse:
    raise TokenRejected(request.query_params["error"], request.query_params["why"])


async def late(request: Request) -> StreamingResponse:
    async def body() -> Any:
        yield b"first"
        request.state.agentguard.require(scope="more")

    return StreamingResponse(body())


async def echo(socket: WebSocket) -> None:
    if socket.query_params.get("need"):
        socket.state.agentguard.require(scope="more")
    await socket.accept()
    await socket.send_text(socket.state.agentguard.subject)
    await socket.close()


def starlette_app(verifier: TokenVerifier = VERIFIER, **options: Any) -> Starlette:
    routes = [
        Route("/who", who),
        Route("/refund", refund, methods=["POST"]),
        Route("/health", health),
        Route("/rejecting", rejecting),
        Route("/late", late),
        WebSocketRoute("/echo", echo),
        Mount("/sub", routes=[Route("/who", who), Route("/health", health)]),
    ]
    app = Starlette(routes=routes)
    app.add_middleware(TokenMiddleware, verifier=verifier, **options)
    return app


def fastapi_app() -> FastAPI:
    app = FastAPI()
    app.add_middleware(TokenMiddleware, verifier=VERIFIER)

    @app.get("/who")
    async def _who(request: FastRequest) -> dict[str, str]:
        return {"chain": request.state.agentguard.chain_text}

    @app.post("/refund")
    def _refund(request: FastRequest) -> None:
        request.state.agentguard.require(scope="refunds:write refunds:big")

    return app


Headers = list[tuple[str, str]]


async def call(app: Any, path: str, headers: Headers | None = None, method: str = "GET") -> httpx.Response:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://api.test") as client:
        return await client.request(method, path, headers=headers or [])


def bearer(text: str) -> Headers:
    return [("Authorization", f"Bearer {text}")]


def challenge(response: httpx.Response) -> str:
    return response.headers["WWW-Authenticate"]


async def test_starlette_sees_the_verified_token() -> None:
    response = await call(starlette_app(), "/who", bearer(fresh()))

    assert response.json() == {"chain": "user:alice > support-bot", "same": True}


async def test_fastapi_sees_the_verified_token() -> None:
    assert (await call(fastapi_app(), "/who", bearer(fresh()))).json() == {"chain": "user:alice > support-bot"}


@pytest.mark.parametrize("make", [starlette_app, fastapi_app])
async def test_a_missing_scope_is_answered_with_403_and_what_is_needed(make: Callable[[], Any]) -> None:
    response = await call(make(), "/refund", bearer(fresh()), "POST")

    assert response.status_code == 403
    assert response.json()["error"] == "insufficient_scope"
    assert challenge(response) == (
        'Bearer error="insufficient_scope", error_description="the token does not carry the scope", '
        'scope="refunds:write refunds:big"'
    )


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "Bearer  "])
async def test_the_scheme_has_no_case(scheme: str) -> None:
    assert (await call(starlette_app(), "/who", [("authorization", f"{scheme} {fresh()}")])).status_code == 200


async def test_without_a_token_the_challenge_has_no_error() -> None:
    response = await call(starlette_app(), "/who")

    assert (response.status_code, challenge(response), response.content) == (401, "Bearer", b"")
    assert response.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("value", ["", "Basic YTpi", "DPoP a.b.c", "Bearerx a.b.c", "Bearer\ta.b.c"])
async def test_another_scheme_is_as_good_as_no_token(value: str) -> None:
    response = await call(starlette_app(realm="bank"), "/who", [("Authorization", value)])

    assert (response.status_code, challenge(response)) == (401, 'Bearer realm="bank"')


@pytest.mark.parametrize(
    "value", ["Bearer", "Bearer a b", "Bearer a,b", 'Bearer "a"', "Bearer a, Bearer b", "Bearer =", "Bearer é"]
)
async def test_a_malformed_header_is_a_bad_request(value: str) -> None:
    scope_headers = [(b"authorization", value.encode("latin-1"))]
    sent = await driven(starlette_app(), "http", headers=scope_headers)

    assert sent[0]["status"] == 400
    assert b'error="invalid_request"' in dict(sent[0]["headers"])[b"www-authenticate"]


async def test_two_authorization_headers_are_a_bad_request_even_if_one_is_good() -> None:
    text = fresh()
    for headers in (
        bearer(text) * 2,
        [*bearer(text), ("authorization", "Basic YTpi")],
        [("AUTHORIZATION", "x"), *bearer(text)],
    ):
        response = await call(starlette_app(), "/who", headers)
        assert response.status_code == 400
        assert "more than one" in challenge(response)


async def test_a_token_in_the_query_is_refused_with_or_without_a_header() -> None:
    text = fresh()
    for headers in ([], bearer(text)):
        response = await call(starlette_app(), f"/who?x=1&access_token={text}", headers)
        assert response.status_code == 400
        assert text not in response.text + str(response.headers)


async def test_an_invalid_token_is_answered_with_401_and_says_why() -> None:
    response = await call(starlette_app(realm="bank"), "/who", bearer(fresh(aud="https://other.test")))

    assert response.status_code == 401
    assert challenge(response) == (
        'Bearer realm="bank", error="invalid_token", error_description="the token is for another audience"'
    )
    assert response.json() == {"error": "invalid_token", "error_description": "the token is for another audience"}


async def test_a_token_bound_to_a_key_is_no_bearer_token() -> None:
    response = await call(starlette_app(), "/who", bearer(fresh(cnf={"jkt": "x"})))

    assert response.status_code == 401
    assert "proof is missing" in challenge(response)


async def test_the_challenge_names_the_resource_metadata() -> None:
    url = "https://payments.bank.test/.well-known/oauth-protected-resource"
    response = await call(starlette_app(resource_metadata=url), "/who")

    assert challenge(response) == f'Bearer resource_metadata="{url}"'


async def test_the_text_of_an_error_cannot_break_out_of_the_challenge() -> None:
    why = 'x", scope="admin\r\nSet-Cookie: a=b\\é'
    response = await call(
        starlette_app(),
        str(httpx.URL("/rejecting", params={"error": "insufficient_scope", "why": why})),
        bearer(fresh()),
    )

    assert response.status_code == 403
    assert challenge(response).count('"') == 4
    assert "set-cookie" not in response.headers


async def test_an_error_code_that_is_unknown_becomes_invalid_token() -> None:
    response = await call(starlette_app(), '/rejecting?error=a"b&why=no', bearer(fresh()))

    assert (response.status_code, challenge(response)) == (401, 'Bearer error="invalid_token", error_description="no"')


async def test_after_the_response_started_the_error_goes_on() -> None:
    with pytest.raises(TokenRejected):
        await call(starlette_app(), "/late", bearer(fresh()))


async def test_only_the_exact_public_paths_need_no_token() -> None:
    app = starlette_app(public_paths=["/health"])

    assert (await call(app, "/health")).json() == {"verified": False}
    for path in ("/health/", "/Health", "/sub/health", "//health", "/health/../who", "/who", "/health%2f"):
        assert (await call(app, path)).status_code == 401


@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "HEAD", "TRACE", "anything"])
async def test_no_method_goes_without_a_token(method: str) -> None:
    assert (await call(starlette_app(), "/who", method=method)).status_code == 401


@pytest.mark.parametrize(
    "options",
    [
        {"realm": 'a"b'},
        {"realm": "a\nb"},
        {"realm": "é"},
        {"resource_metadata": 'https://x.test/"'},
        {"public_paths": "/health"},
        {"public_paths": "/"},
        {"public_paths": ["health"]},
        {"public_paths": [""]},
    ],
)
async def test_what_cannot_stand_in_a_header_or_is_no_path_is_a_configuration_error(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        TokenMiddleware(starlette_app(), VERIFIER, **options)


async def test_revocation_that_waits_does_not_hold_up_other_requests() -> None:
    answered: list[str] = []

    def slow(iss: str, jti: str) -> bool:
        time.sleep(0.3 if jti == "slow" else 0)
        return False

    app = starlette_app(TokenVerifier(KEYS, ISSUER, AUDIENCE, revoked=slow))

    async def ask(jti: str) -> None:
        assert (await call(app, "/who", bearer(fresh(jti=jti)))).status_code == 200
        answered.append(jti)

    async with anyio.create_task_group() as group:
        group.start_soon(ask, "slow")
        await anyio.sleep(0.05)
        group.start_soon(ask, "quick")

    assert answered == ["quick", "slow"]


async def test_revocation_that_takes_too_long_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asgi, "REVOCATION_SECONDS", 0.05)

    def hanging(iss: str, jti: str) -> bool:
        time.sleep(0.3)
        return False

    response = await call(
        starlette_app(TokenVerifier(KEYS, ISSUER, AUDIENCE, revoked=hanging)), "/who", bearer(fresh())
    )

    assert response.status_code == 401
    assert "could not be checked" in challenge(response)


async def test_a_state_that_the_server_shares_among_requests_keeps_no_token() -> None:
    shared: dict[str, Any] = {"pool": 1}

    sent = await driven(
        starlette_app(), "http", state=shared, headers=[(b"authorization", f"Bearer {fresh()}".encode())]
    )

    assert sent[0]["status"] == 200
    assert shared == {"pool": 1}


# websockets and other scopes, driven by hand


async def driven(app: Any, kind: str, path: str = "/who", **scope: Any) -> list[Any]:
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"} if kind == "websocket" else {"type": "http.request", "body": b""}

    async def send(message: Any) -> None:
        sent.append(message)

    whole = {"type": kind, "path": path, "raw_path": path.encode(), "query_string": b"", "headers": [], "method": "GET"}
    await app({**whole, "scheme": "ws", "root_path": "", "subprotocols": [], **scope}, receive, send)
    return sent


def authorized() -> list[tuple[bytes, bytes]]:
    return [(b"authorization", f"Bearer {fresh()}".encode())]


async def test_a_websocket_with_a_token_is_accepted_and_sees_it() -> None:
    sent = await driven(starlette_app(), "websocket", "/echo", headers=authorized())

    assert [message["type"] for message in sent] == ["websocket.accept", "websocket.send", "websocket.close"]
    assert sent[1]["text"] == "user:alice"


async def test_a_websocket_without_a_token_is_closed_before_it_is_accepted() -> None:
    assert await driven(starlette_app(), "websocket", "/echo") == [{"type": "websocket.close", "code": 1008}]


async def test_a_websocket_refusal_is_an_http_response_where_the_server_can() -> None:
    sent = await driven(starlette_app(), "websocket", "/echo", extensions={"websocket.http.response": {}})

    assert [message["type"] for message in sent] == ["websocket.http.response.start", "websocket.http.response.body"]
    assert sent[0]["status"] == 401


async def test_a_websocket_that_needs_another_scope_is_closed_before_it_is_accepted() -> None:
    sent = await driven(starlette_app(), "websocket", "/echo", headers=authorized(), query_string=b"need=1")

    assert sent == [{"type": "websocket.close", "code": 1008}]


async def test_lifespan_passes_and_an_unknown_scope_does_not() -> None:
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["type"])

    guarded = TokenMiddleware(app, VERIFIER)
    await driven(guarded, "lifespan")

    with pytest.raises(ConfigurationError, match="webtransport"):
        await driven(guarded, "webtransport", headers=authorized())
    assert seen == ["lifespan"]
