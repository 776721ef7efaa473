"""Work that goes on later, or elsewhere: a trace of its own, with a link to the one it comes from."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.trace import SpanContext, SpanKind, TraceFlags

from agentguard import ApprovalRequired, Intent, any_, step
from agentguard.ports import Answer
from agentguard.state.approvals_memory import MemoryApprovals
from agentguard.state.parked_memory import MemoryParkedTasks
from agentguard.telemetry import semconv as name
from agentguard.telemetry.links import link_to, traceparent
from agentguard.testing import Answering, fake_guard
from agentguard.transports.tracing import arriving
from tests.handing import guard_of, refunds
from tests.handing import read as handed_read
from tests.telemetry.backend import Backend
from tests.tools import refund

ASKS = Intent("x", step("refund", account=any_, amount=any_).then_ask())
SENDER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Durable(MemoryParkedTasks):
    """Parked tasks that another guard finds, as another process would."""

    durable = True


@pytest.mark.parametrize("where", ["here", "elsewhere"])
def test_a_task_that_was_parked_goes_on_in_a_trace_of_its_own_that_links_to_the_first(
    backend: Backend, where: str
) -> None:
    rooms: dict[str, Any] = {"approvals": MemoryApprovals(), "parked": Durable()}
    with fake_guard(approver=Answering(Answer.PENDING), **rooms) as first, fake_guard(**rooms) as second:
        task = first.task("bot", on_behalf_of="alice", intent=ASKS)
        with pytest.raises(ApprovalRequired) as waits, task:
            refund("acme", Decimal(5))
        (before,) = backend.spans("invoke_agent bot")
        first.answer(waits.value.question, approved=True, by="ann")
        with task if where == "here" else second.resume(task.id, on_behalf_of="alice"):
            refund("acme", Decimal(5))
    after = backend.spans("invoke_agent bot")[1]

    assert before.end_time is not None  # no span stays open while a person thinks
    assert before.context is not None
    assert after.context is not None
    assert before.context.trace_id != after.context.trace_id
    (link,) = after.links
    assert (before.context.trace_id, before.context.span_id) == (link.context.trace_id, link.context.span_id)
    assert {name.AGENTGUARD_LINK_KIND: "resume"} == dict(link.attributes or {})
    assert task.id == dict(after.attributes or {})[name.AGENTGUARD_TASK_ID]


def test_a_task_that_was_never_parked_links_to_nothing(backend: Backend) -> None:
    with fake_guard() as guard, guard.task("bot", on_behalf_of="alice", intent=ASKS):
        pass
    span = backend.span("invoke_agent bot")

    assert () == tuple(span.links)
    assert name.AGENTGUARD_LINK_KIND not in dict(span.attributes or {})


def test_work_from_a_queue_is_linked_to_also_where_its_sender_is_trusted(backend: Backend) -> None:
    with guard_of("home", "far") as home, guard_of("far", "home") as far:
        with home.task("bot", on_behalf_of="alice", intent=refunds()) as task:
            token = task.export("researcher")
        with arriving("researcher", {"traceparent": SENDER}, trusted=True, queued=True), far.resume(token):
            handed_read("acme")
    arrived, agent = backend.span("resume researcher"), backend.span("invoke_agent researcher")

    assert SpanKind.CONSUMER is arrived.kind
    assert [0xB7AD6B7169203331] == [link.context.span_id for link in arrived.links]
    assert arrived.context is not None
    assert 0x0AF7651916CD43DD8448EB211C80319C != arrived.context.trace_id
    assert agent.parent is not None
    assert arrived.context.span_id == agent.parent.span_id


@given(st.integers(1, 2**128 - 1), st.integers(1, 2**64 - 1), st.integers(0, 255))
def test_a_span_that_was_written_as_text_is_found_again(trace_id: int, span_id: int, flags: int) -> None:
    link = link_to(
        traceparent(SpanContext(trace_id, span_id, is_remote=False, trace_flags=TraceFlags(flags))), "resume"
    )

    assert link is not None
    assert (trace_id, span_id, flags) == (link.context.trace_id, link.context.span_id, link.context.trace_flags)


@pytest.mark.parametrize(
    "text", ["", "00-0-0-01", "01" + SENDER[2:], SENDER.upper(), SENDER + "-x", "00-" + "0" * 32 + SENDER[35:]]
)
def test_text_that_is_no_span_is_no_link(text: str) -> None:
    assert link_to(text, "resume") is None
