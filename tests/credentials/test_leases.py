"""Leases under load and under failure: never shared, never lost, and nothing live once their task has ended."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentguard import CredentialUnavailable
from agentguard._drive import drive, run_shielded
from agentguard.credentials.held import Use
from agentguard.credentials.ledger import MemoryLedger
from agentguard.model.credential import Issued
from agentguard.model.lease import Ending, Grant, Lease, Secret
from agentguard.testing import FakeIssuer
from tests.credentials.rooms import Room, grant

never_lost = pytest.mark.control("8 no credential is lost sight of")
ledger_first = pytest.mark.control("8 the ledger knows every credential first")
never_shared = pytest.mark.control("8 leases are never shared")


@pytest.fixture
def room() -> Room:
    return Room()


# sharing --------------------------------------------------------------------------------------------------

keys = st.tuples(
    st.sampled_from("tu"),
    st.sampled_from(["alice", "bob"]),
    st.sampled_from([("bot",), ("other",), ("bot", "helper")]),
    st.sampled_from(["", "account/1"]),
)


@never_shared
@settings(max_examples=60)
@given(st.lists(st.tuples(keys, st.booleans(), st.integers(0, 12)), max_size=40))
def test_a_lease_serves_one_key_and_once_all_ended_nothing_is_live(steps: list[tuple[Any, bool, int]]) -> None:
    room, open_, owner = Room(), list[Use](), dict[str, Any]()
    room.leases.open_task("u")
    for (task, user, agents, resource), single_use, seconds in steps:
        room.clock.advance(seconds)
        asked = grant(task, user, agents=agents, resource=resource, single_use=single_use)
        use = drive(room.leases.obtain(asked))
        wanted = (task, user, agents, resource, id(use) if single_use else 0)
        assert owner.setdefault(use.credential.lease.id, wanted) == wanted
        assert use.credential.lease.id in room.issuer.live
        open_.append(use)
        if seconds % 2:
            assert drive(room.leases.release(open_.pop(0))) in ("kept", "revoked")
    alive = [lease for lease in room.issuer.live.values() if lease.expires_by > room.clock()]
    assert room.outstanding() == len(alive)
    for task in "tu":
        drive(room.leases.end_task(task))
    for use in open_:
        assert drive(room.leases.release(use)) == "revoked"
    assert room.nothing_is_left()
    assert sorted(room.issuer.issued) == sorted(room.issuer.revoked)


@never_shared
def test_threads_that_ask_for_many_keys_never_get_each_others() -> None:
    room = Room()

    def work(number: int) -> list[tuple[str, str]]:
        got = []
        for round_ in range(30):
            user = f"user{(number + round_) % 5}"
            use = drive(room.leases.obtain(grant(user=user)))
            got.append((user, use.credential.lease.id))
            assert use.credential.lease.key.subject == f"user:{user}"
            drive(room.leases.release(use))
        return got

    with ThreadPoolExecutor(8) as pool:
        got = [pair for pairs in pool.map(work, range(8)) for pair in pairs]
    assert len(set(got)) == len({lease for _, lease in got}) == len({user for user, _ in got})
    drive(room.leases.end_task("t"))
    assert room.nothing_is_left()


@pytest.mark.anyio
async def test_hundred_tasks_that_ask_at_once_share_one_issue_and_need_no_thread() -> None:
    class InAThread(FakeIssuer):
        async def issue(self, grant: Grant, lease: Lease, now: float) -> Issued:
            await anyio.to_thread.run_sync(lambda: None)  # needs one of forty threads
            return await super().issue(grant, lease, now)

    room, uses = Room(InAThread(suspends=True)), list[Use]()

    async def ask() -> None:
        uses.append(await room.leases.obtain(grant()))

    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            for _ in range(100):
                group.start_soon(ask)
    assert room.issuer.issued == ["lease-1"]
    for use in uses:
        assert await room.leases.release(use) == "kept"


@pytest.mark.anyio
async def test_sync_caller_in_a_loop_never_waits_for_what_that_loop_is_doing() -> None:
    class Slow(FakeIssuer):
        async def issue(self, grant: Grant, lease: Lease, now: float) -> Issued:
            if lease.id == "lease-1":
                await anyio.sleep(0.05)
            return await super().issue(grant, lease, now)

    room, uses = Room(Slow()), list[Use]()

    async def ask() -> None:
        uses.append(await room.leases.obtain(grant()))

    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(ask)
            await anyio.sleep(0.01)
            uses.append(drive(room.leases.obtain(grant())))
    for use in uses:
        await room.leases.release(use)
    await room.leases.end_task("t")
    assert room.nothing_is_left()


# an issue that goes wrong ---------------------------------------------------------------------------------


class Losing(FakeIssuer):
    """Issues, and then does what it is told before the answer arrives."""

    then: Callable[[], Awaitable[None]]

    async def issue(self, grant: Grant, lease: Lease, now: float) -> Issued:
        issued = await super().issue(grant, lease, now)
        await self.then()
        return issued


async def fail() -> None:
    raise ConnectionError("the answer was lost")


async def hang() -> None:
    await anyio.sleep(60)


@never_lost
@pytest.mark.parametrize("single_use", [True, False])
def test_issuer_that_raises_leaves_nothing_live(single_use: bool) -> None:
    issuer = Losing()
    issuer.then = fail
    room = Room(issuer)
    with pytest.raises(CredentialUnavailable, match="ConnectionError"):
        drive(room.leases.obtain(grant(single_use=single_use)))
    assert room.nothing_is_left()
    assert issuer.issued == issuer.revoked == ["lease-1"]


@never_lost
@pytest.mark.anyio
@pytest.mark.parametrize("single_use", [True, False])
async def test_caller_that_is_cancelled_after_the_server_issued_leaves_nothing_live(single_use: bool) -> None:
    issuer = Losing(suspends=True)
    issuer.then = hang
    room = Room(issuer)
    with anyio.move_on_after(0.1):
        await room.leases.obtain(grant(single_use=single_use))
    assert issuer.issued == ["lease-1"]
    assert issuer.live == {}
    assert await room.leases.outstanding() == 0


@never_lost
@pytest.mark.anyio
async def test_rollback_that_fails_is_kept_and_asked_for_again() -> None:
    issuer = Losing(suspends=True)
    issuer.then, issuer.revoke_error = hang, ConnectionError()
    room = Room(issuer)
    with anyio.move_on_after(0.1):
        await room.leases.obtain(grant())
    assert await room.leases.outstanding() == 1
    issuer.revoke_error = None
    await room.leases.retry_failed()
    assert issuer.live == {}
    assert await room.leases.outstanding() == 0


@never_lost
@pytest.mark.parametrize("stop", ["end", "suspend", "end and suspend", "end and open again"])
def test_task_that_is_stopped_while_a_credential_is_issued_gets_none(stop: str) -> None:
    issuer = Losing()
    room = Room(issuer)

    async def stopped() -> None:
        if stop != "suspend":
            await room.leases.end_task("t")
        if "suspend" in stop:
            await room.leases.end_task("t", "suspended", reopen=True)
        if stop == "end and open again":
            room.leases.open_task("t")

    issuer.then = stopped
    with pytest.raises(CredentialUnavailable, match="ended"):
        drive(room.leases.obtain(grant()))
    assert room.nothing_is_left()


@never_lost
def test_suspension_that_comes_after_the_end_does_not_open_the_task_again(room: Room) -> None:
    drive(room.leases.end_task("t"))
    drive(room.leases.end_task("t", "suspended", reopen=True))
    with pytest.raises(CredentialUnavailable):
        drive(room.leases.obtain(grant()))
    assert room.nothing_is_left()


@never_lost
def test_task_that_is_opened_twice_at_once_keeps_what_it_holds(room: Room) -> None:
    drive(room.leases.obtain(grant()))
    room.leases.open_task("t")
    assert drive(room.leases.end_task("t")) == 1
    assert room.nothing_is_left()


@pytest.mark.control("1 no record, no action")
def test_credential_that_cannot_be_recorded_is_taken_back(room: Room) -> None:
    room.full = True
    with pytest.raises(CredentialUnavailable):
        drive(room.leases.obtain(grant()))
    assert room.nothing_is_left()


class BrokenLedger(MemoryLedger):
    def __init__(self, *broken: str) -> None:
        super().__init__()
        self.broken = set(broken)

    async def pending(self, lease: Lease) -> None:
        self._check("pending")
        await super().pending(lease)

    async def active(self, lease: Lease, handle: Secret | None = None) -> None:
        self._check("active")
        await super().active(lease, handle)

    async def ended(self, lease: Lease, ending: Ending) -> None:
        self._check("ended")
        await super().ended(lease, ending)

    async def failed(self, lease: Lease, why: str, *, irrevocable: bool = False) -> None:
        self._check("failed")
        await super().failed(lease, why, irrevocable=irrevocable)

    def _check(self, what: str) -> None:
        if what in self.broken:
            raise OSError(5, "Input/output error")


@ledger_first
def test_nothing_is_asked_for_when_the_ledger_cannot_be_written() -> None:
    room = Room(ledger=BrokenLedger("pending"))
    with pytest.raises(CredentialUnavailable, match="ledger"):
        drive(room.leases.obtain(grant()))
    assert room.issuer.issued == []


@ledger_first
def test_credential_whose_row_cannot_be_completed_is_taken_back() -> None:
    room = Room(ledger=BrokenLedger("active"))
    with pytest.raises(CredentialUnavailable):
        drive(room.leases.obtain(grant()))
    assert room.issuer.live == {}


@never_lost
@pytest.mark.parametrize("broken", [("ended",), ("ended", "failed"), ("failed",)])
def test_ledger_that_fails_at_the_end_reaches_nobody_and_is_told_again(broken: tuple[str, ...]) -> None:
    ledger = BrokenLedger(*broken)
    room = Room(ledger=ledger)
    use = drive(room.leases.obtain(grant(single_use=True)))
    room.issuer.revoke_error = ConnectionError() if broken == ("failed",) else None
    assert drive(room.leases.release(use)) == "failed"
    assert room.outstanding() == 1
    ledger.broken, room.issuer.revoke_error = set(), None
    drive(room.leases.retry_failed())
    assert room.nothing_is_left()


@pytest.mark.parametrize("whole", [1, 8])  # also one that was folded meanwhile
def test_tool_that_reads_is_given_no_credential_of_one_of_its_name_that_writes(whole: int) -> None:
    room, found = Room(FakeIssuer(), whole=whole), list[str]()
    for reads, resource in ((False, ""), (False, "other"), (True, ""), (True, "other"), (False, ""), (True, "")):
        use = drive(room.leases.obtain(grant(reads=reads, resource=resource)))
        found.append(use.credential.lease.id)
        drive(room.leases.release(use))

    assert found == ["lease-1", "lease-2", "lease-3", "lease-4", "lease-1", "lease-3"]


# who waits ------------------------------------------------------------------------------------------------


@never_lost
@pytest.mark.anyio
async def test_leader_that_is_cancelled_hands_over_to_those_who_wait() -> None:
    room, uses = Room(FakeIssuer(suspends=True)), list[Use]()
    scope = anyio.CancelScope()

    async def lead() -> None:
        with scope:
            await room.leases.obtain(grant())

    async def follow() -> None:
        uses.append(await room.leases.obtain(grant()))

    async with anyio.create_task_group() as group:
        group.start_soon(lead)
        await anyio.lowlevel.checkpoint()
        for _ in range(5):
            group.start_soon(follow)
        await anyio.lowlevel.checkpoint()
        scope.cancel()
    assert len({use.credential.lease.id for use in uses}) == 1
    await room.leases.end_task("t")
    assert room.issuer.live == {}
    assert await room.leases.outstanding() == 0


@pytest.mark.anyio
async def test_one_who_waits_and_is_cancelled_disturbs_nobody() -> None:
    room, uses = Room(FakeIssuer(suspends=True)), list[Use]()

    async def ask() -> None:
        uses.append(await room.leases.obtain(grant()))

    scope = anyio.CancelScope()

    async def give_up() -> None:
        with scope:
            await ask()

    async with anyio.create_task_group() as group:
        group.start_soon(ask)
        await anyio.lowlevel.checkpoint()
        group.start_soon(give_up)
        group.start_soon(ask)
        await anyio.lowlevel.checkpoint()
        scope.cancel()
    assert [use.credential.lease.id for use in uses] == ["lease-1", "lease-1"]


def test_failure_of_the_leader_is_the_failure_of_those_who_wait() -> None:
    async def work() -> list[Any]:
        room = Room(FakeIssuer(suspends=True))
        room.issuer.issue_error = ConnectionError()
        asked = [room.leases.obtain(grant()) for _ in range(5)]
        outcomes: list[Any] = await asyncio.gather(*asked, return_exceptions=True)
        return outcomes

    outcomes = asyncio.run(work())
    assert all(isinstance(outcome, CredentialUnavailable) for outcome in outcomes)


class InTicks(FakeIssuer):
    """Suspends for some steps of the loop, so that an interleaving is the same every time."""

    def __init__(self) -> None:
        super().__init__(suspends=True)

    async def issue(self, grant: Grant, lease: Lease, now: float) -> Issued:
        await ticks(2)
        self.live[lease.id] = lease
        self.issued.append(lease.id)
        await ticks(2)
        return Issued(lease, Secret(f"canary-{lease.id}-".ljust(48, "x")))

    async def revoke(self, lease: Lease, handle: Secret | None = None) -> Ending:
        await ticks(2)
        if self.live.pop(lease.id, None) is not None:
            self.revoked.append(lease.id)
        return Ending.REVOKED


async def ticks(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@never_lost
@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 6), st.booleans()), min_size=3, max_size=25))
def test_any_interleaving_of_calls_cancellations_and_ends_leaves_nothing(plan: list[tuple[int, int, bool]]) -> None:
    room = Room(InTicks())

    async def call(user: int, length: int) -> None:
        use = await room.leases.obtain(grant(user=f"user{user}", single_use=length == 3))

        async def release() -> None:
            await room.leases.release(use)

        try:
            assert use.credential.lease.key.subject == f"user:user{user}"
            await ticks(length)
        finally:
            await run_shielded(release, suspends=True)  # as the guard does

    async def work() -> None:
        calls = []
        for user, length, cancel in plan:
            calls.append(asyncio.ensure_future(call(user, length)))
            await ticks(length)
            if cancel:
                calls[len(calls) // 2].cancel()
        ending = asyncio.ensure_future(room.leases.end_task("t"))
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} <= {type(None), asyncio.CancelledError, CredentialUnavailable}
        await ending

    asyncio.run(work())
    assert room.nothing_is_left()
    assert sorted(room.issuer.issued) == sorted(room.issuer.revoked)


# the end --------------------------------------------------------------------------------------------------


def test_failed_revocation_is_recorded_once_retried_and_its_success_recorded(room: Room) -> None:
    use = drive(room.leases.obtain(grant(single_use=True)))
    room.issuer.revoke_error = ConnectionError()
    assert drive(room.leases.release(use)) == "failed"
    for _ in range(3):
        drive(room.leases.retry_failed())
        room.clock.advance(5)
    assert room.events().count("credential.revoke_failed") == 1
    assert bool(room.leases.secrets)  # it may be alive, so it is still looked for
    room.issuer.revoke_error = None
    drive(room.leases.retry_failed())
    assert room.events()[-1] == "credential.revoked"
    assert room.nothing_is_left()


def test_lease_that_could_not_be_revoked_is_forgotten_when_every_verifier_refuses_it(room: Room) -> None:
    use = drive(room.leases.obtain(grant(single_use=True)))
    room.issuer.revoke_error = ConnectionError()
    drive(room.leases.release(use))
    room.clock.advance(59)
    drive(room.leases.retry_failed())
    assert room.outstanding() == 1
    room.clock.advance(2)
    drive(room.leases.retry_failed())
    assert room.outstanding() == 0
    assert not room.leases.secrets


@never_lost
@pytest.mark.anyio
async def test_revocation_that_is_cut_off_is_asked_for_again() -> None:
    class Stuck(FakeIssuer):
        stuck = True

        async def revoke(self, lease: Lease, handle: Secret | None = None) -> Ending:
            if self.stuck:
                await anyio.sleep(60)
            return await super().revoke(lease)

    issuer = Stuck(suspends=True)
    room = Room(issuer)
    for user in ("alice", "bob", "carol"):
        await room.leases.obtain(grant(user=user))
    with anyio.move_on_after(0.05):
        await room.leases.end_task("t")
    assert len(issuer.live) == 3
    issuer.stuck = False
    await room.leases.retry_failed()
    assert issuer.live == {}
    assert await room.leases.outstanding() == 0


def test_double_end_and_release_after_the_end_revoke_once(room: Room) -> None:
    use = drive(room.leases.obtain(grant()))
    assert [drive(room.leases.end_task("t")) for _ in range(2)] == [1, 0]
    drive(room.leases.revoke(use.credential.lease.id, "leaked"))
    assert drive(room.leases.release(use)) == "revoked"
    assert room.issuer.revoked == ["lease-1"]


def test_credential_of_one_call_leaves_its_task_when_the_call_ends(room: Room) -> None:
    drive(room.leases.release(drive(room.leases.obtain(grant(single_use=True)))))

    assert room.nothing_is_left()
    assert drive(room.leases.end_task("t")) == 0


@pytest.mark.control("5 no ambient credential")
def test_released_credential_holds_nothing_although_its_lease_is_kept(room: Room) -> None:
    use = drive(room.leases.obtain(grant()))
    other = drive(room.leases.obtain(grant()))
    assert drive(room.leases.release(use)) == "kept"
    assert other.credential.token.startswith("canary")
    with pytest.raises(CredentialUnavailable):
        _ = use.credential.token


# refresh --------------------------------------------------------------------------------------------------


def test_lease_in_use_is_retired_by_its_successor_and_ends_with_its_last_user(room: Room) -> None:
    first, second = (drive(room.leases.obtain(grant())) for _ in range(2))
    room.clock.advance(20)
    third = drive(room.leases.obtain(grant()))
    assert third.credential.lease.id == "lease-2"
    assert drive(room.leases.release(first)) == "kept"
    assert drive(room.leases.release(second)) == "revoked"
    assert list(room.issuer.live) == ["lease-2"]


def test_lease_that_nobody_uses_ends_when_its_successor_is_there(room: Room) -> None:
    drive(room.leases.release(drive(room.leases.obtain(grant()))))
    room.clock.advance(20)
    drive(room.leases.obtain(grant()))
    assert list(room.issuer.live) == ["lease-2"]
    assert room.records[-1][1]["why"] == "refreshed"


def test_refresh_that_fails_leaves_the_kept_credential_in_use_until_shortly_before_its_end(room: Room) -> None:
    drive(room.leases.release(drive(room.leases.obtain(grant()))))
    room.issuer.issue_error = ConnectionError()
    room.clock.advance(20)
    assert drive(room.leases.obtain(grant())).credential.lease.id == "lease-1"
    room.clock.advance(6)
    with pytest.raises(CredentialUnavailable):
        drive(room.leases.obtain(grant()))
    room.issuer.issue_error = None
    assert drive(room.leases.obtain(grant())).credential.lease.id != "lease-1"
    drive(room.leases.end_task("t"))
    assert room.issuer.live == {}


def test_refresh_happens_near_half_of_its_life_and_not_always_at_the_same_moment() -> None:
    moments = set()
    for _ in range(50):
        room = Room()
        use = drive(room.leases.obtain(grant()))
        moments.add(use.held.refresh_at - room.clock())
    assert all(13 <= moment <= 17 for moment in moments)
    assert len(moments) > 10


def test_revocation_races_with_use_and_both_end_well() -> None:
    for _ in range(50):
        room = Room()
        use = drive(room.leases.obtain(grant()))
        ways: list[Callable[[], Any]] = [
            lambda room=room, use=use: drive(room.leases.release(use)),  # type: ignore[misc]  # bound now
            lambda room=room: drive(room.leases.end_task("t")),  # type: ignore[misc]  # bound now
            lambda room=room: drive(room.leases.revoke("lease-1", "leaked")),  # type: ignore[misc]  # bound now
        ]
        threads = [threading.Thread(target=way) for way in ways]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert room.issuer.revoked == ["lease-1"]
        assert room.nothing_is_left()
