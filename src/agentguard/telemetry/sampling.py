"""A sampler for the application's own SDK that drops no denial; the one module that needs OpenTelemetry's SDK."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, SpanKind, TraceState
from opentelemetry.util.types import Attributes

from agentguard.errors import ConfigurationError
from agentguard.telemetry import semconv as name

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.sampling import Sampler, SamplingResult  # noqa: TID251  # for types only

_KEPT: Final = frozenset({"deny", "ask"})


def keep_denials(otherwise: Sampler) -> Sampler:
    """Return a sampler that keeps every call that was denied or asked about, and leaves the others to another sampler.

    Give it to the provider as it is, outermost: `TracerProvider(sampler=keep_denials(ParentBased(...)))`. A denial in a
    trace that is not kept is exported without the spans above it. With `spans="full"` a call that is put to a decision
    point begins its span before it is decided; keep those in the collector, by the same attribute.

    Args:
        otherwise: decides about every other span, such as `ParentBased(TraceIdRatioBased(0.01))`.

    Raises:
        ConfigurationError: OpenTelemetry's SDK is not installed.
    """
    try:
        from opentelemetry.sdk.trace import sampling  # noqa: TID251  # the application's SDK, where it asks for this
    except ImportError:
        sampling = None  # type: ignore[assignment]  # raised outside of the except block
    if sampling is None:
        raise ConfigurationError('keep_denials needs OpenTelemetry\'s SDK: pip install "agentguard[otel]"')

    class KeepDenials(sampling.Sampler):
        def should_sample(
            self, parent_context: Context | None, trace_id: int, name: str, kind: SpanKind | None = None,
            attributes: Attributes = None, links: Sequence[Link] | None = None, trace_state: TraceState | None = None,
        ) -> SamplingResult:  # fmt: skip
            if _is_kept(attributes):
                state = trace.get_current_span(parent_context).get_span_context().trace_state
                return sampling.SamplingResult(sampling.Decision.RECORD_AND_SAMPLE, attributes, state)
            return otherwise.should_sample(parent_context, trace_id, name, kind, attributes, links, trace_state)

        def get_description(self) -> str:
            return f"KeepDenials{{{otherwise.get_description()}}}"

    return KeepDenials()


def _is_kept(attributes: Attributes) -> bool:
    return attributes is not None and attributes.get(name.AGENTGUARD_DECISION_OUTCOME) in _KEPT
