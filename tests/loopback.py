"""A loopback server whose every byte a test decides, and a clock that only a test moves."""

from __future__ import annotations

import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeAlias

Answer: TypeAlias = bytes | Iterable[bytes] | None


@dataclass(frozen=True)
class Received:
    """A request as it came in."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    sni: str = ""


def reply(body: object = b"{}", status: int = 200, *, media: str = "application/json", **headers: str) -> bytes:
    """Return the bytes of an answer; underscores in header names become dashes."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = {"Content-Type": media, "Content-Length": str(len(data))}
    named |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in named.items())
    return f"HTTP/1.1 {status} Said\r\n{head}\r\n".encode() + data


@dataclass(frozen=True)
class Slowly:
    """Some bytes in drops, anew for each request."""

    data: bytes
    size: int = 1
    pause: float = 0.02

    def __iter__(self) -> Iterator[bytes]:
        for start in range(0, len(self.data), self.size):
            yield self.data[start : start + self.size]
            time.sleep(self.pause)


@dataclass
class Loopback:
    """Answers each request with what `answer` returns: bytes, parts of them, or None to hang up."""

    answer: Callable[[Received], Answer]
    tls: ssl.SSLContext | None = None
    seen: list[Received] = field(default_factory=list)
    connections: int = 0
    sent: int = 0

    def __post_init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        scheme = "https" if self.tls else "http"
        self.url = f"{scheme}://127.0.0.1:{self.port}"
        self._sockets: set[socket.socket] = set()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                plain, _ = self._listener.accept()
                self.connections += 1
                thread = threading.Thread(target=self._serve, args=(plain,), daemon=True)
                self._sockets.add(plain)
                self._threads.append(thread)
                thread.start()

    def _serve(self, plain: socket.socket) -> None:
        names: list[str] = []
        with plain, suppress(OSError):
            if self.tls is None:
                self._converse(plain, "")
                return
            self.tls.sni_callback = lambda _socket, name, _context: names.append(name or "")
            with self.tls.wrap_socket(plain, server_side=True) as wrapped:
                self._sockets.add(wrapped)
                self._converse(wrapped, "".join(names))

    def _converse(self, connection: socket.socket, sni: str) -> None:
        with connection.makefile("rb") as reader:
            while received := _read(reader, sni):
                self.seen.append(received)
                answer = self.answer(received)
                if answer is None:
                    return
                for part in [answer] if isinstance(answer, bytes) else answer:
                    connection.sendall(part)
                    self.sent += len(part)

    def stop(self) -> None:
        for each in [self._listener, *self._sockets]:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        for thread in self._threads:
            thread.join(5)


def _read(reader: Any, sni: str) -> Received | None:
    start = reader.readline().decode("latin-1").split()
    if len(start) != 3:
        return None
    headers: dict[str, str] = {}
    while (line := reader.readline().decode("latin-1").rstrip("\r\n")) != "":
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    return Received(start[0], start[1], headers, reader.read(int(headers.get("content-length", "0"))), sni)


@contextmanager
def serving(answer: Callable[[Received], Answer], tls: ssl.SSLContext | None = None) -> Iterator[Loopback]:
    """Serve on a port of the loopback interface until the block ends."""
    server = Loopback(answer, tls)
    try:
        yield server
    finally:
        server.stop()


class Clock:
    """Seconds that only a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def pass_by(self, seconds: float) -> None:
        self.now += seconds
