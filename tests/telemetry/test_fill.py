"""What is put where the SDK keeps a span's attributes is what it would have stored itself."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.attributes import BoundedAttributes
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, TracerProvider
from opentelemetry.sdk.trace import Span as SdkSpan
from opentelemetry.trace import INVALID_SPAN, NonRecordingSpan, Span, SpanContext

from agentguard.telemetry import fill as room
from agentguard.telemetry.fill import fill
from tests.telemetry.conftest import Traced

KNOWN: dict[str, Any] = {"a": "text", "b": True, "c": 2, "d": 0.5, "e": ("u:4be1", "bot")}
plain = st.dictionaries(
    st.text("abcdefgh", min_size=1, max_size=2),
    st.text(max_size=300) | st.booleans() | st.integers() | st.floats(allow_nan=False)
    | st.lists(st.text(max_size=9), max_size=4).map(tuple),
    max_size=9,
)  # fmt: skip


def limited(**limits: Any) -> Traced:
    return Traced(provider=TracerProvider(span_limits=SpanLimits(**limits)))


def stored(span: Span) -> tuple[dict[str, Any], dict[str, type], int]:
    assert isinstance(span, ReadableSpan)
    known = dict(span.attributes or {})
    return known, {key: type(value) for key, value in known.items()}, span.dropped_attributes


def begun(traced: Traced, **attributes: Any) -> Span:
    return traced.provider.get_tracer("tests").start_span("one", attributes=attributes)


def written(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The spans that are written to by the API from here on."""
    spans, real = [], SdkSpan.set_attributes

    def watched(span: Any, attributes: Any) -> None:
        spans.append(span.name)
        real(span, attributes)

    monkeypatch.setattr(SdkSpan, "set_attributes", watched)
    return spans


def test_spans_of_this_sdk_are_written_to_directly(monkeypatch: pytest.MonkeyPatch) -> None:
    spans, span = written(monkeypatch), begun(Traced(), first=1)
    fill(span, dict(KNOWN))

    assert [] == spans, "the SDK stores attributes in another way than what fill.py knows"
    assert {"first": 1, **KNOWN} == stored(span)[0]


@given(before=plain, first=plain, then=plain, most=st.sampled_from([0, 1, 4, 8, 128, None]),
       longest=st.sampled_from([1, 40, None]))  # fmt: skip
def test_span_says_the_same_whoever_wrote_it(
    before: dict[str, Any], first: dict[str, Any], then: dict[str, Any], most: int | None, longest: int | None
) -> None:
    limits = {"max_span_attributes": most, "max_span_attribute_length": longest}
    ours, theirs = (begun(limited(**limits), **before) for _ in range(2))
    for attributes in (first, then):
        fill(ours, attributes)
        theirs.set_attributes(attributes)

    said, expected = stored(ours), stored(theirs)
    assert (len(expected[0]), expected[2] > 0) == (len(said[0]), said[2] > 0)
    # What is written twice is the newest to the SDK, and stays where it was here: others may be dropped for it.
    assert said[2] or expected == said


@pytest.mark.parametrize("limits", [{"max_span_attributes": 5}, {"max_span_attribute_length": 300}])
def test_span_with_less_room_is_written_to_by_the_api(monkeypatch: pytest.MonkeyPatch, limits: dict[str, int]) -> None:
    spans, span = written(monkeypatch), begun(limited(**limits), first=1)
    fill(span, dict(KNOWN))

    assert ["one"] == spans


def test_span_that_has_ended_keeps_what_it_ended_with_and_nobody_is_warned(caplog: pytest.LogCaptureFixture) -> None:
    span = begun(Traced(), first=1)
    span.end()
    fill(span, dict(KNOWN))

    assert {"first": 1} == stored(span)[0]
    assert [] == caplog.records


def test_another_span_is_told_by_its_own_method() -> None:
    class Wrapped(NonRecordingSpan):
        told: dict[str, Any] | None = None
        _attributes, _end_time = BoundedAttributes(immutable=False), None

        def is_recording(self) -> bool:
            return True

        def set_attributes(self, attributes: Any) -> None:
            self.told = attributes

    span = Wrapped(SpanContext(1, 1, is_remote=False))
    fill(span, dict(KNOWN))
    fill(INVALID_SPAN, dict(KNOWN))

    assert span.told == KNOWN
    assert {} == dict(span._attributes)


def test_threads_that_write_to_one_span_lose_nothing() -> None:
    span, start = begun(Traced()), threading.Barrier(4)

    def write(thread: int) -> None:
        start.wait(5)
        for number in range(30):
            (fill if thread % 2 else type(span).set_attributes)(span, {f"{thread}.{number}": number})

    threads = [threading.Thread(target=write, args=[number]) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)

    assert 120 == len(stored(span)[0])


class Cleans(BoundedAttributes):
    """A later SDK might keep texts in another form."""

    def __init__(self, maxlen: Any = None, attributes: Any = None, immutable: bool = True) -> None:
        super().__init__(maxlen, {key: str(value) for key, value in (attributes or {}).items()}, immutable)


class Elsewhere(BoundedAttributes):
    """Or in another place, and leave the old one for whoever reads it."""

    def __iter__(self) -> Any:
        return iter(("text",))


class Renamed:
    def __init__(self, maxlen: Any = None, attributes: Any = None, immutable: bool = True) -> None:
        self.values = attributes


@pytest.mark.parametrize("kind", [Cleans, Elsewhere, Renamed, dict, None])
def test_sdk_that_keeps_attributes_otherwise_is_not_known(kind: Any) -> None:
    assert room._is_known(BoundedAttributes)
    assert not room._is_known(kind)


def test_where_the_sdk_is_not_known_spans_are_written_to_by_the_api(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_KNOWN", False)
    spans, span = written(monkeypatch), begun(Traced())
    fill(span, dict(KNOWN))

    assert ["one"] == spans
    assert stored(span)[0] == KNOWN
