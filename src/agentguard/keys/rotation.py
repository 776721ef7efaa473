"""Rotation of a folder's keys: a plan, which is pure, and one atomic write."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from agentguard.errors import ConfigurationError
from agentguard.keys import folder as files
from agentguard.keys.folder import Ring
from agentguard.keys.signing import SigningKey
from agentguard.keys.timetable import Times, Turn, first


@dataclass(frozen=True, slots=True)
class Rotated:
    """What a rotation did.

    Args:
        ring: as it is now.
        new: the turn it added; None where the next key was pending already, and nothing was changed.
    """

    ring: Ring
    new: Turn | None


def planned(ring: Ring | None, make: Callable[[], SigningKey], now: float, times: Times | None = None) -> Rotated:
    """Plan a rotation; nothing is written.

    Keys that nobody needs any more are left out, and private keys that will sign nothing any more too.

    Args:
        ring: what there is; None for a new one, whose key signs at once.
        make: makes the key, if one is needed.
        now: seconds since the epoch.
        times: for a new ring; an existing one keeps its own, which its overlaps count on.
    """
    if ring is None:
        key = make()
        table = first(key.public, now, times or Times())
        return Rotated(Ring(table, {key.kid: key}), table.turns[-1])
    if ring.timetable.pending(now) is not None:
        return Rotated(ring, None)
    key = make()
    table = ring.timetable.rotated(key.public, now)
    # A process whose clock is behind may still sign for the leeway.
    signs = {turn.public.kid for turn in table.turns if now < table.signs_until(turn) + table.times.leeway}
    kept = {kid: held for kid, held in ring.private.items() if kid in signs}
    return Rotated(Ring(table, {**kept, key.kid: key}), table.turns[-1])


def rotate(folder: str | os.PathLike[str], now: float, algorithm: str = "ES256", times: Times | None = None) -> Rotated:
    """Publish the next key of a folder; it signs after the propagation. Makes the folder where there is none.

    Once more before that changes nothing. Several processes may call it: one of them rotates.

    Args:
        folder: of the keys; mode 0700.
        now: seconds since the epoch.
        algorithm: of the new key, `ES256` or `EdDSA`.
        times: for a new folder.

    Raises:
        ConfigurationError: the folder or its file is unusable, or another process holds it; nothing was changed.
    """
    if not math.isfinite(now):
        raise ConfigurationError("a rotation needs the time, in seconds since the epoch")
    path = Path(folder)
    _make(path)
    if problem := files.folder_problem(path):
        raise ConfigurationError(f"key folder {str(path)!r}: {problem}")
    with files.locked(path):
        found = files.read(path) if os.path.lexists(path / files.FILE) else None
        if isinstance(found, str):
            raise ConfigurationError(f"key folder {str(path)!r}: {found}")
        if found is not None and times is not None and times != found.timetable.times:
            raise ConfigurationError(f"key folder {str(path)!r}: its overlaps count on its own times; they stay")
        rotated = planned(found, lambda: SigningKey.generate(algorithm), now, times)
        if rotated.new is not None:
            files.write(path, rotated.ring)
    return rotated


def _make(path: Path) -> None:
    why = ""
    try:
        path.mkdir(mode=0o700)
        files.sync_folder(path.absolute().parent)
    except FileExistsError:
        pass
    except OSError as error:
        why = str(error.strerror)
    if why:
        raise ConfigurationError(f"key folder {str(path)!r}: cannot be made: {why}")
