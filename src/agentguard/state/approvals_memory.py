"""Questions to people in this process's memory: the reference implementation of the port."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from msgspec.structs import replace

from agentguard.ports import Question, Verdict
from agentguard.state.questions import KEPT, MAX_KEPT, as_of, asked, check_answer, taken, too_many, written


class MemoryApprovals:
    """Questions of one process; implements the port `Approvals`. They end with it.

    INVARIANT: every method holds the one lock from its first look to its last change, so an answer counts once and an
    approval is used once.
    """

    suspends = False

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._questions: dict[str, Question] = {}

    async def ask(self, question: Question) -> None:
        """Keep a question; asking the same one again changes nothing.

        Raises:
            Unavailable: another question has its id, it is too long, or too many are kept.
        """
        written(question)  # what is too long for a file is too long here
        with self._lock:
            found = self._questions.get(question.id)
            if found is not None and found.binding != question.binding:
                raise taken(question.id)
            if found is None:
                self._make_room(question.asked_at)
                self._questions[question.id] = asked(question)

    def _make_room(self, now: float) -> None:
        for identifier in [one.id for one in self._questions.values() if one.expires_at < now - KEPT]:
            del self._questions[identifier]
        if len(self._questions) >= MAX_KEPT:
            raise too_many()

    async def answer(self, id: str, verdict: Verdict, by: str, now: float) -> bool:
        """Take an answer while the question is open and in date; tell whether it counted."""
        check_answer(verdict, by)
        with self._lock:
            found = self._as_of(id, now)
            if found is None or found.verdict is not Verdict.OPEN:
                return False
            self._questions[id] = replace(found, verdict=verdict, by=by)
            return True

    async def find(self, id: str, now: float) -> Question | None:
        """Return a question as it stands now, or None."""
        with self._lock:
            return self._as_of(id, now)

    def _as_of(self, id: str, now: float) -> Question | None:
        found = self._questions.get(id)
        return as_of(found, now) if found is not None else None

    async def use(self, binding: str, now: float) -> Question | None:
        """Use up an approval for exactly this binding, the oldest first, and return its question, or None."""
        with self._lock:
            for question in self._in_order(now):
                if question.binding == binding and question.verdict is Verdict.APPROVED:
                    self._questions[question.id] = used = replace(question, verdict=Verdict.USED)
                    return used
            return None

    async def open(self, now: float) -> Sequence[Question]:
        """Return what waits for an answer, the oldest first."""
        with self._lock:
            return [question for question in self._in_order(now) if question.verdict is Verdict.OPEN]

    def _in_order(self, now: float) -> list[Question]:
        found = sorted(self._questions.values(), key=lambda question: (question.asked_at, question.id))
        return [as_of(question, now) for question in found]
