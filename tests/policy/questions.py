"""Requests as the guard builds them, for the tests of decision points."""

from __future__ import annotations

from typing import Any

from agentguard._drive import drive
from agentguard.model.call import Effect, ToolCall, ToolSpec
from agentguard.model.canonical import canonical, digest
from agentguard.model.decision import AccessRequest, Decision, Outcome, Reason
from agentguard.model.principal import Agent, Chain, Subject
from agentguard.policy.combine import decide_all
from agentguard.policy.decided import Decided
from agentguard.policy.obligations import Discharges
from agentguard.policy.request import TaskFacts, request_for

ALICE = Chain(Subject("alice"), (Agent("support-bot"),))
INTENT = Decision(outcome=Outcome.PERMIT, reason=Reason.DECLARED, tool="refund.create", steps=("s1",))


def call_of(tool: str = "refund.create", **arguments: object) -> ToolCall:
    bound: dict[str, Any] = {name: canonical(value) for name, value in arguments.items()}
    spec = ToolSpec(
        name=tool, effect=Effect.WRITE, audience="https://pay.test", resource="account/{account}",
        data=frozenset({"pii"}),
        parameters=frozenset({"account", *bound}), record=tuple(bound),
    )  # fmt: skip
    return ToolCall(id="1", spec=spec, arguments=bound, given=frozenset(bound), digest=digest(bound))


def ask(
    tool: str = "refund.create", *, chain: Chain = ALICE, facts: TaskFacts | None = None, **arguments: object
) -> AccessRequest:
    values = {"account": "acme", "amount": "49.99", **arguments}
    return request_for(call_of(tool, **values), chain, facts or TaskFacts(environment="test", purpose="Refund"))


def combined(*points: Any, request: AccessRequest | None = None, discharges: Discharges | None = None) -> Decided:
    return drive(decide_all(points, request or ask(), INTENT, discharges=discharges or Discharges()))
