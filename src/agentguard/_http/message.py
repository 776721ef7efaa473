"""What is sent and what comes back; neither shows a header, a query or a body in its repr or in a pickle."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

from agentguard._json import NotStrictJSON, strict_json
from agentguard.errors import Unavailable

ABSENT: Final[Any] = type("Absent", (), {"__slots__": (), "__repr__": lambda self: "<absent>"})()
_NO_HEADERS: Final[Mapping[str, str]] = {}
_END: Final = re.compile(r"[/?#]")
_HOST: Final = re.compile(r"(?:[^:@]*|\[[^@]*\])(?::[0-9]*)?")


class HttpFailure(Unavailable):
    """A request got no answer that can be used; the text holds no query, no header and no body.

    Args:
        why: what went wrong.
        sent: the server may have acted on it, in this attempt or an earlier one.
        where: the origin that was asked.
    """

    def __init__(self, why: str, *, sent: bool, where: str = "") -> None:
        self.why, self.sent = why, sent
        super().__init__(f"{where}: {why}" if where else why)


class _Closed:
    """Can be neither copied nor pickled: what it holds may be a secret."""

    __slots__ = ()

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError(f"a {type(self).__name__} may hold secrets; it can be neither copied nor pickled")


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Request(_Closed):
    """One attempt at a request; it is made anew for each attempt, so that a proof or a `jti` is never sent twice.

    Args:
        method: `GET`, `POST` and the like.
        url: absolute; https, or http to a literal loopback host.
        headers: go before the client's own.
        form: fields of an `application/x-www-form-urlencoded` body.
        json: a body in JSON, where there is no form.
    """

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=lambda: _NO_HEADERS)
    form: Sequence[tuple[str, str]] | None = None
    json: object = ABSENT

    def __repr__(self) -> str:
        return f"<Request {self.method} {shown(self.url)}>"


@dataclass(frozen=True, slots=True, repr=False)
class Response(_Closed):
    """An answer, read to its end.

    Args:
        status: 200 to 299 or 400 to 599; a redirect never gets this far.
        headers: by lower-case name; repeated ones are joined by a comma (RFC 9110 section 5.3).
        body: decoded.
        origin: who answered.
        unsure: an earlier attempt got no answer, so the server may have acted more than once.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    origin: str = ""
    unsure: bool = False

    def json(self) -> dict[str, Any]:
        """Return the body as a JSON object.

        Raises:
            HttpFailure: the content type is neither `application/json` nor one with `+json` (RFC 6839), or it is no
                strict JSON object; the text says nothing of the body.
        """
        origin, status, parsed = self.origin, self.status, _object(self.headers, self.body)
        del self  # the traceback keeps this frame, and with it the body
        if isinstance(parsed, str):
            raise HttpFailure(f"the answer ({status}) {parsed}", sent=True, where=origin)
        return parsed

    def __repr__(self) -> str:
        return f"<Response {self.status} {self.origin}>"


def _object(headers: Mapping[str, str], body: bytes) -> dict[str, Any] | str:
    media = headers.get("content-type", "").partition(";")[0].strip().lower()
    if media != "application/json" and not (media.startswith("application/") and media.endswith("+json")):
        return "is not of the content type application/json"
    try:
        return strict_json(body)
    except NotStrictJSON:
        return "is no strict JSON object: UTF-8, no duplicate members"


def shown(url: str) -> str:
    """Return a URL as it may be shown: without user information, query and fragment."""
    if "@" in url and not _ends_user_information(url):
        return "..."
    bare = url.partition("#")[0].partition("?")[0]
    scheme, mark, rest = bare.partition("://")
    authority, slash, path = rest.partition("/")
    text = f"{scheme}{mark}{authority.rpartition('@')[2]}{slash}{path}"[:300]
    return text if text.isascii() and text.isprintable() else ascii(text)


def _ends_user_information(url: str) -> bool:
    """Whether user information in a URL, if there is any, ends where it should: a `/`, `?` or `#` in it is escaped."""
    _, mark, rest = url.partition("://")
    authority = _END.split(rest, maxsplit=1)[0]
    last = "@" not in rest[len(authority) :]
    return mark != "" and (last or _HOST.fullmatch(authority) is not None)
