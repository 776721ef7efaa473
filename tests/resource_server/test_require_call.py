"""`require_call` in FastAPI, Starlette, plain ASGI and by hand: what in a request is which argument."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from decimal import Decimal
from typing import Annotated, Any

import httpx
import pytest
from fastapi import Depends, FastAPI
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from agentguard.errors import ConfigurationError
from agentguard.resource_server import (
    InsufficientScope,
    TokenMiddleware,
    TokenVerifier,
    VerifiedToken,
    body,
    path,
    query,
    require_call,
)
from tests.resource_server.forging import AUDIENCE, ISSUER, KEYS, NOW, token, verifier
from tests.resource_server.test_calls import entry

pytestmark = pytest.mark.anyio
VERIFIER = TokenVerifier(KEYS, ISSUER, AUDIENCE)
REFUND = require_call(
    "refund.create",
    resource="account/{account}",
    account=path("account"),
    amount=body("amount", convert=Decimal),
)
STEPS = [{"step": "refund", "args": {"account": {"eq": "acme"}, "amount": {"max": "50"}}}]


class Body(BaseModel):
    amount: Decimal


def fastapi_app() -> Any:
    app = FastAPI()
    app.add_middleware(TokenMiddleware, verifier=VERIFIER)

    @app.post("/accounts/{account}/refunds")
    async def _refund(account: str, sent: Body, held: Annotated[VerifiedToken, Depends(REFUND)]) -> dict[str, str]:
        return {"refunded": f"{account} {sent.amount} for {held.subject}"}

    return app


async def _endpoint(request: Request) -> JSONResponse:
    held = await REFUND(request)
    sent = Decimal(str((await request.json())["amount"]))
    return JSONResponse({"refunded": f"{request.path_params['account']} {sent} for {held.subject}"})


def starlette_app() -> Any:
    app = Starlette(routes=[Route("/accounts/{account}/refunds", _endpoint, methods=["POST"])])
    app.add_middleware(TokenMiddleware, verifier=VERIFIER)
    return app


def asgi_app() -> Any:
    async def inner(scope: Any, receive: Any, send: Any) -> None:
        sent = Decimal(str((await Request(scope, receive).json())["amount"]))
        account = scope["path_params"]["account"]
        held = scope["agentguard"]
        await JSONResponse({"refunded": f"{account} {sent} for {held.subject}"})(scope, receive, send)

    class Protected:
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            await REFUND.protect(inner, max_body=1000)(scope, receive, send)

    app = Starlette(routes=[Route("/accounts/{account}/refunds", Protected(), methods=["POST"])])
    app.add_middleware(TokenMiddleware, verifier=VERIFIER)
    return app


async def pay(
    make: Callable[[], Any],
    content: bytes = b'{"amount": 49.90}',
    account: str = "acme",
    media: str = "application/json",
    **claims: Any,
) -> httpx.Response:
    now = int(time.time())
    claims.setdefault("authorization_details", [entry(steps=STEPS)])
    text = token(iat=now, exp=now + 30, agentguard_resource="account/acme", **claims)
    headers = {"Authorization": f"Bearer {text}", "Content-Type": media}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(make()), base_url="http://api.test") as client:
        return await client.post(f"/accounts/{account}/refunds", content=content, headers=headers)


APPS = pytest.mark.parametrize("make", [fastapi_app, starlette_app, asgi_app])


@APPS
@pytest.mark.parametrize("content", [b'{"amount": 49.90}', b'{"amount": "49.90"}', b'{"amount": 50, "more": 1}'])
async def test_a_request_that_the_token_covers_reaches_the_app_with_its_body(
    make: Callable[[], Any], content: bytes
) -> None:
    answer = await pay(make, content)

    amount = Decimal(str(json.loads(content)["amount"]))
    assert (answer.status_code, answer.json()) == (200, {"refunded": f"acme {amount} for user:alice"}) or (
        content == b'{"amount": 49.90}' and answer.json() == {"refunded": "acme 49.9 for user:alice"}
    )


@pytest.mark.control("RFC 9396: the amount is checked where the money is")
@APPS
@pytest.mark.parametrize(
    ("content", "account"),
    [
        (b'{"amount": 50.01}', "acme"),
        (b'{"amount": 50.000000000000000000000001}', "acme"),
        (b'{"amount": 49.90}', "evil"),
        (b'{"amount": 49.90}', "acme%2F..%2Fevil"),
        (b'{"amount": 1, "amount": 999}', "acme"),
        (b'{"amount": 1e400}', "acme"),
        (b'{"amount": "NaN"}', "acme"),
        (b'{"amount": "a lot"}', "acme"),
        (b'{"amount": null}', "acme"),
        (b'{"amount": [1]}', "acme"),
        (b"{}", "acme"),
        (b"[1]", "acme"),
        (b"", "acme"),
        (b"\xff\xfe", "acme"),
        (b'{"amount": 1, "x": ' + b"[" * 50 + b"]" * 50 + b"}", "acme"),
    ],
)
async def test_a_request_that_the_token_does_not_cover_is_refused(
    make: Callable[[], Any], content: bytes, account: str
) -> None:
    answer = await pay(make, content, account)

    # What FastAPI cannot read at all it refuses itself, before any dependency.
    assert answer.status_code in ((403, 404, 422) if make is fastapi_app else (403, 404))
    if answer.status_code == 403:
        assert 'error="insufficient_scope"' in answer.headers["WWW-Authenticate"]


@pytest.mark.control("RFC 9396: no entry, no call")
@APPS
async def test_a_token_without_details_is_refused(make: Callable[[], Any]) -> None:
    answer = await pay(make, authorization_details=[{"type": "openid"}])

    assert (answer.status_code, answer.json()["error"]) == (403, "insufficient_scope")


@pytest.mark.parametrize("make", [starlette_app, asgi_app])
@pytest.mark.parametrize("media", ["", "application/x-www-form-urlencoded", "text/plain", "multipart/form-data"])
async def test_a_body_that_says_it_is_something_else_is_refused(make: Callable[[], Any], media: str) -> None:
    assert (await pay(make, media=media)).status_code == 403


@pytest.mark.control("RFC 9396: the amount is checked where the money is")
@pytest.mark.parametrize("make", [starlette_app, asgi_app])
@pytest.mark.parametrize(
    "media",
    [
        "application/json; charset=utf-7",
        'application/json;Charset="utf-7"',
        "application/json; charset=utf-8; charset=utf-7",
        "application/json; charset*=us-ascii''utf-7",
        "application/json; charset=utf-8x",
    ],
)
async def test_a_body_in_another_charset_is_refused(make: Callable[[], Any], media: str) -> None:
    content = b'{"amount": 1, "+AGEAbQBvAHUAbgB0-": 999}'
    assert json.loads(content.decode("utf-7")) == {"amount": 999}

    assert (await pay(make, content, media=media)).status_code == 403


@pytest.mark.parametrize("make", [starlette_app, asgi_app])
@pytest.mark.parametrize(
    "media", ["application/json; charset=UTF-8", 'Application/JSON ;charset = "utf8"', "application/ld+json; profile=x"]
)
async def test_a_body_that_is_json_in_utf8_is_read(make: Callable[[], Any], media: str) -> None:
    assert (await pay(make, media=media)).status_code == 200


async def nowhere(message: Any) -> None:
    raise AssertionError(message)


async def test_two_content_types_are_refused() -> None:
    async def inner(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError("reached")

    async def sent() -> dict[str, Any]:
        return {"type": "http.request", "body": b'{"amount": 1}'}

    media = [(b"content-type", b"application/json"), (b"content-type", b"application/x-www-form-urlencoded")]
    scope = {"type": "http", "headers": media, "agentguard": held(), "path_params": {"account": "acme"}}
    with pytest.raises(InsufficientScope, match="application/json"):
        await REFUND.protect(inner)(scope, sent, nowhere)


async def test_a_body_over_the_bound_is_refused() -> None:
    assert (await pay(asgi_app, b'{"amount": 1, "x": "' + b"y" * 2000 + b'"}')).status_code == 403


async def test_without_the_middleware_it_is_a_mistake_and_not_a_pass() -> None:
    app = Starlette(routes=[Route("/accounts/{account}/refunds", _endpoint, methods=["POST"])])

    with pytest.raises(ConfigurationError, match="TokenMiddleware"):
        await pay(lambda: app)


async def test_an_app_that_is_protected_as_a_whole_starts_and_stops() -> None:
    sent: list[str] = []
    received = iter(["lifespan.startup", "lifespan.shutdown"])

    async def receive() -> dict[str, Any]:
        return {"type": next(received)}

    async def send(message: Any) -> None:
        sent.append(message["type"])

    await TokenMiddleware(REFUND.protect(Starlette()), VERIFIER)({"type": "lifespan", "app": None}, receive, send)

    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


async def test_only_http_is_protected_and_a_client_that_leaves_gets_nothing() -> None:
    async def inner(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError("reached")

    async def gone() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    scope = {"type": "http", "headers": [], "agentguard": held()}
    with pytest.raises(ConfigurationError, match="http requests"):
        await REFUND.protect(inner)({"type": "websocket"}, gone, nowhere)
    with pytest.raises(InsufficientScope, match="ended"):
        await REFUND.protect(inner)(scope, gone, nowhere)


def held(**changes: Any) -> VerifiedToken:
    details = [entry(steps=STEPS, **changes)]
    return verifier().verify(token(authorization_details=details, agentguard_resource="account/acme"), NOW)


async def test_by_hand_for_other_frameworks() -> None:
    by_hand = require_call(
        "refund.create",
        resource="account/{account}",
        account=query("account"),
        amount=body("transfer", 0, "amount", convert=Decimal),
    )
    content = b'{"transfer": [{"amount": "7"}]}'

    by_hand.check(held(), query="account=acme&x=1", body=content)
    by_hand.check(held(), query=b"account=acme", body=content)
    for text in ("account=evil", "account=acme&account=evil", "account=", "", "account=acme%ff", "account=%C3%28"):
        with pytest.raises(InsufficientScope):
            by_hand.check(held(), query=text, body=content)
    for wrong in (b'{"transfer": []}', b'{"transfer": {"0": {"amount": 7}}}', b'{"transfer": [7]}', b'{"transfer": 7}'):
        with pytest.raises(InsufficientScope):
            by_hand.check(held(), query="account=acme", body=wrong)


async def test_a_default_is_what_the_tool_takes_where_it_is_left_out() -> None:
    with_note = require_call(
        "refund.create",
        resource="account/{account}",
        account=path("account"),
        amount=body("amount"),
        note=body("note", default=""),
    )
    exact = held(arguments={"account": "acme", "amount": "7", "note": ""})
    for content in (b'{"amount": 7}', b'{"amount": 7, "note": ""}'):
        with_note.check(held(), path={"account": "acme"}, body=content)
        with_note.check(exact, path={"account": "acme"}, body=content)
    for one in (held(), exact):
        with pytest.raises(InsufficientScope):
            with_note.check(one, path={"account": "acme"}, body=b'{"amount": 7, "note": "x"}')


async def test_mistakes_of_the_api_are_told() -> None:
    for mistake in (
        lambda: require_call("Refund"),
        lambda: require_call("refund", account="account"),  # type: ignore[arg-type]  # the mistake in question
        lambda: require_call("refund", resource="account/{account}"),
        lambda: require_call("refund", unchecked="note"),
        lambda: body(),
    ):
        with pytest.raises(ConfigurationError):
            mistake()
    assert repr(REFUND) == "<RequiredCall refund.create account, amount>"
