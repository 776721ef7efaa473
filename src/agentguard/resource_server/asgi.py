"""ASGI middleware: no request and no websocket reaches the app without a verified token (RFC 6750, RFC 9449).

Put it inside the framework, `app.add_middleware(TokenMiddleware, verifier=...)`: around the whole app, the framework
has answered 500 before an `InsufficientScope` gets here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any, Final, TypeAlias
from urllib.parse import quote

from agentguard.errors import ConfigurationError, TokenRejected
from agentguard.resource_server.dpop import DpopProofs
from agentguard.resource_server.metadata import ProtectedResource
from agentguard.resource_server.rejection import Refusal
from agentguard.resource_server.request import RequestVerifier, VerifiedRequest
from agentguard.resource_server.verifier import ASK_SECONDS, AccessTokens

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

REVOCATION_SECONDS: Final = ASK_SECONDS
_STARTS: Final = frozenset(
    {"http.response.start", "websocket.accept", "websocket.close", "websocket.http.response.start"}
)


class TokenMiddleware:
    """Lets requests and websockets with a verified token through; `scope["agentguard"]` is the VerifiedToken.

    The same stands in `request.state.agentguard` of Starlette and FastAPI. An `InsufficientScope` that the app raises
    before its response started is answered with 403. The token is read from exactly one Authorization header, never
    from the query, a cookie or the body.

    Args:
        app: the ASGI app that is protected.
        verifier: a `TokenVerifier` or an `IntrospectionVerifier`; asking others may take it five seconds at most.
        dpop, require_dpop, base_url: as in `RequestVerifier`.
        realm: for the challenge.
        resource_metadata: URL of the protected resource metadata, for the challenge (RFC 9728 section 5.1).
        metadata: the protected resource metadata itself: it is served to everybody, and its URL is in the challenge.
        public_paths: exact values of `scope["path"]` that need no token; CORS middleware goes outside.

    Raises:
        ConfigurationError: a value that cannot stand in a header, a path that does not begin with a slash, or metadata
            of another resource than the audience.
    """

    def __init__(
        self,
        app: App,
        verifier: AccessTokens,
        *,
        dpop: DpopProofs | None = None,
        require_dpop: bool = False,
        base_url: str = "",
        realm: str = "",
        resource_metadata: str | None = None,
        metadata: ProtectedResource | None = None,
        public_paths: Collection[str] = (),
    ) -> None:
        if isinstance(public_paths, str) or not all(path.startswith("/") for path in public_paths):
            raise ConfigurationError('public_paths is a list of exact paths: public_paths=["/health"]')
        if metadata is not None and metadata.resource != verifier.audience:
            raise ConfigurationError(
                f"metadata is of {metadata.resource!r} and the verifier takes tokens for {verifier.audience!r}: "
                "clients would ask for tokens that are refused here; write the same URL (RFC 8707)"
            )
        self._app, self._metadata = app, metadata
        self._public = frozenset(public_paths)
        self._requests = RequestVerifier(
            verifier,
            dpop=dpop,
            require_dpop=require_dpop,
            base_url=base_url,
            realm=realm,
            resource_metadata=metadata.url if metadata is not None else resource_metadata,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind == "lifespan":
            await self._app(scope, receive, send)
            return
        if kind not in ("http", "websocket"):
            raise ConfigurationError(f"TokenMiddleware protects http and websocket, not {kind!r}")
        if self._metadata is not None and kind == "http" and scope["path"] == self._metadata.path:
            await self._metadata(scope, receive, send)
            return
        if scope["path"] in self._public:
            await self._app(scope, receive, send)
            return
        outcome = await self._outcome(scope)
        if isinstance(outcome, VerifiedRequest):
            await self._pass(outcome, scope, receive, send)
        else:
            await self._refuse(outcome, None, scope, send)

    async def _outcome(self, scope: Scope) -> VerifiedRequest | Refusal:
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]]
        # A websocket begins as a GET (RFC 6455 section 4.1).
        method = scope.get("method", "GET") if scope["type"] == "http" else "GET"
        return await self._requests.examined(method, _target(scope), headers, seconds=REVOCATION_SECONDS)

    async def _pass(self, request: VerifiedRequest, scope: Scope, receive: Receive, send: Send) -> None:
        # A copy: where a server shares one state among requests, nobody sees another's token.
        state = {**scope.get("state", {}), "agentguard": request.token}
        added = _encoded(request.headers)
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            if message["type"] in _STARTS:
                started = True
                if added and message["type"] != "websocket.close":
                    message = {**message, "headers": [*message.get("headers", ()), *added]}
            await send(message)

        try:
            await self._app({**scope, "state": state, "agentguard": request.token}, receive, watched)
            return
        except TokenRejected as rejected:
            if started:
                raise
            refused = rejected
        await self._refuse(refused, request, scope, send)

    async def _refuse(
        self, why: Refusal | TokenRejected, request: VerifiedRequest | None, scope: Scope, send: Send
    ) -> None:
        answer = self._requests.rejected(why, request)
        prefix = "http"
        if scope["type"] == "websocket":
            if "websocket.http.response" not in scope.get("extensions", {}):
                await send({"type": "websocket.close", "code": 1008})
                return
            prefix = "websocket.http"
        await send({"type": f"{prefix}.response.start", "status": answer.status, "headers": _encoded(answer.headers)})
        await send({"type": f"{prefix}.response.body", "body": answer.body})


def _target(scope: Scope) -> str:
    """Return path and query as they were sent; the path with its percent-encoding, where the server kept it."""
    raw: bytes = scope.get("raw_path") or b""
    path = raw.partition(b"?")[0].decode("latin-1") or quote(scope["path"])
    query: bytes = scope.get("query_string", b"")
    return f"{path}?{query.decode('latin-1')}" if query else path


def _encoded(headers: Collection[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode("ascii"), value.encode("ascii")) for name, value in headers]
