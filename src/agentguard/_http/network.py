"""Sockets with one deadline for everything, to exactly the addresses that were checked.

httpcore hands the timeout of a request through to the network unchanged. Ours is a `Deadline`, a point in time, where
httpcore thinks of a span: so a slow drip of bytes ends when the attempt's time is over, not one timeout after each.
"""

from __future__ import annotations

import math
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from typing import Any, Final, TypeAlias, cast

import httpcore

from agentguard._drive import wait_for
from agentguard._http.address import Address, Network, parsed_address, refusal

Resolve: TypeAlias = Callable[[str, int], Iterable[str]]
_RECENT: Final = 0.05  # seconds
_PIECE: Final = 64 << 10  # bytes that are held back at most, so that a request leaves in one piece
_LOOKUPS: Final = 32  # at once; a resolver that hangs must not eat up the threads of the process


class Refused(Exception):
    """The server is not one to talk to: its address is not admitted, or its certificate does not verify."""

    def __init__(self, why: str) -> None:
        self.why = why
        super().__init__(why)


class Deadline:
    """A point in time until which one attempt may last; it stands where httpcore expects a number of seconds."""

    __slots__ = ("_at", "_clock")

    def __init__(self, at: float, clock: Callable[[], float]) -> None:
        self._at, self._clock = at, clock

    def left(self, error: type[Exception]) -> float:
        """Return the seconds that are left, or raise the error."""
        left = self._at - self._clock()
        if not left > 0:
            raise error
        return left

    def cut(self) -> None:
        """Let the next read fail: what has come is too much already."""
        self._at = float("-inf")


def _left(timeout: float | None, error: type[Exception]) -> float:
    return cast(Deadline, timeout).left(error)


class Gate:
    """Resolves a name once for each connection, and lets only admitted addresses through.

    Args:
        networks: admitted beyond public addresses.
        resolve: host and port to addresses; for tests.
        everywhere: admits every address: for the connection to a proxy that the environment names.
    """

    def __init__(
        self, networks: Sequence[Network] = (), resolve: Resolve | None = None, *, everywhere: bool = False
    ) -> None:
        self._networks, self._resolve, self._everywhere = networks, resolve or _resolved, everywhere
        self.renew()

    def renew(self) -> None:
        """In a forked child: the threads that resolve are the parent's."""
        self._free = threading.BoundedSemaphore(_LOOKUPS)

    def look_up(self, host: str, port: int) -> Future[list[Address]]:
        """Resolve a host in a thread of its own, because the system's resolver knows no timeout."""
        found: Future[list[Address]] = Future()
        literal = parsed_address(host)
        if literal is not None:
            found.set_result([literal])
        elif not self._free.acquire(blocking=False):
            found.set_exception(httpcore.ConnectTimeout("too many names are being resolved"))
        else:
            self._start(host, port, found)
        return found

    def _start(self, host: str, port: int, found: Future[list[Address]]) -> None:
        try:
            threading.Thread(target=self._run, args=(host, port, found), name="agentguard-dns", daemon=True).start()
        except (RuntimeError, MemoryError):
            self._free.release()
            found.set_exception(httpcore.ConnectTimeout("no thread is left to resolve a name"))

    def _run(self, host: str, port: int, found: Future[list[Address]]) -> None:
        try:
            texts = list(self._resolve(host, port))
            found.set_result([address for address in map(parsed_address, texts) if address is not None])
        except Exception as error:  # a resolver may raise anything; the name has no address then
            found.set_exception(httpcore.ConnectError(type(error).__name__))
        finally:
            self._free.release()

    def admitted(self, host: str, addresses: Sequence[Address]) -> Sequence[Address]:
        """Return the addresses to connect to, these and no others.

        Raises:
            Refused: one of them is not admitted.
        """
        problem = "" if self._everywhere and addresses else refusal(host, addresses, self._networks)
        if problem:
            raise Refused(f"the address is refused: {problem}")
        return addresses


def _resolved(host: str, port: int) -> Iterable[str]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return dict.fromkeys(str(entry[4][0]) for entry in found)


def _untrusted(error: httpcore.ConnectError) -> Exception:
    """A certificate that does not verify will not do so at the next attempt."""
    cause = error.__cause__
    if isinstance(cause, ssl.SSLCertVerificationError):
        return Refused(f"the server's certificate does not verify: {cause.verify_message}")
    return httpcore.ConnectError()


class Wire(httpcore.NetworkBackend):
    """The network for synchronous callers."""

    def __init__(self, gate: Gate) -> None:
        self._gate, self._plain = gate, httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        try:
            found = self._gate.look_up(host, port).result(_left(timeout, httpcore.ConnectTimeout))
        except TimeoutError:
            raise httpcore.ConnectTimeout from None
        # INVARIANT: what was admitted is what is connected to; the name is not resolved again.
        addresses = self._gate.admitted(host, found)
        for count in range(len(addresses), 0, -1):
            share = _left(timeout, httpcore.ConnectTimeout) / count
            try:
                plain = self._plain.connect_tcp(str(addresses[-count]), port, share)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                if count == 1:
                    raise
            else:
                return _Stream(plain)
        raise httpcore.ConnectError


class _Unsent:
    """What is written before anything is read: head and body of a request leave in one piece."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0

    def full(self, buffer: bytes) -> bool:
        self._parts.append(buffer)
        self._size += len(buffer)
        return self._size > _PIECE

    def taken(self) -> bytes:
        parts, self._parts, self._size = self._parts, [], 0
        return b"".join(parts)


class _Stream(httpcore.NetworkStream):
    def __init__(self, plain: httpcore.NetworkStream) -> None:
        self._plain, self._unsent, self._flushed_at = plain, _Unsent(), -math.inf

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        self._flush(timeout)
        return self._plain.read(max_bytes, _left(timeout, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        if self._unsent.full(buffer):
            self._flush(timeout)

    def _flush(self, timeout: float | None) -> None:
        if piece := self._unsent.taken():
            self._flushed_at = time.monotonic()
            self._plain.write(piece, _left(timeout, httpcore.WriteTimeout))

    def close(self) -> None:
        self._plain.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        left = _left(timeout, httpcore.ConnectTimeout)
        try:
            return _Stream(self._plain.start_tls(ssl_context, server_hostname, left))
        except httpcore.ConnectError as error:
            raise _untrusted(error) from None

    def get_extra_info(self, info: str) -> Any:
        found = self._plain.get_extra_info(info)
        # The pool takes an idle connection that can be read for one that its server closed. Another thread may have
        # sent a request on it a moment after the pool saw it idle, and then it is the answer that can be read.
        if info == "is_readable" and time.monotonic() - self._flushed_at < _RECENT:
            return False
        return found


class AsyncWire(httpcore.AsyncNetworkBackend):
    """The network for callers in an event loop, asyncio's or trio's."""

    def __init__(self, gate: Gate) -> None:
        self._gate, self._plain = gate, httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109  # httpcore's name for it
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        try:
            found = await wait_for(self._gate.look_up(host, port), _left(timeout, httpcore.ConnectTimeout))
        except TimeoutError:
            raise httpcore.ConnectTimeout from None
        # INVARIANT: what was admitted is what is connected to; the name is not resolved again.
        addresses = self._gate.admitted(host, found)
        for count in range(len(addresses), 0, -1):
            share = _left(timeout, httpcore.ConnectTimeout) / count
            try:
                plain = await self._plain.connect_tcp(str(addresses[-count]), port, share)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                if count == 1:
                    raise
            else:
                return _AsyncStream(plain)
        raise httpcore.ConnectError


class _AsyncStream(httpcore.AsyncNetworkStream):
    def __init__(self, plain: httpcore.AsyncNetworkStream) -> None:
        self._plain, self._unsent = plain, _Unsent()

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109  # as above
        await self._flush(timeout)
        return await self._plain.read(max_bytes, _left(timeout, httpcore.ReadTimeout))

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109  # as above
        if self._unsent.full(buffer):
            await self._flush(timeout)

    async def _flush(self, timeout: float | None) -> None:  # noqa: ASYNC109  # as above
        if piece := self._unsent.taken():
            await self._plain.write(piece, _left(timeout, httpcore.WriteTimeout))

    async def aclose(self) -> None:
        await self._plain.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109  # as above
    ) -> httpcore.AsyncNetworkStream:
        left = _left(timeout, httpcore.ConnectTimeout)
        try:
            return _AsyncStream(await self._plain.start_tls(ssl_context, server_hostname, left))
        except httpcore.ConnectError as error:
            raise _untrusted(error) from None

    def get_extra_info(self, info: str) -> Any:
        return self._plain.get_extra_info(info)
