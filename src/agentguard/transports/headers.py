"""A handover in headers: one `Txn-Token` (draft-ietf-oauth-transaction-tokens), with W3C trace context beside it.

The same plain dict serves a queue's message properties. Baggage can be read and changed by everybody on the way, so it
carries no authority, and by default it is not sent.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Final, TypeAlias
from urllib.parse import unquote

from opentelemetry import baggage as otel_baggage
from opentelemetry import context as otel_context
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from agentguard._jwt import MAX_TOKEN, Rejection

HEADER: Final = "Txn-Token"
# Ids of ours that others might read as authority; they leave only where they are asked for.
OUR_IDS: Final = ("agentguard.", "gen_ai.conversation.id")
Headers: TypeAlias = Mapping[str, str] | Iterable[tuple[str | bytes, str | bytes]]
_NAME: Final = HEADER.lower()
_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_TRACE: Final = TraceContextTextMapPropagator()
_BAGGAGE: Final = W3CBaggagePropagator()


def to_headers(token: str, *, baggage: Collection[str] = ()) -> dict[str, str]:
    """Return what is sent with a request or a message: the handover, and the current trace's context.

    Args:
        token: what `Task.export` returned.
        baggage: names of the entries of the current baggage that may leave; none by default.
    """
    carrier = {HEADER: token}
    _TRACE.inject(carrier)
    entries = {name: value for name, value in otel_baggage.get_all().items() if name in baggage}
    if entries:
        context = Context()
        for name, value in entries.items():
            context = otel_baggage.set_baggage(name, value, context)
        _BAGGAGE.inject(carrier, context)
    return carrier


def from_headers(headers: Headers) -> str:
    """Return the one handover in some headers, whatever the case of their names; it is not verified by this.

    Args:
        headers: a mapping, or pairs of text or bytes.

    Raises:
        TokenRejected: there is none, there is more than one, or it has not the form of a token.
    """
    outcome = token_in(headers)
    del headers  # the traceback keeps this frame
    if isinstance(outcome, Rejection):
        raise outcome.raised()
    return outcome


def token_in(headers: Headers) -> str | Rejection:
    """Return the one handover in some headers, or why there is none to use."""
    values = [value for name, value in _pairs(headers) if name == _NAME]
    if not values:
        return Rejection(f"a handover is needed, in the header {HEADER}")
    if len(values) > 1:
        return Rejection(f"there is more than one {HEADER}", "invalid_request")
    # One header with two values, joined by a comma, has no form of a token either.
    if len(values[0]) > MAX_TOKEN or not _TOKEN.fullmatch(values[0]):
        return Rejection(f"the {HEADER} is no token", "invalid_request")
    return values[0]


def trace_of(headers: Headers) -> Context:
    """Return the trace context that some headers name, and nothing else of them: no baggage is taken."""
    carrier: dict[str, str] = {}
    for name, value in _pairs(headers):
        carrier.setdefault(name, value)
    return _TRACE.extract(carrier, otel_context.Context())


def without_our_ids(baggage: str, keep: Collection[str] = ()) -> str:
    """Return a `baggage` header without the ids that this library, or its spans, may have put there.

    Args:
        baggage: the header's value (W3C Baggage).
        keep: names that may leave.
    """
    members = [member.strip() for member in baggage.split(",")]
    return ",".join(member for member in members if member and not _is_ours(member, keep))


def _is_ours(member: str, keep: Collection[str]) -> bool:
    name = unquote(member.partition("=")[0].strip())
    return name not in keep and name.startswith(OUR_IDS)


def _pairs(headers: Headers) -> list[tuple[str, str]]:
    items = headers.items() if isinstance(headers, Mapping) else headers
    return [(_text(name).lower(), _text(value)) for name, value in items]


def _text(value: str | bytes) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)
