"""What cannot be revoked at once is asked for again, is alerted about, or is said to expire; it is never forgotten."""

from __future__ import annotations

import asyncio
import linecache
import logging
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from types import FrameType
from typing import Any

import anyio
import pytest
from msgspec.structs import replace

from agentguard import CredentialUnavailable
from agentguard._drive import drive
from agentguard.credentials.flight import Flight
from agentguard.credentials.held import Use
from agentguard.credentials.leases import Leases
from agentguard.credentials.ledger import MemoryLedger
from agentguard.errors import Unavailable
from agentguard.model.credential import Issued
from agentguard.model.lease import Ending, Grant, Lease, LeaseState, Secret
from agentguard.ports import Owed
from agentguard.testing import FakeIssuer
from tests.credentials.rooms import Room, Stateless, Vault, grant

honest = pytest.mark.control("8 what is not revoked is not called revoked")
retried = pytest.mark.control("8 a failed revocation is retried, then swept")
one_parent = pytest.mark.control("8 one revocation ends what hangs under a parent")


# what stops it ------------------------------------------------------------------------------------------------


class Stopped(BaseException):
    """Stops whatever runs, as Ctrl-C does."""


class StopsAt:
    """Stops what runs in this room at its nth line, as Ctrl-C may; not within the words of `with` and `try`."""

    def __init__(self, line: int) -> None:
        self.left = line

    def __call__(self, frame: FrameType, event: str, arg: object) -> Any:
        path = frame.f_code.co_filename
        if "/agentguard/credentials/" in path and event == "line":
            words = linecache.getline(path, frame.f_lineno).strip()
            self.left -= not words.startswith(("with ", "try:", "finally:"))
            if not self.left:
                sys.settrace(None)
                raise Stopped
        return self


class Waiting(FakeIssuer):
    waits = True


def _calls_and_their_end(room: Room, leases: Leases) -> None:
    try:
        for asked in (grant(single_use=True), *(grant(resource=name) for name in ("", "a", "b", "", "b"))):
            use = drive(leases.obtain(asked))
            drive(leases.release(use))
        room.clock.advance(18)
        drive(leases.release(drive(leases.obtain(grant()))))
    finally:
        try:
            drive(leases.end_task("t"))
        except BaseException:
            leases.owe_task("t")  # as whoever ends a task does
            raise


@retried
@pytest.mark.parametrize("issuer", [FakeIssuer, Waiting, Vault])
def test_whatever_line_stops_a_release_or_the_end_of_a_task_the_rest_is_owed(issuer: Any) -> None:
    line, before = 0, sys.gettrace()
    while True:
        line += 1
        room, stop = Room(issuer(), whole=1), StopsAt(line)
        try:
            sys.settrace(stop)
            _calls_and_their_end(room, room.leases)
        except Stopped:
            pass
        finally:
            sys.settrace(before)
        drive(room.leases.retry_failed())
        assert not room.issuer.live, f"stopped at line {line}"
        assert not room.outstanding(), f"stopped at line {line}"
        if stop.left > 0:  # it came to its end
            return


def test_whatever_line_stops_one_who_asks_the_next_one_asks_for_itself() -> None:
    line, before = 0, sys.gettrace()
    while True:
        line += 1
        room, stop = Room(FakeIssuer()), StopsAt(line)
        try:
            sys.settrace(stop)
            drive(room.leases.obtain(grant()))
        except Stopped:
            pass
        finally:
            sys.settrace(before)
        if stop.left > 0:  # it came to its end
            return
        assert not room.leases._flights, f"stopped at line {line}"  # or the next one would wait for ever
        drive(room.leases.release(drive(room.leases.obtain(grant()))))
        drive(room.leases.end_task("t"))
        drive(room.leases.retry_failed())
        assert room.nothing_is_left(), f"stopped at line {line}"


def test_one_who_waits_for_a_caller_that_was_stopped_asks_itself() -> None:
    room, flight, wanted = Room(FakeIssuer()), Flight(), grant(reads=True)
    room.leases._flights[wanted.key] = flight  # another thread asks

    with ThreadPoolExecutor(1) as other:
        waiting = other.submit(lambda: drive(room.leases.obtain(wanted)))
        while flight._future is None:
            time.sleep(0.001)
        del flight  # and is stopped, wherever it was
        assert waiting.result(5).credential.live


def test_credential_whose_caller_was_stopped_while_an_older_one_was_ended_is_in_nobodys_use() -> None:
    ledger = StoppedLedger()
    room = Room(FakeIssuer(), ledger)
    drive(room.leases.release(drive(room.leases.obtain(grant()))))
    room.clock.advance(18)  # past half its life: the next one is another
    with pytest.raises(Stopped):
        drive(room.leases.obtain(grant()))

    assert [held.users for held in room.leases._all["t"].leases.values()] == [0]
    ledger.stops = False
    assert drive(room.leases.obtain(grant())).cached
    drive(room.leases.end_task("t"))
    drive(room.leases.retry_failed())
    assert room.nothing_is_left()


def test_one_stopped_revocation_keeps_no_other_from_being_asked_for_again() -> None:
    ledger = StoppedLedger()
    room = Room(Counting(), ledger)
    for name in ("a", "b"):
        use = drive(room.leases.obtain(grant(resource=name, single_use=True)))
        with pytest.raises(Stopped):
            drive(room.leases.release(use))
    with pytest.raises(Stopped):
        drive(room.leases.retry_failed())

    ledger.stops = False
    drive(room.leases.retry_failed())
    assert room.nothing_is_left()


def test_credential_holds_nothing_after_a_release_that_was_stopped_before_its_first_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Lock:
        def __enter__(self) -> None:
            raise Stopped

        def __exit__(self, *exc: object) -> None:
            """It was not entered."""

    room = Room(FakeIssuer())
    use = drive(room.leases.obtain(grant(single_use=True)))
    with monkeypatch.context() as stopping, pytest.raises(Stopped):
        stopping.setattr(room.leases, "_lock", Lock())
        drive(room.leases.release(use))

    assert not use.credential.live
    drive(room.leases.end_task("t"))
    assert room.nothing_is_left()


class StoppedLedger(MemoryLedger):
    """Is stopped while it notes an end."""

    stops = True

    async def ended(self, lease, ending):
        if self.stops:
            raise Stopped
        await super().ended(lease, ending)


@retried
@pytest.mark.parametrize("where", ["issuer", "ledger"])
def test_revocation_that_is_stopped_where_nothing_suspends_is_asked_for_again(where: str) -> None:
    ledger = StoppedLedger()
    room = Room(Counting(), ledger)
    use = drive(room.leases.obtain(grant(single_use=True)))
    ledger.stops = where == "ledger"
    room.issuer.revoke_error = Stopped() if where == "issuer" else None
    with pytest.raises(Stopped):
        drive(room.leases.release(use))
    assert len(room.leases._revocations) == 1

    ledger.stops, room.issuer.revoke_error = False, None
    drive(room.leases.retry_failed())
    assert room.issuer.asked == 2
    assert room.events().count("credential.revoked") == 1
    assert room.nothing_is_left()


class Looking(FakeIssuer):
    """Looks, while it revokes, how many leases are noted as not yet ended."""

    def __init__(self, suspends: bool) -> None:
        super().__init__(suspends=suspends)
        self.seen: list[int] = []
        self.room: Room | None = None

    async def revoke(self, lease, handle=None):
        assert self.room is not None
        self.seen.append(len(self.room.leases._revocations))
        return await super().revoke(lease, handle)


@retried
@pytest.mark.parametrize("suspends", ["issuer", "ledger", ""])
def test_revocation_that_may_suspend_is_noted_before_it_is_asked_for(suspends: str) -> None:
    issuer, ledger = Looking(suspends == "issuer"), MemoryLedger()
    ledger.suspends = suspends == "ledger"
    issuer.room = room = Room(issuer, ledger)

    async def work() -> str:
        return await room.leases.release(await room.leases.obtain(grant(single_use=True)))

    assert anyio.run(work) == "revoked"
    assert issuer.seen == [1 if suspends else 0]
    assert len(room.leases._revocations) == 0
    assert room.nothing_is_left()


@honest
def test_lease_that_was_revoked_under_its_call_ends_once() -> None:
    room = Room(Counting())
    use = drive(room.leases.obtain(grant(single_use=True)))
    drive(room.leases.revoke(use.credential.lease.id, "leaked"))

    assert drive(room.leases.release(use)) == "revoked"
    assert drive(room.leases._end(use.held, "task_end")) == "revoked"  # as a task does that listed it before
    assert room.issuer.asked == room.events().count("credential.revoked") == 1


# asked again ------------------------------------------------------------------------------------------------


def failed_release(room: Room) -> None:
    use = drive(room.leases.obtain(grant(single_use=True)))
    room.issuer.revoke_error = ConnectionError()
    assert drive(room.leases.release(use)) == "failed"


class Counting(FakeIssuer):
    asked = 0

    async def revoke(self, lease, handle=None):
        self.asked += 1
        return await super().revoke(lease, handle)


@retried
def test_revocation_is_asked_for_again_with_growing_pauses() -> None:
    room = Room(Counting())
    failed_release(room)
    asked = []
    for _ in range(40):
        room.clock.advance(1)
        drive(room.leases.retry_failed())
        asked.append(room.issuer.asked)
    assert asked[0] == 2
    assert 6 <= asked[-1] <= 7
    assert asked[-1] - asked[-8] <= 1


@retried
def test_credential_that_cannot_be_revoked_in_seven_attempts_is_an_alert_and_swept_every_minute(
    caplog: pytest.LogCaptureFixture,
) -> None:
    room = Room(Counting())
    room.issuer.lasts = True
    use = drive(room.leases.obtain(grant(single_use=True)))
    use.held.issued = Issued(lasting(use.held.issued.lease), use.held.issued.secret)
    room.issuer.revoke_error = ConnectionError()
    drive(room.leases.release(use))
    with caplog.at_level(logging.ERROR, "agentguard"):
        for _ in range(60):
            room.clock.advance(1)
            drive(room.leases.retry_failed())
    assert room.issuer.asked == 7
    assert room.events().count("credential.irrevocable") == room.events().count("credential.revoke_failed") == 1
    assert "could not be revoked" in caplog.text
    room.clock.advance(66)
    drive(room.leases.retry_failed())
    assert room.issuer.asked == 8
    room.issuer.revoke_error = None
    room.clock.advance(66)
    drive(room.leases.retry_failed())
    assert room.nothing_is_left()


def lasting(lease: Lease) -> Lease:

    return replace(lease, lasts=True)


# what a server cannot revoke --------------------------------------------------------------------------------


@honest
def test_credential_that_its_server_cannot_revoke_is_recorded_with_its_end_and_never_as_revoked() -> None:
    room = Room(Stateless())
    drive(room.leases.obtain(grant()))
    assert drive(room.leases.end_task("t")) == 0
    assert room.events() == ["credential.issued", "credential.expires"]
    assert room.records[-1][1]["expires_by"] == int(room.clock() + 60)
    assert room.outstanding() == 1
    assert bool(room.leases.secrets)  # it lives, so texts are searched for it
    room.clock.advance(59)
    drive(room.leases.retry_failed())
    assert room.outstanding() == 1
    room.clock.advance(2)
    drive(room.leases.retry_failed())
    assert room.events()[-1] == "credential.expired"
    assert (room.outstanding(), bool(room.leases.secrets)) == (0, False)


@honest
def test_answer_that_was_lost_counts_as_a_credential_until_it_has_expired() -> None:
    class Lost(Stateless):
        async def issue(self, grant: Grant, lease: Lease, now: float) -> Issued:
            await super().issue(grant, lease, now)
            raise ConnectionResetError

    room = Room(Lost())
    with pytest.raises(CredentialUnavailable):
        drive(room.leases.obtain(grant()))
    assert room.outstanding() == 1
    assert room.events() == ["credential.expires"]
    room.clock.advance(61)
    drive(room.leases.retry_failed())
    assert room.outstanding() == 0


# parents ----------------------------------------------------------------------------------------------------


@one_parent
def test_leases_of_a_task_hang_under_one_parent_and_one_revocation_ends_them_all() -> None:
    room = Room(Vault())
    uses = [drive(room.leases.obtain(grant(tool=f"tool{number}"))) for number in range(5)]
    assert len({use.held.issued.lease.parent for use in uses}) == 1
    assert len(room.issuer.issued) == 6
    for use in uses:
        drive(room.leases.release(use))
    assert drive(room.leases.end_task("t")) == 6
    assert len(room.issuer.asked) == 1
    assert room.nothing_is_left()
    assert room.events().count("credential.revoked") == 6


@one_parent
def test_parent_that_cannot_be_revoked_keeps_all_under_it_owed_and_its_retry_ends_them() -> None:
    room = Room(Vault())
    for number in range(3):
        drive(room.leases.obtain(grant(tool=f"tool{number}")))
    room.issuer.revoke_error = ConnectionError()
    assert drive(room.leases.end_task("t")) == 0
    assert room.outstanding() == 4
    room.issuer.revoke_error = None
    drive(room.leases.retry_failed())
    assert len(room.issuer.asked) == 1
    assert room.nothing_is_left()


def test_tasks_users_and_agents_have_parents_of_their_own() -> None:
    room = Room(Vault())
    room.leases.open_task("u")
    grants = [grant(), grant(task="u"), grant(user="bob"), grant(agents=("bot", "helper"))]
    parents = {drive(room.leases.obtain(asked)).held.issued.lease.parent for asked in grants}
    assert len(parents) == 4


def test_parent_is_prolonged_by_the_keeper_while_a_long_call_runs() -> None:
    room = Room(Vault())
    use = drive(room.leases.obtain(grant()))
    for _ in range(10):
        room.clock.advance(10)
        drive(room.leases.tend())
    assert room.issuer.renewed >= 4
    assert use.held.parent is not None
    assert use.held.parent.issued.lease.expires_at > room.clock()
    assert "credential.renewed" in room.events()
    drive(room.leases.end_task("t"))
    assert room.nothing_is_left()


def test_parent_is_prolonged_to_the_end_of_its_task_at_most_and_the_ledger_hears_of_it_first() -> None:
    class Heard(Vault):
        async def renew(self, issued: Issued, until: float, now: float) -> Issued | None:
            rows = await room.ledger.outstanding(now)
            heard.append((until, max(row.expires_at for row in rows if row.id == issued.lease.id)))
            return await super().renew(issued, until, now)

    room, heard = Room(Heard()), list[tuple[float, float]]()
    end = room.clock() + 40
    drive(room.leases.obtain(grant(deadline=end)))
    room.clock.advance(20)
    drive(room.leases.obtain(grant(tool="other", deadline=end)))
    assert heard == [(end, end)]


def test_parent_that_cannot_be_prolonged_is_followed_by_another_and_ends_with_its_last_lease() -> None:
    room = Room(Vault())
    room.issuer.renewable = False
    first = drive(room.leases.obtain(grant()))
    room.clock.advance(20)
    second = drive(room.leases.obtain(grant(tool="other")))
    old, new = first.held.parent, second.held.parent
    assert old is not None
    assert old is not new
    assert old.issued.lease.id in room.issuer.live
    drive(room.leases.revoke(first.held.issued.lease.id, "leaked"))
    assert old.issued.lease.id not in room.issuer.live
    drive(room.leases.end_task("t"))
    assert room.nothing_is_left()


def test_parent_that_died_at_its_broker_costs_one_denial_and_nothing_else() -> None:
    room = Room(Vault())
    drive(room.leases.release(drive(room.leases.obtain(grant()))))
    room.issuer.live.clear()
    with pytest.raises(CredentialUnavailable):
        drive(room.leases.obtain(grant(tool="other")))
    drive(room.leases.end_task("t"))
    assert room.nothing_is_left()


@pytest.mark.anyio
async def test_many_leases_end_side_by_side_under_a_loop() -> None:
    class Slow(FakeIssuer):
        async def revoke(self, lease, handle=None):
            await anyio.sleep(0.05)
            return await super().revoke(lease, handle)

    room = Room(Slow(suspends=True))
    for number in range(24):
        await room.leases.obtain(grant(tool=f"tool{number}"))
    with anyio.fail_after(0.9):
        assert await room.leases.end_task("t") == 24


# grace, refusal, bound ---------------------------------------------------------------------------------------


def outage(room: Room) -> None:
    room.issuer.issue_error = Unavailable("the broker is out of reach")


@pytest.mark.control("10 broker down: denied, and grace for reads only")
@pytest.mark.parametrize(("reads", "seconds", "served"), [(True, 35, True), (True, 41, False), (False, 27, False)])
def test_grace_serves_reads_only_and_ends(reads: bool, seconds: int, served: bool) -> None:
    room = Room(grace=10)
    drive(room.leases.release(drive(room.leases.obtain(grant(reads=reads)))))
    outage(room)
    room.clock.advance(seconds)
    if not served:
        with pytest.raises(CredentialUnavailable, match="out of reach"):
            drive(room.leases.obtain(grant(reads=reads)))
        return
    assert drive(room.leases.obtain(grant(reads=reads))).credential.lease.id == "lease-1"
    assert room.events()[-1] == "credential.grace"


@pytest.mark.control("10 broker down: denied, and grace for reads only")
def test_grace_is_never_used_without_a_record_or_after_a_refusal_or_a_revocation() -> None:
    room = Room(grace=10)
    drive(room.leases.release(drive(room.leases.obtain(grant(reads=True)))))
    room.clock.advance(32)
    room.issuer.issue_error = CredentialUnavailable("invalid_grant")
    with pytest.raises(CredentialUnavailable, match="invalid_grant"):
        drive(room.leases.obtain(grant(reads=True)))
    outage(room)
    room.full = True
    with pytest.raises(CredentialUnavailable):
        drive(room.leases.obtain(grant(reads=True)))
    room.full = False
    drive(room.leases.revoke("lease-1", "leaked"))
    with pytest.raises(CredentialUnavailable):
        drive(room.leases.obtain(grant(reads=True)))


def test_without_grace_a_broker_that_is_down_denies_with_a_reason() -> None:
    room = Room()
    outage(room)
    with pytest.raises(CredentialUnavailable, match="out of reach"):
        drive(room.leases.obtain(grant(reads=True)))


@pytest.mark.anyio
async def test_callers_are_served_by_what_is_still_good_while_one_refreshes() -> None:
    class Slow(FakeIssuer):
        async def issue(self, grant: Grant, lease: Lease, now: float) -> Issued:
            if lease.id != "lease-1":
                await anyio.sleep(0.2)
            return await super().issue(grant, lease, now)

    room = Room(Slow(suspends=True))
    await room.leases.release(await room.leases.obtain(grant()))
    room.clock.advance(18)
    got = []

    async def ask() -> None:
        got.append((await room.leases.obtain(grant())).credential.lease.id)

    async with anyio.create_task_group() as group:
        group.start_soon(ask)
        await anyio.sleep(0.05)
        for _ in range(3):
            await ask()
        assert got == ["lease-1"] * 3
    assert got[-1] == "lease-2"


def test_kept_leases_are_bounded_and_the_least_recently_used_one_is_revoked() -> None:
    room = Room(most=3)
    for number in range(3):
        drive(room.leases.release(drive(room.leases.obtain(grant(tool=f"tool{number}")))))
    drive(room.leases.release(drive(room.leases.obtain(grant(tool="tool0")))))
    drive(room.leases.release(drive(room.leases.obtain(grant(tool="tool3")))))
    assert room.issuer.revoked == ["lease-2"]
    assert len(room.issuer.live) == 3


def test_lease_that_a_call_was_given_by_its_key_alone_is_in_use_until_that_call_ends() -> None:
    room = Room(most=1)
    obtained = drive(room.leases.obtain(grant()))
    drive(room.leases.release(obtained))
    first, second = (room.leases.reuse(obtained.held.key, "t") for _ in range(2))
    assert first is not None
    assert second is not None
    drive(room.leases.release(first))
    drive(room.leases.release(drive(room.leases.obtain(grant(tool="other")))))
    assert (second.credential.live, room.issuer.revoked) == (True, [])


def test_lease_that_serves_although_its_refresh_failed_is_in_use_until_that_call_ends() -> None:
    room = Room(most=1)
    drive(room.leases.release(drive(room.leases.obtain(grant()))))
    room.clock.advance(20)
    room.issuer.issue_error = ConnectionError()
    use = drive(room.leases.obtain(grant()))
    room.issuer.issue_error = None
    drive(room.leases.release(drive(room.leases.obtain(grant(tool="other")))))
    assert (use.credential.lease.id, use.credential.live, room.issuer.revoked) == ("lease-1", True, [])


def test_lease_that_a_target_refused_is_given_to_nobody_again_and_ends_with_its_last_user() -> None:
    room = Room()
    use, other = (drive(room.leases.obtain(grant())) for _ in range(2))
    assert drive(room.leases.replace(use, grant())) is False, "it was not kept"
    assert use.held.issued.lease.id == use.credential.lease.id == "lease-2"
    assert drive(room.leases.obtain(grant())).held.issued.lease.id == "lease-2"
    assert "lease-1" in room.issuer.live
    drive(room.leases.release(other))
    assert "lease-1" not in room.issuer.live


class Renewing(FakeIssuer):
    """Does something while it issues the second credential, or while it revokes the first."""

    def __init__(self, *, while_issuing: Any = None, while_revoking: Any = None) -> None:
        super().__init__(suspends=while_revoking is not None)
        self.while_issuing, self.while_revoking = while_issuing, while_revoking

    async def issue(self, grant: Grant, lease: Lease, now: float) -> Issued:
        if lease.id == "lease-2" and self.while_issuing is not None:
            self.while_issuing()
        return await super().issue(grant, lease, now)

    async def revoke(self, lease: Lease, handle: Secret | None = None) -> Ending:
        if lease.id == "lease-1" and self.while_revoking is not None:
            self.while_revoking()
        return await super().revoke(lease, handle)


@pytest.mark.parametrize("single_use", [True, False])
def test_call_that_ended_while_its_credential_was_renewed_gets_no_other(single_use: bool) -> None:
    room: Room = Room(Renewing(while_issuing=lambda: drive(room.leases.release(use))))
    use: Use = drive(room.leases.obtain(grant(single_use=single_use)))
    with pytest.raises(CredentialUnavailable, match="the call ended"):  # as a thread that outlives its tool does it
        drive(room.leases.replace(use, grant(single_use=single_use)))
    assert not use.credential.live
    with pytest.raises(CredentialUnavailable):
        _ = use.credential.token
    assert list(room.issuer.live) == ([] if single_use else ["lease-2"])
    assert [held.users for held in room.leases._all["t"].leases.values()] == ([] if single_use else [0])


def test_call_that_is_cancelled_while_its_credential_is_renewed_gives_back_the_new_one() -> None:
    async def work() -> None:
        room = Room(Renewing(while_revoking=lambda: call.cancel()))
        use = await room.leases.obtain(grant(single_use=True))
        call: asyncio.Future[bool] = asyncio.ensure_future(room.leases.replace(use, grant(single_use=True)))
        with pytest.raises(asyncio.CancelledError):
            await call
        assert await room.leases.release(use) == "revoked"
        assert room.issuer.revoked == ["lease-1", "lease-2"]
        assert room.nothing_is_left()

    asyncio.run(work())


# recovery ---------------------------------------------------------------------------------------------------


def test_what_a_dead_process_left_is_ended_parents_first() -> None:
    issuer = Vault()
    dead = Room(issuer)
    for number in range(2):
        drive(dead.leases.obtain(grant(tool=f"tool{number}")))
    leases = sorted(issuer.live.values(), key=lambda lease: bool(lease.parent), reverse=True)

    class Found(type(dead.ledger)):  # type: ignore[misc]  # the same ledger, with rows of somebody else
        async def adopt(self, now: float) -> list[Owed]:
            return [Owed(lease, LeaseState.PENDING) for lease in leases]

    room = Room(issuer, Found())
    assert drive(room.leases.recover()) == 3
    assert issuer.live == {}
    assert len(issuer.asked) == 1
    assert room.events() == ["credential.revoked"] * 3


def test_broker_that_is_down_holds_up_recovery_only_for_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    monkeypatch.setattr("agentguard.credentials.leases.RECOVER_AT_ONCE", 0.2)

    class Down(FakeIssuer):
        async def revoke(self, lease, handle=None):
            time.sleep(0.15)  # noqa: ASYNC251  # a synchronous caller waits
            raise ConnectionError

    dead = Room()
    for number in range(20):
        drive(dead.leases.obtain(grant(tool=f"tool{number}")))
    leases = list(dead.issuer.live.values())

    class Found(type(dead.ledger)):  # type: ignore[misc]  # the same ledger, with rows of somebody else
        async def adopt(self, now: float) -> list[Owed]:
            return [Owed(lease, LeaseState.ACTIVE) for lease in leases]

    room = Room(Down(), Found())
    began = time.monotonic()
    assert drive(room.leases.recover()) == 20
    assert time.monotonic() - began < 1
    room.issuer = room.leases._issuer = room.leases._revocations._issuer = dead.issuer
    room.clock.advance(2)
    drive(room.leases.retry_failed())
    assert dead.issuer.live == {}
