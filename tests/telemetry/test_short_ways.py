"""The short ways of a call's span, which nearly all calls take, make what the long ones would."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.sampling import Decision as Sampling
from opentelemetry.sdk.trace.sampling import Sampler, SamplingResult
from opentelemetry.trace import ProxyTracerProvider

from agentguard.model.call import ToolCall, ToolSpec
from agentguard.model.decision import Decision, Outcome, Reason
from agentguard.model.lease import Lease, LeaseKey, LeaseState
from agentguard.telemetry import emitter as emitter_module
from agentguard.telemetry import enclosing
from agentguard.telemetry import semconv as name
from agentguard.telemetry.attributes import SAMPLED, TaskAttributes, tool_attributes
from agentguard.telemetry.emitter import Emitter
from agentguard.telemetry.settings import Content, Telemetry
from agentguard.telemetry.spans import CallSpan, start_agent, start_call
from tests.telemetry.conftest import Traced

SPEC = ToolSpec(name="refund.create", audience="https://payments.test", scopes=("a:w", "a:r"))
TOOL = tool_attributes(SPEC)
LONGEST = st.text("ab:é", max_size=300)

permits = st.builds(
    Decision, outcome=st.just(Outcome.PERMIT), reason=st.just(Reason.DECLARED), tool=st.just(SPEC.name),
    steps=st.lists(LONGEST, max_size=3).map(tuple), level=st.sampled_from(["", "policy:1"]),
)  # fmt: skip
denials = st.builds(
    Decision, outcome=st.just(Outcome.DENY), reason=st.sampled_from(Reason), tool=st.just(SPEC.name),
    steps=st.lists(LONGEST, max_size=1).map(tuple), level=st.one_of(LONGEST, st.just("subject:alice")),
)  # fmt: skip
questions = st.builds(
    Decision, outcome=st.just(Outcome.ASK), reason=st.just(Reason.APPROVAL_REQUIRED), tool=st.just(SPEC.name)
)


def called(call_id: str) -> ToolCall:
    return ToolCall(id="c1", spec=SPEC, arguments={}, given=frozenset(), digest="d", call_id=call_id)


decisions = st.one_of(permits, permits, denials, questions)
leases = st.builds(
    Lease, id=LONGEST, issuer=st.just("local"), task=st.just("task_77"), type=LONGEST,
    key=st.builds(
        LeaseKey, tenant=st.just(""), subject=st.just("user:alice"), root=st.just("task_77"), chain=st.just(("a",)),
        tool=st.just(SPEC.name), audience=LONGEST, scopes=st.lists(LONGEST, max_size=2).map(tuple),
        resource=st.just(""),
    ),
    issued_at=st.floats(0, 2e9), expires_at=st.just(2e9),
)  # fmt: skip
releases = st.tuples(
    st.sampled_from(["kept", "failed", "irrevocable", *LeaseState]), st.floats(-1, 200), st.just(0)
)  # fmt: skip


def told(decision: Decision, number: str, **changed: Any) -> Decision:
    """The decision as it is once it is recorded."""
    was = {field: getattr(decision, field) for field in decision.__struct_fields__}
    return Decision(**{**was, "id": number, **changed})


def told_of(span: ReadableSpan) -> tuple[Any, ...]:
    """All that a span says, but for its own ids and times."""
    known = dict(span.attributes or {})
    assert isinstance(known.pop(name.AGENTGUARD_OVERHEAD_DURATION), float)
    types = {key: type(value) for key, value in known.items()}
    return span.name, known, types, span.status.status_code, span.status.description, span.links, span.events


@given(
    first=decisions, number=st.sampled_from(["a1:17", "a1:18", ""]), lease=st.none() | leases,
    release=st.none() | releases, call=st.none() | LONGEST.map(called), cached=st.booleans(),
    arguments_hash=st.sampled_from(["hmac-sha256:b7e4", ""]), error=st.sampled_from(["", "", "ValueError"]),
    cancelled=st.booleans(), later=st.none() | decisions, shares=st.booleans(),
)  # fmt: skip
def test_short_way_says_what_the_long_one_says(
    first: Decision, number: str, lease: Lease | None, release: tuple[str, float, int] | None, call: ToolCall | None,
    arguments_hash: str, cached: bool, error: str, cancelled: bool, later: Decision | None, shares: bool,
) -> None:  # fmt: skip
    traced, task, said = Traced(), TaskAttributes({name.GEN_AI_AGENT_NAME: "bot"}), []
    for long in (False, False, True):
        span = start_call(
            SPEC.name, task if shares else TaskAttributes(dict(task)), TOOL, call, arguments_hash,
            provider=traced.provider, full=False,
        )  # fmt: skip
        span.special = long
        span.decision = first
        assert all(span.ids)
        span.lease, span.cached = lease, cached
        if release is not None:
            at = lease.issued_at if lease is not None else 0.0
            span.release = release[0], at + release[1], 0
        span.decision = told(first if later is None else later, number)
        span.end(error, "a sentence", cancelled=cancelled)
        said.append(told_of(traced.only()))
        traced.exporter.clear()

    assert said[2] == said[0]
    assert said[2] == said[1]


def decision(outcome: Outcome, reason: Reason = Reason.DECLARED, **more: Any) -> Decision:
    return Decision(outcome=outcome, reason=reason, tool=SPEC.name, **more)


VARIED = {
    "permit": decision(Outcome.PERMIT),
    "step": decision(Outcome.PERMIT, steps=("s",)),
    "other step": decision(Outcome.PERMIT, steps=("other",)),
    "other level": decision(Outcome.PERMIT, steps=("other",), level="policy:1"),
    "deny": decision(Outcome.DENY),
    "deny at": decision(Outcome.DENY, level="bot"),
    "deny for": decision(Outcome.DENY, Reason.SUSPENDED),
    "deny step": decision(Outcome.DENY, steps=("s",)),
    "ask": decision(Outcome.ASK, Reason.APPROVAL_REQUIRED),
}


def permitted(traced: Traced, long: bool) -> CallSpan:
    """The span of a call that a step permits, begun, which takes the long ways or may take the short ones."""
    span = start_call(SPEC.name, TaskAttributes({}), TOOL, None, "h", provider=traced.provider, full=False)
    span.special = long
    span.decision = VARIED["step"]
    assert all(span.ids)
    return span


@pytest.mark.parametrize("between", ["", "asked", "observed", "failed to release", "not recorded"])
@pytest.mark.parametrize("later", VARIED)
@pytest.mark.parametrize("first", VARIED)
def test_short_way_says_what_the_long_one_says_of_what_comes_after_the_span_began(
    traced: Traced, lease: Lease, first: str, later: str, between: str
) -> None:
    said = []
    for long in (False, True):
        span = start_call(SPEC.name, TaskAttributes({}), TOOL, None, "h", provider=traced.provider, full=False)
        span.special = long
        span.decided(VARIED[first])
        assert all(span.ids)
        if between == "asked":
            span.decided(VARIED["ask"])
        if between == "observed":
            span.decided(VARIED[first], enforced=False)
        if between == "failed to release":
            span.lease = lease
        span.decision = told(VARIED[later], "" if between == "not recorded" else "a1:17")
        span.end()
        said.append(told_of(traced.only()))
        traced.exporter.clear()

    assert said[1] == said[0]


class Seen(Sampler):
    """Keeps what it was asked about."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []

    def should_sample(
        self, parent_context: Any, trace_id: int, name: str, kind: Any = None, attributes: Any = None,
        links: Any = None, trace_state: Any = None,
    ) -> SamplingResult:  # fmt: skip
        self.asked.append({"name": name, "kind": kind, "links": links, **(attributes or {})})
        return SamplingResult(Sampling.RECORD_AND_SAMPLE, attributes)

    def get_description(self) -> str:
        return "seen"


@pytest.mark.parametrize("before", ["", "asked", "observed", "recorded", "captured"])
@pytest.mark.parametrize("first", VARIED)
def test_sampler_sees_what_it_decides_by_whichever_way(first: str, before: str) -> None:
    seen, said = Seen(), []
    for long in (False, True):
        traced, call = Traced(provider=TracerProvider(sampler=seen)), called("call_2")
        span = start_call(SPEC.name, TaskAttributes({}), TOOL, call, "h", provider=traced.provider, full=False)
        if before == "asked":
            span.decided(VARIED["ask"])
        if before == "captured":
            span.captured(call)
        span.decided(told(VARIED[first], "a1:17" if before == "recorded" else ""), enforced=before != "observed")
        span.special = span.special or long
        assert all(span.ids)
        span.decision = told(VARIED[first], "a1:17")
        span.end()
        said.append(told_of(traced.only()))

    shown, everything = seen.asked
    assert {"name", "kind", "links"} | (SAMPLED & set(everything)) <= set(shown)
    assert shown.items() <= everything.items()
    assert said[1] == said[0]


def test_sampler_cannot_write_what_the_next_span_begins_with() -> None:
    class Writes(Seen):
        def should_sample(self, *given: Any, **named: Any) -> SamplingResult:
            attributes: Any = named.get("attributes", given[4] if len(given) > 4 else None)
            with suppress(TypeError):
                attributes[name.AGENTGUARD_DECISION_OUTCOME] = "permit"
            return super().should_sample(*given, **named)

    task, traced = TaskAttributes({}), Traced(provider=TracerProvider(sampler=Writes()))
    for _ in range(2):
        span = start_call(SPEC.name, task, TOOL, None, "h", provider=traced.provider, full=False)
        span.decision = VARIED["deny at"]
        assert all(span.ids)
        span.decision = told(VARIED["deny at"], "a1:17")
        span.end()

    assert ["deny", "deny"] == [
        (span.attributes or {})[name.AGENTGUARD_DECISION_OUTCOME] for span in traced.exporter.get_finished_spans()
    ]


def test_full_span_takes_the_long_ways(traced: Traced, watched_ways: list[str], lease: Lease) -> None:
    span = start_call(SPEC.name, TaskAttributes({}), TOOL, None, "h", provider=traced.provider, full=True)
    span.decision = VARIED["step"]
    assert all(span.ids)
    span.lease, span.release = lease, ("revoked", 1002.5, 0)
    span.decision = told(VARIED["step"], "a1:17")
    span.end()

    assert ["_known", "_end"] == watched_ways
    assert 30 == (traced.only().attributes or {})[name.AGENTGUARD_CREDENTIAL_TTL]


def test_what_is_kept_of_one_lease_is_said_of_no_other(traced: Traced, lease: Lease) -> None:
    elsewhere = msgspec.structs.replace(lease.key, audience="https://other.test", scopes=())
    others = (
        lease,
        msgspec.structs.replace(lease, type="login"),
        msgspec.structs.replace(lease, type="login", key=elsewhere),
    )
    said = []
    for long in (False, True):
        task = TaskAttributes({})
        for number, held in enumerate(others):
            span = start_call(SPEC.name, task, TOOL, None, "h", provider=traced.provider, full=False)
            span.special = long
            span.decision = VARIED["step"]
            assert all(span.ids)
            span.lease, span.cached, span.release = held, number == 1, ("revoked", 1000.5, 0)
            span.decision = told(VARIED["step"], "a1:17")
            span.end()
        said.append([told_of(span) for span in traced.exporter.get_finished_spans()])
        traced.exporter.clear()
        if not long:
            *_, kept, _ = task.compact[SPEC.name].ended
            assert "" == kept[name.AGENTGUARD_CREDENTIAL_ID], "a span wrote on what the next one begins with"

    assert said[1] == said[0]


def test_what_is_kept_of_one_decision_is_said_of_no_other(traced: Traced) -> None:
    every = [VARIED[key] for key in VARIED for _ in range(2)]
    pairs = [decision for first in VARIED for later in VARIED for decision in (VARIED[first], VARIED[later])]
    said = []
    for long in (False, True):
        task = TaskAttributes({})
        for number, decided in enumerate((*every, *pairs)):
            call = called("" if number % 3 else "call_2")
            span = start_call(SPEC.name, task, TOOL, call, f"h{number}", provider=traced.provider, full=False)
            span.special = long
            span.decision = decided
            assert all(span.ids)
            span.decision = told(decided, f"a1:{number}")
            span.end()
        said.append([told_of(span) for span in traced.exporter.get_finished_spans()])
        traced.exporter.clear()

    assert said[1] == said[0]


@pytest.mark.parametrize("first", ["step", "deny at"])
def test_decision_that_is_known_anew_is_looked_at_anew(traced: Traced, first: str) -> None:
    said = []
    for long in (False, True):
        task = TaskAttributes({})
        for number in ("", "a1:17"):  # recorded only after the span began, and before
            span = start_call(SPEC.name, task, TOOL, None, "h", provider=traced.provider, full=False)
            span.special = long
            span.decision = told(VARIED[first], number)
            assert all(span.ids)
            said.append(dict(getattr(span._span, "attributes")))  # noqa: B009  # the SDK's
            span.end()
        traced.exporter.clear()

    assert said[2:] == said[:2]
    assert [False, True] == [name.AGENTGUARD_DECISION_ID in known for known in said[:2]]


@pytest.mark.parametrize("before", [False, True])
def test_what_is_added_to_the_span_of_a_call_stands_on_it(traced: Traced, before: bool) -> None:
    span = start_call(SPEC.name, TaskAttributes({}), TOOL, None, "h", provider=traced.provider, full=False)
    span.decision = VARIED["step"]
    if before:
        span.add({"more": 1})
    assert all(span.ids)
    if not before:
        span.add({"more": 1})
    span.decision = told(VARIED["step"], "a1:17")
    span.end()

    known = traced.only().attributes or {}
    assert (1, "a1:17", "s") == (
        known["more"], known[name.AGENTGUARD_DECISION_ID], known[name.AGENTGUARD_INTENT_STEP],
    )  # fmt: skip


@pytest.mark.parametrize("after", [-1, 0, 1, 2, -0.5, 0.0, 1e-9, 0.5, 0.9999, 1.0, 59.96])
def test_life_of_a_credential_is_said_the_same_whatever_the_clock_tells(
    traced: Traced, lease: Lease, after: float
) -> None:
    held = msgspec.structs.replace(lease, issued_at=1000 if isinstance(after, int) else 1000.0)
    said = []
    for long in (False, True):
        span = permitted(traced, long)
        span.lease, span.release = held, ("revoked", held.issued_at + after, 0)
        span.decision = told(VARIED["step"], "a1:17")
        span.end()
        said.append(told_of(traced.only()))
        traced.exporter.clear()

    assert said[1] == said[0]


@pytest.mark.parametrize("between", ["", "error", "cancelled", "kept from it", "lent nothing"])
def test_way_a_permitted_call_ends_is_said_the_same(traced: Traced, lease: Lease, between: str) -> None:
    said = []
    for long in (False, True):
        span = permitted(traced, long)
        if between != "lent nothing":
            span.lease = lease
        if between != "kept from it":
            span.release = "revoked", 1000.5, 0
        span.decision = told(VARIED["step"], "a1:17")
        span.end("ValueError" if between == "error" else "", cancelled=between == "cancelled")
        said.append(told_of(traced.only()))
        traced.exporter.clear()

    assert said[1] == said[0]


@pytest.mark.parametrize("outcome", [Outcome.PERMIT, Outcome.DENY])
def test_texts_are_cut_by_the_short_ways_too(
    traced: Traced, watched_ways: list[str], lease: Lease, outcome: Outcome
) -> None:
    known = decision(outcome, steps=("s" * 300,), level="l" * 300)
    span = start_call(
        SPEC.name, TaskAttributes({}), TOOL, called("c" * 300), "h", provider=traced.provider, full=False
    )  # fmt: skip
    span.decision = known
    assert all(span.ids)
    if outcome is Outcome.PERMIT:
        span.lease, span.release = msgspec.structs.replace(lease, id="j" * 300), ("kept", 1000.5, 0)
    span.decision = told(known, "a" * 300)
    span.end()

    said = traced.only().attributes or {}
    assert [] == watched_ways
    assert 256 == max(len(value) for value in said.values() if isinstance(value, str))


def test_tool_that_has_not_ended_ends_with_its_call(traced: Traced) -> None:
    overheads = []
    for long in (False, True):
        span = permitted(traced, long)
        span.since(span._started - 10_000_000_000)
        span.tool_since = span._started + 1_500_000_000
        span.decision = told(VARIED["step"], "a1:17")
        span.end()
        overheads.append((traced.only().attributes or {})[name.AGENTGUARD_OVERHEAD_DURATION])
        traced.exporter.clear()

    assert all(1 <= overhead < 2 for overhead in overheads if isinstance(overhead, float)), overheads


def test_clock_that_is_set_back_makes_no_overhead_below_nothing(traced: Traced) -> None:
    for long in (False, True):
        span = permitted(traced, long)
        span.since(span._started + 10_000_000_000)
        span.decision = told(VARIED["step"], "a1:17")
        span.end()
        assert "0.0" == str((traced.only().attributes or {})[name.AGENTGUARD_OVERHEAD_DURATION])
        traced.exporter.clear()


def test_span_of_a_call_that_is_decided_by_nonsense_says_the_rest(traced: Traced) -> None:
    nonsense: Any = object()
    span = start_call(SPEC.name, TaskAttributes({}), TOOL, called("call_2"), "h", provider=traced.provider, full=False)
    span.decision = nonsense
    span.end()

    known = traced.only().attributes or {}
    assert ("refund.create", "h", "call_2") == (
        known[name.GEN_AI_TOOL_NAME], known[name.AGENTGUARD_ARGUMENTS_HASH], known[name.GEN_AI_TOOL_CALL_ID],
    )  # fmt: skip


def test_span_of_a_lease_that_is_none_says_the_rest(traced: Traced) -> None:
    nonsense: Any = object()
    span = start_call(SPEC.name, TaskAttributes({}), TOOL, None, "h", provider=traced.provider, full=False)
    span.decision = VARIED["step"]
    assert all(span.ids)
    span.lease, span.release = nonsense, ("revoked", 1.0, 0)
    span.decision = told(VARIED["step"], "a1:17")
    span.end()

    assert "a1:17" == (traced.only().attributes or {})[name.AGENTGUARD_DECISION_ID]


def test_span_that_somebody_else_has_ended_is_left_alone(traced: Traced, caplog: pytest.LogCaptureFixture) -> None:
    span = start_call(SPEC.name, TaskAttributes({}), TOOL, None, "h", provider=traced.provider, full=False)
    span.decision = VARIED["step"]
    span.attach()
    trace.get_current_span().end()
    caplog.clear()
    span.decision = told(VARIED["step"], "a1:17")
    span.end()

    assert ["Calling end() on an ended span."] == [record.getMessage() for record in caplog.records]


@pytest.fixture
def watched_ways(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which long ways were taken."""
    taken: list[str] = []
    for way in ("_end", "_known"):
        real: Callable[..., Any] = getattr(CallSpan, way)

        def note(self: CallSpan, *given: Any, way: str = way, real: Callable[..., Any] = real) -> Any:
            taken.append(way)
            return real(self, *given)

        monkeypatch.setattr(CallSpan, way, note)
    return taken


@pytest.mark.parametrize("outcome", [Outcome.PERMIT, Outcome.DENY])
def test_common_call_takes_the_short_ways(traced: Traced, watched_ways: list[str], outcome: Outcome) -> None:
    span = start_call(SPEC.name, TaskAttributes({}), TOOL, None, "h", provider=traced.provider, full=False)
    span.decision = known = decision(outcome, steps=("s",))
    assert all(span.ids)
    span.decision = told(known, "a1:17")
    span.end()

    assert [] == watched_ways


def test_nothing_of_one_call_stands_on_the_span_of_the_next(traced: Traced, permit: Decision, lease: Lease) -> None:
    task = TaskAttributes({})
    for number in range(2):
        call = ToolCall(
            id="c", spec=SPEC, arguments={}, given=frozenset(), digest="", call_id="" if number else "call_2"
        )  # fmt: skip
        span = start_call(SPEC.name, task, TOOL, call, f"h{number}", provider=traced.provider, full=False)
        span.decision = told(permit, "", steps=(f"s{number}",))
        assert all(span.ids)
        span.lease, span.release = lease, ("kept" if number else "revoked", 1002.5, 0)
        span.decision = told(span.decision, f"a1:{number}")
        span.end()

    first, second = (dict(span.attributes or {}) for span in traced.exporter.get_finished_spans())
    assert ("h0", "s0", "a1:0", "call_2", "revoked", 2.5, "permit; at+jwt revoked after 2.5 s") == tuple(
        first[key] for key in (
            name.AGENTGUARD_ARGUMENTS_HASH, name.AGENTGUARD_INTENT_STEP, name.AGENTGUARD_DECISION_ID,
            name.GEN_AI_TOOL_CALL_ID, name.AGENTGUARD_CREDENTIAL_REVOCATION_STATUS, name.AGENTGUARD_CREDENTIAL_LIFE,
            name.OUTPUT_VALUE,
        )
    )  # fmt: skip
    assert ("h1", "s1", "a1:1", "active", "permit; at+jwt kept") == tuple(
        second[key] for key in (
            name.AGENTGUARD_ARGUMENTS_HASH, name.AGENTGUARD_INTENT_STEP, name.AGENTGUARD_DECISION_ID,
            name.AGENTGUARD_CREDENTIAL_REVOCATION_STATUS, name.OUTPUT_VALUE,
        )
    )  # fmt: skip
    assert not {name.GEN_AI_TOOL_CALL_ID, name.AGENTGUARD_CREDENTIAL_LIFE} & second.keys()


def test_overhead_is_without_the_time_of_the_tool(traced: Traced, permit: Decision) -> None:
    overheads = []
    for long in (False, True):
        span = start_call(SPEC.name, TaskAttributes({}), TOOL, None, "h", provider=traced.provider, full=False)
        span.special = long
        span.since(span._started - 10_000_000_000)
        span.decision = told(permit, "")
        assert all(span.ids)
        span.tool_since, span.tool_until, span.apart = 1, 6_000_000_001, 3_000_000_000
        span.decision = permit
        span.end()
        overheads.append((traced.only().attributes or {})[name.AGENTGUARD_OVERHEAD_DURATION])
        traced.exporter.clear()

    assert all(1 <= overhead < 2 for overhead in overheads if isinstance(overhead, float)), overheads


# --- how a call's span is begun ----------------------------------------------------------------------------------


@pytest.fixture
def emitter(traced: Traced, monkeypatch: pytest.MonkeyPatch) -> Emitter:
    """An emitter that has found the application's provider, and that nobody measures."""
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: traced.provider)
    monkeypatch.setattr(emitter_module, "monotonic", lambda: 0.0)
    monkeypatch.delitem(sys.modules, enclosing.OPENINFERENCE, raising=False)  # another test may have loaded it
    made = Emitter(Telemetry(content=Content.NO_CONTENT))
    made.start_call("other", {}, {}).end()
    traced.exporter.clear()
    return made


@pytest.fixture
def long_begun(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The tools of the calls that were begun by the long way."""
    begun: list[str] = []

    def note(tool: str, *given: Any, **named: Any) -> CallSpan:
        begun.append(tool)
        return start_call(tool, *given, **named)

    monkeypatch.setattr(emitter_module, "start_call", note)
    return begun


def test_second_call_of_a_tool_begins_as_the_first(traced: Traced, emitter: Emitter, long_begun: list[str]) -> None:
    task = TaskAttributes({name.GEN_AI_AGENT_NAME: "bot", name.AGENTGUARD_DELEGATION_CHAIN_TEXT: "u > bot"})
    agent = start_agent("bot", task)
    agent.attach()
    for _ in range(2):
        emitter.start_call(SPEC.name, task, TOOL).end()
    agent.end()

    first, second, above = traced.exporter.get_finished_spans()
    assert [SPEC.name] == long_begun
    assert told_of(first) == told_of(second)
    assert first.parent == second.parent == above.context


def test_tool_that_is_declared_anew_begins_anew(traced: Traced, emitter: Emitter) -> None:
    task = TaskAttributes({})
    for effect in ("write", "read"):
        emitter.start_call(SPEC.name, task, {**TOOL, name.AGENTGUARD_TOOL_EFFECT: effect}).end()

    assert ["write", "read"] == [
        (span.attributes or {})[name.AGENTGUARD_TOOL_EFFECT] for span in traced.exporter.get_finished_spans()
    ]


def test_framework_span_is_taken_by_a_second_call_too(traced: Traced, emitter: Emitter) -> None:
    task = TaskAttributes({})
    emitter.start_call(SPEC.name, task, TOOL).end()
    known = {name.GEN_AI_OPERATION_NAME: "execute_tool", name.GEN_AI_TOOL_NAME: SPEC.name}
    with traced.tracer().start_as_current_span("framework", attributes=known):
        emitter.start_call(SPEC.name, task, TOOL).end()

    assert ["execute_tool refund.create", "framework"] == [s.name for s in traced.exporter.get_finished_spans()]


def test_span_that_openinference_hides_is_looked_for_by_a_second_call_too(
    emitter: Emitter, long_begun: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    task = TaskAttributes({})
    emitter.start_call(SPEC.name, task, TOOL).end()
    emitter.start_call(SPEC.name, task, TOOL).end()
    monkeypatch.setitem(sys.modules, enclosing.OPENINFERENCE, object())
    emitter.start_call(SPEC.name, task, TOOL).end()

    assert [SPEC.name, SPEC.name] == long_begun


def test_full_call_is_watched_without_a_provider_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace, "get_tracer_provider", ProxyTracerProvider)
    emitter, task = Emitter(Telemetry(spans="full")), TaskAttributes({})

    assert all(emitter.start_call(SPEC.name, task, TOOL).parts for _ in range(3))


@pytest.mark.parametrize("settings", [Telemetry(spans="full"), Telemetry(content=Content.SPAN_ONLY)])
def test_what_is_asked_for_beyond_the_default_takes_the_long_way(
    traced: Traced, long_begun: list[str], monkeypatch: pytest.MonkeyPatch, settings: Telemetry
) -> None:
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: traced.provider)
    emitter, task = Emitter(settings), TaskAttributes({})
    for _ in range(3):
        emitter.start_call(SPEC.name, task, TOOL).end()

    assert 3 == len(long_begun)


def test_call_goes_on_when_its_context_cannot_be_had(emitter: Emitter, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Any:
        raise RuntimeError("telemetry")

    monkeypatch.setattr(emitter_module, "get_current", broken)
    with_span = emitter.start_call(SPEC.name, TaskAttributes({}), TOOL)
    before = otel_context.get_current()
    with_span.end()

    assert before is otel_context.get_current()


def test_provider_that_takes_the_place_of_another_is_found_within_a_second(
    traced: Traced, emitter: Emitter, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, other = TaskAttributes({}), Traced()
    emitter.start_call(SPEC.name, task, TOOL).end()
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: other.provider)
    emitter.quiet_until += 1  # a record was written meanwhile
    monkeypatch.setattr(emitter_module, "monotonic", lambda: emitter.quiet_until - 0.5)
    emitter.start_call(SPEC.name, task, TOOL).end()

    assert (1, 1) == (len(traced.exporter.get_finished_spans()), len(other.exporter.get_finished_spans()))


SET_LATER = """
import sys
from agentguard.telemetry.attributes import SAMPLED, TaskAttributes
from agentguard.telemetry.emitter import Emitter
from agentguard.telemetry.settings import Telemetry
emitter, task = Emitter(Telemetry()), TaskAttributes({})
one, *others = (emitter.start_call("t", task, {}) for _ in range(3))
assert all(other is one for other in others) and not one.on and one.ids == ("", "")
assert "opentelemetry.sdk" not in sys.modules
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
trace.set_tracer_provider(TracerProvider())
late = [emitter.start_call("t", task, {}) for _ in range(3)]
assert all(span.ids != ("", "") for span in late)
"""


def test_provider_that_is_set_later_is_found_by_the_next_call() -> None:
    done = subprocess.run([sys.executable, "-W", "error", "-c", SET_LATER], capture_output=True, text=True, check=False)

    assert (0, "") == (done.returncode, done.stderr)
