"""Pseudonyms: keyed hashes that stand for subjects and arguments in records and spans, under keys that are rotated.

Without the key nobody can tell whom a pseudonym stands for, or try names; with it the same name is found again in every
record of its generation. Each hash says which generation of the key made it: `u:4be1c0ff12345678.2`. A hash without a
generation is of a key from before there were any, so old logs stay readable.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
import stat
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from agentguard.errors import ConfigurationError
from agentguard.model.lease import Secret

_SHORTEST: Final = 16  # bytes of a key
_BLOCK: Final = 64  # bytes that SHA-256 takes at once
_TEXT: Final = 32  # characters of a key that is written as text
_MOST: Final = 40  # generations: with keys that are made here the file stays below what is read of it
_BYTES: Final = 4096
_LATEST: Final = 9999  # the last generation that has a number
_OLD: Final = "-"  # stands for the key from before there were generations
# A key from before there were generations may be several words.
_LINE: Final = re.compile(r"(-|[1-9][0-9]{0,3})[ \t]+((?<=-[ \t])\S.{31,}|[\x21-\x7e]{32,})")
_NUMBERED: Final = re.compile(r"(-|[0-9]+)[ \t]")
_HEAD: Final = "# Pseudonym keys of agentguard: generation and key, the newest last. Keep a key as long as its logs.\n"


@dataclass(frozen=True, slots=True)
class Generation:
    """One key, and the id that its hashes carry; empty for a key from before there were generations."""

    id: str
    key: Secret = field(repr=False)


class Pseudonyms:
    """Hashes names under the newest key, and knows what they are under the older ones.

    Args:
        generations: the keys, the newest last.

    Attributes:
        digest: makes the keyed hash of a digest (SHA-256, base16): of the arguments of a call; the only form of it
            that leaves the process.

    Raises:
        ConfigurationError: there is no key, one is shorter than 16 bytes, or two have one id.
    """

    __slots__ = ("_generations", "_key", "_suffix", "digest")
    digest: Callable[[str], str]

    def __init__(self, generations: Sequence[Generation]) -> None:
        if not generations or len({each.id for each in generations}) != len(generations):
            raise ConfigurationError("a list of pseudonym keys names each generation once, the newest last")
        if any(len(_bytes(each.key)) < _SHORTEST for each in generations):
            raise ConfigurationError("the pseudonym key is shorter than 16 bytes; use secrets.token_bytes(32)")
        self._generations = tuple(generations)
        newest = generations[-1]
        self._key, self._suffix = newest.key, f".{newest.id}" if newest.id else ""
        self.digest = _hasher(newest.key, self._suffix)

    @classmethod
    def single(cls, key: bytes) -> Pseudonyms:
        """Of one key that is never rotated; its hashes carry no generation."""
        return cls((Generation("", Secret(key.decode("latin-1"))),))

    @classmethod
    def parse(cls, text: Secret) -> Pseudonyms:
        """Of the text of a key file or a variable: one key, or lines of a generation and its key.

        Raises:
            ConfigurationError: it is neither; the error never holds any of it.
        """
        return cls(_parsed(text.reveal()))

    @property
    def generation(self) -> str:
        """The id of the newest key, which new hashes carry; empty where there is none."""
        return self._suffix[1:]

    @property
    def generations(self) -> tuple[str, ...]:
        """The ids of all keys, the newest last."""
        return tuple(each.id for each in self._generations)

    def of(self, name: str) -> str:
        """The pseudonym of a subject; empty for nobody."""
        return _pseudonym(_bytes(self._key), name) + self._suffix if name else ""

    def all_of(self, name: str) -> tuple[str, ...]:
        """What a subject is called in the logs of every generation, the newest first."""
        made = ((each.key, f".{each.id}" if each.id else "") for each in reversed(self._generations))
        return tuple(_pseudonym(_bytes(key), name) + suffix for key, suffix in made) if name else ()

    def __repr__(self) -> str:
        return f"<Pseudonyms of {len(self._generations)} keys, now {self.generation or 'without a generation'}>"


def _hasher(key: Secret, suffix: str) -> Callable[[str], str]:
    """The keyed hash (RFC 2104) of a digest, with a key that no attribute shows.

    Both halves are hashed as far as they go without the text, and copied: a call takes less than half the time of
    `hmac.digest`, which loads the hash and the key each time. A test compares them.
    """
    known = _bytes(key)
    block = (hashlib.sha256(known).digest() if len(known) > _BLOCK else known).ljust(_BLOCK, b"\0")
    inner, outer = (hashlib.sha256(bytes([byte ^ pad for byte in block])).copy for pad in (0x36, 0x5C))

    def keyed(sha256: str) -> str:
        within, around = inner(), outer()
        within.update(sha256.encode())
        around.update(within.digest())
        return f"hmac-sha256:{around.hexdigest()}{suffix}"

    return keyed


def _bytes(key: Secret) -> bytes:
    return key.reveal().encode("latin-1")


def _pseudonym(key: bytes, name: str) -> str:
    return "u:" + hmac.digest(key, name.encode(), "sha256").hex()[:16]


def _parsed(text: str) -> list[Generation]:
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    # A key of words, such as a passphrase, has been one key before there were generations, and is.
    if len(lines) == 1 and _NUMBERED.match(lines[0]) is None:
        if len(lines[0]) < _TEXT or not lines[0].isascii():
            raise ConfigurationError(f"the pseudonym key has fewer than {_TEXT} characters; make one with: "
                                     "openssl rand -hex 32")  # fmt: skip
        return [Generation("", Secret(lines[0]))]
    found = [_LINE.fullmatch(line) for line in lines]
    if not found or len(found) > _MOST or not all(found):
        raise ConfigurationError(
            "pseudonym keys are one key, or lines such as `2 KEY` with at least 32 characters each, the newest last; "
            f"at most {_MOST}; make and rotate them with: agentguard keys pseudonyms FILE"
        )
    return [Generation("" if line[1] == _OLD else line[1], Secret(line[2])) for line in found if line]


def read_file(path: Path) -> Secret:
    """Read a key file.

    Raises:
        ConfigurationError: it cannot be read, or others can; the error never holds any of it.
    """
    try:
        with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode) or status.st_mode & 0o077:
                raise ConfigurationError(f"{path} must be a file that only its owner can use; run: chmod 600 {path}")
            content = file.read(_BYTES + 1)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror or type(error).__name__}") from None
    if len(content) > _BYTES or not content.isascii():
        raise ConfigurationError(f"{path} is no file of pseudonym keys: it is larger than 4 KiB, or no plain text")
    return Secret(content.decode("ascii"))


def rotate(path: Path) -> Pseudonyms:
    """Add a key to a file, which becomes the newest; a file that is missing is made, for its owner only.

    The new file takes the place of the old one as a whole. Processes that read it before go on with the key they have;
    their hashes say so. Nothing is ever removed: without its key a pseudonym of an old log stands for nobody.

    Raises:
        ConfigurationError: the file cannot be used, or another process rotates it now.
    """
    known = _parsed(read_file(path).reveal()) if path.exists() else []
    latest = max([int(each.id) for each in known if each.id], default=0)
    grown = [*known, Generation(str(latest + 1), Secret(secrets.token_hex(32)))]
    text = _HEAD + "".join(f"{each.id or _OLD} {each.key.reveal()}\n" for each in grown)
    # INVARIANT: what is written can be read, else no process would start any more.
    if len(known) >= _MOST or latest >= _LATEST or len(text) > _BYTES:
        raise ConfigurationError(f"{path} holds {len(known)} keys, and has no room for another one; begin another "
                                 "file, and keep this one for its logs")  # fmt: skip
    _replace(path, text)
    return Pseudonyms(grown)


def _replace(path: Path, text: str) -> None:
    beside = path.with_name(f"{path.name}.new")
    try:
        # INVARIANT: only one process makes this file, so no rotation is lost to another.
        with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except FileExistsError:
        raise ConfigurationError(f"{beside} is there: another process rotates the keys, or one died at it; "
                                 "remove it if none does") from None  # fmt: skip
    except OSError as error:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
        raise ConfigurationError(f"{path} cannot be written: {error.strerror or type(error).__name__}") from None
