"""One attempt: a prepared request onto the wire, and its answer read to the end within bounds.

INVARIANT: a failure is a value here, not an exception: httpcore's errors and their frames hold the request, with its
credentials, and are dropped before anything is raised.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from typing import Any, Final

import anyio
import httpcore

from agentguard._http.message import Response
from agentguard._http.network import Deadline, Refused
from agentguard._http.pools import BlockingPool
from agentguard._http.prepare import Failure, Outcome, Prepared

_GZIP_OR_ZLIB: Final = 47
_CONNECTING: Final = (httpcore.ConnectError, httpcore.ConnectTimeout)
_BROKEN: Final = (
    httpcore.NetworkError,
    httpcore.RemoteProtocolError,
    OSError,
    anyio.BrokenResourceError,
    anyio.ClosedResourceError,
)


def exchange(pool: BlockingPool, sent: Prepared, deadline: Deadline, limit: int) -> Outcome:
    """Send and read, blocking."""
    body = _Body(str(sent.origin), limit, deadline)
    try:
        answer = pool.handle_request(sent.wire)
        try:
            if body.begins(answer.status, answer.headers):
                for chunk in answer.iter_stream():
                    body.add(chunk)
        finally:
            answer.close()
    except Exception as error:
        return body.failure(error)
    return body.response()


async def async_exchange(pool: httpcore.AsyncConnectionPool, sent: Prepared, deadline: Deadline, limit: int) -> Outcome:
    """Send and read in an event loop."""
    body = _Body(str(sent.origin), limit, deadline)
    try:
        answer = await pool.handle_async_request(sent.wire)
        try:
            if body.begins(answer.status, answer.headers):
                # It is never left early: an abandoned asynchronous generator is closed too late, or never.
                async for chunk in answer.aiter_stream():
                    body.add(chunk)
        finally:
            await answer.aclose()
    except Exception as error:
        return body.failure(error)
    return body.response()


class _Body:
    """Collects an answer. A limit that is passed makes the next read fail, so that no more of it is fetched."""

    __slots__ = ("_chunks", "_deadline", "_headers", "_left", "_origin", "_problem", "_raw", "_status", "_unzip")

    def __init__(self, origin: str, limit: int, deadline: Deadline) -> None:
        self._origin, self._left, self._raw, self._deadline = origin, limit, limit, deadline
        self._chunks: list[bytes] = []
        self._headers: dict[str, str] = {}
        self._status, self._problem = 0, ""
        self._unzip: Any = None

    def begins(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> bool:
        """Take the head; False if the rest is not worth reading."""
        self._status = status
        for raw, value in headers:
            name, text = raw.decode("latin-1").lower(), value.decode("latin-1")
            self._headers[name] = f"{self._headers[name]}, {text}" if name in self._headers else text
        if 300 <= status < 400:
            self._problem = f"it answered {status}; redirects are not followed, so name the final address"
        elif status < 200:
            self._problem = f"it answered {status}, which was not asked for"
        encoding = self._headers.get("content-encoding", "identity").strip().lower()
        if encoding in ("gzip", "x-gzip", "deflate"):
            self._unzip = zlib.decompressobj(_GZIP_OR_ZLIB)
        elif encoding not in ("identity", ""):
            self._problem = self._problem or "the answer has a content encoding that was not asked for"
        return not self._problem

    def add(self, chunk: bytes) -> None:
        if self._problem:
            return
        self._raw -= len(chunk)
        if self._unzip is not None:
            chunk = self._unzipped(chunk)
        self._left -= len(chunk)
        if self._left < 0 or self._raw < 0:
            self._problem = "the answer is too large"
        if self._problem:
            self._chunks.clear()
            self._deadline.cut()
        else:
            self._chunks.append(chunk)

    def _unzipped(self, chunk: bytes) -> bytes:
        try:
            # One byte more than fits tells that it does not fit, whatever a bomb would unfold to.
            unzipped: bytes = self._unzip.decompress(chunk, self._left + 1)
        except zlib.error:
            self._problem = "the answer is badly compressed"
            return b""
        if self._unzip.unused_data:
            self._problem = "the answer is badly compressed"
        return unzipped

    def response(self) -> Outcome:
        if not self._problem and self._unzip is not None and self._chunks and not self._unzip.eof:
            self._problem = "the answer is badly compressed"
        if self._problem:
            return Failure(self._problem, sent=True)
        return Response(self._status, self._headers, b"".join(self._chunks), self._origin)

    def failure(self, error: Exception) -> Failure:
        return Failure(self._problem, sent=True) if self._problem else failure_of(error)


def failure_of(error: Exception) -> Failure:
    """Say what went wrong on the wire, in words that hold nothing of the request or the answer."""
    if isinstance(error, Refused):
        return Failure(error.why, sent=False)
    if isinstance(error, _CONNECTING):
        slow = isinstance(error, httpcore.ConnectTimeout)
        return Failure("no connection in time" if slow else "no connection can be made", sent=False, again=True)
    if isinstance(error, httpcore.PoolTimeout):
        return Failure("no connection became free in time", sent=False, again=True)
    if isinstance(error, httpcore.ProxyError):
        return Failure("the proxy of the environment refused the connection", sent=False)
    if isinstance(error, httpcore.TimeoutException):
        return Failure("no complete answer in time", sent=True, again=True)
    if isinstance(error, _BROKEN):
        return Failure("the connection broke, or what came is no HTTP", sent=True, again=True)
    return Failure(f"the exchange failed ({type(error).__name__})", sent=True)
