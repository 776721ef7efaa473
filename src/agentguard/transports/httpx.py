"""A handover on the requests of an httpx client: exported for each, to configured origins only."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Generator, Mapping
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import urlsplit

import httpx

from agentguard.active import current_task
from agentguard.clients.placing import origin
from agentguard.errors import ConfigurationError
from agentguard.model.lease import Secret
from agentguard.transports.headers import HEADER, to_headers, without_our_ids

_LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")
_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})


class HandoverAuth(httpx.Auth):
    """httpx authentication (sync and async) that hands the active task on to an agent behind some origins.

    Each request to one of them gets a handover of its own, as each is good once; a request to any other origin gets
    none, and neither does one that follows a redirect: the token is put on the wire of this one request, and is in no
    headers mapping that httpx could copy, show or log. Our ids are taken out of the request's `baggage`.

    Args:
        to: the agent at the far side.
        origins: exact origins, such as `https://agents.bank.test`; http for loopback only.
        narrowing: keywords of `Task.export`: reads, steps, intent, ttl, redeem_within, share.
        baggage: names of baggage entries that may leave.

    Raises:
        ConfigurationError: an origin is none, or is not protected by TLS.
    """

    def __init__(
        self, to: str, *, origins: Collection[str], narrowing: Mapping[str, Any] = _NOTHING,
        baggage: Collection[str] = (),
    ) -> None:  # fmt: skip
        if isinstance(origins, str) or not origins:
            raise ConfigurationError('origins is a list of exact origins: origins=["https://agents.bank.test"]')
        self._to, self._narrowing, self._baggage = to, dict(narrowing), tuple(baggage)
        self._origins = frozenset(map(_checked, origins))

    def sync_auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Hand the active task on with a request of a `httpx.Client`."""
        self._strip(request)
        if origin(str(request.url)) in self._origins:
            self._put(request, Secret(current_task().export(self._to, **self._narrowing)))
        yield request

    async def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
        """Hand the active task on with a request of a `httpx.AsyncClient`."""
        self._strip(request)
        if origin(str(request.url)) in self._origins:
            self._put(request, Secret(await current_task().aexport(self._to, **self._narrowing)))
        yield request

    def _strip(self, request: httpx.Request) -> None:
        if isinstance(request.headers, _WireHeaders):  # it was sent before, and may go elsewhere now
            request.headers = httpx.Headers(request.headers)
        request.headers.pop(HEADER, None)
        if "baggage" in request.headers:
            left = without_our_ids(request.headers.pop("baggage"), self._baggage)
            request.headers.update({"baggage": left} if left else {})

    def _put(self, request: httpx.Request, token: Secret) -> None:
        trace = to_headers("", baggage=self._baggage)
        trace.pop(HEADER)
        for name, value in trace.items():
            request.headers.setdefault(name, value)
        request.headers = _WireHeaders(request.headers, token)


class _WireHeaders(httpx.Headers):
    """Headers whose handover exists only in `raw`, which transports read and redirects do not copy."""

    def __init__(self, headers: httpx.Headers, token: Secret) -> None:
        self._handover = token
        super().__init__(headers)

    @property
    def raw(self) -> list[tuple[bytes, bytes]]:
        return [*super().raw, (HEADER.encode(), self._handover.reveal().encode())]


def _checked(text: str) -> tuple[str, str, int]:
    parts = urlsplit(text)
    try:
        found = origin(text)
    except ValueError:  # a port that is none
        found = ("", "", -1)
    plain = found[0] == "http" and found[1] in _LOOPBACK
    if not found[1] or not (found[0] == "https" or plain) or parts.path not in ("", "/") or parts.query or "@" in text:
        raise ConfigurationError(f"{text!r} is no origin to hand tasks on to; write https://HOST or https://HOST:PORT")
    return found
