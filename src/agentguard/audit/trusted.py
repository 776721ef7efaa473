"""Compares a log with checkpoints that are trusted: shows what was cut off, and what somebody wrote anew."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentguard.audit.checkpoint import Checkpoint
from agentguard.audit.merkle import Tree
from agentguard.audit.verify import ChainBroken
from agentguard.model.record import Position


@dataclass(frozen=True, slots=True)
class _Claim:
    """What a checkpoint says of a chain at a size: the root over it, or the hash of its last record."""

    size: int
    time: str
    root: bytes = b""
    hash: str = ""


@dataclass(slots=True)
class _Seen:
    """How far a chain has been walked, and the claims that are still ahead, the next one last."""

    claims: list[_Claim]
    tree: Tree | None
    held: int = 0
    time: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What checkpoints proved about a log.

    Args:
        checkpoints: how many held.
        latest: time of the newest one (RFC 3339).
        chained_only: records behind the last checkpoint of their chain, which only the chain itself protects.
        uncovered: chains in the log that no checkpoint knows.
    """

    checkpoints: int
    latest: str
    chained_only: int
    uncovered: int


class Trusted:
    """Watches a walk over a log, and raises ChainBroken where it is not what was signed.

    Args:
        checkpoints: whose signatures have been verified. All of them must hold.
    """

    def __init__(self, checkpoints: Iterable[Checkpoint]) -> None:
        self._checkpoints = tuple(checkpoints)
        claims: dict[str, list[_Claim]] = {}
        rooted = {checkpoint.chain for checkpoint in self._checkpoints}
        for each in self._checkpoints:
            claims.setdefault(each.chain, []).append(_Claim(each.size, each.time, root=each.root))
            for other in each.others:
                claims.setdefault(other.chain, []).append(_Claim(other.seq, each.time, hash=other.hash))
        self._seen = {
            chain: _Seen(sorted(said, key=lambda claim: claim.size, reverse=True), Tree() if chain in rooted else None)
            for chain, said in claims.items()
        }
        self._walked: set[str] = set()
        self._beyond = self._uncovered = 0

    def saw(self, record: Mapping[str, Any], position: Position, path: Path) -> None:
        """Compare one record, in the order of its chain."""
        seen = self._seen.get(position.chain)
        if seen is None:
            return
        if seen.tree is not None:
            seen.tree.append(bytes.fromhex(position.hash))
        while seen.claims and seen.claims[-1].size <= position.seq:
            claim = seen.claims.pop()
            if claim.size == position.seq and not _holds(claim, position, seen.tree):
                raise ChainBroken(seen.held + 1, _rewritten(seen, claim), path)
            seen.held, seen.time = claim.size, claim.time

    def ended(self, head: Position, path: Path) -> None:
        """Compare the end of a chain."""
        seen = self._seen.get(head.chain)
        self._walked.add(head.chain)
        if seen is None:
            self._uncovered += 1
            return
        self._beyond += head.seq - seen.held
        if seen.claims:
            claim = seen.claims[0]
            gone = f"records {head.seq + 1} to {claim.size} were removed"
            why = f"the log ends here, but a checkpoint of {claim.time} proves {claim.size} records: {gone}; {_REMEDY}"
            raise ChainBroken(head.seq + 1, why, path)

    def finish(self, path: Path) -> Held:
        """Return what was proved, once the walk has ended.

        Args:
            path: what was verified: of a directory every chain must be there, of a file its own chain.

        Raises:
            ChainBroken: a chain is missing, or no checkpoint is about the file's chain.
        """
        missing = sorted(set(self._seen) - self._walked)
        if path.is_dir() and missing:
            claim = self._seen[missing[0]].claims[0]
            more = f", and {len(missing) - 1} more chains" if len(missing) > 1 else ""
            why = f"chain {missing[0]} is missing: a checkpoint of {claim.time} proves {claim.size} records{more}"
            raise ChainBroken(1, f"{why}; {_REMEDY}", path)
        if not self._walked & set(self._seen):
            raise ChainBroken(1, "no checkpoint is about this chain; name the checkpoints of this log", path)
        held = [each for each in self._checkpoints if each.chain in self._walked]
        return Held(
            checkpoints=len(held), latest=max((each.time for each in held), default=""),
            chained_only=self._beyond, uncovered=self._uncovered,
        )  # fmt: skip


_REMEDY = "keep the files as they are, and compare them with a copy that nobody could write to"


def _holds(claim: _Claim, position: Position, tree: Tree | None) -> bool:
    if claim.hash:
        return claim.hash == position.hash
    return tree is not None and tree.size == claim.size and tree.root() == claim.root


def _rewritten(seen: _Seen, claim: _Claim) -> str:
    what = f"records {seen.held + 1} to {claim.size} are not those that a checkpoint of {claim.time} was signed over"
    return f"{what}: somebody wrote at least one of them anew; {_REMEDY}"
