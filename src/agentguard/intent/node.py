"""One place of a file that was read: its readers return a value, or note a mistake where it stands and go on."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any, Final

from agentguard.errors import ConfigurationError
from agentguard.intent.document import Path, Problems, nearest
from agentguard.model.duration import seconds

_DATE: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_NONE: Final[Mapping[str, str]] = MappingProxyType({})


class Node:
    """One place of the file. A reader returns the value, or notes a mistake and returns something harmless."""

    __slots__ = ("path", "problems", "value")

    def __init__(self, problems: Problems, path: Path, value: Any) -> None:
        self.problems, self.path, self.value = problems, path, value

    def refuse(self, why: str) -> None:
        self.problems.add(self.path, why)

    def at(self, key: str | int, value: Any) -> Node:
        return Node(self.problems, (*self.path, key), value)

    def named(self, example: str) -> dict[str, Node]:
        """The entries of a mapping whose keys are names."""
        if isinstance(self.value, dict) and self.value:
            return {key: self.at(key, value) for key, value in self.value.items()}
        self.refuse(f"write a mapping, such as {example}")
        return {}

    def fields(self, *needed: str, optional: Iterable[str] = (), unbuilt: Mapping[str, str] = _NONE) -> dict[str, Node]:
        """The entries of a mapping whose keys are known.

        Args:
            needed: keys that must be there.
            optional: keys that may be there.
            unbuilt: keys that are known but cannot be used yet, each with what to write meanwhile.
        """
        known = tuple(dict.fromkeys((*needed, *optional)))
        entries = self.named("{" + ", ".join(f"{key}: ..." for key in needed or known[:1]) + "}")
        for key, node in entries.items():
            if key in unbuilt:
                node.refuse(f"this key is known, but what it needs is not built yet; meanwhile {unbuilt[key]}")
            elif key not in known:
                guess = nearest(key, (*known, *unbuilt)) or f"; known are {', '.join(known)}"
                node.refuse(f"unknown key {key!r}{guess}")
        if entries:
            for key in needed:
                if key not in entries:
                    self.at(key, None).refuse("this key is missing")
        return {key: node for key, node in entries.items() if key in known}

    def text(self, what: str = "text") -> str:
        if isinstance(self.value, str) and self.value.strip():
            return self.value
        self.refuse(
            f"write {what}" + ("" if self.value is None or isinstance(self.value, str) else "; put it in quotes")
        )
        return ""

    def word(self, *known: str) -> str:
        """One of a few words; the first where it is none of them."""
        if isinstance(self.value, str) and self.value in known:
            return self.value
        self.refuse(f"write {' or '.join(known)}" + nearest(str(self.value), known))
        return known[0]

    def flag(self) -> bool:
        if isinstance(self.value, bool):
            return self.value
        self.refuse("write true or false")
        return False

    def items(self, what: str, *, empty: str = "") -> list[Node]:
        """The elements of a list; with `empty` an empty list is a mistake, and that says what to write instead."""
        if not isinstance(self.value, list):
            self.refuse(f"write a list of {what}: [...]")
            return []
        if empty and not self.value:
            self.refuse(f"an empty list; {empty}")
        return [self.at(index, value) for index, value in enumerate(self.value)]

    def whole(self, low: int, high: int, default: int) -> int:
        if type(self.value) is int and low <= self.value <= high:
            return self.value
        self.refuse(f"write {low}" if low == high else f"write a whole number from {low} to {high}")
        return default

    def seconds(self, most: float, default: float) -> float:
        try:
            found = seconds(self.value) if isinstance(self.value, str) else 0.0
        except ConfigurationError:
            found = 0.0
        if 0 < found <= most:
            return found
        self.refuse(f"write a duration such as 10s, 30m, 1h or 2d, at most {most / 3600:.0f}h")
        return default

    def instant(self, *, end: bool) -> float | None:
        """A date (its start or its end, in UTC) or a time with its zone, in seconds since the epoch."""
        try:
            if _DATE.fullmatch(self.value):
                day = datetime.strptime(self.value, "%Y-%m-%d").replace(tzinfo=UTC)
                return (day + timedelta(days=end)).timestamp()
            moment = datetime.fromisoformat(self.value)
            if moment.tzinfo is not None:
                return moment.timestamp()
        except (TypeError, ValueError, OverflowError):
            pass
        self.refuse("write a date (2027-03-31) or a time with its zone (2027-03-31T12:00:00Z)")
        return None
