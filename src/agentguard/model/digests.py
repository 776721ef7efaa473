"""The bytes of a canonical value (RFC 8785), and their SHA-256."""

from __future__ import annotations

import hashlib
import json
from decimal import Decimal

import msgspec

from agentguard.model.canonical import Canonical, Digest, number_text


def _tagged(value: Canonical) -> object:
    if type(value) is str:
        return value
    if type(value) is Decimal:
        return {"$n": number_text(value)}
    match value:
        case Decimal():
            return {"$n": number_text(value)}
        case Digest():
            return {"$sha256": value.sha256}
        case tuple():
            return [_tagged(item) for item in value]
        case dict():
            return {
                f"${key}" if key[:1] == "$" else key: item if type(item) is str else _tagged(item)
                for key, item in value.items()
            }
    return value


_fast = msgspec.json.Encoder(order="sorted").encode


def jcs(tree: object) -> bytes:
    """Serialise a tree of None, bool, str, int, list and dict as RFC 8785 (JCS) says.

    Ints must fit 53 bits. Text that RFC 8785 cannot carry (a lone surrogate) is written as it is, so that it still has
    a digest.
    """
    try:
        encoded = _fast(tree)
    except (UnicodeEncodeError, TypeError, ValueError):
        encoded = b"\xff"
    if encoded.isascii():
        return encoded
    text = json.dumps(_utf16_sorted(tree), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.encode("utf-8", "surrogatepass")


def _utf16_sorted(tree: object) -> object:
    if isinstance(tree, dict):
        by_unit = sorted(tree.items(), key=lambda pair: pair[0].encode("utf-16-be", "surrogatepass"))
        return {key: _utf16_sorted(item) for key, item in by_unit}
    if isinstance(tree, list | tuple):
        return [_utf16_sorted(item) for item in tree]
    return tree


def tagged(arguments: dict[str, Canonical]) -> dict[str, object]:
    """Arguments as `canonical_bytes` writes them."""
    return {f"${name}" if name[:1] == "$" else name: _tagged(item) for name, item in arguments.items()}


def canonical_bytes(value: Canonical) -> bytes:
    """The RFC 8785 form of a canonical value, with one tagged form for numbers."""
    return jcs(_tagged(value))


def digest(value: Canonical) -> str:
    """SHA-256 (base16) over `canonical_bytes`; for use inside the process only."""
    if type(value) is not dict:
        return hashlib.sha256(canonical_bytes(value)).hexdigest()
    tagged = {}
    for name, item in value.items():
        kind = type(item)
        key = f"${name}" if name[:1] == "$" else name
        tagged[key] = item if kind is str else {"$n": number_text(item)} if kind is Decimal else _tagged(item)  # type: ignore[arg-type]
    return hashlib.sha256(jcs(tagged)).hexdigest()
