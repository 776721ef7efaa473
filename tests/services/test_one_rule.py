"""The Cerbos policy of docs/policy.md, at a real server that is started for it."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import httpx
import pytest

from agentguard import Denied, Intent, any_, guarded, step
from agentguard._http import Http
from agentguard.policy.authzen import AuthZenPoint
from agentguard.testing import Answering, fake_guard
from tests.services import install
from tests.services.endpoints import Services
from tests.test_docs import ROOT, blocks


@guarded("refund.create", effect="write", resource="refund/{account}/{amount}")
def refund(account: str, amount: Decimal) -> str:
    return "paid"


@pytest.fixture
def url(services: Services, tmp_path: Path) -> Iterator[str]:
    """A server with the policy of the page; the stack's own tells that Cerbos is installed."""
    assert services.cerbos.url
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "refund.yaml").write_text(blocks(ROOT / "docs" / "policy.md", "yaml")[2])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {
        "server": {"httpListenAddr": f"127.0.0.1:{port}", "grpcListenAddr": f"unix:{tmp_path / 'c.sock'}"},
        "telemetry": {"disabled": True},
        "storage": {"driver": "disk", "disk": {"directory": str(tmp_path / "policies"), "watchForChanges": False}},
    }
    (tmp_path / "cerbos.yaml").write_text(json.dumps(settings))
    command = [str(install.cerbos()), "server", "--config", str(tmp_path / "cerbos.yaml")]
    with (tmp_path / "cerbos.log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        wait_for(f"http://127.0.0.1:{port}", server)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(10)


def wait_for(url: str, server: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 30
    while True:
        assert server.poll() is None, "the server ended; its policy does not load"
        assert time.monotonic() < end, "the server does not answer"
        try:
            httpx.get(f"{url}/.well-known/authzen-configuration", trust_env=False, timeout=1).raise_for_status()
        except httpx.HTTPError:
            time.sleep(0.05)
        else:
            return


def test_server_holds_the_upper_bound_and_the_intent_asks_a_person(url: str) -> None:
    http, approver, found = Http(), Answering(), []
    intent = Intent.from_yaml(
        blocks(ROOT / "docs" / "policy.md", "yaml")[1].replace("then: ask", "times: 9\n    then: ask")
    )
    wide = Intent("Refund", step("refund.create", account=any_, amount=any_).times(9))
    try:
        with fake_guard(approver=approver, decision_points=[AuthZenPoint(http, url)]) as guard:
            for chosen, amount in ((intent, "50"), (intent, "500"), (wide, "500"), (wide, "500.01"), (wide, "1e9")):
                with guard.task("bot", on_behalf_of="alice", intent=chosen):
                    try:
                        found.append((refund("acme", Decimal(amount)), len(approver.asked)))
                    except Denied as denied:
                        found.append((denied.reason, len(approver.asked)))
    finally:
        http.close()
    assert found == [("paid", 0), ("paid", 1), ("paid", 1), ("policy_denied", 1), ("policy_denied", 1)]
