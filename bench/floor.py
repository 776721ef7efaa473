"""The floor F that no guarded call goes below, and the pieces it is made of.

F is one raw Ed25519 signature of 500 bytes and one SDK span with 15 attributes: a credential of its own and a trace of
it are what a call is for. Everything is measured as a ratio to F, in the same process and run.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from bench.harness import Case

SIGNED: Final = b"x" * 500
LINE: Final = b"x" * 599 + b"\n"  # about what a decision takes in the audit log
ATTRIBUTES: Final = {f"attribute.{number}": f"value {number}" for number in range(15)}


class Nowhere(SpanExporter):
    """An exporter that does nothing."""

    def export(self, spans: Any) -> SpanExportResult:
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        return None


def provider() -> TracerProvider:
    """A tracer provider as an application sets it, whose exporter does nothing."""
    made = TracerProvider()
    made.add_span_processor(BatchSpanProcessor(Nowhere(), max_queue_size=65_536, schedule_delay_millis=1000))
    return made


def signature() -> Case:
    """The signature alone."""
    sign = Ed25519PrivateKey.generate().sign
    return lambda: sign(SIGNED)


def span(tracer: trace.Tracer) -> Case:
    """The span alone."""

    def run() -> None:
        with tracer.start_as_current_span("floor", attributes=ATTRIBUTES):
            pass

    return run


def floor(tracer: trace.Tracer) -> Case:
    """F itself."""
    sign = Ed25519PrivateKey.generate().sign

    def run() -> None:
        sign(SIGNED)
        with tracer.start_as_current_span("floor", attributes=ATTRIBUTES):
            pass

    return run


@contextmanager
def synced(bare: Case, folder: Path) -> Iterator[Case]:
    """The floor of a call whose decision has to be on the disk: F, one line written, and one fdatasync."""
    file = os.open(folder / "floor", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def run() -> None:
        bare()
        os.write(file, LINE)
        os.fdatasync(file)

    try:
        yield run
    finally:
        os.close(file)
