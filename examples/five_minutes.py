"""The first five minutes: no key, no file, no server.

Run it: `python -m examples.five_minutes`
"""

from __future__ import annotations

from decimal import Decimal

from langchain.agents import create_agent
from langchain_core.tools import tool

import agentguard
from agentguard import Intent, at_most, guarded, step
from agentguard_langchain import GuardMiddleware
from agentguard_langchain.testing import ScriptedModel


@tool
@guarded
def refund(account: str, amount: Decimal) -> str:
    """Refund an amount to an account."""
    return f"refunded {amount} to {account}"


# A model that does what the user asks, and then what an attacker asks; any LangChain chat model goes here.
model = ScriptedModel(
    [("refund", {"account": "acme", "amount": "49.99"})],
    [("refund", {"account": "evil", "amount": "5"})],
    "Done.",
)
intent = Intent("Refund ticket 4711", step("refund", account="acme", amount=at_most("50")))
agent = create_agent(model, [refund], middleware=[GuardMiddleware()])

with agentguard.local() as guard:
    with guard.task("support-bot", on_behalf_of="alice", intent=intent):  # a str is an asserted user, and says so
        agent.invoke({"messages": [{"role": "user", "content": "refund acme"}]})
    print(guard.explain())
