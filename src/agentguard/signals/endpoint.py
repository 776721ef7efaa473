"""The ASGI app that security event tokens are pushed to (RFC 8935)."""

from __future__ import annotations

import hmac
import json
import logging
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any, Final, TypeAlias

import anyio

from agentguard._jwt import MAX_TOKEN
from agentguard.errors import ConfigurationError, Unavailable
from agentguard.model.lease import Secret
from agentguard.signals.receiver import SetReceiver
from agentguard.signals.token import Fault, SetRejected

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]

_log: Final = logging.getLogger("agentguard")
BODY_SECONDS: Final = 10.0
ACT_SECONDS: Final = 30.0
_SHORTEST: Final = 16


class SetEndpoint:
    """Answers pushed SETs: 202 once everything is done, 400 with `err` and `description` for what is refused.

    503 says that a SET could not be verified or acted on, so that it is delivered again. Nothing of a body is logged.
    Put it behind TLS, at a path of its own: `Mount("/events", SetEndpoint(receiver, bearer=[token]))`.

    Args:
        receiver: verifies and acts.
        bearer: tokens of which the transmitter sends one (RFC 6750 section 2.1): two while one replaces the other; none
            where the signature alone authenticates the transmitter.
        body_seconds: for reading a request's body.
        act_seconds: for verifying and acting on it.

    Raises:
        ConfigurationError: a bearer token is no Secret of at least 16 ASCII characters without spaces.
    """

    def __init__(
        self,
        receiver: SetReceiver,
        *,
        bearer: Collection[Secret] = (),
        body_seconds: float = BODY_SECONDS,
        act_seconds: float = ACT_SECONDS,
    ) -> None:
        if not all(_is_token(token) for token in bearer):
            raise ConfigurationError("bearer is a list of Secrets of at least 16 printable ASCII characters")
        for name, value in (("body_seconds", body_seconds), ("act_seconds", act_seconds)):
            if not 0 < value <= 300:
                raise ConfigurationError(f"{name} {value!r}: write seconds above 0, at most 300")
        self._receiver, self._bearer = receiver, tuple(bearer)
        self._body_seconds, self._act_seconds = body_seconds, act_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        elif scope["type"] != "http":
            raise ConfigurationError(f"SetEndpoint answers http, not {scope['type']!r}")
        elif scope["method"] != "POST":
            await _answer(send, 405, extra=[(b"allow", b"POST")])
        else:
            await self._post(scope, receive, send)

    async def _post(self, scope: Scope, receive: Receive, send: Send) -> None:
        fault: Fault | str | None = self._request_fault(scope)
        if fault is None:
            body = await self._body(receive)
            if body is None:
                return  # the transmitter is gone
            fault = body if isinstance(body, Fault) else await self._received(body)
        if isinstance(fault, Fault):
            _log.warning("a pushed security event was refused: %s: %s", fault.err, fault.description)
            await _answer(send, 400, {"err": fault.err, "description": fault.description})
        elif fault is not None:
            _log.error("a pushed security event was not acted on, and is to be delivered again: %s", fault)
            await _answer(send, 503, extra=[(b"retry-after", b"5")])
        else:
            await _answer(send, 202)

    def _request_fault(self, scope: Scope) -> Fault | None:
        if self._bearer and not self._is_authenticated(_values(scope, b"authorization")):
            return Fault("authentication_failed", "send the agreed token in one Authorization header, as Bearer")
        media = _values(scope, b"content-type")
        if len(media) != 1 or media[0].partition(b";")[0].strip().lower() != b"application/secevent+jwt":
            return Fault("invalid_request", "the content type is application/secevent+jwt")
        if _values(scope, b"content-encoding"):
            return Fault("invalid_request", "the body is sent without a content encoding")
        return None

    def _is_authenticated(self, values: list[bytes]) -> bool:
        scheme, _, sent = (values[0] if len(values) == 1 else b"").partition(b" ")
        # Every token is compared, so that the time says nothing about which one it was.
        fits = [hmac.compare_digest(token.reveal().encode(), sent.strip(b" ")) for token in self._bearer]
        return scheme.lower() == b"bearer" and any(fits)

    async def _body(self, receive: Receive) -> bytes | Fault | None:
        body: bytes = b""
        with anyio.move_on_after(self._body_seconds):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return None
                body += message.get("body", b"")
                if len(body) > MAX_TOKEN:
                    return Fault("invalid_request", f"a SET has at most {MAX_TOKEN} characters")
                if not message.get("more_body", False):
                    return body
        return Fault("invalid_request", "the body did not come in time")

    async def _received(self, body: bytes) -> Fault | str | None:
        try:
            token = body.decode("ascii")
        except UnicodeDecodeError:
            return Fault("invalid_request", "a SET is ASCII text")
        outcome: Fault | str | None = "there was not enough time"
        with anyio.move_on_after(self._act_seconds):
            try:
                await self._receiver.receive(token)
                outcome = None
            except SetRejected as rejected:
                outcome = Fault(rejected.err, rejected.description)
            except Unavailable as error:
                outcome = str(error)
            except Exception as bug:  # its text may hold what was sent
                outcome = type(bug).__name__
        return outcome


def _is_token(token: object) -> bool:
    text = token.reveal() if isinstance(token, Secret) else ""
    return len(text) >= _SHORTEST and text.isascii() and text.isprintable() and " " not in text


def _values(scope: Scope, name: bytes) -> list[bytes]:
    return [value for key, value in scope["headers"] if key.lower() == name]


async def _answer(
    send: Send, status: int, members: dict[str, str] | None = None, extra: Collection[tuple[bytes, bytes]] = ()
) -> None:
    body = b"" if members is None else json.dumps(members).encode()
    headers = [(b"content-length", str(len(body)).encode()), (b"cache-control", b"no-store"), *extra]
    if members is not None:
        # RFC 8935 section 2.4: the language of the description is said.
        headers += [(b"content-type", b"application/json"), (b"content-language", b"en")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
