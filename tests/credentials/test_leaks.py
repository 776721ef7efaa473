"""A live credential is found wherever it is put, and nothing else is touched."""

from __future__ import annotations

import base64
import collections
import dataclasses
import enum
import io
import itertools
import json
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from urllib.parse import quote

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentguard.credentials.leaks import MARK, LiveSecrets, Search, Stream, clean_exception
from agentguard.credentials.needles import shortest_of, watched
from agentguard.model.credential import Issued
from agentguard.model.lease import Lease, LeaseKey, Secret

HEADER = "eyJhbGciOiJFUzI1NiIsInR5cCI6ImF0K2p3dCJ9"
PAYLOAD = base64.urlsafe_b64encode(json.dumps({"sub": "user:alice", "jti": "a-1", "aud": "x"}).encode()).decode()[:-1]
SIGNATURE = "q9-_Zb1t0cX7Jw3mKpLuVfRsEgHdYiTnOaQ4S6U8xW2zC5vB" * 2
JWT = f"{HEADER}.{PAYLOAD}.{SIGNATURE}"
OPAQUE = "s3cr3t-" + "opaque" * 7
PASSWORD = 'p@ss "word" $% ü!'
control = pytest.mark.control("6 a credential is never seen (case 66)")


def live_with(*secrets: str) -> LiveSecrets:
    live = LiveSecrets()
    for number, secret in enumerate(secrets):
        key = LeaseKey("", "user:alice", "t", ("bot",), "pay", "https://api.test", (), "")
        lease = Lease(id=f"lease-{number}", issuer="i", key=key, task="t", issued_at=0, expires_at=30)
        live.add(Issued(lease, Secret(secret)))
    return live


def shown(value: Any) -> str:
    return repr(value)


@dataclasses.dataclass
class Box:
    inside: Any


class Slotted:
    __slots__ = ("__private", "inside")

    def __init__(self, inside: Any, private: Any = None) -> None:
        self.inside, self.__private = inside, private


class Model(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow")
    inside: Any = None


class Loud(dict[str, Any]):
    """A mapping with a field beside its items."""


def loud(inside: Any) -> Loud:
    made = Loud(a=1)
    made.__dict__["inside"] = inside
    return made


def deep(inside: Any) -> Any:
    for _ in range(30):
        inside = [inside]
    return inside


PUT = {
    "bare": lambda s: s,
    "header": lambda s: f"Authorization: Bearer {s}\r\n",
    "url": lambda s: f"https://api.test/cb?token={s}&x=1",
    "json": lambda s: json.dumps({"token": s}),
    "bytes": lambda s: f"x {s} y".encode(),
    "bytearray": lambda s: bytearray(s.encode()),
    "memoryview": lambda s: memoryview(s.encode()),
    "list": lambda s: [1, ["a", s]],
    "tuple": lambda s: (1, s),
    "set": lambda s: {s},
    "dict value": lambda s: {"a": {"b": s}},
    "dict key": lambda s: {s: 1},
    "dict view": lambda s: {"a": s}.values(),
    "deque": lambda s: collections.deque([s]),
    "dataclass": lambda s: Box(s),
    "slots": lambda s: Slotted(s),
    "private slots": lambda s: Slotted(1, s),
    "pydantic": lambda s: Model(inside=s),
    "pydantic extra": lambda s: Model(other=s),  # type: ignore[call-arg]  # extra fields are allowed
    "field of a mapping": loud,
    "deeply nested": deep,
    "exception as a value": lambda s: ValueError(s),
}


@control
@pytest.mark.parametrize("secret", [JWT, OPAQUE], ids=["jwt", "opaque"])
@pytest.mark.parametrize("way", PUT)
def test_secret_is_found_wherever_it_is_put(way: str, secret: str) -> None:
    search = Search(live_with(secret))
    clean = search.value(PUT[way](secret))
    assert search.hits == {"lease-0"}
    for part in (secret, SIGNATURE, PAYLOAD):
        assert part not in shown(clean)
        assert part not in shown(getattr(clean, "__dict__", ""))


@control
@pytest.mark.parametrize("part", [PAYLOAD, SIGNATURE, f"{PAYLOAD}.{SIGNATURE}", f"{HEADER}.{PAYLOAD}"])
def test_payload_alone_and_signature_alone_are_leaks(part: str) -> None:
    search = Search(live_with(JWT))
    assert part not in search.value(f"token part: {part}, end")
    assert search.hits == {"lease-0"}


def test_header_alone_is_no_secret() -> None:
    search = Search(live_with(JWT))
    assert search.value(f"header {HEADER}.") == f"header {HEADER}."
    assert not search.hits


@control
@pytest.mark.parametrize("secret", [JWT, SIGNATURE, OPAQUE], ids=["jwt", "signature", "opaque"])
@pytest.mark.parametrize("before", range(6))
@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode, base64.encodebytes])
def test_base64_of_a_secret_is_found_at_every_alignment(secret: str, before: int, encode: Any) -> None:
    text = encode(b"?" * before + secret.encode() + b"tail").decode()
    for one in {secret, JWT if secret == SIGNATURE else secret}:
        search = Search(live_with(one))
        clean = search.value(f"blob={text};")
        assert search.hits == {"lease-0"}
        assert text not in clean


@control
@pytest.mark.parametrize("before", range(3))
@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
def test_both_alphabets_of_base64_are_known(before: int, encode: Any) -> None:
    secret = "~~~???>>>ooo~?>" * 4
    text = encode(b"?" * before + secret.encode()).decode()
    assert set(text) & set("+/-_")
    search = Search(live_with(secret))
    assert text not in search.value(f"blob: {text}")
    assert search.hits


@control
def test_base64_that_is_percent_encoded_in_a_url_is_found() -> None:
    secret = "~~~???>>>" * 6
    text = quote(base64.b64encode(b"u:" + secret.encode()), safe="")
    assert "%2" in text
    search = Search(live_with(secret))
    assert search.value(f"https://x.test/?basic={text}") == MARK
    assert search.hits


@control
@pytest.mark.parametrize("secret", [PASSWORD, "short-8!"])
def test_secret_of_any_characters_is_found(secret: str) -> None:
    search = Search(live_with(secret))
    assert search.value({"dsn": f"postgres://u:{secret}@db"}) == {"dsn": f"postgres://u:{MARK}@db"}


def test_rest_of_a_text_stays_and_what_was_found_is_named() -> None:
    search = Search(live_with(OPAQUE, JWT))
    assert search.value(f"a {OPAQUE} b {JWT} c") == f"a {MARK} b {MARK} c"
    assert search.hits == {"lease-0", "lease-1"}


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
    max_leaves=20,
)


@given(plain)
def test_value_without_a_secret_comes_back_as_the_very_same_object(value: Any) -> None:
    for wrapped in (value, Box(value), Model(inside=value)):
        search = Search(live_with(JWT, OPAQUE))
        assert search.value(wrapped) is wrapped
        assert not search.hits


@given(plain, st.sampled_from([JWT, OPAQUE, SIGNATURE]))
def test_secret_beside_any_value_is_found(value: Any, secret: str) -> None:
    search = Search(live_with(JWT, OPAQUE))
    assert secret not in repr(search.value([value, {"x": [secret, value]}]))
    assert search.hits


@given(st.text("eyJ.a", max_size=40) | st.text("eyJ.a", min_size=30).map("eyJ{}".format))
def test_no_text_shorter_than_the_shortest_gives_a_secret_away(secret: str) -> None:
    assert shortest_of(secret) == min([len(secret), *map(len, watched(secret))])


def test_dead_secret_is_not_looked_for() -> None:
    live = live_with(JWT)
    live.discard("lease-0")
    assert not live
    assert Search(live).value(JWT) == JWT
    assert Stream(Search(live)).part(JWT) == [JWT]


@control
def test_cycle_that_holds_a_secret_is_replaced_as_a_whole_and_one_without_is_left_alone() -> None:
    clean: dict[str, Any] = {"a": 1}
    clean["self"] = clean
    assert Search(live_with(JWT)).value(clean) is clean
    dirty: dict[str, Any] = {"a": JWT}
    dirty["self"] = dirty
    assert Search(live_with(JWT)).value(dirty) == MARK


@control
def test_second_search_with_the_same_object_finds_the_same_secret_again() -> None:
    search = Search(live_with(JWT))
    box = Box(JWT)
    assert [search.value([box]) for _ in range(2)] == [[MARK], [MARK]]


@control
def test_text_whose_type_lies_about_itself_is_searched() -> None:
    class Liar(str):
        __slots__ = ()

        def __eq__(self, other: object) -> bool:
            return True

        def __len__(self) -> int:
            return 0

        __hash__ = str.__hash__

    assert Search(live_with(JWT)).value(Liar(JWT)) is not JWT
    search = Search(live_with(JWT))
    assert JWT not in [str.__str__(search.value(Liar(JWT)))]
    assert search.hits


@control
def test_what_is_nested_too_deep_to_be_searched_is_not_passed_on() -> None:
    value: Any = [JWT]
    for _ in range(200):
        value = [value]
    assert JWT not in repr(Search(live_with(JWT)).value(value))


def test_graph_of_objects_that_know_each_other_takes_linear_time() -> None:
    boxes = [Box(None) for _ in range(400)]
    for box in boxes:
        box.inside = boxes
    started = time.process_time()
    assert Search(live_with(JWT)).value(boxes[0]) is boxes[0]
    assert time.process_time() - started < 5


@pytest.mark.parametrize("text", ["x" * 1_000_000, "ab cd " * 170_000, (HEADER + "!") * 24_000], ids=len)
def test_megabyte_of_text_is_searched_in_bounded_time(text: str) -> None:
    search = Search(live_with(*[f"{HEADER}.{PAYLOAD[:-3]}{n:03}.{SIGNATURE[:-3]}{n:03}" for n in range(10)]))
    started = time.process_time()
    assert search.value(text) is text
    stream = Stream(search)
    parts = [text[start : start + 4096] for start in range(0, len(text), 4096)]
    assert "".join(part for whole in parts for part in stream.part(whole)) + "".join(stream.end()) == text
    assert time.process_time() - started < 10


# exceptions -----------------------------------------------------------------------------------------------


def raised(make: Any) -> BaseException:
    try:
        make()
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")


def with_cause_and_context() -> None:
    try:
        try:
            raise KeyError(JWT)
        except KeyError:
            raise ValueError(f"context {JWT}")  # noqa: B904  # its context is what the test is about
    except ValueError as context:
        raise RuntimeError("top") from (context.__context__ and TypeError(f"cause {JWT}"))


def in_a_group() -> None:
    raise ExceptionGroup("two", [ValueError("fine"), ExceptionGroup("inner", [OSError(2, "no such file", JWT)])])


def in_a_field() -> None:
    error = ValueError("401")
    error.response = Box(JWT)  # type: ignore[attr-defined]  # as client libraries do
    error.add_note(f"sent {JWT}")
    raise error


class Stubborn(Exception):
    """Cannot be cleaned: its text is made elsewhere, and its field has no setter."""

    def __str__(self) -> str:
        return f"always {JWT}"


RAISING = {
    "argument": lambda: (_ for _ in ()).throw(ValueError(f"401 for {JWT}", {"token": [JWT]})),
    "cause and context": with_cause_and_context,
    "group": in_a_group,
    "field and note": in_a_field,
    "text": lambda: (_ for _ in ()).throw(Stubborn()),
    "file name": lambda: open(f"/nowhere/{JWT}"),  # noqa: SIM115  # it cannot be opened
    "key": lambda: dict[str, str]()[JWT],
    "decoding": lambda: (JWT.encode() + b"\xff").decode(),
    "return value": lambda: next(returning()),
}


def returning() -> Iterator[None]:
    return JWT  # type: ignore[return-value]  # a generator's return value
    yield


def all_of(error: BaseException | None, seen: set[int] | None = None) -> Iterable[BaseException]:
    seen = set() if seen is None else seen
    if error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        for inner in (error.__cause__, error.__context__, *getattr(error, "exceptions", ())):
            yield from all_of(inner, seen)


@control
@pytest.mark.parametrize("way", RAISING)
def test_exception_shows_no_secret_in_text_fields_causes_contexts_or_groups(way: str) -> None:
    search = Search(live_with(JWT))
    clean = clean_exception(raised(RAISING[way]), search)
    assert search.hits == {"lease-0"}
    for link in all_of(clean):
        fields = [getattr(link, name, "") for name in ("filename", "object", "value", "code")]
        assert SIGNATURE not in f"{link} {link!r} {link.args} {vars(link)} {fields}"
    assert SIGNATURE not in "".join(traceback.format_exception(clean))


def test_exception_without_a_secret_is_the_very_same_one() -> None:
    error = raised(lambda: open("/nowhere/at-all"))  # noqa: SIM115  # it cannot be opened
    assert clean_exception(error, Search(live_with(JWT))) is error
    assert error.args == (2, "No such file or directory")


@control
def test_exception_that_cannot_be_read_is_replaced() -> None:
    class Broken(Exception):
        def __str__(self) -> str:
            raise RuntimeError(JWT)

    clean = clean_exception(raised(lambda: (_ for _ in ()).throw(Broken(JWT))), Search(live_with(JWT)))
    assert str(clean) == f"Broken: {MARK}"


def test_exit_or_cancellation_that_cannot_be_cleaned_stays_one() -> None:
    clean = clean_exception(raised(lambda: (_ for _ in ()).throw(SystemExit(JWT))), Search(live_with(JWT)))
    assert isinstance(clean, SystemExit)
    assert SIGNATURE not in str(clean)


@control
def test_locals_of_the_frames_that_raised_show_no_secret() -> None:
    def send() -> None:
        token, headers = JWT, {"Authorization": [f"Bearer {JWT}".encode()]}
        raise ConnectionError(len(token) + len(headers))

    error = clean_exception(raised(send), Search(live_with(JWT)))
    told = "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())
    assert "ConnectionError" in told
    assert SIGNATURE not in told


def test_locals_without_a_secret_stay_for_the_debugger() -> None:
    def send() -> None:
        attempt = "the third attempt"
        raise ConnectionError(len(attempt))

    error = clean_exception(raised(send), Search(live_with(JWT)))
    assert "the third attempt" in "".join(
        traceback.TracebackException.from_exception(error, capture_locals=True).format()
    )


# streams --------------------------------------------------------------------------------------------------


def split(text: Any, points: list[int]) -> list[Any]:
    cuts = [0, *sorted(point % (len(text) + 1) for point in points), len(text)]
    return [text[a:b] for a, b in itertools.pairwise(cuts)]


def streamed(parts: list[Any], live: LiveSecrets) -> tuple[list[Any], set[str]]:
    stream = Stream(Search(live))
    out = [clean for part in parts for clean in stream.part(part)] + stream.end()
    return out, stream.search.hits


FORMS = [
    JWT,
    OPAQUE,
    base64.b64encode(f"u:{JWT}".encode()).decode(),
    base64.urlsafe_b64encode(OPAQUE.encode()).decode(),
]


@control
@given(st.sampled_from(FORMS), st.text(max_size=30), st.text(max_size=30), st.lists(st.integers(0, 2000), max_size=40))
def test_secret_in_a_stream_is_found_however_it_is_split(form: str, before: str, after: str, points: list[int]) -> None:
    out, hits = streamed(split(f"{before} {form} {after}", points), live_with(JWT, OPAQUE))
    whole = "".join(out)
    assert hits
    assert all(secret not in whole for secret in (form, SIGNATURE, PAYLOAD, OPAQUE))
    assert whole.startswith(f"{before} ")
    assert whole.endswith(f" {after}")


@control
@given(st.sampled_from(FORMS), st.binary(max_size=30), st.lists(st.integers(0, 2000), max_size=40))
def test_secret_in_a_stream_of_bytes_is_found_however_it_is_split(form: str, around: bytes, points: list[int]) -> None:
    out, hits = streamed(split(around + b" " + form.encode() + b" " + around, points), live_with(JWT, OPAQUE))
    whole = b"".join(out)
    assert hits
    assert all(secret.encode() not in whole for secret in (form, SIGNATURE, PAYLOAD, OPAQUE))


@given(st.lists(st.text(max_size=12) | st.binary(max_size=12) | st.integers() | st.lists(st.text())))
def test_stream_without_a_secret_is_passed_on_unchanged_and_in_order(parts: list[Any]) -> None:
    out, hits = streamed(parts, live_with(JWT, OPAQUE))
    kinds = [type(part) for part in parts]
    assert not hits
    assert [p for p in out if not isinstance(p, str | bytes)] == [p for p in parts if not isinstance(p, str | bytes)]
    for kind in (str, bytes):
        if kind in kinds:
            assert kind().join(p for p in out if type(p) is kind) == kind().join(p for p in parts if type(p) is kind)


def test_items_of_a_stream_keep_their_boundaries() -> None:
    items = ["name", "the", "file.eyJ", "sea", "s3c", "", b"bytes", "line e"]
    assert streamed(items, live_with(JWT, OPAQUE))[0] == items


class Markup(str):
    """Text of a type of its own, as templates make it: what is added to it is changed."""

    def __radd__(self, other: str) -> str:
        return f"{other}&amp;{self}"


class Chunk(bytes):
    """Bytes of a type of their own."""


class Colour(enum.StrEnum):
    """Text of which there are only so many."""

    RED = "red"
    BLUE = "blue"


@control
@pytest.mark.parametrize("kind", [Markup, lambda text: Chunk(text.encode())], ids=["text", "bytes"])
def test_secret_that_is_split_over_parts_of_a_type_of_their_own_is_found(kind: Callable[[str], Any]) -> None:
    parts = [kind(text) for text in ("the ", *split(JWT, list(range(0, len(JWT), 20))), " end")]
    out, hits = streamed(parts, live_with(JWT))
    whole = b"".join(part if isinstance(part, bytes) else part.encode() for part in out)
    assert hits
    assert SIGNATURE.encode() not in whole
    assert PAYLOAD.encode() not in whole
    assert whole.startswith(b"the ")
    assert whole.endswith(b" end")


def test_parts_of_a_type_of_their_own_are_passed_on_as_they_are() -> None:
    items = [Colour.RED, "red", Markup("blue"), Colour.BLUE, Chunk(b"bytes"), Markup(""), Colour.RED]
    out, hits = streamed(items, live_with(JWT, OPAQUE))
    assert not hits
    assert all(got is item for got, item in zip(out, items, strict=True))


@control
def test_two_secrets_one_after_the_other_and_split_are_both_found() -> None:
    out, hits = streamed([f"{OPAQUE} and {JWT[:50]}", JWT[50:] + " end"], live_with(JWT, OPAQUE))
    assert hits == {"lease-0", "lease-1"}
    assert PAYLOAD not in "".join(out)
    assert OPAQUE not in "".join(out)


@control
def test_structured_parts_of_a_stream_are_searched_too_however_many_there_are() -> None:
    stream = Stream(Search(live_with(JWT)))
    for number in range(3000):
        assert stream.part({"n": number}) == [{"n": number}]
    assert stream.part({"token": JWT}) == [{"token": MARK}]


def test_buffer_is_left_alone() -> None:
    buffer = io.BytesIO(b"nothing")
    assert Search(live_with(JWT)).value(buffer) is buffer
