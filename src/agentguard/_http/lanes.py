"""The connections of synchronous callers: whoever sends has one alone, and gives it back when its answer is read."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Final, TypeAlias

import httpcore

Connect: TypeAlias = Callable[[httpcore.Origin], httpcore.HTTPConnection]
_CLOSED: Final = "the HTTP client is closed"


class Lanes:
    """What httpcore's own pool does for HTTP/1.1 without a proxy, in fewer steps. Safe for threads.

    A connection that somebody sends on is out of everybody else's sight, so no other caller takes the answer that waits
    on it for the end of an idle one.

    Args:
        connect: makes a connection to an origin, which connects when it is first sent on.
        most: most connections at once; whoever finds none waits for one, as long as the request's `pool` timeout.
    """

    def __init__(self, connect: Connect, most: int) -> None:
        self._connect, self._most = connect, most
        self._room = threading.BoundedSemaphore(most)
        self._lock = threading.Lock()
        self._open: set[httpcore.HTTPConnection] = set()
        self._idle: list[httpcore.HTTPConnection] = []  # the one that was used last is used first
        self._closed = False

    @property
    def connections(self) -> list[httpcore.HTTPConnection]:
        """All that are open, in use or not."""
        return list(self._open)

    def handle_request(self, request: httpcore.Request) -> Lent:
        """Send a request, and return its answer with the connection it comes on; `close` gives that back.

        Raises:
            httpcore.PoolTimeout: no connection became free in time.
        """
        room = self._room
        if not room.acquire(blocking=False) and not room.acquire(timeout=request.extensions["timeout"]["pool"]):
            raise httpcore.PoolTimeout
        connection = None
        try:
            connection = self._taken(request.url.origin)
            return Lent(self, connection, connection.handle_request(request))
        except BaseException:
            self._give_back(connection)
            raise

    def _taken(self, origin: httpcore.Origin) -> httpcore.HTTPConnection:
        while (idle := self._pop(origin)) is not None:
            if not idle.has_expired():
                return idle
            self._drop(idle)
        with self._lock:
            if self._closed:
                raise httpcore.ConnectError(_CLOSED)
            surplus = self._idle.pop(0) if len(self._open) >= self._most and self._idle else None
            made = self._connect(origin)
            self._open.add(made)
        if surplus is not None:
            self._drop(surplus)
        return made

    def _pop(self, origin: httpcore.Origin) -> httpcore.HTTPConnection | None:
        with self._lock:
            for index in range(len(self._idle) - 1, -1, -1):
                if self._idle[index].can_handle_request(origin):
                    return self._idle.pop(index)
        return None

    def _give_back(self, connection: httpcore.HTTPConnection | None) -> None:
        """INVARIANT: what was not read to its end is never sent on again; httpcore calls it idle only then."""
        try:
            if connection is not None:
                with self._lock:
                    keep = connection.is_idle() and connection in self._open
                    if keep:
                        self._idle.append(connection)
                if not keep:
                    self._drop(connection)
        finally:
            self._room.release()

    def _drop(self, connection: httpcore.HTTPConnection) -> None:
        with self._lock:
            self._open.discard(connection)
        connection.close()

    def close(self) -> None:
        """Close every connection, also those in use; nothing is sent any more."""
        with self._lock:
            self._closed = True
            connections, self._idle = list(self._open), []
            self._open.clear()
        for connection in connections:
            connection.close()


class Lent:
    """An answer, and the connection it comes on."""

    __slots__ = ("_answer", "_connection", "_lanes", "headers", "status")

    def __init__(self, lanes: Lanes, connection: httpcore.HTTPConnection, answer: httpcore.Response) -> None:
        self._lanes, self._connection, self._answer = lanes, connection, answer
        self.status, self.headers = answer.status, answer.headers

    def iter_stream(self) -> Iterable[bytes]:
        """The body, in parts."""
        return self._answer.iter_stream()

    def close(self) -> None:
        """Give the connection back; call it once."""
        try:
            self._answer.close()
        finally:
            self._lanes._give_back(self._connection)
