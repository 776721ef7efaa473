"""What a guard's calls look like in OpenTelemetry: who, what, why and with which credential, and never a secret."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from decimal import Decimal
from typing import Any

import pytest
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from agentguard import (
    ITSELF,
    ApprovalRequired,
    Denied,
    Guard,
    Intent,
    any_,
    current_credential,
    guarded,
    step,
)
from agentguard._drive import drive
from agentguard.audit.memory import MemoryLog
from agentguard.ports import Answer
from agentguard.telemetry.semconv import AGENTGUARD_CREDENTIAL_ID as CREDENTIAL_ID
from agentguard.telemetry.semconv import AGENTGUARD_CREDENTIAL_REVOCATION_STATUS as REVOCATION
from agentguard.telemetry.settings import Telemetry
from agentguard.testing import Answering, FakeClock, FakeIssuer, fake_guard
from tests.tools import alines, everything, lines, pay, read_account, refund, wipe

CANARY = "canary"


class Exported:
    """What the exporter got."""

    def __init__(self) -> None:
        self.exporter, self.provider = InMemorySpanExporter(), TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))

    def all(self) -> list[ReadableSpan]:
        return list(self.exporter.get_finished_spans())

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.all() if span.name == name]

    def only(self, name: str) -> ReadableSpan:
        (span,) = self.named(name)
        return span


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> Exported:
    made = Exported()
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: made.provider)
    return made


@pytest.fixture
def guard(exported: Exported) -> Iterator[Guard]:
    with fake_guard() as made:
        yield made


def of(span: ReadableSpan, name: str) -> Any:
    return (span.attributes or {}).get(name)


def inside(child: ReadableSpan, parent: ReadableSpan) -> bool:
    assert parent.context is not None
    return child.parent is not None and child.parent.span_id == parent.context.span_id


def records(guard: Guard, event: str) -> list[dict[str, Any]]:
    assert isinstance(guard.audit, MemoryLog)
    return [dict(record) for record in guard.audit.records if record["event"] == event]


# one call -------------------------------------------------------------------------------------------------


def test_permitted_call_says_who_for_whom_why_and_with_which_credential(exported: Exported) -> None:
    clock = FakeClock()

    @guarded("wait", effect="destructive", audience="https://api.test", scopes=["wait"])
    def wait() -> None:
        clock.advance(2.5)

    with fake_guard(clock=clock, monotonic=clock) as guard:
        with guard.task("bot", on_behalf_of="alice", intent=Intent("x", step("wait"))) as task:
            wait()
    span = exported.only("execute_tool wait")
    agent = exported.only("invoke_agent bot")
    subject = of(agent, "agentguard.delegation.chain")[0]
    assert subject.startswith("u:")
    assert of(agent, "agentguard.delegation.chain") == (subject, "bot")
    assert of(span, "agentguard.delegation.chain_text") == f"{subject} > bot"
    assert of(span, "agentguard.task.id") == task.id
    assert of(span, "agentguard.decision.outcome") == "permit"
    assert of(span, "agentguard.credential.id") == "lease-1"
    assert of(span, "agentguard.credential.audience") == "https://api.test"
    assert of(span, "agentguard.credential.life") == 2.5
    assert of(span, "agentguard.credential.revocation.status") == "revoked"
    assert span.status.status_code is StatusCode.UNSET


def test_decision_on_a_span_is_the_one_in_the_audit_log(exported: Exported, guard: Guard) -> None:
    with guard.task("bot", on_behalf_of="alice", intent=everything()):
        pay("acme")
        with pytest.raises(Denied) as denied:
            refund("evil", Decimal(5))
    permitted, refused = exported.only("execute_tool pay"), exported.only("execute_tool refund")
    assert of(refused, "agentguard.decision.id") == denied.value.decision.id
    for span, event in ((permitted, "call.permitted"), (refused, "call.denied")):
        (record,) = records(guard, event)
        assert of(span, "agentguard.decision.id").endswith(f":{record['seq']}")
        assert span.context is not None
        assert record["span"] == trace.format_span_id(span.context.span_id)
        assert record["trace"] == trace.format_trace_id(span.context.trace_id)
        assert of(span, "agentguard.arguments.hash") in (None, record["arguments_hash"])


def test_denial_is_an_error_with_a_sentence_and_without_a_value(exported: Exported, guard: Guard) -> None:
    with guard.task("bot", on_behalf_of="alice", intent=everything()), pytest.raises(Denied):
        refund("evil-corp", Decimal(5))
    span = exported.only("execute_tool refund")
    assert span.status.status_code is StatusCode.ERROR
    assert span.status.description == (
        "denied: argument_violation: Tool 'refund' was not run: it is outside the declared task."
    )
    assert of(span, "error.type") == "agentguard.denied"
    assert of(span, "agentguard.decision.reason") == "argument_violation"
    assert of(span, "agentguard.decision.level") == "bot"
    assert "evil-corp" not in span.to_json()
    assert exported.only("invoke_agent bot").status.status_code is StatusCode.UNSET


@pytest.mark.parametrize("way", ["binding", "secret", "suspended", "credential"])
def test_every_kind_of_denial_has_its_span(exported: Exported, way: str) -> None:
    issuer = FakeIssuer()
    with fake_guard(issuer=issuer) as guard, guard.task("bot", on_behalf_of="alice", intent=everything()):
        if way == "suspended":
            guard.suspend(agent="bot", why="test")
        if way == "credential":
            issuer.issue_error = ConnectionError()
        with pytest.raises(Denied) as denied:
            if way == "secret":
                pay("acme")
                pay("canary-lease-1-".ljust(48, "x"))
            pay("acme", *(("x", "y") if way == "binding" else ()))
    span = exported.named("execute_tool pay")[-1]
    assert of(span, "agentguard.decision.reason") == denied.value.reason
    assert span.status.status_code is StatusCode.ERROR


def test_question_that_is_not_answered_is_no_error(exported: Exported) -> None:
    intent = Intent("ask", step("refund", account=any_, amount=any_).then_ask())
    with fake_guard(approver=Answering(Answer.PENDING)) as guard, pytest.raises(ApprovalRequired):
        with guard.task("bot", on_behalf_of="alice", intent=intent):
            refund("acme", Decimal(5))
    span = exported.only("execute_tool refund")
    assert of(span, "agentguard.decision.outcome") == "ask"
    assert span.status.status_code is StatusCode.UNSET
    assert of(span, "error.type") is None
    assert of(exported.only("invoke_agent bot"), "agentguard.decisions.asked") == 1


def test_approved_call_is_permitted(exported: Exported) -> None:
    intent = Intent("ask", step("refund", account=any_, amount=any_).then_ask())
    with fake_guard(approver=Answering()) as guard:
        with guard.task("bot", on_behalf_of="alice", intent=intent):
            refund("acme", Decimal(5))
    assert of(exported.only("execute_tool refund"), "agentguard.decision.outcome") == "permit"


def test_exception_of_the_tool_is_named_by_its_type_without_its_text(exported: Exported, guard: Guard) -> None:
    class Refused(Exception):
        pass

    @guarded("fail")
    def fail() -> None:
        raise Refused("account 4711 of ann@bank.test")

    with guard.task("bot", on_behalf_of="alice", intent=Intent("x", step("fail"))), pytest.raises(Refused):
        fail()
    span = exported.only("execute_tool fail")
    assert of(span, "error.type").endswith("Refused")
    assert span.status.status_code is StatusCode.ERROR
    assert "4711" not in span.to_json()
    assert span.events == ()
    assert of(span, "agentguard.decision.outcome") == "permit"


# nesting --------------------------------------------------------------------------------------------------


def test_spans_of_the_tool_nest_below_its_call_and_calls_below_their_agent(exported: Exported, guard: Guard) -> None:
    tracer = exported.provider.get_tracer("app")

    @guarded("outer")
    def outer() -> None:
        with tracer.start_as_current_span("query"):
            pass
        read_account("acme")

    intent = Intent("x", step("outer"), reads=["account.read"])
    with tracer.start_as_current_span("request"):
        with guard.task("bot", on_behalf_of="alice", intent=intent) as task, task.delegate("helper", intent=intent):
            outer()
    spans = {span.name: span for span in exported.all()}
    assert inside(spans["query"], spans["execute_tool outer"])
    assert inside(spans["execute_tool account.read"], spans["execute_tool outer"])
    assert inside(spans["execute_tool outer"], spans["invoke_agent helper"])
    assert inside(spans["invoke_agent helper"], spans["invoke_agent bot"])
    assert inside(spans["invoke_agent bot"], spans["request"])
    assert of(spans["execute_tool outer"], "agentguard.delegation.chain_text").endswith(" > bot > helper")
    assert of(spans["invoke_agent helper"], "agentguard.delegation.chain")[1:] == ("bot", "helper")
    assert of(spans["agentguard.delegate"], "agentguard.delegation.to") == "helper"


def test_after_a_call_and_after_a_task_the_span_of_before_is_current(exported: Exported, guard: Guard) -> None:
    with exported.provider.get_tracer("app").start_as_current_span("request") as before:
        with guard.task("bot", on_behalf_of="alice", intent=everything()):
            agent = trace.get_current_span()
            pay("acme")
            with pytest.raises(Denied):
                pay("evil")
            assert trace.get_current_span() is agent
        assert trace.get_current_span() is before


def test_tool_runs_in_the_context_of_its_caller_with_its_own_span(exported: Exported, guard: Guard) -> None:
    @guarded("look", effect="read")
    def look() -> tuple[object, str]:
        return otel_context.get_value("tenant"), trace.get_current_span().name  # type: ignore[attr-defined]  # the SDK's

    with guard.task("bot", on_behalf_of="alice", intent=Intent("x", step("look"))):
        for _ in range(3):  # what is known of a tool after its first call is used by the others
            here = otel_context.get_current()
            assert look() == (None, "execute_tool look")
            assert otel_context.get_current() is here
            token = otel_context.attach(otel_context.set_value("tenant", "acme"))
            assert look() == ("acme", "execute_tool look")
            otel_context.detach(token)


def test_what_a_function_returned_runs_in_the_context_in_which_it_is_awaited(exported: Exported, guard: Guard) -> None:
    @guarded("look.later", effect="read")
    def look() -> Any:
        async def later() -> tuple[object, str]:
            return otel_context.get_value("tenant"), trace.get_current_span().name  # type: ignore[attr-defined]  # as above

        return later()

    async def work() -> None:
        async with guard.task("bot", on_behalf_of="alice", intent=Intent("x", step("look.later"))):
            for tenant in ("acme", "other", "third"):
                waits = look()
                token = otel_context.attach(otel_context.set_value("tenant", tenant))
                assert await waits == (tenant, "execute_tool look.later")
                otel_context.detach(token)

    asyncio.run(work())


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_generator_tool_does_not_leave_its_span_current_between_two_parts(
    exported: Exported, guard: Guard, kind: str
) -> None:
    def sync_work() -> None:
        with guard.task("bot", on_behalf_of="alice", intent=everything()):
            agent = trace.get_current_span()
            for _ in lines(3):
                assert trace.get_current_span() is agent

    async def async_work() -> None:
        async with guard.task("bot", on_behalf_of="alice", intent=everything()):
            agent = trace.get_current_span()
            stream: AsyncIterator[str] = alines(3)
            async for _ in stream:
                assert trace.get_current_span() is agent

    if kind == "sync":
        sync_work()
    else:
        asyncio.run(async_work())
    span = exported.only(f"execute_tool {'lines' if kind == 'sync' else 'alines'}")
    assert of(span, "agentguard.decision.outcome") == "permit"
    assert span.end_time is not None


@pytest.mark.parametrize("kind", ["coroutine", "generator"])
def test_function_that_returns_what_runs_later_does_not_leave_its_span_current(
    exported: Exported, guard: Guard, kind: str
) -> None:
    async def coroutine() -> str:
        return "later"

    @guarded("later", effect="read")
    def later() -> Any:
        return coroutine() if kind == "coroutine" else (part for part in ["later"])

    async def work() -> None:
        async with guard.task("bot", on_behalf_of="alice", intent=Intent("x", reads=["later"])):
            agent = trace.get_current_span()
            made = later()
            assert trace.get_current_span() is agent
            assert (await made if kind == "coroutine" else next(made)) == "later"
            assert trace.get_current_span() is agent

    asyncio.run(work())
    assert len(exported.named("execute_tool later")) == 1


def test_generator_that_is_closed_early_ends_its_span(exported: Exported, guard: Guard) -> None:
    with guard.task("bot", on_behalf_of="alice", intent=everything()):
        stream: Any = lines(3)
        next(stream)
        stream.close()
        assert len(exported.named("execute_tool lines")) == 1


# a credential that does not stay as it was ------------------------------------------------------------------


@pytest.mark.parametrize("settings", [Telemetry(), Telemetry(spans="full")])
def test_span_of_a_call_that_renewed_its_credential_names_the_one_that_it_ended_with(
    exported: Exported, settings: Telemetry
) -> None:
    @guarded("again", effect="read", audience="https://api.test")
    async def again() -> str:
        await current_credential().renew()
        return current_credential().lease.id

    with fake_guard(telemetry=settings) as guard:
        with guard.task("bot", on_behalf_of="alice", intent=Intent("x", reads=["again"])):
            assert "lease-2" == drive(again())
        (completed,) = records(guard, "call.completed")
    span = exported.only("execute_tool again")
    assert ("lease-2", "active") == (of(span, CREDENTIAL_ID), of(span, REVOCATION))
    assert "lease-2" == completed["lease"]


@pytest.mark.control("6 a credential is never seen")
def test_span_of_a_call_that_leaked_its_credential_says_that_it_is_gone(exported: Exported, guard: Guard) -> None:
    @guarded("leaks", effect="read", audience="https://api.test")
    def leaks() -> str:
        return current_credential().token

    with guard.task("bot", on_behalf_of="alice", intent=Intent("x", reads=["leaks"])):
        leaks()
    span = exported.only("execute_tool leaks")
    assert "revoked" == of(span, REVOCATION)
    assert of(span, "output.value").startswith("permit; at+jwt revoked after")


# an agent -------------------------------------------------------------------------------------------------


def test_span_of_an_agent_rolls_up_what_happened_in_its_task(exported: Exported, guard: Guard) -> None:
    with guard.task("bot", on_behalf_of="alice", intent=everything()):
        pay("acme")
        pay("acme", amount=2)
        wipe("acme")
        with pytest.raises(Denied):
            pay("evil")
    span = exported.only("invoke_agent bot")
    counts = {name: of(span, f"agentguard.{name}") for name in (
        "decisions.permitted", "decisions.denied", "decisions.asked", "credentials.issued", "credentials.revoked",
    )}  # fmt: skip
    assert counts == {
        "decisions.permitted": 3, "decisions.denied": 1, "decisions.asked": 0, "credentials.issued": 2,
        "credentials.revoked": 2,
    }  # fmt: skip


def test_agent_that_works_for_itself_is_named_and_a_user_is_not(exported: Exported, guard: Guard) -> None:
    with guard.task("nightly", on_behalf_of=ITSELF, intent=everything()):
        pay("acme")
    assert of(exported.only("execute_tool pay"), "agentguard.delegation.chain_text") == "agent:nightly > nightly"


# never a secret, never an outcome -------------------------------------------------------------------------


@pytest.mark.control("6 a credential is never seen")
def test_no_span_holds_a_credential_an_argument_or_a_user(exported: Exported, guard: Guard) -> None:
    @guarded("leak", audience="https://api.test")
    def leak(text: str) -> str:
        token = current_credential().token
        trace.get_current_span().set_attribute("size", len(token))
        if text == "raise":
            raise ValueError(f"401 for {token}")
        return f"{text} {token}"

    with guard.task("bot", on_behalf_of="alice.smith", intent=Intent("x", step("leak", text=any_).times(9))):
        leak("private-value")
        with pytest.raises(ValueError, match="removed"):
            leak("raise")
    told = json.dumps([json.loads(span.to_json()) for span in exported.all()])
    assert len(exported.named("execute_tool leak")) == 2
    for secret in (CANARY + "-", "private-value", "alice.smith"):
        assert secret not in told


class Raises(SpanProcessor):
    def __init__(self, where: str) -> None:
        self.where = where

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        if self.where == "start":
            raise RuntimeError("telemetry")

    def on_end(self, span: ReadableSpan) -> None:
        if self.where == "end":
            raise RuntimeError("telemetry")


@pytest.mark.control("1 telemetry changes nothing")
@pytest.mark.parametrize("where", ["start", "end", "provider"])
def test_telemetry_that_raises_changes_nothing(monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    provider = TracerProvider()
    provider.add_span_processor(Raises(where))

    def provide() -> TracerProvider:
        if where == "provider":
            raise RuntimeError("telemetry")
        return provider

    monkeypatch.setattr(trace, "get_tracer_provider", provide)
    issuer = FakeIssuer()
    with fake_guard(issuer=issuer) as guard:
        with guard.task("bot", on_behalf_of="alice", intent=everything()) as task:
            assert pay("acme") == "lease-1"
            assert list(lines(2)) == ["line 0", "line 1"]
            with pytest.raises(Denied):
                pay("evil")
            with task.delegate("helper", reads=["account.read"]):
                assert read_account("acme")
        assert issuer.live == {}
        assert len(records(guard, "call.permitted")) == 3
        assert len(records(guard, "call.denied")) == 1


@pytest.mark.parametrize("ends", ["the task", "the calls"])
def test_interrupt_of_an_exporter_lets_a_call_have_its_effects(exported: Exported, ends: str) -> None:
    class Interrupted(SpanProcessor):
        def on_end(self, span: ReadableSpan) -> None:
            if span.name.startswith("execute_tool"):
                raise KeyboardInterrupt

    @guarded("last", effect="read")
    def last() -> None:
        pass

    exported.provider.add_span_processor(Interrupted())
    steps = [step("last").then_end_task()] if ends == "the task" else []
    intent = Intent("x", *steps, limits={"denials": 1})
    with fake_guard() as guard, guard.task("bot", on_behalf_of="alice", intent=intent) as task:
        with pytest.raises(KeyboardInterrupt):
            last()
        assert task.why_stopped if ends == "the calls" else not task.is_open()


def test_without_a_provider_there_are_no_spans_and_records_name_none() -> None:
    with fake_guard() as guard, guard.task("bot", on_behalf_of="alice", intent=everything()):
        pay("acme")
        assert "span" not in records(guard, "call.permitted")[0]
