"""The life of a role: created in one transaction, dropped by its name alone. All of it blocks, and all of it ends."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from psycopg import sql

from agentguard.credentials.postgres import statements
from agentguard.credentials.postgres.attempts import Gone, Turn, attempt
from agentguard.credentials.postgres.connections import Admin, Connections, Refused, Rows
from agentguard.credentials.postgres.grants import Privileges
from agentguard.credentials.postgres.lint import FINDINGS, findings_text
from agentguard.errors import CredentialUnavailable
from agentguard.model.lease import Secret

ISSUE: Final = 5.0
_REVOKE: Final = 4.0  # a release waits for five seconds
_WAIT: Final = 1000  # milliseconds that a session is given to end
_SWEPT: Final = 100
# Others change the same catalog rows: concurrently updated (PostgreSQL calls it an internal error), serialization
# failure, deadlock, a lock that was not free. For a drop: the role went, came, or has a session again.
_AGAIN: Final = frozenset({"XX000", "40001", "40P01", "55P03"})
_DROP_AGAIN: Final = _AGAIN | {"42704", "42710", "23505", statements.SESSIONS}


@dataclass(frozen=True, slots=True)
class Limits:
    """What holds for every role.

    Args:
        sessions: at once.
        statement_timeout: seconds.
        window: seconds after a role was prepared in which it may be created.
    """

    sessions: int
    statement_timeout: float
    window: float


class Roles:
    """Creates and drops roles in one database. Safe for threads."""

    def __init__(self, dsn: Callable[[], str], database: str, limits: Limits) -> None:
        self._database, self._limits = database, limits
        self.connections = Connections(dsn, database)
        self._start()

    def _start(self) -> None:
        self._gone, self._rights = Gone(), threading.Lock()

    def expect(self, role: str) -> None:
        """Note that a role is certain not to be there until something was sent that creates it.

        Raises:
            CredentialUnavailable: it was asked for already, or has ended; a role is created once.
        """
        if not self._gone.expect(role):
            raise CredentialUnavailable(f"role {role} was asked for already")

    def create(
        self, role: str, privileges: tuple[Privileges, ...], *, prepared: float, until: float
    ) -> tuple[Secret, str]:
        """Create a role, and return its password and what names the server.

        Args:
            role: its name, which is expected; nobody else creates one of this name.
            privileges: what it may do.
            prepared, until: when it was prepared, and when its login ends; seconds since the epoch.

        Raises:
            CredentialUnavailable: its end came first, PostgreSQL refused, or it did not answer, and then the role may
                exist.
        """
        password, deadline, sent = Secret(secrets.token_urlsafe(32)), time.monotonic() + ISSUE, False
        server = ""

        def sending() -> None:
            nonlocal sent
            if not (sent or self._gone.send(role)):
                raise CredentialUnavailable(f"role {role} was revoked before it was asked for")
            sent = True

        def work(admin: Admin) -> None:
            nonlocal server
            server = admin.server(deadline)
            statement = statements.create(
                role, admin.verifier(role, password), privileges, prepared=prepared, window=self._limits.window,
                until=until, connections=self._limits.sessions, settings=self._settings(privileges),
                database=self._database, milliseconds=_left(deadline),
            )  # fmt: skip
            with Turn(self._rights, deadline):
                admin.run(statement, deadline)

        refused = self._refused(work, deadline, _AGAIN, sending)
        if refused:
            self._gone.add(role)  # INVARIANT: the server answered that it rolled back, so the role was never born
            raise CredentialUnavailable(refused)
        return password, server

    def _settings(self, privileges: tuple[Privileges, ...]) -> list[tuple[str, sql.Composable]]:
        """Defaults of the role's sessions. It may change them, so they bound mistakes and not attacks."""
        milliseconds = sql.Literal(int(self._limits.statement_timeout * 1000))
        schemas = sql.SQL(", ").join(
            sql.Identifier(schema) for schema in dict.fromkeys(item.schema for item in privileges)
        )
        settings: list[tuple[str, sql.Composable]] = [("statement_timeout", milliseconds)]
        settings.append(("idle_in_transaction_session_timeout", milliseconds))
        if all(item.reads_only for item in privileges):
            settings.append(("default_transaction_read_only", sql.SQL("on")))
        return [*settings, ("search_path", schemas)]

    def end(self, role: str, born_until: float, server: str = "") -> None:
        """End a role's sessions and drop it; once more changes nothing.

        Args:
            role: its name.
            born_until: seconds since the epoch, on the server's clock, until which it may still be created.
            server: what `create` said of the server; empty where nobody knows.

        Raises:
            CredentialUnavailable: it could not be done, the role is not there yet, or it was made at another server:
                that there is none here says nothing then. Ask again.
        """
        if self._gone.ended(role):
            return
        early, elsewhere, deadline = False, False, time.monotonic() + _REVOKE

        def work(admin: Admin) -> None:
            nonlocal early, elsewhere
            [(oid, clock)] = admin.run(statements.stop(role, _left(deadline)), deadline)
            early = oid is None and float(clock or 0) <= born_until
            if oid is None and not early:
                admin.run(statements.probe(role, _left(deadline)), deadline)
                elsewhere = bool(server) and admin.server(deadline) not in ("", server)
            elif oid is not None:  # wherever it was made: a server that was upgraded goes by another name
                more = admin.run(statements.lock_out(role, _WAIT, _left(deadline)), deadline)
                while more[0][0] == "t":  # each round is committed, so whoever is out of time goes on from there
                    more = admin.run(statements.unlink(role, _left(deadline)), deadline)
                with Turn(self._rights, deadline):
                    admin.run(statements.drop(role, _left(deadline)), deadline)

        if refused := self._refused(work, deadline, _DROP_AGAIN):
            raise CredentialUnavailable(f"role {role} could not be dropped: {refused}")
        if early:
            raise CredentialUnavailable(f"role {role} is not there and may still be created; ask again")
        if elsewhere:
            raise CredentialUnavailable(
                f"role {role} was made at another PostgreSQL server than the dsn leads to now; let it lead "
                "there until the leases of that server have ended"
            )
        self._gone.add(role)

    def ended_before(self, prefix: str, moment: float) -> list[str]:
        """Names of roles that begin so and whose login ended before a moment; at most 100."""
        rows = self._rows(statements.ended_before(prefix, moment, _SWEPT))
        return [name for (name,) in rows if name]

    def findings(self) -> tuple[str, ...]:
        """What every role may do because PUBLIC may."""
        return findings_text(self._rows(FINDINGS))

    def forget(self) -> None:
        """After a fork: the connections and what was waited for belong to the parent."""
        self._start()
        self.connections.forget()

    def _rows(self, statement: sql.Composed) -> Rows:
        rows: Rows = []
        deadline = time.monotonic() + ISSUE

        def work(admin: Admin) -> None:
            rows[:] = admin.run(statement, deadline)

        if refused := self._refused(work, deadline, _AGAIN):
            raise CredentialUnavailable(refused)
        return rows

    def _refused(
        self, work: Callable[[Admin], None], deadline: float, again: frozenset[str],
        sending: Callable[[], None] = lambda: None,
    ) -> str:  # fmt: skip
        try:
            attempt(self.connections, work, deadline, again, sending)
        except Refused as refused:
            return _why(refused, self._limits.window)
        return ""


_REASONS: Final[Mapping[str, str]] = {
    statements.LATE: "its clock is {text} s from the time the role was asked for, and {window:g} s are allowed: the "
    "request was delayed, or the clocks differ",
    statements.NOT_GRANTED: "the admin may not hand on {text}; GRANT it to the admin WITH GRANT OPTION",
    "42501": "{text}; the admin needs CREATEROLE, and each privilege WITH GRANT OPTION",
}


def _why(refused: Refused, window: float) -> str:
    text = _REASONS.get(refused.sqlstate, "{text}").format(text=refused.text, window=window)
    return f"PostgreSQL refused ({refused.sqlstate}): {text}"


def _left(deadline: float) -> int:
    """Milliseconds that are left."""
    return max(1, int((deadline - time.monotonic()) * 1000))
