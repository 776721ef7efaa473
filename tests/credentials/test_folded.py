"""Kept leases that nobody uses are folded: they take little memory, and are found, used and ended as any other."""

from __future__ import annotations

import pickle
import threading
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentguard._drive import drive
from agentguard.credentials.alive import Alive
from agentguard.credentials.folded import Folded
from agentguard.credentials.leases import FORGET
from agentguard.credentials.local import LocalIssuer
from agentguard.keys import SigningKey
from agentguard.model.lease import Lease
from agentguard.testing import FakeClock
from bench.live_leases import allocated
from tests.credentials.rooms import Room, grant

KEY = SigningKey.generate()
EXPIRED = 61.0


def room_of(whole: int = 2, **options: Any) -> Room:
    room = Room(LocalIssuer(KEY, monotonic=lambda: room.clock()), whole=whole, **options)
    return room


def used(room: Room, number: int, **fields: Any) -> Lease:
    use = drive(room.leases.obtain(grant(resource=f"account/{number}", **fields)))
    lease = use.held.issued.lease
    assert not room.issuer.revoked(lease.issuer, lease.id)
    drive(room.leases.release(use))
    return lease


def folded(room: Room) -> list[Folded]:
    return [one for home in room.leases._all.values() for one in home.fold.listed()]


def test_lease_that_was_folded_is_the_very_same_when_it_is_used_again() -> None:
    room = room_of()
    leases = [used(room, number) for number in range(5)]
    assert len(folded(room)) == 3

    again = [used(room, number) for number in range(5)]

    assert again == leases
    assert room.events() == ["credential.issued"] * 5


def test_ledger_and_search_say_the_same_of_folded_leases() -> None:
    room = room_of()
    leases = [used(room, number) for number in range(6)]
    tokens = {one.id: one.reveal() for one in folded(room)}

    assert sorted(drive(room.ledger.outstanding(room.clock())), key=lambda lease: lease.id) == leases
    assert len(tokens) == 4
    for lease, token in tokens.items():
        assert {lease} == room.leases.secrets.found_in(f"it is {token}")


@pytest.mark.control("6 a credential is never seen")
def test_folded_lease_shows_nothing_of_its_secret() -> None:
    room = room_of()
    for number in range(4):
        used(room, number)
    one = folded(room)[0]

    shown = [repr(one), str(one), f"{one}", repr(vars(type(one))), repr(room.ledger), repr([one])]

    assert not any(one.reveal().split(".")[1] in text for text in shown)
    with pytest.raises(TypeError):
        pickle.dumps(one)


@pytest.mark.control("a folded lease ends as any other")
@pytest.mark.parametrize("end", ["task", "leak", "expiry", "stop"])
def test_folded_lease_ends_as_any_other(end: str) -> None:
    room = room_of()
    leases = [used(room, number) for number in range(6)]
    if end == "task":
        assert drive(room.leases.end_task("t")) == 6
    elif end == "stop":
        drive(room.leases.end_task("t", "suspended", reopen=True))
    elif end == "leak":
        for lease in leases:
            drive(room.leases.revoke(lease.id, "leaked"))
    else:
        room.clock.advance(EXPIRED)
        drive(room.leases.tend())
        room.clock.advance(FORGET)
        drive(room.leases.tend())

    assert room.outstanding() == 0
    assert not room.leases.secrets
    assert not folded(room)
    assert len(room.leases._kept) == 0
    assert all(room.issuer.revoked(lease.issuer, lease.id) for lease in leases)
    if end in ("leak", "stop"):
        assert used(room, 0).id not in {lease.id for lease in leases}


def test_kept_leases_are_bounded_and_those_that_are_folded_longest_go_first() -> None:
    room = room_of(most=5)
    leases = [used(room, number) for number in range(9)]

    gone = [lease for lease in leases if room.issuer.revoked(lease.issuer, lease.id)]

    assert gone == leases[:4]
    assert (room.outstanding(), len(room.leases._kept)) == (5, 5)


def test_lease_in_use_is_never_folded() -> None:
    room = room_of(whole=1)
    uses = [drive(room.leases.obtain(grant(resource=f"used/{number}"))) for number in range(20)]
    for number in range(20):
        used(room, number)

    assert {use.held.issued.lease.id for use in uses}.isdisjoint(one.id for one in folded(room))
    for use in uses:
        again = drive(room.leases.obtain(grant(resource=use.held.issued.lease.key.resource)))
        assert again.held is use.held
        drive(room.leases.release(again))
        drive(room.leases.release(use))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["use", "hold", "drop", "leak", "end", "wait"]), st.integers(0, 5), st.booleans()),
        max_size=40,
    ),
    st.integers(1, 3),
)
def test_any_order_of_uses_and_ends_leaves_one_lease_a_key_and_nothing_at_the_end(
    plan: list[tuple[str, int, bool]], whole: int
) -> None:
    room, held = room_of(whole=whole, most=4), []
    room.leases.open_task("other")
    for act, number, other in plan:
        of = grant(task="other" if other else "t", resource=f"r/{number}")
        if act in ("use", "hold"):
            use = drive(room.leases.obtain(of))
            lease = use.held.issued.lease
            assert (lease.key, lease.task) == (of.key, of.task)
            assert not room.issuer.revoked(lease.issuer, lease.id)
            held.append(use) if act == "hold" else drive(room.leases.release(use))
        elif act == "drop" and held:
            drive(room.leases.release(held.pop()))
        elif act == "leak":
            for lease in drive(room.ledger.outstanding(room.clock()))[number : number + 1]:
                drive(room.leases.revoke(lease.id, "leaked"))
                assert room.issuer.revoked(lease.issuer, lease.id)
        elif act == "end":
            drive(room.leases.end_task(of.task, reopen=True))
        elif act == "wait":
            room.clock.advance(7 * number)
            drive(room.leases.tend())
    for use in held:
        drive(room.leases.release(use))
    for task in ("t", "other"):
        drive(room.leases.end_task(task))
    room.clock.advance(2 * EXPIRED)
    drive(room.leases.tend())

    assert (room.outstanding(), len(room.leases._kept), bool(room.leases.secrets)) == (0, 0, False)


def test_threads_that_use_fold_and_end_at_once_leave_nothing() -> None:
    room, errors = room_of(whole=1, most=6), list[BaseException]()

    def work(seed: int) -> None:
        try:
            for turn in range(150):
                used_once(room, (seed * 7 + turn) % 9)
                if turn % 40 == seed:
                    drive(room.leases.end_task("t", reopen=True))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert not errors
    drive(room.leases.end_task("t"))
    assert (room.outstanding(), len(room.leases._kept), bool(room.leases.secrets)) == (0, 0, False)


def used_once(room: Room, number: int) -> None:
    try:
        use = drive(room.leases.obtain(grant(resource=f"account/{number}")))
    except Exception as error:  # the task was stopped meanwhile
        assert "stopped" in str(error)
        return
    drive(room.leases.release(use))


# which are alive --------------------------------------------------------------------------------------------------


def test_ids_that_are_not_ours_are_never_alive() -> None:
    clock = FakeClock()
    alive = Alive(clock)
    jti = alive.prepare(60)
    assert not alive.holds(jti)
    assert alive.issue(jti)
    prefix, _, number = jti.partition("-")

    assert alive.holds(jti)
    digits = ["", "0", f"0{number}", f"+{number}", "f" * 12, "f" * 40, f"{number}\n", "é"]
    for other in ["", "-", prefix, "é" * 20, *(f"{prefix}-{written}" for written in digits)]:
        assert not alive.holds(other)
        assert not alive.issue(other)
        alive.end(other)
    assert alive.holds(jti)
    alive.end(jti)
    assert not alive.holds(jti)
    assert not alive.issue(jti)


def test_ids_that_are_ours_but_for_their_place_are_never_alive() -> None:
    alive = Alive(FakeClock())
    ours = [alive.prepare(60) for _ in range(200)]
    assert all(map(alive.issue, ours))
    block = ours[0][:-2]
    assert {jti[:-2] for jti in ours} == {block}

    for place in ["", "0", "+1", " 1", "1 ", "1_", "0A", "A0", "\u0661\u0661", "gg", "-1", "ff", "001", "100"]:
        alive.end(block + place)
        assert not alive.holds(block + place)
        assert not alive.issue(block + place)

    assert all(map(alive.holds, ours))
    assert len(alive) == 200


def test_lease_that_is_prepared_after_all_others_were_forgotten_can_be_issued() -> None:
    clock = FakeClock()
    alive = Alive(clock)
    first = alive.prepare(60)
    assert alive.issue(first)

    clock.advance(61)
    jti = alive.prepare(60)

    assert alive.issue(jti)
    assert alive.holds(jti)
    assert jti != first


def test_lease_that_is_prepared_is_not_forgotten_before_it_can_be_issued() -> None:
    clock = FakeClock()
    alive = Alive(clock)
    slow = alive.prepare(60)

    clock.advance(5)
    alive.prepare(60)

    assert alive.issue(slow)
    assert alive.holds(slow)


def test_ids_are_never_given_twice_however_many_there_are() -> None:
    clock = FakeClock()
    alive = Alive(clock)
    ids = set[str]()

    for number in range(2_000):
        jti = alive.prepare(60)
        assert jti not in ids
        assert alive.issue(jti)
        ids.add(jti)
        if number % 300 == 0:
            clock.advance(70)

    assert len(ids) == 2_000


def test_memory_of_what_was_alive_is_given_back() -> None:
    clock = FakeClock()
    alive = Alive(clock)
    for _ in range(5_000):
        alive.issue(alive.prepare(60))
    assert len(alive) == 5_000

    clock.advance(61)
    alive.prepare(60)

    assert len(alive) == 1


def test_a_kept_lease_takes_less_than_four_hundred_bytes_and_gives_them_back() -> None:
    # Other threads of the process allocate too, so one quiet measurement counts.
    took = next((one for _ in range(3) if (one := allocated(10_000))["alive"] < 400 and one["after"] < 4), None)

    assert took is not None
