"""How records form a chain: pure rules, no file, no clock.

A record is one line, the RFC 8785 form of its members and a newline. `hash` is SHA-256(0x00 || RFC 8785 form of the
record without `hash`), the leaf hash of RFC 9162 section 2.1.1, so the same records can be the leaves of a Merkle tree.
`prev` is the hash of the record before it, 64 zeros in the first one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final

import msgspec

from agentguard.errors import AuditUnavailable
from agentguard.model.canonical import jcs
from agentguard.model.record import Facts, Position

VERSION: Final = 1
ZEROS: Final = "0" * 64
RESERVED: Final = frozenset({"v", "chain", "seq", "time", "event", "prev", "hash"})
MAX_TEXT: Final = 4096  # characters; a longer text is cut and marked with its digest
MAX_LINE: Final = 1 << 20  # bytes, newline included; what a reader must be ready to hold
MAX_DEPTH: Final = 32
_MAX_INT: Final = 1 << 53
_TYPES: Final[Mapping[str, type]] = {
    "v": int, "chain": str, "seq": int, "time": str, "event": str, "prev": str, "hash": str,
}  # fmt: skip

# What stands before `hash` in RFC 8785 order, and what stands behind it.
Body = tuple[dict[str, Any], dict[str, Any]]
FRESH: Final = Position("", 0, ZEROS)


def start(chain: str) -> Position:
    """Where a chain stands before its first record."""
    return Position(chain, 0, ZEROS)


def prepare(event: str, fields: Mapping[str, Any], facts: Facts | None = None) -> Body:
    """Return the members of a record that do not depend on where it will stand.

    Args:
        event: the event code.
        fields: text, whole numbers below 2^53, booleans, None, lists and mappings with text as keys.
        facts: more of them, shared by many records; they are looked at once.

    Raises:
        AuditUnavailable: a field cannot be recorded, or uses a name of the record's own.
    """
    below, above = _members(fields)
    if facts:
        shared = getattr(facts, "prepared", None)
        if shared is None:
            shared = facts.prepared = _members(facts)
        below, above = {**shared[0], **below}, {**shared[1], **above}
    below["event"] = str.__str__(event)
    return below, above


def _members(fields: Mapping[str, Any]) -> Body:
    below: dict[str, Any] = {}
    above: dict[str, Any] = {}
    for name, value in fields.items():
        if name in RESERVED:
            raise AuditUnavailable(f"field {name!r} is a name of the record's own; call it something else")
        # Written out for what most fields are, plain short text: this is on the path of every call.
        if type(value) is not str or len(value) > MAX_TEXT or not value.isascii():
            value = _clean(value, name, 0)
        if type(name) is not str or len(name) > MAX_TEXT or not name.isascii():
            name = _key(name, "")
        if name < "hash":
            below[name] = value
        else:
            above[name] = value
    return below, above


def _key(name: object, path: str) -> str:
    if isinstance(name, str):
        return _text(str.__str__(name))
    raise AuditUnavailable(f"field {path!r} holds a mapping with a key of type {type(name).__name__}; keys are text")


def _clean(value: Any, path: str, depth: int) -> Any:
    kind = type(value)
    if kind is str:
        return value if len(value) <= MAX_TEXT and value.isascii() else _text(value)
    if value is None or kind is bool:
        return value
    if isinstance(value, int):
        return _whole(int.__int__(value), path)
    if isinstance(value, str):
        return _text(str.__str__(value))
    if depth >= MAX_DEPTH:
        raise AuditUnavailable(f"field {path!r} is nested deeper than {MAX_DEPTH} levels, or holds itself")
    if isinstance(value, list | tuple):
        return [_clean(item, path, depth + 1) for item in value]
    if kind is dict or isinstance(value, Mapping):
        return {_key(name, path): _clean(item, path, depth + 1) for name, item in value.items()}
    raise AuditUnavailable(
        f"field {path!r} holds a {kind.__name__}; a record takes text, whole numbers, booleans, lists and mappings: "
        "write any other value as text"
    )


def _whole(value: int, path: str) -> int:
    if -_MAX_INT < value < _MAX_INT:
        return value
    raise AuditUnavailable(f"field {path!r} holds a whole number beyond 2^53; write it as text")


def _text(text: str) -> str:
    """Text that RFC 8785 can carry: cut if it is long, U+FFFD for lone surrogates; the whole text's digest marks it."""
    if len(text) <= MAX_TEXT and text.isascii():
        return text
    try:
        encoded = text.encode()
        if len(text) <= MAX_TEXT:
            return text
        kept = text[:MAX_TEXT]
    except UnicodeEncodeError:
        encoded = text.encode("utf-8", "surrogatepass")
        kept = "".join("\ufffd" if "\ud800" <= char <= "\udfff" else char for char in text[:MAX_TEXT])
    return f"{kept}[{len(text)} characters, sha256:{hashlib.sha256(encoded).hexdigest()}]"


@lru_cache(maxsize=16)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def timestamp(now_ns: int) -> str:
    """RFC 3339 time in UTC, with microseconds, of nanoseconds since the epoch."""
    seconds, rest = divmod(now_ns, 1_000_000_000)
    return f"{_second(seconds)}.{rest // 1000:06d}Z"


def link(head: Position, now_ns: int, body: Body) -> tuple[bytes, Position]:
    """Chain a record behind another one.

    Args:
        head: where the chain stands.
        now_ns: nanoseconds since the epoch.
        body: what `prepare` returned.

    Returns:
        The line, with its newline, and where the chain then stands.

    Raises:
        AuditUnavailable: the line would be longer than 1 MiB.
    """
    seq = head.seq + 1
    below = {**body[0], "chain": head.chain}
    above = {**body[1], "prev": head.hash, "seq": seq, "time": timestamp(now_ns), "v": VERSION}
    line, digest = _seal(below, above)
    if len(line) > MAX_LINE:
        raise AuditUnavailable(f"a record of {len(line)} bytes is longer than 1 MiB; record less of the arguments")
    return line, Position(head.chain, seq, digest)


def _seal(below: dict[str, Any], above: dict[str, Any]) -> tuple[bytes, str]:
    """Encode once, in two parts, and put the hash between them.

    INVARIANT: neither part is empty (`event` and `prev` see to it), so the commas are right.
    """
    first, rest = jcs(below)[:-1], jcs(above)[1:]
    digest = hashlib.sha256(b"\x00" + first + b"," + rest).hexdigest()
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
    if head is None:
        return
    if head.chain and record["chain"] != head.chain:
        raise ValueError("belongs to another chain")
    if record["seq"] != head.seq + 1:
        raise ValueError(f"seq is {record['seq']}, expected {head.seq + 1}: a record was removed, moved or repeated")
    if record["prev"] != head.hash:
        raise ValueError("prev is not the hash of the record before it")
