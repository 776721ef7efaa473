"""ASGI middleware: no request and no websocket reaches the app without a verified token (RFC 6750).

Put it inside the framework, `app.add_middleware(TokenMiddleware, verifier=...)`: around the whole app, the framework
has answered 500 before an `InsufficientScope` gets here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import anyio
import anyio.to_thread

from agentguard._jwt import Rejection
from agentguard.errors import ConfigurationError, TokenRejected
from agentguard.resource_server.verifier import InsufficientScope, TokenVerifier, VerifiedToken

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

REVOCATION_SECONDS: Final = 5.0
_B64TOKEN: Final = re.compile(rb"[A-Za-z0-9._~+/-]+=*")
_UNQUOTABLE: Final = re.compile(r"[^\x20\x21\x23-\x5b\x5d-\x7e]")
_STARTS: Final = frozenset(
    {"http.response.start", "websocket.accept", "websocket.close", "websocket.http.response.start"}
)


@dataclass(frozen=True, slots=True)
class _Refusal:
    error: str = ""
    why: str = ""
    scope: str = ""

    @property
    def status(self) -> int:
        return TokenRejected.statuses.get(self.error, 401)


class TokenMiddleware:
    """Lets requests and websockets with a verified Bearer token through; `scope["agentguard"]` is the VerifiedToken.

    The same stands in `request.state.agentguard` of Starlette and FastAPI. An `InsufficientScope` that the app raises
    before its response started is answered with 403. The token is read from exactly one Authorization header, never
    from the query, a cookie or the body.

    Args:
        app: the ASGI app that is protected.
        verifier: verifies; if it asks about revocation it runs on a thread, five seconds at most.
        realm: for the challenge.
        resource_metadata: URL of the protected resource metadata, for the challenge (RFC 9728 section 5.1).
        public_paths: exact values of `scope["path"]` that need no token; CORS middleware goes outside.

    Raises:
        ConfigurationError: a value that cannot stand in a header, or a path that does not begin with a slash.
    """

    def __init__(
        self,
        app: App,
        verifier: TokenVerifier,
        *,
        realm: str = "",
        resource_metadata: str | None = None,
        public_paths: Collection[str] = (),
    ) -> None:
        for name, value in (("realm", realm), ("resource_metadata", resource_metadata or "")):
            if _UNQUOTABLE.search(value):
                raise ConfigurationError(f"{name} {value!r}: use printable ASCII without quotes and backslashes")
        if isinstance(public_paths, str) or not all(path.startswith("/") for path in public_paths):
            raise ConfigurationError('public_paths is a list of exact paths: public_paths=["/health"]')
        self._app, self._verifier = app, verifier
        self._realm, self._metadata = realm, resource_metadata or ""
        self._public = frozenset(public_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind == "lifespan":
            await self._app(scope, receive, send)
            return
        if kind not in ("http", "websocket"):
            raise ConfigurationError(f"TokenMiddleware protects http and websocket, not {kind!r}")
        if scope["path"] in self._public:
            await self._app(scope, receive, send)
            return
        outcome = await self._outcome(scope)
        if isinstance(outcome, VerifiedToken):
            # A copy: where a server shares one state among requests, nobody sees another's token.
            state = {**scope.get("state", {}), "agentguard": outcome}
            refusal = await self._run({**scope, "state": state, "agentguard": outcome}, receive, send)
        else:
            refusal = outcome
        if refusal is not None:
            await self._refuse(refusal, scope, send)

    async def _outcome(self, scope: Scope) -> VerifiedToken | _Refusal:
        token = _bearer_token(scope)
        if isinstance(token, _Refusal):
            return token
        outcome: VerifiedToken | Rejection = Rejection("revocation could not be checked")
        if self._verifier.may_block:
            with anyio.move_on_after(REVOCATION_SECONDS):
                outcome = await anyio.to_thread.run_sync(self._verifier.examine, token, abandon_on_cancel=True)
        else:
            outcome = self._verifier.examine(token)
        return _Refusal(outcome.error, outcome.why) if isinstance(outcome, Rejection) else outcome

    async def _run(self, scope: Scope, receive: Receive, send: Send) -> _Refusal | None:
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = started or message["type"] in _STARTS
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except TokenRejected as rejected:
            if started:
                raise
            error = rejected.error if rejected.error in TokenRejected.statuses else "invalid_token"
            return _Refusal(error, rejected.why, rejected.scope if isinstance(rejected, InsufficientScope) else "")
        return None

    async def _refuse(self, refusal: _Refusal, scope: Scope, send: Send) -> None:
        body = b""
        if refusal.error:
            body = json.dumps({"error": refusal.error, "error_description": refusal.why}).encode()
        prefix = "http"
        if scope["type"] == "websocket":
            if "websocket.http.response" not in scope.get("extensions", {}):
                await send({"type": "websocket.close", "code": 1008})
                return
            prefix = "websocket.http"
        headers = [
            (b"www-authenticate", self._challenge(refusal).encode("ascii")),
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"cache-control", b"no-store"),
        ]
        await send({"type": f"{prefix}.response.start", "status": refusal.status, "headers": headers})
        await send({"type": f"{prefix}.response.body", "body": body})

    def _challenge(self, refusal: _Refusal) -> str:
        parameters = {
            "realm": self._realm,
            "error": refusal.error,
            "error_description": refusal.why,
            "scope": refusal.scope,
            "resource_metadata": self._metadata,
        }
        given = (f'{name}="{_UNQUOTABLE.sub("?", value)}"' for name, value in parameters.items() if value)
        return f"Bearer {', '.join(given)}".rstrip()


def _bearer_token(scope: Scope) -> str | _Refusal:
    values = [value for name, value in scope["headers"] if name.lower() == b"authorization"]
    if any(pair.partition(b"=")[0] == b"access_token" for pair in scope.get("query_string", b"").split(b"&")):
        return _Refusal("invalid_request", "a token belongs into the Authorization header, never into the query")
    if len(values) > 1:
        return _Refusal("invalid_request", "there is more than one Authorization header")
    scheme, _, credentials = (values[0] if values else b"").partition(b" ")
    if scheme.lower() != b"bearer":
        return _Refusal()  # RFC 6750 section 3.1: no error code where no usable authentication was attempted
    token = credentials.strip(b" ")
    if not _B64TOKEN.fullmatch(token):
        return _Refusal("invalid_request", "the Authorization header is no Bearer followed by one token")
    return token.decode("ascii")
