"""What a person sees of a call: its arguments in full where they are short, with length and digest where they are not.

INVARIANT: two different arguments are never shown alike (up to SHA-256), but for secret ones, which are not shown.
"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Final

from agentguard.approval.characters import LONGEST, plain, quoted, sha256_of
from agentguard.model.call import ToolCall
from agentguard.model.canonical import Canonical, Digest, digest, number_text

MOST_BYTES: Final = 8 * 1024
_VALUE_BYTES: Final = 2048
_LINE_BYTES: Final = 96
_NOTE_BYTES: Final = 256  # kept free for what says that something is left out
_DEPTH: Final = 6
_SECRET: Final = "(secret, not shown)"  # noqa: S105  # a text, no secret


def rendered(call: ToolCall) -> str:
    """Return the arguments of a call for a person, each by name on its own line, in the tool's order.

    A default that the caller left out is marked `(default)`, a secret argument is not shown, and every value is as
    `rendered_value` shows it. It is at most 8 KiB of UTF-8; what is left out is said, with the SHA-256 of its canonical
    form (RFC 8785).

    Args:
        call: bound and canonical.
    """
    lines: list[str] = []
    used, items = 0, list(call.arguments.items())
    for number, (name, value) in enumerate(items):
        line = _argument(call, name, value)
        used += len(line.encode()) + 1
        if used > MOST_BYTES - _NOTE_BYTES:
            lines.append(_left_out(call, items[number:]))
            break
        lines.append(line)
    return "\n".join(lines)


def _argument(call: ToolCall, name: str, value: Canonical) -> str:
    shown = _SECRET if name in call.spec.secret else rendered_value(value).replace("\n", "\n  ")
    label = name if name.isascii() and name.isidentifier() and len(name) <= LONGEST else quoted(name)
    return f"{label}: {shown}" + ("" if name in call.given else " (default)")


def _left_out(call: ToolCall, items: list[tuple[str, Canonical]]) -> str:
    # A digest over secrets would let whoever knows the rest guess them.
    rest = digest({name: value for name, value in items if name not in call.spec.secret})
    return f"... {len(items):,} more arguments, not shown here (sha256:{rest})"


def rendered_value(value: Canonical) -> str:
    """Return one canonical value for a person: at most 2 KiB, only printable characters, structures indented.

    Text stands in quotes; in it, control, format, bidirectional, invisible and unassigned characters are escapes with
    their number, and text that is not ASCII is followed by which characters are not. What is too long or too deep is
    cut, with its length and the SHA-256 of the whole: of the text itself, or of a structure's canonical form.
    """
    if not isinstance(value, tuple | dict):
        return _scalar(value)
    line = _within(_parts(value, 0, indent=False), _LINE_BYTES)
    if line is not None:
        return line
    tall = _within(_parts(value, 0, indent=True), _VALUE_BYTES)
    if tall is not None:
        return tall
    return _beginning(_parts(value, 0, indent=True)) + f"\n... ({_summary(value)})"


def _within(parts: Iterator[str], most: int) -> str | None:
    """Join parts, or return None as soon as they are too many; what follows is not even made."""
    found: list[str] = []
    for part in parts:
        most -= len(part.encode())
        if most < 0:
            return None
        found.append(part)
    return "".join(found)


def _beginning(parts: Iterator[str]) -> str:
    found: list[str] = []
    left = _VALUE_BYTES - _NOTE_BYTES
    for part in parts:
        left -= len(part.encode())
        if left < 0:
            break
        found.append(part)
    return "".join(found).rstrip()


def _parts(value: Canonical, depth: int, *, indent: bool) -> Iterator[str]:
    if not isinstance(value, tuple | dict):
        yield _scalar(value)
    elif value and depth >= _DEPTH:
        yield f"[...] ({_summary(value)})" if isinstance(value, tuple) else f"{{...}} ({_summary(value)})"
    else:
        yield from _structure(value, depth, indent=indent)


def _structure(value: tuple[Canonical, ...] | dict[str, Canonical], depth: int, *, indent: bool) -> Iterator[str]:
    keys = iter(value) if isinstance(value, dict) else None
    yield "[" if keys is None else "{"
    for number, item in enumerate(value.values() if isinstance(value, dict) else value):
        if number:
            yield "," if indent else ", "
        if indent:
            yield "\n" + "  " * (depth + 1)
        if keys is not None:
            yield quoted(next(keys)) + ": "
        yield from _parts(item, depth + 1, indent=indent)
    if indent and value:
        yield "\n" + "  " * depth
    yield "]" if keys is None else "}"


def _summary(value: tuple[Canonical, ...] | dict[str, Canonical]) -> str:
    return f"{len(value):,} {'items' if isinstance(value, tuple) else 'members'} in all, sha256:{digest(value)}"


def _scalar(value: Canonical) -> str:
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, Decimal):
        text = number_text(value)
        return text if len(text) <= LONGEST else f"{text[:LONGEST]}... ({len(text):,} digits, {sha256_of(text)})"
    if isinstance(value, Digest):
        return f"bytes sha256:{plain(value.sha256)}"
    return "null" if value is None else str(value).lower()
