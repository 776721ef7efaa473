"""Handovers over MCP: in `_meta` over stdio, never over HTTP."""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentguard import Guard
from agentguard.errors import TokenRejected
from agentguard.transports.mcp import KEY, handover_in, resume, with_handover, without_handover
from tests.handing import KEYS, guard_of, read, refunds

TOKEN = "eyJhbGciOiJFUzI1NiJ9.e30.c2ln"  # no token of anybody


@pytest.fixture
def home() -> Iterator[Guard]:
    with guard_of("home", "far") as made:
        yield made


def test_params_stay_as_they_are_and_the_handover_stands_in_meta() -> None:
    params = {"name": "read", "arguments": {"a": 1}, "_meta": {"progressToken": 7}}
    sent = with_handover(params, TOKEN, transport="stdio")
    assert params["_meta"] == {"progressToken": 7}
    assert sent["_meta"] == {"progressToken": 7, KEY: TOKEN}
    assert handover_in(sent, transport="stdio") == TOKEN
    assert without_handover(sent) == params
    assert without_handover(with_handover(None, TOKEN, transport="stdio")) == {}


@pytest.mark.control("7 over http _meta is no authority")
def test_over_http_nothing_is_sent_and_nothing_is_taken() -> None:
    forged = {"_meta": {KEY: TOKEN}}
    assert KEY not in with_handover(forged, TOKEN, transport="http")["_meta"]
    with pytest.raises(TokenRejected, match="access token"):
        handover_in(forged, transport="http")


@pytest.mark.parametrize(
    "params",
    [None, {}, {"_meta": None}, {"_meta": []}, {"_meta": {KEY: 7}}, {"_meta": {KEY: ""}}, {"_meta": {KEY: "x y"}}],
)
def test_no_handover_is_refused(params: Any) -> None:
    with pytest.raises(TokenRejected):
        handover_in(params, transport="stdio")


def test_server_resumes_the_task_of_a_request(home: Guard) -> None:
    with home.task("bot", on_behalf_of="alice", intent=refunds()) as task:
        sent = with_handover({"name": "read"}, task.export("researcher"), transport="stdio")
    with guard_of("far", "home") as far, resume(far, sent, agent="researcher", transport="stdio") as resumed:
        assert resumed.chain.text() == "user:alice > bot > researcher"
        assert read("acme")


SERVER = """
import sys
from mcp.server.mcpserver import Context, MCPServer
from agentguard.handover import Handovers
from agentguard.keys import KeySet
from agentguard.testing import fake_guard
from agentguard.transports.mcp import resume

server = MCPServer("far")
parties = Handovers(issuer="far", trust_domain="bank.test", peers={"home": KeySet.from_file(sys.argv[1])})
guard = fake_guard(handovers=parties)


@server.tool()
async def who(ctx: Context) -> str:
    meta = ctx.request_context.meta
    data = meta.model_dump() if hasattr(meta, "model_dump") else dict(meta or {})
    async with resume(guard, {"_meta": data}, agent="researcher", transport="stdio") as task:
        return task.chain.text()


server.run("stdio")
"""


def test_real_client_and_server_over_stdio(home: Guard, tmp_path: Path) -> None:
    mcp: Any = pytest.importorskip("mcp", reason="an optional integration: pip install mcp")
    stdio: Any = importlib.import_module("mcp.client.stdio")
    (tmp_path / "server.py").write_text(SERVER)
    (tmp_path / "keys.json").write_text(json.dumps({"keys": [KEYS["home"].public_jwk()]}))
    arguments = [str(tmp_path / "server.py"), str(tmp_path / "keys.json")]
    started = stdio.StdioServerParameters(command=sys.executable, args=arguments, env=dict(os.environ))

    async def work() -> str:
        async with stdio.stdio_client(started) as (reader, writer), mcp.ClientSession(reader, writer) as session:
            await session.initialize()
            async with home.task("bot", on_behalf_of="alice", intent=refunds()) as task:
                sent = with_handover({}, await task.aexport("researcher"), transport="stdio")
                result: Any = await session.call_tool("who", {}, meta=sent["_meta"])
            return str(result.content[0].text)

    assert asyncio.run(work()) == "user:alice > bot > researcher"
