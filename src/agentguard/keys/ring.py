"""A ring of keys that a process signs with while others may rotate it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

from agentguard._jwk import PublicKey
from agentguard.errors import ConfigurationError, Unavailable
from agentguard.keys import folder as files
from agentguard.keys.folder import Ring
from agentguard.keys.public import KeySet
from agentguard.keys.signing import SigningKey

_Stamp = tuple[int, int, int, int, int] | None


class KeyRing:
    """The keys of a folder, of which exactly one signs at a time; the `Signers` of a local issuer. Safe for threads.

    A rotation by another process is seen within `poll` seconds, without a restart. A folder that cannot be read any
    more signs nothing: somebody took the keys away, and what they were is no authority.

    It is a source of `Keys` for a verifier in the same process too: `find` looks among those that are published.

    Args:
        folder: what `agentguard keys rotate` writes.
        poll: least seconds between two looks at the folder.
        monotonic: counts them.
        clock: seconds since the epoch, for `find`.

    Raises:
        ConfigurationError: there are no usable keys in the folder.
    """

    suspends: bool = False
    waits: bool = False

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        poll: float = 1.0,
        monotonic: Callable[[], float] = time.monotonic,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if not 0 <= poll <= 5:
            raise ConfigurationError(f"poll {poll!r}: write seconds from 0 to 5; the propagation counts on it")
        # Absolute, as the process may change its working directory while it is looked at.
        self._folder, self._poll, self._monotonic, self._clock = Path(folder).absolute(), poll, monotonic, clock
        stamp, self._look_at = _stamp(self._folder), monotonic() + poll
        found = files.read(self._folder)
        if isinstance(found, str):
            raise ConfigurationError(f"key folder {str(self._folder)!r}: {found}")
        # INVARIANT: one value, so that what a slow thread found is never held under the stamp of a later look.
        self._held: tuple[_Stamp, Ring | str] = (stamp, found)

    @classmethod
    def from_folder(cls, folder: str | os.PathLike[str]) -> Self:
        """Read the folder of a configuration: `tokens: {local: {keys: FOLDER}}`.

        Raises:
            ConfigurationError: there are no usable keys in it.
        """
        return cls(folder)

    async def current(self, now: float) -> SigningKey:
        """Return the key that signs at a time.

        Raises:
            Unavailable: the folder cannot be read any more, or the clock is before the keys it still holds.
        """
        ring = self._ring()
        turn = ring.timetable.signing(now)
        key = ring.private.get(turn.public.kid)
        if key is None:
            raise Unavailable(f"the key that signs at this time is gone from {str(self._folder)!r}: check the clock")
        return key

    def published(self, now: float) -> KeySet:
        """Return the public keys that verifiers need at a time: publish these.

        Raises:
            Unavailable: the folder cannot be read any more.
        """
        return KeySet(turn.public for turn in self._ring().timetable.published(now))

    def find(self, kid: str) -> PublicKey | None:
        """Return the published key with this id, or None; None also where the folder cannot be read any more."""
        ring = self._latest()
        if isinstance(ring, str):
            return None
        found = (turn.public for turn in ring.timetable.published(self._clock()) if turn.public.kid == kid)
        return next(found, None)

    def _ring(self) -> Ring:
        ring = self._latest()
        if isinstance(ring, str):
            raise Unavailable(
                f"the keys in {str(self._folder)!r} cannot be read any more, so nothing is signed: {ring}"
            )
        return ring

    def _latest(self) -> Ring | str:
        # Two threads may look at the same time; each sets what it found, and the later look sees the rest.
        now = self._monotonic()
        if now >= self._look_at:
            self._look_at = now + self._poll
            stamp = _stamp(self._folder)
            if stamp is None or stamp != self._held[0]:
                found = files.read(self._folder)
                self._held = (None if isinstance(found, str) else stamp, found)
        return self._held[1]

    def __repr__(self) -> str:
        return f"<KeyRing {str(self._folder)!r}>"


def _stamp(folder: Path) -> _Stamp:
    """What differs when the file was replaced; taken before it is read, so a later replacement is seen."""
    try:
        of_folder, found = folder.stat(), (folder / files.FILE).stat()
    except OSError:
        return None
    return of_folder.st_mode, found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size
