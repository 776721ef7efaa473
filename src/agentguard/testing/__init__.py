"""Public fakes, for your tests and ours. Nothing here weakens a control: a test gets a permissive task."""

from __future__ import annotations

from agentguard.testing.fakes import Answering, FailingAudit, FakeClock, FakeIssuer, fake_guard

__all__ = ["Answering", "FailingAudit", "FakeClock", "FakeIssuer", "fake_guard"]
