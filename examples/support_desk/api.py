"""The payments API: a server of its own, which accepts the guard's tokens and nothing else."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from urllib.parse import quote

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from agentguard import Guard
from agentguard.resource_server import InsufficientScope, TokenMiddleware, TokenVerifier, VerifiedToken


@dataclass(frozen=True, slots=True)
class Booking:
    """A refund that was paid out, and who asked for it."""

    account: str
    amount: Decimal
    chain: str


class PaymentsApi:
    """Books refunds. It verifies signature, audience, scope, resource and amount of every request by itself.

    Args:
        verifier: verifies tokens, and asks whether they were revoked.
    """

    def __init__(self, verifier: TokenVerifier) -> None:
        self.booked: list[Booking] = []
        self.arrived = threading.Event()
        self.stolen = ""  # the demo only: what somebody who reads this server's traffic would hold
        routes = [
            Route("/refunds", self._refund, methods=["POST"]),
            Route("/refunds/{account}/confirmation", self._confirmation),
        ]
        self.app = Starlette(routes=routes, middleware=[Middleware(TokenMiddleware, verifier=verifier)])

    async def _refund(self, request: Request) -> JSONResponse:
        token: VerifiedToken = request.state.agentguard
        try:
            asked = _values(await request.json())
        except (ValueError, TypeError, KeyError, ArithmeticError):
            return JSONResponse({"error": "send an account and an amount"}, status_code=400)
        token.require("refunds:write", f"account/{quote(asked[0], safe='')}")
        if [_values(detail["arguments"]) for detail in token.details] != [asked]:  # RFC 9396: this call, no other
            raise InsufficientScope("refunds:write", "the token is for other values")
        self.booked.append(Booking(*asked, token.chain_text))
        return JSONResponse({"refund": len(self.booked)}, status_code=201)

    async def _confirmation(self, request: Request) -> JSONResponse:
        token: VerifiedToken = request.state.agentguard
        token.require("refunds:read", f"account/{quote(request.path_params['account'], safe='')}")
        self.stolen = request.headers["authorization"].removeprefix("Bearer ")
        self.arrived.set()
        while (await request.receive())["type"] != "http.disconnect":
            pass  # the bank takes longer than anybody waits
        return JSONResponse({})


def _values(order: Mapping[str, str]) -> tuple[str, Decimal]:
    return str(order["account"]), Decimal(order["amount"])


def revocations(guard: Guard) -> Starlette:
    """The guard's answer to `is this token revoked?`, as a small server in the agent's process."""

    async def revoked(request: Request) -> JSONResponse:
        token = await request.json()
        return JSONResponse({"revoked": guard.revoked(token["iss"], token["jti"])})

    return Starlette(routes=[Route("/revoked", revoked, methods=["POST"])])


@contextmanager
def asking(origin: str) -> Iterator[Callable[[str, str], bool]]:
    """What the API asks at every request; an error or a timeout refuses the token."""
    with httpx.Client(base_url=origin, timeout=2, trust_env=False) as client:

        def ask(issuer: str, jti: str) -> bool:
            answer = client.post("/revoked", json={"iss": issuer, "jti": jti}).raise_for_status().json()
            return bool(answer["revoked"])

        yield ask


def listener() -> tuple[socket.socket, str]:
    """A listening socket on a free port of the loopback interface, and its origin."""
    found = socket.create_server(("127.0.0.1", 0))
    return found, f"http://127.0.0.1:{found.getsockname()[1]}"


@contextmanager
def serving(app: Any, on: socket.socket) -> Iterator[None]:
    """Serve an ASGI app on a thread until the block ends."""
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off", timeout_graceful_shutdown=2))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [on]}, name="server", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.should_exit = True
        thread.join(10)
        on.close()
