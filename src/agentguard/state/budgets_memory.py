"""Counters in this process's memory: the reference implementation of the port."""

from __future__ import annotations

import itertools
import os
import threading
from bisect import insort
from collections import deque
from collections.abc import Mapping, Sequence
from decimal import Context, Decimal, Inexact, InvalidOperation
from functools import lru_cache
from typing import Final, NamedTuple

from agentguard.ports import Candidate, Charge, Exhausted, Reservation, Settlement

# Sums are exact: an application that sets its own decimal context must not round what it has spent.
_EXACT: Final = Context(prec=4000, traps=[InvalidOperation, Inexact])
_ZERO: Final = Decimal(0)
_ONE: Final = Decimal(1)
_number: Final = lru_cache(maxsize=1024)(Decimal)  # most charges say 1 of the same few limits
_NOTHING: Final = Charge("", "0", "0")
_RAN: Final = Settlement.RAN  # found faster than in its enumeration


class _Counter:
    """A sum, over a sliding window where the charge names one; and a value, for as long as somebody holds it."""

    __slots__ = ("entries", "holders", "total", "value")

    def __init__(self) -> None:
        self.total = _ZERO
        self.value, self.holders = "", 0
        self.entries: deque[tuple[float, Decimal, str]] = deque()

    def take(self, charge: Charge, now: float, reservation: str) -> bool:
        """Add the charge if it fits."""
        while charge.per and self.entries and self.entries[0][0] <= now - charge.per:
            self.total = _EXACT.subtract(self.total, self.entries.popleft()[1])
        amount = _number(charge.amount)
        total = _EXACT.add(self.total, amount)
        if amount < 0 or total > _number(charge.limit):
            return False
        if charge.least != "0" and self.total < _number(charge.least):
            return False
        if charge.value and self.value not in ("", charge.value):
            return False
        self.total = total
        if charge.value:
            self.value, self.holders = charge.value, self.holders + 1
        if charge.per:
            entry = (now + charge.later, amount, reservation)
            # What is let go first stands first; a window that begins later stays behind those that began meanwhile.
            if self.entries and entry[0] < self.entries[-1][0]:
                insort(self.entries, entry)
            else:
                self.entries.append(entry)
        return True

    def rename(self, old: str, new: str) -> None:
        """Put what was taken under another reservation's name: that of the attempt before."""
        self.entries = deque((at, amount, new if name == old else name) for at, amount, name in self.entries)

    def give_back(self, charge: Charge, reservation: str) -> None:
        """Undo `take`; what has left the window was given back by time already."""
        amount = Decimal(charge.amount)
        if charge.value:
            self.holders -= 1
            self.value = self.value if self.holders else ""
        if not charge.per:
            self.total = _EXACT.subtract(self.total, amount)
            return
        for index in range(len(self.entries) - 1, -1, -1):
            if self.entries[index][1:] == (amount, reservation):
                del self.entries[index]
                self.total = _EXACT.subtract(self.total, amount)
                return


class _Again(NamedTuple):
    """What was asked before, with its counters and their limits."""

    levels: tuple[Sequence[Candidate], ...]
    counters: tuple[tuple[_Counter, Decimal], ...]
    chosen: tuple[int, ...]
    charges: tuple[Charge, ...]


def _is_one_more(charge: Charge) -> bool:
    return charge.amount == "1" and not charge.per and not charge.value and charge.least == "0"


_MOST_KEPT: Final = 1_000
_NO_COUNTERS: Final[Mapping[str, _Counter]] = {}


class MemoryBudgets:
    """Counters of one process. INVARIANT: every method holds the one lock from its first read to its last write."""

    suspends = False

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._scopes: dict[str, dict[str, _Counter]] = {}
        self._by_key: dict[str, _Counter] = {}  # the same ones, by their whole key
        self._retries: dict[str, dict[str, tuple[int, str]]] = {}
        self._again: dict[int, _Again] = {}
        # The ids of reservations: no other counters have the prefix, and a forked process makes others.
        self._prefix, self._numbers = os.urandom(8).hex(), itertools.count(1)

    async def reserve(self, levels: Sequence[Sequence[Candidate]], now: float) -> Reservation | Exhausted:
        """Choose for every level its first candidate with budget left and take them all, or none (see the port)."""
        fresh = f"{self._prefix}{next(self._numbers):x}"
        with self._lock:
            known = self._again.get(id(levels))
            if known is not None:
                fitting = 0
                for counter, limit in known.counters:
                    total = _EXACT.add(counter.total, _ONE)
                    if total > limit:
                        break
                    counter.total = total
                    fitting += 1
                else:
                    return Reservation(fresh, known.chosen, known.charges)
                self._give_back(known.charges[:fitting], fresh)
            chosen: list[int] = []
            taken: list[Charge] = []
            retried = False
            for level, candidates in enumerate(levels):
                if candidates and self._fits(candidates[0], taken):
                    chosen.append(0)
                    continue
                short: Charge | None = None
                for index, candidate in enumerate(candidates):
                    short = self._short(candidate, now, fresh, taken)
                    if short is None:
                        chosen.append(index)
                        retried = retried or bool(candidate.retry_key)
                        break
                if short is not None or not candidates:
                    self._give_back(taken, fresh)
                    return Exhausted(level, candidates[-1].step if candidates else "", short or _NOTHING)
            if not retried:
                if known is None and type(levels) is tuple:
                    self._keep(levels)
                return Reservation(fresh, tuple(chosen), tuple(taken))
            return self._reserved([options[i] for options, i in zip(levels, chosen, strict=True)], chosen, taken, fresh)

    def _keep(self, levels: tuple[Sequence[Candidate], ...]) -> None:
        """Keep the counters of what is asked again as it is, where each first candidate takes one more, up to so many.

        INVARIANT: what is kept holds the levels, which are tuples and so never change: no other has their id.
        """
        charges: list[Charge] = []
        for candidates in levels:
            if type(candidates) is not tuple or candidates[0].retry_key:
                return
            charges += candidates[0].charges
        if all(map(_is_one_more, charges)):
            if len(self._again) >= _MOST_KEPT:
                self._again.clear()
            counters = tuple([(self._counter(charge.key), _number(charge.limit)) for charge in charges])
            self._again[id(levels)] = _Again(levels, counters, (0,) * len(levels), tuple(charges))

    def _fits(self, candidate: Candidate, taken: list[Charge]) -> bool:
        """Take what most candidates ask for, one more up to so many; False, and nothing taken, for any other."""
        if len(candidate.charges) != 1 or candidate.retry_key:
            return False
        (charge,) = candidate.charges
        if not _is_one_more(charge):
            return False
        counter = self._by_key.get(charge.key) or self._counter(charge.key)
        total = _EXACT.add(counter.total, _ONE)
        if total > _number(charge.limit):
            return False
        counter.total = total
        taken.append(charge)
        return True

    def _short(self, candidate: Candidate, now: float, fresh: str, taken: list[Charge]) -> Charge | None:
        """Take all charges of a candidate, or none, and return the one that does not fit; a retry takes nothing."""
        if candidate.retry_key and self._retried(candidate):
            return None
        before = len(taken)
        for charge in candidate.charges:
            counter = self._by_key.get(charge.key) or self._counter(charge.key)
            if not counter.take(charge, now, fresh):
                self._give_back(taken[before:], fresh)
                del taken[before:]
                return charge
            taken.append(charge)
        return None

    def _give_back(self, charges: Sequence[Charge], reservation: str) -> None:
        for charge in charges:
            scope, _, name = charge.key.partition("/")
            counter = self._scopes.get(scope, {}).get(name)  # None: the scope was forgotten meanwhile
            if counter is not None:
                counter.give_back(charge, reservation)

    def _reserved(self, candidates: list[Candidate], chosen: list[int], taken: list[Charge], fresh: str) -> Reservation:
        retries: list[tuple[str, int, bool]] = []
        identifier = fresh
        for candidate in candidates:
            again = self._pop_retry(candidate.retry_key) if candidate.retry_key else None
            if again is not None:
                retries.append((candidate.retry_key, again[0] - 1, True))
                identifier = again[1]
            elif candidate.retry_key:
                retries.append((candidate.retry_key, candidate.attempts - 1, False))
        for charge in taken if identifier != fresh else ():
            self._counter(charge.key).rename(fresh, identifier)
        return Reservation(identifier, tuple(chosen), tuple(taken), tuple(retries))

    async def standing(self, keys: Sequence[str]) -> Sequence[str]:
        """Return what each counter stands for: its value, else its sum, or ""."""
        with self._lock:
            return [self._standing(key) for key in keys]

    def _standing(self, key: str) -> str:
        scope, _, name = key.partition("/")
        counter = self._scopes.get(scope, {}).get(name)
        if counter is None:
            return ""
        return counter.value or (str(counter.total) if counter.total else "")

    async def settle(self, reservation: Reservation, settlement: Settlement) -> None:
        """Give the reservation back if the call never ran; keep it open for another attempt if the tool raised."""
        if settlement is _RAN:
            return
        with self._lock:
            if settlement is Settlement.NOT_RUN:
                self._give_back(reservation.charges, reservation.id)
            for key, left, was_retry in reservation.retries:
                if settlement is Settlement.RAISED and left > 0:
                    self._put_retry(key, left, reservation.id)
                elif settlement is Settlement.NOT_RUN and was_retry:
                    self._put_retry(key, left + 1, reservation.id)

    async def forget(self, scope: str) -> None:
        """Drop all counters of a scope."""
        with self._lock:
            self._again.clear()  # INVARIANT: what is kept is a counter that stands
            for name in self._scopes.pop(scope, _NO_COUNTERS):
                self._by_key.pop(f"{scope}/{name}", None)
            self._retries.pop(scope, None)

    def _counter(self, key: str) -> _Counter:
        scope, _, name = key.partition("/")
        counters = self._scopes.get(scope)
        if counters is None:
            counters = self._scopes[scope] = {}
        counter = counters.get(name)
        if counter is None:
            counter = counters[name] = self._by_key[key] = _Counter()
        return counter

    def _retried(self, candidate: Candidate) -> bool:
        scope, _, name = candidate.retry_key.partition("/")
        return bool(name) and name in self._retries.get(scope, {})

    def _pop_retry(self, key: str) -> tuple[int, str] | None:
        scope, _, name = key.partition("/")
        return self._retries.get(scope, {}).pop(name, None)

    def _put_retry(self, key: str, left: int, identifier: str) -> None:
        scope, _, name = key.partition("/")
        self._retries.setdefault(scope, {})[name] = (left, identifier)
