"""Readers that the parts of `agentguard.yaml` are put together from; a mistake is noted where it stands."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any, TypeAlias

from agentguard.intent.node import Node

Read: TypeAlias = Callable[[Node, FilePath], Any]
Fields: TypeAlias = Mapping[str, Read]


@dataclass(frozen=True, slots=True)
class SecretSource:
    """Where a secret is found: the name of an environment variable, or a file."""

    env: str = ""
    file: FilePath | None = None


def file_of(node: Node, base: FilePath) -> FilePath | None:
    """A file, relative to the configuration."""
    name = node.text("the name of a file")
    return base / name if name else None


def secret_of(node: Node, base: FilePath) -> SecretSource:
    """Where a secret is: never the secret."""
    if not isinstance(node.value, dict) or len(node.value) != 1:
        # The value itself may be the secret, so the text does not repeat it.
        node.refuse("write where the secret is, never the secret: {env: NAME} or {file: PATH}")
        return SecretSource()
    found = node.fields(optional=("env", "file"))
    if "env" in found:
        return SecretSource(env=found["env"].text("the name of an environment variable"))
    return SecretSource(file=file_of(found["file"], base) if "file" in found else None)


def text(what: str) -> Read:
    """A reader of text."""
    return lambda node, base: node.text(what)


def texts(what: str) -> Read:
    """A reader of a list of texts."""
    return lambda node, base: tuple(item.text(what) for item in node.items(what, empty="leave the key out"))


def word(*known: str) -> Read:
    """A reader of one of a few words."""
    return lambda node, base: node.word(*known)


def flag(node: Node, base: FilePath) -> bool:
    """Read true or false."""
    return node.flag()


def whole_seconds(least: int, most: int) -> Read:
    """A reader of a duration in whole seconds."""

    def read(node: Node, base: FilePath) -> int:
        found = node.seconds(float(most), float(least))
        if found < least or found != int(found):
            node.refuse(f"write whole seconds from {least}s to {most}s")
        return int(found)

    return read


def seconds(most: float) -> Read:
    """A reader of a duration, in seconds."""
    return lambda node, base: node.seconds(most, most)


def whole(low: int, high: int) -> Read:
    """A reader of a whole number."""
    return lambda node, base: node.whole(low, high, low)


def part(needed: Fields, optional: Fields) -> Read:
    """A reader of a mapping with these keys."""

    def read(node: Node, base: FilePath) -> dict[str, Any]:
        found = node.fields(*needed, optional=tuple(optional))
        readers = {**needed, **optional}
        return {key: readers[key](entry, base) for key, entry in found.items()}

    return read


def by_name(what: str, read: Read) -> Read:
    """A reader of a mapping whose keys are names."""
    return lambda node, base: {name: read(entry, base) for name, entry in node.named(what).items()}


def strings(node: Node, base: FilePath) -> dict[str, str]:
    """Read a mapping from names to texts."""
    return {name: entry.text("text") for name, entry in node.named('{"https://api.bank.test": payments}').items()}
