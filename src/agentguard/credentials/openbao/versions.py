"""The versions of a transit key, as the vault describes them, and their turns."""

from __future__ import annotations

import binascii
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from agentguard._http import Response
from agentguard._jwk import PublicKey, is_usable, public_key
from agentguard.credentials.openbao.vault import Refused, members, refusal
from agentguard.keys import Times
from agentguard.keys.timetable import Timetable, Turn

MOST: Final = 64  # the latest versions; older ones signed nothing that may live
_ALGORITHMS: Final = {"ecdsa-p256": "ES256", "ed25519": "EdDSA"}
_FORBIDDEN: Final = {
    "exportable": "the key can be exported; make one with exportable=false",
    "allow_plaintext_backup": "the key can be backed up in plain text; make one without allow_plaintext_backup",
    "derived": "the key is derived anew for every context, so nobody can publish it; make one with derived=false",
}


@dataclass(frozen=True, slots=True)
class Version:
    """One version: its number, its public key, and when the vault made it (seconds since the epoch)."""

    number: int
    public: PublicKey
    made_at: float


@dataclass(frozen=True, slots=True)
class Versions:
    """All versions that the vault still knows, the oldest first; below `least` it signs with none."""

    known: tuple[Version, ...]
    least: int

    def timetable(self, times: Times, seen: Mapping[int, float]) -> Timetable:
        """Return the turns: a version signs once the propagation has passed since it was made and seen.

        Args:
            times: what a rotation waits for.
            seen: when versions were first seen, those that came up while this process looked.
        """
        turns: list[Turn] = []
        for version in self.known:
            starts = version.made_at
            if turns:
                published = max(version.made_at, seen.get(version.number, -math.inf))
                starts = max(published + times.propagation, turns[-1].signs_from + 1)
            turns.append(Turn(version.public, starts))
        return Timetable(tuple(turns), times)

    def signing(self, table: Timetable, now: float) -> Version:
        """Return the version whose turn it is, or the first one that the vault signs with."""
        kid = table.signing(now).public.kid
        turn = next(index for index, version in enumerate(self.known) if version.public.kid == kid)
        return next((one for one in self.known[turn:] if one.number >= self.least), self.known[-1])


def read_versions(response: Response, path: str) -> Versions | Refused:
    """Return what the vault says about a key, or why it must not sign: it could leave the vault, or is no such key."""
    answer = members(response)
    data = answer.get("data") if answer else None
    if not isinstance(data, dict):
        return refusal(response.status, path, f'path "{path}" with read')
    problem = _problem(data)
    versions = _versions(data) if not problem else ()
    if problem or not versions:
        return Refused(f"the vault's key at {path} signs no tokens: {problem or 'its versions cannot be read'}")
    least = data.get("min_encryption_version", 0)
    return Versions(versions, least if type(least) is int else 0)


def _problem(data: Mapping[str, Any]) -> str:
    kind = data.get("type")
    if not isinstance(kind, str) or kind not in _ALGORITHMS:
        return "it is neither ecdsa-p256 nor ed25519"
    # Only False will do: what is missing cannot be told.
    return next((why for name, why in _FORBIDDEN.items() if data.get(name) is not False), "")


def _versions(data: Mapping[str, Any]) -> tuple[Version, ...]:
    try:
        numbers = sorted((int(number) for number in data["keys"]), reverse=True)[:MOST]
        found = [_version(number, data["keys"][str(number)], _ALGORITHMS[data["type"]]) for number in reversed(numbers)]
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return ()
    return tuple(found)


def _version(number: int, entry: Mapping[str, Any], algorithm: str) -> Version:
    text = entry["public_key"]
    if algorithm == "EdDSA":
        key: Any = ed25519.Ed25519PublicKey.from_public_bytes(binascii.a2b_base64(text, strict_mode=True))
    else:
        key = load_pem_public_key(text.encode())
    made_at = datetime.fromisoformat(entry["creation_time"])
    if not is_usable(key) or made_at.tzinfo is None:
        raise ValueError
    public = public_key(key)
    if public.algorithm != algorithm:
        raise ValueError
    return Version(number, public, made_at.astimezone(UTC).timestamp())


def verifies(public: PublicKey, data: bytes, signature: bytes) -> bool:
    """Tell whether a raw JOSE signature is this key's: what a vault, or whoever stands before it, answered."""
    try:
        if isinstance(public.key, ed25519.Ed25519PublicKey):
            public.key.verify(signature, data)
        elif isinstance(public.key, ec.EllipticCurvePublicKey) and len(signature) == 64:
            r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
            public.key.verify(encode_dss_signature(r, s), data, ec.ECDSA(hashes.SHA256()))
        else:
            return False
    except InvalidSignature:
        return False
    return True
