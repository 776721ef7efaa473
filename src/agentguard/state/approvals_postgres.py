"""Questions to people in PostgreSQL: asked on one host, answered on another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, LiteralString

from psycopg import sql

from agentguard.ports import Question, Verdict
from agentguard.state.postgres import PostgresStore
from agentguard.state.postgres_schema import COMMIT, DURABLE
from agentguard.state.postgres_session import Rows, Session, query
from agentguard.state.questions import KEPT, MAX_KEPT, as_of, check_answer, read, taken, too_many, written

_OPEN, _APPROVED, _USED = Verdict.OPEN.value, Verdict.APPROVED.value, Verdict.USED.value
# INVARIANT: a question has lapsed when either clock says so, the caller's or the server's.
_NOW: Final[LiteralString] = "greatest({now}::float8, extract(epoch FROM clock_timestamp())::float8)"
_COLUMNS: Final[LiteralString] = "question, verdict, by, " + _NOW
_BEGIN: Final[LiteralString] = "BEGIN; SELECT pg_advisory_xact_lock(4278092, 3); "
_ASK: Final[LiteralString] = (
    "DELETE FROM agentguard.questions WHERE expires_at < extract(epoch FROM clock_timestamp()) - {kept}; "
    "SELECT count(*) FROM agentguard.questions; SELECT binding FROM agentguard.questions WHERE id = {id}"
)
_INSERT: Final[LiteralString] = (
    "INSERT INTO agentguard.questions (id, binding, verdict, by, asked_at, expires_at, question) VALUES "
    "({id}, {binding}, {verdict}, '', {asked_at}::float8, {expires_at}::float8, {body})"
)
_ANSWER: Final[LiteralString] = (
    "UPDATE agentguard.questions SET verdict = {verdict}, by = {by} WHERE id = {id} AND verdict = {open} "  # noqa: S608  # constants
    "AND expires_at > " + _NOW + " RETURNING id"
)
_USE: Final[LiteralString] = (
    "UPDATE agentguard.questions SET verdict = {used} WHERE verdict = {approved} AND id = "  # noqa: S608  # constants
    "(SELECT id FROM agentguard.questions WHERE binding = {binding} AND verdict = {approved} AND expires_at > "
    + _NOW + " ORDER BY asked_at, id LIMIT 1 FOR UPDATE) RETURNING " + _COLUMNS
)  # fmt: skip
_FIND: Final[LiteralString] = "SELECT " + _COLUMNS + " FROM agentguard.questions WHERE id = {id}"  # noqa: S608  # constants
_WAITING: Final[LiteralString] = (
    "SELECT " + _COLUMNS + " FROM agentguard.questions WHERE verdict = {open} AND expires_at > " + _NOW  # noqa: S608  # constants
    + " ORDER BY asked_at, id"
)  # fmt: skip


class PostgresApprovals:
    """Questions of several hosts; implements the port `Approvals`.

    INVARIANT: an answer and a use are each one conditional update that is on the server's disk when it returns.

    Args:
        store: the database.
    """

    suspends = False
    waits = True
    remote = True

    def __init__(self, store: PostgresStore) -> None:
        self._store = store

    async def ask(self, question: Question) -> None:
        """Keep a question; asking the same one again changes nothing.

        Raises:
            Unavailable: it may not be kept: no answer came, another one has its id, or too many are kept.
        """
        body = written(question).decode()
        insert = query(
            _INSERT, id=question.id, binding=question.binding, verdict=_OPEN, asked_at=question.asked_at,
            expires_at=question.expires_at, body=body,
        )  # fmt: skip

        def work(session: Session, deadline: float) -> None:
            look = query(_BEGIN) + DURABLE + sql.SQL("; ") + query(_ASK, id=question.id, kept=KEPT)
            ((count,),), found = session.run(look, deadline)[-2:]
            full = not found and int(count or 0) >= MAX_KEPT
            session.run(COMMIT if found or full else insert + sql.SQL("; ") + COMMIT, deadline)
            if found and found[0][0] != question.binding:
                raise taken(question.id)
            if full:
                raise too_many()

        await self._store.run(work, question.id)

    async def answer(self, id: str, verdict: Verdict, by: str, now: float) -> bool:
        """Take an answer while the question is open and in date; tell whether it counted."""
        check_answer(verdict, by)
        return bool(await self._changed(query(_ANSWER, id=id, verdict=verdict.value, by=by, open=_OPEN, now=now), id))

    async def use(self, binding: str, now: float) -> Question | None:
        """Use up an approval for exactly this binding, the oldest first, and return its question, or None.

        Raises:
            Unavailable: no answer came, so it may be used up.
        """
        found = await self._changed(query(_USE, used=_USED, approved=_APPROVED, binding=binding, now=now), binding)
        return _questions(found)[0] if found else None

    async def _changed(self, update: sql.Composable, lane: str) -> Rows:
        statements = sql.SQL("; ").join([sql.SQL("BEGIN"), DURABLE, update, COMMIT])
        return (await self._store.run(lambda session, deadline: session.run(statements, deadline), lane))[-2]

    async def find(self, id: str, now: float) -> Question | None:
        """Return a question as it stands now, or None."""
        found = await self._read(query(_FIND, id=id, now=now), id)
        return as_of(_questions(found)[0], float(found[0][3] or 0)) if found else None

    async def open(self, now: float) -> Sequence[Question]:
        """Return what waits for an answer, the oldest first."""
        return _questions(await self._read(query(_WAITING, open=_OPEN, now=now), ""))

    async def _read(self, statement: sql.Composable, lane: str) -> Rows:
        return (await self._store.run(lambda session, deadline: session.run(statement, deadline), lane))[0]


def _questions(rows: Rows) -> list[Question]:
    return [read((text or "").encode(), verdict or "", by or "") for text, verdict, by, _ in rows]
