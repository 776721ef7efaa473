"""Attributes of a call's span, put where OpenTelemetry's SDK keeps them: the one place that knows how it does.

The SDK looks at each attribute with three functions of Python; for the thirty of a call that is more than half of what
its span costs. What the guard writes is plain already, so it would be stored as it is. See ADR 0025.

INVARIANT: anything that is not as it is known here is written by the API.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Final

from opentelemetry.attributes import BoundedAttributes
from opentelemetry.trace import Span
from opentelemetry.util.types import AttributeValue

_SDK: Final = "opentelemetry.sdk.trace"
_SAMPLE: Final[dict[str, AttributeValue]] = {
    "text": "permit", "texts": ("u:4be1", "bot"), "flag": True, "whole": 2, "number": 0.5,
}  # fmt: skip


def fill(span: Span, attributes: dict[str, AttributeValue]) -> None:
    """Do what `span.set_attributes(attributes)` does, and nothing, silently, to a span that does not record any more.

    What is written again keeps its place in the order.

    Args:
        span: any span; one of the SDK's own that has not ended, has room and cuts no text is written to directly.
        attributes: under names that are not empty, each a str, bool, int or float, or a tuple of str.
    """
    if _KNOWN and type(span).__module__ == _SDK and getattr(span, "_end_time", 0) is None:
        held: Any = getattr(span, "_attributes", None)
        if type(held) is BoundedAttributes and held.max_value_len is None:
            kept, most = held._dict, held.maxlen
            if most is None or len(kept) + len(attributes) <= most:
                with held._lock:
                    kept.update(attributes)
                return
    if span.is_recording():
        span.set_attributes(attributes)


def _is_known(kind: Any) -> bool:
    """Tell whether the SDK's mapping stores plain attributes as they are, and shows what is put beside them."""
    try:
        held = kind(maxlen=8, attributes=_SAMPLE, immutable=False)
        plain = type(held._dict) in (dict, OrderedDict) and dict(held._dict) == _SAMPLE
        with held._lock:
            held._dict.update(more="text")
        return plain and held.maxlen == 8 and held.max_value_len is None and dict(held) == {**_SAMPLE, "more": "text"}
    except Exception:
        return False


_KNOWN: Final = _is_known(BoundedAttributes)
