"""ASGI middleware: the task that another process handed on is open while the app answers the request."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import anyio.to_thread

from agentguard._jwt import Rejection
from agentguard.errors import ConfigurationError, Denied, TokenRejected
from agentguard.model.principal import checked_name
from agentguard.transports.headers import HEADER, token_in
from agentguard.transports.tracing import arriving

if TYPE_CHECKING:
    from agentguard.guard import Guard
    from agentguard.task import Task

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

_NAME = HEADER.lower().encode()


class ResumeTask:
    """Opens the task of each request's handover around the app, and ends it when the response is complete.

    A request without a handover that can be used is answered with 401, one whose handover is refused here with 403,
    both as JSON `{"error", "error_description"}`. The task ends, and its credentials with it, when the app returns,
    raises or is cancelled, also while it streams. The app sees no `Txn-Token`. Websockets are refused: one handover is
    one piece of work.

    Args:
        app: the ASGI app.
        guard: takes the tasks; its `Handovers` name the peers.
        agent: the agent that works here; a handover for another one is refused.
        trusted: peers, by issuer, whose traces are continued; the others' requests start a trace of their own, with a
            link to theirs.

    Raises:
        ConfigurationError: `agent` is no name, or the guard takes no tasks.
    """

    def __init__(self, app: App, guard: Guard, *, agent: str, trusted: Collection[str] = ()) -> None:
        if guard.handovers is None or not guard.handovers.peers:
            raise ConfigurationError(
                "this guard takes no tasks; configure `handovers` with peers in agentguard.yaml, or "
                "Guard(handovers=Handovers(peers={issuer: KeySet...}))"
            )
        if isinstance(trusted, str) or (unknown := sorted(set(trusted) - set(guard.handovers.peers))):
            named = trusted if isinstance(trusted, str) else ", ".join(unknown)
            raise ConfigurationError(f"trusted lists issuers that are among the guard's peers; {named!r} is not")
        self._app, self._guard = app, guard
        self._agent, self._trusted = checked_name(agent, "agent"), frozenset(trusted)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await _refuse_websocket(scope, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)
        else:
            raise ConfigurationError(f"ResumeTask takes http, not {scope['type']!r}")

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        task = await self._resumed(scope)
        if isinstance(task, Exception):
            await _refuse(task, send)
            return
        headers = [(name, value) for name, value in scope["headers"] if name.lower() != _NAME]
        trusted = task.arrival is not None and task.arrival.issuer in self._trusted
        async with AsyncExitStack() as stack:
            stack.enter_context(arriving(self._agent, headers, trusted=trusted))
            try:
                await stack.enter_async_context(task)
            except (TokenRejected, Denied) as refused:
                refusal = refused.with_traceback(None)
            else:
                await self._app({**scope, "headers": headers}, receive, send)
                return
        await _refuse(refusal, send)

    async def _resumed(self, scope: Scope) -> Task | TokenRejected | Denied:
        token = token_in(scope["headers"])
        if isinstance(token, Rejection):
            return token.raised()
        try:  # its intents are parsed, which takes milliseconds
            return await anyio.to_thread.run_sync(partial(self._guard.resume, token, agent=self._agent))
        except (TokenRejected, Denied) as refused:
            return refused.with_traceback(None)


async def _refuse(error: TokenRejected | Denied, send: Send) -> None:
    if isinstance(error, TokenRejected):
        status, code, why = error.status, error.error, error.why
    else:
        status, code, why = 403, error.reason, error.public
    body = json.dumps({"error": code, "error_description": why}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _refuse_websocket(scope: Scope, send: Send) -> None:
    why = "a task is handed on with one request; websockets are not supported"
    if "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": 1008, "reason": why})
        return
    body = json.dumps({"error": "invalid_request", "error_description": why}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "websocket.http.response.start", "status": 400, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": body})
