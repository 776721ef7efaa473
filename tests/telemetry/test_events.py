"""Copies of records as events: off by default, bounded, in the trace of what they tell of."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry import _logs as logs_api
from opentelemetry._logs import SeverityNumber

from agentguard import Denied, Intent, any_, guarded, step
from agentguard.ports import Answer
from agentguard.telemetry import semconv as name
from agentguard.telemetry.settings import CAPTURE, Content, Telemetry, content_of
from agentguard.testing import Answering, FakeIssuer, fake_guard
from tests.telemetry.backend import Backend
from tests.tools import everything, pay

EVENTS = Telemetry(events=True, content=Content.NO_CONTENT)


def named(backend: Backend, event: str) -> list[Any]:
    return [one for one in backend.events() if one.event_name == event]


@pytest.mark.control("8 events are off by default")
def test_nothing_is_copied_unless_it_is_asked_for(backend: Backend) -> None:
    with fake_guard() as guard, guard.task("bot", on_behalf_of="alice", intent=everything()), pytest.raises(Denied):
        pay("evil")

    assert [] == backend.events()


def test_a_denial_is_a_warning_in_the_trace_of_its_call_that_names_its_record(backend: Backend) -> None:
    with fake_guard(telemetry=EVENTS) as guard, guard.task("bot", on_behalf_of="alice", intent=everything()) as task:
        pay("acme")
        with pytest.raises(Denied) as denied:
            pay("evil")
    (event,), call = backend.events(), backend.spans("execute_tool pay")[1]

    assert ("agentguard.call.denied", SeverityNumber.WARN) == (event.event_name, event.severity_number)
    assert call.context is not None
    assert (call.context.trace_id, call.context.span_id) == (event.trace_id, event.span_id)
    said, shown = dict(event.attributes), dict(call.attributes or {})
    assert denied.value.decision.id == said[name.AGENTGUARD_DECISION_ID]
    assert task.id == said[name.AGENTGUARD_TASK_ID]
    for same in (name.AGENTGUARD_DELEGATION_CHAIN_TEXT, name.AGENTGUARD_ARGUMENTS_HASH, name.GEN_AI_TOOL_NAME):
        assert shown[same] == said[same]
    assert "evil" not in str(said)


def test_a_question_that_waits_is_no_warning(backend: Backend) -> None:
    asks = Intent("x", step("pay", account=any_).then_ask())
    with fake_guard(telemetry=EVENTS, approver=Answering(Answer.PENDING)) as guard:
        with pytest.raises(Denied), guard.task("bot", on_behalf_of="alice", intent=asks):
            pay("acme")
    (event,) = named(backend, "agentguard.call.denied")

    assert ("ask", SeverityNumber.INFO) == (event.attributes[name.AGENTGUARD_DECISION_OUTCOME], event.severity_number)


@pytest.mark.control("6 a subject is never named")
def test_a_stop_of_a_subject_is_told_without_their_name_in_events_and_spans(backend: Backend) -> None:
    with fake_guard(telemetry=EVENTS) as guard, guard.task("bot", on_behalf_of="alice.smith", intent=everything()):
        guard.suspend(subject="user:alice.smith", why="alice.smith left")
        with pytest.raises(Denied):
            pay("acme")
        guard.lift("subject:user:alice.smith")
        guard.suspend(chain="user:alice.smith > bot", why="alice.smith left")
        with pytest.raises(Denied):
            pay("acme")
    told = [str((one.event_name, dict(one.attributes))) for one in backend.events()]
    levels = [dict(one.attributes or {})[name.AGENTGUARD_DECISION_LEVEL] for one in backend.spans("execute_tool pay")]

    assert ["subject", "chain"] == levels
    assert "alice.smith" not in str(told) + str([one.to_json() for one in backend.spans()])
    assert 2 == len(named(backend, "agentguard.suspension.set"))


@guarded("copied.pay", record=["account"], secret={"pin"})
def copied(account: str, pin: str, to: str) -> dict[str, str]:
    """Pay."""
    return {"account": account, "paid": "to " + to}


@pytest.mark.parametrize("content", list(Content))
@pytest.mark.control("6 values are never seen unless asked for")
def test_arguments_and_results_stand_where_the_environment_asks_for_them_and_secret_ones_nowhere(
    backend: Backend, monkeypatch: pytest.MonkeyPatch, content: Content
) -> None:
    monkeypatch.setenv(CAPTURE, content.value.lower())
    intent = Intent("x", step("copied.pay", account="acme", pin=any_, to=any_).times(9))
    with fake_guard(telemetry=Telemetry(events=True)) as guard:
        with guard.task("bot", on_behalf_of="alice", intent=intent):
            copied("acme", "4711", "ann")
            with pytest.raises(Denied):
                copied("evil", "4711", "ann")
    spans = [dict(one.attributes or {}) for one in backend.spans("execute_tool copied.pay")]
    (event,) = [dict(one.attributes) for one in backend.events()]

    shown = '{"account":"acme","to":"ann"}' if content.on_spans else None
    assert shown == spans[0].get(name.GEN_AI_TOOL_CALL_ARGUMENTS)
    assert ('{"account":"acme","paid":"to ann"}' if content.on_spans else None) == spans[0].get(
        name.GEN_AI_TOOL_CALL_RESULT
    )
    assert name.GEN_AI_TOOL_CALL_RESULT not in spans[1]
    assert ('{"account":"evil"}' if content.on_events else None) == event.get(name.GEN_AI_TOOL_CALL_ARGUMENTS)
    assert "4711" not in str([spans, event])


@pytest.mark.parametrize("said", ["", "true", "1", "ALL", "SPAN"])
def test_a_word_that_is_none_of_the_four_asks_for_nothing(said: str) -> None:
    assert Content.NO_CONTENT is content_of({CAPTURE: said})


@pytest.mark.control("6 a credential is never seen")
def test_a_credential_in_an_argument_is_not_written_where_arguments_are_asked_for(backend: Backend) -> None:
    telemetry = Telemetry(events=True, content=Content.SPAN_AND_EVENT)
    with fake_guard(telemetry=telemetry, issuer=FakeIssuer()) as guard:
        with guard.task("bot", on_behalf_of="alice", intent=everything()), pytest.raises(Denied):
            pay("acme")
            pay("canary-lease-1-".ljust(48, "x"))

    assert "canary" not in str([one.to_json() for one in backend.spans()]) + str(backend.events())
    assert 1 == len(named(backend, "agentguard.secret.removed"))


@pytest.mark.control("1 telemetry changes nothing")
@pytest.mark.parametrize("where", ["provider", "logger", "emit"])
def test_events_that_fail_change_nothing(monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    class Broken:
        def get_logger(self, *given: Any, **named: Any) -> Any:
            if where == "logger":
                raise RuntimeError("telemetry")
            return self

        def emit(self, *given: Any) -> None:
            raise RuntimeError("telemetry")

    def provide() -> Any:
        if where == "provider":
            raise RuntimeError("telemetry")
        return broken

    broken = Broken()
    monkeypatch.setattr(logs_api, "get_logger_provider", provide)
    with fake_guard(telemetry=EVENTS) as guard, guard.task("bot", on_behalf_of="alice", intent=everything()):
        assert pay("acme") == "lease-1"
        with pytest.raises(Denied):
            pay("evil")
