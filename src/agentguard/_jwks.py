"""A remote key set, cached: what verifies tokens when their issuer's keys are behind a URL (RFC 7517 section 5).

Rules: one fetch at a time, and at most one in a cool-down, whatever tokens ask for and also while fetches fail; known
keys serve while the endpoint is down, up to a limit; a key that is not in the set any more ends with the next fetch.

INVARIANT: a fetch runs in a thread of its own, so a caller that is cancelled neither stops it for those who wait nor
opens the way to another one within the cool-down.
"""

from __future__ import annotations

import logging
import math
import os
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import Any, Final

from agentguard._drive import drive, wait_for
from agentguard._http import Http, HttpFailure, Request, checked_url
from agentguard._jwk import usable_keys
from agentguard._jwt import BAD_SIGNATURE, Profile, Rejection, examine, kid_of
from agentguard.errors import ConfigurationError, TokenRejected, Unavailable
from agentguard.keys import KeySet

_log: Final = logging.getLogger("agentguard")
_WAIT: Final = 60.0  # seconds; a fetch is bounded by its client, this is for a client that is not
_ACCEPT: Final = {"accept": "application/jwk-set+json, application/json"}
_caches: Final[weakref.WeakSet[Jwks]] = weakref.WeakSet()


class Jwks:
    """The keys behind a `jwks_uri`. Safe for concurrent use by threads and event loops.

    Args:
        http: fetches, within its bounds of time and size.
        uri: https, or http to a literal loopback host.
        lifetime: seconds after which the keys are fetched anew.
        cooldown: least seconds between two fetches. While a set is held a fetch is one request; before the first one
            succeeded, it is retried as `http` does.
        max_stale: seconds since the last good fetch for which known keys serve while no fetch succeeds.
        max_keys: a larger set is refused.
        clock: monotonic seconds.

    Raises:
        ConfigurationError: the URI is refused, or it is not 0 < cooldown <= lifetime <= max_stale.
    """

    suspends: bool = False
    waits: bool = True

    def __init__(
        self,
        http: Http,
        uri: str,
        *,
        lifetime: float = 300.0,
        cooldown: float = 60.0,
        max_stale: float = 3600.0,
        max_keys: int = 100,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not 0 < cooldown <= lifetime <= max_stale < math.inf:
            raise ConfigurationError("a key cache needs seconds with 0 < cooldown <= lifetime <= max_stale")
        if type(max_keys) is not int or max_keys < 1:
            raise ConfigurationError(f"max_keys {max_keys!r}: write a whole number from 1")
        self._http, self._clock, self._max_keys = http, clock, max_keys
        self._uri = checked_url(uri, what="jwks_uri", networks=http.networks)
        self._lifetime, self._cooldown, self._max_stale = lifetime, cooldown, max_stale
        self._held: KeySet | None = None
        self._fetched_at = self._tried_at = -math.inf
        self._failure = self._warned = ""
        self._lock = threading.Lock()
        self._flight: Future[None] | None = None
        _caches.add(self)

    async def keys(self) -> KeySet:
        """Return the keys as they are now.

        Raises:
            Unavailable: they were never fetched, or too long ago.
        """
        if not self._age() < self._lifetime:
            # A failing endpoint is asked in the background: whoever has a usable set does not wait for it.
            await self._refresh(wait=not self._failure or not self._age() < self._max_stale)
        return self._usable()

    def fresh(self) -> KeySet | None:
        """Return the keys if they are within their lifetime; what they do not verify goes through `keys_for`."""
        return self._held if self._age() < self._lifetime else None

    async def keys_for(self, token: str) -> KeySet:
        """Return the keys to verify a token with; an unknown `kid` has them fetched, where the cool-down lets it.

        A kid that stays unknown is not in what is returned, and verification refuses the token.

        Raises:
            TokenRejected: it is no token, or its algorithm is not accepted: nothing was fetched for it.
            Unavailable: as `keys`.
        """
        kid = kid_of(token)
        del token  # the traceback keeps this frame
        if kid is None:
            raise TokenRejected("invalid_token", "the token is malformed, or its algorithm or kid is not accepted")
        keys = await self.keys()
        if keys.find(kid) is not None:
            return keys
        await self._refresh()
        return self._usable()

    async def keys_after(self, keys: KeySet) -> KeySet | None:
        """Return newer keys, for a token whose signature did not verify with these: a kid may have got a new key.

        None means that there are none: the cool-down has not passed, or the fetch failed.
        """
        if self._held is keys:
            await self._refresh()
        held = self._held
        return held if held is not keys and self._age() < self._max_stale else None

    async def verify(self, token: str, profile: Profile, now: float) -> Mapping[str, Any]:
        """Return the claims of a token that one of the keys signed and that passes the profile, as `verify_jwt`.

        Raises:
            TokenRejected: it does not pass.
            Unavailable: as `keys`.
        """
        try:
            outcome = await self._examined(token, profile, now)
        finally:
            del token  # the traceback keeps this frame
        if isinstance(outcome, Rejection):
            raise outcome.raised()
        return outcome

    async def _examined(self, token: str, profile: Profile, now: float) -> Mapping[str, Any] | Rejection:
        try:
            keys = await self.keys_for(token)
            outcome = examine(token, profile, keys, now)
            if isinstance(outcome, Rejection) and outcome.why == BAD_SIGNATURE:
                newer = await self.keys_after(keys)
                outcome = examine(token, profile, newer, now) if newer is not None else outcome
        finally:
            del token
        return outcome

    def _age(self) -> float:
        return self._clock() - self._fetched_at

    def _usable(self) -> KeySet:
        with self._lock:
            held, failure = self._held, self._failure
            usable = self._clock() - self._fetched_at < self._max_stale
        if held is None or not usable:
            raise Unavailable(f"the keys of {self._uri} cannot be had, so no token can be verified: {failure}")
        return held

    async def _refresh(self, *, wait: bool = True) -> None:
        flight = self._started()
        if flight is None or not wait:
            return
        try:
            await wait_for(flight, _WAIT)
        except TimeoutError:
            pass  # what is held decides

    def _started(self) -> Future[None] | None:
        """Return the fetch that runs, after starting one if there is none; None while the cool-down lasts."""
        flight: Future[None] | None = None
        now = 0.0
        try:
            with self._lock:
                if self._flight is not None:
                    return self._flight
                now = self._clock()
                if now - self._tried_at < self._cooldown:
                    return None
                # INVARIANT: counted when it starts and whatever comes of it, so no failure opens the way to the next.
                self._tried_at = now
                flight = self._flight = Future()
            threading.Thread(target=self._run, args=(flight, now), name="agentguard-jwks", daemon=True).start()
        except BaseException as error:  # a fetch that nobody ends would be waited for by everybody, for ever
            if flight is not None:
                self._land(flight, "no thread is left to fetch them", now)
            if not isinstance(error, RuntimeError | MemoryError):
                raise
        return flight

    def _run(self, flight: Future[None], now: float) -> None:
        outcome: KeySet | str = "the fetch ended early"
        try:
            outcome = drive(self._fetched())
        except Exception as error:
            outcome = error.why if isinstance(error, HttpFailure) else f"the fetch failed ({type(error).__name__})"
        finally:
            self._land(flight, outcome, now)

    async def _fetched(self) -> KeySet | str:
        def make() -> Request:
            return Request(method="GET", url=self._uri, headers=_ACCEPT)

        answer = await self._http.send(make, retry=self._held is None)
        if answer.status != 200:
            return f"the answer is {answer.status}"
        found = usable_keys(answer.json(), self._max_keys)
        if isinstance(found, str):
            return found
        keys, problems = found
        self._warn("; ".join(problems[:5]))
        return KeySet(keys)

    def _warn(self, problems: str) -> None:
        if problems and problems != self._warned:
            _log.warning("the key set of %s holds keys that are not used: %s", self._uri, problems)
        self._warned = problems

    def _land(self, flight: Future[None], outcome: KeySet | str, started: float) -> None:
        with self._lock:
            failing, self._failure = self._failure, outcome if isinstance(outcome, str) else ""
            if isinstance(outcome, KeySet):
                self._held, self._fetched_at = outcome, started
            if self._flight is flight:
                self._flight = None
        if self._failure and not failing:
            _log.warning("the key set of %s cannot be fetched: %s", self._uri, self._failure)
        with suppress(InvalidStateError):  # who began it was stopped, after its thread had begun
            flight.set_result(None)

    def _forget_flight(self) -> None:
        """In a forked child: the thread that fetches is the parent's."""
        self._lock, self._flight = threading.Lock(), None

    def __repr__(self) -> str:
        return f"<Jwks {self._uri}>"


def same_issuer(metadata: Mapping[str, Any], issuer: str) -> str:
    """Return why some metadata must not be used for an issuer, or nothing.

    RFC 8414 section 3.3: the `issuer` in it is identical to the one it was asked for, compared character by character.
    """
    if "issuer" not in metadata:
        return f"the metadata names no issuer; asked for was {issuer!r}"
    if not isinstance(metadata["issuer"], str) or metadata["issuer"] != issuer:
        return f"the metadata is of another issuer; asked for was {issuer!r}"
    return ""


def _after_fork() -> None:
    for cache in list(_caches):
        cache._forget_flight()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
