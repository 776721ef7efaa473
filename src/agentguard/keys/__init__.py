"""Signing keys and sets of public keys: one algorithm a key, private parts shown nowhere.

`SigningKey` signs in this process, `KeyRing` is a folder of them that rotates, `KeySet` is what verifiers are given.
"""

from __future__ import annotations

from agentguard.keys.pem import MAX_FILE
from agentguard.keys.public import KeySet
from agentguard.keys.ring import KeyRing
from agentguard.keys.rotation import Rotated, rotate
from agentguard.keys.signer import Signer, Signers
from agentguard.keys.signing import SigningKey
from agentguard.keys.timetable import Times

__all__ = ["MAX_FILE", "KeyRing", "KeySet", "Rotated", "Signer", "Signers", "SigningKey", "Times", "rotate"]
