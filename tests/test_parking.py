"""Tasks that wait, under attack: gone on with once, with all they knew, and never after their end."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from typing import Any

import anyio
import pytest

from agentguard import ApprovalRequired, Denied, Guard, Intent, any_, current_credential, from_, guarded, step
from agentguard.audit.memory import MemoryLog
from agentguard.errors import ConfigurationError, Unavailable
from agentguard.model.decision import Reason
from agentguard.model.principal import Identity, Proof
from agentguard.model.record import Event
from agentguard.parked_state import read_state
from agentguard.ports import Parked, Verdict
from agentguard.registry import OpenRegistry
from agentguard.state.budgets_memory import MemoryBudgets
from agentguard.state.parked_memory import MemoryParkedTasks
from agentguard.task_state import TaskState
from agentguard.testing import FailingAudit
from tests.test_approvals import ASKS, Durable, Later, Processes, asked, close, find, now, refund
from tests.test_approvals import ran as refunds

read: list[str] = []
during: list[Callable[[], None]] = []
CALLS = "agent:bot/calls"


@guarded("parked.mail", effect="read", data={"pii"})
def mail(box: str) -> dict[str, str]:
    read.append(box)
    return {"account": f"acct-{box}"}


@guarded("parked.post", effect="write", tags={"egress"})
def post(text: str) -> str:
    read.append(text)
    return "posted"


@guarded("parked.last", effect="write")
def last(word: str) -> str:
    while during:
        during.pop(0)()
    return word


@guarded("parked.slow", effect="read")
def slow(name: str) -> dict[str, str]:
    while during:
        during.pop(0)()
    return {"account": name}


@guarded("parked.token", effect="read", audience="https://bank.test")
def token(name: str) -> dict[str, str]:
    return {"account": name, "token": current_credential().token}


@pytest.fixture
def shared() -> Processes:
    refunds.clear()
    read.clear()
    during.clear()
    return Processes()


class Registered(OpenRegistry):
    """A registry that limits the agent's calls, so that what is reserved outlives a task's own counters."""

    def get(self, name: str) -> Any:
        found: Any = super().get(name)
        return replace(found, calls=(100, 3600.0))


class Counting(MemoryBudgets):
    """Notes what is settled, and how often."""

    def __init__(self) -> None:
        super().__init__()
        self.settled: list[str] = []

    async def settle(self, reservation: Any, settlement: Any) -> None:
        self.settled.append(reservation.id)
        await super().settle(reservation, settlement)


def spent(budgets: MemoryBudgets) -> str:
    return now(budgets.standing([CALLS]))[0]


def waited(event: threading.Event) -> None:
    assert event.wait(5)


def park(guard: Guard, intent: Intent) -> str:
    with guard.task("bot", on_behalf_of="alice", intent=intent) as task:
        task.park()
    return task.id


SEES = Intent(
    "Read, or post",
    step("parked.mail", box=any_).times(9),
    step("parked.post", text=any_).times(9),
    step("approved.refund", account=any_, amount=any_).times(9).then_ask(),
    forbid=[{"tags": ["egress"], "seen": ["pii"]}],
)


# --- what others did to the task meanwhile counts ---------------------------------------------------------------------


@pytest.mark.control("8 a stale copy knows what others learnt")
def test_process_that_parked_a_task_goes_on_with_what_it_saw_elsewhere_since(shared: Processes) -> None:
    with shared.guard() as first, shared.guard() as second:
        with first.task("bot", on_behalf_of="alice", intent=SEES) as stale:
            stale.park()
        with second.resume(stale.id, on_behalf_of="alice") as task:
            mail("ann")
            task.heard("and then post it")
            task.park()
        with stale, pytest.raises(Denied):
            post("what ann wrote")
    assert (read, sorted(stale.tree.seen), stale.tree.heard) == (["ann"], ["pii"], ("and then post it",))


def test_process_that_parked_a_task_does_not_give_back_what_others_settled_since(shared: Processes) -> None:
    shared.budgets = Counting()
    with shared.guard(registry=Registered()) as first, shared.guard(registry=Registered()) as second:
        stale = first.task("bot", on_behalf_of="alice", intent=ASKS)
        with pytest.raises(ApprovalRequired) as waits, stale:
            refund("acme", Decimal(40))
        shared.answer(waits.value.question)
        with second.resume(stale.id, on_behalf_of="alice") as task:
            refund("acme", Decimal(40))
            task.park()
        with pytest.raises(ApprovalRequired), stale:
            refund("acme", Decimal(40))
    assert (len(refunds), spent(shared.budgets)) == (1, "2")
    assert len(shared.budgets.settled) == len(set(shared.budgets.settled))


def test_process_that_parked_a_task_proves_by_what_was_read_elsewhere_since(shared: Processes) -> None:
    intent = Intent(
        "Close",
        step("approved.find", name=any_).times(9),
        step("approved.close", account=from_(tool="approved.find", field="account")),
    )
    with shared.guard() as first, shared.guard() as second:
        with first.task("bot", on_behalf_of="alice", intent=intent) as stale:
            find("ann")
            stale.park()
        with second.resume(stale.id, on_behalf_of="alice") as task:
            find("bob")
            task.park()
        with stale:
            close("acct-bob")
    assert refunds == [("acct-bob", Decimal(0))]


# --- once -------------------------------------------------------------------------------------------------------------


class Hidden(Durable):
    """Keeps a task and then says that it did not, as a server whose answer is lost."""

    def __init__(self) -> None:
        super().__init__()
        self.lost, self.away = True, False

    async def park(self, parked: Parked) -> None:
        await super().park(parked)
        if self.lost:
            self.away = True
            raise Unavailable("no answer")

    async def take(self, id: str, at: float) -> Parked | None:
        if self.away:
            raise Unavailable("no answer")
        return await super().take(id, at)


@pytest.mark.control("8 a store that gave no answer may have it")
def test_task_that_the_store_may_have_is_gone_on_with_once(shared: Processes, caplog: pytest.LogCaptureFixture) -> None:
    store = Hidden()
    with shared.guard(parked=store) as first, shared.guard(parked=store) as second:
        task = first.task("bot", on_behalf_of="alice", intent=ASKS)
        with pytest.raises(ApprovalRequired) as waits, task:
            refund("acme", Decimal(40))
        store.away = False
        shared.answer(waits.value.question)
        with second.resume(task.id, on_behalf_of="alice"):
            refund("acme", Decimal(40))
        with pytest.raises(Denied) as denied, task:
            refund("acme", Decimal(40))
    assert (len(refunds), denied.value.reason) == (1, Reason.TASK_ENDED)
    assert "may be parked, or not" in caplog.text


def test_task_that_was_kept_although_the_store_said_no_is_taken_back(shared: Processes) -> None:
    class Liar(Durable):
        async def park(self, parked: Parked) -> None:
            await super().park(parked)
            raise Unavailable("no answer")

    with shared.guard(parked=Liar()) as guard:
        task = guard.task("bot", on_behalf_of="alice", intent=ASKS)
        with pytest.raises(ApprovalRequired) as waits, task:
            refund("acme", Decimal(40))
        shared.answer(waits.value.question)
        with pytest.raises(Denied):
            guard.resume(task.id, on_behalf_of="alice")
        with task:
            refund("acme", Decimal(40))
    assert len(refunds) == 1


@pytest.mark.control("8 a resumed task is opened once")
def test_resumed_task_that_two_threads_open_is_open_once_and_knows_all(shared: Processes) -> None:
    class Log(MemoryLog):
        def append(self, record: Any) -> Any:
            if record.event is Event.TASK_RESUMED and opened:
                opened.pop()()  # somebody else opens the same object, which was taken a moment ago
            return super().append(record)

    opened: list[Callable[[], None]] = []
    refused: list[str] = []
    with shared.guard(audit=Log()) as guard:
        with guard.task("bot", on_behalf_of="alice", intent=SEES) as before:
            mail("ann")
            before.park()
        task = guard.resume(before.id, on_behalf_of="alice")

        def other() -> None:
            try:
                with task:
                    post("what ann wrote")
            except (Denied, ConfigurationError) as error:
                refused.append(type(error).__name__)

        def in_thread() -> None:
            thread = threading.Thread(target=other)
            thread.start()
            thread.join()

        opened.append(in_thread)
        with task:
            assert task.tree.seen == {"pii"}
    assert (refused, read) == (["Denied"], ["ann"])


@pytest.mark.control("8 a resumed task is opened once")
def test_task_that_two_threads_enter_again_is_open_once_and_knows_what_others_learnt(shared: Processes) -> None:
    class Log(MemoryLog):
        def append(self, record: Any) -> Any:
            if record.event is Event.TASK_RESUMED and entered:
                thread = threading.Thread(target=entered.pop())
                thread.start()
                thread.join()
            return super().append(record)

    refused: list[str] = []
    with shared.guard(audit=Log()) as first, shared.guard() as second:
        stale = first.task("bot", on_behalf_of="alice", intent=SEES)

        def other() -> None:
            try:
                with stale:
                    post("what ann wrote")
            except Denied as error:
                refused.append(error.decision.reason)

        entered: list[Callable[[], None]] = []
        with stale:
            stale.park()
        with second.resume(stale.id, on_behalf_of="alice") as task:
            mail("ann")
            task.park()
        entered.append(other)
        with stale:
            assert stale.tree.seen == {"pii"}
    assert (refused, read) == ([Reason.TASK_ENDED], ["ann"])


def test_task_whose_resumption_cannot_be_recorded_waits_on(shared: Processes) -> None:
    with shared.guard() as first:
        question, task = asked(first)
    shared.answer(question)
    disk = FailingAudit(MemoryLog())
    with shared.guard(audit=disk) as second:
        with pytest.raises(Denied) as denied, second.resume(task, on_behalf_of="alice"):
            pass
        assert denied.value.reason == Reason.AUDIT_UNAVAILABLE
        disk.after = 100
        with second.resume(task, on_behalf_of="alice"):
            refund("acme", Decimal(40))
    assert len(refunds) == 1


# --- nothing is revived after its end ---------------------------------------------------------------------------------

ENDS = Intent(
    "Last words",
    step("parked.last", word=any_).times(9).then_end_task(),
    step("approved.refund", account=any_, amount=any_).times(1).then_ask(),
)


def left_while_a_call_runs(guard: Guard, intent: Intent, call: Callable[[], object]) -> str:
    """Park a task whose call runs in another thread until it has been parked."""
    go, started = threading.Event(), threading.Event()
    during.extend([started.set, lambda: waited(go)])
    with guard.task("bot", on_behalf_of="alice", intent=intent) as task:
        thread = threading.Thread(target=task.bind(call))
        thread.start()
        assert started.wait(5)
        task.park()
    go.set()
    thread.join(5)
    return task.id


@pytest.mark.control("8 a parked task that ends is gone")
def test_task_that_is_ended_by_a_call_that_outlasts_its_parking_is_not_revived(shared: Processes) -> None:
    with shared.guard() as guard:
        task = left_while_a_call_runs(guard, ENDS, lambda: last("bye"))
        with pytest.raises(Denied) as denied:
            guard.resume(task, on_behalf_of="alice")
    assert denied.value.reason == Reason.TASK_ENDED
    assert [record["why"] for record in shared.events(Event.TASK_ENDED)] == ["end_task"]


@pytest.mark.control("8 a task that ends while it is parked ends")
def test_task_that_is_ended_while_it_is_being_parked_ends(shared: Processes) -> None:
    class Slow(Durable):
        async def park(self, parked: Parked) -> None:
            go.set()
            thread.join(0.5)  # the other thread ends the task meanwhile, and waits for us
            await super().park(parked)

    go, started = threading.Event(), threading.Event()
    with shared.guard(parked=Slow()) as guard:
        during.extend([started.set, lambda: waited(go)])
        with guard.task("bot", on_behalf_of="alice", intent=ENDS) as task:
            thread = threading.Thread(target=task.bind(lambda: last("bye")))
            thread.start()
            assert started.wait(5)
            task.park()
        thread.join(10)
        with pytest.raises(Denied):
            guard.resume(task.id, on_behalf_of="alice")
    assert task.state == "ended"


def test_task_that_goes_on_elsewhere_is_stopped_by_the_call_that_ends_it(shared: Processes) -> None:
    with shared.guard() as first, shared.guard(suspensions=first.suspensions) as second:
        go, started = threading.Event(), threading.Event()
        during.extend([started.set, lambda: waited(go)])
        with first.task("bot", on_behalf_of="alice", intent=ENDS) as task:
            thread = threading.Thread(target=task.bind(lambda: last("bye")))
            thread.start()
            assert started.wait(5)
            task.park()
        with second.resume(task.id, on_behalf_of="alice"):
            go.set()
            thread.join(5)
            with pytest.raises(Denied) as denied:
                last("once more")
    assert denied.value.reason == Reason.SUSPENDED


def test_task_in_memory_ends_with_its_guard_and_gives_back_once(shared: Processes) -> None:
    budgets = Counting()
    store = MemoryParkedTasks()
    with shared.guard(parked=store, budgets=budgets, registry=Registered()) as guard:
        _, task = asked(guard)
        assert spent(budgets) == "1"
    assert (spent(budgets), len(budgets.settled)) == ("", 1)
    assert now(store.find(task, shared.clock())) is None
    assert shared.events(Event.TASK_ENDED)[-1]["why"] == "guard closed"


def test_task_in_memory_ends_at_its_time_and_gives_back_once(shared: Processes) -> None:
    budgets = Counting()
    with shared.guard(parked=MemoryParkedTasks(), budgets=budgets, registry=Registered()) as guard:
        _, task = asked(guard)
        shared.clock.advance(10_000)
        for _ in range(21):
            guard.keeper.tick()
        with pytest.raises(Denied):
            guard.resume(task, on_behalf_of="alice")
    assert len(budgets.settled) == 1
    assert len(shared.events(Event.TASK_ENDED)) == 1


@pytest.mark.control("8 what was written down is given back once")
def test_question_that_expires_while_its_task_waits_in_memory_gives_back_once(shared: Processes) -> None:
    budgets = Counting()
    with shared.guard(parked=MemoryParkedTasks(), budgets=budgets, registry=Registered(), ask_for=60) as guard:
        _, task = asked(guard)
        shared.clock.advance(61)
        guard.keeper.tick()
        with guard.resume(task, on_behalf_of="alice"):
            guard.keeper.tick()
    assert (spent(budgets), len(budgets.settled)) == ("", 1)


def test_task_in_memory_whose_time_ends_by_the_steady_clock_first_is_not_revived(shared: Processes) -> None:
    budgets, steady = Counting(), type(shared.clock)()
    with shared.guard(parked=MemoryParkedTasks(), budgets=budgets, monotonic=steady) as guard:
        _, task = asked(guard)
        steady.advance(10_000)  # the wall clock was set back meanwhile
        guard.keeper.tick()
        with pytest.raises(Denied):
            guard.resume(task, on_behalf_of="alice")
    assert len(budgets.settled) == 1


def test_parked_for_once_is_for_once(shared: Processes) -> None:
    with shared.guard() as guard:
        with guard.task("bot", on_behalf_of="alice", intent=ASKS) as task:
            task.park()
        with task:
            pass
    assert task.state == "ended"


# --- who goes on with it ----------------------------------------------------------------------------------------------


class Workload:
    """Proves to be one workload."""

    suspends = False

    def __init__(self, name: str) -> None:
        self.name = name

    async def identify(self, at: float) -> Identity:
        return Identity(self.name, Proof.ATTESTED, at + 60)


@pytest.mark.control("8 the same workload identity")
def test_task_goes_on_under_the_identity_of_its_agent_only(shared: Processes) -> None:
    with shared.guard(authenticator=Workload("spiffe://bank.test/bot")) as first:
        task = park(first, ASKS)
    for other in (Workload("spiffe://bank.test/else"), None):
        with shared.guard(authenticator=other) as second:
            with pytest.raises(Denied) as denied, second.resume(task, on_behalf_of="alice"):
                pass
        assert denied.value.reason == Reason.IDENTITY_UNPROVED
    with shared.guard(authenticator=Workload("spiffe://bank.test/bot")) as third:
        with third.resume(task, on_behalf_of="alice") as resumed:
            assert resumed.chain.actor.identity == "spiffe://bank.test/bot"


@pytest.mark.control("8 the registry of today")
@pytest.mark.parametrize("change", [{"status": "retired"}, {"expires": 1.0}, {"purposes": {"other": None}}])
def test_agent_that_may_no_longer_work_does_not_go_on(shared: Processes, change: dict[str, Any]) -> None:
    class Today(Registered):
        def get(self, name: str) -> Any:
            return replace(super().get(name), **change)

    with shared.guard() as first:
        task = park(first, ASKS)
    with shared.guard(registry=Today()) as second:
        with pytest.raises(Denied) as denied, second.resume(task, on_behalf_of="alice"):
            pass
    assert denied.value.reason in (Reason.SUSPENDED, Reason.EXPIRED, Reason.NOT_ALLOWED)
    with shared.guard() as third, third.resume(task, on_behalf_of="alice"):
        pass


@pytest.mark.control("8 the registry of today")
def test_task_goes_on_for_no_longer_than_its_agent_may_work_today(shared: Processes) -> None:
    class Shorter(Registered):
        def get(self, name: str) -> Any:
            return replace(super().get(name), task_ttl=60.0)

    with shared.guard() as first:
        task = park(first, ASKS)
    with shared.guard(registry=Shorter()) as second, second.resume(task, on_behalf_of="alice") as resumed:
        assert resumed.remaining() <= 60
    assert shared.events(Event.TASK_RESUMED)[0]["ttl"] <= 60


@pytest.mark.control("8 the registry of today")
def test_clock_that_is_set_back_lengthens_no_task_that_waits(shared: Processes) -> None:
    with shared.guard() as first:
        with first.task("bot", on_behalf_of="alice", intent=ASKS) as task:
            most = task.remaining()
            task.park()
        shared.clock.advance(-86_400)
        with first.resume(task.id, on_behalf_of="alice") as resumed:
            assert resumed.remaining() <= most


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_forked_child_does_not_go_on_with_its_parents_object(shared: Processes) -> None:
    with shared.guard() as guard:
        with guard.task("bot", on_behalf_of="alice", intent=ASKS) as task:
            task.park()
        child = os.fork()
        if child == 0:
            os._exit(0 if task.state == "ended" else 1)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        with task:
            assert task.state == "open"


@pytest.mark.anyio
async def test_group_of_pauses_parks_the_task(shared: Processes) -> None:
    with shared.guard() as guard:
        with pytest.raises(BaseExceptionGroup):
            async with guard.task("bot", on_behalf_of="alice", intent=ASKS) as task, anyio.create_task_group() as group:

                async def call() -> None:
                    refund("acme", Decimal(40))

                group.start_soon(call)
        assert task.state == "parked"


# --- what is kept -----------------------------------------------------------------------------------------------------


@pytest.mark.control("8 no credential is kept")
def test_no_credential_and_no_token_stands_in_what_is_kept(shared: Processes) -> None:
    intent = Intent(
        "Read",
        step("parked.token", name=any_),
        step("approved.close", account=from_(tool="parked.token", field="token")),
        step("approved.refund", account=any_, amount=any_).then_ask(),
    )
    with shared.guard() as guard:
        with pytest.raises(ApprovalRequired), guard.task("bot", on_behalf_of="alice", intent=intent) as task:
            assert "canary" not in token("acme")["token"]
            refund("acme", Decimal(40))
        kept = now(shared.parked.find(task.id, shared.clock()))
    assert kept is not None
    text = kept.state.reveal()
    assert "approved.close" in text
    assert "canary" not in text
    assert "canary" not in repr(kept)


@pytest.mark.control("8 what is left out is lost")
def test_task_that_read_too_much_is_parked_without_it_and_proves_nothing_by_it(
    shared: Processes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("agentguard.parking.MAX_BYTES", 2_000)
    unique = from_(tool="approved.find", field="account", unique=True)
    intent = Intent(
        "Close", step("approved.find", name=any_).times(99), step("approved.close", account=unique).times(9)
    )
    with shared.guard() as first:
        with first.task("bot", on_behalf_of="alice", intent=intent) as task:
            for number in range(20):
                find(f"n{number}")
            task.park()
    with shared.guard() as second, second.resume(task.id, on_behalf_of="alice"):
        find("ann")
        with pytest.raises(Denied):
            close("acct-ann")
    assert "without what it has read" in caplog.text


@pytest.mark.control("8 what calls in flight return is lost")
def test_what_a_call_returns_after_its_task_was_parked_is_not_taken_for_nothing(shared: Processes) -> None:
    unique = from_(tool="parked.slow", field="account", unique=True)
    intent = Intent("Close", step("parked.slow", name=any_).times(9), step("approved.close", account=unique).times(9))
    with shared.guard() as first:
        task = left_while_a_call_runs(first, intent, lambda: slow("evil"))
    with shared.guard() as second, second.resume(task, on_behalf_of="alice"):
        slow("acme")
        with pytest.raises(Denied):
            close("acme")
        assert second.keeper.open_tasks()[0].tree.pending == {}
    assert refunds == []


def test_state_that_cannot_be_read_is_refused_and_recorded(shared: Processes) -> None:
    from agentguard.model.lease import Secret

    with shared.guard() as guard:
        task = park(guard, ASKS)
        kept = now(shared.parked.find(task, shared.clock()))
        assert kept is not None
        broken = json.loads(kept.state.reveal()) | {"v": 2}
        now(shared.parked.park(Parked(id=task, state=Secret(json.dumps(broken)), expires_at=kept.expires_at)))
        with pytest.raises(Denied) as denied:
            guard.resume(task, on_behalf_of="alice")
    assert denied.value.reason == Reason.TASK_ENDED
    with pytest.raises(Unavailable):
        read_state("[]")


@pytest.mark.control("8 what another version has read")
@pytest.mark.parametrize("damage", [lambda found: found[1].update(later=1), lambda found: found.pop()])
def test_task_that_read_what_cannot_be_read_here_waits_on_for_whoever_can(
    shared: Processes, damage: Callable[[Any], object]
) -> None:
    from agentguard.model.lease import Secret

    budgets = Counting()
    intent = Intent(
        "Close",
        step("approved.find", name=any_).times(9),
        step("approved.close", account=from_(tool="approved.find", field="account")).times(9).then_ask(),
    )
    with shared.guard(budgets=budgets) as guard:
        task = guard.task("bot", on_behalf_of="alice", intent=intent)
        with pytest.raises(ApprovalRequired), task:
            find("ann")
            close("acct-ann")
        kept = now(shared.parked.find(task.id, shared.clock()))
        assert kept is not None
        state = json.loads(kept.state.reveal())
        damage(state["results"][0]["found"][0])
        other = Parked(id=task.id, state=Secret(json.dumps(state)), expires_at=kept.expires_at)
        now(shared.parked.park(other))
        with pytest.raises(Denied) as denied:
            guard.resume(task.id, on_behalf_of="alice")
        with pytest.raises(Denied), task:
            pass
        assert now(shared.parked.find(task.id, shared.clock())) == other
        before = len(budgets.settled)
        shared.clock.advance(10_000)
        guard.keeper.tick()
    assert (denied.value.reason, len(budgets.settled) - before) == (Reason.TASK_ENDED, 1)


def test_intent_of_what_is_kept_reads_no_file_and_is_what_its_hash_names(shared: Processes) -> None:
    from agentguard.model.lease import Secret

    with shared.guard() as guard:
        task = park(guard, ASKS)
        kept = now(shared.parked.find(task, shared.clock()))
        assert kept is not None
        wider = json.loads(kept.state.reveal())
        wider["intent"] = wider["intent"].replace("50", "5000")
        now(shared.parked.park(Parked(id=task, state=Secret(json.dumps(wider)), expires_at=kept.expires_at)))
        with pytest.raises(Denied) as denied:
            guard.resume(task, on_behalf_of="alice")
    assert denied.value.reason == Reason.NOT_ALLOWED


@pytest.mark.control("8 what is kept reads nothing")
def test_intent_of_what_is_kept_reads_no_environment_for_a_sub_agent_either(shared: Processes) -> None:
    from agentguard.intent import compile_intent
    from agentguard.model.lease import Secret

    reads = """\
version: 1
purpose: Pay
reads: [a]
agents:
  helper: {purpose: Part, sets: {s: {env: HOME}}, steps: [{id: a, tool: t, args: {x: {set: s}}}]}
"""
    with shared.guard() as guard:
        task = park(guard, ASKS)
        kept = now(shared.parked.find(task, shared.clock()))
        assert kept is not None
        forged = json.loads(kept.state.reveal()) | {
            "intent": reads, "intent_s256": compile_intent(Intent.from_yaml(reads)).s256,
        }  # fmt: skip
        now(shared.parked.park(Parked(id=task, state=Secret(json.dumps(forged)), expires_at=kept.expires_at)))
        with pytest.raises(Denied) as denied:
            guard.resume(task, on_behalf_of="alice")
    assert denied.value.reason == Reason.NOT_ALLOWED


def test_task_whose_sub_agents_have_sets_of_their_own_goes_on(
    shared: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARKED_ACCOUNTS", "acme,other")
    sets = """\
version: 1
purpose: Pay
steps: [{id: r, tool: approved.refund, args: {account: any, amount: any}, times: 3}]
agents:
  helper:
    purpose: Part
    sets: {mine: {env: PARKED_ACCOUNTS}}
    steps: [{id: r, tool: approved.refund, args: {account: {set: mine}, amount: any}, times: 3}]
"""
    with shared.guard() as first:
        task = park(first, Intent.from_yaml(sets))
    monkeypatch.setenv("PARKED_ACCOUNTS", "evil")
    with shared.guard() as second, second.resume(task, on_behalf_of="alice") as resumed:
        with resumed.delegate("helper"):
            refund("acme", Decimal(1))
            with pytest.raises(Denied):
                refund("evil", Decimal(1))
    assert len(refunds) == 1


# --- tasks that came by a handover ------------------------------------------------------------------------------------


@pytest.mark.control("8 a handed-over task waits in its own process")
def test_task_of_a_handover_waits_in_its_own_process_and_ends_with_it(shared: Processes) -> None:
    from tests.handing import guard_of
    from tests.handing import refund as handed

    asks = Intent("Refund", step("handed.refund", account=any_, amount=any_).times(3).then_ask())
    budgets, log = Counting(), MemoryLog()
    disk = FailingAudit(log, after=100)
    home = guard_of("home", clock=shared.clock, monotonic=shared.clock)
    rooms: dict[str, Any] = {
        "approver": Later(),
        "approvals": shared.approvals,
        "parked": shared.parked,
        "registry": Registered(),
    }
    far = guard_of("far", "home", clock=shared.clock, monotonic=shared.clock, budgets=budgets, audit=disk, **rooms)
    with home, far:
        with home.task("desk", on_behalf_of="alice", intent=asks) as parent:
            token = parent.export("bot")
        task = far.resume(token)
        with pytest.raises(ApprovalRequired) as waits, task:
            handed("acme", Decimal(1))
        assert (task.state, now(shared.parked.find(task.id, shared.clock()))) == ("parked", None)
        with pytest.raises(Denied):
            far.resume(task.id, on_behalf_of="alice")
        disk.after = 0
        with pytest.raises(Denied), task:
            pass
        disk.after = 100
        assert far.answer(waits.value.question, approved=True, by="ann")
        with pytest.raises(ApprovalRequired), task:
            assert handed("acme", Decimal(1)) == "refunded 1"
            handed("acme", Decimal(1))
        assert (task.state, spent(budgets)) == ("parked", "2")
    assert (task.state, spent(budgets)) == ("ended", "1")
    assert len(budgets.settled) == len(set(budgets.settled))
    assert [record["why"] for record in log.records if record["event"] == Event.TASK_ENDED.value] == ["guard closed"]


def test_sub_agents_task_that_is_entered_again_is_one_child(shared: Processes) -> None:
    with shared.guard() as guard, guard.task("bot", on_behalf_of="alice", intent=ASKS) as root:
        child = root.delegate("helper", intent=ASKS)
        for _ in range(3):
            with pytest.raises(ApprovalRequired), child:
                refund("acme", Decimal(40))
            with pytest.raises(Denied):  # alone it would be bound by its own intent only
                guard.resume(child.id, on_behalf_of="alice")
        assert root.children == [child]
    assert (root.state, child.state) == ("parked", "ended")


def test_end_of_a_stale_object_forgets_nothing_that_others_used_up(shared: Processes) -> None:
    once = Intent("Read", step("parked.mail", box=any_).times(1))
    with shared.guard() as first, shared.guard() as second:
        stale = first.task("bot", on_behalf_of="alice", intent=once)
        with stale:
            stale.park()
        with second.resume(stale.id, on_behalf_of="alice"):
            mail("ann")
            now(first.close_task(stale, TaskState.ENDED, "test"))
            with pytest.raises(Denied) as denied:
                mail("ann")
    assert (stale.state, denied.value.reason, read) == ("ended", Reason.BUDGET_EXHAUSTED, ["ann"])


def test_end_of_a_stale_object_gives_back_what_others_left_waiting_since(shared: Processes) -> None:
    with shared.guard(registry=Registered()) as first, shared.guard(registry=Registered()) as second:
        stale = first.task("bot", on_behalf_of="alice", intent=ASKS)
        with stale:
            stale.park()
        with pytest.raises(ApprovalRequired), second.resume(stale.id, on_behalf_of="alice"):
            refund("acme", Decimal(40))
        assert spent(shared.budgets) == "1"
        now(first.close_task(stale, TaskState.ENDED, "test"))
        assert spent(shared.budgets) == ""


def test_end_of_a_stale_object_leaves_the_resumed_task_to_the_keeper(shared: Processes) -> None:
    with shared.guard(parked=MemoryParkedTasks()) as guard:
        go, started = threading.Event(), threading.Event()
        during.extend([started.set, lambda: waited(go)])
        with guard.task("bot", on_behalf_of="alice", intent=ENDS) as stale:
            thread = threading.Thread(target=stale.bind(lambda: last("bye")))
            thread.start()
            assert started.wait(5)
            stale.park()
        with guard.resume(stale.id, on_behalf_of="alice") as resumed:
            go.set()
            thread.join(5)
            assert stale.state == "ended"
            assert resumed in guard.keeper.open_tasks()
            with pytest.raises(Denied):
                last("once more")


# --- a store that is down ---------------------------------------------------------------------------------------------


class Down(MemoryBudgets):
    """Counters that cannot be reached, for so many settlements."""

    def __init__(self) -> None:
        super().__init__()
        self.fails = 0

    async def settle(self, reservation: Any, settlement: Any) -> None:
        if self.fails:
            self.fails -= 1
            raise Unavailable("no answer")
        await super().settle(reservation, settlement)


@pytest.mark.control("8 one failure keeps nothing else from being given back")
def test_what_expired_tasks_had_reserved_is_given_back_although_one_of_them_fails(
    shared: Processes, caplog: pytest.LogCaptureFixture
) -> None:
    budgets = Down()
    with shared.guard(budgets=budgets, registry=Registered()) as guard:
        for _ in range(3):
            asked(guard)
        shared.clock.now += 10_000
        budgets.fails = 1
        for _ in range(11):
            guard.keeper.tick()
        assert len(shared.events(Event.TASK_LAPSED)) == 3
    assert "was not given back" in caplog.text


@pytest.mark.parametrize("method", ["find", "take"])
def test_store_that_is_down_denies_and_loses_nothing(shared: Processes, method: str) -> None:
    class Away(Durable):
        away = ""

        async def find(self, id: str, at: float) -> Parked | None:
            if self.away == "find":
                raise Unavailable("no answer")
            return await super().find(id, at)

        async def take(self, id: str, at: float) -> Parked | None:
            if self.away == "take":
                raise Unavailable("no answer")
            return await super().take(id, at)

    store = Away()
    with shared.guard(parked=store) as guard:
        question, task = asked(guard)
        shared.answer(question)
        store.away = method
        with pytest.raises((Denied, Unavailable)), guard.resume(task, on_behalf_of="alice"):
            pass
        store.away = ""
        with guard.resume(task, on_behalf_of="alice"):
            refund("acme", Decimal(40))
    assert len(refunds) == 1


# --- answers ----------------------------------------------------------------------------------------------------------


@pytest.mark.control("7 neither subject nor agent, by guard.answer")
def test_answer_of_the_subject_does_not_use_up_the_question(shared: Processes) -> None:
    with shared.guard() as guard:
        question, task = asked(guard)
        assert not guard.answer(question, approved=True, by="alice")
        assert guard.answer(question, approved=True, by="ann")
        with guard.resume(task, on_behalf_of="alice"):
            refund("acme", Decimal(40))
        records = shared.events(Event.APPROVAL_ANSWERED)
    assert [(record["by"], record.get("refused", "")) for record in records] == [
        (guard.pseudonym("alice"), "the subject must not approve"), (guard.pseudonym("ann"), ""),
    ]  # fmt: skip


def test_record_of_an_answer_that_does_not_count_says_so(shared: Processes) -> None:
    with shared.guard() as guard:
        question, _ = asked(guard)
        assert guard.answer(question, approved=False, by="ann")
        assert not guard.answer(question, approved=True, by="bob")
        records = shared.events(Event.APPROVAL_ANSWERED)
    assert [(record["answer"], "refused" in record) for record in records] == [("rejected", False), ("approved", True)]


def test_records_tie_question_call_and_answer_together_without_their_values(shared: Processes) -> None:
    with shared.guard() as guard:
        question, _ = asked(guard)
        guard.answer(question, approved=True, by="ann")
        (asks,) = shared.events(Event.APPROVAL_ASKED)
        (waits,) = shared.events(Event.CALL_DENIED)
        (answered,) = shared.events(Event.APPROVAL_ANSWERED)
        kept = now(shared.approvals.find(question, shared.clock()))
    assert (waits["question"], answered["question"], waits["call"]) == (question, question, asks["call"])
    assert asks["digest"] == answered["digest"] == asks["arguments_hash"]
    assert kept is not None
    assert kept.binding not in str(asks)


def test_agent_that_is_told_of_a_rejection_learns_no_limit(shared: Processes) -> None:
    with shared.guard() as guard:
        question, task = asked(guard)
        shared.answer(question, Verdict.REJECTED)
        with guard.resume(task, on_behalf_of="alice"), pytest.raises(Denied) as denied:
            refund("acme", Decimal(40))
    for text in (str(denied.value), denied.value.public):
        assert not any(word in text for word in ("50", "40", "acme", "ann", question))
