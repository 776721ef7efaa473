"""The identity that a SPIFFE agent attests (SPIFFE Workload API): X.509-SVIDs, and JWT-SVIDs for one audience each.

What the agent gave is held until half its life has passed, and the identity itself is asked for every ten seconds, so
that one that was taken away is noticed. There is no thread and no stream: a call asks when it is time to.
"""

from __future__ import annotations

import logging
import math
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, Literal, TypeAlias

from agentguard.errors import ConfigurationError, IdentityUnavailable
from agentguard.identity.fork import tell_of_forks
from agentguard.identity.jwt_svid import JwtIdentity, verified_jwt
from agentguard.identity.offload import offloaded
from agentguard.identity.spiffe_id import spiffe_id_problem
from agentguard.identity.workload_api import Failure, WorkloadApi
from agentguard.identity.x509_svid import X509Identity, verified_x509
from agentguard.model.lease import Secret
from agentguard.model.principal import Identity, Proof

RECHECK: Final = 10.0  # seconds after which the agent is asked whether the identity still stands
MAX_AUDIENCES: Final = 64
MAX_TIMEOUT: Final = 60.0
_MAX_AUDIENCE: Final = 2048
_MAX_DOUBLINGS: Final = 3
_PATIENCE: Final = 1.0  # seconds to wait for the agent at most, while an SVID is held that has not expired
_X509: Final = ""  # the slot of the X.509-SVID; no audience is empty
_NOBODY: Final = "urn:agentguard:identify"  # the audience of a JWT-SVID that is only looked at
_log: Final = logging.getLogger("agentguard")

_Svid: TypeAlias = X509Identity | JwtIdentity


@dataclass(frozen=True, slots=True)
class _Slot:
    """An SVID, and when the agent is asked next.

    Args:
        refresh_at: seconds since the epoch: half its life.
        ask_at: on the monotonic clock.
        failures: refreshes that failed one after the other.
    """

    svid: _Svid
    refresh_at: float
    ask_at: float
    failures: int = 0


class SpiffeIdentity:
    """Proves the workload by its SVID; implements `Authenticator` and `IdentityTokens`. Safe for threads.

    An SVID that has not expired stays in force while the agent cannot be reached. When the agent answers that the
    workload has no identity, another one or several, everything held is dropped at once. A forked child holds nothing
    of its parent and proves itself.

    Args:
        socket: the agent's socket, `unix:///run/spire/agent.sock`; by default SPIFFE_ENDPOINT_SOCKET.
        timeout: most seconds that a call waits for the agent, attempts and pauses together.
        svid: which kind proves the identity.
        spiffe_id: the identity to take, needed where the workload has several.
        monotonic: counts the seconds until the agent is asked again.

    Raises:
        ConfigurationError: the package `spiffe` is missing, or the socket, the SPIFFE ID or the timeout is none.
    """

    suspends: bool = False
    waits: bool = True

    def __init__(
        self,
        socket: str | None = None,
        *,
        timeout: float = 5.0,
        svid: Literal["jwt", "x509"] = "x509",
        spiffe_id: str = "",
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        if not 0 < timeout <= MAX_TIMEOUT:
            raise ConfigurationError(f"identity: spiffe: timeout {timeout!r}: write seconds up to {MAX_TIMEOUT:g}")
        if svid not in ("jwt", "x509"):
            raise ConfigurationError(f"identity: spiffe: svid {svid!r}: write jwt or x509")
        if spiffe_id and (problem := spiffe_id_problem(spiffe_id)):
            raise ConfigurationError(f"identity: spiffe: spiffe_id {spiffe_id!r}: {problem}")
        self._api = WorkloadApi(socket)
        self._timeout, self._spiffe_id, self._monotonic = timeout, spiffe_id, monotonic
        self._proof = _X509 if svid == "x509" else _NOBODY
        self._closed = False
        self.begin()
        tell_of_forks(self)

    async def identify(self, now: float) -> Identity:
        """Return the SPIFFE ID that the agent attests, and when its SVID ends.

        Args:
            now: seconds since the epoch.

        Raises:
            IdentityUnavailable: there is no SVID that verifies with the bundle of its own trust domain.
        """
        svid = await self._current(self._proof, now)
        return Identity(svid.name, Proof.ATTESTED, svid.expires_at, svid.trust_domain)

    async def token(self, audience: str, now: float) -> Secret:
        """Return a JWT-SVID for exactly this audience (SPIFFE JWT-SVID; draft-ietf-oauth-spiffe-client-auth).

        Args:
            audience: who will verify it: an issuer identifier, a vault's configured audience.
            now: seconds since the epoch.

        Raises:
            IdentityUnavailable: the agent gives none that verifies.
        """
        if not (0 < len(audience) <= _MAX_AUDIENCE and audience.isprintable()):
            raise IdentityUnavailable(f"an audience is a text of 1 to {_MAX_AUDIENCE} printable characters")
        svid = await self._current(audience, now)
        if not isinstance(svid, JwtIdentity):
            raise IdentityUnavailable("the SPIFFE agent gave no JWT-SVID")
        return svid.secret

    async def x509(self, now: float) -> X509Identity:
        """Return the X.509-SVID, with its key, for mutual TLS.

        Args:
            now: seconds since the epoch.

        Raises:
            IdentityUnavailable: the agent gives none that verifies.
        """
        svid = await self._current(_X509, now)
        if not isinstance(svid, X509Identity):
            raise IdentityUnavailable("the SPIFFE agent gave no X.509-SVID")
        return svid

    def begin(self) -> None:
        """Hold nothing, as at the start; called in a forked child, which the agent may take for another workload."""
        self.asking = threading.Lock()
        self._slots: dict[str, _Slot] = {}

    def close(self) -> None:
        """Forget every SVID and ask the agent for none any more; once more changes nothing."""
        self._closed = True
        self._slots.clear()

    def __repr__(self) -> str:
        return f"<SpiffeIdentity {self._spiffe_id or 'at'} {self._api.address}>"

    async def _current(self, key: str, now: float) -> _Svid:
        if (svid := self._fresh(key, now)) is not None:
            return svid
        answer = await offloaded(partial(self._refreshed, key, now))
        if isinstance(answer, Failure):
            raise IdentityUnavailable(f"{self._api.address}: {answer.why}")
        return answer

    def _fresh(self, key: str, now: float) -> _Svid | None:
        slot = self._slots.get(key)
        due = slot is None or not now < slot.refresh_at or not self._monotonic() < slot.ask_at
        return None if due or slot is None or not now < slot.svid.expires_at else slot.svid

    def _refreshed(self, key: str, now: float) -> _Svid | Failure:
        started = time.monotonic()
        slot = self._slots.get(key)
        usable = slot.svid if slot is not None and now < slot.svid.expires_at else None
        deadline = started + (self._timeout if usable is None else min(self._timeout, _PATIENCE))
        # One thread asks; the others use what they have, or wait for it.
        lock = self.asking
        if not lock.acquire(timeout=0 if usable is not None else self._timeout):
            return usable or Failure("the SPIFFE agent did not answer in time; is it overloaded or stuck?")
        try:
            return self._fresh(key, now) or self._asked(key, now + time.monotonic() - started, deadline)
        finally:
            lock.release()

    def _asked(self, key: str, now: float, deadline: float) -> _Svid | Failure:
        if self._closed:
            return Failure("this identity was closed; make a new one")
        slots = self._slots
        answer = self._verified(key, now, deadline)
        if not isinstance(answer, Failure):
            return self._kept(slots, key, answer, now)
        if answer.withdrawn:
            slots.clear()
        slot = slots.get(key)
        if slot is None or not now < slot.svid.expires_at:
            return answer
        _log.warning("%s: %s; the SVID held is used until it expires", self._api.address, answer.why)
        pause = RECHECK * 2 ** min(slot.failures, _MAX_DOUBLINGS)
        slots[key] = replace(slot, refresh_at=math.inf, ask_at=self._monotonic() + pause, failures=slot.failures + 1)
        return slot.svid

    def _verified(self, key: str, now: float, deadline: float) -> _Svid | Failure:
        if key == _X509:
            context = self._api.x509(deadline)
            return context if isinstance(context, Failure) else verified_x509(context, self._spiffe_id, now)
        answer = self._api.jwt(key, self._spiffe_id, deadline)
        if isinstance(answer, Failure):
            return answer
        svids, bundles = answer
        return verified_jwt(svids, bundles, key, self._spiffe_id, now)

    def _kept(self, slots: dict[str, _Slot], key: str, svid: _Svid, now: float) -> _Svid:
        recheck = self._monotonic() + RECHECK if key in (_X509, _NOBODY) else math.inf
        if len(slots) > MAX_AUDIENCES:
            slots.pop(next(iter(slots)), None)
        slots[key] = _Slot(svid, _half_life(svid, now), recheck)
        if self._closed:
            slots.clear()
        return svid


def _half_life(svid: _Svid, now: float) -> float:
    """When to ask for the next one: at half its life, 5 % earlier or later, so that workloads do not ask together."""
    life = svid.expires_at - svid.begins_at
    half = svid.begins_at + life * random.uniform(0.45, 0.55)  # noqa: S311  # jitter
    # One that an agent hands out late has passed its half life: then half of what is left.
    return half if half > now else (now + svid.expires_at) / 2
