"""What is declared about tools that others wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from langchain_core.tools import StructuredTool

from agentguard import ConfigurationError, Denied, Guard, Intent, at_most, step
from agentguard_langchain import guard_tools
from integrations.langchain.tests.samples import add, decisions, plain_tools, reads


def named(name: str) -> StructuredTool:
    return StructuredTool.from_function(add, name=name, description="Add.")


def test_undeclared_tool_is_a_write_under_its_own_name(guard: Guard) -> None:
    [tool] = guard_tools(named("add"))
    with guard.task("bot", on_behalf_of="alice", intent=reads("*")), pytest.raises(Denied):
        tool.invoke({"a": 1})
    with guard.task("bot", on_behalf_of="alice", intent=Intent("x", step("add", a=at_most(3), b=2))):
        assert tool.invoke({"a": 1}) == 3


def test_name_that_is_no_guard_name_has_to_be_mapped() -> None:
    with pytest.raises(ConfigurationError) as wrong:
        guard_tools(named("QuerySQL"))
    assert 'specs={"QuerySQL": {"name": "query_s_q_l", "effect": "write"}}' in str(wrong.value)


def test_mapped_name_is_bound_when_the_tool_is_wrapped(guard: Guard) -> None:
    [tool] = guard_tools(named("QuerySQL"), {"QuerySQL": {"name": "sql.query", "effect": "read"}})
    tool.name = "allowed.by_intent"
    with guard.task("bot", on_behalf_of="alice", intent=reads("sql.query")):
        tool.invoke({"a": 1})
    assert decisions(guard) == [("call.permitted", "sql.query")]


@pytest.mark.parametrize(
    ("specs", "says"),
    [
        ({"ghost": {"effect": "read"}}, "specs name ghost; the tools here are add"),
        ({"add": "read"}, "needs a mapping of fields"),
        ({"add": {"effekt": "read"}}, "unknown effekt"),
        ({"add": {"effect": "reads"}}, "effect 'reads'"),
        ({"add": {"name": "Add"}}, "needs a guard name"),
        ({"add": {"record": ["c"]}}, "no argument of it"),
    ],
)
def test_wrong_declaration_is_refused_when_the_tool_is_wrapped(specs: Any, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        guard_tools([named("add")], specs)


def test_spec_for_a_tool_that_declares_itself_is_refused() -> None:
    [tool] = guard_tools(named("add"))
    with pytest.raises(ConfigurationError, match="guarded already"):
        guard_tools(tool, {"add": {"effect": "read"}})


def test_two_tools_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="two tools are named add"):
        guard_tools([named("add"), named("add")])


@pytest.mark.parametrize("tools", ["add", 3, [3], [{"type": "web_search"}], [int]])
def test_what_is_no_tool_is_refused(tools: Any) -> None:
    with pytest.raises(ConfigurationError):
        guard_tools(tools)


def test_tools_file_is_read_strictly(guard: Guard, tmp_path: Path) -> None:
    good = tmp_path / "tools.yaml"
    good.write_text("version: 1\ntools:\n  add: {name: math.add, effect: read, record: [a], data: [sums]}\n")
    [tool] = guard_tools([plain_tools()["sync"]], good)
    with guard.task("bot", on_behalf_of="alice", intent=reads("math.add")):
        assert tool.invoke({"a": 1}) == 3
    for text, says in (
        ("tools: {}\n", "has the form"),
        ("version: 2\ntools: {}\n", "reads version 1"),
        ("version: 1\ntools: {add: {effect: read}, add: {effect: write}}\n", "add"),
        ("version: 1\ntools: [add]\n", "has the form"),
    ):
        bad = tmp_path / "bad.yaml"
        bad.write_text(text)
        with pytest.raises(ConfigurationError, match=says):
            guard_tools([plain_tools()["sync"]], str(bad))
