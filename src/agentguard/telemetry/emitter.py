"""What one guard emits: which spans, whether anybody measures, which records are copied as events."""

from __future__ import annotations

from time import monotonic, perf_counter
from typing import TYPE_CHECKING

from agentguard.model.record import Position, Record
from agentguard.ports import AuditSink
from agentguard.telemetry import semconv as name
from agentguard.telemetry.counting import Counting
from agentguard.telemetry.current import dropped
from agentguard.telemetry.metrics import Metrics
from agentguard.telemetry.pending import Pending
from agentguard.telemetry.settings import Telemetry
from agentguard.telemetry.spans import Attributes, CallSpan, start_call
from agentguard.telemetry.watched import WatchedCall

if TYPE_CHECKING:
    from agentguard.telemetry.events import Events


class Emitter:
    """The telemetry of one guard. Nothing of it raises, but for what an audit sink raises.

    Args:
        settings: what is emitted.

    Attributes:
        captures: whether spans show arguments and results.
        quiet_until: until then, in monotonic seconds, `append` does nothing but write the record.
    """

    def __init__(self, settings: Telemetry) -> None:
        self.quiet_until = 0.0
        self.captures = settings.content.on_spans
        self._full = settings.spans == "full"
        self._metrics = Metrics()
        self._pending = Pending()
        self._counting = Counting(self._metrics, self._pending)
        self._events: Events | None = None
        if settings.events:
            from agentguard.telemetry.events import Events

            self._events = Events(settings.content)

    def start_call(self, tool: str, task_attrs: Attributes, tool_attrs: Attributes) -> CallSpan:
        """Begin the span of one call, and the measurements where anybody wants them."""
        full, shown = self._full, not self.captures
        measured = monotonic() >= self.quiet_until and self._listens()
        if not measured and not full:
            return start_call(tool, task_attrs, tool_attrs, None, "", full=False, shown=shown)
        span = start_call(tool, task_attrs, tool_attrs, None, "", kind=WatchedCall, full=full, shown=shown)
        try:
            if isinstance(span, WatchedCall):
                agent = task_attrs.get(name.GEN_AI_AGENT_NAME, "")
                span.watch(self._metrics if measured else None, full=self._full, tool=tool, agent=agent)
                span.pending = self._pending if measured else None
        except Exception as error:
            dropped(error)
        return span

    def _listens(self) -> bool:
        """Whether anybody measures; looked at anew once a second while nobody does."""
        found = self._metrics.on()
        if not found and self._events is None:
            self.quiet_until = self._metrics.look_at
        return found

    def append(self, sink: AuditSink, record: Record) -> Position:
        """Write an audit record, and tell of it once it is written.

        Raises:
            Exception: whatever the sink raises: nothing was written.
        """
        measured = monotonic() >= self.quiet_until and self._listens()
        if not measured and self._events is None:
            return sink.append(record)
        began, position = perf_counter(), None
        try:
            position = sink.append(record)
        finally:
            seconds = perf_counter() - began
            if measured:
                self._written(record, seconds, "written" if position is not None else "failed")
        if self._events is not None:
            self._events.recorded(record, position)
        return position

    def waits(self, question: str, seconds: float) -> None:
        """Count a question that is left waiting, until it is answered, or has expired in so many seconds."""
        if self._metrics.found:
            self._pending.begin(question, seconds)

    def close(self) -> None:
        """Count nothing any more as waiting; the guard is closed."""
        self._pending.clear()

    def answered(self, seconds: float, answer: str) -> None:
        """Measure how long a person took to answer a question that waited."""
        if self._metrics.on():
            self._counting.waited(seconds, answer)

    def _written(self, record: Record, seconds: float, status: str) -> None:
        try:
            known = {name.AGENTGUARD_AUDIT_STATUS: status}
            self._metrics.note(name.METRIC_AGENTGUARD_AUDIT_WRITE_DURATION, seconds, known)
            if status == "written":
                self._counting.recorded(record)
        except Exception as error:
            dropped(error)
