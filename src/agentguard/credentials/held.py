"""Leases that are held: in use by calls, or kept for the next call under the same key."""

from __future__ import annotations

import random
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final, TypeAlias

from agentguard.model.lease import Credential, Grant, Issued, Lease, LeaseKey

# The lease key; and the task where it is not the root, and what tells authorization details apart where there is any.
Key: TypeAlias = LeaseKey | tuple[LeaseKey, str, str]
LAST: Final = 5.0  # seconds before its expiry from which a kept credential is not handed out any more
_HALF: Final = 0.5
_JITTER: Final = 0.1
_AGAIN: Final = 1.0  # seconds until a refresh that failed is tried again
_LOOKS: Final = 16  # leases that are looked at, at most, to find one that nobody uses


def key_of(grant: Grant) -> Key:
    plain = grant.task == grant.key.root and not grant.details_s256
    return grant.key if plain else (grant.key, grant.task, grant.details_s256)


@dataclass(slots=True, eq=False)
class Held:
    """A lease in use by at least one call, or kept for the next; a parent is in use by the leases under it."""

    issued: Issued
    key: Key
    refresh_at: float
    single_use: bool
    life: float = 0.0  # seconds that a parent lived before it was prolonged: by so much, and no more
    users: int = 0
    retired: bool = False
    revoked: bool = False
    status: str = ""
    parent: Held | None = None

    @classmethod
    def new(cls, issued: Issued, key: Key, single_use: bool, parent: Held | None) -> Held:
        refresh_at = refresh_time(issued.lease, issued.lease.issued_at)
        return cls(issued, key, refresh_at, single_use, users=1, parent=parent)

    def first_life(self) -> float:
        """Seconds that it lives when nobody prolongs it."""
        self.life = self.life or self.issued.lease.expires_at - self.issued.lease.issued_at
        return self.life

    def good_until(self, grace: float = 0.0) -> float:
        """When it is not handed out any more."""
        return self.issued.lease.expires_at + (grace or -LAST)

    def put_off(self, now: float) -> None:
        """A refresh failed: it is not tried again at once."""
        self.refresh_at = min(now + _AGAIN, self.good_until())

    def idle(self) -> bool:
        return self.users <= 0 and not self.revoked

    def over(self, now: float) -> bool:
        """Nobody uses it, and nobody can any more: every verifier refuses it."""
        return self.idle() and self.issued.lease.expires_by <= now


class Home:
    """The leases of one open task, and what their keys have in common. Its owner locks."""

    __slots__ = ("_parts", "leases")

    def __init__(self) -> None:
        self.leases: dict[str, Held] = {}
        self._parts: dict[tuple[str, ...], tuple[str, ...]] = {}

    def shared(self, key: LeaseKey) -> LeaseKey:
        """Return an equal key that holds no second copy of the task's chain and the tool's scopes."""
        chain = self._parts.setdefault(key.chain, key.chain)
        scopes = self._parts.setdefault(key.scopes, key.scopes)
        subject = chain[0] if chain and chain[0] == key.subject else key.subject
        if chain is key.chain and scopes is key.scopes and subject is key.subject:
            return key
        return LeaseKey(key.tenant, subject, key.root, chain, key.tool, key.audience, scopes, key.resource)

    def drop(self, lease_id: str) -> None:
        self.leases.pop(lease_id, None)
        if not self.leases:
            self.leases = {}  # a table that was large stays large


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
        out += self._surplus()
        for other in out:
            other.retired = True
        return [other for other in out if other.idle()]

    def _surplus(self) -> list[Held]:
        """The oldest that nobody uses, as many as there are too many; what is in use is as good as new."""
        out = []
        for _ in range(_LOOKS if len(self._by_key) > self._most else 0):
            key, oldest = next(iter(self._by_key.items()))
            if oldest.idle():
                del self._by_key[key]
                out.append(oldest)
            else:
                self._by_key.move_to_end(key)
            if len(self._by_key) <= self._most:
                break
        return out

    def drop(self, held: Held) -> None:
        if self._by_key.get(held.key) is held:
            del self._by_key[held.key]
        if not self._by_key:
            self._by_key.clear()  # a table that was large stays large

    def __len__(self) -> int:
        return len(self._by_key)
