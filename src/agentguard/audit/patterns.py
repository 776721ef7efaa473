"""What personal data and secrets look like in a text: named patterns, literals, and RE2 expressions of your own.

INVARIANT: no pattern is slow on any text: each quantifier here is bounded, and expressions of others are RE2's, which
takes linear time. A pattern finds too much rather than too little, but a number counts only with its check digits.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from agentguard.errors import ConfigurationError
from agentguard.intent.globs import compiled_regex

_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,31}")
_LONGEST: Final = 1000  # characters of an expression or a literal
_SHORTEST: Final = 3  # of a literal: a shorter one would take texts apart


@dataclass(frozen=True, slots=True)
class Pattern:
    """One kind of thing to take out of texts.

    Args:
        name: stands in its place, as `[redacted: name]`; words of a-z, 0-9 and _.
        spans: finds it: the beginnings and ends of what is to go.
    """

    name: str
    spans: Callable[[str], Iterator[tuple[int, int]]]

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ConfigurationError(f"{self.name!r} is no name for a pattern; write a word of a-z, 0-9 and _: ticket")


def literal(name: str, *texts: str) -> Pattern:
    """A pattern that is one of some texts, whatever their case.

    Raises:
        ConfigurationError: there is none, or one is shorter than three characters.
    """
    if not texts or any(not _SHORTEST <= len(text) <= _LONGEST for text in texts):
        raise ConfigurationError(f"pattern {name!r} takes texts of {_SHORTEST} to {_LONGEST} characters")
    found = re.compile("|".join(re.escape(text) for text in sorted(texts, key=len, reverse=True)), re.IGNORECASE)
    return Pattern(name, lambda text: (match.span() for match in found.finditer(text)))


def expression(name: str, expression: str) -> Pattern:
    """A pattern that is an RE2 expression: linear in the text, whatever either of them says.

    Raises:
        ConfigurationError: RE2 (the extra `agentguard[re2]`) is not installed, or refuses it, or it matches nothing
            but the empty text.
    """
    if not 1 <= len(expression) <= _LONGEST:
        raise ConfigurationError(f"pattern {name!r} takes an expression of 1 to {_LONGEST} characters")
    try:
        compiled: Any = compiled_regex(expression)
    except ConfigurationError as error:
        raise ConfigurationError(
            f"pattern {name!r}: {str(error).replace('a glob', 'its texts: literal(...)')}"
        ) from None
    if compiled.fullmatch("") is not None:
        raise ConfigurationError(f"pattern {name!r} matches the empty text; say what it has to hold at least")
    return Pattern(name, lambda text: (match.span() for match in compiled.finditer(text)))


def _of(expression: str) -> Callable[[str], Iterator[tuple[int, int]]]:
    compiled = re.compile(expression)
    return lambda text: (match.span() for match in compiled.finditer(text))


def luhn(text: str) -> bool:
    """Tell whether a number has the check digit of a payment card (ISO/IEC 7812-1)."""
    digits = "".join(char for char in text if char in "0123456789")
    return len(digits) <= 19 and len(digits) in _checked(digits)


def _checked(text: str) -> list[int]:
    """The lengths at which a text that begins with digits has the check digit of those before, from 13 digits on."""
    found, digits = [], list[int]()
    plain = doubled = 0  # sums over the digits, whose last one counts as it is, or twice
    for at, char in enumerate(text, 1):
        if char not in " -":
            digit = int(char)
            digits.append(digit)
            plain, doubled = doubled + digit, plain + (2 * digit if digit < 5 else 2 * digit - 9)
            if len(digits) >= 13 and not plain % 10 and len({*digits}) > 1:
                found.append(at)
    return found


def iban(text: str) -> bool:
    """Tell whether a text has the check digits of an account number (ISO 13616, ISO/IEC 7064 MOD 97-10)."""
    plain = re.sub(r"[ -]", "", text)
    return 15 <= len(plain) <= 34 and _account(plain) == len(plain)


def _account(text: str) -> int:
    """How long the longest account number is that a text begins with, by its check digits; 0 where there is none."""
    found = number = length = 0
    head = ""
    for at, char in enumerate(text, 1):
        if char in " -":
            continue
        digits, length = str(int(char, 36)), length + 1
        if length <= 4:
            head += digits  # these count last
            continue
        number = (number * (10 if len(digits) == 1 else 100) + int(digits)) % 97
        if length >= 15 and (number * 10 ** len(head) + int(head)) % 97 == 1:
            found = at
    return found


def _ibans(text: str) -> Iterator[tuple[int, int]]:
    """The longest part of each candidate that checks: words behind an account number look like more of it.

    INVARIANT: one that does not check is left behind by its first character, as the number may begin within it.
    """
    at = 0
    while (match := _IBAN.search(text, at)) is not None:
        begin = match.start()
        length = _account(match[0])
        if length:
            yield begin, begin + length
        at = begin + (length or 1)


def _cards(text: str) -> Iterator[tuple[int, int]]:
    """The longest part of each run of digits that checks, from a word's begin to a word's end.

    INVARIANT: as for account numbers: what stands before a card, or its date behind it, looks like more of it.
    """
    at = 0
    while (match := _CARD.search(text, at)) is not None:
        begin = match.start()
        ends = [begin + length for length in _checked(match[0]) if not _ALNUM.match(text, begin + length)]
        if ends:
            yield begin, ends[-1]
        at = ends[-1] if ends else begin + 1


def _jwts(text: str) -> Iterator[tuple[int, int]]:
    """Compact tokens (RFC 7515, RFC 7516), also without their signature, and behind other letters or names."""
    at = 0
    while (match := _DOTTED.search(text, at)) is not None:
        dot = match[0].index(".")
        begin = match[0].find("eyJ", 0, dot)
        if begin >= 0:
            yield match.start() + begin, match.end()
        at = match.end() if begin >= 0 else match.start() + dot


_IBAN: Final = re.compile(r"(?<![A-Za-z0-9])[A-Za-z]{2}[0-9]{2}(?:[ -]?[A-Za-z0-9]){11,30}")
_CARD: Final = re.compile(r"(?<![0-9A-Za-z])[0-9](?:[ -]?[0-9]){12,18}")
_ALNUM: Final = re.compile(r"[0-9A-Za-z]")
_TOKEN68: Final = r"[A-Za-z0-9._~+/-]{8,8192}={0,2}"
# Begun only where a run begins, and never given back: linear.
_DOTTED: Final = re.compile(r"(?<![A-Za-z0-9_-])[A-Za-z0-9_-]{11,}+\.[A-Za-z0-9_-]{4,}+(?:\.[A-Za-z0-9_-]*+){0,3}+")

# In this order: what holds others comes first.
NAMED: Final[Mapping[str, Pattern]] = {
    name: Pattern(name, spans)
    for name, spans in (
        (
            "pem",
            _of(r"-----BEGIN [A-Z0-9 ]{1,40}-----[A-Za-z0-9+/=\s\\:,.-]{1,16384}(?:-----END [A-Z0-9 ]{1,40}-----)?"),
        ),
        ("jwt", _jwts),
        ("bearer", _of(rf"\b(?i:bearer|dpop|basic)[ :=]{{1,3}}{_TOKEN68}")),
        ("aws_key", _of(r"\b(?:AKIA|ASIA|AROA|AIDA)[A-Z0-9]{16}\b")),
        ("iban", _ibans),
        ("card", _cards),
        ("email", _of(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63}){1,8}")),
        ("phone", _of(r"(?<![0-9A-Za-z])(?:\+|00)[1-9](?:[ ()./-]{0,3}[0-9]){7,14}(?![0-9A-Za-z])")),
    )
}
