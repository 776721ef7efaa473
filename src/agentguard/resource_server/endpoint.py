"""Where an issuer answers about tokens: written down, or found in its metadata (RFC 8414)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from agentguard._http import Http, HttpFailure, Request, checked_url
from agentguard._jwks import same_issuer
from agentguard.errors import ConfigurationError
from agentguard.resource_server.answers import Answers, Busy

_LIFETIME: Final = 3600.0
_FAILED: Final = 5.0
_ACCEPT: Final = {"accept": "application/json"}


@dataclass(frozen=True, slots=True)
class Found:
    """An endpoint's URL, or why it is not known."""

    url: str = ""
    why: str = ""


class IntrospectionEndpoint:
    """The introspection endpoint of one issuer; its metadata is read once an hour, and not at all where it is given.

    Args:
        http: reads the metadata.
        issuer: exactly as the server names itself.
        url: the endpoint, or empty.
        clock: monotonic seconds.

    Raises:
        ConfigurationError: the endpoint has to be found, and the issuer is no https URL or has a query.
    """

    def __init__(self, http: Http, issuer: str, url: str, clock: Callable[[], float]) -> None:
        if not url and "?" in checked_url(issuer, what="issuer", networks=http.networks):
            raise ConfigurationError("an issuer has no query (RFC 8414 section 2); or write endpoint=")
        self._http, self._issuer, self._url, self._clock = http, issuer, url, clock
        self._answers: Answers[Found] = Answers(1, clock)

    async def url(self, seconds: float) -> Found:
        """Return where it is, or why that is not known."""
        if self._url:
            return Found(self._url)
        try:
            return await self._answers.get("", lambda: self._asked(seconds), seconds)
        except (TimeoutError, Busy):
            return Found(why="its metadata did not come in time")

    async def _asked(self, seconds: float) -> tuple[Found, float]:
        found = await self._find(seconds)
        return found, _FAILED if found.why else _LIFETIME

    async def _find(self, seconds: float) -> Found:
        until = self._clock() + seconds
        for url in _well_known(self._issuer):
            try:
                answer = await self._http.send(_asking(url), deadline=until - self._clock())
                if answer.status in (404, 405, 410):
                    continue
                return self._read(answer.json()) if answer.status == 200 else Found(why=_unread(str(answer.status)))
            except HttpFailure as failure:
                return Found(why=_unread(failure.why))
        return Found(why="it publishes no metadata; write endpoint=")

    def _read(self, document: Mapping[str, Any]) -> Found:
        if problem := same_issuer(document, self._issuer):
            return Found(why=problem)
        url = document.get("introspection_endpoint")
        if not isinstance(url, str):
            return Found(why="its metadata names no introspection_endpoint; write endpoint=")
        try:
            return Found(checked_url(url, what="introspection_endpoint", networks=self._http.networks))
        except ConfigurationError:
            return Found(why="the introspection_endpoint in its metadata is no URL that credentials may be sent to")


def _asking(url: str) -> Callable[[], Request]:
    return lambda: Request(method="GET", url=url, headers=_ACCEPT)


def _unread(why: str) -> str:
    return f"its metadata could not be read: {why}"


def _well_known(issuer: str) -> Iterator[str]:
    """Yield where the metadata may stand (RFC 8414 sections 3.1 and 5)."""
    parts = urlsplit(issuer)
    origin, path = f"{parts.scheme}://{parts.netloc}", parts.path.rstrip("/")
    yield f"{origin}/.well-known/oauth-authorization-server{path}"
    yield f"{origin}/.well-known/openid-configuration{path}"
    if path:
        yield f"{origin}{path}/.well-known/openid-configuration"
