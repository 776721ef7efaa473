"""LangChain's SQL toolkit on a role that was born for its task: PostgreSQL itself refuses what it may not read."""

# ruff: noqa: F811  # a fixture that is imported is named again by whoever uses it

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy
from langchain_community.agent_toolkits import SQLDatabaseToolkit
from langchain_community.utilities import SQLDatabase
from sqlalchemy import NullPool, create_engine

from agentguard import Credential, Intent, any_, step
from agentguard.clients.sqlalchemy import guard_engine
from agentguard.testing import fake_guard
from agentguard_langchain import create_agent, guard_tools
from agentguard_langchain.testing import ScriptedModel
from tests.services.test_postgres import Database, database, make  # noqa: F401  # fixtures

HI = {"messages": [("user", "what do the invoices sum up to?")]}
NAMES = ("sql_db_query", "sql_db_schema", "sql_db_list_tables", "sql_db_query_checker")
INTENT = Intent(
    "Sum up the invoices",
    step("sql_db_query", query=any_).times(9),  # the statement is free: the role is what bounds it
    reads=["sql_db_schema", "sql_db_list_tables"],
)


@pytest.fixture
def tools(database: Database) -> Any:
    model = ScriptedModel("SELECT 1")
    engine = guard_engine(
        create_engine(database.audience.replace("postgresql:", "postgresql+psycopg:"), poolclass=NullPool)
    )

    def toolkit(credential: Credential) -> SQLDatabaseToolkit:
        born.append(credential.username)
        return SQLDatabaseToolkit(db=SQLDatabase(engine, lazy_table_reflection=True), llm=model)

    born: list[str] = []
    spec = {"effect": "read", "audience": database.audience, "scopes": ["db:read"], "resource": "table/invoices"}
    shapes = SQLDatabaseToolkit(db=SQLDatabase(sqlalchemy.create_engine("sqlite://")), llm=model)
    yield guard_tools(toolkit, dict.fromkeys(NAMES, spec), like=shapes), born
    shapes.db._engine.dispose()


@pytest.fixture(params=["sync", "async"])
def answers(request: pytest.FixtureRequest, database: Database, make: Any, tools: Any) -> Iterator[Any]:
    """Runs a script in one task, and returns what its tools said, the roles that lived at its end, and the guard."""
    issuer = make()
    guard = fake_guard(issuer=issuer)

    def run(*script: Any) -> tuple[list[str], list[str]]:
        agent = create_agent(ScriptedModel(*script, "done"), tools[0])
        return _said(agent.invoke(HI)), database.roles()

    async def arun(*script: Any) -> tuple[list[str], list[str]]:
        agent = create_agent(ScriptedModel(*script, "done"), tools[0])
        return _said(await agent.ainvoke(HI)), database.roles()

    def in_task(*script: Any) -> tuple[list[str], list[str]]:
        with guard.task("analyst", on_behalf_of="alice", intent=INTENT):
            return run(*script)

    async def in_async_task(*script: Any) -> tuple[list[str], list[str]]:
        async with guard.task("analyst", on_behalf_of="alice", intent=INTENT):
            return await arun(*script)

    with guard:
        yield in_task if request.param == "sync" else lambda *script: asyncio.run(in_async_task(*script))


def _said(result: Any) -> list[str]:
    return [message.text for message in result["messages"] if message.type == "tool"]


def query(statement: str) -> list[tuple[str, dict[str, str]]]:
    return [("sql_db_query", {"query": statement})]


@pytest.mark.control("2 a toolkit that others wrote has the task's rights only")
def test_toolkit_reads_the_granted_table_and_postgresql_refuses_the_other(
    answers: Any,
    database: Database,
    tools: Any,
) -> None:
    said, alive = answers(
        [("sql_db_list_tables", {})],
        query("SELECT sum(amount) FROM invoices"),
        query("SELECT * FROM billing.payroll"),
        query("DELETE FROM invoices"),
    )
    assert "invoices" in said[0]
    assert said[1] == "[(300,)]"
    assert "permission denied for table payroll" in said[2]
    assert "read-only transaction" in said[3] or "permission denied" in said[3]
    assert set(alive) == set(tools[1])  # they lived as long as the task
    assert len(alive) == 2  # one for each tool: a lease is never shared between tools
    assert database.roles() == []


def test_schema_tool_shows_the_granted_table(answers: Any) -> None:
    said, _ = answers([("sql_db_schema", {"table_names": "invoices"})])
    assert "CREATE TABLE invoices" in said[0]
    assert "100" in said[0]


def test_statement_that_the_intent_does_not_name_makes_no_role(answers: Any, tools: Any) -> None:
    said, alive = answers([("sql_db_query_checker", {"query": "SELECT 1"})])
    assert "was not run" in said[0]
    assert (alive, tools[1]) == ([], [])
