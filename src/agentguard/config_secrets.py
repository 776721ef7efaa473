"""Reading the secrets that `agentguard.yaml` names, never holds; and noting what could not be made of an entry."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from agentguard.config_fields import SecretSource
from agentguard.errors import ConfigurationError
from agentguard.model.lease import Secret

if TYPE_CHECKING:
    from agentguard.intent.document import Path as Where
    from agentguard.intent.document import Problems

T = TypeVar("T")
_KEY_CHARACTERS: Final = 32
_MAKE_ONE: Final = "make one with: openssl rand -hex 32"


class Noted(Exception):
    """A mistake that stands in the problems already."""


def kept(problems: Problems, where: Where, make: Callable[[], T | None]) -> T | None:
    """Return what `make` makes, or note its mistake at its place in the file."""
    try:
        return make()
    except ConfigurationError as error:
        problems.include(where, error)
    except Noted:  # by a part of it, at its own place
        pass
    return None


def with_psycopg() -> None:
    """Make sure of the driver of PostgreSQL, which an extra brings.

    Raises:
        ConfigurationError: it is not installed, or not with the library that it needs.
    """
    try:
        import psycopg  # noqa: F401  # whoever called imports what needs it
    except ImportError:
        raise ConfigurationError("PostgreSQL needs the package psycopg: pip install 'agentguard[postgres]'") from None


def secret_key(source: SecretSource) -> Secret | None:
    """Read a key of at least 32 characters; the error never holds any of it."""
    if source.file is None and not source.env:
        return None
    text = text_of(source, make=f"; {_MAKE_ONE}").strip()
    if len(text) < _KEY_CHARACTERS:
        raise ConfigurationError(f"the key has fewer than {_KEY_CHARACTERS} characters; {_MAKE_ONE}")
    return Secret(text)


def text_of(source: SecretSource, make: str = "") -> str:
    """Read a secret from where it is; the error never holds any of it."""
    if source.file is not None:
        return _private_text(source.file, make)
    text = os.environ.get(source.env, "")
    if not text.strip():
        raise ConfigurationError(f"the environment variable {source.env} is not set{make}")
    return text


def _private_text(file: Path, make: str) -> str:
    try:
        with open(os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as source:
            status = os.fstat(source.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ConfigurationError(f"{file} is no regular file")
            if status.st_mode & 0o077:
                raise ConfigurationError(f"group or others can use {file}; run: chmod 600 {file}")
            content = source.read(4096)
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be read: {error.strerror}{make}") from None
    if not content.isascii():
        raise ConfigurationError(f"{file} holds bytes that are no plain text{make}")
    return content.decode("ascii").strip()
