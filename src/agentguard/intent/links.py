"""The link detector: what counts as a link in free text. It is published, so that authors can know what it stops.

It looks at three copies of the text: as it is, folded (NFKC, without case and without characters that domain names
ignore), and folded once more after one percent-decoding; and at three of what Markdown and HTML read in it: character
references as the characters, no backslash before punctuation, no tab and no line break inside a tag. In each a link is

- `scheme://`, and `http:`, `https:`, `ftp:`, `mailto:`, `javascript:` or `vbscript:` whatever follows, and `tel:`,
  `sms:`, `data:`, `file:`, `blob:` and their like before a character that is no space;
- `www.` before a word; a label in punycode (`xn--`);
- a word or an emoji, a dot and a known top-level domain (`tlds.py`), unless it is the host of an address in the form
  ann@acme.com that no two slashes stand before;
- a defanged form: `hxxp`, `[.]`, and `(.)`, `{.}`, `[dot]` or `(dot)` between two words.

A run of more than 30 combining marks counts as one too: no language has it, and normalising it takes quadratic time
(Unicode 15.1, UAX #15 section 13, Stream-Safe Text Format).

INVARIANT: the time is linear in the length of the text; every pattern is bounded or anchored on a fixed text.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final
from urllib.parse import unquote

from agentguard.intent.tlds import top_level_domains

_MAX_MARKS: Final = 30
_MAX_HOST: Final = 253
_IGNORED: Final = re.compile(
    "[\u00ad\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2060-\u2064\u3164\ufe00-\ufe0f\ufeff\uffa0\U000e0000-\U000e0fff]"
)
_SIGNS: Final = (
    ("scheme", re.compile(r"(?<=[a-z0-9+.\-])://|https?:|ftps?:|mailto:|javascript:|vbscript:")),
    (
        "scheme",
        re.compile(r"(?<!\w)(?:tel|sms|data|file|blob|view-source|intent|geo|facetime|skype|magnet|market):(?=\S)"),
    ),
    ("www", re.compile(r"(?<!\w)www[0-9]?\.(?=\w)")),
    ("punycode", re.compile(r"(?<!\w)xn--(?=[a-z0-9])")),
    ("defanged", re.compile(r"hxxp|\[\.\]|(?<=\w)(?:\(\.\)|\{\.\}|\[dot\]|\(dot\)|\{dot\})(?=\w)")),
)
# Letters, digits and the vowel signs and marks that top-level domains of other scripts hold.
_LETTER: Final = r"\w\u0300-\u036f\u064b-\u065f\u0900-\u0dff\u0e00-\u0eff"
# What a label may end in: besides, the vowel signs and marks of every script, and emoji, which some registries take.
_LABEL_END: Final = rf"{_LETTER}\-\u0300-\u1fff\u20d0-\u20ff\u2300-\u2bff\ua000-\ufe0f\U00010000-\U0001ffff"
_DOTTED: Final = re.compile(rf"(?<=[{_LABEL_END}])\.(xn--[a-z0-9\-]{{1,59}}|[{_LETTER}]{{2,24}})(?![{_LETTER}])")
_ADDRESS: Final = re.compile(r"[\w.+\-]@(?:[\w\-]{1,63}\.){0,126}[\w\-]{1,63}")
# What makes a mail address the start of something else: a path, a port or a query.
_CONTINUES: Final = re.compile(r"/\S|:[0-9]|\?\w")
# What makes it the user of a URL without a scheme; browsers read a backslash as a slash.
_USER_OF_URL: Final = re.compile(r"[/\\]{2}[^\s/\\?#]*\Z")
_REFERENCE: Final = re.compile(r"&(?:#0*[0-9]{1,7}|#[xX]0*[0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});?")
_ESCAPED: Final = re.compile(r"\\([!-/:-@\[-`{-~])")
_TAG: Final = re.compile(r"<[A-Za-z/][^<>]*")
_DROPPED: Final = str.maketrans("", "", "\t\n\r")  # what a URL loses (WHATWG URL, section 4.4)
_HTTPS: Final = re.compile(r"(?<![\w+.\-])https://([a-z0-9.\-]{1,253}?)(?=[)\]>\"',;.!?]{0,8}(?:\s|\Z)|/)")


def find_link(text: str, hosts: frozenset[str] = frozenset()) -> str:
    """Return what kind of link text holds, or nothing.

    Args:
        text: in NFC.
        hosts: exact hosts to which https links may stand in the text.
    """
    read = _read(text)
    if not _stream_safe(text) or not _stream_safe(read):
        return "marks"
    for copy in dict.fromkeys((*_copies(text), *(_copies(read) if read != text else ()))):
        rest = _HTTPS.sub(lambda link: "|" if link[1] in hosts else link[0], copy) if hosts else copy
        if found := _find(rest):
            return found
    return ""


def _read(text: str) -> str:
    """Return what Markdown and HTML read in a text, without regard to where in it each of them would."""
    if "&" in text:
        from html import unescape

        text = _REFERENCE.sub(lambda found: unescape(found[0]).translate(_DROPPED), text)
    if "\\" in text:
        text = _ESCAPED.sub(r"\1", text)
    return _TAG.sub(lambda tag: tag[0].translate(_DROPPED), text) if "<" in text else text


def _copies(text: str) -> tuple[str, ...]:
    plain = text.lower()
    folded = plain if text.isascii() else _fold(text)
    decoded = unquote(folded, errors="replace") if "%" in folded else folded
    if decoded is not folded:
        decoded = _fold(decoded) if _stream_safe(decoded) else "[.]"
    return tuple(dict.fromkeys((plain, folded, decoded)))


def _fold(text: str) -> str:
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return _IGNORED.sub("", folded).replace("\u3002", ".")  # the full stop of Chinese is a dot in domain names


def _find(copy: str) -> str:
    for name, sign in _SIGNS:
        if sign.search(copy):
            return name
    known = top_level_domains()
    for dot in _DOTTED.finditer(copy):
        if dot[1] in known and not _in_address(copy, dot.start(), dot.end()):
            return "host"
    return ""


def _in_address(copy: str, dot: int, end: int) -> bool:
    """Tell whether the host that ends here belongs to an address in the form ann@acme.com."""
    start = copy.rfind("@", max(0, dot - _MAX_HOST), dot)
    if start <= 0 or not _ADDRESS.fullmatch(copy, start - 1, dot) or _CONTINUES.match(copy, end):
        return False
    return not _USER_OF_URL.search(copy, max(0, start - _MAX_HOST), start)


def _stream_safe(text: str) -> bool:
    if text.isascii():
        return True
    marks = [char for char in set(text) if not char.isascii() and _is_mark(char)]
    if not marks:
        return True
    return not re.search(f"[{''.join(map(re.escape, marks))}]{{{_MAX_MARKS + 1}}}", text)


def _is_mark(char: str) -> bool:
    return any(unicodedata.combining(part) for part in unicodedata.normalize("NFKD", char)[:1])
