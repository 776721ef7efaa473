"""Questions to people in a file: asked in one process, answered in another, and there after a restart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from agentguard.ports import Question, Verdict
from agentguard.state.questions import KEPT, MAX_KEPT, as_of, check_answer, read, taken, too_many, written
from agentguard.state.shared_file import SharedFile

_COLUMNS: Final = "question, verdict, by"
_OPEN, _APPROVED, _USED = Verdict.OPEN.value, Verdict.APPROVED.value, Verdict.USED.value


class SqliteApprovals(SharedFile):
    """Questions of the processes of one host; implements the port `Approvals`.

    INVARIANT: an answer and a use are each one conditional update in a write transaction that is on the disk when it
    returns: neither counts twice, in no process, and after no crash.
    """

    async def ask(self, question: Question) -> None:
        """Keep a question; asking the same one again changes nothing.

        Raises:
            Unavailable: it is not kept: another one has its id, it is too long, or too many are kept.
        """
        text = written(question)
        values = (question.id, question.binding, _OPEN, question.asked_at, question.expires_at, text)

        def work() -> None:
            with self._database.write(durable=True) as database:
                found = database.execute("SELECT binding FROM questions WHERE id = ?", (question.id,)).fetchone()
                if found is not None and found[0] != question.binding:
                    raise taken(question.id)
                if found is None:
                    database.execute("DELETE FROM questions WHERE expires_at < ?", (question.asked_at - KEPT,))
                    if database.execute("SELECT count(*) FROM questions").fetchone()[0] >= MAX_KEPT:
                        raise too_many()
                    database.execute(
                        "INSERT INTO questions (id, binding, verdict, by, asked_at, expires_at, question) "
                        "VALUES (?, ?, ?, '', ?, ?, ?)", values,
                    )  # fmt: skip

        await self._run(work)

    async def answer(self, id: str, verdict: Verdict, by: str, now: float) -> bool:
        """Take an answer while the question is open and in date; tell whether it counted."""
        check_answer(verdict, by)

        def work() -> bool:
            with self._database.write(durable=True) as database:
                changed = database.execute(
                    "UPDATE questions SET verdict = ?, by = ? WHERE id = ? AND verdict = ? AND expires_at > ?",
                    (verdict.value, by, id, _OPEN, now),
                )
                return changed.rowcount == 1

        return await self._run(work)

    async def find(self, id: str, now: float) -> Question | None:
        """Return a question as it stands now, or None."""
        found = await self._questions("id = ?", (id,))
        return as_of(found[0], now) if found else None

    async def use(self, binding: str, now: float) -> Question | None:
        """Use up an approval for exactly this binding, the oldest first, and return its question, or None."""
        oldest = (
            "SELECT id FROM questions WHERE binding = ? AND verdict = ? AND expires_at > ? "
            "ORDER BY asked_at, id LIMIT 1"
        )

        def work() -> Question | None:
            with self._database.write(durable=True) as database:
                found = database.execute(
                    f"UPDATE questions SET verdict = ? WHERE id = ({oldest}) RETURNING {_COLUMNS}",  # noqa: S608  # constants
                    (_USED, binding, _APPROVED, now),
                ).fetchall()
                return read(*found[0]) if found else None

        return await self._run(work)

    async def open(self, now: float) -> Sequence[Question]:
        """Return what waits for an answer, the oldest first."""
        return await self._questions("verdict = ? AND expires_at > ?", (_OPEN, now))

    async def _questions(self, where: str, values: tuple[object, ...]) -> list[Question]:
        query = f"SELECT {_COLUMNS} FROM questions WHERE {where} ORDER BY asked_at, id"  # noqa: S608  # constants

        def work() -> list[Question]:
            with self._database.read() as database:
                return [read(*columns) for columns in database.execute(query, values)]

        return await self._run(work)
