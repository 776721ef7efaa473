"""What every store of shared state does: one suite, run over memory, SQLite and PostgreSQL.

A subclass brings the fixtures; the clock is the one by which its store's windows slide and its questions expire.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import anyio
import pytest

from agentguard import ConfigurationError
from agentguard._drive import drive
from agentguard.errors import Unavailable
from agentguard.model.lease import Secret
from agentguard.ports import (
    ApprovalRequest,
    Approvals,
    Budgets,
    Candidate,
    Charge,
    Exhausted,
    Origin,
    Parked,
    ParkedTasks,
    Question,
    Redemptions,
    Reservation,
    Settlement,
    Suspensions,
    Verdict,
)

never_above = pytest.mark.control("3 no counter goes above its limit")
stopped = pytest.mark.control("9 nothing starts after suspend")
once = pytest.mark.control("approvals are answered once and used once")
taken_once = pytest.mark.control("a parked task goes on once")


class Clock(Protocol):
    def __call__(self) -> float: ...
    def advance(self, seconds: float) -> None: ...


def charge(key: str = "task:t/calls", limit: str = "3", amount: str = "1", **more: Any) -> Charge:
    return Charge(key, limit, amount, **more)


def step(*charges: Charge, name: str = "s", **more: Any) -> Candidate:
    return Candidate(name, charges, **more)


class BudgetsContract:
    @staticmethod
    def reserve(budgets: Budgets, *levels: Candidate | Sequence[Candidate]) -> Reservation | Exhausted:
        return drive(budgets.reserve([[one] if isinstance(one, Candidate) else one for one in levels], 0.0))

    def took(self, budgets: Budgets, *levels: Candidate | Sequence[Candidate]) -> Reservation:
        found = self.reserve(budgets, *levels)
        assert isinstance(found, Reservation)
        return found

    @staticmethod
    def settle(budgets: Budgets, reservation: Reservation, settlement: Settlement) -> None:
        drive(budgets.settle(reservation, settlement))

    @staticmethod
    def standing(budgets: Budgets, *keys: str) -> list[str]:
        return list(drive(budgets.standing(keys)))

    def test_it_is_a_port_that_can_be_driven(self, budgets: Budgets) -> None:
        assert isinstance(budgets, Budgets)
        assert not budgets.suspends

    @never_above
    def test_limit_is_reached_and_never_passed(self, budgets: Budgets) -> None:
        for _ in range(3):
            self.took(budgets, step(charge()))

        refused = self.reserve(budgets, step(charge(), name="pay"))

        assert refused == Exhausted(0, "pay", charge())
        assert ["3"] == self.standing(budgets, "task:t/calls")

    @never_above
    def test_sums_are_exact_decimals(self, budgets: Budgets) -> None:
        for _ in range(10):
            self.took(budgets, step(charge(limit="1", amount="0.1")))

        assert isinstance(self.reserve(budgets, step(charge(limit="1", amount="1E-40"))), Exhausted)
        assert ["1.0"] == self.standing(budgets, "task:t/calls")

    def test_negative_amount_is_refused(self, budgets: Budgets) -> None:
        assert isinstance(self.reserve(budgets, step(charge(amount="-1"))), Exhausted)

    @never_above
    def test_all_levels_are_taken_or_none(self, budgets: Budgets) -> None:
        full = charge("agent:b/calls", "0")

        refused = self.reserve(budgets, step(charge()), step(full, name="two"))

        assert refused == Exhausted(1, "two", full)
        assert ["", ""] == self.standing(budgets, "task:t/calls", "agent:b/calls")

    def test_level_takes_its_first_candidate_with_budget_left(self, budgets: Budgets) -> None:
        first, second = charge("task:t/a", "1"), charge("task:t/b", "1")

        found = [self.took(budgets, [step(first), step(second)]).chosen for _ in range(2)]

        assert [(0,), (1,)] == found

    def test_level_without_candidates_is_exhausted(self, budgets: Budgets) -> None:
        assert isinstance(self.reserve(budgets, step(charge()), []), Exhausted)
        assert [""] == self.standing(budgets, "task:t/calls")

    def test_call_that_never_ran_is_given_back(self, budgets: Budgets) -> None:
        taken = self.took(budgets, step(charge(amount="2"), charge("task:t/w", per=60.0)))

        self.settle(budgets, taken, Settlement.NOT_RUN)

        assert ["", ""] == self.standing(budgets, "task:t/calls", "task:t/w")

    @pytest.mark.parametrize("settlement", [Settlement.RAN, Settlement.RAISED])
    def test_call_that_ran_stays_counted(self, budgets: Budgets, settlement: Settlement) -> None:
        self.settle(budgets, self.took(budgets, step(charge(amount="2"))), settlement)

        assert ["2"] == self.standing(budgets, "task:t/calls")

    def test_window_slides_by_the_clock_of_the_store(self, budgets: Budgets, clock: Clock) -> None:
        per_minute = step(charge(limit="2", per=60.0))
        self.took(budgets, per_minute)
        clock.advance(30)
        self.took(budgets, per_minute)
        clock.advance(29)
        assert isinstance(self.reserve(budgets, per_minute), Exhausted)

        clock.advance(1)

        self.took(budgets, per_minute)
        assert isinstance(self.reserve(budgets, per_minute), Exhausted)

    def test_window_that_begins_later_holds_until_then_and_for_its_length(self, budgets: Budgets, clock: Clock) -> None:
        both = charge(limit="3", per=60.0)
        held = self.took(budgets, step(charge(limit="3", amount="2", per=60.0, later=100.0)))
        self.took(budgets, step(both))
        assert isinstance(self.reserve(budgets, step(both)), Exhausted)

        clock.advance(61)  # what was taken after it has left the window before it
        self.took(budgets, step(both))
        assert isinstance(self.reserve(budgets, step(both)), Exhausted)
        clock.advance(98)
        self.took(budgets, step(both))
        assert isinstance(self.reserve(budgets, step(both)), Exhausted)
        clock.advance(2)
        assert [self.took(budgets, step(both)).chosen for _ in range(2)] == [(0,), (0,)]
        assert isinstance(self.reserve(budgets, step(both)), Exhausted)

        self.settle(budgets, held, Settlement.NOT_RUN)
        assert ["3"] == self.standing(budgets, "task:t/calls")

    def test_window_that_begins_later_is_given_back(self, budgets: Budgets) -> None:
        held = self.took(budgets, step(charge(limit="3", amount="2", per=60.0, later=100.0)))

        self.settle(budgets, held, Settlement.NOT_RUN)

        assert [""] == self.standing(budgets, "task:t/calls")

    def test_what_left_the_window_is_not_given_back_twice(self, budgets: Budgets, clock: Clock) -> None:
        per_minute = step(charge(limit="1", per=60.0))
        old = self.took(budgets, per_minute)
        clock.advance(61)
        self.took(budgets, per_minute)

        self.settle(budgets, old, Settlement.NOT_RUN)

        assert ["1"] == self.standing(budgets, "task:t/calls")

    def test_least_asks_for_what_others_reached(self, budgets: Budgets) -> None:
        needs = step(charge("task:t/done", "9", "0", least="1"))
        assert isinstance(self.reserve(budgets, needs), Exhausted)

        self.took(budgets, step(charge("task:t/done", "9")))

        self.took(budgets, needs)

    def test_value_is_held_until_its_last_holder_gives_it_back(self, budgets: Budgets) -> None:
        acme, evil = (step(charge("task:t/bind", "0", "0", value=name)) for name in ("acme", "evil"))
        first, second = self.took(budgets, acme), self.took(budgets, acme)
        assert ["acme"] == self.standing(budgets, "task:t/bind")
        self.settle(budgets, first, Settlement.NOT_RUN)
        assert isinstance(self.reserve(budgets, evil), Exhausted)

        self.settle(budgets, second, Settlement.NOT_RUN)

        self.took(budgets, evil)
        assert ["evil"] == self.standing(budgets, "task:t/bind")

    def test_retry_reuses_its_reservation_and_no_more_often_than_granted(self, budgets: Budgets) -> None:
        granted = step(charge(limit="1"), retry_key="task:t/s:digest", attempts=2)
        first = self.took(budgets, granted)
        self.settle(budgets, first, Settlement.RAISED)

        again = self.took(budgets, granted)

        assert (again.id, again.charges) == (first.id, ())
        self.settle(budgets, again, Settlement.RAISED)
        assert isinstance(self.reserve(budgets, granted), Exhausted)

    def test_retry_may_have_more_attempts_than_a_column_holds(self, budgets: Budgets) -> None:
        granted = step(charge(limit="1"), retry_key="task:t/s:digest", attempts=10**20)
        first = self.took(budgets, granted)
        self.settle(budgets, first, Settlement.RAISED)

        assert self.took(budgets, granted).id == first.id

    def test_retry_that_never_ran_may_be_tried_again(self, budgets: Budgets) -> None:
        granted = step(charge(limit="1"), retry_key="task:t/s:digest", attempts=2)
        self.settle(budgets, self.took(budgets, granted), Settlement.RAISED)
        self.settle(budgets, self.took(budgets, granted), Settlement.NOT_RUN)

        self.took(budgets, granted)

    def test_call_that_never_ran_leaves_no_attempt_that_takes_nothing(self, budgets: Budgets) -> None:
        granted = step(charge("task:t/s"), retry_key="task:t/s:digest", attempts=2)
        self.settle(budgets, self.took(budgets, granted), Settlement.NOT_RUN)

        self.took(budgets, granted)

        assert ["1"] == self.standing(budgets, "task:t/s")

    def test_retry_at_one_level_renames_what_it_takes_at_another(self, budgets: Budgets) -> None:
        granted = step(charge(limit="1"), retry_key="task:t/s:digest", attempts=2)
        window = step(charge("task:t/w", "9", per=60.0))
        first = self.took(budgets, granted, window)
        self.settle(budgets, first, Settlement.RAISED)
        again = self.took(budgets, granted, window)
        assert again.id == first.id
        assert ["2"] == self.standing(budgets, "task:t/w")

        self.settle(budgets, again, Settlement.NOT_RUN)

        assert ["1"] == self.standing(budgets, "task:t/w")

    def test_forgotten_scope_starts_anew_and_others_stay(self, budgets: Budgets) -> None:
        taken = self.took(budgets, step(charge(), charge("task:t/w", per=60.0), charge("task:u/calls")))

        drive(budgets.forget("task:t"))

        assert ["", "", "1"] == self.standing(budgets, "task:t/calls", "task:t/w", "task:u/calls")
        self.settle(budgets, taken, Settlement.NOT_RUN)
        assert ["", "", ""] == self.standing(budgets, "task:t/calls", "task:t/w", "task:u/calls")

    def test_step_without_charges_is_always_admitted(self, budgets: Budgets) -> None:
        assert (0,) == self.took(budgets, step()).chosen

    def test_names_with_quotes_and_other_alphabets_are_kept_apart(self, budgets: Budgets) -> None:
        keys = ["task:'; DROP TABLE counters; --/x", "task:{0}/%s", "task:日本/é", "task:t/a/b", "task:t/a"]

        for key in keys:
            self.took(budgets, step(charge(key)))

        assert ["1"] * 5 == self.standing(budgets, *keys)

    @never_above
    def test_threads_never_pass_a_limit_together(self, budgets: Budgets) -> None:
        levels = step(charge(limit="25")), step(charge("agent:b/calls", "40", per=3600.0))

        with ThreadPoolExecutor(6) as pool:
            found = list(pool.map(lambda _: self.reserve(budgets, *levels), range(60)))

        assert 25 == sum(isinstance(one, Reservation) for one in found)
        assert ["25", "25"] == self.standing(budgets, "task:t/calls", "agent:b/calls")

    @pytest.mark.anyio
    async def test_event_loop_reserves_and_settles(self, budgets: Budgets) -> None:
        taken = await budgets.reserve([[step(charge())]], 0.0)
        assert isinstance(taken, Reservation)

        await budgets.settle(taken, Settlement.NOT_RUN)

        assert [""] == list(await budgets.standing(["task:t/calls"]))


class SuspensionsContract:
    @staticmethod
    def start(suspensions: Suspensions, call: str, *keys: str, reads: bool = False) -> str:
        return drive(suspensions.start(call, keys, reads=reads))

    @staticmethod
    def suspend(suspensions: Suspensions, key: str, why: str = "") -> None:
        drive(suspensions.suspend(key, why))

    @staticmethod
    def lift(suspensions: Suspensions, key: str) -> None:
        drive(suspensions.lift(key))

    def test_it_is_a_port_that_can_be_driven(self, suspensions: Suspensions) -> None:
        assert isinstance(suspensions, Suspensions)
        assert not suspensions.suspends

    @stopped
    def test_nothing_starts_under_a_stopped_key(self, suspensions: Suspensions) -> None:
        assert "" == self.start(suspensions, "c1", "all", "agent:a")

        self.suspend(suspensions, "agent:a", "misuse")

        assert "agent:a" == self.start(suspensions, "c2", "all", "agent:a")
        assert "" == self.start(suspensions, "c3", "all", "agent:b")

    def test_first_of_the_asked_keys_is_told(self, suspensions: Suspensions) -> None:
        self.suspend(suspensions, "task:t")
        self.suspend(suspensions, "all")

        assert "all" == self.start(suspensions, "c", "all", "agent:a", "task:t")
        assert "task:t" == drive(suspensions.suspended(["agent:a", "task:t", "all"]))

    def test_lifted_key_goes_on(self, suspensions: Suspensions) -> None:
        self.suspend(suspensions, "agent:a")
        self.lift(suspensions, "agent:a")
        self.lift(suspensions, "agent:unknown")

        assert "" == self.start(suspensions, "c", "agent:a")

    def test_finished_call_may_be_finished_again(self, suspensions: Suspensions) -> None:
        self.start(suspensions, "c", "all")

        for _ in range(2):
            drive(suspensions.finish("c"))
        drive(suspensions.finish("never started"))

    def test_news_are_what_was_set_since(self, suspensions: Suspensions) -> None:
        self.suspend(suspensions, "agent:a", "one")
        epoch, _ = drive(suspensions.news(0))
        self.suspend(suspensions, "agent:b", "it's 'two'")

        def later() -> Any:
            return drive(suspensions.news(epoch))

        self.eventually(lambda: [(s.key, s.why) for s in later()[1]] == [("agent:b", "it's 'two'")])
        newest, (stop,) = later()
        assert newest == stop.epoch > epoch
        assert ["agent:a", "agent:b"] == [stop.key for stop in drive(suspensions.standing())]

    def test_stop_that_is_set_again_is_news_again(self, suspensions: Suspensions) -> None:
        self.suspend(suspensions, "agent:a", "one")
        epoch, _ = drive(suspensions.news(0))

        self.suspend(suspensions, "agent:a", "two")

        self.eventually(lambda: [s.why for s in drive(suspensions.news(epoch))[1]] == ["two"])

    def test_read_hears_of_a_stop_and_of_its_end(self, suspensions: Suspensions) -> None:
        assert "" == self.start(suspensions, "c1", "agent:a", reads=True)

        self.suspend(suspensions, "agent:a")
        self.eventually(lambda: self.start(suspensions, "c2", "agent:a", reads=True) == "agent:a")

        self.lift(suspensions, "agent:a")
        self.eventually(lambda: self.start(suspensions, "c3", "agent:a", reads=True) == "")

    @staticmethod
    def eventually(holds: Callable[[], bool]) -> None:
        """Within the second for which a read may trust what it heard."""
        given_up = threading.Event()
        for _ in range(100):
            if holds():
                return
            given_up.wait(0.01)
        raise AssertionError("it did not come to hold within a second")

    @stopped
    def test_case_60_nothing_is_marked_after_a_stop_has_returned(self, suspensions: Suspensions) -> None:
        has_returned = threading.Event()
        late: list[int] = []
        started: list[int] = []

        def call(number: int) -> None:
            after = has_returned.is_set()
            if self.start(suspensions, f"c{number}", "all", "agent:a") == "":
                (late if after else started).append(number)

        with ThreadPoolExecutor(6) as pool:
            calls = [pool.submit(call, number) for number in range(60)]
            self.suspend(suspensions, "agent:a", "stop")
            has_returned.set()
            for one in calls:
                one.result()

        assert not late
        assert "agent:a" == self.start(suspensions, "last", "all", "agent:a")

    @pytest.mark.anyio
    async def test_event_loop_starts_and_stops(self, suspensions: Suspensions) -> None:
        assert "" == await suspensions.start("c", ["all"])
        await suspensions.finish("c")
        await suspensions.suspend("all", "stop")
        assert "all" == await suspensions.start("d", ["all"])


class ApprovalsContract:
    @staticmethod
    def question(clock: Clock, identifier: str = "q1", binding: str = "b1", **fields: Any) -> Question:
        request = ApprovalRequest(
            call="c", tool="pay", arguments="amount: 50 €", digest="d", chain="user:a > bot", purpose="p", step="s",
            origins=(Origin("account", "search", "[0].id", ("1", "2")),),
        )  # fmt: skip
        given = {"asked_at": clock(), "expires_at": clock() + 600, **fields}
        return Question(id=identifier, binding=binding, request=request, task="t", **given)

    @staticmethod
    def ask(approvals: Approvals, question: Question) -> None:
        drive(approvals.ask(question))

    @staticmethod
    def answer(approvals: Approvals, clock: Clock, verdict: Verdict = Verdict.APPROVED, by: str = "ann") -> bool:
        return drive(approvals.answer("q1", verdict, by, clock()))

    @staticmethod
    def find(approvals: Approvals, clock: Clock, identifier: str = "q1") -> Question | None:
        return drive(approvals.find(identifier, clock()))

    @staticmethod
    def use(approvals: Approvals, clock: Clock, binding: str = "b1") -> Question | None:
        return drive(approvals.use(binding, clock()))

    @staticmethod
    def waiting(approvals: Approvals, clock: Clock) -> list[str]:
        return [question.id for question in drive(approvals.open(clock()))]

    def test_it_is_a_port_that_can_be_driven(self, approvals: Approvals) -> None:
        assert isinstance(approvals, Approvals)
        assert not approvals.suspends

    def test_question_comes_back_as_it_was_asked(self, approvals: Approvals, clock: Clock) -> None:
        asked = self.question(clock)

        self.ask(approvals, asked)

        assert asked == self.find(approvals, clock)
        assert self.find(approvals, clock, "other") is None

    @once
    def test_question_is_asked_open_whatever_it_claims(self, approvals: Approvals, clock: Clock) -> None:
        self.ask(approvals, self.question(clock, verdict=Verdict.APPROVED, by="the model"))

        assert self.use(approvals, clock) is None
        found = self.find(approvals, clock)
        assert found is not None
        assert (Verdict.OPEN, "") == (found.verdict, found.by)

    @once
    def test_answer_counts_once(self, approvals: Approvals, clock: Clock) -> None:
        self.ask(approvals, self.question(clock))

        assert self.answer(approvals, clock, Verdict.REJECTED, "ann")
        assert not self.answer(approvals, clock, Verdict.APPROVED, "bob")

        found = self.find(approvals, clock)
        assert found is not None
        assert (Verdict.REJECTED, "ann") == (found.verdict, found.by)
        assert self.use(approvals, clock) is None

    def test_nobody_answers_what_was_not_asked(self, approvals: Approvals, clock: Clock) -> None:
        assert not self.answer(approvals, clock)

    @pytest.mark.parametrize("verdict", [Verdict.OPEN, Verdict.EXPIRED, Verdict.USED])
    def test_only_yes_and_no_are_answers(self, approvals: Approvals, clock: Clock, verdict: Verdict) -> None:
        self.ask(approvals, self.question(clock))
        with pytest.raises(ConfigurationError, match="approved or rejected"):
            self.answer(approvals, clock, verdict)
        with pytest.raises(ConfigurationError, match="who gave it"):
            self.answer(approvals, clock, by="")

    @once
    def test_approval_is_used_once_and_for_its_binding_only(self, approvals: Approvals, clock: Clock) -> None:
        self.ask(approvals, self.question(clock))
        assert self.use(approvals, clock) is None
        self.answer(approvals, clock)

        assert self.use(approvals, clock, "another") is None
        used = self.use(approvals, clock)

        assert used is not None
        assert ("q1", Verdict.USED, "ann") == (used.id, used.verdict, used.by)
        assert self.use(approvals, clock) is None
        assert used == self.find(approvals, clock)

    def test_oldest_approval_is_used_first(self, approvals: Approvals, clock: Clock) -> None:
        for number in (2, 1):
            self.ask(approvals, self.question(clock, f"q{number}", asked_at=clock() + number))
            drive(approvals.answer(f"q{number}", Verdict.APPROVED, "ann", clock()))

        found = [self.use(approvals, clock) for _ in range(3)]

        assert ["q1", "q2", None] == [one.id if one is not None else None for one in found]

    @once
    def test_question_expires_for_its_answer(self, approvals: Approvals, clock: Clock) -> None:
        self.ask(approvals, self.question(clock, expires_at=clock() + 10))
        clock.advance(10)

        assert not self.answer(approvals, clock)
        found = self.find(approvals, clock)
        assert found is not None
        assert Verdict.EXPIRED is found.verdict
        assert [] == self.waiting(approvals, clock)

    @once
    def test_approval_expires_for_its_use(self, approvals: Approvals, clock: Clock) -> None:
        self.ask(approvals, self.question(clock, expires_at=clock() + 10))
        self.answer(approvals, clock)
        clock.advance(10)

        assert self.use(approvals, clock) is None
        found = self.find(approvals, clock)
        assert found is not None
        assert Verdict.EXPIRED is found.verdict

    def test_what_waits_is_listed_the_oldest_first(self, approvals: Approvals, clock: Clock) -> None:
        for number in (3, 1, 2):
            self.ask(approvals, self.question(clock, f"q{number}", asked_at=clock() + number))
        self.answer(approvals, clock)

        assert ["q2", "q3"] == self.waiting(approvals, clock)

    @once
    def test_asking_again_does_not_open_what_was_answered(self, approvals: Approvals, clock: Clock) -> None:
        self.ask(approvals, self.question(clock))
        self.answer(approvals, clock, Verdict.REJECTED)

        self.ask(approvals, self.question(clock))

        assert not self.answer(approvals, clock)

    @once
    def test_id_of_one_question_is_not_given_to_another(self, approvals: Approvals, clock: Clock) -> None:
        self.ask(approvals, self.question(clock))

        with pytest.raises(Unavailable, match="another question"):
            self.ask(approvals, self.question(clock, binding="b2"))

    def test_question_without_end_or_longer_than_a_person_reads_is_refused(
        self, approvals: Approvals, clock: Clock
    ) -> None:
        with pytest.raises(Unavailable, match="no number"):
            self.ask(approvals, self.question(clock, expires_at=float("inf")))
        with pytest.raises(Unavailable, match="too long"):
            self.ask(approvals, self.question(clock, binding="b" * 300_000))

    @once
    def test_many_who_use_one_approval_get_it_once(self, approvals: Approvals, clock: Clock) -> None:
        self.ask(approvals, self.question(clock))
        self.answer(approvals, clock)

        with ThreadPoolExecutor(6) as pool:
            found = list(pool.map(lambda _: self.use(approvals, clock), range(18)))

        assert 1 == sum(one is not None for one in found)

    @once
    def test_many_who_answer_one_question_count_once(self, approvals: Approvals, clock: Clock) -> None:
        self.ask(approvals, self.question(clock))

        with ThreadPoolExecutor(6) as pool:
            counted = list(pool.map(lambda number: self.answer(approvals, clock, by=f"p{number}"), range(18)))

        assert 1 == sum(counted)

    @pytest.mark.anyio
    async def test_event_loop_asks_and_answers(self, approvals: Approvals, clock: Clock) -> None:
        await approvals.ask(self.question(clock))
        with anyio.fail_after(10):
            assert await approvals.answer("q1", Verdict.APPROVED, "ann", clock())
        assert await approvals.use("b1", clock()) is not None


class RedemptionsContract:
    @once
    def test_an_id_is_taken_once(self, redemptions: Redemptions, clock: Clock) -> None:
        until = clock() + 60
        assert [drive(redemptions.redeem("a", until, clock())) for _ in range(3)] == [True, False, False]
        assert drive(redemptions.redeem("b", until, clock()))

    @once
    def test_of_many_who_take_an_id_at_once_one_has_it(self, redemptions: Redemptions, clock: Clock) -> None:
        until, now = clock() + 60, clock()
        with ThreadPoolExecutor(8) as pool:
            taken = list(pool.map(lambda _: drive(redemptions.redeem("a", until, now)), range(24)))
        assert taken.count(True) == 1

    def test_what_is_remembered_ends(self, redemptions: Redemptions, clock: Clock) -> None:
        assert drive(redemptions.redeem("a", clock() + 0.5, clock()))
        clock.advance(1)
        assert drive(redemptions.redeem("b", clock() + 60, clock()))
        assert drive(redemptions.redeem("a", clock() + 60, clock()))


class ParkedTasksContract:
    @staticmethod
    def park(parked_tasks: ParkedTasks, clock: Clock, identifier: str = "t1", state: str = "s", *, ends: float) -> None:
        drive(parked_tasks.park(Parked(id=identifier, state=Secret(state), expires_at=clock() + ends)))

    @staticmethod
    def take(parked_tasks: ParkedTasks, clock: Clock, identifier: str = "t1") -> str | None:
        found = drive(parked_tasks.take(identifier, clock()))
        return found.state.reveal() if found is not None else None

    @staticmethod
    def lapsed(parked_tasks: ParkedTasks, clock: Clock) -> list[str]:
        return [parked.id for parked in drive(parked_tasks.lapsed(clock()))]

    def test_it_is_a_port_that_can_be_driven(self, parked_tasks: ParkedTasks) -> None:
        assert isinstance(parked_tasks, ParkedTasks)
        assert not parked_tasks.suspends

    def test_task_comes_back_as_it_was_parked(self, parked_tasks: ParkedTasks, clock: Clock) -> None:
        kept = Parked(id="it's 1", state=Secret('{"chain": "user:änn"}\0'), expires_at=clock() + 600.1)
        drive(parked_tasks.park(kept))

        found = drive(parked_tasks.take("it's 1", clock()))

        assert found is not None
        assert (kept.id, kept.expires_at) == (found.id, found.expires_at)
        assert kept.state.reveal() == found.state.reveal()
        assert "chain" not in repr(found)

    @taken_once
    def test_task_is_taken_once(self, parked_tasks: ParkedTasks, clock: Clock) -> None:
        self.park(parked_tasks, clock, ends=600)

        assert ["s", None] == [self.take(parked_tasks, clock) for _ in range(2)]
        assert self.take(parked_tasks, clock, "never parked") is None

    @taken_once
    def test_of_many_who_take_a_task_at_once_one_has_it(self, parked_tasks: ParkedTasks, clock: Clock) -> None:
        self.park(parked_tasks, clock, ends=600)

        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda _: self.take(parked_tasks, clock), range(24)))

        assert 1 == found.count("s")

    @taken_once
    def test_task_that_has_expired_is_not_taken_and_lapses_once(self, parked_tasks: ParkedTasks, clock: Clock) -> None:
        self.park(parked_tasks, clock, ends=0.5)
        self.park(parked_tasks, clock, "in date", ends=600)
        clock.advance(0.5)

        assert self.take(parked_tasks, clock) is None
        assert ["t1"] == self.lapsed(parked_tasks, clock)
        assert [] == self.lapsed(parked_tasks, clock)

    def test_task_is_found_as_often_as_it_is_looked_for_until_it_is_taken(
        self, parked_tasks: ParkedTasks, clock: Clock
    ) -> None:
        self.park(parked_tasks, clock, ends=600)
        found = [drive(parked_tasks.find("t1", clock())) for _ in range(2)]
        assert [parked.state.reveal() for parked in found if parked is not None] == ["s", "s"]
        assert drive(parked_tasks.find("other", clock())) is None
        assert drive(parked_tasks.find("t1", float("nan"))) is None
        self.take(parked_tasks, clock)
        assert drive(parked_tasks.find("t1", clock())) is None

    def test_task_is_not_taken_at_a_time_that_is_no_number(self, parked_tasks: ParkedTasks, clock: Clock) -> None:
        self.park(parked_tasks, clock, ends=600)

        assert drive(parked_tasks.take("t1", float("nan"))) is None
        assert [] == list(drive(parked_tasks.lapsed(float("nan"))))
        assert "s" == self.take(parked_tasks, clock)

    def test_task_that_was_taken_does_not_lapse(self, parked_tasks: ParkedTasks, clock: Clock) -> None:
        for identifier in ("taken", "left"):
            self.park(parked_tasks, clock, identifier, ends=3)
        assert "s" == self.take(parked_tasks, clock, "taken")
        clock.advance(3)

        assert ["left"] == self.lapsed(parked_tasks, clock)

    def test_lapsed_tasks_come_a_hundred_at_a_time_the_first_to_end_first(
        self, parked_tasks: ParkedTasks, clock: Clock
    ) -> None:
        for number in range(130):
            self.park(parked_tasks, clock, f"t{number}", ends=-500 - number)
        self.park(parked_tasks, clock, "in date", ends=600)

        found = [self.lapsed(parked_tasks, clock) for _ in range(3)]

        assert [100, 30, 0] == [len(one) for one in found]
        assert [f"t{number}" for number in range(129, -1, -1)] == [name for one in found for name in one]
        assert "s" == self.take(parked_tasks, clock, "in date")

    @taken_once
    def test_task_lapses_once_for_all_who_ask_at_once(self, parked_tasks: ParkedTasks, clock: Clock) -> None:
        names = sorted(f"t{number}" for number in range(20))
        for name in names:
            self.park(parked_tasks, clock, name, ends=-1)

        with ThreadPoolExecutor(6) as pool:
            found = list(pool.map(lambda _: self.lapsed(parked_tasks, clock), range(6)))

        assert names == sorted(name for one in found for name in one)

    def test_parking_again_puts_the_newer_state_in_its_place(self, parked_tasks: ParkedTasks, clock: Clock) -> None:
        self.park(parked_tasks, clock, state="old", ends=-1)
        self.park(parked_tasks, clock, state="new", ends=600)

        assert [] == self.lapsed(parked_tasks, clock)
        assert ["new", None] == [self.take(parked_tasks, clock) for _ in range(2)]

        self.park(parked_tasks, clock, state="later", ends=600)
        assert "later" == self.take(parked_tasks, clock)

    def test_longest_state_is_kept_and_a_longer_one_refused(self, parked_tasks: ParkedTasks, clock: Clock) -> None:
        longest = "é" * (2 << 20)
        self.park(parked_tasks, clock, state=longest, ends=600)

        with pytest.raises(Unavailable, match="too long to be parked"):
            self.park(parked_tasks, clock, "t2", state=longest + "x", ends=600)

        assert self.take(parked_tasks, clock) == longest
        assert self.take(parked_tasks, clock, "t2") is None

    def test_task_without_end_and_state_that_is_no_text_are_refused(
        self, parked_tasks: ParkedTasks, clock: Clock
    ) -> None:
        with pytest.raises(Unavailable, match="no number"):
            self.park(parked_tasks, clock, ends=float("inf"))
        with pytest.raises(Unavailable, match="surrogate") as raised:
            self.park(parked_tasks, clock, state="private\ud800", ends=600)

        assert raised.value.__context__ is None
        assert "private" not in repr([frame.frame.f_locals for frame in raised.traceback[2:]])

    @pytest.mark.anyio
    async def test_event_loop_parks_and_takes(self, parked_tasks: ParkedTasks, clock: Clock) -> None:
        await parked_tasks.park(Parked(id="t1", state=Secret("s"), expires_at=clock() + 600))
        with anyio.fail_after(10):
            assert [] == list(await parked_tasks.lapsed(clock()))
            assert await parked_tasks.take("t1", clock()) is not None
