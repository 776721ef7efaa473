"""What one guard emits: which spans, whether anybody measures, which records are copied as events."""

from __future__ import annotations

from collections.abc import Callable
from sys import modules
from time import monotonic, perf_counter
from typing import TYPE_CHECKING, Final

from opentelemetry.context import get_current
from opentelemetry.trace import ProxyTracer, ProxyTracerProvider, Tracer

from agentguard.model.record import Position, Record
from agentguard.ports import AuditSink
from agentguard.telemetry import semconv as name
from agentguard.telemetry.attributes import TaskAttributes
from agentguard.telemetry.call_span import NO_CALL, CallSpan
from agentguard.telemetry.counting import Counting
from agentguard.telemetry.current import dropped, tracer_for
from agentguard.telemetry.enclosing import OPENINFERENCE
from agentguard.telemetry.gauges import Lag
from agentguard.telemetry.metrics import Metrics
from agentguard.telemetry.pending import Pending
from agentguard.telemetry.settings import Telemetry
from agentguard.telemetry.spans import Attributes, start_call
from agentguard.telemetry.watched import WatchedCall

if TYPE_CHECKING:
    from agentguard.telemetry.events import Events


# The API's stand-in: its tracers are stand-ins too for as long as the application has set no provider, and asking it
# costs a third of asking for the provider.
_NO_PROVIDER: Final = ProxyTracerProvider()


class Emitter:
    """The telemetry of one guard. Nothing of it raises, but for what an audit sink raises.

    Args:
        settings: what is emitted.
        behind: how many records of the audit log are not on the disk yet, where that can be told.

    Attributes:
        captures: whether spans show arguments and results.
        quiet_until: until then, in monotonic seconds, `append` does nothing but write the record.
    """

    def __init__(self, settings: Telemetry, behind: Callable[[], int] | None = None) -> None:
        self.quiet_until = 0.0
        self.captures = settings.content.on_spans
        self._full = settings.spans == "full"
        self._plain = not self._full and not self.captures
        self._tracer: Tracer | None = None  # the global provider's, which is set once; looked at anew once a second
        self._known_until = 0.0  # monotonic seconds until which that, and that nobody measures, is taken as known
        self._metrics = Metrics()
        self._pending = Pending()
        self._lag = Lag(behind) if behind is not None else None
        self._counting = Counting(self._metrics, self._pending)
        self._events: Events | None = None
        if settings.events:
            from agentguard.telemetry.events import Events

            self._events = Events(settings.content)

    def start_call(self, tool: str, task_attrs: Attributes, tool_attrs: Attributes) -> CallSpan:
        """Begin the span of one call, and the measurements where anybody wants them."""
        # The short way is for a call that nobody measures, with the span that is made by default, right below its
        # agent's own or below none: there is no framework's span to look for. It makes what `spans.start_call` would.
        if monotonic() < self._known_until and OPENINFERENCE not in modules:
            try:
                context, tracer = get_current(), self._tracer
                if isinstance(task_attrs, TaskAttributes) and (context is task_attrs.home or not context):
                    if tracer is None:
                        if isinstance(_NO_PROVIDER.get_tracer("agentguard"), ProxyTracer):
                            return NO_CALL
                    elif (common := task_attrs.compact.get(tool)) is not None and common.of is tool_attrs:
                        span = CallSpan(tracer, context, common)
                        span._before = context
                        return span
            except Exception as error:
                dropped(error)
        return self._start_call(tool, task_attrs, tool_attrs)

    def _start_call(self, tool: str, task_attrs: Attributes, tool_attrs: Attributes) -> CallSpan:
        full, shown = self._full, not self.captures
        measured = monotonic() >= self.quiet_until and self._listens()
        if not measured:
            self._tracer, self._known_until = self._found(), self.quiet_until if self._plain else 0.0
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

    @staticmethod
    def _found() -> Tracer | None:
        try:
            return tracer_for(None)
        except Exception as error:
            dropped(error)
            return None

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
