"""Leases that are held: in use by calls, or kept for the next call under the same key."""

from __future__ import annotations

import random
from typing import Final, TypeAlias
from weakref import ReferenceType

from msgspec import Struct

from agentguard.credentials.flight import Flight
from agentguard.model.credential import Credential, Issued
from agentguard.model.lease import Lease, LeaseKey

# The lease key; and the task where it is not the root, and what else tells credentials apart where there is any.
Key: TypeAlias = LeaseKey | tuple[LeaseKey, str, str]
LAST: Final = 5.0  # seconds before its expiry from which a kept credential is not handed out any more
_HALF: Final = 0.5
_JITTER: Final = 0.1
_AGAIN: Final = 1.0  # seconds until a refresh that failed is tried again


def key_of(key: LeaseKey, task: str, apart: str) -> Key:
    """Under which key a credential is kept."""
    return key if task == key.root and not apart else (key, task, apart)


def apart(details_s256: str, *, reads: bool) -> str:
    """What tells credentials under one lease key apart.

    INVARIANT: one that was obtained for a tool that writes is never given to one that says of itself that it reads: an
    issuer may look at that (`Grant.reads`), and another tool may be called like it.
    """
    return details_s256 if reads else f"{details_s256} writes"


class Held(Struct, eq=False):
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
    leaked_in: object = None  # where its task's leases were kept when it leaked through one of the calls that share it

    @property
    def leaked(self) -> bool:
        """Whether it was revoked because another call leaked it, so that this one may have another."""
        return self.revoked and self.leaked_in is not None

    @classmethod
    def new(cls, issued: Issued, key: Key, single_use: bool, parent: Held | None) -> Held:
        # Nobody else is ever given one that is for one call.
        refresh_at = 0.0 if single_use else refresh_time(issued.lease, issued.lease.issued_at)
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


def refresh_time(lease: Lease, since: float) -> float:
    """Half of its life, give or take a tenth, so that many do not refresh at one moment."""
    share = random.uniform(_HALF - _JITTER / 2, _HALF + _JITTER / 2)  # noqa: S311  # jitter
    return since + (lease.expires_at - since) * share


class Use(Struct, eq=False):
    """One call's share of a lease; another one, once its credential was renewed."""

    held: Held
    credential: Credential
    cached: bool
    renewing: ReferenceType[Flight] | None = None  # which request of the call asks for another credential
    no_more: str = ""  # why none is asked for any more
