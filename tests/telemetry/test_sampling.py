"""A sampler that drops no denial, and what it sees of a call before its span begins."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased

from agentguard import ApprovalRequired, ConfigurationError, Denied, Intent, any_, step
from agentguard.ports import Answer
from agentguard.telemetry import semconv as name
from agentguard.telemetry.sampling import keep_denials
from agentguard.testing import Answering, fake_guard
from tests.telemetry.backend import Backend
from tests.tools import everything, pay, refund


@pytest.fixture
def sampled(monkeypatch: pytest.MonkeyPatch) -> Iterator[Backend]:
    made = Backend(sampler=keep_denials(ParentBased(ALWAYS_OFF))).stand_for_all(monkeypatch)
    yield made
    made.close()


@pytest.mark.control("8 a denial is never sampled out")
def test_denials_are_kept_where_everything_else_is_dropped(sampled: Backend) -> None:
    with fake_guard() as guard, guard.task("bot", on_behalf_of="alice", intent=everything()):
        pay("acme")
        with pytest.raises(Denied):
            pay("evil")
    (span,) = sampled.spans()

    assert "deny" == dict(span.attributes or {})[name.AGENTGUARD_DECISION_OUTCOME]
    assert "argument_violation" == dict(span.attributes or {})[name.AGENTGUARD_DECISION_REASON]


def test_calls_that_a_person_is_asked_about_are_kept(sampled: Backend) -> None:
    asks = Intent("x", step("refund", account=any_, amount=any_).then_ask())
    with fake_guard(approver=Answering(Answer.PENDING)) as guard, pytest.raises(ApprovalRequired):
        with guard.task("bot", on_behalf_of="alice", intent=asks):
            refund("acme", Decimal(5))

    assert ["execute_tool refund"] == [span.name for span in sampled.spans()]


def test_another_sampler_decides_about_every_other_span() -> None:
    kept = keep_denials(ALWAYS_ON).should_sample(None, 1, "x", attributes={"a": 1})
    dropped = keep_denials(ALWAYS_OFF).should_sample(None, 1, "x")

    assert (True, False) == (kept.decision.is_sampled(), dropped.decision.is_sampled())
    assert "KeepDenials{AlwaysOffSampler}" == keep_denials(ALWAYS_OFF).get_description()


def test_without_an_sdk_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import builtins

    real = builtins.__import__

    def refused(module: str, *given: Any, **named: Any) -> Any:
        if module.startswith("opentelemetry.sdk"):
            raise ImportError(module)
        return real(module, *given, **named)

    monkeypatch.setattr(builtins, "__import__", refused)
    with pytest.raises(ConfigurationError, match="agentguard\\[otel\\]"):
        keep_denials(ALWAYS_ON)
