"""The strict YAML reader: what a person sees in the file is what is read, and every mistake has a line.

YAML 1.2 (section 10.3) core scalars, narrowed to what cannot be misread: only `true`, `false` and `null` are words of
the language, numbers have JSON's grammar, and everything else is text. So `on`, `yes`, `2027-03-31`, `0x1f`, `007` and
`+49` are text and lose nothing.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator
from decimal import Decimal, InvalidOperation
from pathlib import Path as FilePath
from typing import Any, Final

import yaml

from agentguard.errors import ConfigurationError, NotCanonical
from agentguard.intent.document import Document, Path, Problems, nearest, path_text
from agentguard.model.canonical import MAX_BYTES, MAX_DEPTH, number

__all__ = ["Document", "Path", "Problems", "nearest", "path_text", "read_strict", "read_strict_file"]

_TOO_LARGE: Final = "the file is larger than 1 MiB"
_NUMBER: Final = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?")
_WORDS: Final[dict[str, bool | None]] = {"true": True, "false": False, "null": None}
# Controls, the line breaks that YAML 1.1 and 1.2 disagree about, bidirectional controls, surrogates, a BOM inside.
_CONTROLS: Final = r"\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufeff\ufffe\uffff"
_UNSEEN: Final = re.compile(f"[{_CONTROLS}]")
_UNSEEN_OR_TAB: Final = re.compile(f"[\t{_CONTROLS}]")


def read_strict_file(path: os.PathLike[str] | str) -> Document:
    """Read one YAML file of at most 1 MiB, in UTF-8.

    Raises:
        ConfigurationError: it cannot be read, or `read_strict` refuses it.
    """
    name = os.fspath(path)
    try:
        with FilePath(path).open("rb") as source:
            content = source.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise ConfigurationError(f"{name}: {_TOO_LARGE}")
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigurationError(f"{name}:{line}: this is not UTF-8; save the file as UTF-8") from None
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{name}: the file cannot be read: {getattr(error, 'strerror', error)}") from error
    return read_strict(text, name)


def read_strict(text: str, file: str) -> Document:
    """Read YAML text strictly.

    Args:
        text: one YAML document, at most 1 MiB.
        file: the name to show in errors.

    Raises:
        ConfigurationError: with every mistake found: syntax, duplicate or non-text keys, anchors, aliases, tags, merge
            keys, directives, a second document, empty values, depth over 32, tabs, control or bidirectional characters.
    """
    reader = _Reader(file)
    reader.read(text)
    reader.problems.raise_if_any(f"{file} cannot be read:")
    return Document(reader.tree, file, reader.lines)


class _Stop(Exception):
    """The rest of the file cannot be read sensibly."""


class _Reader:
    """Builds the tree from PyYAML's event stream: no constructor, no resolver, no recursion deeper than 32."""

    def __init__(self, file: str) -> None:
        self.tree: Any = None
        self.lines: dict[Path, tuple[int, int]] = {}
        self.problems = Problems(Document(None, file, self.lines))

    def read(self, text: str) -> None:
        if len(text) > MAX_BYTES or len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
            return self.problems.add((), _TOO_LARGE)
        self._characters(text)
        if self.problems:
            return None
        try:
            self._documents(yaml.parse(text, Loader=yaml.SafeLoader))
        except _Stop:
            pass
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            context = f" {error.context}" if error.context else ""
            self.problems.add_at(_position(mark), (), f"this is not YAML: {error.problem}{context}")
        except (yaml.YAMLError, ValueError) as error:
            self.problems.add((), f"this is not YAML: {error}")
        return None

    def _characters(self, text: str) -> None:
        for index, line in enumerate(text.split("\n"), 1):
            if bad := _UNSEEN_OR_TAB.search(line.removesuffix("\r")):
                why = f'{_char(bad[0])} in the file; write spaces, or an escape such as "\\t" inside double quotes'
                self.problems.add_at((index, bad.start() + 1), (), why)

    def _documents(self, events: Iterator[Any]) -> None:
        self.events = events
        started = False
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                if started:
                    self._refuse(event, (), "a second document; write one document a file")
                    raise _Stop
                if event.version or event.tags:
                    self._refuse(event, (), "a directive (%YAML, %TAG); leave it out")
                started = True
            elif isinstance(event, yaml.NodeEvent):
                self.tree = self._node(event, (), 0)
        if not started:
            self.problems.add((), "the file is empty")

    def _refuse(self, event: Any, path: Path, why: str) -> None:
        self.problems.add_at(_position(event.start_mark), path, why)

    def _node(self, event: Any, path: Path, depth: int) -> Any:
        self.lines.setdefault(path, _position(event.start_mark))
        if isinstance(event, yaml.AliasEvent):
            self._refuse(event, path, f"an alias (*{event.anchor}); write the value out")
            return None
        self._unmarked(event, path)
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event, path)
        if depth >= MAX_DEPTH:
            self._refuse(event, path[:4], f"nested deeper than {MAX_DEPTH} levels")
            raise _Stop
        return (self._sequence if isinstance(event, yaml.SequenceStartEvent) else self._mapping)(path, depth + 1)

    def _unmarked(self, event: Any, path: Path) -> None:
        if event.anchor is not None:
            self._refuse(event, path, f"an anchor (&{event.anchor}); leave it out")
        if event.tag is not None:
            self._refuse(event, path, f"a tag ({event.tag}); leave it out, and quote text that looks like a number")

    def _sequence(self, path: Path, depth: int) -> list[Any]:
        items: list[Any] = []
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            items.append(self._node(event, (*path, len(items)), depth))
        return items

    def _mapping(self, path: Path, depth: int) -> dict[str, Any]:
        entries: dict[str, Any] = {}
        first: dict[str, int] = {}  # by NFC form: two keys that look the same are the same
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            key = self._key(event, path, depth)
            value = self._node(next(self.events), path if key is None else (*path, key), depth)
            if key is None:
                continue
            form = unicodedata.normalize("NFC", key)
            if form in first:
                self._refuse(event, (*path, key), f"the key is there twice, first on line {first[form]}")
            else:
                first[form] = event.start_mark.line + 1
                entries[key] = value
        return entries

    def _key(self, event: Any, path: Path, depth: int) -> str | None:
        if not isinstance(event, yaml.ScalarEvent):
            self._node(event, path, depth)
            self._refuse(event, path, "a key that is no text; write a word as the key")
            return None
        self._unmarked(event, path)
        key = event.value
        if event.style is None and key == "<<":
            self._refuse(event, path, "a merge key (<<); write the entries out")
            return None
        if not isinstance(self._resolved(event, path), str):
            self._refuse(event, path, f'the key {key!r} is no text; write it in quotes: "{key}"')
            return None
        self.lines.setdefault((*path, key), _position(event.start_mark))
        return key

    def _scalar(self, event: Any, path: Path) -> Any:
        if event.style is None and event.value == "":
            return self._refuse(event, path, 'an empty value; write null, "", [] or {}')
        return self._resolved(event, path)

    def _resolved(self, event: Any, path: Path) -> Any:
        text = event.value
        if bad := _UNSEEN.search(text):
            self._refuse(event, path, f"{_char(bad[0])} in the text; leave it out")
        if event.style is not None:
            return text
        if text in _WORDS or not text:
            return _WORDS.get(text)
        match = _NUMBER.fullmatch(text)
        if not match:
            return text
        try:
            value = number(Decimal(text))
        except (InvalidOperation, NotCanonical):
            return self._refuse(event, path, "a number out of range; put text in quotes")
        return value if match[2] or match[3] else int(value)


def _position(mark: Any) -> tuple[int, int]:
    return (mark.line + 1, mark.column + 1) if mark else (1, 1)


def _char(char: str) -> str:
    return "a tab" if char == "\t" else f"the character U+{ord(char):04X}"
