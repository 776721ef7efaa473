"""Questions and calls for the tests of the approvers."""

from __future__ import annotations

import time
from decimal import Decimal
from typing import Any

from agentguard.model.call import ToolCall, ToolSpec
from agentguard.model.canonical import Canonical, digest
from agentguard.ports import ApprovalRequest

DIGEST = "1a2b3c4d" + "0" * 56
REFUND: dict[str, Canonical] = {"account": "acme", "amount": Decimal("49.99")}


def call_of(arguments: dict[str, Canonical] | None = None, *, defaults: Any = (), secret: Any = ()) -> ToolCall:
    values = REFUND if arguments is None else arguments
    spec = ToolSpec(name="refund", secret=frozenset(secret))
    given = frozenset(values) - frozenset(defaults)
    return ToolCall(id="call-1", spec=spec, arguments=values, given=given, digest=digest(values))


def question(**fields: Any) -> ApprovalRequest:
    """A question that stands for five minutes."""
    usual: dict[str, Any] = {
        "call": "call-1", "tool": "refund.create", "arguments": 'account: "acme"\namount: 49.99', "digest": DIGEST,
        "chain": "user:alice > support-bot > researcher", "purpose": "Refund ticket 4711", "step": "refund",
        "agent": "researcher", "subject": "user:alice", "owner": "ann@bank.test", "policy": "v7",
        "expires_at": time.time() + 300,
    }  # fmt: skip
    return ApprovalRequest(**{**usual, **fields})
