"""The kind `glob`: segments between `/`; `*` stays within one, `**` stands for any number of them. Linear work."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise
from typing import Any, Final, Self

from agentguard.errors import ConfigurationError
from agentguard.intent.constraint import Constraint, Inner
from agentguard.intent.literal import is_text, literal, shown
from agentguard.intent.params import FromParameter
from agentguard.intent.truth import CANNOT_TELL, FAIL, HOLD, Test, Truth
from agentguard.intent.whole_text import CONTROL, DOTS, ENCODED, text_test

_MAX_SEGMENTS: Final = 64
_MAX_PATTERN: Final = 1024
_STAR: Final = "\0"  # a wildcard while a pattern is read: no pattern holds this character itself
_PIECE: Final = re.compile(r"\\([*\\])|\*|\\|[^*\\]+")
_ODD: Final = re.compile(rf"\\|{CONTROL.pattern}|{ENCODED.pattern}", re.IGNORECASE)
_DOT_SEGMENT: Final = re.compile(r"(?:^|/)\.{1,2}(?:;[^/]*)?(?:/|\Z)")
Match = Callable[[str], bool]


def escaped_glob(text: str) -> str:
    """Return a pattern that only this text matches."""
    return text.replace("\\", "\\\\").replace("*", "\\*")


def glob_match(pattern: str) -> Match:
    r"""Return what tells whether a whole text matches; wildcards match no `.`, `..`, backslash, control or encoding.

    Args:
        pattern: `*`, `**` and plain text; `\*` is the character itself.

    Raises:
        ConfigurationError: the pattern is empty, too long, or holds a wildcard where none can stand.
    """
    segments = _segments(pattern)
    plain: dict[str, int] = {}
    for index, text in enumerate(segments):
        if _STAR not in text:
            plain[text] = plain.get(text, 0) | 1 << index
    wild = [(1 << index, text.split(_STAR)) for index, text in enumerate(segments)
            if _STAR in text and text != _STAR * 2]  # fmt: skip
    spans = sum(1 << index for index, text in enumerate(segments) if text == _STAR * 2)
    last = len(segments) - 1
    tail = spans & (1 << last)  # a `**` at the end stands for at least one segment

    # One bit for each place in the pattern, one step for each segment: no input makes it go back.
    def match(text: str) -> bool:
        state, odd = 1, bool(_ODD.search(text))
        for segment in text.split("/"):
            state = _skipped(state, spans, last)
            here, stay = plain.get(segment, 0), 0
            if segment and not (odd and _ODD.search(segment)) and not (segment[0] == "." and DOTS.fullmatch(segment)):
                here |= tail | sum(bit for bit, pieces in wild if state & bit and _matches(pieces, segment))
                stay = state & spans
            state = (state & here) << 1 | stay
            if not state:
                return False
        return bool(state >> (last + 1))

    return match


def _skipped(state: int, spans: int, last: int) -> int:
    """A `**` that is not the last segment also stands for no segment at all."""
    waiting = state & spans & ((1 << last) - 1)
    while waiting:
        state |= waiting << 1
        waiting = (waiting << 1) & spans & ((1 << last) - 1)
    return state


def _segments(pattern: object) -> list[str]:
    if not isinstance(pattern, str) or not pattern or len(pattern) > _MAX_PATTERN or CONTROL.search(pattern):
        raise ConfigurationError(f"'glob' takes a pattern of 1 to {_MAX_PATTERN} plain characters: glob: docs/*.md")
    read = ""
    for found in _PIECE.finditer(pattern):
        if found[0] == "\\":
            raise ConfigurationError(r"a backslash in a glob stands before * or \ only; write \\ for one")
        read += _STAR if found[0] == "*" else found[1] or found[0]
    segments = read.split("/")
    if len(segments) > _MAX_SEGMENTS:
        raise ConfigurationError(f"a glob has at most {_MAX_SEGMENTS} segments")
    if any(_STAR * 2 in segment and segment != _STAR * 2 for segment in segments):
        raise ConfigurationError("** stands alone between slashes: docs/**/x; within a segment write one *")
    if any(first == second == _STAR * 2 for first, second in pairwise(segments)):
        raise ConfigurationError("**/** says no more than **; write it once")
    return segments


def _matches(pieces: list[str], segment: str) -> bool:
    """Leftmost is enough: every piece is looked for once, behind the one before it."""
    first, *middle, final = pieces
    if len(segment) < len(first) + len(final) or not segment.startswith(first) or not segment.endswith(final):
        return False
    start, end = len(first), len(segment) - len(final)
    for piece in middle:
        found = segment.find(piece, start, end)
        if found < 0:
            return False
        start = found + len(piece)
    return True


def unclear(text: str) -> bool:
    """Tell whether somebody may read a text as another path: dot segments, `//`, backslash, control, encodings."""
    return "//" in text or bool(_ODD.search(text) or _DOT_SEGMENT.search(text))


class Glob(Constraint, frozen=True):
    """`glob: p`: the whole text matches; a text that could be read as another path cannot be told."""

    pattern: str
    word = "glob"

    def __post_init__(self) -> None:
        glob_match(self.pattern)
        literal(self.pattern)

    @classmethod
    def read(cls, node: Any, inner: Inner) -> Self:
        return cls(escaped_glob(node) if isinstance(node, FromParameter) else node)

    def test(self, argument: str) -> Test:
        match = glob_match(self.pattern)

        def judge(value: str) -> Truth:
            if match(value):
                return HOLD
            return CANNOT_TELL if unclear(value) else FAIL

        return text_test(judge)

    def form(self) -> Any:
        return {"glob": self.pattern}

    def must(self) -> str:
        return f"match the pattern {shown(self.pattern)}"


class Regex(Constraint, frozen=True):
    """`regex: r`: the whole text matches an RE2 expression, in linear time; needs the extra `agentguard[re2]`."""

    expression: str
    word = "regex"

    def __post_init__(self) -> None:
        if not is_text(self.expression) or len(self.expression) > _MAX_PATTERN:
            raise ConfigurationError(f"'regex' takes an expression of 1 to {_MAX_PATTERN} characters")
        literal(self.expression)
        compiled_regex(self.expression)

    @classmethod
    def read(cls, node: Any, inner: Inner) -> Self:
        return cls(re2_module().escape(node) if isinstance(node, FromParameter) else node)

    def test(self, argument: str) -> Test:
        expression = compiled_regex(self.expression)
        return text_test(lambda value: HOLD if expression.fullmatch(value) is not None else FAIL, 65536)

    def form(self) -> Any:
        return {"regex": self.expression}

    def must(self) -> str:
        return f"match the expression {shown(self.expression)} as a whole"


def re2_module() -> Any:
    """Return RE2.

    Raises:
        ConfigurationError: it is not installed.
    """
    try:
        import re2
    except ImportError:
        raise ConfigurationError("'regex' needs RE2, as other expressions can take for ever: "
                                 "install agentguard[re2], or write a glob") from None  # fmt: skip
    return re2


def compiled_regex(expression: str) -> Any:
    """Compile an RE2 expression.

    Raises:
        ConfigurationError: RE2 is not installed, or the expression is not one of its own.
    """
    re2 = re2_module()
    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(expression, options)
    except re2.error as error:
        why = error.args[0] if error.args else ""
        why = why.decode("utf-8", "replace") if isinstance(why, bytes) else str(why)
        raise ConfigurationError(f"RE2 refuses the expression ({why}); it knows no backreferences and no lookaround") \
            from None  # fmt: skip
