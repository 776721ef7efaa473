"""Which process a row of a shared file belongs to, and whether that process is dead: proved, or silent for long."""

from __future__ import annotations

import hashlib
import os
import secrets
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

SILENT: Final = 60.0  # seconds without a beat after which an owner that cannot be looked up counts as dead
_PROC: Final = Path("/proc")
_STATE, _STARTED = 0, 19  # in /proc/PID/stat, counted from behind the command's name (proc(5): fields 3 and 22)


@dataclass(frozen=True, slots=True)
class Owner:
    """One instance in one process.

    Args:
        instance: random; a forked child and a second ledger in one process have others.
        host: hash of the machine-id, or empty where there is none: then another boot proves nothing.
        boot: the kernel's boot id, or empty where it is not known.
        namespace: the pid namespace, as `pid:[4026531836]`.
        pid: the process, in that namespace.
        started: when it started, in clock ticks since boot; pids are used again, this pair is not.
        beat: when it last said that it lives, in seconds since the epoch.
        closed: it said that it is done.
    """

    instance: str
    host: str
    boot: str
    namespace: str
    pid: int
    started: int
    beat: float
    closed: bool = False

    @classmethod
    def here(cls, now: float) -> Owner:
        """A new owner in this process."""
        pid = os.getpid()
        return cls(secrets.token_hex(16), _host(), _boot(), _namespace(), pid, _looked_up(pid).started, now)

    def at(self, now: float) -> Owner:
        """The same owner, which lives at this time."""
        return replace(self, beat=now)

    def same_process(self, other: Owner) -> bool:
        """Whether both are in one process for certain."""
        mine = (self.boot, self.namespace, self.pid, self.started)
        return bool(self.boot and self.started) and mine == (other.boot, other.namespace, other.pid, other.started)


def dead(owner: Owner, observer: Owner, now: float) -> bool:
    """Tell whether an owner is dead; when in doubt it lives until it has been silent for a minute.

    Args:
        owner: whose rows are looked at.
        observer: who looks.
        now: seconds since the epoch.
    """
    silent = now - owner.beat > SILENT
    if owner.closed:
        return True
    if not owner.boot or owner.boot != observer.boot:
        return silent or bool(owner.boot and observer.boot and owner.host and owner.host == observer.host)
    if owner.namespace != observer.namespace or not owner.started:
        return silent
    found = _looked_up(owner.pid)
    if found.unknown:
        return silent
    return found.started != owner.started


@dataclass(frozen=True, slots=True)
class _Found:
    """What /proc says: `started` is 0 for a process that does not exist, or has ended and was not waited for."""

    started: int
    unknown: bool = False


def _looked_up(pid: int) -> _Found:
    try:
        fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
        if fields[_STATE] in "ZX" and not _threads_left(pid):
            return _Found(0)
        return _Found(int(fields[_STARTED]))
    except (FileNotFoundError, ProcessLookupError):
        return _Found(0, unknown=_signalled(pid))
    except (OSError, ValueError, IndexError):
        return _Found(0, unknown=True)


def _threads_left(pid: int) -> bool:
    """The first thread may have ended before the others."""
    return len(os.listdir(_PROC / str(pid) / "task")) > 1


def _signalled(pid: int) -> bool:
    """Tell whether a process that /proc does not show exists all the same: it may be hidden (hidepid)."""
    if sys.platform == "win32":
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _host() -> str:
    """A hash, because machine-id(5) asks not to show the id itself."""
    text = _text(Path("/etc/machine-id"))
    return hashlib.sha256(b"agentguard ledger " + text.encode()).hexdigest()[:32] if len(text) == 32 else ""


def _boot() -> str:
    return _text(_PROC / "sys/kernel/random/boot_id")


def _namespace() -> str:
    try:
        return os.readlink(_PROC / "self/ns/pid")
    except OSError:
        return ""


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, ValueError):
        return ""
