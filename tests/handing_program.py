"""One hop of a task that three processes do: takes it on standard input, works, and hands it on on standard output."""

from __future__ import annotations

import sys
from decimal import Decimal
from pathlib import Path

from agentguard import Denied, Intent, any_, guarded, step
from agentguard.handover import Handovers
from agentguard.keys import KeySet, SigningKey
from agentguard.testing import fake_guard


@guarded("handed.refund")
def refund(account: str, amount: Decimal) -> str:
    """Refund an amount."""
    return f"refunded {amount}"


def main(name: str, to: str, folder: Path) -> None:
    """Do one refund, hand the rest on, and say what happened."""
    keys = {path.stem: SigningKey.from_pem_file(path) for path in folder.glob("*.pem")}
    peers = {peer: KeySet.of(key) for peer, key in keys.items() if peer != name}
    token = sys.stdin.read().strip()
    with fake_guard(handovers=Handovers(issuer=name, trust_domain="bank.test", key=keys[name], peers=peers)) as guard:
        intent = Intent("Refund", step("handed.refund", account="acme", amount=any_).times(3))
        with guard.resume(token) if token else guard.task("bot", on_behalf_of="alice", intent=intent) as task:
            print(f"{task.chain.text()}: {refund('acme', Decimal(1))}")
            try:
                print(task.export(to) if to else refund("acme", Decimal(1)))
            except Denied as denied:
                print(denied.reason)


main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
