"""Stopping agents, tasks, subjects and chains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from msgspec import Struct


class Stop(Struct, frozen=True):
    """One suspension that stands.

    Args:
        key: who is stopped.
        why: as it was given.
        since: seconds since the epoch.
        epoch: grows with each suspension of the store, so that others can ask what is new.
    """

    key: str
    why: str
    since: float
    epoch: int


@runtime_checkable
class Suspensions(Protocol):
    """Who is stopped, by key: `agent:NAME`, `task:ID`, `subject:SUB`, `chain:PREFIX`, `all`.

    `start` marks a call as running if none of the keys is suspended: one atomic step. `suspend` returns after it
    committed, so nothing starts after it returned, in this process and in all that share the store. Where several hosts
    share it, a call that only `reads` may trust what it heard from the store at most a second ago; one that heard
    nothing for longer, or lost its listener, is refused by a raise.
    `news` returns the epoch and the stops that were set after `since`, so that whoever holds leases under them ends
    them.
    """

    suspends: bool

    async def start(self, call: str, keys: Sequence[str], *, reads: bool = False) -> str: ...
    async def finish(self, call: str) -> None: ...
    async def suspend(self, key: str, why: str) -> None: ...
    async def lift(self, key: str) -> None: ...
    async def suspended(self, keys: Sequence[str]) -> str: ...
    async def standing(self) -> Sequence[Stop]: ...
    async def news(self, since: int) -> tuple[int, Sequence[Stop]]: ...
