"""Which tokens of the local issuer are alive: eight bytes for each, looked up by the number that its id ends with."""

from __future__ import annotations

import itertools
import math
import secrets
import threading
from array import array
from collections.abc import Callable, Iterator
from typing import Final

_DIGITS: Final = 2  # of an id tell its place in a block
_BLOCK: Final = 16**_DIGITS  # leases that are forgotten together
# INVARIANT: there is one way to write a place; everything else is nobody's, behind the last place of a block.
_PLACES: Final = {f"{place:0{_DIGITS}x}": place for place in range(_BLOCK)}
_NOBODY: Final = _BLOCK
_EMPTY: Final = bytes(8 * (_BLOCK + 1))  # 0.0, for each of them


class Alive:
    """The leases that are prepared or issued, until `expires_by`; memory is bounded by what a minute brings.

    Ids are a random prefix, so that they are unique across processes, and a number, whose last two digits are its place
    in a block. For each place it is kept when its lease ends, negative as long as it is only prepared, 0 once it is
    gone; nobody's place is 0 always.

    INVARIANT: what is not here is not live. Ends are counted on a monotonic clock, so no jump of the wall clock revives
    a lease.

    Args:
        clock: monotonic seconds, from 0.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.forget()

    def forget(self) -> None:
        """After a fork: nothing is alive, and ids are others."""
        self._lock = threading.Lock()
        self._prefix, self._numbers = secrets.token_hex(8), itertools.count()
        self._blocks: dict[str, array[float]] = {}  # by all of an id but the place
        self._block, self._ends = "", array("d")  # the last of them, and its places that nobody has yet
        self._places: Iterator[str] = iter(())
        self._prune_at = -math.inf

    def prepare(self, seconds: float) -> str:
        """Return an id that was never given before: a token may be issued under it, and ends in so many seconds."""
        with self._lock:
            now = self._clock()
            if now >= self._prune_at:
                self._prune(now)
            place = next(self._places, "") or self._next_block()
            self._ends[_PLACES[place]] = -(now + seconds)
            return self._block + place

    def _next_block(self) -> str:
        """Begin a block, and return its first place."""
        block, ends, places = f"{self._prefix}-{next(self._numbers):x}", array("d", _EMPTY), iter(_PLACES)
        self._blocks[block] = ends
        self._block, self._ends, self._places = block, ends, places  # nothing can stop this half way
        return next(places)

    def issue(self, jti: str) -> bool:
        """Tell whether a token that was prepared may be handed out: then it is alive."""
        ends = self._blocks.get(jti[:-_DIGITS])
        if ends is None:
            return False
        place = _PLACES.get(jti[-_DIGITS:], _NOBODY)
        with self._lock:
            until = abs(ends[place])
            if until <= self._clock():
                return False
            ends[place] = until
            return True

    def end(self, jti: str) -> None:
        """It is dead from now on."""
        ends = self._blocks.get(jti[:-_DIGITS])
        if ends is not None:
            with self._lock:
                ends[_PLACES.get(jti[-_DIGITS:], _NOBODY)] = 0.0

    def holds(self, jti: str) -> bool:
        """Tell whether a token is alive."""
        ends = self._blocks.get(jti[:-_DIGITS])
        return ends is not None and ends[_PLACES.get(jti[-_DIGITS:], _NOBODY)] > self._clock()

    def __len__(self) -> int:
        return sum(len(ends) - ends.count(0.0) for ends in self._blocks.values())

    def _prune(self, now: float) -> None:
        self._prune_at = now + 1
        for block, ends in list(self._blocks.items()):
            if max(ends) > now or -min(ends) > now:
                break  # blocks are in order, and none lives longer than another by more than a minute
            del self._blocks[block]
        if self._block not in self._blocks:  # INVARIANT: the next id is of a block that is here
            self._places = iter(())
