"""A stop reaches every process that shares the state: nothing starts after it, handed-over tasks included."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from agentguard import Denied, Guard, Intent, Task, current_credential, guarded, step
from agentguard._drive import drive
from agentguard.errors import Unavailable
from agentguard.state.budgets_sqlite import SqliteBudgets
from agentguard.state.suspensions_memory import MemorySuspensions
from agentguard.state.suspensions_sqlite import SqliteSuspensions
from agentguard.testing import FakeIssuer
from tests.handing import guard_of

everywhere = pytest.mark.control("9 nothing starts in any process of the host after suspend returned")
handed = pytest.mark.control("9 a stop above a handover stops what was handed on")
lost = pytest.mark.control("9 a lost store denies")
NAMES = ("home", "far", "third")
HAMMER = textwrap.dedent("""
    import json, sys, time
    from agentguard import Denied, Intent, current_call, guarded, step
    from agentguard.state.suspensions_sqlite import SqliteSuspensions
    from agentguard.testing import fake_guard

    began = {}

    @guarded("hammer.read", effect="read")
    def read(): began[current_call().id] = time.monotonic_ns()

    @guarded("hammer.write")
    def write(): began[current_call().id] = time.monotonic_ns()

    intent = Intent("Hammer", step("hammer.write").times(1_000_000), reads=["hammer.read"])
    asked, permitted, reasons = [], 0, set()
    with fake_guard(suspensions=SqliteSuspensions(sys.argv[1]), issuer=None) as guard:
        with guard.task("bot", on_behalf_of="alice", intent=intent):
            write()
            until, after = time.monotonic() + 20, 0
            while after < 50 and time.monotonic() < until:
                for tool in (read, write):
                    at = time.monotonic_ns()
                    try:
                        tool()
                    except Denied as denied:
                        after += 1
                        reasons.add(str(denied.reason))
                    else:
                        asked.append(at)
                        permitted += 1
                        if permitted == 3:  # a busy machine lets one of them wait for long
                            print("ready", flush=True)
    print(json.dumps({"asked": asked[-500:], "began": list(began.items())[-500:], "permitted": permitted,
                      "denied": after, "reasons": sorted(reasons)}), flush=True)
""")


@guarded("stop.read", effect="read", audience="https://api.test")
def read() -> str:
    """Read with a credential."""
    return current_credential().lease.id


@guarded("stop.look", effect="read")
async def look() -> None:
    """Read without a credential."""


@guarded("stop.write")
def write() -> str:
    """Write without one."""
    return "written"


# processes ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path) -> Path:
    tmp_path.chmod(0o700)
    return tmp_path / "state.db"


@pytest.fixture
def hammers(file: Path) -> Iterator[list[subprocess.Popen[str]]]:
    """Four processes that call a read and a write tool in turns until they are stopped."""
    command = [sys.executable, "-W", "error", "-c", HAMMER, str(file)]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    for process in started:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    yield started
    for process in started:
        process.kill()
        process.communicate()


@everywhere
@pytest.mark.slow
@pytest.mark.parametrize("key", ["agent:bot", "subject:user:alice", "chain:user:alice>bot", "all"])
def test_case_60_nothing_starts_in_four_processes_after_suspend_returned(
    key: str, file: Path, hammers: list[subprocess.Popen[str]]
) -> None:
    with closing(SqliteSuspensions(file)) as suspensions:
        time.sleep(0.3)
        drive(suspensions.suspend(key, "stop"))
        returned = time.monotonic_ns()
        marked = set(drive(suspensions.running()))
        looked = time.monotonic_ns()
        outcomes: list[dict[str, Any]] = [json.loads(process.communicate(timeout=30)[0]) for process in hammers]
    for found in outcomes:
        assert found["permitted"] > 2
        assert found["denied"] >= 50
        assert found["reasons"] == ["suspended"]
        assert not [at for at in found["asked"] if at > returned]
        # A call that was marked before the stop may reach its tool later; it stands in the list of those that run.
        assert not [call for call, at in found["began"] if at > looked and call not in marked]


# handed-over tasks --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Far:
    """A chain over three guards that share the file, as far as the last of them."""

    root: Task
    sub: Task
    middle: Task
    last: Task
    guards: dict[str, Guard]


@contextmanager
def chain_of_three(file: Path) -> Iterator[Far]:
    with ExitStack() as stack:
        guards = {
            name: stack.enter_context(
                guard_of(
                    name, *(other for other in NAMES if other != name), issuer=FakeIssuer(),
                    suspensions=SqliteSuspensions(file), budgets=SqliteBudgets(file),
                )
            )
            for name in NAMES
        }  # fmt: skip
        intent = Intent("Work", reads=["stop.read"])
        root = stack.enter_context(guards["home"].task("bot", on_behalf_of="alice", intent=intent))
        sub = stack.enter_context(root.delegate("clerk", reads=["stop.read"]))
        token = sub.export("researcher")
        with _outside(), guards["far"].resume(token) as middle:
            onward = middle.export("reader")
            with _outside(), guards["third"].resume(onward) as last:
                yield Far(root, sub, middle, last, guards)


@contextmanager
def _outside() -> Iterator[None]:
    """What another process sees: no task is active."""
    from agentguard.access import _task

    token = _task.set(None)
    try:
        yield
    finally:
        _task.reset(token)


STOPS: dict[str, Callable[[Far], dict[str, str]]] = {
    "task of the root": lambda far: {"task": far.root.id},
    "task that was handed on": lambda far: {"task": far.sub.id},
    "first agent": lambda far: {"agent": "bot"},
    "agent in the middle": lambda far: {"agent": "researcher"},
    "last agent": lambda far: {"agent": "reader"},
    "subject": lambda far: {"subject": "user:alice"},
    "prefix of the chain": lambda far: {"chain": "user:alice > bot > clerk"},
    "whole chain": lambda far: {"chain": "user:alice > bot > clerk > researcher > reader"},
}


@handed
@pytest.mark.parametrize("who", STOPS)
def test_stop_where_a_task_came_from_stops_it_two_hops_on(who: str, file: Path) -> None:
    with chain_of_three(file) as far:
        assert far.last.chain.text() == "user:alice > bot > clerk > researcher > reader"
        assert read()
        assert far.guards["third"].outstanding() == 1

        far.guards["home"].suspend(**STOPS[who](far), why="stop")

        with pytest.raises(Denied) as raised:
            read()
        assert raised.value.reason == "suspended"
        assert _ends_within_a_second(far.guards["third"])


@handed
@pytest.mark.parametrize("who", [{"agent": "bot"}, {"subject": "user:alice"}, {"chain": "user:alice > bot"}])
def test_stopped_task_that_was_taken_over_is_not_handed_on(who: dict[str, str], file: Path) -> None:
    with chain_of_three(file) as far:
        far.guards["home"].suspend(**who, why="stop")
        with pytest.raises(Denied) as raised:
            far.middle.export("writer")
        assert raised.value.reason == "suspended"


@handed
def test_sub_agent_of_a_task_that_was_taken_over_is_stopped_too(file: Path) -> None:
    with (
        chain_of_three(file) as far, _outside(), far.middle.activate(),
        far.middle.delegate("writer", reads=["stop.read"]),
    ):  # fmt: skip
        assert read()
        far.guards["home"].suspend(task=far.root.id, why="stop")
        with pytest.raises(Denied) as raised:
            read()
        assert raised.value.reason == "suspended"


@pytest.mark.parametrize(
    "who", [{"agent": "other"}, {"subject": "user:bob"}, {"chain": "user:alice > clerk"}, {"task": "another"}]
)
def test_stop_of_somebody_else_stops_nothing_of_it(who: dict[str, str], file: Path) -> None:
    with chain_of_three(file) as far:
        far.guards["home"].suspend(**who, why="stop")
        assert read()


@handed
def test_stop_before_the_handover_is_used_refuses_it(file: Path) -> None:
    with chain_of_three(file) as far:
        token = far.middle.export("writer")
        far.guards["home"].suspend(task=far.root.id, why="stop")
        parties = guard_of("stranger", *NAMES, suspensions=SqliteSuspensions(file))
        with parties as fourth, _outside(), pytest.raises(Denied) as raised, fourth.resume(token):
            pass
        assert raised.value.reason == "suspended"


def _ends_within_a_second(guard: Guard) -> bool:
    until = time.monotonic() + 1.0
    while guard.outstanding() and time.monotonic() < until:
        time.sleep(0.02)
    return guard.outstanding() == 0


# a store that tells reads by notifications --------------------------------------------------------------------------


class Lagging(MemorySuspensions):
    """Reads hear of a stop a moment after it was committed, as over PostgreSQL; or never."""

    suspends = True

    def __init__(self, after: float) -> None:
        super().__init__()
        self._heard_at, self._after = math.inf, after

    async def suspend(self, key: str, why: str) -> None:
        await super().suspend(key, why)
        self._heard_at = time.monotonic() + self._after

    async def suspended(self, keys: Sequence[str]) -> str:
        return await super().suspended(keys) if time.monotonic() >= self._heard_at else ""

    async def start(self, call: str, keys: Sequence[str], *, reads: bool = False) -> str:
        return await self.suspended(keys) if reads else await super().start(call, keys)


@pytest.mark.control("9 suspend returns when this process has heard of it too")
@pytest.mark.anyio
async def test_read_of_the_process_that_suspends_does_not_start_on_old_news() -> None:
    intent = Intent("Work", reads=["stop.look"])
    with guard_of("home", suspensions=Lagging(0.2)) as guard:
        async with guard.task("bot", on_behalf_of="alice", intent=intent):
            await look()
            await guard.asuspend(agent="bot", why="stop")
            with pytest.raises(Denied) as raised:
                await look()
    assert raised.value.reason == "suspended"


@pytest.mark.slow
def test_stop_that_is_never_heard_of_is_waited_for_no_longer_than_old_news_is_trusted() -> None:
    began = time.monotonic()
    with guard_of("home", suspensions=Lagging(math.inf)) as guard:
        guard.suspend(agent="bot", why="stop")
    assert 1.0 < time.monotonic() - began < 5.0


# a store that is lost -----------------------------------------------------------------------------------------------


@lost
@pytest.mark.parametrize("tool", [read, write])
def test_lost_store_denies_reads_and_writes(
    tool: Callable[[], str], file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    intent = Intent("Work", step("stop.write"), reads=["stop.read"])
    with (
        guard_of("home", issuer=FakeIssuer(), suspensions=SqliteSuspensions(file, timeout=0.2)) as guard,
        guard.task("bot", on_behalf_of="alice", intent=intent),
    ):
        for part in file.parent.glob("state.db*"):
            part.unlink()
        with pytest.raises(Denied) as raised:
            tool()
        assert raised.value.reason == "suspended"
        assert "the suspensions cannot be read" in raised.value.decision.message
        with pytest.raises(Unavailable):
            guard.suspend(agent="bot", why="stop")
        guard.keeper.tick()
        assert "Unavailable" in caplog.text
