"""What budgets, suspensions and approvals have in common in the state file of a host: its opening, turns and forks."""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from agentguard.errors import Unavailable
from agentguard.state.database import MAX_BYTES, Database
from agentguard.state.offload import offload
from agentguard.state.schema import APPLICATION, MIGRATIONS

T = TypeVar("T")
TIMEOUT: Final = 5.0


class SharedFile:
    """A part of the state in a file that the processes of one host share. Safe for threads, loops and processes.

    Args:
        path: the file; created (mode 0600) if missing. The ledger's may be the same one.
        clock: seconds since the epoch, the same in all processes.
        timeout: seconds that an operation waits for other threads, and again for other processes.
        most: the largest size of the file in bytes; what does not fit is refused.

    Raises:
        ConfigurationError: others can write the file or its folder, it lies on a network file system, or it is no state
            file of this version or an earlier one.
        Unavailable: it cannot be opened, or it is damaged.
    """

    suspends = False
    waits = True

    def __init__(
        self, path: str | os.PathLike[str], *, clock: Callable[[], float] = time.time, timeout: float = TIMEOUT,
        most: int = MAX_BYTES,
    ) -> None:  # fmt: skip
        self._clock, self._pid = clock, os.getpid()
        self._database = Database(Path(path).absolute(), APPLICATION, MIGRATIONS, timeout=timeout, most=most)
        self._renew()
        _open.add(self)

    def _renew(self) -> None:
        """Start as somebody of one's own: at first, and in a forked child."""

    async def _run(self, work: Callable[[], T]) -> T:
        self.after_fork()  # one that the hook below did not see
        return await offload(lambda: _said(work), self._database.turn)

    def after_fork(self) -> None:
        """In a child: the connection is the parent's."""
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._database.after_fork()
            self._renew()

    def close(self) -> None:
        """Close the file; closing it twice does nothing."""
        _open.discard(self)
        self.after_fork()
        self._database.close()


def _said(work: Callable[[], T]) -> T:
    """What cannot be written as text is no row, and says so like every other failure."""
    try:
        return work()
    except UnicodeError:
        pass
    raise Unavailable("a name holds characters that cannot be stored (a lone surrogate)")


_open: Final[weakref.WeakSet[SharedFile]] = weakref.WeakSet()


def _after_fork() -> None:
    for part in list(_open):
        part.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
