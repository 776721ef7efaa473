"""Which key signs when, and how long each is published: pure arithmetic on one list.

A key is published before it signs, so that the caches of verifiers know it by then; and after it signed, until the last
token that it may have signed has expired everywhere. Nothing has to happen at these moments: every process reads the
same list and the clock.

    published  ├──────────── propagation ────────────┤
    signs                                            ├──────────── until the next signs ─────┤
    published                                                                                ├─ overlap ─┤
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from agentguard._jwk import PublicKey
from agentguard.errors import ConfigurationError

LONGEST: Final = 7 * 86_400
_LEAST: Final = {"propagation": 10, "lifetime": 300, "leeway": 0}


@dataclass(frozen=True, slots=True)
class Times:
    """What a rotation has to wait for, in whole seconds.

    Args:
        propagation: until every verifier has fetched the published keys anew: the lifetime of its cache, and more
            where fetches may fail; from 10.
        lifetime: the longest that a signed token lives; from 300, which is what a handover may live.
        leeway: how much later a verifier's clock may end it.

    Raises:
        ConfigurationError: a number is out of bounds.
    """

    propagation: int = 600
    lifetime: int = 300
    leeway: int = 60

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if type(value) is not int or not least <= value <= LONGEST:
                raise ConfigurationError(f"{name} {value!r}: write whole seconds from {least} to {LONGEST}")

    @property
    def overlap(self) -> int:
        """Seconds that a key is published after it signed its last token."""
        return self.lifetime + self.leeway + self.propagation


@dataclass(frozen=True, slots=True)
class Turn:
    """One key, and the time from which it signs, in seconds since the epoch."""

    public: PublicKey
    signs_from: float


@dataclass(frozen=True, slots=True)
class Timetable:
    """The turns of a ring, the earliest first.

    Args:
        turns: at least one; no kid twice.
        times: what a rotation waits for.

    Raises:
        ConfigurationError: no turns, out of order, or a kid twice.
    """

    turns: Sequence[Turn]
    times: Times

    def __post_init__(self) -> None:
        starts = [turn.signs_from for turn in self.turns]
        if not starts or starts != sorted(set(starts)) or len({turn.public.kid for turn in self.turns}) != len(starts):
            raise ConfigurationError("a ring of keys has at least one key, the earliest first, and no kid twice")

    def signing(self, now: float) -> Turn:
        """Return the turn whose key signs: the last one that has begun; the first if the clock is before all."""
        begun = [turn for turn in self.turns if turn.signs_from <= now]
        return begun[-1] if begun else self.turns[0]

    def signs_until(self, turn: Turn) -> float:
        """Return when the next turn begins; infinity for the last."""
        later = [other.signs_from for other in self.turns if other.signs_from > turn.signs_from]
        return min(later, default=math.inf)

    def published_until(self, turn: Turn) -> float:
        """Return when nobody needs the public key any more; infinity for the last turn."""
        return self.signs_until(turn) + self.times.overlap

    def published(self, now: float) -> tuple[Turn, ...]:
        """Return the turns whose public keys verifiers need."""
        return tuple(turn for turn in self.turns if now < self.published_until(turn))

    def pending(self, now: float) -> Turn | None:
        """Return the turn that is published and has not begun, if there is one."""
        last = self.turns[-1]
        return last if last.signs_from > now else None

    def rotated(self, public: PublicKey, now: float) -> Timetable:
        """Return the timetable with one more turn, after the propagation, and without those that nobody needs.

        Raises:
            ConfigurationError: a turn is pending already; two of them would have to be told apart by nobody's rule.
        """
        if self.pending(now) is not None:
            raise ConfigurationError("the next key is published already and has not signed yet; rotate after that")
        turn = Turn(public, math.ceil(now) + self.times.propagation)
        return Timetable((*self.published(now), turn), self.times)


def first(public: PublicKey, now: float, times: Times) -> Timetable:
    """Return the timetable of a new ring: nobody has cached anything, so its first key signs at once."""
    return Timetable((Turn(public, math.floor(now)),), times)
