"""LangChain's own standard tests, run on wrapped tools."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from langchain_community.tools import QuerySQLDatabaseTool
from langchain_community.utilities import SQLDatabase
from langchain_core.tools import BaseTool
from langchain_tests.integration_tests import ToolsIntegrationTests
from langchain_tests.unit_tests import ToolsUnitTests
from sqlalchemy import create_engine
from sqlalchemy.pool import StaticPool

from agentguard.testing import fake_guard
from agentguard_langchain import guard_tools
from integrations.langchain.tests.samples import OneText, plain_tools, reads, single

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def _task() -> Iterator[None]:
    with fake_guard() as guard, guard.task("bot", on_behalf_of="alice", intent=reads("*")):
        yield


def read(tool: BaseTool) -> BaseTool:
    return guard_tools(tool, {tool.name: {"effect": "read"}})[0]


class Wrapped:
    make = ""

    @property
    def tool_constructor(self) -> Any:
        return read(plain_tools()[self.make])

    @property
    def tool_invoke_params_example(self) -> dict[str, Any]:
        return {"a": 1, "b": 2}


class TestStructuredToolUnit(Wrapped, ToolsUnitTests):
    make = "both"


class TestStructuredTool(Wrapped, ToolsIntegrationTests):
    make = "both"


class TestBaseToolUnit(Wrapped, ToolsUnitTests):
    make = "subclass"


class TestBaseTool(Wrapped, ToolsIntegrationTests):
    make = "subclass"


class TestBaseToolWithBoth(Wrapped, ToolsIntegrationTests):
    make = "subclass_both"


class TestSingleToolUnit(ToolsUnitTests):
    @property
    def tool_constructor(self) -> Any:
        return read(single(OneText))

    @property
    def tool_invoke_params_example(self) -> dict[str, Any]:
        return {"tool_input": "a"}


class TestSingleTool(ToolsIntegrationTests):
    @property
    def tool_constructor(self) -> Any:
        return read(single(OneText))

    @property
    def tool_invoke_params_example(self) -> dict[str, Any]:
        return {"tool_input": "a"}


ENGINE = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})


@pytest.fixture(autouse=True, scope="module")
def _dispose() -> Iterator[None]:
    yield
    ENGINE.dispose()


class Query:
    @property
    def tool_constructor(self) -> Any:
        return read(QuerySQLDatabaseTool(db=SQLDatabase(ENGINE)))

    @property
    def tool_invoke_params_example(self) -> dict[str, Any]:
        return {"query": "select 1"}


class TestQueryUnit(Query, ToolsUnitTests):
    pass


class TestQuery(Query, ToolsIntegrationTests):
    pass
