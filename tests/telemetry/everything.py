"""A run in which everything happens that is told to OpenTelemetry."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest

from agentguard import ApprovalRequired, Denied, Guard, Intent, any_, current_credential, guarded, step
from agentguard.access import Caller
from agentguard.audit.memory import MemoryLog
from agentguard.errors import AuditUnavailable
from agentguard.facts import span_attributes
from agentguard.model.decision import AccessRequest, Decision, Reason
from agentguard.model.record import Event
from agentguard.policy.decided import Answering as Says
from agentguard.ports import Answer
from agentguard.state.approvals_memory import MemoryApprovals
from agentguard.state.parked_memory import MemoryParkedTasks
from agentguard.telemetry import spans
from agentguard.telemetry.settings import Content, Telemetry
from agentguard.testing import Answering, FailingAudit, FakeIssuer, fake_guard
from agentguard.transports.tracing import arriving
from tests.handing import guard_of, refunds
from tests.tools import pay, wipe

ALL = Telemetry(spans="full", events=True, content=Content.SPAN_AND_EVENT)
BARE = Telemetry(spans="full", events=True, content=Content.NO_CONTENT)
SENDER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@guarded("told.ask", record=["text"])
def ask(text: str) -> str:
    """Wait for a person."""
    return text


@guarded("told.leak", effect="read", audience="https://payments.test", scopes=["read"])
def leak() -> str:
    """Return what nobody may see."""
    return current_credential().token


@guarded("told.fail", effect="read")
def fail() -> str:
    """Raise."""
    raise ValueError("account 4711")


@guarded("told.undecided", effect="read")
def undecided() -> str:
    """Never run: the decision point fails."""
    raise AssertionError


class Point:
    """A decision point that permits all but one tool."""

    suspends, name, version = False, "point", "v1"

    async def decide(self, request: AccessRequest) -> Decision:
        if request.action["name"] == "told.undecided":
            raise RuntimeError("out of order")
        return Says(self.name, str(request.action["name"]), version=self.version).permit(["rule"])


class Durable(MemoryParkedTasks):
    """Parked tasks that another guard finds, as another process would."""

    durable = True


def intent() -> Intent:
    """Some calls, one of which a person is asked about."""
    used = [step("pay", account="acme", amount=any_).times(9), step("wipe", account=any_)]
    asks = step("told.ask", text=any_).times(9).then_ask()
    return Intent("Everything", *used, asks, reads=["told.leak", "told.fail", "told.undecided"])


def happen() -> None:
    """Let all of it happen, in a few guards."""
    issuer, shared = FakeIssuer(), {"approvals": MemoryApprovals(), "parked": Durable()}
    with fake_guard(issuer=issuer, telemetry=ALL, decision_points=[Point()], **_later(), **shared) as guard:
        question, task = _calls(guard, issuer)
        assert guard.answer(question, approved=True, by="ann")
    with fake_guard(issuer=issuer, telemetry=ALL, decision_points=[Point()], **_later(), **shared) as other:
        with other.resume(task, on_behalf_of="alice"):
            ask("acme")
    _at_once()
    _refused()
    _handed_on()


def _later() -> dict[str, Any]:
    return {"approver": Answering(Answer.PENDING)}


def _calls(guard: Guard, issuer: FakeIssuer) -> tuple[str, str]:
    task = guard.task("bot", on_behalf_of="alice", intent=intent())
    with pytest.raises(ApprovalRequired) as waits, task:
        with Caller(call_id="call_2").calling():
            pay("acme")
        wipe("acme")
        leak()
        for wrong in (lambda: pay("evil"), undecided):
            with pytest.raises(Denied):
                wrong()
        with pytest.raises(ValueError, match="4711"):
            fail()
        spans.start_agent("bot", span_attributes(guard, task)).end({}, "ValueError")  # as an integration may
        with task.delegate("helper", reads=["told.leak"]):
            leak()
        with pytest.raises(Denied):
            task.delegate("bot", reads=["told.leak"])
        task.refuse("made.up", Reason.UNGUARDED, "it is not guarded")
        guard.suspend(agent="helper", why="test")
        guard.lift("agent:helper")
        issuer.revoke_error = ConnectionError()
        guard.suspend(task=task.id, why="test")  # what it holds cannot be revoked now
        issuer.revoke_error = None
        guard.lift(f"task:{task.id}")
        ask("acme")
    return waits.value.question, task.id


def _at_once() -> None:
    """A person who answers at once, and an issuer that is out of reach."""
    issuer = FakeIssuer()
    with fake_guard(telemetry=BARE, approver=Answering(), issuer=issuer) as guard:
        with guard.task("bot", on_behalf_of="alice", intent=intent()):
            ask("acme")
            issuer.issue_error = ConnectionError()
            with pytest.raises(Denied):
                pay("acme")


def _refused() -> None:
    """A task that is not opened, and a log that takes no records."""
    with fake_guard(telemetry=ALL) as guard:
        with pytest.raises(Denied):
            guard.task("bot with spaces", on_behalf_of="alice", intent=intent())
        with pytest.raises(Denied):
            guard.resume("0123456789abcdef01", on_behalf_of="alice")
    with fake_guard(telemetry=ALL, audit=FailingAudit(MemoryLog())) as guard, suppress(AuditUnavailable):
        guard.records.record(Event.TASK_OPENED, {})


def _handed_on() -> None:
    """Work that arrives from a stranger, and from a queue."""
    with guard_of("home", "far") as home, guard_of("far", "home", telemetry=ALL) as far:
        with home.task("bot", on_behalf_of="alice", intent=refunds()) as task:
            token = task.export("researcher")
        with arriving("researcher", {"traceparent": SENDER}, trusted=False), far.resume(token):
            pass
