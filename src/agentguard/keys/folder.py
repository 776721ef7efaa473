"""The folder of a ring: one file with all of it, readable by its owner alone and replaced as a whole.

INVARIANT: at every moment the file is the old ring or the new one, whole. A process that dies while it rotates leaves
at most a temporary file, which the next rotation removes. Errors hold no private key: reading returns what is wrong.
"""

from __future__ import annotations

import json
import os
import secrets
import stat
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from agentguard._json import NotStrictJSON, strict_json
from agentguard._jwk import from_jwk
from agentguard.errors import ConfigurationError
from agentguard.keys.pem import MAX_FILE, SAFELY, read_bytes
from agentguard.keys.signing import SigningKey
from agentguard.keys.timetable import Times, Timetable, Turn

if sys.platform != "win32":
    import fcntl

FILE: Final = "keys.json"
MOST_KEYS: Final = 64
LOCK_SECONDS: Final = 5.0
_LOCK: Final = ".lock"
_TEMPORARY: Final = ".keys.tmp."
_END_OF_TIME: Final = 253_402_300_799


@dataclass(frozen=True, slots=True)
class Ring:
    """What stands in the file: the timetable, and the private keys of the turns that sign or may still sign."""

    timetable: Timetable
    private: Mapping[str, SigningKey]


def read(folder: Path) -> Ring | str:
    """Return the ring of a folder, or what is wrong with it."""
    if problem := folder_problem(folder):
        return problem
    data = read_bytes(folder / FILE, private=True)
    return data if isinstance(data, str) else _parsed(data)


def folder_problem(folder: Path) -> str:
    """Return what is wrong with the folder itself, or nothing: who may write into it may choose the key."""
    try:
        status = folder.stat()
    except OSError as error:
        return f"cannot be opened: {error.strerror}; make it with: agentguard keys rotate {folder}"
    if not stat.S_ISDIR(status.st_mode):
        return "it is no folder"
    if os.name == "posix" and status.st_mode & 0o022:
        return f"others can replace the keys in it; run: chmod 700 {folder}"
    return ""


def _parsed(data: bytes) -> Ring | str:
    try:
        members = strict_json(data)
        if members["version"] != 1 or not 0 < len(members["keys"]) <= MOST_KEYS:
            return f"{FILE} has another version, no keys, or more than {MOST_KEYS}"
        turns = [_turn(entry, position) for position, entry in enumerate(members["keys"])]
        table = Timetable(tuple(turns), Times(**members["times"]))
        return _ring(table, members["keys"])
    except ConfigurationError as error:
        return f"{FILE}: {error}"
    except (NotStrictJSON, KeyError, TypeError, AttributeError):
        return f"{FILE} is not what `agentguard keys rotate` writes"


def _turn(entry: Mapping[str, Any], position: int) -> Turn:
    signs_from = entry["signs_from"]
    if type(signs_from) is not int or not 0 <= signs_from <= _END_OF_TIME:
        raise ConfigurationError(f"key {position}: signs_from is no whole number of seconds")
    return Turn(from_jwk(entry["jwk"], position), signs_from)


def _ring(table: Timetable, entries: Sequence[Mapping[str, Any]]) -> Ring | str:
    private: dict[str, SigningKey] = {}
    for turn, entry in zip(table.turns, entries, strict=True):
        if "private" not in entry:
            continue
        key = SigningKey.from_pem(entry["private"].encode())
        if isinstance(key, str):
            return f"{FILE}: the private key of {turn.public.kid}: {key}"
        if key.public != turn.public:
            return f"{FILE}: the private key of {turn.public.kid} is of another public key"
        private[key.kid] = key
    if table.turns[-1].public.kid not in private:
        return f"{FILE} has no private key for its last turn"
    return Ring(table, private)


def write(folder: Path, ring: Ring) -> None:
    """Replace the file, with the lock held: durable before it is seen, and seen whole or not at all.

    Raises:
        ConfigurationError: it cannot be written; the old ring is as it was. Or the new one is there, and may be lost if
            the machine stops now.
    """
    temporary = folder / f"{_TEMPORARY}{secrets.token_hex(8)}"
    replaced = False
    try:
        _sweep(folder)
        _write_new(temporary, _text(ring))
        os.replace(temporary, folder / FILE)
        replaced = True
        sync_folder(folder)
        return
    except OSError as error:
        why = error.strerror
    if replaced:  # every reader has it, so whoever asks again would rotate twice
        raise ConfigurationError(
            f"key folder {str(folder)!r}: the new ring is written, and the folder cannot be made durable: {why}; look "
            "at the disk, and do not rotate again for this"
        )
    with suppress(OSError):
        temporary.unlink(missing_ok=True)
    raise ConfigurationError(f"key folder {str(folder)!r}: cannot be written: {why}")


def _text(ring: Ring) -> bytes:
    entries: list[dict[str, Any]] = []
    for turn in ring.timetable.turns:
        entry: dict[str, Any] = {"jwk": turn.public.jwk(), "signs_from": int(turn.signs_from)}
        if turn.public.kid in ring.private:
            entry["private"] = ring.private[turn.public.kid].to_pem().decode()
        entries.append(entry)
    times = ring.timetable.times
    spans = {"propagation": times.propagation, "lifetime": times.lifetime, "leeway": times.leeway}
    data = json.dumps({"version": 1, "times": spans, "keys": entries}, indent=1).encode()
    if len(data) > MAX_FILE or len(entries) > MOST_KEYS:
        raise ConfigurationError(f"a ring holds at most {MOST_KEYS} keys; rotate less often than the overlap allows")
    return data


def _write_new(path: Path, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | SAFELY, 0o600)
    with open(fd, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(fd)


def sync_folder(folder: Path) -> None:
    """Make a name in a folder durable, where the system can."""
    if os.name != "posix":
        return
    fd = os.open(folder, os.O_RDONLY | SAFELY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _sweep(folder: Path) -> None:
    for left in folder.glob(f"{_TEMPORARY}*"):
        left.unlink(missing_ok=True)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, so that one process at a time rotates; it ends with the process.

    Raises:
        ConfigurationError: another one holds it for longer than five seconds, or the folder cannot be written.
    """
    try:
        fd = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | SAFELY, 0o600)
    except OSError as error:
        raise ConfigurationError(f"key folder {str(folder)!r}: cannot be written: {error.strerror}") from None
    try:
        _lock(fd, folder)
        yield
    finally:
        os.close(fd)


def _lock(fd: int, folder: Path) -> None:
    until = time.monotonic() + LOCK_SECONDS
    while sys.platform != "win32":
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            pass
        if time.monotonic() >= until:
            raise ConfigurationError(f"key folder {str(folder)!r}: another process is rotating it; try again")
        time.sleep(0.02)
