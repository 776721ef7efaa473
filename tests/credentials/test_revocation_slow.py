"""A server that does not answer: whoever is stopped is stopped at once, and nobody waits for it again and again."""

from __future__ import annotations

import contextvars
import time
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from agentguard import Guard, Intent, Task, current_credential, guarded
from agentguard._drive import drive
from agentguard.credentials.held import Use
from agentguard.credentials.ledger import MemoryLedger
from agentguard.errors import Unavailable
from agentguard.model.credential import Credential
from agentguard.model.lease import Ending, Lease, Secret
from agentguard.state.suspensions_memory import MemorySuspensions
from agentguard.task_state import TaskState
from agentguard.testing import FakeClock, FakeIssuer, fake_guard
from tests.credentials.rooms import Room, Vault, grant

at_once = pytest.mark.control("8 who is stopped loses its credential before a server is asked")
retried = pytest.mark.control("8 a failed revocation is retried, then swept")


class Silent(FakeIssuer):
    """Takes its time to say that it does not know; `answers` after that, where it does."""

    def __init__(self, seconds: float, *, answers: bool = False) -> None:
        super().__init__()
        self.seconds, self.answers = seconds, answers
        self.asked: list[str] = []

    async def revoke(self, lease: Lease, handle: Secret | None = None) -> Ending:
        time.sleep(self.seconds)  # noqa: ASYNC251  # a synchronous caller waits
        self.asked.append(lease.id)
        if not self.answers:
            raise Unavailable("no answer")
        return await super().revoke(lease, handle)


@at_once
@pytest.mark.parametrize("kind", [FakeIssuer, Vault])
@pytest.mark.parametrize("reopen", [False, True])
def test_all_calls_that_are_stopped_together_lose_their_credentials_before_the_first_server_is_asked(
    kind: Any, reopen: bool
) -> None:
    alive: list[list[bool]] = []
    uses: list[Use] = []

    class Looking(kind):  # type: ignore[misc]  # each of them
        async def revoke(self, lease: Lease, handle: Secret | None = None) -> Ending:
            alive.append([use.credential.live for use in uses])
            ending: Ending = await super().revoke(lease, handle)
            return ending

    room = Room(Looking())
    room.leases.open_task("child")
    for task, tool in (("t", "a"), ("t", "b"), ("child", "a")):
        uses.append(drive(room.leases.obtain(grant(task=task, tool=tool))))
    drive(room.leases.end_task("t", reopen=reopen, others=["child"]))
    assert alive
    assert not any(any(each) for each in alive)
    for use in uses:
        drive(room.leases.release(use))
    assert room.nothing_is_left()


@retried
def test_end_of_a_task_asks_a_silent_server_only_for_a_moment_and_owes_the_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("agentguard.credentials.ending.RELEASE_SECONDS", 0.1, raising=False)
    issuer = Silent(0.06)
    room = Room(issuer)
    for number in range(20):
        drive(room.leases.release(drive(room.leases.obtain(grant(tool=f"tool{number}")))))
    assert drive(room.leases.end_task("t")) == 0
    assert len(issuer.asked) == 2
    issuer.answers, issuer.seconds = True, 0
    room.clock.advance(2)
    drive(room.leases.retry_failed())
    assert room.nothing_is_left()


@pytest.mark.anyio
async def test_silent_server_that_is_asked_side_by_side_is_not_asked_on_and_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentguard.credentials.ending.RELEASE_SECONDS", 0.1, raising=False)
    asked: list[str] = []

    class Refusing(FakeIssuer):
        async def revoke(self, lease: Lease, handle: Secret | None = None) -> Ending:
            asked.append(lease.id)
            await anyio.sleep(0.06)
            raise Unavailable("no answer")

    room = Room(Refusing(suspends=True))
    for number in range(60):
        await room.leases.release(await room.leases.obtain(grant(tool=f"tool{number}")))
    assert await room.leases.end_task("t") == 0
    assert len(asked) <= 24
    assert len(room.leases._revocations) == 60


def test_slow_server_that_answers_is_asked_for_all_of_a_task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentguard.credentials.ending.RELEASE_SECONDS", 0.02, raising=False)
    room = Room(Silent(0.02, answers=True))
    for number in range(5):
        drive(room.leases.obtain(grant(tool=f"tool{number}")))
    assert drive(room.leases.end_task("t")) == 5
    assert not room.issuer.live


@retried
def test_silent_server_takes_a_moment_of_each_turn_and_keeps_nobody_from_theirs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("agentguard.credentials.leases.TEND_AT_ONCE", 0.1, raising=False)
    issuer = Silent(0.06)
    room = Room(issuer)
    for number in range(6):
        room.leases._revocations.owe(drive(room.leases.obtain(grant(tool=f"tool{number}"))).held.issued.lease, None)
    for _ in range(3):
        drive(room.leases.tend())
        room.clock.advance(1.5)  # those that failed first are due again
    assert sorted(issuer.asked) == sorted(issuer.issued)


@retried
def test_revocation_that_failed_before_the_clock_was_set_back_is_asked_for_again_as_soon_as_ever() -> None:
    room = Room()
    use = drive(room.leases.obtain(grant(single_use=True)))
    room.issuer.revoke_error = Unavailable("no answer")
    assert drive(room.leases.release(use)) == "failed"
    room.clock.advance(1)
    drive(room.leases.retry_failed())
    room.issuer.revoke_error = None
    room.clock.advance(-86_400)
    drive(room.leases.tend())
    assert room.nothing_is_left()


def test_what_dead_processes_left_is_looked_for_although_the_clock_was_set_back() -> None:
    looks: list[float] = []

    class Looking(MemoryLedger):
        async def adopt(self, now: float, brokers: Any = None) -> list[Any]:
            looks.append(now)
            return []

    room = Room(ledger=Looking())
    room.clock.advance(-86_400)
    for _ in range(3):
        drive(room.leases.tend())
        room.clock.advance(5)
    assert len(looks) == 1


# whoever hears of stops -----------------------------------------------------------------------------------------------


@guarded("slow.read", effect="read", audience="https://api.test")
def read() -> str:
    """Read with a credential."""
    return current_credential().lease.id


@guarded("slow.outer", effect="read", audience="https://api.test")
def outer(stop: str) -> None:
    """Hold a credential while another call does, and both are stopped."""
    held.append(current_credential())
    inner(stop)


@guarded("slow.inner", effect="read", audience="https://api.test")
def inner(stop: str) -> None:
    """Hold a credential, and have both stopped."""
    held.append(current_credential())
    stops[stop]()


held: list[Credential] = []
stops: dict[str, Callable[[], object]] = {}


@at_once
@pytest.mark.parametrize("stop", ["suspend", "end"])
def test_no_running_call_waits_for_the_server_of_another_ones_credential(stop: str) -> None:
    alive: list[list[bool]] = []

    class Looking(FakeIssuer):
        async def revoke(self, lease: Lease, handle: Secret | None = None) -> Ending:
            alive.append([credential.live for credential in held])
            return await super().revoke(lease, handle)

    held.clear()
    with fake_guard(issuer=Looking()) as guard:
        task = guard.task("bot", on_behalf_of="alice", intent=Intent("x", reads=["slow.outer", "slow.inner"]))
        stops["suspend"] = lambda: guard.suspend(agent="bot", why="stop")
        stops["end"] = lambda: drive(guard.close_task(task, TaskState.ENDED, "done"))
        with task:
            outer(stop)
    assert alive == [[False, False]] * 2


def _left_open(guard: Guard) -> Task:
    task = guard.task("bot", on_behalf_of="alice", intent=Intent("x", reads=["slow.read"]), ttl="1m")
    task.__enter__()
    read()
    return task


@at_once
def test_keeper_hears_of_stops_and_says_that_it_lives_between_tasks_that_a_silent_server_holds_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("agentguard.keeper.INTERVAL", 0.05)
    done: list[str] = []

    class Heard(MemorySuspensions):
        async def news(self, *arguments: Any) -> Any:
            done.append("heard")
            return await super().news(*arguments)

    class Beating(MemoryLedger):
        async def beat(self, now: float) -> None:
            done.append("lives")

    class Noting(Silent):
        async def revoke(self, lease: Lease, handle: Secret | None = None) -> Ending:
            done.append("asked")
            return await super().revoke(lease, handle)

    clock, issuer = FakeClock(), Noting(0.06)
    with fake_guard(clock=clock, monotonic=clock, issuer=issuer, suspensions=Heard(), ledger=Beating()) as guard:
        guard.keeper.stop()  # its thread: the turn below is the only one
        for _ in range(3):
            contextvars.Context().run(_left_open, guard)
        clock.advance(61)
        done.clear()
        guard.keeper.tick()
        assert "".join(each[0] for each in done).startswith("hlahlahla")
        issuer.answers, issuer.seconds = True, 0
