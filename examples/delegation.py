"""Delegation: a sub-agent gets less than its parent, and every credential says who acts for whom.

Run it: `python -m examples.delegation`
"""

from __future__ import annotations

from decimal import Decimal

import agentguard
from agentguard import Denied, Intent, Task, at_most, current_call, current_credential, guarded, step
from agentguard.resource_server import TokenVerifier

PAYMENTS = "https://payments.test"


@guarded("account.read", effect="read", audience=PAYMENTS, scopes=["accounts:read"], resource="account/{account}")
def read_account(account: str) -> str:
    """What the payments API sees: it verifies the token, and needs to know nothing of the agents."""
    token = verifier.verify(current_credential().token)
    token.require("accounts:read", f"account/{account}")
    return f"{token.chain_text} may read {token.resource}"


@guarded("refund.create", audience=PAYMENTS, scopes=["refunds:write"], resource="account/{account}")
def refund(account: str, amount: Decimal) -> str:
    """Refund an amount to an account."""
    return f"{' > '.join(current_call().chain)} refunded {amount} to {account}"


def attempt(task: Task, account: str, amount: str) -> None:
    """Try a refund, and say how it went."""
    try:
        print(refund(account, Decimal(amount)))
    except Denied as denied:
        print(f"{task.chain.text()}: {denied.decision.message}")


intent = Intent(
    "Refund ticket 4711",
    step("refund.create", account="acme", amount=at_most("50")),
    reads=["account.read"],
    agents={"researcher": {"reads": ["account.read"]}},  # what this sub-agent gets, whoever calls it
)

with agentguard.local() as guard:
    verifier = TokenVerifier(guard.keys, "agentguard", PAYMENTS, revoked=guard.revoked)
    with guard.task("support-bot", on_behalf_of="alice", intent=intent) as task:
        print(read_account("acme"))

        with task.delegate("researcher") as researcher:
            print(read_account("acme"))
            attempt(researcher, "acme", "49.99")  # its parent may; it may not

        with task.delegate("payer", steps=[step("refund.create", account="acme", amount=at_most("1000"))]) as payer:
            attempt(payer, "acme", "999")  # it was promised more than its parent has
            attempt(payer, "acme", "30")
            try:
                payer.delegate("support-bot", reads=["account.read"])
            except Denied as denied:
                print(denied.decision.message)

        attempt(task, "acme", "5")  # the one refund of this task was used up below
    print(f"outstanding credentials: {guard.outstanding()}")
