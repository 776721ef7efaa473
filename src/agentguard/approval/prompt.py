"""Asks the person at the terminal; only the typed word `yes` approves."""

from __future__ import annotations

import os
import select
import shutil
import sys
import threading
import time
import unicodedata
from collections.abc import Callable, Iterator
from typing import Final, TextIO

from agentguard.approval.asked import answered_in_thread, rejected, seconds_left
from agentguard.approval.characters import plain
from agentguard.approval.message import message
from agentguard.errors import ConfigurationError
from agentguard.ports import Answer, Approval, ApprovalRequest

try:
    import pwd
    import termios
except ImportError:  # Windows: `select` cannot wait for a console there either, so a prompt rejects
    _POSIX = False
else:
    _POSIX = True

_WORD: Final = b"yes"
_STEP: Final = 0.2  # seconds until a prompt notices that nobody waits for it any more
_LONGEST_LINE: Final = 1024
_CONTINUED: Final = "      | "


class _Terminal:
    """INVARIANT: one question at a time in this process, or a `yes` could count for a question that came after it."""

    lock = threading.Lock()


class Prompt:
    """Shows the question on a terminal and waits for a typed `yes`; an `Approver`. Safe for threads and event loops.

    Any other line, the end of the input and the end of the question's time are rejections, and so is a process without
    a terminal. What was typed before the question was shown does not count. POSIX only.

    Args:
        stream_in: the terminal to read from; the standard input by default.
        stream_out: the terminal to write to; the standard error by default.
        by: who sits there, for the record; the operating system's user, `os:NAME`, by default.
        clock: seconds since the epoch.

    Raises:
        ConfigurationError: `by` is empty.
    """

    suspends: bool = False
    waits: bool = True

    def __init__(
        self,
        stream_in: TextIO | None = None,
        stream_out: TextIO | None = None,
        by: str | None = None,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if by is not None and not by.strip():
            raise ConfigurationError("a prompt's `by` names who answers; leave it out for the system's user")
        self._in, self._out, self._by, self._clock = stream_in, stream_out, by, clock

    async def ask(self, request: ApprovalRequest) -> Approval:
        """Show the question and return the answer."""
        left = seconds_left(request, self._clock())
        if not left:
            return rejected("the question has expired", request)
        source, target = self._in or sys.stdin, self._out or sys.stderr
        fd = _terminal_of(source, target)
        if fd is None:
            return rejected("no terminal", request)
        given_up = threading.Event()
        try:
            question = _Question(request, fd, target, time.monotonic() + left, given_up)
            said = await answered_in_thread(question.typed, left + _STEP)
        except TimeoutError:
            return rejected("no answer in time", request)
        finally:
            given_up.set()
        if isinstance(said, str):
            return rejected(said, request)
        if not seconds_left(request, self._clock()):
            return rejected("the answer came too late", request)
        return Approval(Answer.APPROVED if said else Answer.REJECTED, by=self._by or system_user(), id=request.call)


class _Question:
    """One question on a terminal; it runs in a thread and ends soon after nobody waits for it any more."""

    def __init__(
        self, request: ApprovalRequest, fd: int, target: TextIO, until: float, given_up: threading.Event
    ) -> None:
        self._request, self._fd, self._target = request, fd, target
        self._until, self._given_up = until, given_up

    def typed(self) -> bool | str:
        """Return whether the word was typed, or why there is no answer."""
        while not _Terminal.lock.acquire(timeout=_STEP):
            if self._over():
                return "no answer in time"
        try:
            return self._shown_and_read()
        except (OSError, ValueError, termios.error):
            return "the terminal is gone"
        finally:
            _Terminal.lock.release()

    def _shown_and_read(self) -> bool | str:
        termios.tcflush(self._fd, termios.TCIFLUSH)
        width = shutil.get_terminal_size().columns
        self._say("\n" + "".join(f"{row}\n" for row in wrapped(message(self._request), width)))
        self._say("Type yes to approve, anything else to reject: ")
        line = self._line()
        termios.tcflush(self._fd, termios.TCIFLUSH)
        if line is None:
            self._say("\nnot answered in time: rejected\n")
            return "no answer in time"
        approved = line.strip() == _WORD
        self._say("approved\n" if approved else "rejected\n")
        return approved

    def _line(self) -> bytes | None:
        # Not through the stream: what it buffered was typed before the question was there.
        found = b""
        while not self._over():
            ready, _, _ = select.select([self._fd], [], [], _STEP)
            if ready:
                part = os.read(self._fd, _LONGEST_LINE)
                found += part
                if not part or b"\n" in part or len(found) >= _LONGEST_LINE:
                    return found
        return None

    def _over(self) -> bool:
        return self._given_up.is_set() or time.monotonic() >= self._until

    def _say(self, text: str) -> None:
        encoding = self._target.encoding or "ascii"
        self._target.write(text.encode(encoding, "backslashreplace").decode(encoding))
        self._target.flush()


def wrapped(text: str, width: int) -> Iterator[str]:
    """Yield the rows of some lines; a row that goes on is marked, so that no value looks like a line of ours.

    Args:
        text: lines of printable characters.
        width: columns of the terminal.
    """
    for line in text.splitlines():
        row, used, room = "", 0, max(width - 1, 2 * len(_CONTINUED))
        for char in line:
            columns = 2 if unicodedata.east_asian_width(char) in "WF" else 1
            if used + columns > room:
                yield row
                row, used = _CONTINUED, len(_CONTINUED)
            row, used = row + char, used + columns
        yield row


def system_user() -> str:
    """`os:NAME` of the user that this process runs as; the environment has no say in it."""
    if not _POSIX:
        return "os:unknown"
    try:
        return f"os:{plain(pwd.getpwuid(os.getuid()).pw_name)}"
    except KeyError:
        return f"os:{os.getuid()}"


def _terminal_of(source: TextIO, target: TextIO) -> int | None:
    """The descriptor to read from, or None where no person sits at both ends, or this process may not read there."""
    try:
        fd = source.fileno()
        if not _POSIX or not os.isatty(fd) or not os.isatty(target.fileno()):
            return None
    except (OSError, ValueError, AttributeError):
        return None
    return None if _in_background(fd) else fd


def _in_background(fd: int) -> bool:
    try:
        return os.tcgetpgrp(fd) != os.getpgrp()
    except OSError:  # a terminal, but not the one that controls this process
        return False


def _after_fork() -> None:
    _Terminal.lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
