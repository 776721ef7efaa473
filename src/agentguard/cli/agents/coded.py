"""What `agents check` can find: stable codes, each with how bad it is."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path as FilePath
from types import MappingProxyType
from typing import Any, Final

from agentguard.cli.findings import Placed, placed, told
from agentguard.intent.document import Document, Path
from agentguard.intent.lint import Finding, Level


class Code(StrEnum):
    """Stable codes of findings."""

    INVALID = "invalid"
    OWNERLESS = "ownerless"
    EXPIRED = "expired"
    HAND_ON_UNREGISTERED = "hand-on-unregistered"
    CEILING_MISSING = "ceiling-missing"
    CEILING_WRONG = "ceiling-wrong"
    PURPOSE_CHANGED = "purpose-changed"
    EXPIRING = "expiring"
    SUSPENDED = "suspended"
    RETIRED = "retired"
    HAND_ON_STOPPED = "hand-on-stopped"
    HAND_ON_USELESS = "hand-on-useless"
    HAND_ON_CYCLE = "hand-on-cycle"
    CEILING_UNUSED = "ceiling-unused"
    CEILING_STEP_UNUSED = "ceiling-step-unused"
    UNKNOWN_TOOL = "unknown-tool"
    NO_TOOLS_LIMIT = "no-tools-limit"
    NO_IDENTITY = "no-identity"
    IDENTITY_UNPROVABLE = "identity-unprovable"
    PURPOSE_UNKNOWN = "purpose-unknown"
    UNATTENDED_WRITE = "unattended-write"
    APPROVAL_UNSHARED = "approval-unshared"
    UNKNOWN = "unknown"


_ERRORS: Final = frozenset({
    Code.INVALID, Code.OWNERLESS, Code.EXPIRED, Code.HAND_ON_UNREGISTERED, Code.CEILING_MISSING, Code.CEILING_WRONG,
    Code.PURPOSE_CHANGED,
})  # fmt: skip
LEVELS: Final = MappingProxyType(
    {code: Level.ERROR if code in _ERRORS else Level.WARNING for code in Code} | {Code.UNKNOWN: Level.NOTE}
)


@dataclass(frozen=True, slots=True)
class Coded(Placed):
    """A finding at its line, with its code; people read the code behind the text."""

    code: Code

    def members(self) -> dict[str, Any]:
        """What a program reads."""
        found = Placed.members(self)
        return {**found, "code": self.code, "message": str(found["message"]).removesuffix(f" [{self.code}]")}


def coded(document: Document, code: Code, path: Path, text: str, instead: str = "") -> Coded:
    """A finding at a path of a file, or at the nearest part above it that is there."""
    return _with_code(placed(document, Finding(LEVELS[code], path, text, instead)), code)


def told_as(code: Code, text: str, file: FilePath, document: Document | None) -> Coded:
    """A mistake that a loader told as `file:line: path: what; what to write`."""
    return _with_code(told(text, file, document), code)


def at_file(code: Code, file: FilePath, text: str, instead: str = "") -> Coded:
    """A finding about a file as a whole."""
    return _with_code(Placed(str(file), 1, 0, 0, Finding(LEVELS[code], (), text, instead)), code)


def _with_code(item: Placed, code: Code) -> Coded:
    found = item.finding
    shown = Finding(LEVELS[code], found.path, f"{found.text} [{code}]", found.instead)
    return Coded(item.file, item.line, item.column, item.width, shown, code)
