"""The connections: one pool for synchronous callers, and one for each running event loop, which ends with its loop."""

from __future__ import annotations

import asyncio
import ssl
import sys
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, TypeAlias
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies_environment, proxy_bypass_environment  # type: ignore[attr-defined]  # untyped

import anyio
import httpcore

from agentguard._http.address import Origin, parsed_address
from agentguard._http.lanes import Lanes
from agentguard._http.network import AsyncWire, Gate, Refused, Wire
from agentguard.errors import ConfigurationError

BlockingPool: TypeAlias = Lanes | httpcore.ConnectionPool
_IDLE: Final = 10.0  # seconds after which an unused connection is not used again
_PARENTS: Final[list[object]] = []  # what a forked child inherited and must not touch, not even by collecting it


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How connections are made, for all pools alike.

    Args:
        gate: which addresses are admitted.
        ssl_context: the one of every connection.
        connections: most connections of a pool.
        proxy: through which https goes, by the environment; or nothing.
        direct: the environment's list of hosts that need no proxy.
    """

    gate: Gate
    ssl_context: ssl.SSLContext
    connections: int
    proxy: httpcore.Proxy | None = None
    direct: str = ""

    def proxied(self, origin: Origin) -> bool:
        """Whether a request goes through the proxy; what stays on this machine never does."""
        bypass: dict[str, Any] = {"no": self.direct}
        return self.proxy is not None and not origin.loopback and not proxy_bypass_environment(origin.host, bypass)

    def refusal(self, origin: Origin) -> str:
        """Why an address that stands in the URL itself is refused: behind a proxy no gate sees what is connected to."""
        literal = parsed_address(origin.host)
        if literal is None or not self.proxied(origin):
            return ""
        try:
            self.gate.admitted(origin.host, [literal])
        except Refused as refused:
            return refused.why
        return ""

    def pool(self, *, proxied: bool) -> BlockingPool:
        if proxied:
            wire = Wire(Gate(everywhere=True))
            return httpcore.ConnectionPool(network_backend=wire, **self._common(proxied=proxied))
        wire = Wire(self.gate)

        def connect(origin: httpcore.Origin) -> httpcore.HTTPConnection:
            return httpcore.HTTPConnection(
                origin, ssl_context=self.ssl_context, keepalive_expiry=_IDLE, network_backend=wire
            )

        return Lanes(connect, self.connections)

    def async_pool(self, *, proxied: bool) -> httpcore.AsyncConnectionPool:
        wire = AsyncWire(Gate(everywhere=True) if proxied else self.gate)
        return httpcore.AsyncConnectionPool(network_backend=wire, **self._common(proxied=proxied))

    def _common(self, *, proxied: bool) -> dict[str, Any]:
        return {
            "ssl_context": self.ssl_context,
            "max_connections": self.connections,
            "max_keepalive_connections": self.connections,
            "keepalive_expiry": _IDLE,
            "proxy": self.proxy if proxied else None,
        }


def environment_proxy() -> tuple[httpcore.Proxy | None, str]:
    """Return the proxy for https that the environment names, and the hosts it excepts.

    Raises:
        ConfigurationError: it is no http or https proxy.
    """
    proxies = getproxies_environment()
    text = proxies.get("https") or proxies.get("all") or ""
    if not text:
        return None, ""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:  # a bracket that is no address, a port that is none
        parts, port = urlsplit(""), None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigurationError("the proxy in the environment (https_proxy): write http://HOST:PORT")
    auth = (unquote(parts.username), unquote(parts.password or "")) if parts.username else None
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    url = f"{parts.scheme}://{host}:{port or (443 if parts.scheme == 'https' else 80)}"
    return httpcore.Proxy(url, auth=auth), proxies.get("no", "")


class Pools:
    """All pools of one client. Safe for threads and event loops."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._lock = threading.Lock()
        self._blocking: dict[bool, BlockingPool] = {}
        self._homes: dict[object, _Home] = {}
        self._closed = False

    def blocking(self, origin: Origin) -> BlockingPool | None:
        """Return the pool for synchronous callers, or None once it was closed."""
        proxied = self.plan.proxied(origin)
        with self._lock:
            if not self._closed and proxied not in self._blocking:
                self._blocking[proxied] = self.plan.pool(proxied=proxied)
            return None if self._closed else self._blocking[proxied]

    async def of_this_loop(self, origin: Origin) -> httpcore.AsyncConnectionPool | None:
        """Return the pool of the event loop that runs, or None once it was closed."""
        home = self._homes.get(_loop())
        if home is None:
            home = await self._new_home()
        return home.pool(proxied=self.plan.proxied(origin)) if home is not None else None

    async def _new_home(self) -> _Home | None:
        loop = _loop()
        home = _Home(self.plan, lambda: self._homes.pop(loop, None))
        with self._lock:
            gone = [old for old in self._homes if getattr(old, "is_closed", bool)()]
            for old in gone:
                del self._homes[old]
            if self._closed:
                return None
            home = self._homes.setdefault(loop, home)
        await home.settle()
        return home

    def close(self) -> None:
        """Close every connection; those of other event loops are closed by their loops, soon."""
        with self._lock:
            self._closed = True
            blocking, homes = list(self._blocking.values()), list(self._homes.values())
            self._blocking, self._homes = {}, {}
        for pool in blocking:
            pool.close()
        for home in homes:
            home.close_soon()

    async def aclose(self) -> None:
        """Close every connection; those of this event loop before it returns."""
        home = self._homes.get(_loop())
        self.close()
        if home is not None:
            await home.aclose()

    def forget(self) -> None:
        """In a forked child: close the child's copies of the blocking sockets, and leave the parent's loops alone."""
        self._lock = threading.Lock()
        self.plan.gate.renew()
        for pool in self._blocking.values():
            for connection in pool.connections:  # not `pool.close`: its lock may be held for ever
                with suppress(Exception):
                    connection.close()
        # An event loop shares its selector with the parent's, so closing or collecting a socket of it would be seen
        # there.
        _PARENTS.append(self._homes)
        self._blocking, self._homes = {}, {}


class _Home:
    """The pools of one event loop. They are closed when the loop ends, by an asynchronous generator that waits for it.

    asyncio and trio close every asynchronous generator before they end; there is no other sign of the end to wait for.
    """

    def __init__(self, plan: Plan, forget: Callable[[], object]) -> None:
        self._plan, self._forget = plan, forget
        self._pools: dict[bool, httpcore.AsyncConnectionPool] = {}
        self._life = self._until_the_loop_ends()
        self._settled = False
        self._spawn = _spawner()

    def pool(self, *, proxied: bool) -> httpcore.AsyncConnectionPool:
        if proxied not in self._pools:
            self._pools[proxied] = self._plan.async_pool(proxied=proxied)
        return self._pools[proxied]

    async def settle(self) -> None:
        if not self._settled:
            self._settled = True
            await anext(self._life)

    async def _until_the_loop_ends(self) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            self._forget()
            await self._close_pools()

    async def _close_pools(self) -> None:
        with anyio.CancelScope(shield=True):
            while self._pools:
                _, pool = self._pools.popitem()
                await pool.aclose()

    async def aclose(self) -> None:
        await self._close_pools()
        with suppress(RuntimeError):  # the loop is just ending it
            await self._life.aclose()

    def close_soon(self) -> None:
        with suppress(RuntimeError):  # the loop has ended, and this with it
            self._spawn(self._aclose_quietly)

    async def _aclose_quietly(self) -> None:
        with suppress(Exception):  # nobody waits for it, and in trio an error here would end the program
            await self.aclose()


def _loop() -> object:
    loop = asyncio._get_running_loop()
    return loop if loop is not None else sys.modules["trio"].lowlevel.current_trio_token()


def _spawner() -> Callable[[Callable[[], Any]], object]:
    """Return what runs a coroutine function in this event loop, called from any thread."""
    loop = asyncio._get_running_loop()
    if loop is not None:
        running: set[asyncio.Task[Any]] = set()

        def start(work: Callable[[], Any]) -> None:
            task = loop.create_task(work())
            running.add(task)
            task.add_done_callback(running.discard)

        return lambda work: loop.call_soon_threadsafe(start, work)
    lowlevel = sys.modules["trio"].lowlevel
    token = lowlevel.current_trio_token()

    def start_in_trio(work: Callable[[], Any]) -> None:
        with suppress(RuntimeError):  # the loop is ending
            lowlevel.spawn_system_task(work)

    return lambda work: token.run_sync_soon(start_in_trio, work)
