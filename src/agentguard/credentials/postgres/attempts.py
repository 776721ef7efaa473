"""Asking the server again where others stood in the way, within a deadline."""

from __future__ import annotations

import random
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from enum import Enum
from typing import Final, TypeVar

import psycopg

from agentguard.credentials.postgres.connections import Admin, Connections, Refused
from agentguard.errors import CredentialUnavailable

T = TypeVar("T")
_PAUSE: Final = 0.005
_LONGEST: Final = 0.2
_RESERVE: Final = 0.6  # seconds that an attempt needs at least: it may wait half a second for a lock
_REMEMBERED: Final = 4096


class _Stage(Enum):
    """How far a role has come."""

    EXPECTED = "expected"
    SENT = "sent"  # it may be there
    GONE = "gone"


def attempt(
    connections: Connections, work: Callable[[Admin], T], deadline: float, again: frozenset[str],
    sending: Callable[[], None] = lambda: None,
) -> T:  # fmt: skip
    """Do some work on a connection and return what it returns.

    Args:
        connections: lend one.
        work: asks the server; it is done again from its beginning.
        deadline: of all attempts, on the monotonic clock.
        again: SQLSTATEs after which it is done again.
        sending: called before something is sent.

    Raises:
        Refused: the server's error: what was asked last did not happen.
        CredentialUnavailable: there was no answer, so it may have happened.
    """
    pause = _PAUSE
    while True:
        found, refused, why = _once(connections, work, deadline, sending)
        if why:
            raise CredentialUnavailable(f"the database that makes roles did not answer: {why}")
        if refused is None:
            return found  # type: ignore[return-value]  # it was returned, so it is a T
        if refused.sqlstate not in again or time.monotonic() + pause + _RESERVE >= deadline:
            raise refused
        time.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311  # jitter
        pause = min(pause * 2, _LONGEST)


def _once(
    connections: Connections, work: Callable[[Admin], T], deadline: float, sending: Callable[[], None]
) -> tuple[T | None, Refused | None, str]:
    """What an attempt brought. The frames of these errors hold verifiers, so they end here."""
    try:
        with connections.one(deadline) as admin:
            sending()
            return work(admin), None, ""
    except Refused as refused:
        return None, refused.with_traceback(None), ""
    except TimeoutError:
        return None, None, "it took too long"
    except psycopg.Error as error:
        return None, None, f"the connection broke ({type(error).__name__})"


class Turn:
    """Who changes rights takes turns in this process: PostgreSQL refuses the second of two, and does not queue them."""

    def __init__(self, lock: threading.Lock, deadline: float) -> None:
        self._lock, self._deadline = lock, deadline

    def __enter__(self) -> None:
        if not self._lock.acquire(timeout=max(0.0, self._deadline - time.monotonic())):
            raise TimeoutError

    def __exit__(self, *exc: object) -> None:
        self._lock.release()


class Gone:
    """Roles that are certain not to be there, nor to come: not asked for yet, dropped here, or refused by the server.

    It is bounded. A role is asked for once, and INVARIANT: once it was called gone, nothing is sent that creates it.
    """

    def __init__(self) -> None:
        self._names: OrderedDict[str, _Stage] = OrderedDict()
        self._lock = threading.Lock()

    def expect(self, role: str) -> bool:
        """It is going to be asked for; False where it was already."""
        with self._lock:
            return role not in self._names and self._note(role, _Stage.EXPECTED)

    def send(self, role: str) -> bool:
        """Something is about to be sent that creates it; False where it must not be: its end came first."""
        with self._lock:
            return self._names.get(role) is _Stage.EXPECTED and self._note(role, _Stage.SENT)

    def add(self, role: str) -> None:
        """It is gone."""
        with self._lock:
            self._note(role, _Stage.GONE)

    def ended(self, role: str) -> bool:
        """Tell whether it is gone; one that was only expected is from now on."""
        with self._lock:
            stage = self._names.get(role, _Stage.SENT)
            return stage is not _Stage.SENT and self._note(role, _Stage.GONE)

    def _note(self, role: str, stage: _Stage) -> bool:
        self._names[role] = stage
        if len(self._names) > _REMEMBERED:
            self._names.popitem(last=False)
        return True
