"""Leases that nobody uses, folded: what is kept of each fits into a few hundred bytes, and makes it whole again."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from agentguard.credentials.held import Held, Key, key_of
from agentguard.model.credential import Issued
from agentguard.model.lease import Lease, LeaseKey, Placement, Secret


@dataclass(frozen=True, slots=True)
class Common:
    """What the leases of one tool in one task have in common: their key without its resource, what tells them apart."""

    key: LeaseKey
    task: str
    apart: str
    issuer: str
    type: str
    verifier_leeway: int


class Folded(Secret):
    """One lease and its secret, of an issuer in this process; what a broker's has beside it is not folded.

    INVARIANT: a kept lease is either whole (one `Held`) or folded, never both, so its users and its end are one.
    """

    __slots__ = ("common", "expires_at", "id", "issued_at", "resource")

    def __init__(self, lease: Lease, common: Common, secret: Secret) -> None:
        super().__init__(secret.reveal())
        self.common = common
        self.id, self.resource = lease.id, lease.key.resource
        self.issued_at, self.expires_at = lease.issued_at, lease.expires_at

    @property
    def expires_by(self) -> float:
        """When every verifier refuses it."""
        return self.expires_at + self.common.verifier_leeway

    def lease(self) -> Lease:
        """Return the lease as it was issued."""
        common, bare = self.common, self.common.key
        key = LeaseKey(
            bare.tenant, bare.subject, bare.root, bare.chain, bare.tool, bare.audience, bare.scopes, self.resource
        )
        return Lease(
            id=self.id, issuer=common.issuer, key=key, task=common.task, issued_at=self.issued_at,
            expires_at=self.expires_at, fingerprint=self.fingerprint(), type=common.type,
            verifier_leeway=common.verifier_leeway,
        )  # fmt: skip

    def held(self) -> Held:
        """Return it whole, in nobody's use."""
        lease = self.lease()
        key = key_of(lease.key, lease.task, self.common.apart)
        held = Held.new(Issued(lease, self), key, single_use=False, parent=None)
        held.users = 0
        return held

    def __repr__(self) -> str:
        return f"<Folded {self.id}>"


class Fold:
    """The folded leases of one task, by their tool and their resource. Its owner locks."""

    __slots__ = ("_by_key", "_commons")

    def __init__(self) -> None:
        self._commons: dict[Common, Common] = {}
        # Insertion order is the order in which they fell out of use.
        self._by_key: dict[tuple[LeaseKey, str], dict[str, Folded]] = {}

    def put(self, held: Held) -> Folded | None:
        """Fold a lease, or return None where it has more than what is kept here."""
        if not is_plain(held):
            return None
        common = _common(held)
        common = self._commons.setdefault(common, common)
        folded = Folded(held.issued.lease, common, held.issued.secret)
        self._by_key.setdefault((common.key, common.apart), {})[folded.resource] = folded
        return folded

    def find(self, key: Key) -> Folded | None:
        """Return the lease under a key."""
        if not self._by_key:
            return None
        whole, _, apart = key if isinstance(key, tuple) else (key, "", "")
        return self._by_key.get((bare(whole), apart), _NONE).get(whole.resource)

    def drop(self, folded: Folded) -> bool:
        """Forget one, and tell whether it was still here."""
        slot = (folded.common.key, folded.common.apart)
        of_tool = self._by_key.get(slot, {})
        if of_tool.get(folded.resource) is not folded:
            return False
        del of_tool[folded.resource]
        if not of_tool:
            del self._by_key[slot]  # a table that was large stays large
        return True

    def oldest(self) -> list[Folded]:
        """The one that fell out of use first, of the tool that is here longest; nothing where there is none."""
        of_tool = next(iter(self._by_key.values()), _NONE)
        return list(itertools.islice(of_tool.values(), 1))

    def listed(self) -> list[Folded]:
        """All of them."""
        return [folded for of_tool in self._by_key.values() for folded in of_tool.values()]

    def __len__(self) -> int:
        return sum(map(len, self._by_key.values()))


def bare(key: LeaseKey) -> LeaseKey:
    """A key without its resource."""
    return LeaseKey(key.tenant, key.subject, key.root, key.chain, key.tool, key.audience, key.scopes, "")


def _common(held: Held) -> Common:
    lease, apart = held.issued.lease, held.key[2] if isinstance(held.key, tuple) else ""
    return Common(bare(lease.key), lease.task, apart, lease.issuer, lease.type, lease.verifier_leeway)


_NONE: Final[Mapping[str, Folded]] = {}


def is_plain(held: Held) -> bool:
    """Tell whether making it whole again gives this very lease."""
    issued, lease = held.issued, held.issued.lease
    if issued.handle is not None or issued.prover is not None or held.parent is not None or held.life:
        return False
    own = (lease.placement, lease.name, lease.jti, lease.parent, lease.lasts)
    return own == (Placement.BEARER, "", "", "", False) and lease.fingerprint != ""
