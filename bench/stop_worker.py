"""One process of `bench.stop`: calls in flight all the time, and the moment at which each began."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from contextlib import ExitStack
from typing import Any, Final

import anyio
import anyio.to_thread

from agentguard import Denied, Guard, Intent, current_call, guarded, step
from agentguard.credentials.local import LocalIssuer
from agentguard.keys import SigningKey
from agentguard.testing import fake_guard

AGENT: Final = "stopped"
API: Final = "https://api.test"
LASTS: Final = 0.02  # seconds of a call, and between two
_MANY: Final = 10_000_000
began: list[tuple[str, str, int]] = []


@guarded("bench.read", effect="read", audience=API)
async def read() -> int:
    return await _begun("read")


@guarded("bench.write", audience=API)
async def write() -> int:
    return await _begun("write")


async def _begun(kind: str) -> int:
    at = time.monotonic_ns()
    began.append((kind, current_call().id, at))
    await anyio.sleep(LASTS)
    return at


def stores_of(spec: dict[str, Any], stack: ExitStack) -> dict[str, Any]:
    """The ledger and the suspensions that all processes share."""
    key = bytes.fromhex(spec["key"])
    if "file" in spec:
        from agentguard.state.sqlite import SqliteLedger
        from agentguard.state.suspensions_sqlite import SqliteSuspensions

        return {"ledger": SqliteLedger(spec["file"], key), "suspensions": SqliteSuspensions(spec["file"])}
    from agentguard.state.ledger_postgres import PostgresLedger
    from agentguard.state.postgres import PostgresStore
    from agentguard.state.suspensions_postgres import PostgresSuspensions

    store = PostgresStore(spec["dsn"])
    stack.callback(store.close)
    return {"ledger": PostgresLedger(store, key), "suspensions": PostgresSuspensions(store)}


class Calls:
    """The calls of this process until it is told to end."""

    def __init__(self, guard: Guard) -> None:
        self.guard, self.ended = guard, False
        self.asked: list[tuple[str, int, int]] = []  # of calls that were let through: when made, when begun
        self.reasons: Counter[str] = Counter()

    async def go_on(self, tool: Any, kind: str) -> None:
        while not self.ended:
            at = time.monotonic_ns()
            try:
                reached = await tool()
            except Denied as denied:
                self.reasons[str(denied.reason)] += 1
                await anyio.sleep(LASTS)
            else:
                self.asked.append((kind, at, reached))

    async def obey(self) -> None:
        """Do what standard input says, a line at a time, and answer with a line."""
        while (said := (await anyio.to_thread.run_sync(sys.stdin.readline)).strip()) in ("suspend", "lift"):
            print(json.dumps(await self.suspend() if said == "suspend" else await self.lift()), flush=True)
        self.ended = True

    async def suspend(self) -> dict[str, Any]:
        called = time.monotonic_ns()
        await self.guard.asuspend(agent=AGENT, why="bench")
        returned = time.monotonic_ns()
        marked = await self.guard.suspensions.running()  # type: ignore[attr-defined]  # every shared store lists them
        return {"called": called, "returned": returned, "marked": list(marked), "looked": time.monotonic_ns()}

    async def lift(self) -> dict[str, Any]:
        at = time.monotonic_ns()
        await self.guard.suspensions.lift(f"agent:{AGENT}")
        return {"lifted": at}


async def work(spec: dict[str, Any], guard: Guard) -> Calls:
    calls = Calls(guard)
    intent = Intent("Work", step("bench.write").times(_MANY), reads=["bench.read"])
    async with guard.task(AGENT, on_behalf_of="alice", intent=intent), anyio.create_task_group() as group:
        for number in range(spec["calls"]):
            group.start_soon(calls.go_on, *((write, "write") if number % 2 else (read, "read")))
        print("ready", flush=True)
        await calls.obey()
    return calls


def main() -> None:
    spec = json.loads(sys.stdin.readline())
    with ExitStack() as stack:
        stores = stores_of(spec, stack)
        guard = stack.enter_context(fake_guard(issuer=LocalIssuer(SigningKey.generate()), recall=False, **stores))
        calls = anyio.run(work, spec, guard)
    print(json.dumps({"began": began, "asked": calls.asked, "reasons": calls.reasons}), flush=True)


if __name__ == "__main__":
    main()
