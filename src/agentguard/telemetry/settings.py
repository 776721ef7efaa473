"""What a guard tells OpenTelemetry beyond its one span a call."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Literal, TypeAlias

from agentguard.errors import ConfigurationError

Spans: TypeAlias = Literal["compact", "full"]
CAPTURE: Final = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"


class Content(StrEnum):
    """Where arguments and results may stand (OpenTelemetry GenAI conventions)."""

    NO_CONTENT = "NO_CONTENT"
    SPAN_ONLY = "SPAN_ONLY"
    EVENT_ONLY = "EVENT_ONLY"
    SPAN_AND_EVENT = "SPAN_AND_EVENT"

    @property
    def on_spans(self) -> bool:
        """Whether spans carry them."""
        return self in (Content.SPAN_ONLY, Content.SPAN_AND_EVENT)

    @property
    def on_events(self) -> bool:
        """Whether events carry them."""
        return self in (Content.EVENT_ONLY, Content.SPAN_AND_EVENT)


def content_of(environ: Mapping[str, str]) -> Content:
    """Return what the environment asks for; whatever is not one of the four words asks for nothing."""
    try:
        return Content(environ.get(CAPTURE, "").strip().upper())
    except ValueError:
        return Content.NO_CONTENT


@dataclass(frozen=True, slots=True)
class Telemetry:
    """What a guard tells OpenTelemetry; none of it changes what happens to a call.

    Args:
        spans: `compact` is one span a call; `full` adds spans below it for the decision, the question to a person and
            the credential, each of which costs about as much as the call's own.
        events: copy records of denials, approvals and suspensions to the Logs API; the audit log stays the record.
        content: where arguments and results may stand; by default what the environment variable
            `OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT` says when this is made, so mostly nowhere.

    Raises:
        ConfigurationError: `spans` is none of the two words.
    """

    spans: Spans = "compact"
    events: bool = False
    content: Content = field(default_factory=lambda: content_of(os.environ))

    def __post_init__(self) -> None:
        if self.spans not in ("compact", "full"):
            raise ConfigurationError(f'telemetry spans {self.spans!r}: write "compact" or "full"')
