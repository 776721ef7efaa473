"""A file that was read, where each part of it stands, and its mistakes: all of them at once, each with its line."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, TypeAlias

from msgspec import Struct

from agentguard.errors import ConfigurationError

Path: TypeAlias = tuple[str | int, ...]

_BARE_KEY: Final = re.compile(r"[^\s.\[\]\"'\x00-\x1f]+")


class Document(Struct, frozen=True):
    """What a file holds, and where each part of it stands.

    Args:
        tree: dict, list, str, bool, None, int or Decimal.
        file: the file's name, as error messages show it.
        lines: line and column, from 1, of every node; for an entry of a mapping those of its key.
    """

    tree: Any
    file: str
    lines: Mapping[Path, tuple[int, int]]

    def __repr__(self) -> str:
        return f"Document(tree={self.tree!r}, file={self.file!r})"

    def position(self, path: Path) -> tuple[int, int]:
        """Return line and column of a path, or of its nearest ancestor that is in the file."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, (1, 1))

    def where(self, path: Path) -> str:
        """Return `file:line: a.b[0]`."""
        place = f"{self.file}:{self.position(path)[0]}"
        return f"{place}: {path_text(path)}" if path else place


def path_text(path: Path) -> str:
    """Return a path as people write it: `agents.bot.tools[0]`; a key with a dot or a space stands in quotes."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            key = part if _BARE_KEY.fullmatch(part) else _quoted(part)
            text += f".{key}" if text else key
    return text


def _quoted(key: str) -> str:
    import json

    return json.dumps(key)


class Problems:
    """Collects the mistakes of a file, so that its author sees all of them at once."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._found: list[tuple[int, int, str]] = []
        self._elsewhere: list[str] = []

    def add(self, path: Path, text: str) -> None:
        """Note a mistake at a path; `text` says what is wrong and what to write instead."""
        self.add_at(self._document.position(path), path, text)

    def add_at(self, position: tuple[int, int], path: Path, text: str) -> None:
        """Note a mistake at a line and column of its own."""
        where = f"{path_text(path)}: " if path else ""
        self._found.append((*position, f"{self._document.file}:{position[0]}: {where}{text}"))

    def include(self, path: Path, error: ConfigurationError) -> None:
        """Note the mistakes of another file that this one names at `path`."""
        if error.problems:
            self._elsewhere += error.problems
        else:
            self.add(path, str(error))

    def __len__(self) -> int:
        return len(self._found) + len(self._elsewhere)

    def __bool__(self) -> bool:
        return bool(len(self))

    def raise_if_any(self, headline: str) -> None:
        """Raise all mistakes in one error, sorted by line.

        Raises:
            ConfigurationError: there is at least one.
        """
        if self:
            own = [text for _, _, text in sorted(self._found, key=lambda found: found[:2])]
            raise ConfigurationError(headline, (*own, *self._elsewhere))


def nearest(word: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` for the known word that is most like this one, or nothing."""
    import difflib

    close = difflib.get_close_matches(word, list(known), 1)
    return f"; did you mean {close[0]!r}?" if close else ""
