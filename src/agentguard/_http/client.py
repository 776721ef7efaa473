"""The client: attempts, their deadlines, and the wire of whoever calls, synchronous or in an event loop."""

from __future__ import annotations

import functools
import os
import random
import ssl
import time
import weakref
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Final, TypeAlias

import certifi

from agentguard._drive import driven
from agentguard._http.address import parsed_networks
from agentguard._http.exchange import async_exchange, exchange
from agentguard._http.message import HttpFailure, Request, Response, shown
from agentguard._http.network import Deadline, Gate, Resolve
from agentguard._http.pools import Plan, Pools, environment_proxy
from agentguard._http.prepare import Failure, Outcome, prepared
from agentguard._http.retry import is_worth_another, retrying
from agentguard.errors import ConfigurationError

Make: TypeAlias = Callable[[], Request] | Callable[[], Awaitable[Request]]
_Path: TypeAlias = str | os.PathLike[str]
_clients: Final[weakref.WeakSet[Http]] = weakref.WeakSet()


class Http:
    """Sends requests within bounds of time, size and count. Safe for concurrent use by threads and event loops.

    A driven (synchronous) caller blocks; under an event loop, asyncio's or trio's, it suspends. Only https is sent,
    and http to a literal loopback host; only public addresses and those of `networks` are connected to.

    Args:
        attempts: most attempts at one request.
        timeout: seconds one attempt may last in all, from connecting to the last byte.
        deadline: seconds for all attempts and the pauses between them.
        max_bytes: most bytes of an answer, as sent and as unfolded.
        connections: most connections at once, of synchronous callers and of each event loop.
        networks: addresses that are no public ones and still admitted, for example `10.0.0.0/8`.
        trust_env: take the proxy, the CA file and the key log from the environment.
        ca_file: PEM file of the only authorities to trust, instead of the public ones.
        client_cert: PEM file with certificate and key, or two files, for mutual TLS (RFC 8705).
        clock: monotonic seconds.
        rng: spreads the pauses between attempts.
        resolve: host and port to addresses; for tests.

    Raises:
        ConfigurationError: a bound, a network, a file or the environment's proxy is wrong.
    """

    suspends: bool = False
    waits: bool = True

    def __init__(
        self,
        *,
        attempts: int = 3,
        timeout: float = 5.0,
        deadline: float = 15.0,
        max_bytes: int = 1 << 20,
        connections: int = 20,
        networks: Sequence[str] = (),
        trust_env: bool = False,
        ca_file: _Path | None = None,
        client_cert: _Path | tuple[_Path, _Path] | None = None,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
        resolve: Resolve | None = None,
    ) -> None:
        for name, value in (("timeout", timeout), ("deadline", deadline)):
            if not 0 < value <= 600:
                raise ConfigurationError(f"{name} {value!r}: write seconds above 0, at most 600")
        for name, count, most in (("attempts", attempts, 10), ("connections", connections, 1000)):
            if type(count) is not int or not 0 < count <= most:
                raise ConfigurationError(f"{name} {count!r}: write a whole number from 1 to {most}")
        if type(max_bytes) is not int or max_bytes < 1:
            raise ConfigurationError(f"max_bytes {max_bytes!r}: write a whole number of bytes")
        self.networks = tuple(networks)
        self._attempts, self._timeout, self._deadline, self._limit = attempts, timeout, deadline, max_bytes
        self._clock, self._rng = clock, rng or random.SystemRandom()
        gate = Gate(parsed_networks(networks), resolve)
        proxy, direct = environment_proxy() if trust_env else (None, "")
        context = _tls(ca_file, client_cert, trust_env=trust_env)
        self._pools = Pools(Plan(gate=gate, ssl_context=context, connections=connections, proxy=proxy, direct=direct))
        _clients.add(self)

    async def send(self, make: Make, *, deadline: float | None = None, retry: bool = True) -> Response:
        """Send a request and return its answer, also one that says 4xx; a 429 or 5xx only after the last attempt.

        Args:
            make: makes the request, anew for each attempt; what it raises passes through.
            deadline: seconds from now for everything; the client's own if None.
            retry: whether a connection that fails, a timeout, 429, 500, 502, 503 and 504 are tried again.

        Raises:
            HttpFailure: there is no usable answer: no connection, no time, too large, a redirect, a refused address.
        """
        until = self._clock() + (self._deadline if deadline is None else deadline)
        outcome, where = await self._outcome(make, until, retry=retry)
        del make  # it may hold a credential, and the traceback keeps this frame
        if isinstance(outcome, Failure):
            raise HttpFailure(outcome.why, sent=outcome.sent, where=where)
        return outcome

    async def _outcome(self, make: Make, until: float, *, retry: bool) -> tuple[Outcome, str]:
        attempts = _Attempts(make, lambda request: self._attempt(request, until))
        outcome = await attempts.next()
        if retry and self._attempts > 1 and is_worth_another(outcome):
            attempts.first = outcome  # tenacity's first attempt is the one that was made; most requests need no second
            outcome = await retrying(self._attempts, until, self._clock, self._rng)(attempts.next)
        return outcome, attempts.where

    async def _attempt(self, request: Request, until: float) -> Outcome:
        now = self._clock()
        if not now < until:
            return Failure("the deadline has passed", sent=False)
        deadline = Deadline(min(now + self._timeout, until), self._clock)
        sent = prepared(request, deadline)
        if isinstance(sent, Failure):
            return sent
        if self._pools.plan.proxy is not None and (why := self._pools.plan.refusal(sent.origin)):
            return Failure(why, sent=False)
        if driven():
            pool = self._pools.blocking(sent.origin)
            return exchange(pool, sent, deadline, self._limit) if pool is not None else _CLOSED
        waiting = await self._pools.of_this_loop(sent.origin)
        return await async_exchange(waiting, sent, deadline, self._limit) if waiting is not None else _CLOSED

    def close(self) -> None:
        """Close every connection; those of a running event loop are closed by it, soon. Nothing is sent any more."""
        self._pools.close()

    async def aclose(self) -> None:
        """Close every connection; those of this event loop before it returns."""
        self._pools.close() if driven() else await self._pools.aclose()

    def __repr__(self) -> str:
        return f"<Http attempts={self._attempts} timeout={self._timeout} deadline={self._deadline}>"


class _Attempts:
    """The attempts at one request, one after the other."""

    def __init__(self, make: Make, attempt: Callable[[Request], Awaitable[Outcome]]) -> None:
        self._make, self._attempt = make, attempt
        self._sent = False
        self.first: Outcome | None = None
        self.where = ""

    async def next(self) -> Outcome:
        """Make the request anew and try it, or give the first attempt's outcome, once."""
        first, self.first = self.first, None
        if first is not None:
            return first
        unsure = self._sent
        made = self._make()
        request = made if isinstance(made, Request) else await made
        self.where = shown(request.url)
        outcome = await self._attempt(request)
        if isinstance(outcome, Failure):
            self._sent = unsure or outcome.sent
            return Failure(outcome.why, self._sent, outcome.again)
        self._sent = unsure or outcome.status in _MAY_HAVE_ACTED
        return replace(outcome, unsure=True) if unsure else outcome


_MAY_HAVE_ACTED: Final = (500, 502, 504)  # a 503 says that it did not
_CLOSED: Final = Failure("the HTTP client is closed", sent=False)


def _tls(ca_file: _Path | None, client_cert: _Path | tuple[_Path, _Path] | None, *, trust_env: bool) -> ssl.SSLContext:
    if ca_file is None and client_cert is None and not trust_env:
        return _public_tls()
    try:
        context = _context(ca_file, trust_env=trust_env)
        if client_cert is not None:
            context.load_cert_chain(*(client_cert if isinstance(client_cert, tuple) else (client_cert,)))
    except (OSError, ValueError) as error:
        problem = type(error).__name__
    else:
        return context
    raise ConfigurationError(f"ca_file {ca_file!r}, client_cert: not a PEM file that can be read ({problem})")


@functools.cache
def _public_tls() -> ssl.SSLContext:
    """One context for all who need nothing special: reading the public authorities takes tens of milliseconds."""
    return _context(None, trust_env=False)


def _context(ca_file: _Path | None, *, trust_env: bool) -> ssl.SSLContext:
    """TLS 1.2 or newer, certificate and name checked."""
    file = os.environ.get("SSL_CERT_FILE") if trust_env else None
    folder = os.environ.get("SSL_CERT_DIR") if trust_env else None
    authorities = ca_file or file or (None if folder else certifi.where())
    context = ssl.create_default_context(cafile=authorities, capath=None if ca_file else folder)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if not trust_env:
        # SSLKEYLOGFILE would write what decrypts every credential to a file.
        context.keylog_filename = None  # type: ignore[assignment]  # None ends it; typeshed knows only a path
    return context


def _after_fork() -> None:
    for client in list(_clients):
        client._pools.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
