"""An interrupt (Ctrl-C) at any point where one can be raised: the log goes on, whole, and says what is so."""

from __future__ import annotations

import errno
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from agentguard._drive import drive
from agentguard.audit import segment
from agentguard.audit.log import MIN_BYTES, FileLog
from agentguard.audit.verify import verify
from agentguard.errors import AuditUnavailable
from tests.audit.samples import record

_MOST = 400  # points of one operation, far more than any has


class Interrupt:
    """Raises KeyboardInterrupt at one of the points where the interpreter looks for signals.

    Those are the beginning of every function and the end of every call of one in C.

    Args:
        at: which of them, from 0, in the rooms of the log and in `threading`.
    """

    def __init__(self, at: int) -> None:
        self.left, self.where = at, ""

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        file = frame.f_code.co_filename
        if event not in ("call", "c_return") or not ("/agentguard/audit/" in file or file == threading.__file__):
            return
        if "__del__" in (frame.f_code.co_name, frame.f_back.f_code.co_name if frame.f_back else ""):
            return  # of an old file, whenever it is collected: what is raised there reaches nobody
        self.left -= 1
        if self.left < 0 and not self.where:
            self.where = f"{os.path.basename(file)}:{frame.f_lineno} {event}"
            raise KeyboardInterrupt

    def during(self, work: Callable[[], object]) -> bool:
        """Do some work; whether there was such a point in it."""
        sys.setprofile(self)
        try:
            work()
        except (KeyboardInterrupt, AuditUnavailable, RuntimeError):
            pass
        finally:
            sys.setprofile(None)
        return bool(self.where)


def flush_another(log: FileLog) -> None:
    drive(log.flush(log.append(record(0))))


def sync_fails(fd: int) -> None:
    raise OSError(errno.EIO, "broken disk")


def fill(log: FileLog) -> None:
    position = log.append(record(1))
    while position.seq < 2 or log._segment is None or log._segment.tip[0] < MIN_BYTES:
        position = log.append(record(1, text="x" * 900))


def poison(log: FileLog) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segment, "_sync_file", sync_fails)
        with pytest.raises(AuditUnavailable):
            drive(log.flush(log.append(record(1))))


@pytest.mark.parametrize("before", [fill, poison])
def test_rotation_that_is_interrupted_anywhere_is_done_by_the_next_append(
    tmp_path: Path, before: Callable[[FileLog], None]
) -> None:
    for at in range(_MOST):
        directory, interrupt = tmp_path / str(at), Interrupt(at)
        log = FileLog(directory, max_bytes=MIN_BYTES)
        before(log)
        reached = interrupt.during(lambda log=log: log.append(record(2)))  # type: ignore[misc]  # a default
        try:
            drive(log.flush(log.append(record(3))))
            log.close()
            found = verify(directory)
        except Exception as error:
            pytest.fail(f"interrupted at {interrupt.where}: {error}")

        assert (1, 0) == (found.chains, found.unclosed), interrupt.where
        if not reached:
            return
    pytest.fail("it has no end")


def test_record_of_a_failed_sync_is_never_durable_wherever_that_is_interrupted(tmp_path: Path) -> None:
    for at in range(_MOST):
        log, interrupt, failed = FileLog(tmp_path / str(at)), Interrupt(at), list[int]()
        position = log.append(record(1))

        def once(fd: int, failed: list[int] = failed) -> None:
            if failed:
                return  # the kernel tells of it once
            failed.append(fd)
            sync_fails(fd)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(segment, "_sync_file", once)
            reached = interrupt.during(lambda log=log, position=position: drive(log.flush(position)))  # type: ignore[misc]
            if failed:
                with pytest.raises(AuditUnavailable):
                    drive(log.flush(position))
                    pytest.fail(f"interrupted at {interrupt.where}")
        log.close()
        if not reached:
            return
    pytest.fail("it has no end")


def test_flush_that_is_interrupted_anywhere_keeps_no_other_thread_waiting(tmp_path: Path) -> None:
    log = FileLog(tmp_path)
    for at in range(_MOST):
        interrupt, position = Interrupt(at), log.append(record(at))
        reached = interrupt.during(lambda position=position: drive(log.flush(position)))  # type: ignore[misc]  # a default

        other = threading.Thread(target=flush_another, args=(log,), daemon=True)
        other.start()
        other.join(5)

        assert not other.is_alive(), f"interrupted at {interrupt.where}"
        if not reached:
            log.close()
            return
    pytest.fail("it has no end")
