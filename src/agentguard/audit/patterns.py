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


def _of(expression: str, holds: Callable[[str], bool] | None = None) -> Callable[[str], Iterator[tuple[int, int]]]:
    compiled = re.compile(expression)

    def spans(text: str) -> Iterator[tuple[int, int]]:
        for match in compiled.finditer(text):
            if holds is None or holds(match[0]):
                yield match.span()

    return spans


def luhn(text: str) -> bool:
    """Tell whether a number has the check digit of a payment card (ISO/IEC 7812-1)."""
    digits = [int(char) for char in text if char in "0123456789"]
    doubled = (sum(divmod(2 * digit, 10)) for digit in digits[-2::-2])
    return 13 <= len(digits) <= 19 and len(set(digits)) > 1 and (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def iban(text: str) -> bool:
    """Tell whether a text has the check digits of an account number (ISO 13616, ISO/IEC 7064 MOD 97-10)."""
    plain = re.sub(r"[ -]", "", text).upper()
    turned = "".join(str(int(char, 36)) for char in plain[4:] + plain[:4])
    return 15 <= len(plain) <= 34 and int(turned) % 97 == 1


def _ibans(text: str) -> Iterator[tuple[int, int]]:
    """The longest part of each candidate that checks: words behind an account number look like more of it."""
    for match in _IBAN.finditer(text):
        ends = range(match.end(), match.start() + 14, -1)
        end = next((end for end in ends if text[end - 1].isalnum() and iban(text[match.start() : end])), 0)
        if end:
            yield match.start(), end


def _jwts(text: str) -> Iterator[tuple[int, int]]:
    """Compact tokens (RFC 7515, RFC 7516), also without their signature and behind other letters."""
    for match in _DOTTED.finditer(text):
        begin = match[0].find("eyJ", 0, match[0].index("."))
        if begin >= 0:
            yield match.start() + begin, match.end()


def _phone(text: str) -> bool:
    return 8 <= sum(char.isdigit() for char in text) <= 15


_IBAN: Final = re.compile(r"(?<![A-Za-z0-9])[A-Za-z]{2}[0-9]{2}(?:[ -]?[A-Za-z0-9]){11,30}")
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
        ("card", _of(r"(?<![0-9A-Za-z])[0-9](?:[ -]?[0-9]){12,18}(?![0-9A-Za-z])", luhn)),
        ("email", _of(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63}){1,8}")),
        ("phone", _of(r"(?<![0-9A-Za-z])(?:\+|00)[1-9](?:[ ()./-]{0,3}[0-9]){7,14}(?![0-9A-Za-z])", _phone)),
    )
}
