"""The life of a question to a person, the same in every store; pure."""

from __future__ import annotations

import math
from typing import Final

import msgspec
from msgspec.structs import replace

from agentguard.errors import ConfigurationError, Unavailable
from agentguard.ports import Question, Verdict

MAX_BYTES: Final = 256 << 10
MAX_KEPT: Final = 10_000
KEPT: Final = 86_400.0  # seconds after its expiry for which a question can still be looked up
_ANSWERS: Final = frozenset({Verdict.APPROVED, Verdict.REJECTED})


def as_of(question: Question, now: float) -> Question:
    """Return it as it stands now: what was not rejected or used in time has expired."""
    lapsed = now >= question.expires_at and question.verdict in (Verdict.OPEN, Verdict.APPROVED)
    return replace(question, verdict=Verdict.EXPIRED) if lapsed else question


def asked(question: Question) -> Question:
    """Return it as it is kept: open, answered by nobody, with an end.

    Raises:
        Unavailable: its times are no numbers.
    """
    if not (math.isfinite(question.asked_at) and math.isfinite(question.expires_at)):
        raise Unavailable(f"question {question.id} has a time that is no number; give it an end")
    return replace(question, verdict=Verdict.OPEN, by="")


def check_answer(verdict: Verdict, by: str) -> None:
    """Refuse what is no answer.

    Raises:
        ConfigurationError: it is neither approved nor rejected, or nobody gave it.
    """
    if verdict not in _ANSWERS:
        raise ConfigurationError(f"{verdict!s} is no answer to a question; answer approved or rejected")
    if not by:
        raise ConfigurationError("an answer needs to say who gave it")


def taken(identifier: str) -> Unavailable:
    """What to say about an id that another question has."""
    return Unavailable(f"there is another question {identifier[:80]!r} already; ask under a new id")


def too_many() -> Unavailable:
    """What to say when no more fit."""
    return Unavailable(f"{MAX_KEPT} questions are kept already; nothing more is asked until some of them have expired")


def written(question: Question) -> bytes:
    """Return the JSON form of a question.

    Raises:
        Unavailable: it is longer than 256 KiB, more than a person reads.
    """
    text = msgspec.json.encode(asked(question))
    if len(text) > MAX_BYTES:
        raise Unavailable(f"question {question.id} is too long for a person ({len(text)} bytes)")
    return text


def read(text: bytes, verdict: str, by: str) -> Question:
    """Return the question that was written, with the answer it has now.

    Raises:
        Unavailable: it cannot be read; it is never taken for one that was approved.
    """
    try:
        return replace(msgspec.json.decode(text, type=Question), verdict=Verdict(verdict), by=by)
    except (msgspec.DecodeError, ValueError):
        pass
    raise Unavailable("a stored question cannot be read: it was damaged, or written by a later version; ask again")
