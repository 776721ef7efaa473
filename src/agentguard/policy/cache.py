"""Decisions that are used again: only where the configuration says how long, and only for the same question."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from msgspec import structs

from agentguard.errors import ConfigurationError
from agentguard.model.decision import AccessRequest, Decision, Outcome, Reason
from agentguard.policy.combine import name_of, whole
from agentguard.policy.decided import Decided
from agentguard.policy.fork import renew_after_fork
from agentguard.policy.values import NotCarried, digest_of
from agentguard.ports import DecisionPoint

_LONGEST: Final = 300.0
_Key: TypeAlias = tuple[str, object]


@dataclass(frozen=True, slots=True)
class _Held:
    at: float
    decision: Decided


class CachedPoint:
    """Remembers what another decision point decided; is one itself. Safe for concurrent use.

    The key is everything that entered the decision: the whole request, with its arguments, attributes and task, and
    the version of the policies where the decision point tells it. An error is never kept, and neither is a question to
    a person. AuthZEN 1.0 knows no lifetime of a decision, so the configuration has to say it.

    Args:
        point: is asked where nothing is kept.
        ttl: seconds for which a decision is used, above 0 and at most 300: a policy that changes at a server takes
            effect that much later.
        size: most decisions that are kept; the one that was used longest ago goes first.
        clock: monotonic seconds.

    Raises:
        ConfigurationError: ttl or size is wrong.
    """

    def __init__(
        self, point: DecisionPoint, *, ttl: float, size: int = 1024, clock: Callable[[], float] = time.monotonic
    ) -> None:
        if not 0 < ttl <= _LONGEST:
            raise ConfigurationError(f"decision cache: ttl {ttl!r} is not above 0 and at most {_LONGEST:.0f} seconds")
        if type(size) is not int or not 0 < size <= 1 << 20:
            raise ConfigurationError(f"decision cache: size {size!r} is no whole number from 1 to {1 << 20}")
        self._point, self._ttl, self._size, self._clock = point, ttl, size, clock
        self.name, self.suspends = name_of(point), getattr(point, "suspends", True)
        self.waits, self.remote = getattr(point, "waits", False), getattr(point, "remote", False)
        self._kept: OrderedDict[_Key, _Held] = OrderedDict()
        self._forgotten = 0
        self.renew()
        renew_after_fork(self)

    @property
    def version(self) -> object:
        """The version of the policies behind it, and how often everything was forgotten."""
        return (getattr(self._point, "version", ""), self._forgotten)

    async def decide(self, request: AccessRequest) -> Decision:
        """Decide, by what is kept if the same question was answered in time."""
        await self.refresh()
        try:
            key = (digest_of(request), self.version)
        except NotCarried:
            return await self._point.decide(request)
        held = self._find(key)
        if held is not None:
            return held
        asked_at = self._clock()
        decision = await self._point.decide(request)
        if (found := _kept(decision, self.name)) is not None:
            self._keep(key, asked_at, found)
        return decision

    def renew(self) -> None:
        """In a forked child: a lock that another thread of the parent held stays held for ever."""
        self._lock = threading.Lock()

    async def refresh(self) -> None:
        """Look whether the policies changed, where the decision point behind it can tell."""
        refresh = getattr(self._point, "refresh", None)
        if refresh is not None:
            await refresh()

    def forget(self) -> None:
        """Drop every decision; one that is on its way is not kept either."""
        with self._lock:
            self._forgotten += 1
            self._kept.clear()

    def _find(self, key: _Key) -> Decided | None:
        now = self._clock()
        with self._lock:
            held = self._kept.get(key)
            if held is None or not 0 <= now - held.at < self._ttl:
                self._kept.pop(key, None)
                return None
            self._kept.move_to_end(key)
            return held.decision

    def _keep(self, key: _Key, asked_at: float, decision: Decided) -> None:
        evidence = tuple(replace(entry, cached=True) for entry in decision.evidence)
        with self._lock:
            # INVARIANT: what was asked before `forget`, or under other policies, is not kept after it.
            if key[1] != self.version:
                return
            self._kept[key] = _Held(asked_at, structs.replace(decision, evidence=evidence))
            self._kept.move_to_end(key)
            while len(self._kept) > self._size:
                self._kept.popitem(last=False)


def _kept(decision: object, name: str) -> Decided | None:
    """A decision as it is kept; None for an error, a question to a person and what is no decision."""
    if not isinstance(decision, Decision) or decision.reason is Reason.POLICY_ERROR:
        return None
    found = whole(decision, name)
    return found if found.outcome is Outcome.PERMIT or found.outcome is Outcome.DENY else None
