"""What `match` finds inside a text field: each found value is a candidate. All of it in linear time.

An IBAN is found in the electronic form (ISO 13616: no spaces), also where it stands in the printed form, and only if
its length and its check digits are right. Punctuation behind a URL or an address is not part of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final, TypeAlias

from msgspec import Struct

from agentguard.errors import ConfigurationError
from agentguard.intent.literal import is_text
from agentguard.intent.params import FromParameter

Finder: TypeAlias = Callable[[str], Iterator[str]]

_WHOLE: Final = "whole"
_MAX_URL: Final = 2048
_URL: Final = re.compile(r"(?<![\w/.@\-])(?:https?://|www\.)[^\s<>\"'`{}|\\^\x00-\x1f\x7f]{1,4096}", re.IGNORECASE)
_TRAILING: Final = ".,;:!?*_~\u2026"
# What may stand behind a URL that is looked at as a whole: some readers take quotes and the like for its host's.
_CLOSED: Final = re.compile(r"[\"'`{}|\\^)\],.;:!?*_~\u2026]*(?![^\s<>])")
_BRACKETS: Final[Mapping[str, str]] = MappingProxyType({")": "(", "]": "["})
_ATOM: Final = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\-]"
_EMAIL: Final = re.compile(
    rf"(?<![\w!#$%&'*+/=?^`{{|}}~.\-@]){_ATOM}{{1,64}}(?:\.{_ATOM}{{1,64}}){{0,8}}"
    r"@(?:[A-Za-z0-9](?:[A-Za-z0-9\-]{0,61}[A-Za-z0-9])?\.){1,8}[A-Za-z]{2,63}(?![\w@\-]|\.\w)"
)
_IBAN: Final = re.compile(r"(?<![A-Za-z0-9])[A-Z]{2}[0-9]{2}")
# Lengths by country, from the IBAN registry of ISO 13616.
_IBAN_LENGTHS: Final[Mapping[str, int]] = MappingProxyType({
    country: length
    for length, countries in {
        15: "NO",
        16: "BE",
        18: "DK FI FK FO GL NL SD",
        19: "MK SI",
        20: "AT BA EE KZ LT LU MN XK",
        21: "CH HR LI LV",
        22: "BG BH CR DE GB GE IE ME RS VA",
        23: "AE GI IL IQ OM SO TL",
        24: "AD CZ ES MD PK RO SA SE SK TN VG",
        25: "LY PT ST",
        26: "IS TR",
        27: "BI DJ FR GR IT MC MR SM",
        28: "AL AZ BY CY DO GT HN HU LB NI PL SV",
        29: "BR EG PS QA UA",
        30: "JO KW MU YE",
        31: "MT SC",
        32: "LC",
        33: "RU",
    }.items()
    for country in countries.split()
})  # fmt: skip


def urls(text: str) -> Iterator[str]:
    """Yield every http, https and www. address of a text, without the punctuation behind it."""
    for found in _URL.finditer(text):
        url = _bare(found[0])
        if len(url) <= _MAX_URL:
            yield url


def without_urls(text: str, admits: Callable[[str], bool]) -> str:
    """Return a text with a sign in the place of every URL that is admitted; only whole ones are."""

    def shorten(found: re.Match[str]) -> str:
        url = _bare(found[0])
        alone = len(url) <= _MAX_URL and _CLOSED.match(text, found.end()) is not None
        return "|" + found[0][len(url) :] if alone and admits(url) else found[0]

    return _URL.sub(shorten, text)


def _bare(url: str) -> str:
    """A bracket at the end stays if it was opened inside: (https://a.example/b_(c)) ends in c)."""
    end, unopened = len(url), {last: url.count(last) - url.count(first) for last, first in _BRACKETS.items()}
    while end and (url[end - 1] in _TRAILING or unopened.get(url[end - 1], 0) > 0):
        end -= 1
        if url[end] in unopened:
            unopened[url[end]] -= 1
    return url[:end]


def emails(text: str) -> Iterator[str]:
    """Yield every mail address of a text, as it is written."""
    for found in _EMAIL.finditer(text):
        yield found[0]


def ibans(text: str) -> Iterator[str]:
    """Yield every IBAN of a text whose length and check digits are right, without its spaces."""
    for found in _IBAN.finditer(text):
        iban = _iban_at(text, found.start())
        if iban:
            yield iban


def _iban_at(text: str, at: int) -> str:
    length, letters = _IBAN_LENGTHS.get(text[at : at + 2], 0), ""
    while len(letters) < length and at < len(text):
        char = text[at]
        if not (char.isascii() and (char.isdigit() or char.isupper())) and (char != " " or text[at - 1] == " "):
            return ""
        letters += char.strip(" ")
        at += 1
    ends = at >= len(text) or not text[at].isalnum()
    return letters if length and len(letters) == length and ends and checked_iban(letters) else ""


def checked_iban(iban: str) -> bool:
    """Tell whether the check digits of an IBAN are right (ISO 7064, mod 97-10)."""
    return int("".join(str(int(char, 36)) for char in iban[4:] + iban[:4])) % 97 == 1


def lines(text: str) -> Iterator[str]:
    """Yield every line of a text without the white space around it."""
    for line in text.splitlines():
        if found := line.strip():
            yield found


_WORDS: Final[Mapping[str, Finder]] = MappingProxyType({"url": urls, "email": emails, "iban": ibans, "line": lines})


class Match(Struct, frozen=True):
    """`match`: the whole field, or what is found inside a text field.

    Args:
        word: whole, url, email, iban, line or regex.
        regex: for `regex`, an RE2 pattern; every place it is found.
        group: for `regex`, which of its groups is the candidate; 0 for all that matched.
    """

    word: str = _WHOLE
    regex: str = ""
    group: int = 0

    def __post_init__(self) -> None:
        if self.word == "regex":
            self.finder()
        elif (self.word != _WHOLE and self.word not in _WORDS) or self.regex or self.group:
            raise ConfigurationError(
                f"'match' is {_WHOLE}, {', '.join(_WORDS)} or {{regex: PATTERN, group: 1}}, not {self.word!r}"
            )

    def finder(self) -> Finder | None:
        """Return what finds the candidates in a text; None where the whole field is the only one."""
        if self.word == _WHOLE:
            return None
        return _WORDS[self.word] if self.word != "regex" else _regex_finder(self.regex, self.group)

    def form(self) -> Any:
        """Return it as it stands in a file."""
        if self.word != "regex":
            return self.word
        return {"regex": self.regex, **({"group": self.group} if self.group else {})}

    def __str__(self) -> str:
        return self.word if self.word != "regex" else f"regex {self.regex!r}"


WHOLE: Final = Match()


def match_of(said: object) -> Match:
    """Read what stands behind `match`.

    Raises:
        ConfigurationError: it is no word, no mapping with `regex`, or a pattern that does not compile.
    """
    if isinstance(said, Match):
        return said
    if isinstance(said, str) and said != "regex":
        return Match(str(said))
    if not isinstance(said, Mapping) or "regex" not in said or set(said) - {"regex", "group"}:
        raise ConfigurationError(f"'match' is {_WHOLE}, {', '.join(_WORDS)} or {{regex: PATTERN, group: 1}}")
    group = said.get("group", 0)
    if isinstance(group, bool) or not isinstance(group, int) or group < 0:
        raise ConfigurationError("'group' is the number of a group of the pattern, such as 1")
    regex = said["regex"]
    if isinstance(regex, FromParameter):
        from agentguard.intent.globs import re2_module

        regex = re2_module().escape(regex)
    return Match("regex", regex, group)


def _regex_finder(pattern: object, group: int) -> Finder:
    if not is_text(pattern):
        raise ConfigurationError("'regex' takes a pattern that is not empty")
    try:
        import re2
    except ImportError:
        raise ConfigurationError(
            "a regex needs RE2, which is linear whatever the text; install agentguard[re2]"
        ) from None
    options = re2.Options()
    options.log_errors = False
    try:
        compiled = re2.compile(pattern, options)
    except re2.error as error:
        raise ConfigurationError(f"no RE2 pattern: {_first_line(error)}") from None
    if group > compiled.groups:
        raise ConfigurationError(f"the pattern has {compiled.groups} groups, so there is no group {group}")

    def find(text: str) -> Iterator[str]:
        for found in compiled.finditer(text):
            if found[group]:
                yield found[group]

    return find


def _first_line(error: Exception) -> str:
    said = error.args[0] if error.args else ""
    text = said.decode("utf-8", "replace") if isinstance(said, bytes) else str(said)
    return text.splitlines()[0] if text else type(error).__name__
