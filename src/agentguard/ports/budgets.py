"""Counting what a task uses up."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Protocol, runtime_checkable

from msgspec import Struct


class Charge(Struct, frozen=True):
    """One counter that a step uses up.

    Args:
        key: names the counter; shared by all who use the same key.
        limit: the most it may reach.
        amount: what this call adds, as exact decimal text.
        per: seconds of a sliding window, or 0 for the counter's whole life.
        least: what the counter must have reached already, by other reservations too.
        value: what the counter stands for. The first charge sets it, while it is held another value does not fit, and
            when the last charge is given back it is free again.
        later: seconds until the window begins; it counts from now on, for these and the window's.
    """

    key: str
    limit: str
    amount: str = "1"
    per: float = 0.0
    least: str = "0"
    value: str = ""
    later: float = 0.0


class Candidate(Struct, frozen=True):
    """A step that would admit the call at one level, with what it costs.

    Args:
        step: id of the step.
        charges: all of them are taken, or none.
        retry_key: names this very call at this step, where the step grants attempts; else empty.
        attempts: how often the same call may run in all.
    """

    step: str
    charges: tuple[Charge, ...] = ()
    retry_key: str = ""
    attempts: int = 1


class Reservation(Struct, frozen=True):
    """What was reserved: for each level the position of the chosen candidate.

    `id` is the same for every attempt of one call (the idempotency key).
    `retries` holds, for each level that grants attempts, its retry key, the attempts left after this one, and whether
    this one already is a retry.
    """

    id: str
    chosen: tuple[int, ...]
    charges: tuple[Charge, ...]
    retries: tuple[tuple[str, int, bool], ...] = ()


class Exhausted(Struct, frozen=True):
    """No candidate of this level has budget left."""

    level: int
    step: str
    charge: Charge


class Settlement(StrEnum):
    """How a reservation ended."""

    RAN = "ran"
    RAISED = "raised"
    NOT_RUN = "not_run"


@runtime_checkable
class Budgets(Protocol):
    """Counters. `reserve` is one atomic step over all levels: it takes every level's share, or nothing at all.

    A charge's key is `SCOPE/NAME`; `forget` drops all counters of a scope (a task that ended). `standing` tells for
    each key what its counter stands for: its value if it has one, else its sum, or "" if nothing was taken. A charge
    without `per` on a counter that others charge with one stays until it is given back.
    """

    suspends: bool

    async def reserve(self, levels: Sequence[Sequence[Candidate]], now: float) -> Reservation | Exhausted: ...
    async def standing(self, keys: Sequence[str]) -> Sequence[str]: ...
    async def settle(self, reservation: Reservation, settlement: Settlement) -> None: ...
    async def forget(self, scope: str) -> None: ...
