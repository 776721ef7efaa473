"""The API's own span says which token it was called with, so that a dead one in use is found in traces."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from agentguard.audit.bypass import CREDENTIALS
from agentguard.errors import TokenRejected
from agentguard.keys import SigningKey
from agentguard.resource_server.tracing import CREDENTIAL_ID
from agentguard.telemetry import semconv
from tests.resource_server.forging import NOW, claims, header, sign, token
from tests.resource_server.forging import verifier as of


def attributes_of(text: str, **options: Any) -> dict[str, Any]:
    """What the server's span says after a token was looked at."""
    spans, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    with provider.get_tracer("api").start_as_current_span("GET /refunds"):
        try:
            of(**options).verify(text, NOW)
        except TokenRejected:
            pass
    (span,) = spans.get_finished_spans()
    return dict(span.attributes or {})


def test_span_of_the_api_carries_the_id_of_the_token_and_nothing_else_of_it() -> None:
    assert attributes_of(token()) == {"agentguard.credential.id": "j-1"}


@pytest.mark.control("a dead credential in use is found")
def test_span_of_a_request_with_a_revoked_token_carries_its_id() -> None:
    assert attributes_of(token(), revoked=lambda iss, jti: True) == {"agentguard.credential.id": "j-1"}


def test_id_that_nobody_vouches_for_stands_on_no_span() -> None:
    assert attributes_of(sign(claims(), header(), SigningKey.generate())) == {}
    assert attributes_of("no.token.at-all") == {}


def test_name_is_the_one_of_the_convention_and_of_the_search() -> None:
    assert CREDENTIAL_ID == semconv.AGENTGUARD_CREDENTIAL_ID
    assert CREDENTIAL_ID in CREDENTIALS


def test_long_id_is_cut_and_no_span_is_no_error() -> None:
    assert len(attributes_of(token(jti="j" * 1000))["agentguard.credential.id"]) == 256
    assert not trace.get_current_span().is_recording()
    assert of().verify(token(), NOW).jti == "j-1"
