"""Signed notes and checkpoints as text (C2SP signed-note 1.0 and tlog-checkpoint 1.0), Ed25519 only.

A note's text counts for nothing until `NoteKey.open` has verified its signature.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from agentguard.audit.merkle import SIZE
from agentguard.errors import AgentguardError, ConfigurationError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

MAX_NOTE: Final = 1 << 16  # bytes
MAX_SIGNATURES: Final = 16
MAX_SIZE: Final = 1 << 53
_ED25519: Final = b"\x01"  # the signature type of the note format
_DASH: Final = "\u2014 "
_NUMBER: Final = re.compile(r"0|[1-9][0-9]{0,15}")


class NoteRejected(AgentguardError):
    """A note or a checkpoint does not parse, or is not signed by the key that is trusted."""

    reason = "checkpoint_rejected"


def checked_name(name: str) -> str:
    """A key's name (signed-note): text without spaces, plus signs and control characters.

    Raises:
        ConfigurationError: it is none.
    """
    if not 0 < len(name) <= 200 or "+" in name or not name.isprintable() or any(char.isspace() for char in name):
        raise ConfigurationError(f"{name!r} cannot name a key: write text without spaces and '+', like bank.test/audit")
    return name


def b64(data: bytes) -> str:
    """Standard base64 with padding (RFC 4648 section 4)."""
    return base64.b64encode(data).decode()


def unb64(text: str, size: int = 0) -> bytes:
    """Decode base64, only as `b64` writes it.

    Args:
        text: the base64 text.
        size: how many bytes it must hold; 0 for any.

    Raises:
        NoteRejected: it is not the one encoding of so many bytes.
    """
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        data = b""
    if not data or b64(data) != text or (size and len(data) != size):
        raise NoteRejected(f"not base64{f' of {size} bytes' if size else ''}: {text[:80]!r}")
    return data


def number(text: str) -> int:
    """A whole number as the formats write it: ASCII digits, no leading zero.

    Raises:
        NoteRejected: it is none, or beyond 2^53.
    """
    if not _NUMBER.fullmatch(text) or int(text) > MAX_SIZE:
        raise NoteRejected(f"not a whole number: {text[:40]!r}")
    return int(text)


@dataclass(frozen=True, slots=True)
class NoteKey:
    """A public Ed25519 key under a name.

    Args:
        name: as signature lines give it.
        public: the key (RFC 8032), 32 bytes.
    """

    name: str
    public: bytes

    @classmethod
    def read(cls, given: str, name: str) -> Self:
        """Return the key that a person gave: a verifier key (`name+id+base64`), or a file with that or with PEM.

        Args:
            given: the text, or the path of a file.
            name: the name of a key in a PEM file, which has none.

        Raises:
            ConfigurationError: it is no public Ed25519 key.
        """
        if "+" in given and not Path(given).exists():
            return cls.parse(given)
        from agentguard._jwk import PublicKey
        from agentguard.keys.pem import read_bytes, read_public

        data = read_bytes(given, private=False)
        if isinstance(data, bytes) and b"-----BEGIN" not in data and data.lstrip()[:1] != b"{":
            return cls.parse(data.decode("utf-8", "replace").strip())
        found = read_public(given)
        if not isinstance(found, PublicKey) or found.algorithm != "EdDSA":
            why = found if isinstance(found, str) else "it holds no single Ed25519 public key in PEM form"
            raise ConfigurationError(f"checkpoint key {given!r}: {why}")
        return cls(checked_name(name), _raw(found.key))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the key in a verifier key: `name+id+base64(type || key)`.

        Raises:
            ConfigurationError: it is none, or not of Ed25519.
        """
        name, _, rest = text.partition("+")
        hint, _, encoded = rest.partition("+")
        try:
            data = unb64(encoded, SIZE + 1)
        except NoteRejected:
            data = b""
        if data[:1] == _ED25519:
            key = cls(checked_name(name), data[1:])
            if key.id.hex() == hint:
                return key
        raise ConfigurationError(f"not a verifier key of Ed25519: {text[:120]!r}; it reads NAME+ID+BASE64")

    @property
    def id(self) -> bytes:
        """The key's id: a hint to find it by, no proof of anything."""
        return hashlib.sha256(self.name.encode() + b"\n" + _ED25519 + self.public).digest()[:4]

    def __str__(self) -> str:
        return f"{self.name}+{self.id.hex()}+{b64(_ED25519 + self.public)}"

    def open(self, note: bytes) -> str:
        """Return the text of a note that this key signed.

        Raises:
            NoteRejected: it is no note, or this key did not sign it.
        """
        text, lines = _split(note)
        signatures = [signature for line in lines if (signature := self._of_mine(line)) is not None]
        if not signatures:
            raise NoteRejected(f"not signed by the trusted key {self.name} ({self.id.hex()})")
        from cryptography.exceptions import InvalidSignature

        public = _public(self.public)
        for signature in signatures:
            try:
                public.verify(signature, text.encode())
            except InvalidSignature:
                forged = True
            else:
                forged = False
            if forged:
                raise NoteRejected(f"the signature is forged: the trusted key {self.name} did not make it")
        return text

    def _of_mine(self, line: str) -> bytes | None:
        """The signature in a line, if it names this key; other keys may sign too."""
        name, space, encoded = line.removeprefix(_DASH).partition(" ")
        if not line.startswith(_DASH) or not space or not name or "+" in name:
            raise NoteRejected(f"not a signature line: {line[:80]!r}")
        signed = unb64(encoded)
        if len(signed) < 5:
            raise NoteRejected(f"not a signature line: {line[:80]!r}")
        return signed[4:] if (name, signed[:4]) == (self.name, self.id) else None


def sign(text: str, key: NoteKey, signature: Callable[[bytes], bytes]) -> str:
    """Return a note: the text, an empty line, and one signature line."""
    return f"{text}\n{_DASH}{key.name} {b64(key.id + signature(text.encode()))}\n"


def _split(note: bytes) -> tuple[str, list[str]]:
    if len(note) > MAX_NOTE:
        raise NoteRejected("a note is not longer than 64 KiB")
    try:
        whole = note.decode()
    except UnicodeDecodeError:
        raise NoteRejected("a note is UTF-8 text") from None
    if any(char < " " and char != "\n" for char in whole):
        raise NoteRejected("a note holds no control characters")
    text, gap, signatures = whole.rpartition("\n\n")
    if not gap or not signatures.endswith("\n"):
        raise NoteRejected("a note is text, an empty line and signature lines; this one is cut off, or is none")
    lines = signatures[:-1].split("\n")
    if len(lines) > MAX_SIGNATURES:
        raise NoteRejected(f"a note has at most {MAX_SIGNATURES} signatures")
    return text + "\n", lines


def _raw(key: object) -> bytes:
    data: bytes = key.public_bytes_raw()  # type: ignore[attr-defined]  # the algorithm says that it is Ed25519's
    return data


def _public(data: bytes) -> Ed25519PublicKey:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    return Ed25519PublicKey.from_public_bytes(data)
