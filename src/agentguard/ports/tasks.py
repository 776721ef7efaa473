"""Tasks that wait, and tasks that were handed on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from msgspec import Struct

from agentguard.model.lease import Secret


class Parked(Struct, frozen=True, kw_only=True):
    """A task that waits, as it is kept for whoever goes on with it.

    Args:
        id: the task's id.
        state: all of it as text: its chain, intent, what it heard and read. Personal data, so sealed at rest.
        expires_at: seconds since the epoch; nobody goes on with it from then on.
    """

    id: str
    state: Secret
    expires_at: float


@runtime_checkable
class ParkedTasks(Protocol):
    """Tasks that wait for a person, or for their turn, and outlive their process. Safe for concurrent use.

    `park` keeps one in place of what was kept under its id. `find` looks at one; `take` is one atomic step that returns
    it once. Both return None for one that is not there, was taken, has expired or cannot be read. `lapsed` takes those
    that have expired, so that what they reserved is given back, once. `durable` False says that they end with this
    process.
    """

    suspends: bool

    async def park(self, parked: Parked) -> None: ...
    async def find(self, id: str, now: float) -> Parked | None: ...
    async def take(self, id: str, now: float) -> Parked | None: ...
    async def lapsed(self, now: float) -> Sequence[Parked]: ...


@runtime_checkable
class Redemptions(Protocol):
    """Remembers ids that were used. Safe for concurrent use.

    `redeem` is one atomic step: it returns True for the first caller of a key and False for every later one, until
    `until`; a raise means that nobody may use it. `shared` says that all processes that could redeem the same
    handovers use the same memory; only then does an id that can be taken prove that nobody took it before.
    """

    suspends: bool
    shared: bool

    async def redeem(self, key: str, until: float, now: float) -> bool: ...
