"""Counters and suspensions: never above a limit, all levels or none, and a call that never ran costs nothing."""

from __future__ import annotations

import decimal
import threading
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from agentguard._drive import drive
from agentguard.ports import Candidate, Charge, Exhausted, Reservation, Settlement
from agentguard.state.budgets_memory import MemoryBudgets
from agentguard.state.suspensions_memory import MemorySuspensions

control = pytest.mark.control("3 no counter goes above its limit")
LIMITS = {"a/count": 3, "a/total": 10, "b/count": 2, "b/window": 4, "c/window": 2}
WIDE = decimal.Context(prec=200)
PER = {"b/window": 10.0, "c/window": 25.0}


def charge(key: str, amount: str = "1", limit: str | None = None, per: float | None = None) -> Charge:
    return Charge(key, limit or str(LIMITS[key]), amount, PER.get(key, 0.0) if per is None else per)


def reserve(budgets: MemoryBudgets, *levels: Any, now: float = 0.0) -> Reservation | Exhausted:
    return drive(budgets.reserve([[c] if isinstance(c, Candidate) else c for c in levels], now))


def took(budgets: MemoryBudgets, *levels: Any, now: float = 0.0) -> Reservation:
    reserved = reserve(budgets, *levels, now=now)
    assert isinstance(reserved, Reservation)
    return reserved


def settle(budgets: MemoryBudgets, reservation: Reservation, settlement: Settlement) -> None:
    drive(budgets.settle(reservation, settlement))


amounts = st.sampled_from(["1", "0.1", "2.5", "0.0000000000000000000000000000000001"])
charges = st.builds(lambda key, amount: charge(key, amount), st.sampled_from(sorted(LIMITS)), amounts)
candidates = st.builds(lambda step, taken: Candidate(step, tuple(taken)), st.text("xyz"), st.lists(charges, max_size=3))
levels = st.lists(st.lists(candidates, min_size=1, max_size=2), min_size=1, max_size=3)


class Spending(RuleBasedStateMachine):
    """Against a model that keeps every charge with its time, and looks at all of them."""

    reservations: Bundle[Any] = Bundle("reservations")

    def __init__(self) -> None:
        super().__init__()
        self.budgets, self.now = MemoryBudgets(), 0.0
        self.taken: list[tuple[float, Charge, object]] = []

    def used(self, key: str) -> Decimal:
        per = PER.get(key, 0.0)
        amounts = [Decimal(c.amount) for at, c, _ in self.taken if c.key == key and (not per or at > self.now - per)]
        with decimal.localcontext(WIDE):
            return sum(amounts, Decimal(0))

    @rule(target=reservations, levels=levels)
    def reserve(self, levels: Any) -> Any:
        before = {key: self.used(key) for key in LIMITS}
        reserved = drive(self.budgets.reserve(levels, self.now))
        if isinstance(reserved, Exhausted):
            if all(len(level) == 1 for level in levels):  # it is true that this charge does not fit
                asked = [c for level in levels[: reserved.level + 1] for c in level[0].charges]
                with decimal.localcontext(WIDE):
                    more = sum((Decimal(c.amount) for c in asked if c.key == reserved.charge.key), Decimal(0))
                    assert before[reserved.charge.key] + more > Decimal(reserved.charge.limit)
            return None
        owner = object()
        self.taken += [(self.now, c, owner) for c in reserved.charges]
        assert len(reserved.chosen) == len(levels)
        wanted = [c for level, index in zip(levels, reserved.chosen, strict=True) for c in level[index].charges]
        assert list(reserved.charges) == wanted
        return reserved, owner

    @rule(reservation=consumes(reservations), settlement=st.sampled_from(Settlement))
    def settle(self, reservation: Any, settlement: Settlement) -> None:
        if reservation is None:
            return
        reserved, owner = reservation
        settle(self.budgets, reserved, settlement)
        if settlement is Settlement.NOT_RUN:
            self.taken = [entry for entry in self.taken if entry[2] is not owner]

    @rule(seconds=st.sampled_from([0.5, 9.0, 30.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def no_counter_is_above_its_limit_and_all_are_exact(self) -> None:
        for key, limit in LIMITS.items():
            assert self.used(key) <= limit
            rest = WIDE.subtract(Decimal(limit), self.used(key))
            if rest > 0:  # exactly the rest fits, and nothing more
                fits = took(self.budgets, Candidate("s", (charge(key, str(rest)),)), now=self.now)
                assert isinstance(
                    reserve(self.budgets, Candidate("s", (charge(key, "1E-50"),)), now=self.now), Exhausted
                )
                settle(self.budgets, fits, Settlement.NOT_RUN)


Spending.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestSpending = control(Spending.TestCase)


@control
def test_level_without_budget_takes_nothing_from_the_others() -> None:
    budgets = MemoryBudgets()
    full = Candidate("s", (charge("b/count", "2"),))
    took(budgets, full)
    exhausted = reserve(budgets, Candidate("one", (charge("a/count", "3"),)), Candidate("two", (charge("b/count"),)))
    assert isinstance(exhausted, Exhausted)
    assert (exhausted.level, exhausted.step, exhausted.charge.key) == (1, "two", "b/count")
    took(budgets, Candidate("one", (charge("a/count", "3"),)))


@control
def test_counter_that_two_levels_share_is_charged_by_both_or_by_none() -> None:
    budgets, shared = MemoryBudgets(), Candidate("s", (charge("b/count"),))
    assert isinstance(reserve(budgets, shared, shared, shared), Exhausted)
    took(budgets, shared, shared)
    assert isinstance(reserve(budgets, shared), Exhausted)


def test_first_candidate_with_budget_left_is_chosen() -> None:
    budgets = MemoryBudgets()
    options = [Candidate("first", (charge("b/count", "2"),)), Candidate("second", (charge("a/count"),))]
    assert [took(budgets, options).chosen for _ in range(3)] == [(0,), (1,), (1,)]


@control
def test_call_that_never_ran_leaves_a_window_as_it_was_also_when_its_time_is_over() -> None:
    budgets, one = MemoryBudgets(), Candidate("s", (charge("c/window"),))
    waited, ran = took(budgets, one, now=0), took(budgets, one, now=20)
    settle(budgets, ran, Settlement.RAN)
    took(budgets, one, now=26)  # the first has left the window
    settle(budgets, waited, Settlement.NOT_RUN)  # and is given back only now: there is nothing left to give
    assert isinstance(reserve(budgets, one, now=27), Exhausted)


@control
def test_call_that_never_ran_gives_back_its_own_place_in_the_window_and_no_later_one() -> None:
    budgets, one = MemoryBudgets(), Candidate("s", (charge("c/window"),))
    first, second = took(budgets, one, now=0), took(budgets, one, now=20)
    settle(budgets, second, Settlement.RAN)
    settle(budgets, first, Settlement.NOT_RUN)
    took(budgets, one, now=26)
    assert isinstance(reserve(budgets, one, now=44), Exhausted)  # that of 20 counts until 45
    took(budgets, one, now=46)


@control
def test_sums_are_exact_whatever_decimal_context_the_application_has_set() -> None:
    budgets, tiny = MemoryBudgets(), Candidate("s", (charge("a/total", "1E-40"),))
    with decimal.localcontext(decimal.Context(prec=1, rounding=decimal.ROUND_DOWN)):
        took(budgets, Candidate("s", (charge("a/total", "5.9"),)))
        assert isinstance(reserve(budgets, Candidate("s", (charge("a/total", "4.2"),))), Exhausted)
        took(budgets, Candidate("s", (charge("a/total", "4.1"),)))
        assert isinstance(reserve(budgets, tiny), Exhausted)


@control
def test_negative_amount_never_gives_budget() -> None:
    budgets = MemoryBudgets()
    assert isinstance(reserve(budgets, Candidate("s", (charge("a/total", "-5"),))), Exhausted)


@control
def test_parallel_reservations_never_pass_the_limit() -> None:
    budgets, got = MemoryBudgets(), list[Reservation]()

    def spend() -> None:
        for _ in range(50):
            reserved = reserve(budgets, Candidate("s", (Charge("x/n", "77"),)))
            if isinstance(reserved, Reservation):
                got.append(reserved)

    threads = [threading.Thread(target=spend) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 77
    assert len({reservation.id for reservation in got}) == 77


def test_settling_after_its_scope_was_forgotten_leaves_nothing_behind() -> None:
    budgets = MemoryBudgets()
    late = took(budgets, Candidate("s", (charge("a/count"),)))
    drive(budgets.forget("a"))
    settle(budgets, late, Settlement.NOT_RUN)
    assert isinstance(reserve(budgets, Candidate("s", (charge("a/count", "3.5"),))), Exhausted)
    took(budgets, Candidate("s", (charge("a/count", "3"),)))


# attempts -------------------------------------------------------------------------------------------------

attempts = pytest.mark.control("3 a retry is not a new call, and has an end")


def trying(times: int, call: str = "digest", scope: str = "a") -> Candidate:
    return Candidate("s", (Charge(f"{scope}/n", "1"),), f"{scope}/s:{call}", times)


@attempts
def test_same_call_is_retried_on_one_reservation_up_to_its_attempts() -> None:
    budgets, ids = MemoryBudgets(), set[str]()
    for _ in range(3):
        reservation = took(budgets, trying(3))
        ids.add(reservation.id)
        assert isinstance(reserve(budgets, trying(3, "other")), Exhausted)
        settle(budgets, reservation, Settlement.RAISED)
    assert len(ids) == 1
    assert isinstance(reserve(budgets, trying(3)), Exhausted)


@attempts
def test_retry_is_over_once_the_call_ran() -> None:
    budgets = MemoryBudgets()
    settle(budgets, took(budgets, trying(3)), Settlement.RAISED)
    settle(budgets, took(budgets, trying(3)), Settlement.RAN)
    assert isinstance(reserve(budgets, trying(3)), Exhausted)


@attempts
def test_retry_that_never_ran_is_not_lost_and_not_gained() -> None:
    budgets = MemoryBudgets()
    settle(budgets, took(budgets, trying(2)), Settlement.RAISED)
    for _ in range(5):
        settle(budgets, took(budgets, trying(2)), Settlement.NOT_RUN)
    settle(budgets, took(budgets, trying(2)), Settlement.RAISED)
    assert isinstance(reserve(budgets, trying(2)), Exhausted)


@attempts
def test_two_at_once_do_not_share_one_retry() -> None:
    budgets = MemoryBudgets()
    settle(budgets, took(budgets, trying(5)), Settlement.RAISED)
    took(budgets, trying(5))
    assert isinstance(reserve(budgets, trying(5)), Exhausted)


@attempts
def test_first_attempt_that_never_ran_gives_its_charge_back() -> None:
    budgets = MemoryBudgets()
    settle(budgets, took(budgets, trying(2)), Settlement.NOT_RUN)
    took(budgets, trying(2, "other"))


@attempts
def test_retry_at_one_level_is_charged_afresh_at_another_that_grants_none_and_given_back_there() -> None:
    budgets, limit = MemoryBudgets(), Candidate("limits", (Charge("agent/calls", "2", per=60.0),))
    first = took(budgets, trying(9), limit)
    settle(budgets, first, Settlement.RAISED)
    second = took(budgets, trying(9), limit, now=1)
    assert second.id == first.id
    settle(budgets, second, Settlement.NOT_RUN)
    third = took(budgets, trying(9), limit, now=2)
    settle(budgets, third, Settlement.RAISED)
    assert isinstance(reserve(budgets, trying(9), limit, now=3), Exhausted)


# suspensions ----------------------------------------------------------------------------------------------


@pytest.mark.control("9 nothing starts after suspend returned")
def test_any_of_the_keys_stops_a_start_until_it_is_lifted() -> None:
    stops = MemorySuspensions()
    assert drive(stops.start("1", ["all", "agent:a"])) == ""
    drive(stops.suspend("agent:a", "test"))
    assert drive(stops.start("2", ["all", "agent:a"])) == "agent:a"
    assert drive(stops.start("3", ["all", "agent:b"])) == ""
    assert drive(stops.suspended(["agent:b", "agent:a"])) == "agent:a"
    drive(stops.finish("1"))
    drive(stops.lift("agent:a"))
    assert drive(stops.suspended(["agent:a"])) == ""
    assert drive(stops.start("4", ["agent:a"])) == ""


# what is asked again as it is ------------------------------------------------------------------------------


def asked(*keys: str, limit: str = "3") -> Any:
    """A tuple of tuples, as a task keeps it for a tool."""
    return tuple([(Candidate(key, (charge(key, limit=limit, per=0.0),)),) for key in keys])


def times_taken(budgets: MemoryBudgets, levels: Any, tries: int = 9) -> int:
    return sum(isinstance(drive(budgets.reserve(levels, 0.0)), Reservation) for _ in range(tries))


@control
def test_what_is_asked_again_fits_no_more_often_than_its_limit() -> None:
    budgets, levels = MemoryBudgets(), asked("a/count", "b/count")

    assert times_taken(budgets, levels) == 3
    assert drive(budgets.standing(["a/count", "b/count"])) == ["3", "3"]


@control
def test_what_does_not_fit_at_one_level_is_taken_at_none() -> None:
    budgets, levels = MemoryBudgets(), asked("a/count", "b/count", "c/count")
    assert times_taken(budgets, levels, 1) == 1
    took(budgets, Candidate("b", (charge("b/count", limit="9", amount="2", per=0.0),)))
    found = drive(budgets.reserve(levels, 0.0))
    assert isinstance(found, Exhausted)
    assert (found.level, found.step) == (1, "b/count")
    assert drive(budgets.standing(["a/count", "b/count", "c/count"])) == ["1", "3", "1"]


@control
def test_counter_that_two_levels_share_is_taken_twice() -> None:
    budgets, levels = MemoryBudgets(), asked("a/count", "a/count")

    assert times_taken(budgets, levels) == 1
    assert drive(budgets.standing(["a/count"])) == ["2"]


@control
def test_what_is_given_back_may_be_asked_again() -> None:
    budgets, levels = MemoryBudgets(), asked("a/count", limit="1")

    for _ in range(4):
        reserved = drive(budgets.reserve(levels, 0.0))
        assert isinstance(reserved, Reservation)
        assert times_taken(budgets, levels) == 0
        settle(budgets, reserved, Settlement.NOT_RUN)


@control
def test_scope_that_was_forgotten_begins_again_and_its_counters_are_found() -> None:
    budgets, levels = MemoryBudgets(), asked("a/count", "b/count")
    assert times_taken(budgets, levels, 1) == 1
    drive(budgets.forget("a"))
    drive(budgets.forget("b"))

    assert times_taken(budgets, levels, 2) == 2
    assert drive(budgets.standing(["a/count", "b/count"])) == ["2", "2"]


@control
@pytest.mark.parametrize(
    "odd",
    [
        Charge("b/x", "9", "2"),
        Charge("b/x", "9", per=5.0),
        Charge("b/x", "9", value="v"),
        Charge("b/x", "9", least="1"),
    ],
)
def test_what_asks_for_more_than_one_more_is_counted_as_it_says(odd: Charge) -> None:
    kept, fresh = MemoryBudgets(), MemoryBudgets()
    levels = (*asked("a/count", limit="9"), (Candidate("odd", (odd,)),))
    seen: list[Any] = []

    for budgets, question in ((kept, levels), (fresh, [list(level) for level in levels])):
        first: Any = took(budgets, Candidate("x", (Charge("b/x", "99"),)))
        found: list[Any] = [drive(budgets.reserve(question, 0.0)) for _ in range(3)]
        for reserved in (first, *found):
            settle(budgets, reserved, Settlement.NOT_RUN)
        found += [drive(budgets.reserve(question, 0.0)) for _ in range(2)]
        seen.append(([type(one) for one in found], drive(budgets.standing(["a/count", "b/x"]))))

    assert seen[0] == seen[1]
    assert not kept._again


@control
def test_attempts_are_granted_each_time_they_are_asked_for() -> None:
    again = Candidate("again", (charge("a/count", limit="1"),), "a/again:x", 2)
    budgets, levels = MemoryBudgets(), ((again, Candidate("b", (charge("b/count"),))),)
    first = drive(budgets.reserve(levels, 0.0))
    drive(budgets.reserve(levels, 0.0))
    assert isinstance(first, Reservation)
    settle(budgets, first, Settlement.NOT_RUN)

    found = drive(budgets.reserve(levels, 0.0))

    assert isinstance(found, Reservation)
    assert (found.chosen, len(found.retries)) == ((0,), 1)


@control
def test_questions_that_come_and_go_are_not_taken_for_each_other() -> None:
    budgets = MemoryBudgets()

    for number in range(50):
        assert times_taken(budgets, asked(f"a/{number}"), 1) == 1

    assert all(id(kept.levels) == key for key, kept in budgets._again.items())
    assert set(drive(budgets.standing([f"a/{number}" for number in range(50)]))) == {"1"}


@control
def test_list_that_changes_between_two_questions_is_read_each_time() -> None:
    budgets, levels = MemoryBudgets(), [[Candidate("a", (charge("a/count", limit="9"),))]]
    drive(budgets.reserve(levels, 0.0))
    levels[0] = [Candidate("b", (charge("b/count", limit="9"),))]
    drive(budgets.reserve(levels, 0.0))
    tuples = [(Candidate("a", (charge("a/count", limit="9"),)),)]
    drive(budgets.reserve(tuples, 0.0))
    tuples[0] = (Candidate("b", (charge("b/count", limit="9"),)),)
    drive(budgets.reserve(tuples, 0.0))
    mixed = ([Candidate("a", (charge("a/count", limit="9"),))],)
    drive(budgets.reserve(mixed, 0.0))
    mixed[0][0] = Candidate("b", (charge("b/count", limit="9"),))
    drive(budgets.reserve(mixed, 0.0))

    assert drive(budgets.standing(["a/count", "b/count"])) == ["3", "3"]


def test_what_is_kept_does_not_grow_for_ever() -> None:
    budgets, known = MemoryBudgets(), [asked("a/count", limit="99999") for _ in range(1500)]

    assert sum(times_taken(budgets, levels, 2) for levels in known) == 3000
    assert len(budgets._again) <= 1000


def test_no_two_reservations_have_one_id() -> None:
    levels = asked("a/count", limit="99999")
    budgets = [MemoryBudgets(), MemoryBudgets()]

    assert len({took(each, *levels).id for each in budgets for _ in range(50)}) == 100
