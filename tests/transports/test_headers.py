"""Handovers in headers: exactly one, trace context beside it, no baggage."""

from __future__ import annotations

import pytest
from opentelemetry import baggage, context, trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from agentguard.errors import TokenRejected
from agentguard.transports.headers import from_headers, to_headers, trace_of, without_our_ids

TOKEN = "eyJhbGciOiJFUzI1NiJ9.e30.c2ln"  # no token of anybody


def test_headers_hold_the_token_and_nothing_else_without_a_trace() -> None:
    assert to_headers(TOKEN) == {"Txn-Token": TOKEN}
    assert from_headers(to_headers(TOKEN)) == TOKEN


@pytest.mark.parametrize("name", ["txn-token", "TXN-TOKEN", b"Txn-Token"])
def test_names_of_headers_have_no_case(name: str | bytes) -> None:
    assert from_headers([(name, TOKEN if isinstance(name, str) else TOKEN.encode())]) == TOKEN


@pytest.mark.control("7 exactly one handover a request")
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": f"Bearer {TOKEN}"},
        {"Txn-Token": ""},
        {"Txn-Token": f"{TOKEN},{TOKEN}"},
        {"Txn-Token": f" {TOKEN}"},
        {"Txn-Token": "a.b"},
        {"Txn-Token": "a" * 20_000},
        [("Txn-Token", TOKEN), ("txn-token", TOKEN)],
    ],
)
def test_none_two_or_a_malformed_one_is_refused(headers: object) -> None:
    with pytest.raises(TokenRejected) as caught:
        from_headers(headers)  # type: ignore[arg-type]  # both forms
    assert TOKEN not in str(caught.value)


def test_trace_context_travels_and_baggage_only_by_name() -> None:
    span = SpanContext(0x1234, 0x5678, is_remote=False, trace_flags=TraceFlags(1))
    current = trace.set_span_in_context(NonRecordingSpan(span))
    current = baggage.set_baggage("agentguard.task.id", "secret", current)
    current = baggage.set_baggage("region", "eu", current)
    token = context.attach(current)
    try:
        plain, named = to_headers(TOKEN), to_headers(TOKEN, baggage=["region"])
    finally:
        context.detach(token)
    assert "baggage" not in plain
    assert named["baggage"] == "region=eu"
    found = trace.get_current_span(trace_of([*plain.items(), ("baggage", "a=b")])).get_span_context()
    assert (found.trace_id, found.span_id) == (0x1234, 0x5678)
    assert not baggage.get_all(trace_of({**plain, "baggage": "a=b"}))


def test_our_ids_are_taken_out_of_baggage_unless_named() -> None:
    value = "agentguard.task.id=1, region=eu;p=1,agentguard%2Etask=2 , gen_ai.conversation.id=3"
    assert without_our_ids(value) == "region=eu;p=1"
    assert without_our_ids(value, ["agentguard.task.id"]) == "agentguard.task.id=1,region=eu;p=1"
