"""Counters and suspensions in this process's memory: the reference implementation of both ports."""

from __future__ import annotations

import secrets
import threading
from collections import deque
from collections.abc import Sequence
from decimal import Decimal
from typing import Final

from agentguard.ports import Candidate, Charge, Exhausted, Reservation, Settlement

_ZERO: Final = Decimal(0)


class _Counter:
    """A sum, over a sliding window where the charge names one."""

    __slots__ = ("entries", "total")

    def __init__(self) -> None:
        self.total = _ZERO
        self.entries: deque[tuple[float, Decimal]] = deque()

    def value(self, now: float, per: float) -> Decimal:
        while per and self.entries and self.entries[0][0] <= now - per:
            self.total -= self.entries.popleft()[1]
        return self.total

    def add(self, now: float, per: float, amount: Decimal) -> None:
        self.total += amount
        if per:
            self.entries.append((now, amount))

    def take_back(self, amount: Decimal) -> None:
        self.total -= amount
        for index in range(len(self.entries) - 1, -1, -1):
            if self.entries[index][1] == amount:
                del self.entries[index]
                return


class MemoryBudgets:
    """Counters of one process. INVARIANT: every method holds the one lock from its first read to its last write."""

    suspends = False

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._scopes: dict[str, dict[str, _Counter]] = {}
        self._retries: dict[str, dict[str, tuple[int, str]]] = {}

    async def reserve(self, levels: Sequence[Sequence[Candidate]], now: float) -> Reservation | Exhausted:
        """Choose for every level its first candidate with budget left and take them all, or none (see the port)."""
        with self._lock:
            chosen: list[int] = []
            for level, candidates in enumerate(levels):
                index = next((i for i, candidate in enumerate(candidates) if self._fits(candidate, now)), None)
                if index is None:
                    return self._exhausted(level, candidates, now)
                chosen.append(index)
            return self._take([candidates[i] for candidates, i in zip(levels, chosen, strict=True)], chosen, now)

    def _fits(self, candidate: Candidate, now: float) -> bool:
        if candidate.retry_key and self._retry(candidate.retry_key):
            return True
        return all(self._charge_fits(charge, now) for charge in candidate.charges)

    def _charge_fits(self, charge: Charge, now: float) -> bool:
        return self._counter(charge.key).value(now, charge.per) + Decimal(charge.amount) <= Decimal(charge.limit)

    def _exhausted(self, level: int, candidates: Sequence[Candidate], now: float) -> Exhausted:
        last = candidates[-1]
        return Exhausted(level, last.step, next(c for c in last.charges if not self._charge_fits(c, now)))

    def _take(self, candidates: Sequence[Candidate], chosen: list[int], now: float) -> Reservation:
        charges: list[Charge] = []
        retries: list[tuple[str, int, bool]] = []
        identifier = ""
        for candidate in candidates:
            again = self._pop_retry(candidate.retry_key) if candidate.retry_key else None
            if again is not None:
                retries.append((candidate.retry_key, again[0] - 1, True))
                identifier = again[1]
                continue
            if candidate.retry_key:
                retries.append((candidate.retry_key, candidate.attempts - 1, False))
            for charge in candidate.charges:
                self._counter(charge.key).add(now, charge.per, Decimal(charge.amount))
            charges.extend(candidate.charges)
        return Reservation(identifier or secrets.token_hex(8), tuple(chosen), tuple(charges), tuple(retries))

    async def settle(self, reservation: Reservation, settlement: Settlement) -> None:
        """Give the reservation back if the call never ran; keep it open for another attempt if the tool raised."""
        with self._lock:
            if settlement is Settlement.NOT_RUN:
                for charge in reservation.charges:
                    self._counter(charge.key).take_back(Decimal(charge.amount))
            for key, left, was_retry in reservation.retries:
                if settlement is Settlement.RAISED and left > 0:
                    self._put_retry(key, left, reservation.id)
                elif settlement is Settlement.NOT_RUN and was_retry:
                    self._put_retry(key, left + 1, reservation.id)

    async def forget(self, scope: str) -> None:
        """Drop all counters of a scope."""
        with self._lock:
            self._scopes.pop(scope, None)
            self._retries.pop(scope, None)

    def _counter(self, key: str) -> _Counter:
        scope, _, name = key.partition("/")
        counters = self._scopes.setdefault(scope, {})
        return counters.setdefault(name, _Counter()) if name not in counters else counters[name]

    def _retry(self, key: str) -> bool:
        scope, _, name = key.partition("/")
        return name in self._retries.get(scope, {})

    def _pop_retry(self, key: str) -> tuple[int, str] | None:
        scope, _, name = key.partition("/")
        return self._retries.get(scope, {}).pop(name, None)

    def _put_retry(self, key: str, left: int, identifier: str) -> None:
        scope, _, name = key.partition("/")
        self._retries.setdefault(scope, {})[name] = (left, identifier)


class MemorySuspensions:
    """Who is stopped, in one process. INVARIANT: `start` checks and marks under the lock that `suspend` takes."""

    suspends = False

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stopped: dict[str, str] = {}
        self._running: set[str] = set()

    async def start(self, call: str, keys: Sequence[str]) -> str:
        """Mark a call as running and return "", or return the key that is suspended."""
        with self._lock:
            if self._stopped:
                for key in keys:
                    if key in self._stopped:
                        return key
            self._running.add(call)
            return ""

    async def finish(self, call: str) -> None:
        """The call no longer runs."""
        with self._lock:
            self._running.discard(call)

    async def suspend(self, key: str, why: str) -> None:
        """Stop a key; nothing starts under it after this returned."""
        with self._lock:
            self._stopped[key] = why

    async def lift(self, key: str) -> None:
        """Let a key go on."""
        with self._lock:
            self._stopped.pop(key, None)

    async def suspended(self, keys: Sequence[str]) -> str:
        """Return the first suspended key, or ""."""
        with self._lock:
            return next((key for key in keys if key in self._stopped), "") if self._stopped else ""
