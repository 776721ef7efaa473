"""The span of one guarded call: what the guard tells it, and the attributes that become of it.

A call's span begins when its decision is recorded, as the record holds its ids; a sampler sees the decision then, and
what else it is shown (`attributes.SAMPLED`).
"""

from __future__ import annotations

from collections.abc import Mapping
from time import time_ns
from typing import Final

from opentelemetry.context import Context
from opentelemetry.trace import NonRecordingSpan, Span, StatusCode, Tracer
from opentelemetry.util.types import AttributeValue

from agentguard.model.call import ToolCall
from agentguard.model.decision import Decision, Outcome
from agentguard.model.lease import Lease
from agentguard.telemetry import semconv as name
from agentguard.telemetry.attributes import (
    GONE,
    MAX_TEXT,
    CallAttributes,
    decision_attributes,
    decision_error,
    denial,
    lease_attributes,
    release_attributes,
)
from agentguard.telemetry.content import Redacting, arguments_text, content_text
from agentguard.telemetry.current import Current, dropped
from agentguard.telemetry.fill import fill
from agentguard.telemetry.phases import NO_PHASE, Apart, Phase
from agentguard.telemetry.semconv import (
    AGENTGUARD_ARGUMENTS_HASH,
    AGENTGUARD_CREDENTIAL_CACHED,
    AGENTGUARD_CREDENTIAL_ID,
    AGENTGUARD_CREDENTIAL_LIFE,
    AGENTGUARD_DECISION_ID,
    AGENTGUARD_OVERHEAD_DURATION,
    APPROVAL,
    ERROR_TYPE,
    GEN_AI_TOOL_CALL_ID,
    OUTPUT_VALUE,
)
from agentguard.telemetry.summary import MAX_LINE, decision_line, lease_line

# Names of this module: a lookup in an enumeration, and a slice made anew, cost a call more than what is done with them.
_PERMIT: Final = Outcome.PERMIT
_CUT: Final = slice(MAX_TEXT)


class CallSpan(Current):
    """The span of one guarded call.

    What the guard tells is kept as it is, and becomes attributes when the span begins and when it ends: once each. What
    it tells in every call it stores here itself, as a method for each would cost more than what is stored.

    Attributes:
        on: whether anybody is told; where not, whoever calls has to leave it out.
        parts: whether `phase` looks at more than what a person takes; where not, it may be left out too.
        full: whether the span repeats all that stands on its agent's span, and its credential's times.
        apart: nanoseconds that were not the guard's own, beside the tool's.
        call, hash: the call once its arguments are bound, and their keyed hash.
        decision: what was decided; the last one counts. A denial that is enforced marks the span as failed.
        lease, cached: the credential the tool runs with, by its lease, and whether an earlier call obtained it.
        release: how the credential was released (a `LeaseState`, `kept`, or `failed` where it is tried again), at how
            many seconds since the epoch by the clock that the lease was issued by, and at how many nanoseconds since
            the epoch the release began; 0 where nobody looked.
        common: what the span has in common with those of other calls of the tool in the task; None for one without.
        special: it is full, asked about, not enforced or has attributes of its own, and so no short way.
        tool_since, tool_until: from when to when the time was the tool's, in nanoseconds since the epoch.
    """

    on = True
    parts = False
    full = False
    apart = 0
    call: ToolCall | None = None
    hash = ""
    decision: Decision | None = None
    lease: Lease | None = None
    cached = False
    release: tuple[str, float, int] | None = None
    tool_since = tool_until = 0
    common: CallAttributes | None = None
    special = False
    _enforced = True
    _told: tuple[Decision, bool] | None = None  # what the span began with
    _plain: Decision | None = None  # the same, of a span that began by the short way
    _asked = _returned = False

    def __init__(
        self,
        tracer: Tracer | None = None,
        parent: Context | None = None,
        common: CallAttributes | None = None,
        borrowed: Span | None = None,
    ) -> None:
        # All of `Current.__init__`, for less: one is made for every call.
        self._tracer, self._parent, self.common = tracer, parent, common
        self._attributes, self._started = {}, time_ns()
        if tracer is None:
            self._span, self._borrowed, self._idle = borrowed, borrowed is not None, borrowed is None

    def phase(self, title: str, live: bool = True) -> Phase:
        """Return a context manager for one part of the call.

        Args:
            title: `APPROVAL`, `AUTHORIZE` or `CREDENTIAL_ISSUE`.
            live: whether what happens in it nests below it, where it is a span at all.
        """
        return Apart(self) if title == APPROVAL and not self._idle else NO_PHASE

    def captured(
        self, call: ToolCall, result: object = None, returned: bool = False, redactor: Redacting | None = None
    ) -> None:
        """Write arguments and result; only where the application has asked for them.

        Args:
            call: whose arguments, without those that the tool calls secret.
            result: what the tool returned, with live credentials taken out.
            returned: whether it did return.
            redactor: what takes personal data out of records takes it out here.
        """
        if self._idle:
            return
        self._take_the_long_way()
        try:
            shown = arguments_text(call.arguments, call.spec.secret, redactor)
            self._attributes[name.GEN_AI_TOOL_CALL_ARGUMENTS] = shown
            if returned:
                self._attributes[name.GEN_AI_TOOL_CALL_RESULT] = content_text(result, redactor)
                self._returned = True
        except Exception as error:
            dropped(error)

    def decided(self, decision: Decision, enforced: bool = True) -> None:
        """Note a decision that is a question to a person, or is not enforced; any other may be stored.

        Args:
            decision: what was decided.
            enforced: False where it is only observed and the tool runs all the same.
        """
        if self._idle:
            return
        if getattr(decision, "outcome", None) is Outcome.ASK:
            self._asked = True
        self.decision, self._enforced = decision, enforced
        if self._asked or not enforced:
            self._take_the_long_way()

    def add(self, attributes: Mapping[str, AttributeValue]) -> None:
        """Note more of what the span is about."""
        super().add(attributes)
        self._take_the_long_way()

    def _take_the_long_way(self) -> None:
        self.special = True
        if self._plain is not None:
            self._told, self._plain = (self._plain, True), None

    def outside(self) -> int:
        """Nanoseconds that were not the guard's own; a tool that has not ended ends now."""
        if not self.tool_since:
            return self.apart
        if not self.tool_until:
            self.tool_until = time_ns()
        return self.apart + self.tool_until - self.tool_since

    def end(self, error_type: str = "", description: str = "", *, cancelled: bool = False) -> None:
        """End the span, once; a denial that was decided outranks the error it was raised as.

        Args:
            error_type: what went wrong, of low cardinality: `error_type_of(exception)`; empty for success.
            description: a sentence for people, without values or exception text.
            cancelled: the caller gave the call up, which is no failure of it: the span says so and is not marked.
        """
        if self._token is not None:
            self.detach()
        span, told, decision = self._span, self._plain, self.decision
        lease, release, common = self.lease, self.release, self.common
        # The short way is for a call whose span began with what was decided for good: a denial, or a permit whose call
        # came to no error and has released what it was lent; and that shows no result. It writes what `_end` would.
        # A span that was sampled out goes the other way, which writes nothing.
        if (
            span is None or told is None or decision is None or common is None or cancelled
            or decision.outcome is not told.outcome or decision.steps is not told.steps or not decision.id
            or ((error_type or (release is None and lease is not None)) if decision.outcome is _PERMIT
                else (lease is not None or decision.reason is not told.reason or decision.level != told.level))
        ):  # fmt: skip
            self._end(error_type, description, cancelled)
            return
        try:
            until = self.tool_until
            outside = self.apart + until - self.tool_since if until else self.outside()
            spent = max(0, time_ns() - self._started - outside) / 1e9
            if decision.outcome is not _PERMIT:
                self._write_denial(span, decision, spent)
            elif lease is None or release is None:
                fill(span, {
                    OUTPUT_VALUE: "permit", AGENTGUARD_DECISION_ID: decision.id[_CUT],
                    AGENTGUARD_OVERHEAD_DURATION: spent,
                })  # fmt: skip
            else:
                (key, kind, ended, known, line), (status, now, _) = common.ended, release
                if key is not lease.key or kind != lease.type or ended != status:
                    known, line = _lease_ended(lease, status)
                    common.ended = lease.key, lease.type, status, known, line
                known = {
                    **known, AGENTGUARD_CREDENTIAL_ID: lease.id[_CUT], AGENTGUARD_CREDENTIAL_CACHED: self.cached,
                    AGENTGUARD_DECISION_ID: decision.id[_CUT], AGENTGUARD_OVERHEAD_DURATION: spent,
                }  # fmt: skip
                if line:  # it is gone, so it has a life
                    lived = now - lease.issued_at
                    if 0 < lived < 1:
                        known[OUTPUT_VALUE] = f"{line}{lived * 1000:.0f} ms"
                    else:
                        lived = max(0.0, float(lived))
                        known[OUTPUT_VALUE] = f"permit; {lease_line(lease, status, now)}"[:MAX_LINE]
                    known[AGENTGUARD_CREDENTIAL_LIFE] = lived
                fill(span, known)
        except Exception:  # what is no lease, say: the other way writes what it can
            self._end(error_type, description, cancelled)
            return
        self._idle, self._span = True, None
        try:
            span.end()
        except Exception as error:
            dropped(error)

    @staticmethod
    def _write_denial(span: Span, decision: Decision, spent: float) -> None:
        kind, sentence = denial(decision.reason, decision.tool)
        fill(span, {
            OUTPUT_VALUE: decision_line(decision)[:MAX_LINE], ERROR_TYPE: kind,
            AGENTGUARD_DECISION_ID: decision.id[_CUT], AGENTGUARD_OVERHEAD_DURATION: spent,
        })  # fmt: skip
        span.set_status(StatusCode.ERROR, sentence)

    def _begin(self) -> None:
        """INVARIANT: a decision that is known stands on the span from its start, so that a sampler can keep denials."""
        tracer, common, decision = self._tracer, self.common, self.decision
        if tracer is None or common is None:
            return
        self._tracer = shown = None
        # The short way is for a bound call that a step permits, or that is denied, with nobody asked.
        if decision is not None and self.hash and not self.special:
            try:
                permit, shown, rest = common.permit
                if decision is not permit:
                    shown, rest = common.begins(decision)
                if shown is not None:
                    rest = {**rest, AGENTGUARD_ARGUMENTS_HASH: self.hash}
                    if self.call is not None and self.call.call_id:
                        rest[GEN_AI_TOOL_CALL_ID] = self.call.call_id[_CUT]
                    self._plain = decision
            except Exception:  # what is no decision, say: the other way writes what it can
                shown = None
        started = self._started
        if shown is None:
            self._span = tracer.start_span(common.title, self._parent, attributes=self._known(), start_time=started)
        else:
            self._span = span = tracer.start_span(common.title, self._parent, attributes=shown, start_time=started)
            if type(span) is NonRecordingSpan:  # it was sampled out
                self._plain = None
            else:
                fill(span, rest)

    def _known(self) -> dict[str, AttributeValue]:
        """What is known of any call when its span begins."""
        known = {**self.common.known} if self.common is not None else {}
        try:
            known.update(self._bound())
            known.update(self._attributes)
            self._attributes = {}
            if self.decision is not None:
                known.update(decision_attributes(self.decision, self._enforced, asked=self._asked))
                self._told = self.decision, self._enforced
        except Exception as error:
            dropped(error)
        return known

    def _bound(self) -> dict[str, AttributeValue]:
        known: dict[str, AttributeValue] = {}
        if self.hash:
            known[name.AGENTGUARD_ARGUMENTS_HASH] = self.hash
        if self.call is not None and self.call.call_id:
            known[name.GEN_AI_TOOL_CALL_ID] = self.call.call_id[:MAX_TEXT]
        return known

    def _end(self, error_type: str, description: str, cancelled: bool) -> None:
        if self._idle:
            return
        recording = False
        try:
            recording = self._span is not None and self._span.is_recording()
            if recording or self._span is None:
                self._conclude(error_type, description, cancelled)
        except Exception as error:
            dropped(error)
        self._finish(recording=recording)

    def _conclude(self, error_type: str, description: str, cancelled: bool) -> None:
        attributes, decision, lease = self._attributes, self.decision, self.lease
        if self._borrowed:
            attributes.update(self._bound())
        attributes[name.AGENTGUARD_OVERHEAD_DURATION] = max(0, time_ns() - self._started - self.outside()) / 1e9
        if error_type and not cancelled:
            self._error = error_type, description
        if decision is not None:
            if decision.outcome is not Outcome.PERMIT:
                self._error = decision_error(decision, self._enforced) or self._error
            if self._span is not None:
                self._retell(decision)
        became = ""
        if lease is not None:
            attributes.update(lease_attributes(lease, self.cached, full=self.full))
            if self.release is not None:
                status, now, _ = self.release
                attributes.update(release_attributes(lease, status, now))
                became = lease_line(lease, status, now)
        if not self._returned and not self._borrowed:
            attributes[name.OUTPUT_VALUE] = self._line(error_type, cancelled, became)

    def _retell(self, decision: Decision) -> None:
        """Write what is new of the decision: most of the time its id, as it is recorded after the span began."""
        told, enforced = self._told if self._plain is None else (self._plain, True), self._enforced
        same = told is not None and told[1] is enforced and told[0].outcome is decision.outcome
        if told is None or not same or told[0].reason is not decision.reason or told[0].level != decision.level:
            self._attributes.update(decision_attributes(decision, enforced, asked=self._asked))
        elif decision.id:
            self._attributes[name.AGENTGUARD_DECISION_ID] = decision.id[:MAX_TEXT]

    def _line(self, error_type: str, cancelled: bool, became: str) -> str:
        """What came of the call; a framework's span, and one that shows a result, has an output of its own."""
        decision = self.decision
        permitted = decision is not None and decision.outcome is Outcome.PERMIT
        line = (
            "permit" if permitted and not self._asked
            else decision_line(decision, enforced=self._enforced, asked=self._asked)
        )  # fmt: skip
        if cancelled:
            line += "; cancelled"
        elif error_type and (permitted or not self._enforced):  # else it is what the denial was raised as
            line += f"; failed: {error_type}"
        return f"{line}; {became}"[:MAX_LINE] if became else line[:MAX_LINE]


def _lease_ended(lease: Lease, status: str) -> tuple[dict[str, AttributeValue], str]:
    """What the span of a permitted call ends with, not filled in, and what goes before the life of what is gone."""
    line = f"permit; {lease_line(lease, status, lease.issued_at)}"[:MAX_LINE]
    ended = {
        **lease_attributes(lease, cached=False, full=False),
        **release_attributes(lease, status, lease.issued_at),
        name.AGENTGUARD_CREDENTIAL_ID: "", name.AGENTGUARD_DECISION_ID: "",
        name.AGENTGUARD_OVERHEAD_DURATION: 0.0, name.OUTPUT_VALUE: line,
    }  # fmt: skip
    return ended, line.removesuffix("0 ms") if status in GONE else ""


class _NoCall(CallSpan):
    on = False
    ids = "", ""


# Where spans go nowhere all calls share this one: every method of it returns at once.
NO_CALL: Final = _NoCall()
