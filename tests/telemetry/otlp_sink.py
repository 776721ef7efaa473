"""An OTLP/HTTP receiver of the tests, which decodes what it is sent with OpenTelemetry's own protobuf; and a sender.

Both need `opentelemetry-exporter-otlp-proto-http`; a test asks for it with `needed()` first.
"""

from __future__ import annotations

import gzip
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from typing import Any

import pytest
from opentelemetry import _logs as logs_api
from opentelemetry import metrics as metrics_api
from opentelemetry import trace
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import SimpleLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

PROTO = "opentelemetry.proto.collector"
EXPORTERS = "opentelemetry.exporter.otlp.proto.http"
SERVICE = "agentguard-tests"
MAX_BODY = 4 * 2**20


def needed() -> None:
    """Skip the test where the exporter is not installed."""
    pytest.importorskip(EXPORTERS)


def _message(path: str) -> Any:
    signal = path.removeprefix("/v1/")
    word = {"traces": "trace", "metrics": "metrics", "logs": "logs"}[signal]
    module = import_module(f"{PROTO}.{word}.v1.{word}_service_pb2")
    return getattr(module, f"Export{word.capitalize()}ServiceRequest")()


def plain(value: Any) -> Any:
    """An attribute's value as Python has it."""
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return tuple(map(plain, value.array_value.values))
    return getattr(value, kind) if kind else None


def attributes(carrier: Any) -> dict[str, Any]:
    """The attributes of whatever has some."""
    return {one.key: plain(one.value) for one in carrier.attributes}


@dataclass
class Sink:
    """What arrived, decoded, from one sender among others."""

    port: int
    messages: list[Any] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def spans(self) -> list[Any]:
        return self._of("resource_spans", "scope_spans", "spans")

    def metrics(self) -> dict[str, Any]:
        return {one.name: one for one in self._of("resource_metrics", "scope_metrics", "metrics")}

    def logs(self) -> list[Any]:
        return self._of("resource_logs", "scope_logs", "log_records")

    def wait(self, enough: Callable[[], bool], seconds: float = 15.0) -> None:
        end = time.monotonic() + seconds
        while not enough():
            assert time.monotonic() < end, f"{len(self.messages)} messages came"
            time.sleep(0.02)

    def _of(self, resources: str, scopes: str, items: str) -> list[Any]:
        groups = [one for message in list(self.messages) for one in getattr(message, resources, ())]
        ours = [group for group in groups if attributes(group.resource).get("service.name") == SERVICE]
        return [item for group in ours for scope in getattr(group, scopes) for item in getattr(scope, items)]


@contextmanager
def sink(port: int = 0) -> Iterator[Sink]:
    """A receiver, by default on a port of its own."""

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(min(int(self.headers["Content-Length"]), MAX_BODY))
            message = _message(self.path)
            message.ParseFromString(gzip.decompress(body) if self.headers["Content-Encoding"] == "gzip" else body)
            found.messages.append(message)
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", port), Receiver)
    found = Sink(server.server_address[1])
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def sending(url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the application send all three signals to a receiver; what is left is sent at the end."""
    resource = Resource.create({"service.name": SERVICE})
    traces = TracerProvider(resource=resource)
    traces.add_span_processor(SimpleSpanProcessor(_exporter("trace_exporter", "OTLPSpanExporter", f"{url}/v1/traces")))
    reader = PeriodicExportingMetricReader(
        _exporter("metric_exporter", "OTLPMetricExporter", f"{url}/v1/metrics"), export_interval_millis=3_600_000
    )
    meters = MeterProvider(metric_readers=[reader], resource=resource)
    logs = LoggerProvider(resource=resource)
    logs.add_log_record_processor(
        SimpleLogRecordProcessor(_exporter("_log_exporter", "OTLPLogExporter", f"{url}/v1/logs"))
    )
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: traces)
    monkeypatch.setattr(trace, "get_tracer", traces.get_tracer)
    monkeypatch.setattr(metrics_api, "get_meter_provider", lambda: meters)
    monkeypatch.setattr(logs_api, "get_logger_provider", lambda: logs)
    try:
        yield
    finally:
        for provider in (traces, meters, logs):
            provider.shutdown()


def _exporter(module: str, kind: str, endpoint: str) -> Any:
    return getattr(import_module(f"{EXPORTERS}.{module}"), kind)(endpoint=endpoint, timeout=5)


def arrived_whole(found: Sink) -> None:
    """Hold what arrived against what was done: the run of tests/telemetry/everything.py."""
    spans = {span.name: span for span in found.spans()}
    call = spans["execute_tool wipe"]
    said = attributes(call)
    assert ("permit", True, "destructive") == (
        said["agentguard.decision.outcome"], said["agentguard.decision.enforced"], said["agentguard.tool.effect"],
    )  # fmt: skip
    assert said["agentguard.delegation.chain"][1:] == ("bot",)
    assert (int, float) == (type(said["agentguard.credential.ttl"]), type(said["agentguard.overhead.duration"]))
    revoked = [span.parent_span_id for span in found.spans() if span.name == "agentguard.credential.revoke"]
    assert {call.span_id, spans["execute_tool told.leak"].span_id} <= set(revoked)
    resumed = [span for span in found.spans() if span.name == "invoke_agent bot" and span.links]
    assert ["resume"] == [attributes(link)["agentguard.link.kind"] for span in resumed for link in span.links]
    denied = [span for span in found.spans() if attributes(span).get("agentguard.decision.outcome") == "deny"]
    assert any(span.status.message.startswith("denied: argument_violation") for span in denied)
    _measured(found, {span.trace_id for span in found.spans()})
    _told(found, {span.trace_id for span in found.spans()})


def _measured(found: Sink, traces: set[bytes]) -> None:
    tool = found.metrics()["gen_ai.execute_tool.duration"]
    assert "s" == tool.unit
    assert [0.01, 81.92] == [tool.histogram.data_points[0].explicit_bounds[edge] for edge in (0, -1)]
    exemplars = [one.trace_id for point in tool.histogram.data_points for one in point.exemplars]
    assert exemplars
    assert set(exemplars) <= traces
    decisions = found.metrics()["agentguard.decisions"].sum
    assert decisions.is_monotonic
    assert {"permit", "ask", "deny"} == {
        attributes(one)["agentguard.decision.outcome"] for one in decisions.data_points
    }
    assert not found.metrics()["agentguard.credentials.active"].sum.is_monotonic


def _told(found: Sink, traces: set[bytes]) -> None:
    denials = [one for one in found.logs() if one.event_name == "agentguard.call.denied"]
    assert {9, 13} == {one.severity_number for one in denials}  # INFO for a question, WARN for a denial
    assert any(one.trace_id in traces for one in denials)
    assert {"agentguard.suspension.set", "agentguard.approval.answered"} <= {one.event_name for one in found.logs()}
