"""The rule that docs/policy.md writes three times decides the same, and docs/approvals.md does what it shows."""

from __future__ import annotations

import json
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pytest

from agentguard import Denied, Guard, Intent, any_, guarded, step
from agentguard._http import Http
from agentguard.policy.authzen import AuthZenPoint
from agentguard.policy.cedar import CedarPoint
from agentguard.ports import DecisionPoint
from agentguard.testing import Answering, fake_guard
from tests.loopback import Answer, Received, reply, serving
from tests.test_docs import ROOT, blocks

POLICY, APPROVALS = ROOT / "docs" / "policy.md", ROOT / "docs" / "approvals.md"
ANY = Intent("Refund a ticket", step("refund.create", account=any_, amount=any_).times(9))


@guarded("refund.create", effect="write", record=["amount"])
def refund(account: str, amount: Decimal) -> str:
    return "paid"


def alone_with_a_person_never(guard: Guard, intent: Intent, approver: Answering) -> list[tuple[str, bool]]:
    """What becomes of four refunds, and whether a person was asked."""
    found = []
    with guard.task("bot", on_behalf_of="alice", intent=intent):
        for amount in ("50", "50.01", "500", "500.01"):
            before = len(approver.asked)
            try:
                said = refund("acme", Decimal(amount))
            except Denied:
                said = "denied"
            found.append((said, len(approver.asked) > before))
    return found


RULE = [("paid", False), ("paid", True), ("paid", True), ("denied", False)]


def test_intent_of_the_page_decides_by_the_rule() -> None:
    intent = Intent.from_yaml(blocks(POLICY, "yaml")[1].replace("then: ask", "times: 9\n    then: ask"))
    approver = Answering()
    with fake_guard(approver=approver) as guard:
        assert alone_with_a_person_never(guard, intent, approver) == RULE


def test_cedar_policy_of_the_page_decides_by_the_rule(tmp_path: Path) -> None:
    (tmp_path / "refunds.cedar").write_text(blocks(POLICY, "cedar")[1])
    assert decided(CedarPoint(tmp_path)) == RULE


def test_answer_of_the_page_obliges_to_ask() -> None:
    (shown,) = blocks(POLICY, "json")

    def answers(received: Received) -> Answer:
        amount = json.loads(received.body)["context"]["arguments"]["amount"]
        small = Decimal(str(amount)) <= 50
        if Decimal(str(amount)) > 500:
            return reply({"decision": False})
        return reply({"decision": True} if small else json.loads(shown))

    http = Http(attempts=1)
    try:
        with serving(answers) as server:
            assert decided(AuthZenPoint(http, server.url, discover=False)) == RULE
    finally:
        http.close()


def decided(point: DecisionPoint) -> list[tuple[str, bool]]:
    approver = Answering()
    with fake_guard(approver=approver, decision_points=[point]) as guard:
        return alone_with_a_person_never(guard, ANY, approver)


def test_call_that_waits_goes_on_as_the_page_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = next(block for block in blocks(APPROVALS, "yaml") if "version: 1" in block)
    program = next(block for block in blocks(APPROVALS, "python") if "guard.resume" in block)
    tmp_path.chmod(0o700)
    (tmp_path / "agentguard.yaml").write_text(config)
    for name in ("AG_PSEUDONYM", "AG_STATE_KEY"):
        monkeypatch.setenv(name, "0123456789abcdef" * 4)
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path
    )
    assert done.stdout == blocks(APPROVALS, "text")[-1], done.stderr
