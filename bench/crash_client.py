"""The client that `bench.crash` kills: it runs tasks until it is dead. Its spec stands in its standard input."""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path
from typing import Any, Final

from agentguard import Denied, Guard, Intent, current_call, guarded, step
from agentguard.audit.log import FileLog
from agentguard.registry import OpenRegistry
from agentguard.state.sqlite import SqliteLedger
from bench.authority import Client
from bench.crash_brokers import issuer_of, user_of

THREADS: Final = 3


def main() -> None:
    given: dict[str, Any] = json.loads(sys.stdin.read())
    folder, spec, note, key = Path(given["folder"]), given["broker"], Client(given["port"]), bytes.fromhex(given["key"])
    guard = Guard(
        audit=FileLog(folder / "audit"), registry=OpenRegistry(), issuer=issuer_of(spec),
        ledger=SqliteLedger(folder / "state.db", key), pseudonym_key=key,
    )  # fmt: skip
    user, intent = user_of(spec), Intent("Pay acme", step("pay", account="acme"))

    @guarded("pay", effect="write", audience=spec["audience"], scopes=spec["scopes"], resource=spec["resource"])
    def pay(account: str) -> None:
        note("/note", {"call": current_call().id})

    def work() -> None:
        while True:
            try:
                with guard.task("bot", on_behalf_of=user, intent=intent, ttl=30):
                    pay("acme")
                said.set()
            except Denied as denied:  # the proxy went wrong, which is what it is for
                if not said.is_set():
                    print(denied.decision.miss.text, file=sys.stderr, flush=True)

    said = threading.Event()
    workers = [threading.Thread(target=work) for _ in range(THREADS)]
    for worker in workers:
        worker.start()
    print("on", flush=True)


if __name__ == "__main__":
    main()
