"""The audit log in memory: the same chain, the last records only; for `agentguard.local()` and for tests."""

from __future__ import annotations

import secrets
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from agentguard.audit.chain import decode, link, start
from agentguard.audit.fork import tell_of_forks
from agentguard.errors import AuditUnavailable, ConfigurationError
from agentguard.model.record import Position, Record


class MemoryLog:
    """Keeps the last records, chained as in a file; they end with the process. Safe for concurrent use.

    A forked child starts a chain of its own.

    Args:
        keep: how many records are kept.
        clock: nanoseconds since the epoch.
    """

    suspends = False

    def __init__(self, *, keep: int = 1000, clock: Callable[[], int] = time.time_ns) -> None:
        if keep < 1:
            raise ConfigurationError(f"keep is {keep}: a log keeps at least one record")
        self._keep, self._clock, self._closed = keep, clock, False
        self.after_fork_in_child()
        tell_of_forks(self)

    def after_fork_in_child(self) -> None:
        """Start a chain; a child has neither its parent's records nor its lock."""
        self._lock = threading.Lock()
        self._head = start(secrets.token_hex(16))
        # Lines, not mappings: small, immutable, and nothing the garbage collector has to walk through.
        self._kept: deque[tuple[Position, bytes]] = deque(maxlen=self._keep)

    @property
    def records(self) -> tuple[dict[str, Any], ...]:
        """The kept records, oldest first, as new mappings with all members."""
        return tuple(decode(line) for _, line in self.kept)

    @property
    def kept(self) -> tuple[tuple[Position, bytes], ...]:
        """The kept records, oldest first: where each stands, and its line."""
        with self._lock:
            return tuple(self._kept)

    def append(self, record: Record) -> Position:
        """Keep a record.

        Raises:
            AuditUnavailable: a field cannot be recorded, or the log is closed.
        """
        with self._lock:
            if self._closed:
                raise AuditUnavailable("the audit log is closed")
            line, position = link(self._head, self._clock(), record)
            # INVARIANT: the head moves last, and an interrupted append is overwritten in place by the next one.
            while self._kept and self._kept[-1][0].seq > self._head.seq:
                self._kept.pop()
            self._kept.append((position, line))
            self._head = position
        return position

    async def flush(self, position: Position) -> None:
        """Return at once: memory is as durable as it gets."""

    def close(self) -> None:
        """Refuse further records; the kept ones stay readable."""
        self._closed = True
