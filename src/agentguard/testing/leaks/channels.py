"""The channels that a run writes to while nobody looks: logging, warnings, the terminal, OpenTelemetry."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from agentguard.testing.leaks.sweep import Sweep


class _Records(logging.Handler):
    """Keeps every log record: its text, its arguments and fields, and its exception for later."""

    def __init__(self, sweep: Sweep) -> None:
        super().__init__(logging.NOTSET)
        self._sweep = sweep
        self._messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        where = f"log record of {record.name}"
        fields = {name: value for name, value in vars(record).items() if name != "exc_info"}
        self._sweep.keep(f"{where}, its fields", repr(fields))
        try:
            message, formatted = record.getMessage(), logging.Formatter().format(record)
        except Exception:  # its arguments do not fit its text: whoever logs it goes on, as without a sweep
            self.handleError(record)
        else:
            self._messages.append(message)
            self._sweep.keep(where, message)
            self._sweep.keep(f"{where}, formatted", formatted)
        if record.exc_info and record.exc_info[1] is not None:
            self._sweep.look(f"{where}, its exception", record.exc_info[1])

    def put_together(self) -> None:
        self._sweep.keep("the log's messages, put together", "".join(self._messages))


@contextmanager
def logged(sweep: Sweep) -> Iterator[None]:
    """All loggers that propagate, from DEBUG on; a level that a logger sets itself stays."""
    root, records = logging.getLogger(), _Records(sweep)
    level = root.level
    root.addHandler(records)
    root.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        root.setLevel(level)
        root.removeHandler(records)
        records.put_together()


@contextmanager
def warned(sweep: Sweep) -> Iterator[None]:
    """Warnings that are shown; one that is an error raises."""
    before = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        sweep.look(f"a {category.__name__}", str(message))
        before(message, category, *where, **more)

    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = before


class _Tee:
    """Passes on what is printed, and keeps it."""

    def __init__(self, stream: Any, written: list[str] | None = None) -> None:
        self._stream: Any = stream
        self.written: list[str] = [] if written is None else written

    def write(self, text: Any) -> Any:
        self.written.append(text if isinstance(text, str) else bytes(text).decode("utf-8", "replace"))
        return self._stream.write(text)

    def writelines(self, lines: Iterable[Any]) -> None:
        for line in lines:
            self.write(line)

    @property
    def buffer(self) -> Any:
        """Below the text, for whoever writes bytes."""
        return _Tee(self._stream.buffer, self.written)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def printed(sweep: Sweep) -> Iterator[None]:
    """Standard output and error of this process, so far as Python writes them."""
    before = sys.stdout, sys.stderr
    tees = _Tee(sys.stdout), _Tee(sys.stderr)
    sys.stdout, sys.stderr = tees
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
        for name, tee in zip(("standard output", "standard error"), tees, strict=True):
            sweep.keep(name, "".join(tee.written))


@contextmanager
def traced(sweep: Sweep) -> Iterator[None]:
    """Spans, and the baggage they began with, where a provider of the OpenTelemetry SDK is set."""
    from opentelemetry import baggage, trace

    provider = trace.get_tracer_provider()
    if not hasattr(provider, "add_span_processor"):
        yield
        return
    from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor  # noqa: TID251  # the application has set it

    running = True

    class Ended(SpanProcessor):
        def on_start(self, span: Span, parent_context: Any = None) -> None:
            if running:
                sweep.keep("baggage", repr(dict(baggage.get_all(parent_context))))

        def on_end(self, span: ReadableSpan) -> None:
            if running:
                _keep_span(sweep, span)

    provider.add_span_processor(Ended())
    try:
        yield
    finally:
        running = False  # a processor cannot be taken away again


def _keep_span(sweep: Sweep, span: Any) -> None:
    where = f"span {span.name}"
    sweep.keep(where, span.to_json())
    sweep.keep(f"{where}, its attributes", repr(dict(span.attributes or {})))
    for event in span.events:
        sweep.keep(f"{where}, event {event.name}", repr(dict(event.attributes or {})))


@contextmanager
def emitted(sweep: Sweep) -> Iterator[None]:
    """Log records of OpenTelemetry, where a provider of its SDK is set."""
    from opentelemetry import _logs

    provider: Any = _logs.get_logger_provider()
    if not hasattr(provider, "add_log_record_processor"):
        yield
        return
    from opentelemetry.sdk._logs import LogRecordProcessor  # noqa: TID251  # the application has set it

    running = True

    class Emitted(LogRecordProcessor):
        def on_emit(self, log_record: Any) -> None:
            if running:
                record = getattr(log_record, "log_record", log_record)
                parts = [getattr(record, name, None) for name in ("event_name", "body", "attributes")]
                sweep.keep("OpenTelemetry log record", repr([parts[0], parts[1], dict(parts[2] or {})]))

        emit = on_emit  # its name in older releases of the SDK

        def shutdown(self) -> None:
            pass

        def force_flush(self, timeout_millis: int = 30_000) -> bool:
            return True

    provider.add_log_record_processor(Emitted())
    try:
        yield
    finally:
        running = False


CHANNELS: Final[tuple[Callable[[Sweep], AbstractContextManager[None]], ...]] = (
    logged, warned, printed, traced, emitted,
)  # fmt: skip
