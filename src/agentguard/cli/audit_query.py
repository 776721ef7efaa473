"""`agentguard audit query` and `tail`: look into a log."""

from __future__ import annotations

import argparse
import sqlite3
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from agentguard.audit.index import Index
from agentguard.audit.index_file import is_index
from agentguard.audit.proof import parsed_id
from agentguard.audit.pseudonyms import Pseudonyms, read_file
from agentguard.audit.query import Answer, IndexStale, Question, ask
from agentguard.audit.tail import Found, Tail, watched
from agentguard.cli.output import FAILED, OK, complain, count, say, say_json
from agentguard.errors import ConfigurationError
from agentguard.model.duration import seconds

_OUTCOMES: Final = ("permit", "ask", "deny", "completed", "failed", "cancelled", "unknown")
_POLL: Final = 0.25  # seconds
_MOST: Final = 2**63 - 1  # of records; a larger number is no number to SQLite


def add(actions: Any) -> None:
    """Add `audit query` and `audit tail`."""
    text = (
        "Print the newest records that fit, the oldest of them first. The index beside the log (DIR.index) is made and "
        "kept up to date on the way; what it finds is read from the log and must match its own hash. It is no proof "
        "that nothing is missing: `audit verify` is."
    )
    parser = actions.add_parser("query", help="find records", description=text)
    parser.add_argument("path", type=Path, metavar="DIR", help="a directory of logs")
    parser.add_argument("--agent", default="", help="the agent that acted")
    parser.add_argument("--subject", default="", help="for whom, as in the log; a pseudonym u:... may be cut short")
    parser.add_argument("--pseudonym-key", type=Path, metavar="FILE",
                        help="the file of pseudonym keys: --subject is a name then, under any of them")  # fmt: skip
    parser.add_argument("--chain", default="", help='a delegation chain or a part: "support-bot > researcher"')
    parser.add_argument("--tool", default="", help="the tool that was called")
    parser.add_argument("--outcome", default="", choices=_OUTCOMES, help="how the call went")
    parser.add_argument("--event", default="", help="an event code, such as credential.issued")
    parser.add_argument("--since", type=moment, metavar="TIME", help="2026-11-21T22:26Z, or 30m, 2h, 7d ago")
    parser.add_argument("--until", type=moment, metavar="TIME", help="before that time")
    parser.add_argument("--id", default="", help="one record: CHAIN:NUMBER, the decision id of spans and errors")
    parser.add_argument("--limit", type=int, default=100, metavar="N", help="at most so many; default 100")
    parser.add_argument("--index", type=Path, metavar="FILE", help="the index, where DIR.index cannot be written")
    parser.add_argument("--rebuild", action="store_true", help="make the index anew")
    parser.add_argument("--json", action="store_true", help="print whole records, one JSON object a line")
    parser.set_defaults(run=run_query)
    text = "Print the last records of a log, over all its chains."
    parser = actions.add_parser("tail", help="print the last records", description=text)
    parser.add_argument("path", type=Path, metavar="DIR", help="a directory of logs")
    parser.add_argument("-n", type=int, default=10, dest="count", metavar="N", help="how many; default 10")
    parser.add_argument("-f", action="store_true", dest="follow", help="go on with what is written, until interrupted")
    parser.add_argument("--json", action="store_true", help="print whole records, one JSON object a line")
    parser.set_defaults(run=run_tail)


def moment(text: str) -> int:
    """A time that a person gave, in microseconds since the epoch."""
    try:
        return int((time.time() - seconds(text)) * 1_000_000)
    except ConfigurationError:
        pass
    try:
        given = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no time; write 2026-11-21T22:26Z, or 30m, 2h, 7d") from None
    return int((given if given.tzinfo else given.replace(tzinfo=UTC)).timestamp() * 1_000_000)


def run_query(arguments: argparse.Namespace) -> int:
    """Find records, and print them."""
    directory = _directory(arguments.path).absolute()
    names = ("agent", "subject", "chain", "tool", "outcome", "event", "since", "until")
    one = parsed_id(arguments.id) if arguments.id else None
    question = Question(**{name: getattr(arguments, name) for name in names}, id=one)
    questions = [replace(question, subject=subject) for subject in _subjects(arguments)]
    place: Path = arguments.index or directory.with_name(f"{directory.name}.index")
    if place.exists() and not place.is_file():  # INVARIANT: nothing but a file is ever removed, not for root either
        raise ConfigurationError(f"the index {place} is a folder or a device; name a file with --index")
    if arguments.rebuild and is_index(place):
        place.unlink(missing_ok=True)
    try:
        found = _asked(directory, place, questions, min(max(0, arguments.limit), _MOST))
    except (IndexStale, sqlite3.DatabaseError) as error:
        complain(f"agentguard: {error}; the index is made anew")
        if is_index(place):
            place.unlink(missing_ok=True)
        try:
            found = _asked(directory, place, questions, min(max(0, arguments.limit), _MOST))
        except (IndexStale, sqlite3.Error) as again:
            raise ConfigurationError(f"no index at {place}: {again}; name another file with --index") from None
    for record in found.records:
        _show(record, as_json=arguments.json)
    if found.broken:
        what = f"{count(found.broken, 'record')} of the log no longer matches its hash"
        complain(f"BROKEN: {what}; see: agentguard audit verify")
        return FAILED
    if not found.records and _is_name(arguments):
        complain("agentguard: users stand in a log as pseudonyms; to find one by name give --pseudonym-key FILE")
    return OK


def _directory(path: Path) -> Path:
    if not path.exists():  # a name that was misspelt must not become a question about the folder it would lie in
        raise ConfigurationError(f"{path}: there is no such directory of logs")
    return watched(path)


def _is_name(arguments: argparse.Namespace) -> bool:
    subject: str = arguments.subject
    return bool(subject) and arguments.pseudonym_key is None and not subject.startswith(("u:", "agent:"))


def _subjects(arguments: argparse.Namespace) -> Sequence[str]:
    """What the subject is called in the log: as it was given, or its pseudonyms under every key."""
    if arguments.pseudonym_key is None:
        return (arguments.subject,)
    if not arguments.subject or arguments.subject.startswith("u:"):
        raise ConfigurationError("--pseudonym-key needs --subject NAME: the name itself, which is hashed here")
    # A subject is hashed as it stands in the chain: a name alone is a user's.
    name = arguments.subject if arguments.subject.startswith(("user:", "agent:")) else f"user:{arguments.subject}"
    keys = Pseudonyms.parse(read_file(arguments.pseudonym_key))
    return (*keys.all_of(name), *(keys.all_of(arguments.subject) if name != arguments.subject else ()))


def _asked(directory: Path, place: Path, questions: Sequence[Question], limit: int) -> Answer:
    known, began = place.exists(), time.monotonic()
    try:
        opened = Index(directory, place)
    except (OSError, sqlite3.OperationalError) as error:
        complain(f"agentguard: no index at {place} ({error}); it is made in memory, for this question only")
        opened, known = Index(directory, None), False
    with opened as index:
        added = index.update()
        if added and not known:
            complain(f"agentguard: indexed {count(added, 'record')} in {time.monotonic() - began:.1f} s")
        if index.unread:
            complain(
                f"agentguard: {count(index.unread, 'line')} of the log are no records; see: agentguard audit verify"
            )
        answers = [ask(index, directory, question, limit) for question in questions]
    records = sorted((each for answer in answers for each in answer.records), key=lambda each: each["time"])
    return Answer(records[max(0, len(records) - limit) :], sum(answer.broken for answer in answers))


def run_tail(arguments: argparse.Namespace) -> int:
    """Print the last records, and those that come."""
    tail = Tail(_directory(arguments.path))
    found = tail.last(max(0, arguments.count))
    try:
        while True:
            for each in found:
                _show_found(each, as_json=arguments.json)
            if not arguments.follow:
                return OK
            time.sleep(_POLL)
            found = tail.grown()
    except KeyboardInterrupt:
        return OK


def _show_found(found: Found, *, as_json: bool) -> None:
    record, path = found
    if record is None:
        complain(f"BROKEN: a line of {path} is no record; see: agentguard audit verify")
    else:
        _show(record, as_json=as_json)


def _show(record: Mapping[str, Any], *, as_json: bool) -> None:
    if as_json:
        say_json(record)
    else:
        say(line_of(record))


def line_of(record: Mapping[str, Any]) -> str:
    """A record for people, on one line."""
    chain = record.get("delegation")
    who = " > ".join(map(str, chain)) if isinstance(chain, list) else str(record.get("agent", ""))
    why = record.get("reason") or record.get("error") or record.get("why") or ""
    parts = (record.get("tool", ""), who, record.get("outcome", ""), why, f"{record['chain']}:{record['seq']}")
    return "  ".join([record["time"], f"{record['event']:<22}", *(str(part) for part in parts if part)])
