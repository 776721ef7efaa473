"""What the span of one part of a call says, and the part that is shown once it is over."""

from __future__ import annotations

from dataclasses import dataclass, field

from opentelemetry.context import Context
from opentelemetry.trace import StatusCode, Tracer
from opentelemetry.util.types import AttributeValue

from agentguard.model.decision import Decision, Outcome, Reason
from agentguard.telemetry import semconv as name
from agentguard.telemetry.attributes import cut


@dataclass(frozen=True, slots=True)
class Past:
    """A part that is shown when it is over: nothing could nest below it."""

    title: str
    began: int
    ended: int
    attributes: dict[str, AttributeValue] = field(default_factory=dict)
    failure: tuple[str, str] = ("", "")

    def show(self, tracer: Tracer | None, context: Context | None) -> None:
        if tracer is None or context is None:
            return
        known = {**self.attributes, name.OPENINFERENCE_SPAN_KIND: kind_of(self.title)}
        if self.failure[0]:
            known[name.ERROR_TYPE] = self.failure[0]
        span = tracer.start_span(self.title, context, attributes=known, start_time=self.began)
        if self.failure[0]:
            span.set_status(StatusCode.ERROR, self.failure[1])
        span.end(self.ended)


def authorization(decision: Decision, version: str) -> dict[str, AttributeValue]:
    attributes: dict[str, AttributeValue] = {name.AGENTGUARD_DECISION_OUTCOME: decision.outcome.value}
    if decision.outcome is Outcome.DENY:
        attributes[name.AGENTGUARD_DECISION_REASON] = decision.reason.value
    if version:
        attributes[name.AGENTGUARD_POLICY_VERSION] = cut(version)
    return attributes


def failure_of(reason: Reason) -> tuple[str, str]:
    """A deny is a correct answer; an error of a decision point is none."""
    if reason is not Reason.POLICY_ERROR:
        return "", ""
    return name.ERROR_POLICY, "the policy could not be evaluated"


def kind_of(title: str) -> str:
    """The one attribute by which OpenInference's viewers choose their icons."""
    return "GUARDRAIL" if title == name.AUTHORIZE else "CHAIN"
