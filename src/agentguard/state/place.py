"""Where a state file may lie: on a local disk, in a folder that only its owner can write."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from agentguard.errors import ConfigurationError, Unavailable

# Where SQLite's locks or its shared memory do not reach all who have the file open.
_REMOTE: Final = frozenset(
    {
        *("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "lustre", "glusterfs", "gpfs", "virtiofs"),
        *("fuse.sshfs", "fuse.glusterfs", "fuse.s3fs", "fuse.rclone", "fuse.gcsfuse", "fuse.blobfuse", "fuse.ceph"),
    }
)


def check_place(path: Path) -> None:
    """Refuse a place that others can write or where locks do not hold; create the file (mode 0600) if it is missing.

    Raises:
        ConfigurationError: what is wrong with the place, and what to do.
        Unavailable: it cannot be looked at.
    """
    folder = path.parent
    try:
        _refuse_shared(folder, os.stat(folder), stat.S_IWGRP | stat.S_IWOTH, "chmod go-w")
        _refuse_remote(folder)
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), 0o600))
        except FileExistsError:
            found = os.lstat(path)
            if not stat.S_ISREG(found.st_mode):
                raise ConfigurationError(f"{path} is no regular file") from None
            _refuse_shared(path, found, stat.S_IRWXG | stat.S_IRWXO, "chmod 600")
    except OSError as error:
        raise Unavailable(f"{path} cannot be opened: {error.strerror or type(error).__name__}") from None


def _refuse_shared(path: Path, found: os.stat_result, refused: int, remedy: str) -> None:
    if not hasattr(os, "geteuid"):
        return
    if found.st_uid not in (os.geteuid(), 0):
        raise ConfigurationError(f"{path} belongs to another user; use a file and a folder of your own")
    if found.st_mode & refused:
        raise ConfigurationError(f"group or others can use {path}; run: {remedy} {path}")


def _refuse_remote(folder: Path) -> None:
    kind = file_system(folder)
    if kind in _REMOTE:
        raise ConfigurationError(
            f"{folder} is on a network file system ({kind}), where locks do not hold; use a local disk"
        )


def file_system(folder: Path, mounts: Path = Path("/proc/self/mountinfo")) -> str:
    """Return the type of the file system that a folder is on, or "" where it cannot be told (proc(5), mountinfo)."""
    try:
        lines = mounts.read_text(errors="replace").splitlines()
        place = folder.resolve()
    except OSError:
        return ""
    best, kind = -1, ""
    for line in lines:
        before, _, after = line.partition(" - ")
        fields, rest = before.split(), after.split()
        if len(fields) < 5 or not rest:
            continue
        point = Path(fields[4].replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\"))
        if place.is_relative_to(point) and len(point.parts) >= best:  # of two on one point the later one is seen
            best, kind = len(point.parts), rest[0]
    return kind
