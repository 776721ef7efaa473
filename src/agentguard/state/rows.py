"""A lease as JSON, and back: rows outlive the version that wrote them."""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import msgspec

from agentguard.errors import Unavailable
from agentguard.model.lease import Lease, LeaseState
from agentguard.ports import Owed
from agentguard.state.owner import Owner

Columns: TypeAlias = tuple[Any, ...]
_log: Final = logging.getLogger("agentguard")
MAX_BYTES: Final = 64 << 10
LEASE_COLUMNS: Final = "id, instance, state, lease, handle, attempts, since"
OWNER_COLUMNS: Final = "instance, host, boot, namespace, pid, started, beat, closed"


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the ledger, without its handle.

    Args:
        lease: as it was prepared or issued.
        state: how far it came.
        instance: the owner's.
        attempts: how often its end was tried.
        since: when it was written first, in seconds since the epoch.
    """

    lease: Lease
    state: LeaseState
    instance: str
    attempts: int
    since: float


class Undelivered:
    """Rows that were taken over and that nobody has got yet.

    INVARIANT: each is given out by one atomic `popleft`, so callers of two threads never get the same one.
    """

    def __init__(self) -> None:
        self._rows: deque[Owed] = deque()

    def put(self, rows: Iterable[Owed]) -> None:
        """Keep them until somebody asks."""
        self._rows.extend(rows)

    def all(self) -> list[Owed]:
        """Give out what is kept."""
        given: list[Owed] = []
        with suppress(IndexError):
            while True:
                given.append(self._rows.popleft())
        return given


class LeftToOthers:
    """Says once of which brokers' credentials dead processes left some that this guard cannot end."""

    def __init__(self) -> None:
        self._said: frozenset[str] = frozenset()

    def say(self, brokers: frozenset[str]) -> None:
        """Take what is left now; what is new in it is said."""
        if brokers - self._said:
            _log.warning(
                "the ledger holds credentials of dead processes whose brokers this guard does not have: %s; a process "
                "that has them under `tokens` ends them", ", ".join(sorted(brokers)),
            )  # fmt: skip
        self._said = brokers


def written(lease: Lease) -> bytes:
    """Return the JSON form of a lease.

    Raises:
        Unavailable: it is longer than 64 KiB, or one of its times is no number.
    """
    text = msgspec.json.encode(lease)
    if not (math.isfinite(lease.issued_at) and math.isfinite(lease.expires_at)):
        raise Unavailable(f"lease {lease.id} has a time that is no number; one that does not end says `lasts`")
    if len(text) > MAX_BYTES:
        raise Unavailable(f"lease {lease.id} is too large for the ledger ({len(text)} bytes)")
    return text


def read(columns: Columns) -> Row:
    """Return what the columns say. Members that a later version added are passed over; new ones have their defaults.

    Raises:
        Unavailable: the row cannot be read; it is never taken for one that ended.
    """
    identifier, instance, state, text, _, attempts, since = columns
    try:
        lease = msgspec.json.decode(text, type=Lease)
        known = LeaseState(state)
    except (msgspec.DecodeError, ValueError):
        raise _unreadable(str(identifier)) from None
    if lease.id != identifier:
        raise _unreadable(str(identifier))
    return Row(lease, known, instance, attempts, since)


def _unreadable(identifier: str) -> Unavailable:
    return Unavailable(
        f"row {identifier[:80]!r} of the ledger cannot be read: it was damaged, or written by a later version; end "
        "that credential at its server, then delete the row"
    )


def taken(found: Iterable[Columns], brokers: Collection[str], now: float) -> tuple[list[str], frozenset[str]]:
    """Return the rows that a guard with these brokers takes over from a dead one, by id, and the brokers of the rest.

    It can end no others, and would keep them from whoever can. Whatever expired is settled by anybody, and what cannot
    be read is taken, so that somebody says so.
    """
    ids, others = list[str](), set[str]()
    for columns in found:
        try:
            lease = read(columns).lease
        except Unavailable:
            ids.append(columns[0])
            continue
        if lease.issuer in brokers or lease.expires_by <= now:
            ids.append(lease.id)
        else:
            others.add(lease.issuer)
    return ids, frozenset(others)


def read_owner(columns: Columns) -> Owner:
    """Return the owner that the columns describe."""
    instance, host, boot, namespace, pid, started, beat, closed = columns
    return Owner(instance, host, boot, namespace, pid, started, beat, bool(closed))


def owner_columns(owner: Owner) -> Columns:
    """Return the columns of an owner."""
    return (
        owner.instance, owner.host, owner.boot, owner.namespace, owner.pid, owner.started, owner.beat,
        int(owner.closed),
    )  # fmt: skip
