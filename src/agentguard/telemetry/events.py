"""Copies of audit records as events of OpenTelemetry's Logs API, for whoever watches there; off by default.

A log pipeline may sample and drop, so a copy is not a record: `agentguard.decision.id` names the record it was made of.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from time import time_ns
from typing import Any, Final

from opentelemetry import _logs as api
from opentelemetry import trace
from opentelemetry._logs import Logger, LoggerProvider, LogRecord, NoOpLoggerProvider, SeverityNumber
from opentelemetry.context import Context, get_current
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags
from opentelemetry.util.types import AttributeValue

from agentguard.model.record import Position, Record
from agentguard.telemetry import semconv as name
from agentguard.telemetry.attributes import cut, level_text
from agentguard.telemetry.content import content_text
from agentguard.telemetry.current import SCHEMA, dropped
from agentguard.telemetry.settings import Content

_FIELDS: Final[Mapping[str, str]] = {
    "task": name.AGENTGUARD_TASK_ID,
    "agent": name.GEN_AI_AGENT_NAME,
    "tool": name.GEN_AI_TOOL_NAME,
    "intent": name.AGENTGUARD_INTENT_NAME,
    "outcome": name.AGENTGUARD_DECISION_OUTCOME,
    "reason": name.AGENTGUARD_DECISION_REASON,
    "arguments_hash": name.AGENTGUARD_ARGUMENTS_HASH,
    "question": name.AGENTGUARD_APPROVAL_ID,
    "answer": name.AGENTGUARD_APPROVAL_ANSWER,
    "key": name.AGENTGUARD_SUSPENSION_KEY,
    "lease": name.AGENTGUARD_CREDENTIAL_ID,
}
_SEVERITIES: Final = {"info": SeverityNumber.INFO, "warn": SeverityNumber.WARN, "error": SeverityNumber.ERROR}
_PSEUDONYM: Final = "u:"


class Events:
    """Copies the records of one guard. Safe for concurrent use; nothing of it raises.

    Args:
        content: whether arguments that the audit log holds in clear stand in the copies too.
        provider: whose logger to use; default the global one, once the application has set it.
    """

    def __init__(self, content: Content, provider: LoggerProvider | None = None) -> None:
        self._content, self._provider = content, provider

    def recorded(self, record: Record, position: Position) -> None:
        """Copy a record, if it is of a kind that is copied and anybody listens."""
        copy = name.COPIES.get(record.event)
        if copy is None:
            return
        try:
            logger = _logger_of(self._provider or api.get_logger_provider())
            if logger is None:
                return
            fields = record.whole()
            known = _attributes(fields, position, self._content)
            severity = "info" if fields.get("outcome") == "ask" else copy.severity
            logger.emit(LogRecord(
                timestamp=time_ns(), context=_context(fields), severity_number=_SEVERITIES[severity],
                severity_text=severity.upper(), event_name=copy.name,
                attributes={key: value for key, value in known.items() if key in copy.attributes},
            ))  # fmt: skip
        except Exception as error:
            dropped(error)


def _attributes(fields: Mapping[str, Any], position: Position, content: Content) -> dict[str, AttributeValue]:
    attributes: dict[str, AttributeValue] = {name.AGENTGUARD_DECISION_ID: position.id}
    for field, key in _FIELDS.items():
        if value := fields.get(field):
            attributes[key] = cut(str(value))
    if level := fields.get("level"):
        attributes[name.AGENTGUARD_DECISION_LEVEL] = level_text(str(level))
    if chain := fields.get("delegation"):
        attributes[name.AGENTGUARD_DELEGATION_CHAIN_TEXT] = cut(" > ".join(_as_on_spans(chain)))
    if content.on_events and "arguments" in fields:
        attributes[name.GEN_AI_TOOL_CALL_ARGUMENTS] = content_text(fields["arguments"])
    return attributes


def _as_on_spans(chain: Sequence[str]) -> Sequence[str]:
    """Spans show eight digits of a pseudonym, so that one filter finds both."""
    subject, *agents = chain
    return [subject[: len(_PSEUDONYM) + 8] if subject.startswith(_PSEUDONYM) else subject, *agents]


def _context(fields: Mapping[str, Any]) -> Context:
    """The context of the span that the record names: a record is written where that span is not always current."""
    if "trace" not in fields or "span" not in fields:
        return get_current()
    # Sampled, as far as is known here: a filter on sampled traces must not lose a denial.
    ids = int(fields["trace"], 16), int(fields["span"], 16)
    span = NonRecordingSpan(SpanContext(*ids, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED)))
    return trace.set_span_in_context(span)


@lru_cache(maxsize=8)
def _logger_of(provider: LoggerProvider) -> Logger | None:
    """The API's stand-in is looked at anew each time, since a real provider takes its place."""
    if isinstance(provider, NoOpLoggerProvider) or type(provider).__name__ == "ProxyLoggerProvider":
        return None
    return provider.get_logger("agentguard", schema_url=SCHEMA)
