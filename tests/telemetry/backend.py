"""A back end of the tests: what the SDK exported, of all three signals."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from opentelemetry import _logs as logs_api
from opentelemetry import metrics as metrics_api
from opentelemetry import trace
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter


@dataclass
class Point:
    """One data point of a metric."""

    attributes: dict[str, Any]
    value: Any  # a count, or the sum of a histogram
    count: int
    bounds: tuple[float, ...]
    exemplars: list[Any]


@dataclass
class Backend:
    """Takes spans, metrics and events."""

    exporter: InMemorySpanExporter = field(default_factory=InMemorySpanExporter)
    reader: InMemoryMetricReader = field(default_factory=InMemoryMetricReader)
    records: InMemoryLogRecordExporter = field(default_factory=InMemoryLogRecordExporter)
    sampler: Any = None

    def __post_init__(self) -> None:
        self.traces = TracerProvider(sampler=self.sampler)
        self.traces.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.meters = MeterProvider(metric_readers=[self.reader])
        self.logs = LoggerProvider()
        self.logs.add_log_record_processor(SimpleLogRecordProcessor(self.records))

    def stand_for_all(self, monkeypatch: pytest.MonkeyPatch) -> Backend:
        """Be what the application has set."""
        monkeypatch.setattr(trace, "get_tracer_provider", lambda: self.traces)
        monkeypatch.setattr(trace, "get_tracer", self.traces.get_tracer)
        monkeypatch.setattr(metrics_api, "get_meter_provider", lambda: self.meters)
        monkeypatch.setattr(logs_api, "get_logger_provider", lambda: self.logs)
        return self

    def close(self) -> None:
        self.traces.shutdown()
        self.meters.shutdown()
        self.logs.shutdown()

    def spans(self, name: str = "") -> list[ReadableSpan]:
        return [span for span in self.exporter.get_finished_spans() if not name or span.name == name]

    def span(self, name: str) -> ReadableSpan:
        (span,) = self.spans(name)
        return span

    def metrics(self) -> dict[str, list[Point]]:
        """What is measured so far, by the metric's name."""
        found: dict[str, list[Point]] = {}
        data: Any = self.reader.get_metrics_data()
        for resource in data.resource_metrics if data is not None else ():
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    found.setdefault(metric.name, []).extend(map(_point, metric.data.data_points))
        return found

    def events(self) -> list[Any]:
        return [one.log_record for one in self.records.get_finished_logs()]


def _point(one: Any) -> Point:
    attributes = dict(one.attributes)
    if hasattr(one, "bucket_counts"):
        return Point(attributes, one.sum, one.count, tuple(one.explicit_bounds), list(one.exemplars))
    return Point(attributes, one.value, one.value, (), list(one.exemplars))
