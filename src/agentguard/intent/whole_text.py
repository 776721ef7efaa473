"""What kinds that judge a whole text share: the values they refuse to judge, and how long a value may be."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

from agentguard.intent.truth import CANNOT_TELL, Facts, Test, Truth, odd
from agentguard.model.call import ToolCall
from agentguard.model.canonical import is_nfc

# A longer path, URL or name cannot be told, so that no input makes a check slow.
LONGEST: Final = 4096
CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
# Percent-encoded `.`, `/`, `\`, `%` and NUL: what stands there depends on who decodes it, and how often.
ENCODED: Final = re.compile(r"%(?:2e|2f|5c|25|00)", re.IGNORECASE)
# `.` and `..`, and what servers that cut path parameters take for them.
DOTS: Final = re.compile(r"\.{1,2}(?:;.*)?", re.DOTALL)


def text_test(judge: Callable[[str], Truth], longest: int = LONGEST) -> Test:
    """Return a test of a whole text; what is no text, not in NFC or too long cannot be told."""

    def test(value: Any, call: ToolCall, facts: Facts) -> Truth:
        if type(value) is not str:
            return odd(value)
        return judge(value) if len(value) <= longest and is_nfc(value) else CANNOT_TELL

    return test
