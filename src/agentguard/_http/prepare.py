"""A request as it goes onto the wire. What is wrong with it is a value, not an exception that would quote it."""

from __future__ import annotations

import functools
import re
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeAlias
from urllib.parse import quote_plus

import httpcore
import msgspec

from agentguard._http.address import Origin, split, target
from agentguard._http.message import ABSENT, Request, Response
from agentguard._http.network import Deadline

_METHOD: Final = re.compile(r"[A-Z]{1,20}", re.ASCII)
_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII)  # RFC 9110 section 5.6.2
_VALUE: Final = re.compile(r"(?:[\x21-\x7e](?:[\x20-\x7e\t]*[\x21-\x7e])?)?", re.ASCII)
_UNRESERVED: Final = re.compile(r"[A-Za-z0-9_.~-]*", re.ASCII)  # RFC 3986 section 2.3
_NAMES: Final = ("urn:", "https://", "http://")  # identifiers, which come again and are no secrets
_OURS: Final = frozenset({"host", "content-length", "transfer-encoding", "connection", "accept-encoding"})


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt has no answer.

    Args:
        why: in words that hold nothing of the request or the answer.
        sent: the server may have acted on it.
        again: another attempt may do better.
    """

    why: str
    sent: bool
    again: bool = False


Outcome: TypeAlias = Response | Failure


@dataclass(frozen=True, slots=True, repr=False)
class Prepared:
    """A request as it goes onto the wire."""

    origin: Origin
    wire: httpcore.Request


def prepared(request: Request, deadline: Deadline) -> Prepared | Failure:
    """Return a request as it goes onto the wire, or why it cannot."""
    origin = split(request.url)
    if isinstance(origin, str):
        return Failure(f"the URL is refused: {origin}", sent=False)
    try:
        body, media = _body(request)
        headers = _headers(request, origin, body, media)
    except Exception:  # the error names the value that cannot be encoded
        return Failure("the form or the JSON of the request cannot be encoded", sent=False)
    if headers is None or not _METHOD.fullmatch(request.method):
        return Failure("the method or a header of the request is malformed", sent=False)
    url = httpcore.URL(
        scheme=origin.scheme.encode(), host=origin.host.encode(), port=origin.port, target=target(request.url).encode()
    )
    pool = deadline.left(httpcore.PoolTimeout)
    timeouts = {"connect": deadline, "read": deadline, "write": deadline, "pool": pool}
    return Prepared(origin, _Wire(request.method.encode(), url, headers, body, {"timeout": timeouts}))


class _Wire(httpcore.Request):
    """A request of bytes, made here, so that it is not looked through for what would have to be encoded."""

    def __init__(  # what httpcore's own takes is turned into these five
        self, method: bytes, url: httpcore.URL, headers: list[tuple[bytes, bytes]], body: bytes | None,
        extensions: dict[str, Any],
    ) -> None:  # fmt: skip
        self.method, self.url, self.headers, self.extensions = method, url, headers, extensions
        self.stream = _Content(body or b"")


class _Content:
    """A body that both kinds of caller can read, in one piece."""

    __slots__ = ("_body",)

    def __init__(self, body: bytes) -> None:
        self._body = body

    def __iter__(self) -> Iterator[bytes]:
        yield self._body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._body


def _body(request: Request) -> tuple[bytes | None, str]:
    if request.form is not None:
        return form_encoded(request.form), "application/x-www-form-urlencoded"
    if request.json is not ABSENT:
        return msgspec.json.encode(request.json), "application/json"
    return None, ""


def form_encoded(form: Iterable[tuple[str, str]]) -> bytes:
    """The pairs as a form; what needs no escape, as a token does, is not looked at character by character."""
    pairs = [f"{_escaped_name(name)}={_escaped(value)}" for name, value in form]
    return "&".join(pairs).encode("ascii")


def _escaped(text: str) -> str:
    if _UNRESERVED.fullmatch(text):
        return text
    return _escaped_name(text) if text.startswith(_NAMES) else quote_plus(text)


@functools.lru_cache(maxsize=256)
def _escaped_name(text: str) -> str:
    return quote_plus(text)


def _headers(request: Request, origin: Origin, body: bytes | None, media: str) -> list[tuple[bytes, bytes]] | None:
    named = {"accept": "application/json", "user-agent": "agentguard"}
    if media:
        named["content-type"] = media
    for name, value in request.headers.items():
        # Looked at here, because the wire's own complaint would quote the value, also in its debug log.
        if name.lower() in _OURS or not (_NAME.fullmatch(name) and _VALUE.fullmatch(value)):
            return None
        named[name.lower()] = value
    headers = [(b"host", origin.authority.encode()), (b"accept-encoding", b"identity")]
    headers += [(name.encode(), value.encode()) for name, value in named.items()]
    if body is not None or request.method not in ("GET", "HEAD", "DELETE"):
        headers.append((b"content-length", b"%d" % len(body or b"")))
    return headers
