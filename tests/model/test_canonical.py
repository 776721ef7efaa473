"""The canonical form: what is compared and digested, so that what was checked is what runs (rulings 1 to 5)."""

from __future__ import annotations

import collections
import copy
import dataclasses
import datetime
import decimal
import enum
import hashlib
import math
import pathlib
import time
import uuid
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

import pydantic
import pytest
import rfc8785
from hypothesis import assume, given
from hypothesis import strategies as st

from agentguard.errors import NotCanonical
from agentguard.model.canonical import (
    MAX_BYTES,
    Digest,
    canonical,
    canonical_bytes,
    digest,
    is_nfc,
    number_text,
    readable,
    run_copy,
    same,
)

control = pytest.mark.control("4 one value has one form, and what has none is a deny (cases 44, 65)")
DAY = datetime.date(2026, 3, 1)
NOON = datetime.datetime(2026, 3, 1, 12, tzinfo=datetime.UTC)


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    ONE = 1


@dataclasses.dataclass
class Point:
    x: int
    tags: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True, slots=True)
class Frozen:
    x: int


class Pair(collections.namedtuple("Pair", "x tags")):  # the untyped kind is canonical too
    __slots__ = ()


class Form(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow")
    x: int
    tags: list[str] = []


class Word(str):
    __slots__ = ()


SAME = [
    (1, 1.0),
    (1, Decimal("1.00")),
    (1, Decimal("1E+0")),
    (100, 1e2),
    (-0.0, 0),
    (Decimal("-0.00"), 0),
    (Decimal("0E-9"), 0),
    (0.1, Decimal("0.1")),
    (1e-7, Decimal("0.0000001")),
    (10**21, 1e21),
    (2**53 + 1, Decimal(9007199254740993)),
    ((1, 2), [1, 2]),
    (collections.OrderedDict(a=1, b=2), {"b": 2.0, "a": 1}),
    (Colour.RED, "red"),
    (Level.ONE, 1),
    (Word("a"), "a"),
    (DAY, "2026-03-01"),
    (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
    (pathlib.PurePosixPath("/a/b"), "/a/b"),
    (Point(1, ["a"]), {"x": 1, "tags": ["a"]}),
    (Pair(1, ["a"]), {"x": 1, "tags": ["a"]}),
    (Form(x=1, tags=["a"]), {"x": 1, "tags": ["a"]}),
    (Form.model_validate({"x": 1, "y": 2}), {"x": 1, "tags": [], "y": 2}),
]
DIFFERENT = [
    (1, True),
    (0, False),
    (0, None),
    (1, "1"),
    ("", None),
    ([], None),
    ([], ""),
    ([], {}),
    ({"a": None}, {}),
    (DAY, NOON),
    (datetime.datetime(2026, 3, 1), DAY),  # noqa: DTZ001  # without a zone on purpose
    (NOON, NOON.replace(tzinfo=None)),
    (0.1, Decimal("0.1000000000000000055511151231257827")),
    (2**53, 2**53 + 1),
    ("\u00e9", "e\u0301"),
    ("a", "a\u200b"),
    ("\N{CYRILLIC SMALL LETTER A}", "a"),
    ({"$n": "1"}, 1),
    ({"$sha256": hashlib.sha256(b"x").hexdigest()}, b"x"),
    ({"a": {"b": 1}}, {"a.b": 1}),
]


@control
@pytest.mark.parametrize(("left", "right"), SAME, ids=repr)
def test_one_value_has_one_canonical_form_and_one_digest(left: Any, right: Any) -> None:
    assert same(canonical(left), canonical(right))
    assert digest(canonical(left)) == digest(canonical(right))


@control
@pytest.mark.parametrize(("left", "right"), DIFFERENT, ids=repr)
def test_two_values_are_two(left: Any, right: Any) -> None:
    first, second = canonical(left, bytes_allowed=True), canonical(right, bytes_allowed=True)
    assert not same(first, second)
    assert digest(first) != digest(second)


def cycle() -> list[Any]:
    made: list[Any] = []
    made.append(made)
    return made


def cycle_of_mappings() -> dict[str, Any]:
    made: dict[str, Any] = {}
    made["d"] = made
    return made


def wide(levels: int) -> list[Any]:
    made: list[Any] = [1]
    for _ in range(levels):
        made = [made] * 10
    return made


NOT: dict[str, Any] = {
    "nan": math.nan,
    "infinity": math.inf,
    "decimal nan": Decimal("NaN"),
    "signalling nan": Decimal("sNaN"),
    "decimal infinity": Decimal("-Infinity"),
    "10^401": 10**401,
    "10^-401": Decimal("1E-401"),
    "801 digits": Decimal("1." + "1" * 801),
    "a million digits": 1 << 4_000_000,
    "set": {1},
    "frozenset": frozenset({1}),
    "generator": (n for n in [1]),
    "range": range(3),
    "bytes": b"x",
    "bytearray": bytearray(b"x"),
    "complex": 1j,
    "function": len,
    "class": Point,
    "object": object(),
    "key that is no text": {1: 2},
    "path of bytes": type("BytesPath", (pathlib.PurePosixPath,), {"__fspath__": lambda self: b"/a"})("/a"),
    "cycle": cycle(),
    "cycle of mappings": cycle_of_mappings(),
    "33 levels": eval("[" * 33 + "]" * 33),
    "more than a mebibyte": "x" * (MAX_BYTES + 1),
    "more than a mebibyte in UTF-8": "\N{EURO SIGN}" * (MAX_BYTES // 3 + 1),
    "more than a mebibyte in keys": {"k" * MAX_BYTES + str(n): None for n in range(2)},
    "more than a mebibyte of numbers": [1] * (MAX_BYTES // 8 + 1),
    "a small text many times": ["x" * 1000] * 1100,
    "a billion numbers in little memory": wide(9),
}


@control
@pytest.mark.parametrize("kind", NOT)
def test_what_has_no_canonical_form_is_refused_quickly_and_says_why(kind: str) -> None:
    started = time.process_time()
    with pytest.raises(NotCanonical) as refused:
        canonical({"arg": NOT[kind]})
    assert time.process_time() - started < 5
    assert refused.value.reason == "invalid_arguments"
    assert len(str(refused.value)) < 600


def test_limits_are_inclusive() -> None:
    canonical("x" * MAX_BYTES)
    canonical(eval("[" * 32 + "]" * 32))
    canonical([10**400, Decimal("1E-400"), -(10**400)])


@control
def test_zero_with_a_gigantic_exponent_is_plain_zero() -> None:
    for text in ("0E-999999999", "0E+999999999", "-0E-425000000"):
        assert canonical_bytes(canonical(Decimal(text))) == b'{"$n":"0"}'


def test_bytes_are_compared_by_digest_where_the_tool_takes_them() -> None:
    assert canonical(b"x", bytes_allowed=True) == canonical(bytearray(b"x"), bytes_allowed=True)
    assert canonical([b"x"], bytes_allowed=True) == (Digest(hashlib.sha256(b"x").hexdigest()),)
    assert readable(canonical(b"x", bytes_allowed=True)).startswith("sha256:2d71")


def test_error_names_the_place_of_the_value() -> None:
    with pytest.raises(NotCanonical, match=r"^filters\.after\[1\]: "):
        canonical({"filters": {"after": [1, math.nan]}})


# lying objects (cases 36 and 37) --------------------------------------------------------------------------

lying = pytest.mark.control("4 an object that lies is denied or harmless (cases 36, 37)")


class Moody(str):
    """Equal to everything, with the hash of something else, and another text when it is shown."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return hash("acme")

    def __str__(self) -> str:
        return "acme"

    __repr__ = __str__

    def __len__(self) -> int:
        return 0


@lying
def test_text_counts_by_what_it_holds_and_not_by_what_it_says() -> None:
    assert not same(canonical(Moody("evil")), canonical("acme"))
    assert canonical_bytes(canonical({"a": Moody("evil")})) == b'{"a":"evil"}'
    assert type(canonical(Moody("evil"))) is str
    with pytest.raises(NotCanonical):
        canonical(Moody("x" * (MAX_BYTES + 1)))


@lying
def test_dates_and_ids_count_by_what_they_hold() -> None:
    class Day(datetime.date):
        def isoformat(self) -> str:
            return "1999-01-01"

    class Moment(datetime.datetime):
        def isoformat(self, *args: Any, **kwargs: Any) -> str:
            return "1999-01-01T00:00:00"

    class Id(uuid.UUID):
        def __str__(self) -> str:
            return "00000000-0000-0000-0000-000000000009"

    assert canonical(Day(2026, 3, 1)) == "2026-03-01"
    assert canonical(Moment(2026, 3, 1, 12)) == "2026-03-01T12:00:00"
    assert canonical(Id(int=1)) == "00000000-0000-0000-0000-000000000001"


@lying
def test_two_keys_that_hold_the_same_text_are_refused() -> None:
    class Key(str):
        __slots__ = ()

        def __eq__(self, other: object) -> bool:
            return self is other

        def __hash__(self) -> int:
            return id(self)

    with pytest.raises(NotCanonical, match="twice"):
        canonical({Key("to"): "evil", Key("to"): "ann"})


class Raising:
    """Raises wherever it is looked at."""

    def __getattribute__(self, name: str) -> Any:
        if name == "__class__":
            return Raising
        raise RuntimeError("secret text of the value")


class BrokenMapping(Mapping[str, int]):
    def __getitem__(self, key: str) -> int:
        raise RuntimeError("secret text of the value")

    def __iter__(self) -> Iterator[str]:
        yield "a"

    def __len__(self) -> int:
        return 1


class BrokenPath:
    def __fspath__(self) -> str:
        raise RuntimeError("secret text of the value")


@lying
@pytest.mark.parametrize("value", [Raising(), BrokenMapping(), BrokenPath()], ids=lambda v: type(v).__name__)
def test_object_that_raises_when_it_is_read_is_refused_without_its_text(value: Any) -> None:
    with pytest.raises(NotCanonical) as refused:
        canonical({"arg": [value]})
    assert "secret text" not in str(refused.value)
    assert refused.value.__cause__ is None


# the bytes ------------------------------------------------------------------------------------------------

texts = st.text(max_size=12)
tagged_values = st.recursive(
    st.none() | st.booleans() | texts | st.integers() | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(texts, inner, max_size=5),
    max_leaves=25,
)


def tagged(value: Any) -> Any:
    """The tree that the canonical bytes stand for, made a second time."""
    if isinstance(value, Decimal):
        return {"$n": number_text(value)}
    if isinstance(value, tuple):
        return [tagged(item) for item in value]
    if isinstance(value, dict):
        return {(f"${key}" if key.startswith("$") else key): tagged(item) for key, item in value.items()}
    return value


@control
@given(tagged_values)
def test_canonical_bytes_are_those_of_rfc_8785(value: Any) -> None:
    form = canonical(value)
    assert canonical_bytes(form) == rfc8785.dumps(tagged(form))


@control
@given(tagged_values, st.randoms())
def test_order_of_keys_and_kind_of_number_change_nothing(value: Any, order: Any) -> None:
    def shuffled(item: Any) -> Any:
        if isinstance(item, dict):
            pairs = [(key, shuffled(inner)) for key, inner in item.items()]
            order.shuffle(pairs)
            return dict(pairs)
        if isinstance(item, list):
            return tuple(map(shuffled, item))
        return Decimal(item) * Decimal("1.000") if type(item) is int and abs(item) < 10**20 else item

    assert digest(canonical(shuffled(value))) == digest(canonical(value))
    assert same(canonical(shuffled(value)), canonical(value))


@control
@given(tagged_values, tagged_values)
def test_values_are_the_same_exactly_if_their_bytes_are(left: Any, right: Any) -> None:
    first, second = canonical(left), canonical(right)
    assert same(first, second) is (canonical_bytes(first) == canonical_bytes(second))


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_float_counts_by_its_shortest_decimal_form(value: float) -> None:
    form = canonical(value)
    assert isinstance(form, Decimal)
    assert form == Decimal(repr(value))
    assert float(number_text(form)) == value


@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**30), max_value=10**30))
def test_number_has_one_plain_text(value: Decimal) -> None:
    text = number_text(value)
    assert Decimal(text) == value
    assert "E" not in text
    assert not text.endswith((".", "-"))
    assert text != "-0"
    assert "." not in text or not text.endswith("0")


@control
def test_numbers_do_not_depend_on_the_decimal_context_of_the_application() -> None:
    wanted = digest(canonical([123.456, Decimal("123.4567"), 123456789]))
    with decimal.localcontext(decimal.Context(prec=1)):
        assert digest(canonical([123.456, Decimal("123.4567"), 123456789])) == wanted


@given(texts)
def test_text_with_lone_surrogates_has_a_digest_and_is_not_nfc(text: str) -> None:
    lone = text + "\udc80"
    assert digest(canonical(lone)) != digest(canonical(text))
    assert not is_nfc(lone)


# the run copy ---------------------------------------------------------------------------------------------

runs = pytest.mark.control("4 what was checked is what runs")


@runs
@given(st.dictionaries(st.text(min_size=1), tagged_values, max_size=4))
def test_run_copy_is_equal_shares_nothing_that_can_change_and_keeps_types(arguments: dict[str, Any]) -> None:
    made, mutable = run_copy(arguments)
    assert made == arguments
    assert digest(canonical(made)) == digest(canonical(arguments))
    for name, value in arguments.items():
        assert type(made[name]) is type(value)
        if isinstance(value, list | dict):
            assert made[name] is not value
            assert mutable


@runs
@pytest.mark.parametrize("value", [Point(1, ["a"]), Form(x=1, tags=["a"]), [["a"]], {"a": {"b": []}}], ids=repr)
def test_change_of_the_original_does_not_reach_the_copy(value: Any) -> None:
    wanted = digest(canonical(value))
    made, _ = run_copy({"arg": value})
    inner = value
    while not isinstance(inner, list) or (inner and isinstance(inner[0], list)):
        inner = inner["b"] if isinstance(inner, dict) and "b" in inner else inner["a"] if isinstance(inner, dict) else (
            inner[0] if isinstance(inner, list) else inner.tags)  # fmt: skip
    inner.append("evil")
    assert digest(canonical(made["arg"])) == wanted != digest(canonical(value))


@runs
def test_value_that_cannot_be_copied_is_refused_by_name() -> None:
    class NoCopy(dict[str, int]):
        def __deepcopy__(self, memo: Any) -> Any:
            raise RuntimeError("secret text of the value")

    with pytest.raises(NotCanonical, match=r"^arg: .*RuntimeError") as refused:
        run_copy({"arg": NoCopy(a=1)})
    assert "secret text" not in str(refused.value)


def test_immutable_arguments_are_passed_as_they_are() -> None:
    arguments = {"a": 1, "b": "x", "c": DAY, "d": Decimal(1), "e": None, "f": b"x"}
    made, mutable = run_copy(arguments)
    assert not mutable
    assert all(made[name] is value for name, value in arguments.items())
    assert copy.copy(made) is not arguments


def test_frozen_values_are_still_looked_at_again() -> None:
    assert run_copy({"a": Frozen(1)})[1]  # object.__setattr__ changes a frozen one too


@given(st.text())
def test_text_is_nfc_or_it_is_not(text: str) -> None:
    import unicodedata

    assume(not any("\ud800" <= char <= "\udfff" for char in text))
    assert is_nfc(text) is (unicodedata.normalize("NFC", text) == text)


@given(st.dictionaries(st.text(max_size=6), st.one_of(
    st.text(max_size=8), st.integers(), st.booleans(), st.none(), st.floats(), st.decimals(), st.binary(max_size=3),
    st.lists(st.integers(), max_size=2), st.just("x" * 2000), st.just(10**500),
), max_size=6))  # fmt: skip
def test_short_way_to_a_canonical_form_says_what_the_long_way_says(arguments: dict[str, Any]) -> None:
    class Other(dict[str, Any]):
        """A mapping that is walked."""

    assert outcome_of(arguments) == outcome_of(Other(arguments))


def outcome_of(value: Any) -> Any:
    try:
        found = canonical(value)
    except NotCanonical as error:
        return str(error)
    return [(name, type(item), item) for name, item in found.items()] if isinstance(found, dict) else found
