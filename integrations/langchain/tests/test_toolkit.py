"""LangChain's SQL toolkit over a real database, guarded."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest
from langchain_community.agent_toolkits import SQLDatabaseToolkit
from langchain_community.utilities import SQLDatabase
from sqlalchemy import create_engine

from agentguard import Denied, Guard, Intent, prefix, step
from agentguard_langchain import create_agent, guard_tools
from agentguard_langchain.testing import ScriptedModel

HI = {"messages": [("user", "how many tickets?")]}
TOOLS = """version: 1
tools:
  sql_db_query: {name: sql.query, effect: write, data: [tickets]}
  sql_db_schema: {name: sql.schema, effect: read}
  sql_db_list_tables: {name: sql.tables, effect: read}
  sql_db_query_checker: {name: sql.check, effect: read}
"""


@pytest.fixture
def toolkit(tmp_path: Path) -> Any:
    path = tmp_path / "tickets.db"
    with sqlite3.connect(path) as connection:
        connection.execute("create table tickets (id integer, title text)")
        connection.execute("insert into tickets values (1, 'refund acme')")
    connection.close()
    engine = create_engine(f"sqlite:///file:{path}?mode=ro&uri=true")
    yield SQLDatabaseToolkit(db=SQLDatabase(engine), llm=ScriptedModel("select 1"))
    engine.dispose()


def test_sql_toolkit_works_guarded_and_read_only(guard: Guard, toolkit: Any, tmp_path: Path) -> None:
    specs = tmp_path / "tools.yaml"
    specs.write_text(TOOLS)
    tools = guard_tools(toolkit, specs)
    model = ScriptedModel(
        [("sql_db_list_tables", {})],
        [("sql_db_schema", {"table_names": "tickets"})],
        [("sql_db_query", {"query": "select count(*) from tickets"})],
        [("sql_db_query", {"query": "drop table tickets"})],
        "one",
    )
    reading = step("sql.query", query=prefix("select ")).times(3)
    with guard.task("bot", on_behalf_of="alice", intent=Intent("Count", reading, reads=["sql.tables", "sql.schema"])):
        messages = create_agent(model, tools).invoke(HI)["messages"]
        with pytest.raises(Denied):
            tools[3].invoke({"query": "select 1"})
    said = [message.content for message in messages if message.type == "tool"]
    assert said[0] == "tickets"
    assert "CREATE TABLE tickets" in said[1]
    assert said[2] == "[(1,)]"
    assert "was not run" in said[3]
    assert toolkit.get_tools()[0].invoke({"query": "select count(*) from tickets"}) == "[(1,)]"
