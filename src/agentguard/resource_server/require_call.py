"""Says once what in a request is which argument, and checks every request against its token (`check_call`).

    refund = require_call("refund.create", resource="account/{account}",
                          account=path("account"), amount=body("amount", Decimal))

FastAPI: `Depends(refund)`. Starlette: `await refund(request)` first in the endpoint. ASGI: `refund.protect(app)`.
Anything else: `refund.check(token, path=..., query=..., body=...)`.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Awaitable, Callable, Collection, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from types import MappingProxyType
from typing import Any, Final, TypeAlias
from urllib.parse import parse_qsl

from agentguard._json import NotStrictJSON, strict_json
from agentguard.errors import ConfigurationError, NotCanonical
from agentguard.model.call import ToolSpec
from agentguard.model.canonical import canonical
from agentguard.resource_server.calls import check_call
from agentguard.resource_server.rejection import InsufficientScope
from agentguard.resource_server.verifier import VerifiedToken

MAX_BODY: Final = 1 << 20
_UTF8: Final = re.compile(r';[ \t]*charset[ \t]*=[ \t]*(?:utf-?8|"utf-?8")[ \t]*(?=;|\Z)')
_LEFT_OUT: Final[Any] = type("LeftOut", (), {"__slots__": (), "__repr__": lambda self: "<left out>"})()
_NOTHING: Final[Mapping[str, object]] = MappingProxyType({})
Convert: TypeAlias = Callable[[Any], object]
Message: TypeAlias = MutableMapping[str, Any]
App: TypeAlias = Callable[
    [Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]
]


@dataclass(frozen=True, slots=True)
class Field:
    """Where an argument stands in a request; made by `path`, `query` and `body`."""

    place: str
    keys: tuple[str | int, ...]
    convert: Convert | None
    default: Any

    def read(self, parts: Mapping[str, Any], argument: str) -> Any:
        """Return the value, converted, or a marker where it was left out.

        Raises:
            InsufficientScope: it is not there as it has to be, so that it could not be compared.
        """
        value: Any = parts[self.place]
        for key in self.keys:
            try:
                fits = isinstance(value, dict if isinstance(key, str) else list)
                value = value[key] if fits else _LEFT_OUT
            except (KeyError, IndexError):
                value = _LEFT_OUT
        if value is _LEFT_OUT or self.convert is None:
            return value
        try:
            return self.convert(value)
        except Exception:  # whatever a converter raises, and its text may hold the value
            problem = f"the argument {argument} of the request has another form than it needs"
        raise InsufficientScope("", problem)


def path(name: str, convert: Convert | None = None) -> Field:
    """Take an argument from a parameter of the route.

    Args:
        name: of the route's parameter.
        convert: makes the value that is compared, such as `Decimal`.
    """
    return Field("path", (name,), convert, _LEFT_OUT)


def query(name: str, convert: Convert | None = None, *, default: Any = _LEFT_OUT) -> Field:
    """Take an argument from the query; a name that is there twice refuses the request.

    Args:
        name: in the query.
        convert: makes the value that is compared.
        default: what the tool takes where it is left out.
    """
    return Field("query", (name,), convert, default)


def body(*keys: str | int, convert: Convert | None = None, default: Any = _LEFT_OUT) -> Field:
    """Take an argument from a JSON body.

    Args:
        keys: the member, or the way to it: `body("transfer", "amount")`.
        convert: makes the value that is compared: `Decimal` where clients write amounts as text.
        default: what the tool takes where it is left out.

    Raises:
        ConfigurationError: no key.
    """
    if not keys:
        raise ConfigurationError('name the member of the body: body("amount")')
    return Field("body", keys, convert, default)


class RequiredCall:
    """A call that requests must be covered for; made by `require_call`."""

    def __init__(self, action: str, resource: str, unchecked: Collection[str], fields: Mapping[str, Field]) -> None:
        for name, field in fields.items():
            if not isinstance(field, Field):
                raise ConfigurationError(f"{name}: write where it stands: path(...), query(...) or body(...)")
        if isinstance(unchecked, str):
            raise ConfigurationError('unchecked is a list of arguments: unchecked=["note"]')
        # INVARIANT: made as the guard makes it, so the two are the same text.
        self._spec = ToolSpec(name=action, resource=resource, parameters=frozenset(fields))
        self._unchecked, self._fields = tuple(unchecked), dict(fields)
        self._defaults = {name: field.default for name, field in fields.items() if field.default is not _LEFT_OUT}
        self._reads_body = any(field.place == "body" for field in fields.values())

    def check(
        self,
        token: VerifiedToken,
        *,
        path: Mapping[str, Any] = _NOTHING,
        query: str | bytes = "",
        body: bytes = b"",
    ) -> None:
        """Return if the token covers a request.

        Args:
            token: verified.
            path: parameters of the route.
            query: the query as it was sent.
            body: as it was sent, in JSON.

        Raises:
            InsufficientScope: it does not, or the request cannot be read.
        """
        parts = {
            "path": dict(path),
            "query": _queried(query) if any(field.place == "query" for field in self._fields.values()) else {},
            "body": _parsed(body) if self._reads_body else {},
        }
        read = {name: field.read(parts, name) for name, field in self._fields.items()}
        given = {name: value for name, value in read.items() if value is not _LEFT_OUT}
        resource = self._resource({**self._defaults, **given})
        check_call(token, self._spec.name, resource, given, defaults=self._defaults, unchecked=self._unchecked)

    def _resource(self, values: Mapping[str, Any]) -> str:
        if missing := [name for name in self._spec.holes if name not in values]:
            raise InsufficientScope("", f"the request has no {missing[0]}, so it names no resource")
        try:
            exact = {name: canonical(values[name], name) for name in self._spec.holes}
        except NotCanonical as error:
            problem = str(error)
        else:
            return self._spec.resource_of(exact)
        raise InsufficientScope("", f"an argument of the request cannot be compared: {problem}")

    async def __call__(self, request: Any) -> VerifiedToken:
        """Return the token of a request of Starlette or FastAPI that it covers.

        Raises:
            InsufficientScope: it does not cover it.
            ConfigurationError: `TokenMiddleware` is not around the app.
        """
        token = _token_of(request.scope)
        content = await request.body() if self._reads_body else b""
        _refuse_other_media(self._reads_body, request.headers.getlist("content-type"))
        self.check(token, path=request.path_params, query=request.scope.get("query_string", b""), body=content)
        return token

    @property
    def __signature__(self) -> inspect.Signature:
        """What FastAPI reads: one parameter, the request."""
        from starlette.requests import Request as Annotation

        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        return inspect.Signature([inspect.Parameter("request", kind, annotation=Annotation)])

    def protect(self, app: App, *, max_body: int = MAX_BODY) -> App:
        """Return an ASGI app that lets only covered requests, and its own lifespan, through to another.

        Args:
            app: gets the request with its body, which was read meanwhile.
            max_body: most bytes of a body.
        """

        async def protected(scope: Message, receive: Any, send: Any) -> None:
            if scope["type"] == "lifespan":
                await app(scope, receive, send)
                return
            if scope["type"] != "http":
                raise ConfigurationError(f"require_call checks http requests, not {scope['type']!r}")
            token = _token_of(scope)
            content = await _read(receive, max_body) if self._reads_body else None
            media = [value.decode("latin-1") for name, value in scope["headers"] if name.lower() == b"content-type"]
            _refuse_other_media(self._reads_body, media)
            self.check(
                token, path=scope.get("path_params", {}), query=scope.get("query_string", b""), body=content or b""
            )
            await app(scope, receive if content is None else _again(content, receive), send)

        return protected

    def __repr__(self) -> str:
        return f"<RequiredCall {self._spec.name} {', '.join(self._fields)}>"


def require_call(
    action: str, /, *, resource: str = "", unchecked: Collection[str] = (), **arguments: Field
) -> RequiredCall:
    """Return what checks requests for one tool.

    Args:
        action: the tool's name.
        resource: the tool's template, such as `account/{account}`; its holes are arguments.
        unchecked: arguments of the tool that are no part of the request.
        arguments: where each argument stands in the request; one with another of these names goes in by `unchecked`.

    Raises:
        ConfigurationError: the name, the template or an argument is wrong.
    """
    return RequiredCall(action, resource, unchecked, arguments)


def _token_of(scope: Message) -> VerifiedToken:
    token = scope.get("agentguard")
    if not isinstance(token, VerifiedToken):
        raise ConfigurationError("no token was verified for this request; add TokenMiddleware around the app")
    return token


def _refuse_other_media(reads_body: bool, media: Sequence[str]) -> None:
    # A framework may read the same bytes as a form, or in another charset, as another JSON: so they are compared only
    # as what they say they are, once.
    if reads_body and not (len(media) == 1 and _is_json_in_utf8(media[0].lower())):
        raise InsufficientScope("", "the body of the request is not application/json, so it cannot be checked")


def _is_json_in_utf8(media: str) -> bool:
    plain, _, rest = media.partition(";")
    json_type = plain.strip() == "application/json" or plain.strip().endswith("+json")
    return json_type and "charset" not in _UTF8.sub(";", f";{rest}", count=1)


def _parsed(content: bytes) -> dict[str, Any]:
    """Return a body as JSON that every parser reads alike, numbers exactly."""
    try:
        strict_json(content)
        found: dict[str, Any] = json.loads(content, parse_float=Decimal)
    except (NotStrictJSON, ValueError, ArithmeticError):
        found = {"": None}
    if "" in found:
        raise InsufficientScope("", "the body of the request is no strict JSON object, so it cannot be checked")
    return found


def _queried(text: str | bytes) -> dict[str, str]:
    try:
        plain = text.decode("ascii") if isinstance(text, bytes) else text
        pairs = parse_qsl(plain, keep_blank_values=True, errors="strict", max_num_fields=1000)
    except ValueError:
        pairs = [("", ""), ("", "")]
    found = dict(pairs)
    if len(found) != len(pairs):
        raise InsufficientScope("", "the query of the request is malformed, or has a name twice")
    return found


async def _read(receive: Callable[[], Awaitable[Message]], most: int) -> bytes:
    content = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise InsufficientScope("", "the request ended before its body was complete")
        content += message.get("body", b"")
        if len(content) > most:
            raise InsufficientScope("", f"the body of the request is larger than {most} bytes, so it is not checked")
        if not message.get("more_body", False):
            return bytes(content)


def _again(content: bytes, receive: Callable[[], Awaitable[Message]]) -> Callable[[], Awaitable[Message]]:
    given = False

    async def replayed() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": content, "more_body": False}

    return replayed
