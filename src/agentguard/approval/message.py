"""The question itself: in full for a terminal or a callback, and short for a person's own device."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

from agentguard.approval.characters import LONGEST, plain, quoted
from agentguard.errors import ConfigurationError
from agentguard.ports import ApprovalRequest, Origin

MOST_BYTES: Final = 16 * 1024
LONGEST_BINDING: Final = 64
_LEAST_BINDING: Final = 12
_CODE: Final = 8
_CHAIN: Final = 4500  # 17 names of 256 characters
_ARGUMENT_LINES: Final = 500
_CALLS: Final = 3
_ORIGINS: Final = 20
_NO_BINDING: Final = re.compile(r"[^A-Za-z0-9._-]+")


def code(request: ApprovalRequest) -> str:
    """The first 8 base16 digits of the digest of the arguments: what a person compares on two screens."""
    found = re.sub(r"[^0-9a-f]", "", request.digest.rpartition(":")[2].lower())
    return found[:_CODE]


def message(request: ApprovalRequest) -> str:
    """Return the whole question as lines of text: who, for what, which call, where its values come from, until when.

    Only printable characters and line breaks, at most 16 KiB of UTF-8. INVARIANT: a line that begins with a word is
    ours; what comes from a call is indented below it or stands behind our word.
    """
    text, left = "", MOST_BYTES - LONGEST
    for line in _lines(request):
        left -= len(line.encode()) + 1
        if left < 0:
            return f"{text}... the question is longer than this; reject it if you need to see the rest\n"
        text += line + "\n"
    return text


def _lines(request: ApprovalRequest) -> Iterator[str]:
    yield "Approve this call, once, with exactly these arguments?"
    yield f"who:       {_cut(request.chain, _CHAIN)}"
    yield f"purpose:   {_cut(request.purpose)}"
    yield f"tool:      {_cut(request.tool)}"
    yield f"step:      {_cut(request.step)}"
    yield "arguments:" if request.arguments else "arguments: none"
    lines = request.arguments.split("\n") if request.arguments else []
    yield from (f"    {plain(line)}" for line in lines[:_ARGUMENT_LINES])
    if len(lines) > _ARGUMENT_LINES:
        yield f"    ... {len(lines) - _ARGUMENT_LINES:,} more lines"
    for origin in request.origins[:_ORIGINS]:
        yield from _origin(origin)
    if len(request.origins) > _ORIGINS:
        yield f"... {len(request.origins) - _ORIGINS:,} more origins"
    yield f"owner:     {_cut(request.owner) or 'not known'}"
    yield f"policy:    {_cut(request.policy) or 'none'}"
    yield f"asked:     {'the subject, ' + _cut(request.subject) if request.by == 'subject' else 'an operator'}"
    yield f"until:     {_instant(request.expires_at)}"
    yield f"code:      {code(request) or 'none'}"


def _origin(origin: Origin) -> Iterator[str]:
    where = f"{_cut(origin.source)}, {_cut(origin.field)}"
    yield f"origin:    {_cut(origin.argument)} has to stand in {where}{_calls(origin)}; there stand:"
    yield from (f"    {quoted(candidate)}" for candidate in origin.candidates[:_ORIGINS])
    if not origin.candidates:
        yield "    nothing"


def _calls(origin: Origin) -> str:
    """The calls that left it there, by the ids under which their records are found; the last few."""
    last = [_cut(call) for call in origin.calls[-_CALLS:]]
    return f" (call {', '.join(last)})" if last else ""


def _cut(text: str, longest: int = 2 * LONGEST) -> str:
    return plain(text) if len(text) <= longest else plain(text[:longest]) + "..."


def _instant(seconds: float) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC") if seconds > 0 else "not said"
    except (OverflowError, ValueError, OSError):
        return "not said"


def binding_message(request: ApprovalRequest, *, longest: int = LONGEST_BINDING) -> str:
    """Return the short text that a person sees on a device of their own (CIBA Core 1.0 section 7.1): tool and code.

    Only ASCII letters, digits, `-`, `.` and `_`, because providers refuse others.

    Args:
        request: the question.
        longest: characters at most, from 12 to 64; the code is never cut.

    Raises:
        ConfigurationError: `longest` is out of bounds.
    """
    short = code(request)
    tool = _NO_BINDING.sub("-", request.tool)[: checked_length(longest) - len(short) - 1].strip("-")
    return f"{tool}-{short}" if tool else short


def checked_length(longest: int) -> int:
    """Return a length that a binding message may have.

    Raises:
        ConfigurationError: it is out of bounds.
    """
    if not _LEAST_BINDING <= longest <= LONGEST_BINDING:
        raise ConfigurationError(f"binding length {longest!r}: write from {_LEAST_BINDING} to {LONGEST_BINDING}")
    return longest
