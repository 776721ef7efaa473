"""A page of the counters: read from a store, changed by the arithmetic of `MemoryBudgets`, written back.

INVARIANT: how a counter counts is said once, in `memory.py`; a store only fetches rows and keeps what changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final, NamedTuple

from agentguard._drive import drive
from agentguard.ports import Candidate, Charge, Exhausted, Reservation, Settlement
from agentguard.state.budgets_memory import MemoryBudgets

TASK: Final = "task:"  # scopes of tasks; what a crashed one left is dropped after `KEPT`
KEPT: Final = 30 * 86_400.0
_MOST_LEFT: Final = 2**31 - 1  # attempts that a column holds in every store; nobody comes to the end of them


class Key(NamedTuple):
    """A counter's or a retry's key, `SCOPE/NAME`, in its two parts."""

    scope: str
    name: str

    @classmethod
    def of(cls, text: str) -> Key:
        """Split it as the port says."""
        scope, _, name = text.partition("/")
        return cls(scope, name)

    def __str__(self) -> str:
        return f"{self.scope}/{self.name}"


class CounterRow(NamedTuple):
    """A counter without its entries; `total` is exact decimal text."""

    key: Key
    total: str
    value: str
    holders: int


class EntryRow(NamedTuple):
    """One charge in a sliding window; `id` is the store's, 0 for a new one, `at` by the store's clock."""

    id: int
    key: Key
    at: float
    amount: str
    reservation: str


class RetryRow(NamedTuple):
    """Attempts that are left for a call that raised."""

    key: Key
    left: int
    identifier: str


@dataclass(frozen=True, slots=True)
class Wanted:
    """What has to be read for one operation.

    Args:
        windows: every counter, with the seconds of its shortest window, or 0 where it has none.
        retries: every retry key.
    """

    windows: Mapping[Key, float]
    retries: tuple[Key, ...]

    @property
    def scopes(self) -> list[str]:
        """Every scope once, in the one order in which scopes are locked."""
        return sorted({key.scope for key in (*self.windows, *self.retries)})


@dataclass(slots=True)
class Changes:
    """What has to be written."""

    counters: list[CounterRow] = field(default_factory=list)
    added: list[EntryRow] = field(default_factory=list)
    removed: list[int] = field(default_factory=list)
    retries: list[RetryRow] = field(default_factory=list)
    spent: list[Key] = field(default_factory=list)


def wanted(levels: Sequence[Sequence[Candidate]]) -> Wanted:
    """What `reserve` has to read."""
    candidates = [candidate for level in levels for candidate in level]
    retries = {Key.of(candidate.retry_key) for candidate in candidates if candidate.retry_key}
    return Wanted(_windows(charge for candidate in candidates for charge in candidate.charges), tuple(sorted(retries)))


def wanted_back(reservation: Reservation, settlement: Settlement) -> Wanted:
    """What `settle` has to read; nothing where the call ran, or raised and has no attempt left."""
    if settlement is Settlement.RAN:
        return Wanted({}, ())
    given_back = reservation.charges if settlement is Settlement.NOT_RUN else ()
    again = settlement is Settlement.NOT_RUN
    retries = {Key.of(key) for key, left, was_retry in reservation.retries if (was_retry if again else left > 0)}
    return Wanted(_windows(given_back), tuple(sorted(retries)))


def _windows(charges: Iterable[Charge]) -> dict[Key, float]:
    found: dict[Key, float] = {}
    for charge in charges:
        key = Key.of(charge.key)
        found[key] = min(filter(None, (found.get(key), charge.per)), default=0.0)
    return found


class Page(MemoryBudgets):
    """The rows that one operation needs, as counters in memory.

    Args:
        counters, entries, retries: what was read. For `reserve` the entries that have left the shortest window are
            enough, for `settle` those of the reservation: no other is looked at.
    """

    def __init__(
        self, counters: Iterable[CounterRow] = (), entries: Iterable[EntryRow] = (), retries: Iterable[RetryRow] = ()
    ) -> None:
        super().__init__()
        self._read = {row.key: row for row in counters}
        self._known = {row.key: row for row in retries}
        for row in self._read.values():
            counter = self._counter(str(row.key))
            counter.total, counter.value, counter.holders = Decimal(row.total), row.value, row.holders
        # An amount keeps its identity on its way through the counter, so it tells which row an entry came from.
        self._rows: list[tuple[Decimal, EntryRow]] = []
        for entry in entries:
            amount = Decimal(entry.amount)
            self._rows.append((amount, entry))
            self._counter(str(entry.key)).entries.append((entry.at, amount, entry.reservation))
        for again in self._known.values():
            self._put_retry(str(again.key), again.left, again.identifier)

    def take(self, levels: Sequence[Sequence[Candidate]], now: float) -> Reservation | Exhausted:
        """`reserve`, at a time of the store's clock."""
        return drive(self.reserve(levels, now))

    def give(self, reservation: Reservation, settlement: Settlement) -> None:
        """`settle`."""
        drive(self.settle(reservation, settlement))

    def says(self, keys: Sequence[str]) -> Sequence[str]:
        """`standing`."""
        return drive(self.standing(keys))

    def changes(self) -> Changes:
        """What differs from what was read."""
        changes, kept = Changes(), set()
        known = {id(amount) for amount, _ in self._rows}
        for scope, counters in self._scopes.items():
            for name, counter in counters.items():
                key = Key(scope, name)
                row = CounterRow(key, str(counter.total), counter.value, counter.holders)
                if row != self._read.get(key, CounterRow(key, "0", "", 0)):
                    changes.counters.append(row)
                kept |= {id(amount) for _, amount, _ in counter.entries}
                fresh = [entry for entry in counter.entries if id(entry[1]) not in known]
                changes.added += [EntryRow(0, key, at, str(amount), holder) for at, amount, holder in fresh]
        changes.removed = [row.id for amount, row in self._rows if id(amount) not in kept]
        self._add_retries(changes)
        return changes

    def _add_retries(self, changes: Changes) -> None:
        now = {
            Key(scope, name): RetryRow(Key(scope, name), min(left, _MOST_LEFT), identifier)
            for scope, retries in self._retries.items()
            for name, (left, identifier) in retries.items()
        }
        changes.retries = [row for key, row in now.items() if self._known.get(key) != row]
        changes.spent = [key for key in self._known if key not in now]
