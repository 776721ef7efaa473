"""Which tokens of the local issuer are alive: eight bytes for each, looked up by the number that its id ends with."""

from __future__ import annotations

import itertools
import math
import secrets
import threading
from array import array
from collections.abc import Callable
from typing import Final

_BLOCK: Final = 1024  # numbers that are forgotten together
_PREFIX: Final = 17  # characters
_LONGEST: Final = 31
_EMPTY: Final = bytes(8 * _BLOCK)  # 0.0, for each of them


class Alive:
    """The leases that are prepared or issued, until `expires_by`; memory is bounded by what a minute brings.

    Ids are a random prefix, so that they are unique across processes, and a number. For each number it is kept when its
    lease ends, negative as long as it is only prepared, 0 once it is gone.

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
        self._prefix, self._numbers = f"{secrets.token_hex(8)}-", itertools.count(1)
        self._blocks: dict[int, array[float]] = {}
        self._pruned = -math.inf

    def prepare(self, seconds: float) -> str:
        """Return an id that was never given before: a token may be issued under it, and ends in so many seconds."""
        number = next(self._numbers)
        block, place = divmod(number, _BLOCK)
        with self._lock:
            now = self._clock()
            if now >= self._pruned + 1:
                self._prune(now)
            ends = self._blocks.get(block)
            if ends is None:
                ends = self._blocks[block] = array("d", _EMPTY)
            ends[place] = -(now + seconds)
        return f"{self._prefix}{number:x}"

    def issue(self, jti: str) -> bool:
        """Tell whether a token that was prepared may be handed out: then it is alive."""
        block, place = divmod(self._number(jti), _BLOCK)
        with self._lock:
            ends = self._blocks.get(block, _NOTHING)
            until = abs(ends[place])
            if until <= self._clock():
                return False
            ends[place] = until
            return True

    def end(self, jti: str) -> None:
        """It is dead from now on."""
        block, place = divmod(self._number(jti), _BLOCK)
        with self._lock:
            if block in self._blocks:
                self._blocks[block][place] = 0.0

    def holds(self, jti: str) -> bool:
        """Tell whether a token is alive."""
        block, place = divmod(self._number(jti), _BLOCK)
        return self._blocks.get(block, _NOTHING)[place] > self._clock()

    def __len__(self) -> int:
        return sum(_BLOCK - ends.count(0.0) for ends in self._blocks.values())

    def _number(self, jti: str) -> int:
        """The number of an id, or 0, which is never given, for one of somebody else."""
        try:
            number = int(jti[_PREFIX:], 16) if len(jti) < _LONGEST else 0
        except ValueError:
            return 0
        return number if jti == f"{self._prefix}{number:x}" else 0  # there is one way to write it

    def _prune(self, now: float) -> None:
        self._pruned = now
        for block, ends in list(self._blocks.items()):
            if max(ends) > now or -min(ends) > now:
                break  # numbers grow, and none lives longer than another by more than a minute
            del self._blocks[block]


_NOTHING: Final = array("d", _EMPTY)  # INVARIANT: it stays so; it stands for every number that is not here
