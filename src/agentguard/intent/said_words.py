"""The kind `said`: the value stands, as whole words, in the words that the subject said themselves.

Good for names and phrases. Weak for identifiers: whoever wrote the words may have quoted an identifier from elsewhere.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Any, Final, Self

from agentguard.errors import ConfigurationError
from agentguard.intent.constraint import Constraint, Inner
from agentguard.intent.truth import CANNOT_TELL, FAIL, HOLD, Facts, Test, Truth, odd
from agentguard.model.call import ToolCall
from agentguard.model.canonical import is_nfc

# What joins a word to the next one: ann is no word of ann@acme.com, and 4711 is none of 4711-B or 4711.5.
_JOINED_BEFORE: Final = re.compile(r"[\w@./:\\\-+#&=%~_]\Z")
_JOINED_AFTER: Final = re.compile(r"[\w@/\\+#&=%~_\-]|[.:,](?=\w)")
_WORD: Final = re.compile(r"\w")


class Said(Constraint, frozen=True):
    """`said: true`: text that the subject said, word for word."""

    word = "said"

    @classmethod
    def read(cls, node: Any, inner: Inner) -> Self:
        if node is not True:
            raise ConfigurationError("'said' is true, or left out; for the opposite write not: {said: true}")
        return cls()

    def test(self, argument: str) -> Test:
        def judge(value: Any, call: ToolCall, facts: Facts) -> Truth:
            if type(value) is not str:
                return odd(value)
            if not is_nfc(value):
                return CANNOT_TELL
            if any(stands_in(value, words) for words in facts.heard):
                return HOLD
            return FAIL if facts.heard else CANNOT_TELL  # nothing was heard: nobody can tell what was not said

        return judge

    def form(self) -> Any:
        return {"said": True}

    def must(self) -> str:
        return "stand in what the subject said, word for word"


def _joined(words: str, start: int, end: int) -> bool:
    if _JOINED_BEFORE.search(words, max(0, start - 1), start) or _JOINED_AFTER.match(words, end):
        return True
    return _is_mark(words[end : end + 1]) or (start > 0 and _is_mark(words[start]))


def _is_mark(char: str) -> bool:
    """Tell whether a character belongs to the one before it: a vowel sign, an accent, a joiner."""
    return not char.isascii() and (char in "\u200c\u200d" or unicodedata.category(char)[0] == "M")


def stands_in(value: str, words: str) -> bool:
    """Tell whether a text stands in others as whole words; text without a letter or digit never does."""
    if value != value.strip() or not _WORD.search(value):
        return False
    at = words.find(value)
    while at >= 0:
        if not _joined(words, at, at + len(value)):
            return True
        at = words.find(value, at + 1)
    return False
