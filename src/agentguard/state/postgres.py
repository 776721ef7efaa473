"""Shared state of several hosts: one PostgreSQL database, few connections, and a deadline over every operation."""

from __future__ import annotations

import os
import random
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, TypeVar

import psycopg

from agentguard.errors import ConfigurationError, Unavailable
from agentguard.model.lease import Secret
from agentguard.state import postgres_schema as schema
from agentguard.state.offload import Lanes, offload
from agentguard.state.postgres_session import Refused, Session, unavailable

T = TypeVar("T")
TIMEOUT: Final = 2.0
_IDLE: Final = 4
_AT_ONCE: Final = 8
_KEPT: Final = 300.0  # seconds that a connection is used again, so that a changed password or rule is felt
_AGAIN: Final = frozenset({"40001", "40P01"})  # serialization failure, deadlock
_PAUSE: Final = 0.005
_LONGEST: Final = 0.1
# A connection that a fork copied is neither used nor closed in the child: both would reach the parent's session.
_inherited: Final[list[Session]] = []


class PostgresStore:
    """The database that budgets, suspensions, approvals and the ledger of several hosts share. Safe for threads.

    Connections are made when they are needed. One that idles is looked at before it is lent, so a server that was
    restarted costs no failed call.

    Args:
        dsn: the connection string, or what returns it (asked at each new connection); it goes to the primary.
        timeout: seconds that one operation takes at most, all its waits included.
        migrate: bring the schema `agentguard` to this version when it is older. That takes CREATE on the database; for
            everyday work USAGE on the schema and SELECT, INSERT, UPDATE, DELETE on its tables are enough.

    Raises:
        ConfigurationError: the timeout is no positive number.
    """

    def __init__(
        self, dsn: str | Secret | Callable[[], str], *, timeout: float = TIMEOUT, migrate: bool = True
    ) -> None:
        if not 0.1 <= timeout <= 60:
            raise ConfigurationError("the timeout of the shared state is 0.1 to 60 seconds")
        secret = Secret(dsn) if isinstance(dsn, str) else dsn
        self._dsn = secret.reveal if isinstance(secret, Secret) else secret
        self.timeout, self._migrate = timeout, migrate
        self._start()
        _stores.add(self)

    def _start(self) -> None:
        self._pid, self._closed, self._ready = os.getpid(), False, False
        self._lock, self._slots = threading.Lock(), threading.BoundedSemaphore(_AT_ONCE)
        self._idle: list[tuple[float, Session]] = []
        self._lanes = Lanes(self.timeout)

    # --- operations ---------------------------------------------------------------------------------------------

    async def run(self, work: Callable[[Session, float], T], lane: str) -> T:
        """Do one operation: here for a synchronous caller, else in a thread.

        Args:
            work: asks the server on a session, by a deadline; it is done again from its beginning after a deadlock.
            lane: operations with one name are done one after the other in this process.

        Raises:
            Unavailable: it did not happen; or there was no answer, and it may have happened.
        """
        self.after_fork()
        deadline = time.monotonic() + self.timeout  # the wait for a thread and for the lane counts
        return await offload(lambda: self._until(deadline, work), self._lanes.of(lane))

    def call(self, work: Callable[[Session, float], T]) -> T:
        """Do one operation in this thread (see `run`)."""
        self.after_fork()
        return self._until(time.monotonic() + self.timeout, work)

    def _until(self, deadline: float, work: Callable[[Session, float], T]) -> T:
        pause = _PAUSE
        while True:
            try:
                return self._once(work, deadline)
            except Refused as error:
                refused = error.with_traceback(None)
            if refused.sqlstate not in _AGAIN or time.monotonic() + pause >= deadline:
                raise unavailable(refused)
            time.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311  # jitter
            pause = min(pause * 2, _LONGEST)

    def _once(self, work: Callable[[Session, float], T], deadline: float) -> T:
        """One attempt. The frames of psycopg's errors hold statements, so they end here."""
        try:
            if time.monotonic() >= deadline:
                raise TimeoutError  # nothing is sent that nobody waits for
            with self._lent(deadline) as session:
                return work(session, deadline)
        except TimeoutError:
            why = f"it did not answer within {self.timeout:g} s"
        except psycopg.DataError:
            why = "a name holds characters that cannot be stored (NUL)"
        except psycopg.Error as error:
            why = f"the connection broke ({type(error).__name__})"
        except UnicodeError:
            why = "a name holds characters that cannot be stored (a lone surrogate)"
        raise Unavailable(f"the shared state in PostgreSQL: {why}")

    # --- connections --------------------------------------------------------------------------------------------

    @contextmanager
    def _lent(self, deadline: float) -> Iterator[Session]:
        """Lend a session; one on which anything but a statement failed is closed."""
        if not self._slots.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise Unavailable("the shared state in PostgreSQL: too many operations at once; try again")
        try:
            since, session = self._kept() or (time.monotonic(), self.connect(deadline))
            try:
                self._prepare(session, deadline)
                yield session
            except Refused:
                self._keep(since, session)
                raise
            except BaseException:
                session.close()
                raise
            self._keep(since, session)
        finally:
            self._slots.release()

    def connect(self, deadline: float) -> Session:
        """Make a session of one's own; whoever asks closes it."""
        if self._closed:
            raise Unavailable("the shared state in PostgreSQL is closed")
        return Session(self._dsn, deadline, self.timeout)

    def _kept(self) -> tuple[float, Session] | None:
        while True:
            with self._lock:
                if not self._idle:
                    return None
                since, session = self._idle.pop()
            if time.monotonic() - since < _KEPT and session.usable():
                return since, session
            session.close()

    def _keep(self, since: float, session: Session) -> None:
        with self._lock:
            if len(self._idle) < _IDLE and not self._closed:
                self._idle.append((since, session))
                return
        session.close()

    # --- the schema ---------------------------------------------------------------------------------------------

    def _prepare(self, session: Session, deadline: float) -> None:
        """See to it, once, that the tables are those of this version."""
        if self._ready:
            return
        present = self._version(session, deadline)
        if present < schema.NEWEST and self._migrate:
            present = self._migrated(session, deadline)
        if present != schema.NEWEST:
            remedy = "use that version of agentguard" if present > schema.NEWEST else "run PostgresStore(...).migrate()"
            raise ConfigurationError(
                f"the schema agentguard has version {present}, this agentguard reads {schema.NEWEST}; {remedy}"
            )
        self._ready = True

    def _version(self, session: Session, deadline: float) -> int:
        ((_, found),) = session.run(schema.LOOK, deadline)[0]
        return int(session.run(schema.VERSION, deadline)[0][0][0] or 0) if found == "t" else 0

    def _migrated(self, session: Session, deadline: float) -> int:
        """Migrate, one process at a time; a role that may not says so."""
        try:
            ((named, found),) = session.run(schema.BEGIN, deadline)[-1]
            if named != "t":
                session.run(schema.CREATE_SCHEMA, deadline)
            if found != "t":
                session.run(schema.CREATE_VERSION, deadline)
            present = int(session.run(schema.VERSION, deadline)[0][0][0] or 0)
            if present < schema.NEWEST:
                session.run(schema.migration(present), deadline)
            session.run(schema.COMMIT, deadline)
        except Refused as error:
            refused = error.sqlstate
        else:
            return max(present, schema.NEWEST)
        if refused != "42501":
            raise Refused(refused)
        raise ConfigurationError(
            "the schema agentguard is missing or older than this agentguard, and the role may not change it: run "
            "PostgresStore(DSN of its owner).migrate() once, and grant this role USAGE on it and its tables"
        )

    def migrate(self) -> None:
        """Bring the schema to this version now; the role owns the schema, or may create it.

        Raises:
            ConfigurationError: it may not, or a later version of agentguard made the schema.
            Unavailable: the server is out of reach.
        """
        before, self._migrate = self._migrate, True
        try:
            self.call(lambda session, deadline: None)
        finally:
            self._migrate = before

    # --- life ---------------------------------------------------------------------------------------------------

    def after_fork(self) -> None:
        """In a child: leave the parent's connections alone and make others."""
        if self._pid != os.getpid():
            _inherited.extend(session for _, session in self._idle)
            closed = self._closed
            self._start()
            self._closed = closed

    def close(self) -> None:
        """Close what idles; what is lent is closed when it comes back. Closing it twice does nothing."""
        self.after_fork()
        with self._lock:
            idle, self._idle, self._closed = self._idle, [], True
        for _, session in idle:
            session.close()


_stores: Final[weakref.WeakSet[PostgresStore]] = weakref.WeakSet()


def _after_fork() -> None:
    for store in list(_stores):
        store.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
