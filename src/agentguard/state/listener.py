"""What one process has heard from PostgreSQL about stops: a mirror, and the thread that keeps it fresh."""

from __future__ import annotations

import logging
import math
import random
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final, LiteralString

import psycopg

from agentguard.errors import AgentguardError, Unavailable
from agentguard.ports import Stop
from agentguard.state.postgres import PostgresStore
from agentguard.state.postgres_session import Refused, Rows, Session, query

_log: Final = logging.getLogger("agentguard")
TRUST: Final = 1.0  # seconds for which what was heard is trusted
INTERVAL: Final = 0.25  # seconds between two questions on the listening connection
BEAT: Final = 10.0
_SHORTEST, _LONGEST = 0.05, 2.0  # between two attempts to connect
_NONE: Final = -1  # no revision of a store
_CHANGED: Final[LiteralString] = (
    "SELECT e.epoch, e.revision, s.key, s.why, s.since, s.epoch FROM agentguard.epochs AS e "
    "LEFT JOIN agentguard.stops AS s ON e.revision <> {known} ORDER BY s.epoch"
)


def elapsed() -> float:
    """Seconds that go on while the machine sleeps, where the system can tell."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.clock_gettime(clock) if clock is not None else time.monotonic()


class Mirror:
    """The stops as the store had them at a moment that is known. Safe for threads.

    INVARIANT: `heard` takes the moment before the question was sent, so a stop that committed before it is in here.

    Args:
        clock: seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float] = elapsed) -> None:
        self._lock, self._clock = threading.Lock(), clock
        self._stops: dict[str, Stop] = {}
        self._epoch, self.revision = 0, _NONE
        self._at = -math.inf
        self.first = threading.Event()

    def heard(self, asked: float, rows: Rows) -> None:
        """Take an answer: the epoch, the revision, and every stop if that is a new one."""
        epoch, revision = int(rows[0][0] or 0), int(rows[0][1] or 0)
        with self._lock:
            if revision != self.revision:
                self._stops = {stop.key: stop for stop in map(_stop, rows) if stop.key}
            self._epoch, self.revision, self._at = epoch, revision, asked
        self.first.set()

    def lost(self) -> None:
        """The connection is gone: nothing is trusted until the next answer, which brings every stop.

        INVARIANT: revisions are compared on one connection only. After a failover or a restore the server may have
        gone back, and give a revision that was heard before to other stops.
        """
        with self._lock:
            self._at, self.revision = -math.inf, _NONE

    def fresh(self) -> bool:
        """Whether it may be trusted."""
        with self._lock:
            return self._clock() - self._at <= TRUST

    def stopped(self, keys: Sequence[str]) -> str:
        """Return the first suspended key, or "".

        Raises:
            Unavailable: it was not heard from in time.
        """
        with self._lock:
            self._refuse_stale()
            return next((key for key in keys if key in self._stops), "")

    def news(self, since: int) -> tuple[int, Sequence[Stop]]:
        """Return the epoch and the stops after `since`; raises as `stopped`."""
        with self._lock:
            self._refuse_stale()
            found = [stop for stop in self._stops.values() if stop.epoch > since]
            return self._epoch, sorted(found, key=lambda stop: stop.epoch)

    def _refuse_stale(self) -> None:
        age = self._clock() - self._at
        if age > TRUST:
            when = "its listener is lost" if math.isinf(age) else f"it was last heard from {age:.1f} s ago"
            raise Unavailable(f"the suspensions in PostgreSQL cannot be trusted: {when}; check the database")


def _stop(row: Sequence[str | None]) -> Stop:
    _, _, key, why, since, epoch = row
    return Stop(key or "", why or "", float(since or 0), int(epoch or 0))


class Listener:
    """One connection that listens, in a thread of its own.

    A lost connection is made again, after 0.05 to 2 seconds. Notifications that were missed do no harm: each answer
    compares revisions, and a new one brings every stop, as the first answer on a connection does.

    Args:
        store: where connections come from; this one does not count against its few.
        instance: whose beat goes along.
    """

    def __init__(self, store: PostgresStore, instance: str) -> None:
        self.mirror = Mirror()
        self._store, self._instance = store, instance
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread, once."""
        with self._lock:
            if self._thread is None and not self._stopped.is_set():
                thread = threading.Thread(target=self._keep, name="agentguard-listener", daemon=True)
                thread.start()
                self._thread = (
                    thread  # INVARIANT: one that could not begin is tried again, and nobody waits for its end
                )

    def stop(self, *, wait: bool = True) -> None:
        """End the thread and close its connection."""
        self._stopped.set()
        thread = self._thread
        if wait and thread is not None and thread is not threading.current_thread():
            thread.join(self._store.timeout + 1)

    def _keep(self) -> None:
        pause = _SHORTEST
        while not self._stopped.is_set():
            heard = self._listened()
            self.mirror.lost()
            pause = _SHORTEST if heard else min(pause * 2, _LONGEST)
            self._stopped.wait(pause * random.uniform(0.5, 1.5))  # noqa: S311  # jitter

    def _listened(self) -> bool:
        """Listen until the connection is lost; tell whether it ever answered. No error leaves this thread."""
        heard = False
        session: Session | None = None
        try:
            session = self._store.connect(time.monotonic() + self._store.timeout)
            self._ask(session, "SET application_name = 'agentguard listener'; LISTEN agentguard_stops")
            beat = -math.inf
            while not self._stopped.is_set():
                asked = elapsed()
                self.mirror.heard(asked, self._ask(session, _CHANGED, known=self.mirror.revision))
                heard = True
                if asked - beat > BEAT:
                    self._beat(session)
                    beat = asked
                session.heard(INTERVAL)
        except (Refused, TimeoutError, psycopg.Error, AgentguardError) as error:
            _log.warning("the listener for suspensions was lost (%s); calls that read are denied", type(error).__name__)
        except Exception as error:
            _log.error("the listener for suspensions failed (%s); calls that read are denied", type(error).__name__)
        finally:
            if session is not None:
                session.close()
        return heard

    def _ask(self, session: Session, text: LiteralString, **values: object) -> Rows:
        return session.run(query(text, **values), time.monotonic() + self._store.timeout)[0]

    def _beat(self, session: Session) -> None:
        self._ask(
            session,
            "UPDATE agentguard.runners SET beat = extract(epoch FROM clock_timestamp()) WHERE instance = {instance}",
            instance=self._instance,
        )
