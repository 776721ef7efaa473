"""A TCP proxy that goes wrong by plan, to stand between a client and a real server.

    with ChaosProxy("127.0.0.1", 8200, rates={"drop_reply": 0.3}, seed=1) as proxy:
        client = Client(f"http://{proxy.host}:{proxy.port}")

`python -m tests.services.chaos --to HOST:PORT --rate 0.3 --seed 1` prints its port and runs until it is killed.
"""

from __future__ import annotations

import argparse
import random
import select
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Mapping
from types import TracebackType
from typing import Final, Literal, get_args

# What happens to one connection.
#   delay       each reply comes `delay` seconds late
#   drop_reply  the server gets the request and acts; its reply is thrown away and the connection closed
#   truncate    the client gets the first half of the first reply, then the end
#   reset       the server gets the request; the client gets a TCP reset
#   refuse      a TCP reset at once; the server hears nothing
#   blackhole   bytes are taken and nothing ever comes; the server hears nothing
Mode = Literal["ok", "delay", "drop_reply", "truncate", "reset", "refuse", "blackhole"]
FAULTS: Final[tuple[Mode, ...]] = tuple(mode for mode in get_args(Mode) if mode != "ok")
CHUNK: Final = 65536
TICK: Final = 0.1
SERVER_TIMEOUT: Final = 30.0


class ChaosProxy:
    """Forwards connections for the time of a `with`; each one's mode is drawn when it is accepted. Safe for threads.

    The n-th connection gets the same mode in every run with the same seed and rates.

    Args:
        host: Where the real server listens.
        port: Its port.
        rates: The share of connections for each mode; what is left is `ok`.
        seed: Of the draw.
        delay: Seconds, for the mode `delay`.
    """

    host = "127.0.0.1"

    def __init__(
        self, host: str, port: int, *, rates: Mapping[Mode, float] | None = None, seed: int = 0, delay: float = 0.5
    ) -> None:
        self._target, self._delay = (host, port), delay
        self._rates: dict[Mode, float] = dict(rates or {})
        if any(rate < 0 for rate in self._rates.values()) or sum(self._rates.values()) > 1 + 1e-9:
            raise ValueError("rates are shares: none below 0, together at most 1")
        self._random = random.Random(seed)
        self._fixed: Mode | None = None
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._counts: Counter[Mode] = Counter()
        self._threads: list[threading.Thread] = []

    @property
    def counts(self) -> dict[Mode, int]:
        """How many connections met which mode so far."""
        with self._lock:
            return dict(self._counts)

    def set(self, mode: Mode | None) -> None:
        """From the next connection on always this mode, or with None by the plan again.

        A client that keeps its connections open keeps their modes too: let it connect anew.
        """
        with self._lock:
            self._fixed = mode

    def __enter__(self) -> ChaosProxy:
        self._listener = socket.create_server((self.host, 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        self._spawn(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        for thread in list(self._threads):
            thread.join(5)
        self._listener.close()

    def _spawn(self, work: object, *arguments: socket.socket | Mode) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)  # type: ignore[arg-type]  # a bound method
        self._threads = [one for one in self._threads if one.is_alive()] + [thread]
        thread.start()

    def _accept(self) -> None:
        while not self._ended.is_set():
            if select.select([self._listener], [], [], TICK)[0]:
                client, _ = self._listener.accept()
                self._spawn(self._serve, client, self._draw())

    def _draw(self) -> Mode:
        with self._lock:
            drawn = self._random.random()
            chosen: Mode = "ok"
            for mode, rate in self._rates.items():
                if drawn < rate:
                    chosen = mode
                    break
                drawn -= rate
            chosen = self._fixed or chosen
            self._counts[chosen] += 1
            return chosen

    def _serve(self, client: socket.socket, mode: Mode) -> None:
        with client:
            try:
                if mode == "refuse":
                    _reset(client)
                elif mode == "blackhole":
                    self._swallow(client)
                else:
                    with socket.create_connection(self._target, timeout=SERVER_TIMEOUT) as server:
                        self._forward(client, server, mode)
            except OSError:
                pass  # a side that goes away is what this proxy is for

    def _swallow(self, client: socket.socket) -> None:
        while not self._ended.is_set():
            if select.select([client], [], [], TICK)[0] and not client.recv(CHUNK):
                return

    def _forward(self, client: socket.socket, server: socket.socket, mode: Mode) -> None:
        while not self._ended.is_set():
            for source in select.select([client, server], [], [], TICK)[0]:
                data = source.recv(CHUNK)
                if source is client:
                    if not data:
                        return
                    server.sendall(data)
                elif not data or not self._reply(client, data, mode):
                    return

    def _reply(self, client: socket.socket, data: bytes, mode: Mode) -> bool:
        """Pass on what the server said, as the mode wants it; False ends the connection."""
        if mode == "drop_reply":
            return False
        if mode == "reset":
            _reset(client)
            return False
        if mode == "truncate":
            client.sendall(data[: len(data) // 2])
            return False
        if mode == "delay":
            self._ended.wait(self._delay)
        client.sendall(data)
        return True


def _reset(client: socket.socket) -> None:
    """Closing with a linger time of zero sends RST instead of FIN."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def main() -> None:
    """Run until killed; the port is the only line on standard output."""
    parser = argparse.ArgumentParser(prog="python -m tests.services.chaos")
    parser.add_argument("--to", required=True, metavar="HOST:PORT")
    parser.add_argument("--rate", type=float, default=0.3, help="share of connections that go wrong")
    parser.add_argument("--modes", default="drop_reply,truncate,reset,refuse", help="which faults, in equal shares")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--delay", type=float, default=0.5)
    options = parser.parse_args()
    modes: list[Mode] = [mode for mode in FAULTS if mode in options.modes.split(",")]
    if set(options.modes.split(",")) - set(FAULTS):
        parser.error(f"modes are {', '.join(FAULTS)}")
    host, _, port = options.to.rpartition(":")
    rates = dict.fromkeys(modes, options.rate / len(modes))
    with ChaosProxy(host, int(port), rates=rates, seed=options.seed, delay=options.delay) as proxy:
        print(proxy.port, flush=True)
        try:
            while True:
                time.sleep(3600)
        except KeyboardInterrupt:
            pass


if __name__ == "__main__":
    main()
