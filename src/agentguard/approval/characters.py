"""Text as a person can trust to see it: what is invisible, or moves what stands beside it, is shown as an escape.

INVARIANT: whatever comes out holds printable characters only and no line break; in quotes, nothing that was not escaped
looks like an escape, so two texts that differ are shown differently.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from typing import Final

LONGEST: Final = 256  # characters of one text that are shown
_MOST_NAMED: Final = 4
_MOST_MARKS: Final = 3  # combining marks on one character; more of them cover the lines above and below
_PLAIN: Final = re.compile(r"[ -~]*")
_MARKS: Final = frozenset({"Mn", "Mc", "Me"})
_MOVING: Final = frozenset({"R", "AL", "AN"})  # written from right to left: digits and quotes beside it change places
_UNSEEN: Final = frozenset({"Cc", "Cf", "Zl", "Zp"})
_SHORT: Final = {"\n": r"\n", "\r": r"\r", "\t": r"\t", "\\": r"\\", '"': r"\""}
# What is blank although its category says otherwise: Default_Ignorable_Code_Point of Unicode, and blank symbols.
_BLANK: Final = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2065\u2800\u3164\ufe00-\ufe0f\uffa0\ufff0-\ufff8"
    "\U00016fe4\U0001d159\U000e0000-\U000e0fff]"
)


def is_shown(char: str) -> bool:
    """Tell whether a character may stand in what a person reads; a combining mark may, after what it belongs to."""
    if " " <= char <= "~":
        return True
    if unicodedata.category(char)[0] in "CZ" or unicodedata.bidirectional(char) in _MOVING:
        return False
    return not _BLANK.match(char)


def visible(text: str) -> str:
    """Return text without what nobody sees in it: what two names differ by that a person takes for one."""
    return "".join(char for char in text if unicodedata.category(char) not in _UNSEEN and not _BLANK.match(char))


def plain(text: str) -> str:
    """Return text on one line; what must not be shown stands there by its number, as U+202E would in braces.

    Quotes and backslashes stay as they are, so it is for text of which a reader need not tell where it ends.
    """
    return text if _PLAIN.fullmatch(text) else "".join(_each(text, frozenset('"\\')))


def quoted(text: str) -> str:
    """Return text in quotes, with what a person has to know of it: other than ASCII, cut, how long, which SHA-256."""
    shown = text[:LONGEST]
    inner = "".join(_each(shown, frozenset()))
    notes = [_not_ascii(text)]
    if len(text) > LONGEST:
        inner += "..."
        notes.append(f"{len(text):,} characters, {sha256_of(text)}")
    said = "; ".join(note for note in notes if note)
    return f'"{inner}" ({said})' if said else f'"{inner}"'


def sha256_of(text: str) -> str:
    """`sha256:` and the digest of a text in UTF-8."""
    return "sha256:" + hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _each(text: str, kept: frozenset[str]) -> list[str]:
    shown: list[str] = []
    marks = _MOST_MARKS  # nothing stands before the first character that a mark could belong to
    for char in text:
        if unicodedata.category(char) in _MARKS:
            marks += 1
        else:
            marks = 0 if is_shown(char) and char != " " else _MOST_MARKS
        if marks > _MOST_MARKS or not is_shown(char) or (char in _SHORT and char not in kept):
            shown.append(_SHORT.get(char, f"\\u{{{ord(char):x}}}"))
        else:
            shown.append(char)
    return shown


def _not_ascii(text: str) -> str:
    """Say which characters are no ASCII ones, so that a Cyrillic a is noticed; escapes are noticed by themselves."""
    if text.isascii():
        return ""
    distinct = dict.fromkeys(text)
    others = [char for char in distinct if not char.isascii() and is_shown(char)]
    if not others:
        return ""
    names = [f"U+{ord(char):04X} {unicodedata.name(char, 'without a name')}" for char in others[:_MOST_NAMED]]
    more = [f"{len(others) - _MOST_NAMED:,} more"] if len(others) > _MOST_NAMED else []
    scripts = sorted({_script(char) for char in distinct if char.isalpha() and is_shown(char)})
    mixed = f", mixed scripts {' and '.join(scripts[:_MOST_NAMED])}" if len(scripts) > 1 else ""
    form = "" if unicodedata.is_normalized("NFC", text) else ", not in NFC"
    return f"not ASCII{mixed}{form}: {', '.join([*names, *more])}"


def _script(letter: str) -> str:
    """The first word of a letter's name; Python knows no scripts, and for a notice the word does."""
    return unicodedata.name(letter, "UNNAMED").partition(" ")[0].partition("-")[0]
