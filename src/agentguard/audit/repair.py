"""What is left when a process was killed in the middle of a write: cut off, kept beside the log, and recorded."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentguard.audit.chain import FRESH
from agentguard.audit.directory import sync_directory, unavailable
from agentguard.audit.segment import Segment
from agentguard.audit.verify import TornLine, follower, lines, sibling
from agentguard.errors import AuditUnavailable
from agentguard.model.record import Event, Position, Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Repaired:
    """What a repair did.

    Args:
        path: the file.
        torn: where the torn bytes are kept; None if none were torn.
        size: how many bytes were torn.
        sha256: of the torn bytes (base16).
        recreated: name of the missing file that the chain continues in, or empty.
        position: the `log.repaired` record; None if no whole record is left to chain it to.
    """

    path: Path
    torn: Path | None = None
    size: int = 0
    sha256: str = ""
    recreated: str = ""
    position: Position | None = None


def repair(path: Path, clock: Callable[[], int]) -> Repaired | None:
    """Repair the last file of a chain whose process was killed.

    A torn last line goes to `<file>.torn`. A file without one whole record is renamed so. A file that a process was
    about to rotate into is begun. Each is recorded in the chain. Nothing else is ever changed.

    Returns:
        What was done, or None if there was nothing to do.

    Raises:
        AuditBroken: the file does not verify for another reason, which no repair can undo.
        AuditUnavailable: it cannot be written, or a living process writes it.
    """
    segment, last = _open(path)
    try:
        if not last:
            return _set_aside(segment)
        repaired = _cut(segment, clock) if _torn(segment) else _begin_next(segment, last, clock)
        segment.sync()
        return repaired
    finally:
        segment.close()


def take_over(path: Path, clock: Callable[[], int]) -> tuple[Segment, Repaired | None]:
    """Open the last file of a chain to continue it, without its torn last line.

    Raises:
        AuditBroken: it does not verify.
        AuditUnavailable: it cannot be written, a living process writes it, or its chain cannot be continued here.
    """
    segment, last = _open(path)
    try:
        if not last:
            raise AuditUnavailable(f"audit log {path}: no whole record to continue; start a new log")
        if last["event"] == Event.LOG_ROTATED:
            raise AuditUnavailable(f"audit log {path}: its chain continues in {last.get('next')!r}; reopen that file")
        _require_last(path)
        return segment, _cut(segment, clock) if _torn(segment) else None
    except BaseException:
        segment.close()
        raise


def _open(path: Path) -> tuple[Segment, Mapping[str, Any]]:
    """The locked file with its tip behind the last whole record, and that record; empty if there is none."""
    segment = Segment.reopen(path, FRESH)
    size, head, last = segment.tip[0], FRESH, dict[str, Any]()
    try:
        for record, position in lines(path, None):
            last, head = record, position
    except TornLine as torn:
        size = torn.size
    except BaseException:
        segment.close()
        raise
    segment.tip = (size, head)
    return segment, last


def _torn(segment: Segment) -> bool:
    return segment.path.stat().st_size > segment.tip[0]


def _require_last(path: Path) -> None:
    """INVARIANT: a chain grows at its end only. A file that failed on disk does not say that it goes on elsewhere."""
    next_one = follower(path)
    if next_one is not None:
        raise AuditUnavailable(f"audit log {path}: its chain continues in {next_one.name!r}; nothing was changed")


def _cut(segment: Segment, clock: Callable[[], int]) -> Repaired:
    _require_last(segment.path)
    tail = segment.tail()
    torn = _keep(segment.path, tail)
    segment.cut()
    digest = hashlib.sha256(tail).hexdigest()
    fields = {"bytes": len(tail), "sha256": digest, "torn": torn.name}
    position = _record(segment, fields, clock)
    return Repaired(path=segment.path, torn=torn, size=len(tail), sha256=digest, position=position)


def _keep(path: Path, tail: bytes) -> Path:
    """Write the torn bytes to a new file beside the log; they are durable before the log is shortened."""
    kept = _unused(path)
    try:
        fd = os.open(kept, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(fd, "wb") as file:
            file.write(tail)
            file.flush()
            os.fsync(file.fileno())
        sync_directory(kept.parent)
    except OSError as error:
        raise unavailable(kept, "keep the torn line", error) from error
    return kept


def _unused(path: Path) -> Path:
    kept, number = path.with_name(f"{path.name}.torn"), 1
    while kept.exists():
        number += 1
        kept = path.with_name(f"{path.name}.torn{number}")
    return kept


def _set_aside(segment: Segment) -> Repaired:
    tail, kept = segment.tail(), _unused(segment.path)
    try:
        segment.path.rename(kept)
        sync_directory(kept.parent)
    except OSError as error:
        raise unavailable(segment.path, "rename", error) from error
    return Repaired(path=segment.path, torn=kept, size=len(tail), sha256=hashlib.sha256(tail).hexdigest())


def _begin_next(segment: Segment, last: Mapping[str, Any], clock: Callable[[], int]) -> Repaired | None:
    following = sibling(segment.path, last.get("next")) if last["event"] == Event.LOG_ROTATED else None
    if following is None or following.exists():
        return None
    begun = Segment.begin(following, segment.head, {"continues": segment.path.name}, clock())
    try:
        position = _record(begun, {"missing": following.name}, clock)
        begun.sync()
    finally:
        begun.close()
    return Repaired(path=segment.path, recreated=following.name, position=position)


def _record(segment: Segment, fields: Mapping[str, Any], clock: Callable[[], int]) -> Position:
    return segment.append(Record(Event.LOG_REPAIRED, fields), clock())
