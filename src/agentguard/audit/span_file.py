"""Reading exported spans: OTLP JSON (a document, or one a line) and what OpenTelemetry's console exporter prints.

Both are an application's output, so nothing in them is believed but what it says about itself; what is no span is
counted, and not passed over in silence.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from agentguard.errors import ConfigurationError

MAX_BYTES: Final = 512 << 20
MAX_SPANS: Final = 2_000_000
_NEXT: Final = re.compile(r"[{\[]")
_HEX: Final = re.compile(r"[0-9a-f]{16}(?:[0-9a-f]{16})?")
_ABOUT: Final = frozenset({"resource", "scope", "schemaUrl"})  # what stands beside the spans of OTLP
_LATEST: Final = 1 << 64  # nanoseconds; OTLP's times have 64 bits
_NUMBERS: Final = {"intValue": int, "doubleValue": float}


@dataclass(frozen=True, slots=True)
class Span:
    """One exported span.

    Args:
        name: of the span.
        trace, span, parent: ids in base16; `parent` is empty for a root.
        start, end: nanoseconds since the epoch.
        attributes: plain values.
        service: the resource's `service.name`.
    """

    name: str
    trace: str
    span: str
    parent: str
    start: int
    end: int
    attributes: Mapping[str, Any] = field(default_factory=dict)
    service: str = ""


@dataclass(slots=True)
class Spans:
    """The spans of a file, and how much of it was none."""

    spans: list[Span] = field(default_factory=list)
    unread: int = 0


def read_spans(path: Path) -> Spans:
    """Read all spans of a file.

    Raises:
        OSError: it cannot be read.
        ConfigurationError: it is larger than 512 MiB, or holds more than two million spans: split it.
    """
    if path.stat().st_size > MAX_BYTES:
        raise ConfigurationError(f"{path} is larger than {MAX_BYTES >> 20} MiB; split it by time")
    found = Spans()
    for document in _documents(path.read_text("utf-8", "replace"), found):
        for make in _made(document):
            try:
                found.spans.append(make())
            except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
                found.unread += 1
            if len(found.spans) > MAX_SPANS:
                raise ConfigurationError(f"{path} holds more than {MAX_SPANS} spans; split it by time")
    return found


def _documents(text: str, found: Spans) -> Iterator[Any]:
    """Every JSON value in a text, one after the other; what stands between them may be other output."""
    decoder, at = json.JSONDecoder(), 0
    while (begin := _NEXT.search(text, at)) is not None:
        try:
            value, at = decoder.raw_decode(text, begin.start())
        except (ValueError, RecursionError):
            found.unread += 1
            end = text.find("\n", begin.start())
            at = len(text) if end < 0 else end
            continue
        yield from value if isinstance(value, list) else (value,)


def _made(document: Any) -> Iterator[Any]:
    if not isinstance(document, dict):
        return
    if isinstance(resources := document.get("resourceSpans"), list):
        yield from _otlp(resources)
    elif "resource_spans" in document:  # another form of OTLP
        yield _unknown
    elif isinstance(document.get("context"), dict) and "trace_id" in document["context"]:
        yield lambda: _console(document)


def _otlp(resources: list[Any]) -> Iterator[Any]:
    for resource in resources:
        scopes = _held(resource, "scopeSpans")
        for scope in [None] if scopes is None else scopes:
            spans = _held(scope, "spans")
            if spans is None:
                yield _unknown
                continue
            about = resource.get("resource")
            for span in spans:
                yield lambda span=span, about=about: _otlp_span(span, about or {})


def _held(holder: Any, name: str) -> list[Any] | None:
    """What an object of OTLP holds under a name; None where it holds something else, as older forms of it do."""
    if not isinstance(holder, dict):
        return None
    held = holder.get(name, None if holder.keys() - _ABOUT else [])
    return held if isinstance(held, list) else None


def _unknown() -> Span:
    raise ValueError("not a form of OTLP that is known here")


def _otlp_span(span: Mapping[str, Any], about: Mapping[str, Any]) -> Span:
    attributes = _pairs(span.get("attributes", []))
    service = str(_pairs(about.get("attributes", [])).get("service.name", ""))
    start, end = int(span["startTimeUnixNano"]), int(span.get("endTimeUnixNano") or 0)
    if not (0 <= start < _LATEST and 0 <= end < _LATEST):
        raise ValueError("no time")
    parent = span.get("parentSpanId") or ""
    return Span(str(span["name"]), _id(span["traceId"]), _id(span["spanId"]), _id(parent) if parent else "",
                start, end, attributes, service)  # fmt: skip


def _pairs(pairs: Any) -> dict[str, Any]:
    return {str(pair["key"]): _plain(pair.get("value", {})) for pair in pairs}


def _plain(value: Mapping[str, Any]) -> Any:
    """An `AnyValue` of OTLP as a plain one; whole numbers stand as text there."""
    for kind, plain in value.items():
        if kind in _NUMBERS:
            return _NUMBERS[kind](plain)
        if kind == "arrayValue":
            return [_plain(item) for item in plain.get("values", ())]
        return plain if kind in ("stringValue", "boolValue") else None
    return None


def _console(span: Mapping[str, Any]) -> Span:
    context, resource = span["context"], span.get("resource") or {}
    parent = span.get("parent_id") or ""
    return Span(
        str(span["name"]), _id(context["trace_id"]), _id(context["span_id"]), _id(parent) if parent else "",
        _moment(span["start_time"]), _moment(span["end_time"]) if span.get("end_time") else 0,
        dict(span.get("attributes") or {}), str((resource.get("attributes") or {}).get("service.name", "")),
    )  # fmt: skip


def _id(text: str) -> str:
    found = text.lower().removeprefix("0x")
    if not _HEX.fullmatch(found):
        raise ValueError("no trace or span id")
    return found


def _moment(text: str) -> int:
    given = datetime.fromisoformat(text)
    at = (given if given.tzinfo else given.replace(tzinfo=UTC)) - datetime.fromtimestamp(0, UTC)
    return ((at.days * 86_400 + at.seconds) * 1_000_000 + at.microseconds) * 1000
