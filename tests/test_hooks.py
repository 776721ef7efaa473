"""What framework hooks use: to say who calls, to record a denial of their own, to declare tools of others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agentguard import Caller, ConfigurationError, Denied, Intent, Reason, guard_tool, load_tools, step
from agentguard.audit.memory import MemoryLog
from agentguard.testing import fake_guard
from tests.tools import everything, read_account


def test_what_a_hook_says_about_a_call_is_recorded_and_decides_nothing() -> None:
    log = MemoryLog()
    with fake_guard(audit=log) as guard, guard.task("bot", on_behalf_of="alice", intent=everything()):
        with Caller(call_id="call_7", agent="somebody-else", run_id="run_1").calling():
            read_account("acme")
        read_account("acme")
    first, second = (record for record in log.records if record["event"] == "call.permitted")
    assert first["framework"] == {"call": "call_7", "agent": "somebody-else", "run": "run_1"}
    assert first["agent"] == "bot"
    assert "framework" not in second


def test_denial_of_a_hook_is_recorded_counted_and_explained() -> None:
    log = MemoryLog()
    with fake_guard(audit=log) as guard:
        with guard.task("bot", on_behalf_of="alice", intent=everything()) as task:
            denied = task.refuse("web_search" * 10, Reason.UNGUARDED, "pass it through guard_tools(...)")
        assert isinstance(denied, Denied)
        record = next(r for r in log.records if r["event"] == "call.denied")
        assert (record["reason"], len(record["tool"])) == ("unguarded", 64)
        assert denied.decision.id == f"{record['chain']}:{record['seq']}"
        assert "guard_tools" in str(guard.explain())
        assert next(r for r in log.records if r["event"] == "task.ended")["counts"]["denied"] == 1


def test_declared_default_stands_for_an_argument_that_is_left_out() -> None:
    def remote(**arguments: Any) -> str:
        return "ran"

    tool = guard_tool(remote, "remote", args={"limit": {"default": 10}})
    with fake_guard() as guard, guard.task("bot", on_behalf_of="alice", intent=Intent("x", step("remote").times(9))):
        assert tool() == tool(limit=10) == "ran"
        with pytest.raises(Denied):
            tool(limit=11)
    with pytest.raises(ConfigurationError, match="default"):
        guard_tool(remote, "remote", args={"limit": 10})


def test_tools_file_is_read_strictly_with_all_mistakes_in_one_error(tmp_path: Path) -> None:
    path = tmp_path / "tools.yaml"
    path.write_text("version: 1\ntools:\n  look: {effect: read, data: [pii]}\n  wipe:\n    effect: destructive\n")
    assert load_tools(path) == {"look": {"effect": "read", "data": ["pii"]}, "wipe": {"effect": "destructive"}}
    path.write_text("version: 1\ntools:\n  look: {efect: read}\n  wipe: read\n")
    with pytest.raises(ConfigurationError) as error:
        load_tools(path)
    assert len(error.value.problems) == 2
    assert "did you mean 'effect'" in error.value.problems[0]
    path.write_text("version: 1\ntools:\n  look: {defaults: 5}\n  wipe: {args: [limit]}\n")
    with pytest.raises(ConfigurationError) as error:
        load_tools(path)
    assert [problem.partition(": ")[2] for problem in error.value.problems] == [
        "tools.look.defaults: write a mapping of arguments, such as {limit: 10}",
        "tools.wipe.args: write a mapping of arguments, such as {limit: {default: 10}}",
    ]
    path.write_text("tools: {}\n")
    with pytest.raises(ConfigurationError, match="version: 1"):
        load_tools(path)


def test_values_of_a_tools_file_that_no_tool_takes_are_named_at_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "tools.yaml"
    path.write_text("version: 1\ntools:\n  look: {effect: reads}\n  send:\n    scopes: a b\n    audience: 5\n")
    with pytest.raises(ConfigurationError) as error:
        load_tools(path)
    assert [problem.removeprefix(str(path)) for problem in error.value.problems] == [
        ":3: tools.look.effect: write read, write, destructive",
        ":5: tools.send.scopes: write a list of names: scopes: [a, b]",
        ":6: tools.send.audience: write text",
    ]


def test_tools_file_may_hold_the_hash_of_a_reviewed_tool(tmp_path: Path) -> None:
    from agentguard.cli.tools_file import read_tools

    path, digest = tmp_path / "tools.yaml", "0a" * 32
    path.write_text(f"version: 1\ntools:\n  look: {{effect: read, reviewed_s256: {digest}}}\n")
    assert load_tools(path) == {"look": {"effect": "read", "reviewed_s256": digest}}
    assert set(read_tools(path).specs) == {"look"}

    path.write_text(f"version: 1\ntools:\n  look: {{effect: read, reviewed_s256: {digest[1:]}}}\n")
    with pytest.raises(ConfigurationError, match="64 digits"):
        read_tools(path)


def test_tools_file_that_names_parameters_and_defaults_for_lint_serves_guarded_tools_too(tmp_path: Path) -> None:
    from agentguard.cli.tools_file import read_tools

    path = tmp_path / "tools.yaml"
    path.write_text(
        "version: 1\ntools:\n  look: {effect: read, parameters: [a, b], defaults: {b: 1}}\n"
        "  send: {effect: write, args: {to: {default: ann}}}\n"
    )
    assert load_tools(path) == {
        "look": {"effect": "read", "args": {"b": {"default": 1}}},
        "send": {"effect": "write", "args": {"to": {"default": "ann"}}},
    }
    assert read_tools(path).specs["send"].defaults == {"to": "ann"}
    guard_tool(lambda a, b: a, "look", **load_tools(path)["look"])
