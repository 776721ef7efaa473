"""What a canary looks like in disguise, and what else a piece of output may be read as."""

from __future__ import annotations

import html
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import quote, unquote

from agentguard.credentials.needles import forms_of, watched

SHORTEST: Final = 8  # a shorter canary would be found in texts that do not hold it
_PIECE: Final = 16  # characters of a piece that gives away a long canary; a cut of 31 or more holds a whole piece
_LONG: Final = 2 * _PIECE
_ESCAPE: Final = re.compile(r"\\(U[0-9a-fA-F]{8}|u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2}|.)", re.DOTALL)
_BYTES: Final = re.compile(r"(?:\\x[89a-fA-F][0-9a-fA-F])+")
_PAIR: Final = re.compile("[\ud800-\udbff][\udc00-\udfff]")
_PLAIN_ESCAPES: Final = {"n": "\n", "r": "\r", "t": "\t", "b": "\b", "f": "\f", "0": "\0"}
_BLANK: Final = re.compile(r"\s+")
_TWICE: Final = 2


@dataclass(frozen=True, slots=True)
class Needle:
    """A text that gives a canary away, and how it is disguised."""

    canary: str
    disguise: str
    text: str = field(repr=False)


def needles_for(canary: str, secret: str) -> tuple[Needle, ...]:
    """Return what gives a canary away, the plainest first.

    A signed token counts by its payload and by its signature, each alone; its header is no secret.

    Args:
        canary: its name, which may be shown.
        secret: its text.

    Raises:
        ValueError: it is shorter than eight characters, so finding it would prove nothing.
    """
    parts = watched(secret)
    if not parts:
        raise ValueError(f"the canary {canary!r} is shorter than {SHORTEST} characters; take one that stands nowhere")
    found = [Needle(canary, disguise, text) for part in parts for disguise, text in _forms(part)]
    return tuple(dict.fromkeys(found))


def _forms(part: str) -> Iterator[tuple[str, str]]:
    yield "plain", part
    if (joined := _BLANK.sub("", part)) != part and len(joined) >= SHORTEST:
        yield "without blanks", joined
    if (encoded := quote(part, safe="")) != part:
        yield "percent-encoded", encoded
    for form in forms_of(part)[::-1]:
        if form != part:
            yield "base64", form
    digits = part.encode("utf-8", "surrogatepass").hex()
    yield from (("hex", digits), ("hex", digits.upper()), ("reversed", part[::-1]))
    if len(part) >= _LONG:
        for start in range(0, len(part) - _PIECE + 1, _PIECE):
            yield "a part of it", part[start : start + _PIECE]


def views_of(data: str) -> Iterator[str]:
    """Yield a text, and what it says once its escapes are undone: of JSON or Python (twice), of URLs and of HTML."""
    seen = {data}
    waiting = [(data, _TWICE)]
    while waiting:
        text, left = waiting.pop()
        yield text
        for read in _readings(text) if left else ():
            if read not in seen:
                seen.add(read)
                waiting.append((read, left - 1))


def _readings(text: str) -> Iterator[str]:
    if "\\" in text:
        yield _PAIR.sub(_joined, _ESCAPE.sub(_unescaped, text))
    if "\\x" in text:  # bytes of UTF-8, as Python shows them
        yield _ESCAPE.sub(_unescaped, _BYTES.sub(_decoded, text))
    if "%" in text:
        yield unquote(text)
    if "+" in text:  # a form's blanks
        yield unquote(text.replace("+", " "))
    if "&" in text:
        yield html.unescape(text)
    if "\0" in text:  # UTF-16 of plain text
        yield text.replace("\0", "")
    if "\n" in text:
        yield "".join(line.strip() for line in text.splitlines())


def _unescaped(found: re.Match[str]) -> str:
    what = found[1]
    if len(what) == 1:
        return _PLAIN_ESCAPES.get(what, what)
    return chr(code) if (code := int(what[1:], 16)) <= sys.maxunicode else found[0]


def _joined(pair: re.Match[str]) -> str:
    """The one character that JSON writes as two."""
    return pair[0].encode("utf-16", "surrogatepass").decode("utf-16")


def _decoded(escapes: re.Match[str]) -> str:
    return bytes.fromhex(escapes[0].replace("\\x", "")).decode("utf-8", "replace")
