"""Questions to a log: which records, by whom, for whom, when; answered through the index, read from the log."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from agentguard.audit.chain import read
from agentguard.audit.index import Index, microseconds, outcome_of

_STALE: Final = "the index of {} does not fit its log"


class IndexStale(Exception):
    """The index does not fit the log: somebody changed one of them; make the index anew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What to look for; what is empty is not asked.

    Args:
        agent: that acted.
        subject: for whom, as it stands in the log; a pseudonym (`u:...`) may be cut short, as spans do.
        chain: a delegation chain or a part of one, such as `support-bot > researcher`.
        tool: that was called.
        outcome: permit, ask, deny, completed, failed, cancelled or unknown.
        event: an event code.
        since, until: microseconds since the epoch.
        id: chain and number of one record.
    """

    agent: str = ""
    subject: str = ""
    chain: str = ""
    tool: str = ""
    outcome: str = ""
    event: str = ""
    since: int | None = None
    until: int | None = None
    id: tuple[str, int] | None = None


@dataclass(slots=True)
class Answer:
    """The newest records that fit, and how many lines of the log were not what they were.

    Attributes:
        broken: records that the log does not hold any more as they were written.
    """

    records: list[Mapping[str, Any]] = field(default_factory=list)
    broken: int = 0


def ask(index: Index, directory: Path, question: Question, limit: int) -> Answer:
    """Return the newest records that fit, the oldest of them first.

    Raises:
        IndexStale: the index says something else than the log.
        OSError: a log cannot be read.
    """
    found = Answer()
    if not _can_stand(question):
        return found
    sql, values = _sql(index, question)
    if sql:
        for name, at, length, time, seq in index.rows(f"{sql} order by time desc, seq desc limit ?", (*values, limit)):
            _read(directory / name, at, length, (time, seq), found, question)
    found.records.reverse()
    return found


def _can_stand(question: Question) -> bool:
    """Tell whether a log can hold what is asked for: it is UTF-8, and an argument of a command may be no text."""
    try:
        f"{question.agent}{question.subject}{question.chain}{question.tool}{question.event}".encode()
    except UnicodeEncodeError:
        return False
    return True


def _read(path: Path, at: int, length: int, place: tuple[int, int], found: Answer, question: Question) -> None:
    with path.open("rb") as file:
        file.seek(max(0, at - 1))
        before, line = file.read(min(at, 1)), file.read(length)
    if before not in (b"", b"\n") or line.find(b"\n") != length - 1:
        raise IndexStale(_STALE.format(path.parent))
    try:
        record = read(line, None)[0]
    except ValueError:
        found.broken += 1
        return
    if (microseconds(record["time"]), record["seq"]) != place or not _fits(record, question):
        raise IndexStale(_STALE.format(path.parent))
    found.records.append(record)


def _fits(record: Mapping[str, Any], question: Question) -> bool:
    """INVARIANT: what the record itself says counts, not what the index says of it."""
    for name in ("agent", "tool", "event"):
        wanted = getattr(question, name)
        if wanted and record.get(name, wanted) != wanted:
            return False
    if question.outcome and outcome_of(record["event"], record.get("outcome")) != question.outcome:
        return False
    if question.id is not None and (record["chain"], record["seq"]) != question.id:
        return False
    chain = record.get("delegation")
    if question.chain and isinstance(chain, list) and _part(question) not in f" > {' > '.join(map(str, chain))} > ":
        return False
    return not question.subject or str(record.get("subject", question.subject)).startswith(question.subject)


def _part(question: Question) -> str:
    return f" > {' > '.join(name.strip() for name in question.chain.split('>'))} > "


def _sql(index: Index, question: Question) -> tuple[str, list[object]]:
    """The query, or no text where a name that was asked for stands nowhere in the log."""
    where, values = ["true"], list[object]()
    for column in ("agent", "tool", "outcome", "event"):
        if wanted := getattr(question, column):
            where.append(f"r.{column} = (select id from texts where text = ?)")  # noqa: S608  # one of four names
            values.append(wanted)
    for column, ids in _matched(index, question):
        if not ids:
            return "", []
        where.append(f"r.{column} in ({','.join(map(str, ids))})")
    for sign, moment in ((">=", question.since), ("<", question.until)):
        if moment is not None:
            where.append(f"r.time {sign} ?")
            values.append(moment)
    if question.id is not None:
        where.append("r.chain = (select id from texts where text = ?) and r.seq = ?")
        values += question.id
    condition = " and ".join(where)
    columns = "f.name, r.at, r.length, r.time, r.seq"
    return f"select {columns} from records r join files f on f.id = r.file where {condition}", values  # noqa: S608  # our own names; values are bound


def _matched(index: Index, question: Question) -> Iterator[tuple[str, list[int]]]:
    """Texts that match in part are looked up first, so that one that fits is found by its index."""
    if question.subject:
        exact = not question.subject.startswith("u:")
        sql = "select id from texts where text = ?" if exact else "select id from texts where substr(text, 1, ?) = ?"
        given = (question.subject,) if exact else (len(question.subject), question.subject)
        yield "subject", [number for (number,) in index.rows(sql, given)]
    if question.chain:
        sql = "select id from texts where instr(' > ' || text || ' > ', ?) > 0"
        yield "delegation", [number for (number,) in index.rows(sql, (_part(question),))]
