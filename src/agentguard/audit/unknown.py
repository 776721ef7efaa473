"""Calls that were decided by a process that died, and whose outcome nobody knows: closed at recovery.

The files of the dead process stay as they are. The new process writes `call.unknown` into its own chain, which names
the call, its decision and what became of the task's credentials.
"""

from __future__ import annotations

import mmap
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec

from agentguard.audit.chain import MAX_LINE
from agentguard.model.record import Event, Record

if sys.platform != "win32":
    import fcntl

SECONDS: Final = 5.0
_CLOSES: Final = frozenset({Event.CALL_COMPLETED, Event.CALL_FAILED, Event.CALL_CANCELLED, Event.CALL_DENIED,
                            Event.CALL_UNKNOWN})  # fmt: skip
_ENDS: Final = frozenset({Event.CREDENTIAL_REVOKED, Event.CREDENTIAL_EXPIRED})
# Lines without any of these are not decoded. What is decoded is judged by its own member.
_WANTED: Final = (b'"event":"call.', b'"event":"credential.')
_UNKNOWN: Final = b'"event":"call.unknown"'


class _Line(msgspec.Struct):
    """What matters here of a record."""

    event: str
    chain: str
    seq: int
    time: str
    call: str = ""
    task: str = ""
    tool: str = ""
    lease: str = ""
    agent: str = ""
    subject: str = ""
    delegation: list[str] = []


_decode: Final = msgspec.json.Decoder(_Line).decode


@dataclass(slots=True)
class _Open:
    """What a chain left open."""

    calls: dict[str, _Line] = field(default_factory=dict)
    leases: dict[str, _Line] = field(default_factory=dict)

    def add(self, line: _Line) -> None:
        if line.event == Event.CALL_PERMITTED:
            self.calls[line.call] = line
        elif line.event in _CLOSES:
            self.calls.pop(line.call, None)
        elif line.event == Event.CREDENTIAL_ISSUED:
            self.leases[line.lease] = line
        elif line.event in _ENDS:
            self.leases.pop(line.lease, None)


def close_unknown(
    directory: str | os.PathLike[str], fate: Callable[[str], str], *, seconds: float = SECONDS
) -> list[Record]:
    """Return a record for each call that a dead process permitted and whose outcome it did not record.

    Append them to the log of this process; what stands in a log is not returned again. Chains whose process lives, or
    closed them in good order, are left alone. Several processes that recover at once may return the same call.

    Args:
        directory: of the logs.
        fate: what the ledger knows of a lease, by its id: `revoked`, `expires`, `expired` or the like. It is asked
            for the leases of the call's task that have no recorded end. A raise counts as `unknown`.
        seconds: no further chain is looked at after so long; the rest is found next time.

    Raises:
        OSError: a file cannot be read.
    """
    until = time.monotonic() + seconds
    chains = _chains(Path(directory))
    # INVARIANT: what was told already is known before anything is told, so no call is closed twice.
    told: set[str] = set()
    for path in (path for parts in chains for path in parts):
        told |= {line.call for line in _told(path)}
        if time.monotonic() >= until:
            return []
    found: list[Record] = []
    for parts in chains:
        if time.monotonic() >= until:
            break
        if not _ended(parts):
            left = _left(parts, until)
            found += [_record(line, left, fate) for line in left.calls.values() if line.call not in told]
    return found


def recover(
    directory: str | os.PathLike[str], fate: Callable[[str], str], append: Callable[[Record], object], *,
    seconds: float = SECONDS,
) -> int:  # fmt: skip
    """Close the calls of dead processes, as `close_unknown` finds them, and return how many that were.

    The chains that were closed are remembered in `DIRECTORY.recovered`, each with how long it was, so that nobody reads
    them again unless they went on; without that file they are read once more, and nothing is closed twice.

    Args:
        directory, fate, seconds: as for `close_unknown`.
        append: writes a record to the log of this process.

    Raises:
        OSError: a file cannot be read or written.
    """
    home, until, closed = Path(directory), time.monotonic() + seconds, 0
    known = _known(home)
    dead = [(parts, end) for parts in _chains(home) if (end := _end_of(parts)) not in known and not _ended(parts)]
    told = {line.call for parts in _chains(home) for path in parts for line in _told(path)} if dead else set()
    for parts, end in dead:
        left = _left(parts, until)
        for line in left.calls.values():
            if line.call not in told:
                append(_record(line, left, fate))
                closed += 1
        if time.monotonic() >= until:
            break
        _remember(home, end)
    return closed


def _end_of(parts: Sequence[Path]) -> str:
    """A chain and where it ends; whoever continues it (`FileLog.reopen`) may die in its turn."""
    return f"{_chain_of(parts)}:{len(parts)}:{parts[-1].stat().st_size}"


def _chain_of(parts: Sequence[Path]) -> str:
    first = next(_lines(parts[0], ()), None)
    return first.chain if first is not None else ""


def _known(directory: Path) -> frozenset[str]:
    try:
        return frozenset(_beside(directory).read_text("ascii").split())
    except (OSError, UnicodeDecodeError):
        return frozenset()


def _remember(directory: Path, end: str) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_CLOEXEC", 0)
    with open(os.open(_beside(directory), flags, 0o600), "a", encoding="ascii") as file:
        file.write(f"{end}\n")


def _beside(directory: Path) -> Path:
    return Path(f"{os.path.abspath(directory)}.recovered")  # `.` and `..` have no name to make one of


def _chains(directory: Path) -> list[Sequence[Path]]:
    """The files of each chain in their order, the chain that was written last first."""
    chains: dict[str, list[tuple[int, Path]]] = {}
    for path in directory.glob("audit-*.jsonl"):
        first = next(_lines(path, ()), None)
        if first is not None:
            chains.setdefault(first.chain, []).append((first.seq, path))
    ordered = [[path for _, path in sorted(parts)] for parts in chains.values()]
    return sorted(ordered, key=lambda parts: parts[-1].stat().st_mtime_ns, reverse=True)


def _lines(path: Path, wanted: Sequence[bytes]) -> Iterator[_Line]:
    """The records of a file that hold one of some texts; what is no record is passed over, `audit verify` names it."""
    with path.open("rb") as file:
        while line := file.readline(MAX_LINE):
            if not wanted or any(text in line for text in wanted):
                try:
                    yield _decode(line)
                except ValueError:
                    continue


def _told(path: Path) -> Iterator[_Line]:
    """The calls that a file closes as unknown; found without splitting it into lines."""
    if not path.stat().st_size:
        return
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        at = content.find(_UNKNOWN)
        while at >= 0:
            end = content.find(b"\n", at)
            try:
                line = _decode(content[content.rfind(b"\n", 0, at) + 1 : end if end >= 0 else len(content)])
            except ValueError:
                line = None
            if line is not None and line.event == Event.CALL_UNKNOWN:
                yield line
            at = content.find(_UNKNOWN, end) if end >= 0 else -1


def _ended(parts: Sequence[Path]) -> bool:
    """Tell whether a chain is not ours to close: its process lives, or closed it."""
    with parts[-1].open("rb") as file:
        if sys.platform == "win32":
            return True  # nobody can tell there whether the process lives
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        file.seek(max(0, os.fstat(file.fileno()).st_size - 4096))
        last = file.read().rstrip(b"\n").rpartition(b"\n")[2]
    if _went_on(parts):
        return True
    try:
        return _decode(last).event == Event.LOG_CLOSED
    except ValueError:
        return False  # torn, or longer: no record of a log's end


def _went_on(parts: Sequence[Path]) -> bool:
    """Tell whether its process has begun another file since the chains were listed, and left this one unlocked."""
    chain = _chain_of(parts)
    return any(
        _chain_of([path]) == chain for path in parts[-1].parent.glob("audit-*.jsonl")
        if chain in path.name and path not in parts
    )  # fmt: skip


def _left(parts: Sequence[Path], until: float) -> _Open:
    """What a dead chain left open; nothing if there was no time to read all of it: its end may stand in the rest."""
    left = _Open()
    for path in parts:
        for line in _lines(path, _WANTED):
            left.add(line)
        if time.monotonic() >= until and path is not parts[-1]:
            return _Open()
    return left


def _record(line: _Line, left: _Open, fate: Callable[[str], str]) -> Record:
    leases = [{"lease": each.lease, "fate": _fate(each.lease, fate)}
              for each in left.leases.values() if each.task == line.task]  # fmt: skip
    who: dict[str, Any] = {name: value for name in ("agent", "subject", "delegation") if (value := getattr(line, name))}
    return Record(
        Event.CALL_UNKNOWN,
        {
            "call": line.call, "task": line.task, "tool": line.tool, "log": line.chain,
            "decision": f"{line.chain}:{line.seq}", "decided": line.time, "leases": leases, **who,
        },
    )  # fmt: skip


def _fate(lease: str, fate: Callable[[str], str]) -> str:
    try:
        return str(fate(lease))
    except Exception:  # the ledger is out of reach; that nobody knows is what the record says
        return "unknown"
