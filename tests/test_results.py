"""Results in the running guard: what is recorded, who sees it, and what is never recorded."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Generator, Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import anyio.lowlevel
import pytest
from msgspec import structs

from agentguard import Denied, Guard, Intent, absent, any_, guarded, not_, step
from agentguard.approval.message import message
from agentguard.intent import Constraint, from_
from agentguard.ports import Origin
from agentguard.results import Store
from agentguard.testing.fakes import Answering, fake_guard
from tests.tools import pay, ran

PEOPLE = {"people": [{"name": "ann", "account": "a1"}, {"name": "bo", "account": "b1"}], "secret.key": "k1"}


@dataclass(frozen=True)
class Person:
    account: str


@guarded("people.list", effect="read")
def people(result: Any = None) -> Any:
    """Return what it is told to."""
    if result == "raise":
        raise ValueError("a1")
    return PEOPLE if result is None else result


@guarded("people.json", effect="read", returns="json")
def people_json() -> str:
    """Return JSON as text."""
    return '{"people": [{"account": "j1"}]}'


@guarded("apeople", effect="read")
async def apeople() -> Any:
    """Return people, asynchronously."""
    await anyio.lowlevel.checkpoint()
    return PEOPLE


@guarded("words", effect="read")
def words() -> Generator[str]:
    """Stream a text."""
    yield "mail a1@acme.com"
    yield " and b1@acme.com"


@guarded("awords", effect="read")
async def awords() -> AsyncIterator[str]:
    """Stream a text, asynchronously."""
    yield "mail a1@acme.com"


@pytest.fixture
def guard() -> Iterator[Guard]:
    ran.clear()
    with fake_guard() as made:
        yield made


def paying(said: Constraint, **more: Any) -> Intent:
    reads = ["people.list", "people.json", "apeople", "words", "awords"]
    return Intent("Pay", step("pay", account=said, amount=any_).times(100), reads=reads, **more)


def payable(account: str) -> bool:
    try:
        pay(account)
    except Denied as error:
        assert error.reason == "argument_violation"  # any other denial is a mistake of the test
        return False
    return True


LISTED = from_(tool="people.list", field="people[].account")


def test_value_from_an_earlier_result_is_permitted_and_any_other_is_denied(guard: Guard) -> None:
    with guard.task("bot", on_behalf_of="alice", intent=paying(LISTED)):
        assert not payable("a1")
        people()
        assert payable("a1")
        assert not payable("ann")
        assert not payable("c1")


def test_call_that_was_denied_or_raised_proves_nothing(guard: Guard) -> None:
    with guard.task("bot", on_behalf_of="alice", intent=paying(from_(tool="people.list", field="$", match="line"))):
        with pytest.raises(ValueError, match="a1"):
            people("raise")
        assert not payable("a1")
        people("a1")
        assert payable("a1")


def test_json_text_is_structure_only_where_the_tool_says_so(guard: Guard) -> None:
    said = from_(tool="people.json", field="people[].account") | LISTED
    with guard.task("bot", on_behalf_of="alice", intent=paying(said)):
        people_json()
        people('{"people": [{"account": "x1"}]}')
        assert payable("j1")
        assert not payable("x1")


def test_dataclasses_are_structure(guard: Guard) -> None:
    with guard.task("bot", on_behalf_of="alice", intent=paying(from_(tool="people.list", field="[].account"))):
        people([Person("d1")])
        assert payable("d1")


def test_finished_stream_is_one_text_and_an_unfinished_one_proves_nothing(guard: Guard) -> None:
    with guard.task("bot", on_behalf_of="alice", intent=paying(from_(tool="words", field="$", match="email"))):
        left = words()
        next(left)
        left.close()
        assert not payable("a1@acme.com")
        list(words())
        assert payable("a1@acme.com")
        assert payable("b1@acme.com")


def test_live_credential_in_a_result_is_not_recorded(guard: Guard) -> None:
    said = from_(tool="wordy", field="$")

    @guarded("wordy", effect="read", audience="https://x.test", scopes=["x"])
    def wordy() -> str:
        from agentguard import current_credential

        return current_credential().token

    intent = Intent("Pay", step("pay", account=said, amount=any_).times(9), reads=["wordy"])
    with guard.task("bot", on_behalf_of="alice", intent=intent) as task:
        assert wordy() == "[credential removed]"
        entries, _ = task.tree.results.entries(("", "wordy"))
        assert [found.values for entry in entries for found in entry.found.values()] == [{"[credential removed]"}]


def test_only_fields_that_a_from_names_are_recorded(guard: Guard) -> None:
    with guard.task("bot", on_behalf_of="alice", intent=paying(LISTED)) as task:
        people()
        people_json()
        (entry,), complete = task.tree.results.entries(("", "people.list"))
        assert complete
        assert [found.values for found in entry.found.values()] == [{"a1", "b1"}]
        assert task.tree.results.entries(("", "people.json")) == ((), True)
    assert task.tree.results.entries(("", "people.list")) == ((), False)  # forgotten with the root task


def test_step_and_its_argument(guard: Guard) -> None:
    intent = Intent(
        "p",
        step("people.list", result=any_).named("one").times(1),
        step("people.list", result=any_).named("two").times(1),
        step("pay", account=from_(step="one", arg="result"), amount=any_).times(9),
    )
    with guard.task("bot", on_behalf_of="alice", intent=intent):
        people("x1")
        people("x2")
        assert payable("x1")
        assert not payable("x2")


# --- who sees what ----------------------------------------------------------------------------------------------------


def test_child_sees_its_ancestors_results_and_a_parent_its_childrens(guard: Guard) -> None:
    with guard.task("bot", on_behalf_of="alice", intent=paying(LISTED)) as task:
        with task.delegate("second", intent=paying(LISTED)):
            people({"people": [{"account": "child"}]})
        assert payable("child")
        people({"people": [{"account": "parent"}]})
        with task.delegate("third", intent=paying(LISTED)):
            assert payable("parent")


def test_siblings_do_not_see_each_others_results_at_any_level(guard: Guard) -> None:
    with guard.task("bot", on_behalf_of="alice", intent=paying(LISTED)) as task:
        with task.delegate("second", intent=paying(LISTED)):
            people()
        with task.delegate("third", intent=paying(any_)):
            assert not payable("a1")  # the root's own `from` would hold for the root
        assert payable("a1")


def test_named_sub_agent_uses_what_was_read_before_it_was_called(guard: Guard) -> None:
    intent = paying(any_, agents={"payer": {"steps": [step("pay", account=LISTED, amount=any_)]}})
    with guard.task("bot", on_behalf_of="alice", intent=intent) as task:
        people()
        with task.delegate("payer"):
            assert not payable("c1")
            assert payable("a1")


def test_tasks_share_nothing(guard: Guard) -> None:
    with guard.task("bot", on_behalf_of="alice", intent=paying(LISTED)):
        people()
    with guard.task("bot", on_behalf_of="alice", intent=paying(LISTED)):
        assert not payable("a1")


# --- bounds and concurrency -------------------------------------------------------------------------------------------


def test_what_was_evicted_is_denied(guard: Guard) -> None:
    with guard.task("bot", on_behalf_of="alice", intent=paying(LISTED)) as task:
        task.tree.results._most = 2
        for account in ("one", "two", "three"):
            people({"people": [{"account": account}]})
        assert not payable("one")
        assert payable("three")


def test_argument_that_nobody_looked_at_is_not_taken_for_one_that_was_left_out(guard: Guard) -> None:
    plain = from_(tool="people.list", field="people[].account")
    looking = from_(tool="people.list", field="people[].account", args={"result": absent})
    with guard.task("bot", on_behalf_of="alice", intent=paying(plain | any_)) as task:
        people({"people": [{"account": "forged"}]})
        with task.delegate("child", intent=paying(looking)):
            assert not payable("forged")
            people()
            assert payable("a1")


@pytest.mark.parametrize("before", [LISTED | any_, any_], ids=["something is looked at", "nothing is looked at"])
@pytest.mark.parametrize(
    ("said", "value", "again"),
    [
        (not_(from_(tool="words", field="$", match="email")), "a1@acme.com", False),
        (from_(tool="words", field="$", match="line", unique=True), "mail a1@acme.com and b1@acme.com", True),
    ],
)
def test_result_of_before_anybody_looked_at_it_cannot_be_told(
    guard: Guard, said: Any, value: str, again: bool, before: Any
) -> None:
    with guard.task("bot", on_behalf_of="alice", intent=paying(before)) as task:
        list(words())
        with task.delegate("child", intent=paying(said)):
            if again:
                list(words())
            assert not payable(value)


@pytest.mark.parametrize("first", [1, 2])
def test_stream_that_began_before_anybody_looked_at_it_cannot_be_told(guard: Guard, first: int) -> None:
    said = not_(from_(tool="words", field="$", match="email"))
    with guard.task("bot", on_behalf_of="alice", intent=paying(any_)) as task:
        parts = words()
        for _ in range(first):
            next(parts)
        with task.delegate("child", intent=paying(said)):
            list(parts)
            assert not payable("a1@acme.com")
            assert not payable("c1@acme.com")


def test_store_stays_within_its_bytes() -> None:
    from agentguard.intent.sources import sources_of
    from tests.intent.calls import call_of, spec_of

    store = Store(size=10_000)
    store.need(sources_of(paying(LISTED)), "task:1")
    for number in range(500):
        store.record(call_of(spec_of("people.list", "read")), {"people": [{"account": "x" * number}]}, ("1",), [])
    assert 0 < store._size <= 10_000
    entries, complete = store.entries(("", "people.list"))
    assert sum(entry.size for entry in entries) == store._size
    assert not complete


def test_threads_record_and_read_at_the_same_time(guard: Guard) -> None:
    outcomes: list[bool] = []
    with guard.task("bot", on_behalf_of="alice", intent=paying(LISTED)) as task:

        def work(number: int) -> None:
            people({"people": [{"account": f"t{number}"}]})
            outcomes.append(payable(f"t{number}"))

        threads = [threading.Thread(target=task.bind(work), args=(number,)) for number in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert outcomes == [True] * 16


@pytest.mark.anyio
async def test_async_tools_and_streams_are_recorded_too() -> None:
    said = from_(tool="apeople", field="people[].account") | from_(tool="awords", field="$", match="email")
    with fake_guard() as guard:
        async with guard.task("bot", on_behalf_of="alice", intent=paying(said)):
            assert not payable("a1")
            await apeople()
            assert payable("a1")
            assert [part async for part in awords()]
            assert payable("a1@acme.com")


def test_numbers_are_compared_exactly(guard: Guard) -> None:
    intent = Intent("p", step("refund", account=any_, amount=from_(tool="people.list", field="price")), reads=["*"])
    from tests.tools import refund

    with guard.task("bot", on_behalf_of="alice", intent=intent):
        people({"price": 9.99})
        with pytest.raises(Denied):
            refund("acme", Decimal("9.990001"))
        refund("acme", Decimal("9.990"))


def test_person_who_approves_sees_where_the_value_comes_from_and_what_competes_with_it() -> None:
    approver = Answering(by="alice")
    source = from_(tool="people.list", field="people[].account")
    intent = Intent("x", step("pay", account=source).then_ask(by="subject"), reads=["people.list"])
    with fake_guard(approver=approver) as guard, guard.task("bot", on_behalf_of="alice", intent=intent):
        people()
        assert pay("a1")
    request = approver.asked[0]
    assert request.by == "subject"
    (origin,) = request.origins
    assert structs.replace(origin, calls=()) == Origin("account", "people.list", "people[].account", ("a1", "b1"))
    assert len(origin.calls) == 1
    assert f"has to stand in people.list, people[].account (call {origin.calls[0]}); there stand:" in message(request)
