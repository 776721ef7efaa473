"""Leases that are held: in use by calls, or kept for the next call under the same key."""

from __future__ import annotations

import random
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final, TypeAlias

from agentguard.model.lease import Credential, Grant, Issued, Lease, LeaseKey

# The lease key, the task, and what tells authorization details apart.
Key: TypeAlias = tuple[LeaseKey, str, str]
LAST: Final = 5.0  # seconds before its expiry from which a kept credential is not handed out any more
_HALF: Final = 0.5
_JITTER: Final = 0.1
_AGAIN: Final = 1.0  # seconds until a refresh that failed is tried again


def key_of(grant: Grant) -> Key:
    return grant.key, grant.task, grant.details_s256


@dataclass(slots=True, eq=False)
class Held:
    """A lease in use by at least one call, or kept for the next; a parent is in use by the leases under it."""

    issued: Issued
    key: Key
    refresh_at: float
    single_use: bool
    life: float = 0.0  # seconds that it lived at first; a parent is prolonged by so much, and no more
    users: int = 0
    retired: bool = False
    revoked: bool = False
    status: str = ""
    parent: Held | None = None

    @classmethod
    def new(cls, issued: Issued, key: Key, single_use: bool, parent: Held | None) -> Held:
        lease = issued.lease
        life = lease.expires_at - lease.issued_at
        return cls(issued, key, refresh_time(lease, lease.issued_at), single_use, life, users=1, parent=parent)

    def good_until(self, grace: float = 0.0) -> float:
        """When it is not handed out any more."""
        return self.issued.lease.expires_at + (grace or -LAST)

    def put_off(self, now: float) -> None:
        """A refresh failed: it is not tried again at once."""
        self.refresh_at = min(now + _AGAIN, self.good_until())

    def idle(self) -> bool:
        return self.users <= 0 and not self.revoked


def refresh_time(lease: Lease, since: float) -> float:
    """Half of its life, give or take a tenth, so that many do not refresh at one moment."""
    share = random.uniform(_HALF - _JITTER / 2, _HALF + _JITTER / 2)  # noqa: S311  # jitter
    return since + (lease.expires_at - since) * share


@dataclass(frozen=True, slots=True)
class Use:
    """One call's share of a lease."""

    held: Held
    credential: Credential
    cached: bool


class Kept:
    """Leases by their key, least recently used first; bounded. Its owner locks."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._by_key: OrderedDict[Key, Held] = OrderedDict()

    def get(self, key: Key) -> Held | None:
        held = self._by_key.get(key)
        if held is not None:
            self._by_key.move_to_end(key)
        return held

    def put(self, held: Held) -> list[Held]:
        """Keep it, and return those that are in nobody's use and are kept no longer."""
        out = []
        older = self._by_key.get(held.key)
        if older is not None:
            out.append(older)
        self._by_key[held.key] = held
        self._by_key.move_to_end(held.key)
        if len(self._by_key) > self._most:
            out += self._oldest_idle()
        for other in out:
            other.retired = True
        return [other for other in out if other.idle()]

    def _oldest_idle(self) -> list[Held]:
        oldest = next((held for held in self._by_key.values() if held.idle()), None)
        if oldest is None:
            return []
        del self._by_key[oldest.key]
        return [oldest]

    def drop(self, held: Held) -> None:
        if self._by_key.get(held.key) is held:
            del self._by_key[held.key]

    def __len__(self) -> int:
        return len(self._by_key)
