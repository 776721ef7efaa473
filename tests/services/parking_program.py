"""One process of `test_parking`: it parks a task and waits to be killed, or goes on with one.

Usage: `python -m tests.services.parking_program park CONFIG RAN TTL`, or `resume CONFIG RAN TASK`. RAN is a file with a
line for every tool that ran, in whichever process.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import agentguard
from agentguard import ApprovalRequired, Denied, Guard, Intent, any_, guarded, step

INTENT = Intent(
    "Pay, and refund once",
    step("desk.pay", account=any_).times(5),
    step("desk.refund", account=any_).times(1).then_ask(),
)


def _note(tool: str) -> str:
    with open(sys.argv[3], "a") as ran:
        ran.write(f"{tool}\n")
    return "done"


@guarded("desk.pay", audience="https://bank.test")
def pay(account: str) -> str:
    return _note(f"pay {account}")


@guarded("desk.refund", audience="https://bank.test")
def refund(account: str) -> str:
    return _note(f"refund {account}")


def park(guard: Guard, ttl: str) -> dict[str, Any]:
    task = guard.task("desk", on_behalf_of="alice", intent=INTENT, ttl=ttl)
    try:
        with task:
            pay("one")
            pay("two")
            refund("acme")
    except ApprovalRequired as waits:
        return {"task": task.id, "question": waits.question, "outstanding": guard.outstanding()}
    return {}


def resume(guard: Guard, task: str) -> dict[str, Any]:
    print(json.dumps({"ready": os.getpid()}), flush=True)
    sys.stdin.readline()
    try:
        with guard.resume(task, on_behalf_of="alice") as resumed:
            refund("acme")
            paid, why = 0, ""
            while not why:
                try:
                    pay(f"after {paid}")
                    paid += 1
                except Denied as denied:
                    why = denied.reason
            return {"went_on": True, "paid": paid, "why": why, "chain": resumed.chain.text()}
    except Denied as denied:
        return {"went_on": False, "why": denied.reason}


def main() -> None:
    what, config, _, last = sys.argv[1:]
    guard = agentguard.load(config)
    print(json.dumps((park if what == "park" else resume)(guard, last)), flush=True)
    sys.stdin.readline()
    guard.close()


if __name__ == "__main__":
    main()
