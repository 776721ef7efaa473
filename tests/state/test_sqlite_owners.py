"""Whose rows they are: the living keep theirs, those of the dead are taken over by exactly one."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import anyio
import pytest
from msgspec import structs

from agentguard._drive import drive
from agentguard.credentials.leases import Leases
from agentguard.credentials.routes import Route, Routes
from agentguard.model.lease import Ending, Lease, LeaseKey, LeaseState, Secret
from agentguard.ports import Owed
from agentguard.state.budgets_sqlite import SqliteBudgets
from agentguard.state.owner import SILENT, Owner, dead
from agentguard.state.rows import Columns
from agentguard.state.sqlite import SqliteLedger
from agentguard.testing import FakeClock, FakeIssuer

pytestmark = pytest.mark.slow  # processes, servers that hang, deadlines that pass

KEY = b"a key of the tests, 32 bytes long"
NOW = 1_800_000_000.0
living_keep = pytest.mark.control("8 the living keep their rows")
taken_once = pytest.mark.control("8 the rows of the dead are taken over once")

HOLD = textwrap.dedent("""
    import sys, time
    from agentguard._drive import drive
    from agentguard.model.lease import Lease, LeaseKey, Secret
    from agentguard.state.sqlite import SqliteLedger
    ledger = SqliteLedger(sys.argv[1], b"a key of the tests, 32 bytes long")
    key, now = LeaseKey("", "s", "r", ("s", "a"), "t", "https://api.test", (), ""), time.time()
    for name in sys.argv[2:]:
        lease = Lease(id=name, issuer="i", key=key, task="t", issued_at=now, expires_at=now + 600)
        drive(ledger.pending(lease))
        drive(ledger.active(lease, Secret("handle of " + name)))
    print("held", flush=True)
    time.sleep(60)
""")
ADOPT = textwrap.dedent("""
    import sys, time
    from agentguard._drive import drive
    from agentguard.state.sqlite import SqliteLedger
    ledger = SqliteLedger(sys.argv[1], b"a key of the tests, 32 bytes long")
    sys.stdin.readline()
    print(*(owed.lease.id for owed in drive(ledger.adopt(time.time()))), flush=True)
    sys.stdin.readline()
""")


def lease(identifier: str, *, parent: str = "") -> Lease:
    key = LeaseKey("", "user:alice", "root", ("user:alice", "bot"), "pay", "https://api.test", (), "")
    return Lease(
        id=identifier, issuer="broker", key=key, task="t", issued_at=NOW, expires_at=NOW + 60, parent=parent
    )  # fmt: skip


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


@pytest.fixture
def holder(file: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []

    def start(*names: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", HOLD, str(file), *names]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        assert "held\n" == process.stdout.readline()
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()


def adopted(ledger: SqliteLedger, now: float = NOW) -> list[str]:
    return [owed.lease.id for owed in drive(ledger.adopt(now))]


# who is dead ----------------------------------------------------------------------------------------------------

ME = Owner("me", "host", "boot", "pid:[1]", 1, 1, NOW)


@living_keep
@pytest.mark.parametrize(
    ("why", "changed", "gone"),
    [
        ("this process lives", {}, False),
        ("closed", {"closed": True}, True),
        ("its pid was given to another process", {"started": 1}, True),
        ("no such process", {"pid": 2**22 + 1}, True),
        ("another boot of this host", {"boot": "before"}, True),
        ("another host", {"host": "other", "boot": "other"}, False),
        ("another host, silent for a minute", {"host": "other", "boot": "other", "beat": NOW - SILENT - 1}, True),
        ("another boot, where no host has a name", {"host": "", "boot": "before"}, False),
        ("another pid namespace", {"namespace": "pid:[2]", "pid": 2**22 + 1}, False),
        ("another pid namespace, silent", {"namespace": "pid:[2]", "beat": NOW - SILENT - 1}, True),
        ("this process lives, silent", {"beat": NOW - 3600}, False),
        ("nothing is known of its process", {"started": 0, "pid": 2**22 + 1}, False),
        ("nothing is known of its boot", {"boot": "", "pid": 2**22 + 1}, False),
        ("nothing is known, and it is silent", {"started": 0, "boot": "", "beat": NOW - SILENT - 1}, True),
        ("the clock was put back", {"namespace": "pid:[2]", "beat": NOW + 3600}, False),
    ],
)
def test_an_owner_is_dead_only_if_that_is_proved_or_it_is_silent(
    why: str, changed: dict[str, object], gone: bool
) -> None:
    me = Owner.here(NOW)

    assert gone == dead(dataclasses.replace(me, instance="other", **changed), me, NOW), why  # type: ignore[arg-type]  # a row of the table above


def test_a_process_that_was_killed_and_not_waited_for_is_dead() -> None:
    child = os.fork()
    if not child:
        signal.pause()
    started = int(Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[19])
    me = Owner.here(NOW)
    other = dataclasses.replace(me, instance="child", pid=child, started=started)
    before = dead(other, me, NOW)
    os.kill(child, signal.SIGKILL)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    after = dead(other, me, NOW)
    os.waitpid(child, 0)

    assert (False, True) == (before, after)


# taking over ----------------------------------------------------------------------------------------------------


@taken_once
def test_rows_of_a_killed_process_are_taken_over_with_their_handles(
    file: Path, holder: Callable[..., subprocess.Popen[str]]
) -> None:
    process = holder("one", "two")
    ledger = SqliteLedger(file, KEY)
    assert [] == adopted(ledger)
    kill(process)

    owed = drive(ledger.adopt(NOW))

    assert {"one": "handle of one", "two": "handle of two"} == {
        row.lease.id: row.handle.reveal() if row.handle else "" for row in owed
    }
    assert {LeaseState.ACTIVE} == {row.state for row in owed}
    assert [] == adopted(ledger)
    ledger.close()


@living_keep
def test_rows_of_a_living_process_stay_its_own(file: Path, holder: Callable[..., subprocess.Popen[str]]) -> None:
    process = holder("alive")
    process.send_signal(signal.SIGSTOP)
    ledger = SqliteLedger(file, KEY)

    found = adopted(ledger, NOW + 10 * 365 * 86_400)
    process.send_signal(signal.SIGCONT)
    ledger.close()

    assert [] == found


@taken_once
def test_of_processes_that_recover_at_once_exactly_one_gets_each_row(
    file: Path, holder: Callable[..., subprocess.Popen[str]]
) -> None:
    names = [f"row-{number}" for number in range(30)]
    kill(holder(*names))
    command = [sys.executable, "-c", ADOPT, str(file)]
    adopters = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    for adopter in adopters:
        assert adopter.stdin is not None
        adopter.stdin.write("go\n")
        adopter.stdin.flush()
    got = [adopter.stdout.readline().split() for adopter in adopters if adopter.stdout is not None]
    for adopter in adopters:
        adopter.communicate("done\n", timeout=30)

    assert sorted(names) == sorted(name for one in got for name in one)


def test_what_an_adopter_took_over_and_left_is_taken_over_again(file: Path) -> None:
    first = SqliteLedger(file, KEY)
    drive(first.pending(lease("left")))
    first.close()
    second = SqliteLedger(file, KEY)
    assert ["left"] == adopted(second)
    second.close()
    third = SqliteLedger(file, KEY)

    assert ["left"] == adopted(third)
    third.close()


def test_an_earlier_instance_of_this_process_that_was_dropped_without_closing_is_dead(file: Path) -> None:
    first = SqliteLedger(file, KEY)
    drive(first.pending(lease("left")))
    del first
    second = SqliteLedger(file, KEY)

    assert ["left"] == adopted(second)
    second.close()


def test_parents_are_returned_before_what_hangs_under_them(file: Path) -> None:
    first = SqliteLedger(file, KEY)
    for one in (lease("child", parent="top"), lease("top"), lease("other")):
        drive(first.pending(one))
    first.close()
    second = SqliteLedger(file, KEY)

    found = adopted(second)
    second.close()

    assert found.index("top") < found.index("child")


def test_what_could_only_end_with_a_parent_that_is_gone_is_not_taken_over(file: Path) -> None:
    first = SqliteLedger(file, KEY)
    for one in (lease("top"), lease("child", parent="top")):
        drive(first.pending(one))
    drive(first.ended(lease("child", parent="top"), Ending.WITH_PARENT))
    drive(first.ended(lease("top"), Ending.REVOKED))
    first.close()
    second = SqliteLedger(file, KEY)

    assert [] == adopted(second)
    second.close()


@pytest.mark.anyio
@taken_once
async def test_rows_taken_over_for_a_caller_that_was_cancelled_go_to_the_next_one(file: Path) -> None:
    first = SqliteLedger(file, KEY)
    await first.pending(lease("left"))
    first.close()
    second = SqliteLedger(file, KEY)
    second._adopt(NOW)  # committed by the thread; its caller did not live to hear of it

    assert ["left"] == [owed.lease.id for owed in await second.adopt(NOW)]
    assert [] == list(await second.adopt(NOW))
    with anyio.CancelScope() as scope:
        scope.cancel()
        await second.beat(NOW)
    second.close()


@taken_once
def test_of_two_threads_that_recover_at_once_exactly_one_gets_each_row(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger, left = SqliteLedger(file, KEY), SqliteLedger(file, KEY)
    drive(ledger.pending(lease("own")))
    drive(left.pending(lease("first")))
    left.close()
    took, got, reads = threading.Event(), threading.Event(), ledger._owed

    def slowly(found: Iterable[Columns]) -> list[Owed]:
        rows = reads(found)
        if any(row.lease.id == "second" for row in rows):
            took.set()
            got.wait(5)
        return rows

    monkeypatch.setattr(ledger, "_owed", slowly)
    ledger._adopt(NOW)  # of a caller who has not got it yet
    later = SqliteLedger(file, KEY)
    drive(later.pending(lease("second")))
    later.close()
    with ThreadPoolExecutor() as pool:
        other = pool.submit(adopted, ledger)
        took.wait(5)
        monkeypatch.setattr(ledger, "_adopt", lambda now, brokers: None)
        mine = adopted(ledger)
        got.set()

        assert ["first", "second"] == sorted([*mine, *other.result(5)])
    ledger.close()


def test_an_owner_that_was_taken_for_dead_loses_its_rows_and_may_make_new_ones(file: Path) -> None:
    clock = FakeClock(NOW)
    one, two = SqliteLedger(file, KEY, clock=clock), SqliteLedger(file, KEY, clock=clock)
    drive(one.pending(lease("lost")))
    with one._database.write(durable=False) as raw:  # as if it were on another host, and silent
        raw.execute("UPDATE owners SET boot = 'elsewhere', host = 'elsewhere', beat = 0")

    assert ["lost"] == adopted(two)
    with pytest.raises(Exception, match="belongs to another process now"):
        drive(one.active(lease("lost"), Secret("late")))
    drive(one.pending(lease("new")))
    assert [] == adopted(two)
    one.close()
    two.close()


def test_a_row_can_be_taken_from_a_living_owner_by_name(file: Path) -> None:
    one, two = SqliteLedger(file, KEY), SqliteLedger(file, KEY)
    for each in (lease("top"), lease("child", parent="top"), lease("other")):
        drive(one.pending(each))

    assert ["top", "child"] == [owed.lease.id for owed in drive(two.take("top", NOW))]
    assert [] == list(drive(two.take("unknown", NOW)))
    one.close()
    two.close()


# fork -----------------------------------------------------------------------------------------------------------


@living_keep
def test_a_forked_child_is_another_owner_and_touches_nothing_of_its_parents(file: Path) -> None:
    ledger = SqliteLedger(file, KEY)
    drive(ledger.pending(lease("parents")))
    reading, writing = os.pipe()
    taken, free = threading.Event(), threading.Event()

    def others() -> None:
        with ledger._database.turn():
            taken.set()
            free.wait(0.2)

    thread = threading.Thread(target=others)
    thread.start()
    taken.wait(5)
    child = os.fork()  # while another thread has its turn: it is waited for
    if not child:
        code = 1
        try:
            assert ledger._database._connection is None
            found = adopted(ledger)
            drive(ledger.pending(lease("childs")))
            os.write(writing, f"{ledger.instance} {found}".encode())
            code = 0
        finally:
            os._exit(code)
    free.set()
    thread.join()
    _, status = os.waitpid(child, 0)
    os.close(writing)
    said = os.read(reading, 1000).decode()
    os.close(reading)
    drive(ledger.pending(lease("after")))

    assert 0 == status
    assert said.endswith(" []")
    assert not said.startswith(ledger.instance)
    assert ["childs"] == adopted(ledger)
    assert {"parents", "childs", "after"} == {one.id for one in drive(ledger.outstanding(NOW))}
    ledger.close()


def in_a_child(work: Callable[[], str]) -> Callable[[], str]:
    """Fork, work in the child, and return what waits for what it said."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(writing, work().encode())
        except BaseException as error:
            os.write(writing, repr(error).encode())
        finally:
            os._exit(0)
    os.close(writing)

    def said() -> str:
        os.waitpid(child, 0)
        with open(reading, "rb") as source:
            return source.read().decode()

    return said


@living_keep
def test_what_a_forked_child_writes_stays_when_its_parent_closes_the_file_meanwhile(file: Path) -> None:
    ledger, budgets = SqliteLedger(file, KEY), SqliteBudgets(file)
    drive(ledger.pending(lease("parents")))
    (writes, written), (closes, closed) = os.pipe(), os.pipe()

    def work() -> str:
        drive(budgets.standing(["task:t/calls"]))
        drive(ledger.pending(lease("before")))
        os.write(written, b"x")
        os.read(closes, 1)
        drive(ledger.pending(lease("after")))
        return "done"

    said = in_a_child(work)
    os.read(writes, 1)
    budgets.close()
    ledger.close()  # SQLite removes the log of whoever closes the file last
    os.write(closed, b"x")

    assert "done" == said()
    later = SqliteLedger(file, KEY)
    assert {"parents", "before", "after"} == {one.id for one in drive(later.outstanding(NOW))}
    later.close()


def test_child_that_was_forked_in_the_middle_of_an_operation_does_not_use_the_file(file: Path) -> None:
    ledger = SqliteLedger(file, KEY)
    taken, free = threading.Event(), threading.Event()

    def others() -> None:
        with ledger._database.turn():
            taken.set()
            free.wait(30)

    thread = threading.Thread(target=others)
    thread.start()
    taken.wait(5)
    before = time.monotonic()
    said = in_a_child(lambda: str(drive(ledger.outstanding(NOW))))
    waited = time.monotonic() - before
    free.set()
    thread.join()

    assert "forked while another thread used it" in said()
    assert 0.5 < waited < 5
    drive(ledger.pending(lease("parents")))
    assert ["parents"] == [one.id for one in drive(ledger.outstanding(NOW))]
    ledger.close()


def test_a_beat_says_that_an_owner_lives_at_most_every_five_seconds(file: Path) -> None:
    clock = FakeClock(NOW)
    ledger, writes = SqliteLedger(file, KEY, clock=clock), list[float]()
    for _ in range(20):
        clock.advance(1)
        before = ledger._beat_at
        drive(ledger.beat(clock()))
        if ledger._beat_at != before:
            writes.append(clock())
    living = drive(ledger.living(clock()))
    ledger.close()

    assert 4 == len(writes)
    assert {ledger.instance} == living


# whose brokers ---------------------------------------------------------------------------------------------------


def issued(identifier: str, issuer: str, expires_at: float = NOW + 600) -> Lease:
    return structs.replace(lease(identifier), issuer=issuer, expires_at=expires_at)


def test_rows_of_brokers_that_a_guard_does_not_have_are_left_to_one_that_has_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = SqliteLedger(tmp_path / "state.db", KEY, clock=lambda: NOW)
    drive(first.pending(issued("mine", "here")))
    drive(first.pending(issued("theirs", "there")))
    drive(first.pending(issued("over", "there", NOW - 600)))
    first.close()
    second, third = (SqliteLedger(tmp_path / "state.db", KEY, clock=lambda: NOW) for _ in range(2))

    found = [[sorted(owed.lease.id for owed in drive(second.adopt(NOW, ["here"]))) for _ in range(2)]]
    found += [[sorted(owed.lease.id for owed in drive(third.adopt(NOW, ["there"])))]]

    assert [[["mine", "over"], []], [["theirs"]]] == found
    assert 1 == caplog.text.count("whose brokers this guard does not have: there")
    second.close()
    third.close()


def test_guard_with_several_brokers_ends_its_own_and_leaves_the_rest(tmp_path: Path) -> None:
    first = SqliteLedger(tmp_path / "state.db", KEY, clock=lambda: NOW)
    drive(first.pending(issued("mine", "here")))
    drive(first.pending(issued("theirs", "there")))
    first.close()
    second = SqliteLedger(tmp_path / "state.db", KEY, clock=lambda: NOW)
    issuer = FakeIssuer()
    room = Leases(Routes([Route("here", issuer)]), second, lambda event, fields: None, lambda: NOW)

    assert 1 == drive(room.recover())
    assert ["theirs"] == [one.id for one in drive(second.outstanding(NOW))]
    second.close()
