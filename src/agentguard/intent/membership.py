"""Being one of some values: exactly, or without regard to case."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from decimal import Decimal
from typing import Any

from agentguard.intent.literal import comparable
from agentguard.intent.truth import CANNOT_TELL, FAIL, HOLD, MISSING, Facts, Test, Truth
from agentguard.model.call import ToolCall
from agentguard.model.canonical import Canonical, is_nfc, same


def folded(text: str) -> str:
    """Return text without its case, in NFC (Unicode 3.13, full case folding)."""
    return unicodedata.normalize("NFC", text.casefold())


def membership(values: Iterable[Canonical]) -> Test:
    """Return the test for being one of some values; Python's `==` is not used across types, as True == 1 there."""
    values = tuple(values)
    texts = frozenset(value for value in values if isinstance(value, str))
    numbers = frozenset(value for value in values if isinstance(value, Decimal))
    others = tuple(value for value in values if not isinstance(value, str | Decimal))

    def judge(value: Any, call: ToolCall, facts: Facts) -> Truth:
        kind = type(value)
        if kind is str:
            if value in texts:
                return HOLD
            return FAIL if value.isascii() or is_nfc(value) else CANNOT_TELL
        if kind is Decimal:
            return HOLD if value in numbers else FAIL
        if value is MISSING:
            return FAIL
        if any(same(value, other) for other in others):
            return HOLD
        return FAIL if comparable(value) else CANNOT_TELL

    return judge


def folded_membership(values: Iterable[str]) -> Test:
    """Return the test for being one of some texts, whatever their case."""
    texts = frozenset(map(folded, values))

    def judge(value: Any, call: ToolCall, facts: Facts) -> Truth:
        if type(value) is not str:
            return FAIL if value is MISSING or comparable(value) else CANNOT_TELL
        if not is_nfc(value):
            return CANNOT_TELL
        return HOLD if folded(value) in texts else FAIL

    return judge
