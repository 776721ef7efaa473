"""Mistakes, collected: an author sees all of them at once, each with the path of where it stands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from agentguard.errors import ConfigurationError

if TYPE_CHECKING:
    from agentguard.intent.document import Path

T = TypeVar("T")


class Mistakes(ConfigurationError):
    """Several mistakes, each with the path of where it stands."""

    def __init__(self, headline: str, found: Sequence[tuple[Path, str]]) -> None:
        from agentguard.intent.document import path_text

        self.found = tuple(found)
        super().__init__(headline, tuple(f"{path_text(path)}: {text}" if path else text for path, text in found))


class Notes:
    """Collects mistakes while values are made."""

    def __init__(self) -> None:
        self.found: list[tuple[Path, str]] = []

    def add(self, path: Path, text: str) -> None:
        """Note a mistake; `text` says what is wrong and what to write instead."""
        self.found.append((path, text))

    def take(self, path: Path, make: Callable[[], T], otherwise: T) -> T:
        """Return what `make` makes; if it is a mistake, note it at the path and return `otherwise`."""
        try:
            return make()
        except Mistakes as error:
            self.found += [((*path, *inner), text) for inner, text in error.found]
        except ConfigurationError as error:
            self.add(path, str(error))
        return otherwise

    def raise_if_any(self, headline: str) -> None:
        """Raise all of them in one error."""
        if self.found:
            raise Mistakes(headline, self.found)
