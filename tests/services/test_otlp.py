"""A real OTLP receiver takes what a guard's calls emit, all three signals, and passes on every part of it."""

from __future__ import annotations

import httpx
import pytest

from tests.services.endpoints import Services
from tests.telemetry.everything import happen
from tests.telemetry.otlp_sink import arrived_whole, needed, sending, sink


def test_a_collector_takes_traces_metrics_and_logs_and_passes_them_on_whole(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed()
    with sink(services.collector.forwards_to) as found:
        with sending(services.collector.url, monkeypatch):
            happen()

        found.wait(lambda: len(found.logs()) > 15 and "agentguard.decisions" in found.metrics())
        found.wait(lambda: any(span.name == "resume researcher" for span in found.spans()))
        arrived_whole(found)


def test_a_collector_refuses_what_is_no_otlp(services: Services) -> None:
    with httpx.Client(trust_env=False) as client:
        answer = client.post(
            f"{services.collector.url}/v1/traces",
            content=b"not a message",
            headers={"Content-Type": "application/x-protobuf"},
        )

    assert 400 <= answer.status_code < 600
