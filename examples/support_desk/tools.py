"""The agent's tools: LangChain's own SQL toolkit, guarded from outside, and three of the company's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final

import httpx
from langchain_community.agent_toolkits import SQLDatabaseToolkit
from langchain_community.utilities import SQLDatabase
from langchain_core.language_models import BaseChatModel
from langchain_core.tools import BaseTool, tool

from agentguard import GuardAuth, Intent, at_most, current_call, guarded, in_, step
from agentguard_langchain import guard_tools
from examples.support_desk.data import Ticket

# The SQL tools were written by others and know nothing of agentguard: what they do is declared beside them. They hold
# a read-only connection and need no credential, and their records say so.
SQL_SPECS: Final[Mapping[str, Mapping[str, Any]]] = {
    "sql_db_query": {"effect": "read", "data": ["pii"]},
    "sql_db_schema": {"effect": "read"},
    "sql_db_list_tables": {"effect": "read"},
}


def sql_tools(database: SQLDatabase, model: BaseChatModel) -> list[BaseTool]:
    """LangChain's SQL toolkit, guarded. Its checker is left out: it asks a model, and decides nothing."""
    toolkit = SQLDatabaseToolkit(db=database, llm=model)
    return guard_tools([t for t in toolkit.get_tools() if t.name in SQL_SPECS], specs=SQL_SPECS)


@dataclass(slots=True)
class Outbox:
    """Mail that was really sent."""

    sent: list[str] = field(default_factory=list)


def own_tools(payments: str, outbox: Outbox) -> list[BaseTool]:
    """The company's tools. Their bodies hold no authority: the credential comes with each permitted call.

    Args:
        payments: origin of the payments API.
        outbox: where mail goes.
    """

    @tool
    @guarded(
        "refund.create", audience=payments, scopes=["refunds:write"], resource="account/{account}", lease="call",
        data={"payments"}, tags={"money"}, record=["account", "amount"],
    )  # fmt: skip
    async def refund_create(account: str, amount: Decimal) -> str:
        """Refund an amount to an account."""
        refund = {"account": account, "amount": str(amount)}
        async with httpx.AsyncClient(base_url=payments, auth=GuardAuth(), trust_env=False) as client:
            answer = await client.post(
                "/refunds", json=refund, headers={"Idempotency-Key": current_call().idempotency_key}
            )
        return f"refund {answer.raise_for_status().json()['refund']} booked"

    @tool
    @guarded(
        "refund.confirm", effect="read", audience=payments, scopes=["refunds:read"], resource="account/{account}",
        lease="call", data={"payments"}, record=["account"],
    )  # fmt: skip
    async def refund_confirm(account: str) -> str:
        """Wait until the bank has confirmed the refund of an account."""
        async with httpx.AsyncClient(base_url=payments, auth=GuardAuth(), trust_env=False, timeout=30) as client:
            answer = await client.get(f"/refunds/{account}/confirmation")
        return answer.raise_for_status().text

    @tool
    @guarded("mail.send", tags={"egress"}, record=["to"])
    def mail_send(to: str, body: str) -> str:
        """Send a mail."""
        outbox.sent.append(f"{to}: {body}")
        return "sent"

    return [refund_create, refund_confirm, mail_send]


def refund_intent(ticket: Ticket) -> Intent:
    """What the task may do; written by the application from its own columns, before anybody read the ticket's text."""
    return Intent(
        f"Refund ticket {ticket.id}",
        step("sql_db_query", query=in_([ticket.ticket_query, ticket.order_query])),
        step("refund.create", account=ticket.account, amount=at_most(ticket.total)),
        step("refund.confirm", account=ticket.account),
        reads=["sql_db_list_tables", "sql_db_schema"],
        forbid=[{"tags": ["egress"], "seen": ["pii"]}],
        agents={"researcher": {"steps": [step("sql_db_query", query=ticket.order_query)]}},
        ttl="2m",
    )


def named(tools: Sequence[BaseTool], *names: str) -> list[Any]:
    """Those of the tools that have one of these names."""
    return [found for found in tools if found.name in names]
