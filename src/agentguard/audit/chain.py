"""How records form a chain: pure rules, no file, no clock.

A record is one line, the RFC 8785 form of its members and a newline. `hash` is SHA-256(0x00 || RFC 8785 form of the
record without `hash`), the leaf hash of RFC 9162 section 2.1.1, so the same records can be the leaves of a Merkle tree.
`prev` is the hash of the record before it, 64 zeros in the first one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import sha256
from typing import Any, Final

import msgspec

from agentguard.audit.fields import MAX_INT, MAX_TEXT
from agentguard.audit.form import MARK, NO_FACTS, OWN, VERSION, Shared, encoded, form_of, json_of, shared_of, strictly
from agentguard.errors import AuditUnavailable
from agentguard.model.canonical import jcs
from agentguard.model.record import Position, Record

ZEROS: Final = "0" * 64
MAX_LINE: Final = 1 << 20  # bytes, newline included; what a reader must be ready to hold
_SECOND: Final = 1_000_000_000  # nanoseconds
_LATE: Final = 10**10 * _SECOND  # whole seconds: what stands behind the second has all of its nine digits
_TEXTS: Final = {str}
_TIME: Final = re.compile(r"[0-9]{4}(?:-[0-9]{2}){2}T[0-9]{2}(?::[0-9]{2}){2}\.[0-9]{6}Z")
_TYPES: Final[Mapping[str, type]] = {
    "v": int, "chain": str, "seq": int, "time": str, "event": str, "prev": str, "hash": str,
}  # fmt: skip

FRESH: Final = Position("", 0, ZEROS)


def start(chain: str) -> Position:
    """Where a chain stands before its first record."""
    return Position(chain, 0, ZEROS)


@lru_cache(maxsize=16)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def timestamp(now_ns: int) -> str:
    """RFC 3339 time in UTC, with microseconds, of nanoseconds since the epoch."""
    seconds, rest = divmod(now_ns, _SECOND)
    return f"{_second(seconds)}.{rest // 1000:06d}Z"


def link(head: Position, now_ns: int, record: Record) -> tuple[bytes, Position]:
    """Chain one record behind another one.

    Args:
        head: where the chain stands.
        now_ns: nanoseconds since the epoch.
        record: its fields and facts are text, whole numbers below 2^53, booleans, None, lists and mappings with text
            as keys.

    Returns:
        The line, with its newline, and where the chain stands behind it.

    Raises:
        AuditUnavailable: a field cannot be recorded, or uses a name of the record's own, or the line would be longer
            than 1 MiB.
    """
    fields, facts = record.fields, record.facts
    shared = (facts.prepared or shared_of(facts)) if facts else NO_FACTS
    form = shared[record.event]
    if form.names != (*fields,):
        form = form_of(record, shared)
    # The values as they stand in the line, most of them as they are, and five of the record's place in its chain.
    seq = head.seq + 1
    values = [
        *fields.values(), head.chain, head.hash, str(seq), _second(now_ns // _SECOND), str(_LATE + now_ns)[-9:-3]
    ]  # fmt: skip
    more = 2  # what encoding all of them in one must add: its quotes, and those of lists
    try:
        for at in form.others:
            value, kind = values[at], type(values[at])
            if kind is int and -MAX_INT < value < MAX_INT:
                values[at] = str(value)
            elif kind is list or kind is tuple:
                items = (*value,)
                values[at] = '["' + '","'.join(items) + '"]' if items else "[]"
                more += 2 * len(items)
            elif kind is dict and {*map(type, value), *map(type, value.values())} == _TEXTS:
                values[at] = encoded(value).decode()
                more += 4 * len(value)
            else:
                values[at] = text = json_of(value, form.names[at])
                more += len(encoded(text)) - len(text) - 2
        # One look at all of them: quotes are all that is added to a text, unless a character needs an escape.
        plain = "".join(values)
        if len(encoded(plain)) != len(plain) + more:
            return _by_the_rules(head, record, shared, values[-OWN:])
    except (TypeError, UnicodeEncodeError):  # something else stands where there was text, or text that is none
        return _by_the_rules(head, record, shared, values[-OWN:])
    below, _, above = "".join(form.order(values + form.fixed)).partition(MARK)
    digest = sha256(f"\x00{below},{above}".encode()).hexdigest()
    line = f'{below},"hash":"{digest}",{above}\n'.encode()
    if len(line) > MAX_TEXT:  # a text in it may be too long; in a shorter one none is
        return _by_the_rules(head, record, shared, values[-OWN:])
    return line, Position(head.chain, seq, digest)


def _by_the_rules(head: Position, record: Record, shared: Shared, own: Sequence[str]) -> tuple[bytes, Position]:
    """Chain a record that is longer than most, or says something that has to be escaped, cut or refused."""
    form, values = strictly(record, shared, own)
    below, _, above = "".join(form.order(values + form.fixed)).partition(MARK)
    digest = sha256(f"\x00{below},{above}".encode()).hexdigest()
    line = f'{below},"hash":"{digest}",{above}\n'.encode()
    if len(line) > MAX_LINE:
        raise AuditUnavailable(f"a record of {len(line)} bytes is longer than 1 MiB; record less of the arguments")
    return line, Position(head.chain, head.seq + 1, digest)


def _seal(below: dict[str, Any], above: dict[str, Any]) -> tuple[bytes, str]:
    """Encode once, in two parts, and put the hash between them.

    INVARIANT: neither part is empty (`event` and `prev` see to it), so the commas are right.
    """
    first, rest = jcs(below)[:-1], jcs(above)[1:]
    digest = sha256(b"\x00" + first + b"," + rest).hexdigest()
    return b'%b,"hash":"%b",%b\n' % (first, digest.encode(), rest), digest


def read(line: bytes, head: Position | None) -> tuple[dict[str, Any], Position]:
    """Check one line against the record before it.

    Args:
        line: the line with its newline.
        head: the record before it, `FRESH` where a chain must begin, None to take the line's own word.

    Returns:
        The record, and where the chain stands behind it.

    Raises:
        ValueError: what is wrong with the line.
    """
    record = decode(line)
    below = {key: value for key, value in record.items() if key < "hash"}
    above = {key: value for key, value in record.items() if key > "hash"}
    try:
        rebuilt, digest = _seal(below, above)
    except (OverflowError, RecursionError):
        raise ValueError("holds a value that no record can hold") from None
    if record["hash"] != digest:
        raise ValueError("hash does not match its content")
    if rebuilt != line:
        raise ValueError("not in RFC 8785 form")
    _check_place(record, head)
    return record, Position(record["chain"], record["seq"], digest)


def decode(line: bytes) -> dict[str, Any]:
    """Return the members of one line.

    Raises:
        ValueError: it is no JSON object, or lacks a member that every record has.
    """
    try:
        record = msgspec.json.decode(line)
    except (ValueError, RecursionError):
        raise ValueError("not JSON") from None
    if type(record) is not dict:
        raise ValueError("not a JSON object")
    for name, kind in _TYPES.items():
        if type(record.get(name)) is not kind:
            raise ValueError(f"no {name!r}, or not of its type")
    return record


def _check_place(record: Mapping[str, Any], head: Position | None) -> None:
    if record["v"] != VERSION:
        raise ValueError(f"version {record['v']}, which this release cannot read")
    if not _is_time(record["time"]):
        raise ValueError("its time is none")
    if head is None:
        return
    if head.chain and record["chain"] != head.chain:
        raise ValueError("belongs to another chain")
    if record["seq"] != head.seq + 1:
        raise ValueError(f"seq is {record['seq']}, expected {head.seq + 1}: a record was removed, moved or repeated")
    if record["prev"] != head.hash:
        raise ValueError("prev is not the hash of the record before it")


def _is_time(text: str) -> bool:
    """Tell whether a text is a time as `timestamp` writes it: whoever reads a record that verifies may count on it."""
    try:
        return _TIME.fullmatch(text) is not None and datetime.fromisoformat(text) is not None
    except ValueError:  # the 30th of February
        return False
