"""The opt-in recording: calls with their full values, in a file of its own, to suggest an intent from.

It is no audit log: nothing waits for it, nothing is proved by it, and it may lose lines. It holds no credential and no
secret argument, and everything else only once it has gone through a redactor. It is for development and for the first
weeks of a new agent: switch it off, and delete it, when the intent is written.
"""

from __future__ import annotations

import json
import logging
import os
import stat
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from agentguard.audit.chain import timestamp
from agentguard.audit.fork import tell_of_forks
from agentguard.audit.redaction import Redactor
from agentguard.errors import ConfigurationError, NotCanonical
from agentguard.model.canonical import canonical, readable

if sys.platform != "win32":
    import fcntl

_log: Final = logging.getLogger("agentguard")
MAX_LINE: Final = 1 << 16
MIN_BYTES: Final = 1 << 17
_FLAGS: Final = (
    os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_NONBLOCK", 0)
)  # fmt: skip
_HEAD: Final = {"recording": "agentguard", "v": 1, "note": "full values of calls; not the audit log"}
_TOO_LARGE: Final = "[too large]"
_AFTER: Final = 60.0  # seconds between two lines in the application's log about a recording that fails


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """One call with its values.

    Args:
        tool, call, task, agent, intent, intent_s256: names and ids, as in the audit log.
        decision: id of the decision's record.
        outcome, reason: what was decided.
        ended: completed, failed, cancelled, or empty for a call that did not run.
        arguments: canonical, by name; the secret ones are not among them.
        secret: names of the arguments that are not shown.
        result: what the tool returned, without live credentials; None where there is none.
        error: type of what the tool raised.
    """

    tool: str
    call: str
    task: str
    agent: str
    intent: str
    intent_s256: str
    decision: str
    outcome: str
    reason: str
    ended: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict, repr=False)
    secret: tuple[str, ...] = ()
    result: Any = field(default=None, repr=False)
    error: str = ""


class Recording:
    """Writes calls to a file, one a line. Safe for threads, forks, and several processes with one file.

    What fails here fails alone: a call never waits for a recording and is never refused by one.

    Args:
        path: the file; made for its owner only. Beside it stand older ones, as `path.1` to `path.N`.
        redactor: takes personal data out of arguments and results; all named patterns by default.
        max_bytes: a file that has reached this size is followed by another, at least 128 KiB.
        keep: how many older files are kept, 0 to 100.
        results: record results too; they are what `from` in an intent is suggested from.
        clock: nanoseconds since the epoch.

    Raises:
        ConfigurationError: the file cannot be used: others can read it, or it is an audit log.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, redactor: Redactor | None = None, max_bytes: int = 16 << 20,
        keep: int = 4, results: bool = False, clock: Callable[[], int] = time.time_ns,
    ) -> None:  # fmt: skip
        self._path = Path(path).absolute()
        if max_bytes < MIN_BYTES or not 0 <= keep <= 100:
            raise ConfigurationError(f"a recording has max_bytes of {MIN_BYTES} or more, and keeps 0 to 100 files")
        if self._path.name.startswith("audit-") or any(self._path.parent.glob("audit-*.jsonl")):
            raise ConfigurationError(f"{path} is where an audit log is; a recording has a place of its own")
        self._redactor = redactor or Redactor()
        self._max_bytes, self._keep, self._results, self._clock = max_bytes, keep, results, clock
        self.dropped = 0
        self._fd, self._said = -1, -_AFTER
        self._closed = False
        self.after_fork_in_child()
        self._open()
        tell_of_forks(self)

    def after_fork_in_child(self) -> None:
        """A child writes to the same file, each line as a whole; the lock may be held by nobody it knows.

        INVARIANT: it opens the file for itself. The lock on a file is that of its opening: with the parent's, both
        would rotate at once, and one would put a new file in the place of what the other had just kept.
        """
        self._lock = threading.Lock()
        self._leave()

    def take(self, call: Recorded) -> None:
        """Record a call, if that is possible; what cannot be recorded is counted in `dropped`."""
        try:
            line = self._line(call)
            with self._lock:
                if not self._closed:
                    self._write(line)
        except Exception as error:
            self._drop(error)

    def _drop(self, error: Exception) -> None:
        self.dropped += 1
        if (now := time.monotonic()) - self._said >= _AFTER:
            self._said = now
            _log.error("a call was not recorded in %s: %s", self._path.name, type(error).__name__)

    def _line(self, call: Recorded) -> bytes:
        members: dict[str, Any] = {
            "time": timestamp(self._clock()), "tool": call.tool, "call": call.call, "task": call.task,
            "agent": call.agent, "intent": call.intent, "intent_s256": call.intent_s256, "decision": call.decision,
            "outcome": call.outcome, "reason": call.reason, "args": self._arguments(call),
        }  # fmt: skip
        for name in ("ended", "error"):
            if said := getattr(call, name):
                members[name] = said
        if call.secret:
            members["secret"] = sorted(call.secret)
        if self._results and call.ended == "completed":
            members["result"] = self._value(call.result)
        line = _encoded(members)
        for much in ("result", "args"):
            if len(line) > MAX_LINE and much in members:
                members[much] = _TOO_LARGE
                line = _encoded(members)
        return line

    def _arguments(self, call: Recorded) -> dict[str, Any]:
        hidden = frozenset(call.secret)
        shown = {name: value for name, value in call.arguments.items() if name not in hidden}
        return {self._redactor.text(name): self._redactor.member(name, readable(item)) for name, item in shown.items()}

    def _value(self, value: Any) -> Any:
        try:
            return self._redactor.value(readable(canonical(value, bytes_allowed=True)))
        except NotCanonical:
            return f"[a {type(value).__name__}]"

    def _write(self, line: bytes) -> None:
        if self._fd < 0 or self._moved():
            self._reopen()
        if os.fstat(self._fd).st_size + len(line) > self._max_bytes:
            self._rotate()
        if os.write(self._fd, line) != len(line):
            # The disk is full; the end of the torn line keeps the next one whole.
            os.write(self._fd, b"\n")
            raise OSError("short write")

    def _moved(self) -> bool:
        """Whether another process has rotated the file, or somebody has deleted it."""
        try:
            return os.stat(self._path).st_ino != os.fstat(self._fd).st_ino
        except FileNotFoundError:
            return True

    def _rotate(self) -> None:
        if sys.platform != "win32":
            fcntl.flock(self._fd, fcntl.LOCK_EX)  # whoever waits for it sees that the file has moved
        if not self._moved():
            for number in range(self._keep, 0, -1):
                older = self._path if number == 1 else self._older(number - 1)
                with suppress(FileNotFoundError):
                    older.replace(self._older(number))
            if not self._keep:
                self._path.unlink(missing_ok=True)
        self._reopen()

    def _older(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")

    def _reopen(self) -> None:
        self._leave()
        self._open()

    def _leave(self) -> None:
        # INVARIANT: the number is forgotten first; after an interrupt (Ctrl-C) it may be that of another file.
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _open(self) -> None:
        try:
            fd = os.open(self._path, _FLAGS, 0o600)
        except OSError as error:
            raise ConfigurationError(f"{self._path} cannot be opened: {error.strerror}") from None
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_mode & 0o077:
            os.close(fd)
            raise ConfigurationError(f"{self._path} must be a file that only its owner can use; chmod 600 {self._path}")
        self._fd = fd
        if not status.st_size:
            os.write(fd, _encoded(_HEAD))

    def close(self) -> None:
        """Close the file; closing it twice does nothing."""
        with self._lock:
            self._closed = True
            self._leave()

    def __repr__(self) -> str:
        return f"<Recording {self._path.name}>"


def _encoded(members: Mapping[str, Any]) -> bytes:
    return json.dumps(members, separators=(",", ":")).encode() + b"\n"
