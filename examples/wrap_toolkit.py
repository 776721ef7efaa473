"""Tools that others wrote: LangChain's SQL toolkit, guarded from outside, over a database that cannot be written.

Run it: `python -m examples.wrap_toolkit`
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from langchain_community.agent_toolkits import SQLDatabaseToolkit

import agentguard
from agentguard import Intent, step
from agentguard_langchain import create_agent, guard_tools
from agentguard_langchain.testing import ScriptedModel
from examples.support_desk import data

ORDERS = "SELECT item, total FROM orders WHERE account = 'acme'"

# Any LangChain chat model goes here.
model = ScriptedModel(
    [("sql_db_list_tables", {})],
    [("sql_db_schema", {"table_names": "orders"})],
    [("sql_db_query", {"query": ORDERS})],
    [("sql_db_query", {"query": "SELECT name, email FROM customers"})],
    [("sql_db_query", {"query": "DROP TABLE orders"})],
    "Acme has ordered two lamps.",
)
# What the tools do is declared beside them. What is not mentioned is a write: it needs a step of the intent.
specs: dict[str, dict[str, Any]] = {
    "sql_db_list_tables": {"effect": "read"},
    "sql_db_schema": {"effect": "read"},
    "sql_db_query": {"effect": "read", "data": ["pii"]},
}
intent = Intent(
    "Say what acme has ordered",
    step("sql_db_query", query=ORDERS),  # a statement is code, so the intent names it whole
    reads=["sql_db_list_tables", "sql_db_schema"],
)

with tempfile.TemporaryDirectory() as folder, data.read_only(data.build(Path(folder))) as database:
    tools = guard_tools(SQLDatabaseToolkit(db=database, llm=model), specs)
    agent = create_agent(model, tools)  # refuses a tool that nobody guarded
    with agentguard.local() as guard:
        with guard.task("analyst", on_behalf_of="alice", intent=intent):
            for message in agent.invoke({"messages": [("user", "What did acme order?")]})["messages"]:
                if message.type == "tool":
                    print(f"{message.name}: {message.text.strip().splitlines()[0]}")
        print(guard.explain())
