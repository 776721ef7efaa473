"""Questions that a provider asks right now: when each ends, and when it may be asked about again."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from agentguard.approval.ciba_answers import DEFAULT_INTERVAL
from agentguard.approval.ciba_people import Person

_MOST: Final = 1000
_MEANWHILE: Final = 20.0  # seconds in which nobody else polls while one poll is made


@dataclass(slots=True)
class Open:
    """One question.

    Args:
        id: the `auth_req_id`.
        person: who is asked.
        digest: of the arguments that it is about.
        until, next_at: monotonic seconds.
        interval: seconds between two polls.
        asked_at: seconds since the epoch; not known to a process that did not ask.
    """

    id: str
    person: Person
    digest: str
    until: float
    interval: float = DEFAULT_INTERVAL
    next_at: float = -math.inf
    asked_at: float = -math.inf


class OpenQuestions:
    """The questions that are not waited for, at most 1,000; one more is polled as if another process had asked it.

    Args:
        monotonic: seconds.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._open: dict[str, Open] = {}
        self._lock = threading.Lock()

    def keep(self, question: Open) -> Open:
        """Keep a question, and return it; the one that is kept already, if there is one of that id."""
        with self._lock:
            now = self._monotonic()
            if len(self._open) >= _MOST:
                self._open = {each.id: each for each in self._open.values() if now < each.until}
            if len(self._open) >= _MOST:
                return question
            return self._open.setdefault(question.id, question)

    def find(self, ident: str) -> Open | None:
        """Return the question of an id, if it is kept here."""
        with self._lock:
            return self._open.get(ident)

    def due(self, question: Open) -> bool:
        """Tell whether a question may be asked about now; then nobody else may, until its next time is set."""
        with self._lock:
            now = self._monotonic()
            if now < question.next_at:
                return False
            question.next_at = now + _MEANWHILE + question.interval
            return True

    def drop(self, ident: str) -> None:
        """Forget a question that is answered."""
        with self._lock:
            self._open.pop(ident, None)

    def after_fork(self) -> None:
        """In a child process: wait for nobody of the parent."""
        self._lock = threading.Lock()
