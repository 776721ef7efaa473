"""A call whose parts are measured: for metrics, and for the spans below its own with `spans="full"`."""

from __future__ import annotations

from time import perf_counter, time_ns
from types import TracebackType
from typing import Any, Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Tracer
from opentelemetry.util.types import AttributeValue

from agentguard.model.decision import Decision, Outcome, Reason
from agentguard.model.lease import Lease
from agentguard.telemetry import semconv as name
from agentguard.telemetry.attributes import cut
from agentguard.telemetry.call_span import CallSpan
from agentguard.telemetry.current import Current, dropped, tracer_for
from agentguard.telemetry.metrics import Metrics
from agentguard.telemetry.parts import Past, authorization, failure_of, kind_of
from agentguard.telemetry.pending import Pending
from agentguard.telemetry.phases import NO_PHASE, Phase

_KEPT: Final = ("kept", "active")
_ANSWERS: Final = {Reason.APPROVAL_REQUIRED: "pending", Reason.APPROVAL_EXPIRED: "expired"}
_NANO: Final = 1e9


class WatchedCall(CallSpan):
    """One guarded call, with what was measured of it; it has a span only where spans go somewhere."""

    parts = True

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._metrics: Metrics | None = None
        self.pending: Pending | None = None
        self._source: Tracer | None = None
        self._about: dict[str, AttributeValue] = {}
        self._authorized: tuple[float, str] | None = None
        self._last: Decision | None = None
        self._times = [0, 0]  # of the tool, by the clock
        self._end_of: tuple[str, float, int] | None = None
        self._issues: list[tuple[float, dict[str, AttributeValue]]] = []
        self._revoked: tuple[float, str] | None = None
        self._later: list[Past] = []
        self._ran: float | None = None
        self._tool_began = 0.0
        self.lease_type = ""  # of its credential, also of one that an earlier call obtained

    def watch(self, metrics: Metrics | None, *, full: bool, tool: str, agent: AttributeValue) -> None:
        """Say what the measurements are for.

        Args:
            metrics: where they go; None where nobody measures.
            full: whether parts are spans.
            tool, agent: whom they are about; the agent is empty outside a task.
        """
        self._metrics = metrics
        self._source = tracer_for(None) if full else None
        self._about = {name.GEN_AI_TOOL_NAME: tool, name.GEN_AI_TOOL_TYPE: "function"}
        if agent:
            self._about[name.GEN_AI_AGENT_NAME] = agent

    # --- what the pipeline tells ---------------------------------------------------------------------------------

    @property
    def decision(self) -> Decision | None:
        return self._last

    @decision.setter
    def decision(self, decision: Decision | None) -> None:
        self._last = decision
        if decision is not None and self._authorized is None:  # refused before it came to the decision points
            self.authorized(decision)

    def decided(self, decision: Decision, enforced: bool = True) -> None:
        super().decided(decision, enforced)
        self.decision, self._enforced = decision, enforced  # of a call without a span too

    def authorized(self, decision: Decision, version: str = "", *, told: bool = False) -> None:
        """Note that a call is decided, for now: what follows is approval, credential and gate.

        Args:
            decision: what was decided.
            version: of the policies.
            told: whether a span of its own says so already.
        """
        ended = time_ns()
        self._authorized = (ended - self._started) / _NANO, decision.outcome.value
        if self._source is not None and not told:
            attributes = authorization(decision, version)
            self._later.append(Past(name.AUTHORIZE, self._started, ended, attributes, failure_of(decision.reason)))

    def phase(self, title: str, live: bool = True) -> Phase:
        try:
            return _Watched(self, title, live)
        except Exception as error:
            dropped(error)
            return NO_PHASE

    @property
    def tool_since(self) -> int:
        return self._times[0]

    @tool_since.setter
    def tool_since(self, since: int) -> None:
        self._times[0], self._tool_began = since, perf_counter()

    @property
    def tool_until(self) -> int:
        return self._times[1]

    @tool_until.setter
    def tool_until(self, until: int) -> None:
        self._times[1] = until
        if self._tool_began:
            self._ran, self._tool_began = perf_counter() - self._tool_began, 0.0

    @property
    def release(self) -> tuple[str, float, int] | None:
        return self._end_of

    @release.setter
    def release(self, release: tuple[str, float, int] | None) -> None:
        self._end_of = release
        if release is None or release[0] in _KEPT or not release[2]:
            return
        (status, _, began), ended = release, time_ns()
        self._revoked = (ended - began) / _NANO, status
        if self._source is not None:
            attributes: dict[str, AttributeValue] = {name.AGENTGUARD_CREDENTIAL_REVOCATION_STATUS: status}
            self._later.append(Past(name.CREDENTIAL_REVOKE, began, ended, attributes))

    def issued(self, seconds: float, attributes: dict[str, AttributeValue]) -> None:
        """Note how long a new credential took, or the failure to obtain one."""
        self._issues.append((seconds, attributes))

    def end(self, error_type: str = "", description: str = "", *, cancelled: bool = False) -> None:
        self.outside()  # a tool that has not ended ends now
        try:
            self._begin()
            self._show_past()
            if self._metrics is not None:
                self._measure(self._metrics, error_type)
        except Exception as error:
            dropped(error)
        super().end(error_type, description, cancelled=cancelled)

    # --- what comes of it ----------------------------------------------------------------------------------------

    def context(self) -> Context | None:
        """The current context, with this call's span; None where there is no span."""
        return trace.set_span_in_context(self._span) if self._span is not None else None

    def opened(self, title: str, live: bool) -> Current | None:
        """Begin the span of a part that goes on now, and let what it does nest below it."""
        if self._source is None or not live:
            return None
        self._begin()
        span = Current(self._source, title, self.context(), {name.OPENINFERENCE_SPAN_KIND: kind_of(title)})
        if title == name.AUTHORIZE:
            span.since(self._started)
        span.attach()
        return span

    def _show_past(self) -> None:
        past, self._later = self._later, []
        for part in past:
            part.show(self._source, self.context())

    def _measure(self, metrics: Metrics, error_type: str) -> None:
        context, about, decision = self.context(), self._about, self.decision
        if decision is None:  # given up before anybody decided
            return
        outcome = decision.outcome.value
        total = (time_ns() - self._started - self.outside()) / _NANO
        said = {**about, name.AGENTGUARD_DECISION_OUTCOME: outcome, name.AGENTGUARD_DECISION_ENFORCED: self._enforced}
        said[name.AGENTGUARD_DECISION_REASON] = decision.reason.value
        metrics.note(name.METRIC_AGENTGUARD_DECISIONS, 1, said, context)
        metrics.note(name.METRIC_AGENTGUARD_OVERHEAD_DURATION, total, said, context)
        if self._authorized is not None:
            seconds, outcome = self._authorized
            at_once: dict[str, AttributeValue] = {name.AGENTGUARD_DECISION_OUTCOME: outcome}
            metrics.note(name.METRIC_AGENTGUARD_AUTHORIZE_DURATION, seconds, at_once, context)
        if self._ran is not None and not self._borrowed:  # whoever made the tool's span measures the tool
            failed = {**about, name.ERROR_TYPE: error_type} if error_type else about
            metrics.note(name.METRIC_GEN_AI_EXECUTE_TOOL_DURATION, self._ran, failed, context)
        for seconds, attributes in self._issues:
            metrics.note(name.METRIC_AGENTGUARD_CREDENTIAL_ISSUE_DURATION, seconds, attributes, context)
        if self._revoked is not None and self.lease_type:
            seconds, status = self._revoked
            ended: dict[str, AttributeValue] = {
                name.AGENTGUARD_CREDENTIAL_TYPE: self.lease_type,
                name.AGENTGUARD_CREDENTIAL_REVOCATION_STATUS: status,
            }
            metrics.note(name.METRIC_AGENTGUARD_CREDENTIAL_REVOKE_DURATION, seconds, ended, context)


class _Watched(Phase):
    """One part of a watched call."""

    __slots__ = ("_attributes", "_began", "_cached", "_call", "_decision", "_live", "_span", "_title")

    def __init__(self, call: WatchedCall, title: str, live: bool) -> None:
        self._call, self._title, self._live = call, title, live
        self._began = time_ns()
        self._attributes: dict[str, AttributeValue] = {}
        self._cached = False
        self._decision: tuple[Decision, str] | None = None
        self._span = call.opened(title, live)
        if title == name.APPROVAL and call.pending is not None:
            call.pending.begin(id(call))

    def decided(self, decision: Decision, version: str = "") -> None:
        self._decision = decision, version

    def obtained(self, lease: Lease, cached: bool) -> None:
        self._cached, self._call.lease_type = cached, cut(lease.type)
        self._attributes = {
            name.AGENTGUARD_CREDENTIAL_TYPE: self._call.lease_type, name.AGENTGUARD_CREDENTIAL_CACHED: cached,
        }  # fmt: skip

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._span is not None:
            self._span.detach()
        if self._title == name.APPROVAL and self._call.pending is not None:
            self._call.pending.end(id(self._call))
        try:
            failure = self._ended(error)
            if self._span is not None:
                self._span.add(self._attributes)
                self._span.close(*failure)
        except Exception as mistake:
            dropped(mistake)

    def _ended(self, error: BaseException | None) -> tuple[str, str]:
        reason: Any = getattr(error, "reason", None)
        if self._title != name.APPROVAL and error is not None and not isinstance(error, Exception):
            return "", ""  # the caller gave it up: nothing was decided, nothing failed and nothing is measured
        if self._title == name.AUTHORIZE:
            return self._authorization(reason, error)
        if self._title == name.APPROVAL:
            self._call.apart += time_ns() - self._began
            answer = "approved" if error is None else _ANSWERS.get(reason, "rejected")
            if error is not None and not isinstance(error, Exception):  # the caller gave it up, and nobody answered
                answer = "pending"
            self._attributes[name.AGENTGUARD_APPROVAL_ANSWER] = answer
            return "", ""
        failed = error is not None
        if failed:
            self._attributes = {name.ERROR_TYPE: name.ERROR_CREDENTIAL}
        if not self._cached:
            self._call.issued((time_ns() - self._began) / _NANO, self._attributes)
        return (name.ERROR_CREDENTIAL, "no credential could be had") if failed else ("", "")

    def _authorization(self, reason: Any, error: BaseException | None) -> tuple[str, str]:
        decision, version = self._decision or (None, "")
        if decision is None or error is not None:
            known = reason if isinstance(reason, Reason) else Reason.POLICY_ERROR
            decision = Decision(outcome=Outcome.DENY, reason=known, tool="")
        self._attributes = authorization(decision, version)
        self._call.authorized(decision, version, told=self._span is not None)
        return failure_of(decision.reason)
