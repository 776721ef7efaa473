"""The canonical form of a value: what is compared and digested, so that what was checked is what runs.

A canonical value is None, a bool, a str, a Decimal (every number), a `Digest` (bytes), a tuple or a dict with str keys.
Two values are the same when `same` says so; Python's `==` is not used, because there `True == 1`.
"""

from __future__ import annotations

import datetime
import enum
import os
import uuid
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from msgspec import Struct

from agentguard.errors import NotCanonical

if TYPE_CHECKING:
    from agentguard.model.digests import canonical_bytes as canonical_bytes
    from agentguard.model.digests import digest as digest
    from agentguard.model.digests import jcs as jcs

MAX_DEPTH: Final = 32
MAX_BYTES: Final = 1 << 20
MAX_EXPONENT: Final = 400
SHORT_INT: Final = 1 << 63
_LONGEST_INT: Final = 4 * MAX_EXPONENT  # bits; 10^400 has 1,329
_PRICE: Final = 8  # bytes that a number, a bool, null or a container counts for
_ZERO: Final = Decimal(0)
FEW: Final = 32
SHORT: Final = 1024  # a few texts of so many characters are far below every bound


class Digest(Struct, frozen=True):
    """Bytes, compared by their SHA-256 (base16)."""

    sha256: str


Canonical: TypeAlias = "None | bool | str | Decimal | Digest | tuple[Canonical, ...] | dict[str, Canonical]"

IMMUTABLE: Final = frozenset({type(None), bool, str, int, float, Decimal, bytes, datetime.date, datetime.datetime,
                              datetime.time, uuid.UUID})  # fmt: skip


class _Budget(Struct):
    left: int = MAX_BYTES

    def spend(self, amount: int, path: str) -> None:
        self.left -= amount
        if self.left < 0:
            raise NotCanonical(path, "the arguments are larger than 1 MiB; pass a reference instead")


def canonical(value: object, path: str = "", *, bytes_allowed: bool = False) -> Canonical:
    """Return the canonical form of a value.

    Args:
        value: any argument; scalars, dates, enums, UUIDs, paths, sequences, mappings, dataclasses and pydantic models.
        path: where the value stands, for the error text.
        bytes_allowed: bytes are taken, by digest (`bytes` of the ToolSpec).

    Raises:
        NotCanonical: NaN or infinity, a set, a generator, bytes, a cycle, depth over 32, more than 1 MiB (text and keys
            in UTF-8, everything else by a fixed price; bytes that are taken by digest are free), an object that has
            no canonical form, or one that raises when it is read.
    """
    if type(value) is dict and not path and len(value) <= FEW and (flat := _flat(value)) is not None:
        return flat
    try:
        return _walk(value, path, 0, _Budget(), bytes_allowed)
    except NotCanonical:
        raise
    except Exception as error:
        raise NotCanonical(path, f"reading it raised {type(error).__name__}; pass plain values") from None


def _flat(value: dict[Any, Any]) -> dict[str, Canonical] | None:
    """The form of short texts and numbers by name, as most arguments are; None for what has to be walked."""
    found: dict[str, Canonical] = {}
    for name, item in value.items():
        if type(name) is not str or len(name) > SHORT:
            return None
        kind = type(item)
        if kind is str:
            if len(item) > SHORT:
                return None
            found[name] = item
        elif kind is int and 0 < item < SHORT_INT:
            found[name] = Decimal(item)
        elif kind is int or kind is Decimal or kind is float:
            found[name] = number(item, name)
        elif kind is bool or item is None:
            found[name] = item
        else:
            return None
    return found


def _walk(value: Any, path: str, depth: int, budget: _Budget, takes_bytes: bool) -> Canonical:
    kind = type(value)
    if kind is str:
        budget.spend(_size(value), path)
        return value  # type: ignore[no-any-return]  # exact str
    budget.spend(_PRICE, path)
    if kind is bool or value is None:
        return value  # type: ignore[no-any-return]  # exact bool or None
    if kind is int or kind is Decimal or kind is float:
        return number(value, path)
    if depth >= MAX_DEPTH:
        raise NotCanonical(path, f"nested deeper than {MAX_DEPTH} levels, or a cycle")
    return _compound(value, path, depth + 1, budget, takes_bytes)


def _size(text: str) -> int:
    return len(text) if text.isascii() or len(text) > MAX_BYTES else len(text.encode("utf-8", "surrogatepass"))


def number(value: int | float | Decimal, path: str = "") -> Decimal:
    """Return a number exactly; a float counts by its shortest decimal form; NaN and infinities are refused."""
    if type(value) is float:
        value = Decimal(repr(value)) if value - value == 0 else Decimal("NaN")
    elif type(value) is int and value.bit_length() > _LONGEST_INT:  # turning one of a megabyte into digits takes long
        raise NotCanonical(path, f"a number beyond 10^±{MAX_EXPONENT}")
    exact = value if type(value) is Decimal else Decimal(value)
    if not exact.is_finite():
        raise NotCanonical(path, "NaN and infinities are no numbers here")
    if not exact:
        return _ZERO  # "0E-999999999" is zero too, and would be a gigabyte of text
    if abs(exact.adjusted()) > MAX_EXPONENT or len(exact.as_tuple().digits) > 2 * MAX_EXPONENT:
        raise NotCanonical(path, f"a number beyond 10^±{MAX_EXPONENT}")
    return exact


def _compound(value: Any, path: str, depth: int, budget: _Budget, takes_bytes: bool) -> Canonical:
    def inner(item: Any, where: str) -> Canonical:
        return _walk(item, where, depth, budget, takes_bytes)

    match value:
        case enum.Enum():
            return inner(value.value, path)
        case str():
            return inner(str.__str__(value), path)
        case int():
            return number(int.__int__(value), path)
        case datetime.datetime():
            return datetime.datetime.isoformat(value)
        case datetime.date():
            return datetime.date.isoformat(value)
        case datetime.time():
            return datetime.time.isoformat(value)
        case uuid.UUID():
            return uuid.UUID.__str__(value)
        case list() | tuple() if not hasattr(value, "_asdict"):
            return tuple([inner(item, f"{path}[{i}]") for i, item in enumerate(value)])
        case Mapping():
            return _mapping(value, path, inner, budget)
        case bytes() | bytearray() | memoryview() if takes_bytes:
            import hashlib

            return Digest(hashlib.sha256(value).hexdigest())
        case os.PathLike():
            return inner(_path_text(value, path), path)
    return _mapping(_fields(value, path), path, inner, budget)


def _path_text(value: os.PathLike[Any], path: str) -> str:
    text = os.fspath(value)
    if not isinstance(text, str):
        raise NotCanonical(path, "a path made of bytes; use a path made of text")
    return text


def _mapping(
    value: Mapping[Any, Any], path: str, inner: Callable[[Any, str], Canonical], budget: _Budget
) -> dict[str, Canonical]:
    result: dict[str, Canonical] = {}
    for key, item in value.items():
        if not isinstance(key, str):
            raise NotCanonical(path, f"a mapping with a key of type {type(key).__name__}; keys must be text")
        name = str.__str__(key)
        budget.spend(_size(name), path)
        if name in result:  # two keys whose type says they differ: the tool would see what was not checked
            raise NotCanonical(path, f"the key {name[:40]!r} twice")
        result[name] = inner(item, f"{path}.{name}" if path else name)
    return result


def _fields(value: Any, path: str) -> dict[str, Any]:
    """The fields of a dataclass, a named tuple or a pydantic model, by name."""
    if hasattr(type(value), "__dataclass_fields__"):
        from dataclasses import fields

        return {field.name: getattr(value, field.name) for field in fields(value)}
    if isinstance(value, Digest):
        return {"sha256": value.sha256}
    if isinstance(value, tuple):
        return dict(value._asdict())  # type: ignore[attr-defined]  # a named tuple
    names = getattr(type(value), "model_fields", None)
    if isinstance(names, Mapping):
        return {name: getattr(value, name) for name in names} | (getattr(value, "model_extra", None) or {})
    raise NotCanonical(
        path,
        f"a value of type {type(value).__name__} has no canonical form; pass text, numbers, dates, lists, mappings, "
        "dataclasses or pydantic models (bytes only where the tool says bytes=True)",
    )


def same(left: Canonical, right: Canonical) -> bool:
    """Tell whether two canonical values are one value: 1 is 1.00, True is not 1, "50" is not 50."""
    if type(left) is not type(right):
        return False
    if isinstance(left, tuple) and isinstance(right, tuple):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same(item, right[key]) for key, item in left.items())
    return left == right


def is_nfc(text: str) -> bool:
    """Tell whether a text is in NFC and holds no lone surrogate; only then may it be compared."""
    if text.isascii():
        return True
    import unicodedata

    return unicodedata.is_normalized("NFC", text) and not any("\ud800" <= char <= "\udfff" for char in text)


def number_text(value: Decimal) -> str:
    """The one decimal text of a number: no exponent, no trailing zeros, no minus before zero."""
    text = format(value, "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text


def readable(value: Canonical) -> Any:
    """A canonical value for a record or a token: numbers as exact text, bytes as their digest."""
    if type(value) is str:
        return value
    if type(value) is Decimal:
        return number_text(value)
    match value:
        case Decimal():
            return number_text(value)
        case Digest():
            return f"sha256:{value.sha256}"
        case tuple():
            return [readable(item) for item in value]
        case dict():
            return {key: readable(item) for key, item in value.items()}
    return value


def run_copy(arguments: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
    """Copy arguments for the tool: same types, deep-copied.

    Returns:
        The copy, and whether anything in it can change after it was checked.

    Raises:
        NotCanonical: a value that cannot be copied.
    """
    if IMMUTABLE.issuperset(map(type, arguments.values())):
        return dict(arguments), False
    import copy

    copied: dict[str, Any] = {}
    for name, value in arguments.items():
        try:
            copied[name] = value if type(value) in IMMUTABLE else copy.deepcopy(value)
        except Exception as error:
            raise NotCanonical(name, f"the argument cannot be copied ({type(error).__name__})") from None
    return copied, True


_DIGESTS: Final = frozenset({"canonical_bytes", "digest", "jcs"})


def __getattr__(name: str) -> Any:
    """What needs hashes and JSON is loaded when somebody asks for it (PEP 562): a declaration does not."""
    if name not in _DIGESTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from agentguard.model import digests

    return getattr(digests, name)
