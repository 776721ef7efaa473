"""Reads a token from a file that a platform rotates: a regular file, a bounded size, and only when it changed."""

from __future__ import annotations

import logging
import os
import stat
from dataclasses import dataclass
from typing import Final, TypeAlias

from agentguard._jwt import MAX_TOKEN
from agentguard.model.lease import Secret

_log: Final = logging.getLogger("agentguard")
_SPACE: Final = 2  # a line end after the token
# Not inherited, no waiting on a FIFO, no translated line ends; each where the system knows it.
_SAFELY: Final = sum(getattr(os, flag, 0) for flag in ("O_CLOEXEC", "O_NONBLOCK", "O_BINARY"))

Stamp: TypeAlias = tuple[int, int, int, int]
"""Device, inode, size and time of change: equal for a file that was not written or swapped, as far as times tell."""


@dataclass(frozen=True, slots=True)
class Reading:
    """The text of a file, and what the file looked like when it was read."""

    secret: Secret
    stamp: Stamp


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Why a file holds no token; `gone`: there is no such file any longer."""

    why: str
    gone: bool = False


def read_token(path: str, known: Stamp | None) -> Reading | Unreadable | None:
    """Return what the file holds, or None if it still looks as it did at `known`.

    It takes no lock: a file that is being written may be read in part, which whoever examines the token finds out.
    """
    try:
        if known is not None and _stamp(os.stat(path)) == known:
            return None
        fd = os.open(path, os.O_RDONLY | _SAFELY)
    except (FileNotFoundError, NotADirectoryError):
        return Unreadable("there is no such file; does the platform write it, and is it mounted here?", gone=True)
    except (OSError, ValueError) as error:
        return Unreadable(f"it cannot be opened: {getattr(error, 'strerror', None) or 'no path of a file'}")
    try:
        return _read(fd)
    except OSError as error:
        return Unreadable(f"it cannot be read: {error.strerror}")
    finally:
        os.close(fd)


def warn_if_writable(path: str) -> None:
    """Log once, at the start, that others could put a token of theirs there; many may read it, as projected ones."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return
    if os.name == "posix" and (status.st_mode & 0o022 or status.st_uid not in (0, os.geteuid())):
        _log.warning(
            "workload token %r can be replaced by others: run chmod go-w, and let root or yourself own it", path
        )


def _stamp(status: os.stat_result) -> Stamp:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _read(fd: int) -> Reading | Unreadable:
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        return Unreadable("it is no regular file")
    data = os.read(fd, MAX_TOKEN + _SPACE + 1)
    if len(data) > MAX_TOKEN + _SPACE:
        return Unreadable(f"it is larger than a token, which has at most {MAX_TOKEN} bytes")
    text = data.decode("ascii", errors="replace").strip()
    return Reading(Secret(text), _stamp(status)) if text else Unreadable("it is empty")
