"""Signing keys and sets of public keys: one algorithm a key, private parts shown nowhere.

`SigningKey` signs in this process, `KeyRing` is a folder of them that rotates, `KeySet` is what verifiers are given.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentguard.keys.pem import MAX_FILE
    from agentguard.keys.public import KeySet
    from agentguard.keys.ring import KeyRing
    from agentguard.keys.rotation import Rotated, rotate
    from agentguard.keys.signer import Signer, Signers
    from agentguard.keys.signing import SigningKey
    from agentguard.keys.timetable import Times

# Loaded when they are first used (PEP 562): a guard without a file needs one key, and neither folders nor PEM.
_HOMES = {
    "MAX_FILE": "pem", "KeySet": "public", "KeyRing": "ring", "Rotated": "rotation", "rotate": "rotation",
    "Signer": "signer", "Signers": "signer", "SigningKey": "signing", "Times": "timetable",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    return value


__all__ = ["MAX_FILE", "KeyRing", "KeySet", "Rotated", "Signer", "Signers", "SigningKey", "Times", "rotate"]
