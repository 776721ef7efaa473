"""What `guard.explain()` returns: the last decisions, one line each."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Final

from msgspec import Struct
from msgspec.structs import replace

from agentguard.model.call import ToolCall
from agentguard.model.canonical import Canonical, Digest, canonical, number_text, readable
from agentguard.model.decision import Decision, Miss

if TYPE_CHECKING:
    from agentguard.audit.redaction import Redactor

_LONGEST: Final = 80
_MOST: Final = 1_000


class Recalled(Struct, frozen=True):
    """One decision, with who asked and the call where its values are kept."""

    decision: Decision
    who: Callable[[], str] | None = None
    call: ToolCall | None = None
    redactor: Redactor | None = None

    @property
    def chain(self) -> str:
        """`user:alice > support-bot`, or nothing where names are not kept."""
        return self.who() if self.who is not None else ""

    @property
    def values(self) -> str:
        """The call's values for a person, or nothing where they are not kept."""
        return shown_arguments(self.call, self.redactor) if self.call is not None else ""

    def __str__(self) -> str:
        what = " ".join(part for part in (str(self.decision.outcome), self.decision.tool, self.values) if part)
        if self.decision.permitted:
            return what
        return f"{what}: {self.decision.miss.text or self.decision.reason}"


@dataclass(frozen=True, slots=True)
class Explanation:
    """Decisions, oldest first; printed, one line each."""

    decisions: tuple[Recalled, ...]

    def __str__(self) -> str:
        return "\n".join(map(str, self.decisions))

    def __iter__(self) -> Iterator[Recalled]:
        return iter(self.decisions)

    def __len__(self) -> int:
        return len(self.decisions)


class RecentDecisions:
    """The last 1,000 decisions of one guard. Safe for concurrent use.

    Args:
        named: whether this guard may keep who asked, and the values of calls.
        redactor: takes personal data out of values that are shown.
    """

    def __init__(self, *, named: bool, redactor: Redactor | None = None) -> None:
        self._named, self._redactor = named, redactor
        self._kept: deque[Recalled] = deque(maxlen=_MOST)

    def keep(self, decision: Decision, who: Callable[[], str], call: ToolCall | None = None) -> None:
        """Keep a decision; who asked, and with which values, only where this guard may."""
        self._kept.append(Recalled(decision, who, call, self._redactor) if self._named else Recalled(decision))

    def keep_unnamed(self, decision: Decision) -> None:
        """Keep a denial that no chain stands behind; its text, which can name somebody, only where this guard may."""
        self._kept.append(Recalled(decision if self._named else replace(decision, miss=Miss())))

    def explanation(self) -> Explanation:
        """Return what is kept, as it is now."""
        return Explanation(tuple(self._kept))


def shown_arguments(call: ToolCall, redactor: Redactor | None = None) -> str:
    """The values of a call for a person, in the tool's order; defaults left out, secret arguments masked."""
    return " ".join(
        "***" if name in call.spec.secret else shown(_redacted(redactor, name, value))
        for name, value in call.arguments.items()
        if name in call.given
    )


def _redacted(redactor: Redactor | None, name: str, value: Canonical) -> Canonical:
    """Redacted as a whole, and cut after that: what is cut off first is recognised by no pattern."""
    return canonical(redactor.member(name, readable(value))) if redactor is not None else value


def shown(value: Canonical) -> str:
    """One value, short, on one line and without control characters."""
    if isinstance(value, Decimal):
        return number_text(value)
    text = value.sha256 if isinstance(value, Digest) else value if isinstance(value, str) else _structure(value)
    text = "".join(char if char.isprintable() else "?" for char in text)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def _structure(value: Canonical) -> str:
    if isinstance(value, tuple):
        return "[" + ", ".join(map(shown, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {shown(item)}" for key, item in value.items()) + "}"
    return "null" if value is None else str(value).lower()
