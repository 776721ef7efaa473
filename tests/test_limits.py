"""Order, names, limits and ends in the running guard; and that parallel calls never overspend."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from agentguard import ConfigurationError, Denied, Guard, Intent, any_, guarded, step
from agentguard._drive import drive
from agentguard.audit.memory import MemoryLog
from agentguard.intent import bind, from_, said
from agentguard.ports import (
    Answer,
    Approval,
    ApprovalRequest,
    Candidate,
    Charge,
    Exhausted,
    Reservation,
    Settlement,
)  # fmt: skip
from agentguard.state.budgets_memory import MemoryBudgets
from agentguard.state.suspensions_memory import MemorySuspensions
from agentguard.testing.fakes import FailingAudit, fake_guard
from tests.state.far import FarBudgets
from tests.tools import ran, refund


@guarded("send")
def send(to: str) -> str:
    """Send something."""
    return to


@guarded("asend")
async def asend(to: str) -> str:
    """Send something, asynchronously."""
    await anyio.lowlevel.checkpoint()
    return to


@guarded("break")
def broken(to: str) -> str:
    """Raise."""
    raise ValueError(to)


class Answering:
    suspends = False

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.asked: list[ApprovalRequest] = []

    async def ask(self, request: ApprovalRequest) -> Approval:
        self.asked.append(request)
        return Approval(self.answer, "carol")


@pytest.fixture
def guard() -> Iterator[Guard]:
    ran.clear()
    with fake_guard() as made:
        yield made


def reason(call: Callable[[], Any]) -> str:
    """The reason of a denial, or nothing."""
    try:
        call()
    except Denied as error:
        return str(error.reason)
    except ValueError:
        return ""
    return ""


def opened(guard: Guard, *steps: Any, **more: Any) -> Any:
    return guard.task("bot", on_behalf_of="alice", intent=Intent("p", *steps, **more))


ANYWHERE = step("send", to=any_).times(100)


# --- after ------------------------------------------------------------------------------------------------------------


def test_step_waits_for_the_step_it_comes_after(guard: Guard) -> None:
    later = step("send", to=any_).times(5).after("first")
    with opened(guard, step("refund", account="acme", amount=any_).named("first"), later):
        assert reason(lambda: send("x")) == "argument_violation"
        refund("acme", Decimal(1))
        assert reason(lambda: send("x")) == ""


def test_step_that_was_given_back_has_not_happened() -> None:
    audit = FailingAudit(MemoryLog(), after=1)
    later = step("send", to=any_).times(5).after("first")
    first = step("refund", account="acme", amount=any_).named("first")
    with fake_guard(audit=audit) as guard, opened(guard, first, later):
        assert reason(lambda: refund("acme", Decimal(1))) == "audit_unavailable"
        audit.after = 100
        assert reason(lambda: send("x")) == "argument_violation"
        refund("acme", Decimal(1))
        assert reason(lambda: send("x")) == ""


@pytest.mark.control("3 a step that waits for a person has not happened")
@pytest.mark.parametrize("waits", [False, True])
def test_step_has_not_happened_while_a_person_is_asked_about_it(waits: bool) -> None:
    first = step("refund", account="acme", amount=any_).named("first").then_ask()
    later = step("send", to=any_).times(5).after("first")
    approver = Answering(Answer.PENDING)
    with fake_guard(approver=approver) as guard:
        guard.reserving_waits = waits  # as it is for a store that a cancellation could leave with what it took
        with opened(guard, first, later):
            assert reason(lambda: refund("acme", Decimal(1))) == "approval_required"
            assert reason(lambda: send("x")) == "argument_violation"
        approver.answer = Answer.APPROVED
        with opened(guard, first, later):
            refund("acme", Decimal(1))
            assert reason(lambda: send("x")) == ""


def test_what_happened_below_has_happened_above(guard: Guard) -> None:
    first = step("refund", account="acme", amount=any_).named("first")
    later = step("send", to=any_).times(5).after("first")
    with opened(guard, first, later) as task:
        with task.delegate("second", steps=[first.named("own")]):
            refund("acme", Decimal(1))
        assert reason(lambda: send("x")) == ""


# --- bind -------------------------------------------------------------------------------------------------------------


def test_first_consumed_value_sets_the_name_for_every_step(guard: Guard) -> None:
    steps = step("refund", account=bind("who"), amount=any_).times(9), step("send", to=bind("who")).times(9)
    with opened(guard, *steps):
        refund("acme", Decimal(1))
        assert reason(lambda: send("evil")) == "argument_violation"
        assert reason(lambda: refund("evil", Decimal(1))) == "argument_violation"
        assert reason(lambda: send("acme")) == ""


def test_bind_in_everywhere_counts_in_every_call(guard: Guard) -> None:
    with opened(guard, ANYWHERE, step("refund", account="acme", amount=any_), everywhere={"to": bind("who")}):
        refund("acme", Decimal(1))
        send("x")
        assert reason(lambda: send("y")) == "argument_violation"


def test_name_is_free_again_when_its_step_was_given_back() -> None:
    audit = FailingAudit(MemoryLog(), after=1)
    with fake_guard(audit=audit) as guard, opened(guard, step("send", to=bind("who")).times(9)):
        assert reason(lambda: send("first")) == "audit_unavailable"
        audit.after = 100
        assert reason(lambda: send("second")) == ""
        assert reason(lambda: send("first")) == "argument_violation"


def test_name_stays_set_while_any_call_holds_it() -> None:
    audit = FailingAudit(MemoryLog(), after=100)
    with fake_guard(audit=audit) as guard, opened(guard, step("send", to=bind("who")).times(9)):
        send("a")
        audit.after = 0
        assert reason(lambda: send("a")) == "audit_unavailable"
        audit.after = 100
        assert reason(lambda: send("b")) == "argument_violation"


def test_child_binds_the_name_of_its_parent(guard: Guard) -> None:
    with opened(guard, step("send", to=bind("who")).times(9)) as task:
        with task.delegate("second", steps=[ANYWHERE]):
            send("a")
            assert reason(lambda: send("b")) == "argument_violation"
        assert reason(lambda: send("b")) == "argument_violation"


# --- said -------------------------------------------------------------------------------------------------------------


def test_only_what_the_subject_said_is_permitted(guard: Guard) -> None:
    with opened(guard, step("send", to=said).times(9)) as task:
        assert reason(lambda: send("Dora")) == "argument_violation"
        task.heard("Please write to Dora.")
        assert reason(lambda: send("Dora")) == ""
        assert reason(lambda: send("Dor")) == "argument_violation"
        with task.delegate("second", steps=[ANYWHERE]):
            assert reason(lambda: send("Dora")) == ""


def test_heard_takes_only_text_that_can_be_compared(guard: Guard) -> None:
    with opened(guard, ANYWHERE) as task:
        for untyped in (b"x", None, 3):
            with pytest.raises(TypeError, match="text"):
                task.heard(untyped)
        for wrong in ("", " ", "\ud800", "x" * (1 << 20) + "y"):
            with pytest.raises(ConfigurationError, match=r"heard|words"):
                task.heard(wrong)
        task.heard("Zoe\u0308")
        assert task.tree.heard == ("Zoë",)


# --- limits -----------------------------------------------------------------------------------------------------------


def test_calls_that_ran_are_limited(guard: Guard) -> None:
    with opened(guard, ANYWHERE, limits={"calls": 2}):
        assert [reason(lambda: send("x")) for _ in range(3)] == ["", "", "budget_exhausted"]


def test_rate_is_limited() -> None:
    now = [0.0]
    with fake_guard(monotonic=lambda: now[0]) as guard, opened(guard, ANYWHERE, limits={"rate": "2/m"}):
        assert [reason(lambda: send("x")) for _ in range(3)] == ["", "", "budget_exhausted"]
        now[0] = 61.0
        assert reason(lambda: send("x")) == ""


def test_task_is_suspended_after_as_many_denials_as_its_intent_lets(guard: Guard) -> None:
    with opened(guard, step("send", to="a").times(100), limits={"denials": 2}):
        assert reason(lambda: send("a")) == ""
        assert reason(lambda: send("b")) == "argument_violation"
        assert reason(lambda: send("a")) == ""
        assert reason(lambda: send("c")) == "argument_violation"
        assert [reason(lambda: send("a")) for _ in range(3)] == ["suspended"] * 3
        assert reason(lambda: refund("x", Decimal(1))) == "suspended"


def test_denials_below_count_above_and_stop_the_whole_branch(guard: Guard) -> None:
    with opened(guard, ANYWHERE, limits={"denials": 2}) as task:
        with task.delegate("second", steps=[step("send", to="a").times(9)]):
            assert reason(lambda: send("b")) == "argument_violation"
            assert reason(lambda: send("c")) == "argument_violation"
            assert reason(lambda: send("a")) == "suspended"
        assert reason(lambda: send("a")) == "suspended"


def test_suspended_task_can_be_lifted_by_a_person(guard: Guard) -> None:
    with opened(guard, step("send", to="a").times(9), limits={"denials": 1}) as task:
        assert reason(lambda: send("b")) == "argument_violation"
        assert reason(lambda: send("a")) == "suspended"
        guard.lift(f"task:{task.id}")
        assert reason(lambda: send("a")) == ""


@pytest.mark.parametrize("also", [False, True])
def test_stop_of_a_person_outlasts_the_one_that_a_task_set_itself(guard: Guard, also: bool) -> None:
    with opened(guard, step("send", to="a").times(9), limits={"denials": 1}) as task:
        assert reason(lambda: send("b")) == "argument_violation"
        if also:
            guard.suspend(task=task.id, why="looked at")
    assert [stop.why for stop in drive(guard.suspensions.standing())] == (["looked at"] if also else [])


def test_questions_are_limited_whatever_the_answers_are() -> None:
    approver = Answering(Answer.REJECTED)
    intent = step("send", to=any_).times(9).then_ask()
    with fake_guard(approver=approver) as guard, opened(guard, intent, limits={"asks": 2}):
        assert [reason(lambda: send("x")) for _ in range(2)] == ["approval_rejected"] * 2
        approver.answer = Answer.APPROVED
        assert reason(lambda: send("x")) == "budget_exhausted"
    assert len(approver.asked) == 2


def test_parked_task_keeps_what_it_has_used_up(guard: Guard) -> None:
    class GraphInterrupt(Exception):
        pass

    task = opened(guard, step("send", to=bind("who")).times(2))
    with pytest.raises(GraphInterrupt), task:
        send("a")
        raise GraphInterrupt
    with task:
        assert reason(lambda: send("b")) == "argument_violation"
        assert reason(lambda: send("a")) == ""
        assert reason(lambda: send("a")) == "budget_exhausted"


def test_nothing_of_a_task_is_left_when_it_ended(guard: Guard) -> None:
    first = step("refund", account="acme", amount=any_).named("first")
    with opened(guard, first, ANYWHERE.after("first"), limits={"denials": 1}) as task:
        refund("acme", Decimal(1))
        with task.delegate("second", steps=[step("send", to=bind("who")).times(9)]):
            send("a")
            reason(lambda: send("b"))
    with task.activate():
        assert reason(lambda: send("c")) == "task_ended"
    assert guard.budgets._scopes == {}  # type: ignore[attr-defined]  # in memory
    assert guard.suspensions._stopped == {}  # type: ignore[attr-defined]  # in memory


# --- end_task ---------------------------------------------------------------------------------------------------------


def test_task_ends_once_the_outcome_is_recorded() -> None:
    audit = MemoryLog()
    with fake_guard(audit=audit) as guard, opened(guard, step("send", to=any_).then_end_task(), ANYWHERE):
        assert send("a") == "a"
        assert reason(lambda: send("a")) == "task_ended"
    events = [record["event"] for record in audit.records]
    assert events.index("call.completed") < events.index("task.ended")
    assert events.count("task.ended") == 1


def test_level_whose_step_ends_its_task_ends_with_all_below(guard: Guard) -> None:
    with opened(guard, step("send", to=any_).then_end_task(), step("refund", account="acme", amount=any_)) as task:
        with task.delegate("second", steps=[ANYWHERE]) as child:
            send("a")
            assert (str(task.state), str(child.state)) == ("ended", "ended")
        assert reason(lambda: refund("acme", Decimal(1))) == "task_ended"


def test_task_goes_on_while_the_very_same_call_may_run_again(guard: Guard) -> None:
    with opened(guard, step("break", to=any_).attempts(2).then_end_task()) as task:
        assert reason(lambda: broken("a")) == ""
        assert str(task.state) == "open"
        assert reason(lambda: broken("a")) == ""
        assert str(task.state) == "ended"


def test_task_ends_by_a_call_that_succeeds_whatever_attempts_are_left(guard: Guard) -> None:
    with opened(guard, step("send", to=any_).attempts(3).then_end_task()) as task:
        assert send("a") == "a"
        assert str(task.state) == "ended"


def test_task_goes_on_where_the_call_that_would_end_it_was_stopped_before_it_ran() -> None:
    class Stopped(MemorySuspensions):
        async def start(self, call: str, keys: Sequence[str], *, reads: bool = False) -> str:
            raise asyncio.CancelledError

    with fake_guard(suspensions=Stopped()) as guard, opened(guard, step("send", to=any_).then_end_task()) as task:
        with pytest.raises(asyncio.CancelledError):
            send("a")
        assert str(task.state) == "open"


# --- the counters -----------------------------------------------------------------------------------------------------


def taken(budgets: MemoryBudgets, *charges: Charge) -> Reservation | Exhausted:
    return drive(budgets.reserve([[Candidate("s", charges)]], 0.0))


def test_counter_holds_one_value_at_a_time_until_all_gave_it_back() -> None:
    budgets = MemoryBudgets()
    one, two = Charge("t/n", "0", "0", value="one"), Charge("t/n", "0", "0", value="two")
    held = [taken(budgets, one), taken(budgets, one)]
    assert isinstance(taken(budgets, two), Exhausted)
    assert drive(budgets.standing(["t/n", "t/other"])) == ["one", ""]
    for reservation in held:
        assert isinstance(reservation, Reservation)
        assert isinstance(taken(budgets, two), Exhausted)
        drive(budgets.settle(reservation, Settlement.NOT_RUN))
    assert isinstance(taken(budgets, two), Reservation)


def test_charge_waits_for_what_its_counter_must_have_reached() -> None:
    budgets = MemoryBudgets()
    waits = Charge("t/done", "Infinity", "0", least="1")
    assert isinstance(taken(budgets, waits), Exhausted)
    happened = taken(budgets, Charge("t/done", "Infinity"))
    assert isinstance(happened, Reservation)
    assert drive(budgets.standing(["t/done"])) == ["1"]
    assert isinstance(taken(budgets, waits), Reservation)
    drive(budgets.settle(happened, Settlement.NOT_RUN))
    assert drive(budgets.standing(["t/done"])) == [""]
    assert isinstance(taken(budgets, waits), Exhausted)


@pytest.mark.control("3 order and names are settled in the same step as the budgets")
@pytest.mark.parametrize("what", ["after", "bind"])
def test_what_changed_between_the_check_and_the_reservation_denies(what: str) -> None:
    class Stale(MemoryBudgets):
        """Tells what was so a moment ago."""

        async def standing(self, keys: Sequence[str]) -> Sequence[str]:
            return ["1" if "done." in key else "" for key in keys]

    later = step("send", to=bind("who")).times(9)
    first = step("refund", account="acme", amount=any_).named("first")
    with fake_guard(budgets=Stale()) as guard:
        with opened(guard, first, later.after("first") if what == "after" else later):
            assert reason(lambda: send("a")) == ("argument_violation" if what == "after" else "")
            assert reason(lambda: send("b")) == "argument_violation"


# --- parallel calls ---------------------------------------------------------------------------------------------------


def in_threads(task: Any, work: Callable[[int], None], count: int = 24) -> None:
    barrier = threading.Barrier(count)

    def run(number: int) -> None:
        barrier.wait()
        work(number)

    threads = [threading.Thread(target=task.bind(run), args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_threads_bind_one_value_and_never_two(guard: Guard) -> None:
    outcomes: list[tuple[str, str]] = []
    with opened(guard, step("send", to=bind("who")).times(100)) as task:
        in_threads(task, lambda n: outcomes.append((f"v{n % 4}", reason(lambda: send(f"v{n % 4}")))))
    permitted = {value for value, why in outcomes if not why}
    assert len(permitted) == 1
    # No legitimate call was denied because another one was half way.
    assert all(not why for value, why in outcomes if value in permitted)
    assert {why for _, why in outcomes if why} == {"argument_violation"}


def test_threads_never_overspend_and_none_is_denied_too_early(guard: Guard) -> None:
    outcomes: list[str] = []
    first = step("refund", account="acme", amount=any_).named("first")
    with opened(guard, first, step("send", to=any_).times(10).after("first"), limits={"calls": 9}) as task:
        refund("acme", Decimal(1))
        in_threads(task, lambda n: outcomes.append(reason(lambda: send("x"))))
    assert Counter(outcomes) == {"": 8, "budget_exhausted": 16}


def test_threads_are_suspended_together(guard: Guard) -> None:
    outcomes: list[str] = []
    with opened(guard, step("send", to="a").times(999), limits={"denials": 3}) as task:
        in_threads(task, lambda n: outcomes.append(reason(lambda: send("b"))))
        assert reason(lambda: send("a")) == "suspended"
    assert set(outcomes) <= {"argument_violation", "suspended"}
    assert outcomes.count("argument_violation") >= 3


@pytest.mark.anyio
async def test_tasks_of_an_event_loop_bind_one_value_and_never_overspend() -> None:
    outcomes: list[tuple[str, str]] = []

    async def work(number: int) -> None:
        value = f"v{number % 3}"
        try:
            await asend(value)
            outcomes.append((value, ""))
        except Denied as error:
            outcomes.append((value, str(error.reason)))

    with fake_guard() as guard:
        async with opened(guard, step("asend", to=bind("who")).times(5)), anyio.create_task_group() as group:
            for number in range(21):
                group.start_soon(work, number)
    permitted = {value for value, why in outcomes if not why}
    assert len(permitted) == 1
    assert Counter(why for value, why in outcomes if value in permitted) == {"": 5, "budget_exhausted": 2}


@pytest.mark.control("3 what a call that never ran has reserved is given back")
def test_what_a_store_takes_for_a_call_that_is_cancelled_meanwhile_is_given_back() -> None:
    async def work() -> str:
        budgets = FarBudgets()
        with fake_guard(budgets=budgets) as guard:
            async with opened(guard, step("asend", to=any_).times(1)):
                await budgets.cancelled(asend("ann"))
                return await asend("bo")

    assert asyncio.run(work()) == "bo"


class AtTheGate(FarBudgets):
    """Answers at once, but for what says that a step has happened."""

    async def reserve(self, levels: Sequence[Sequence[Candidate]], now: float) -> Reservation | Exhausted:
        if levels[0][0].step == "after":
            return await super().reserve(levels, now)
        return await MemoryBudgets.reserve(self, levels, now)


@pytest.mark.control("3 what a call that never ran has reserved is given back")
def test_step_whose_call_is_cancelled_while_it_is_said_to_have_happened_has_not() -> None:
    async def work() -> str:
        budgets = AtTheGate()
        first, later = step("asend", to="ann").named("first"), step("asend", to="bo").after("first")
        with fake_guard(budgets=budgets) as guard:
            async with opened(guard, first, later):
                await budgets.cancelled(asend("ann"))
                with pytest.raises(Denied):
                    await asend("bo")
                return await asend("ann") + await asend("bo")

    assert asyncio.run(work()) == "annbo"


@pytest.mark.control("3 every level is reserved, or none")
def test_call_whose_step_the_store_does_not_say_to_have_happened_does_not_run() -> None:
    class Full(MemoryBudgets):
        async def reserve(self, levels: Sequence[Sequence[Candidate]], now: float) -> Reservation | Exhausted:
            if levels[0][0].step == "after":
                return Exhausted(0, "after", Charge("a/b", "0"))
            return await super().reserve(levels, now)

    ran.clear()
    first = step("refund", account="acme", amount=any_).named("first")
    with fake_guard(budgets=Full()) as guard, opened(guard, first, ANYWHERE.after("first")):
        assert reason(lambda: refund("acme", Decimal(1))) == "budget_exhausted"
    assert ran == []


def test_threads_use_one_result_without_losing_it(guard: Guard) -> None:
    outcomes: list[str] = []
    sent = from_(step="first", field="$")
    steps = step("refund", account="acme", amount=any_).named("first"), step("send", to=sent).times(10)
    with opened(guard, *steps) as task:
        value = refund("acme", Decimal(1))
        in_threads(task, lambda n: outcomes.append(reason(lambda: send(value))))
    assert Counter(outcomes) == {"": 10, "budget_exhausted": 14}
