"""Parked tasks at rest: sealed, tied to their row, bounded; and what a cancelled caller or a fork leaves."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from agentguard import ConfigurationError
from agentguard._drive import drive
from agentguard.errors import Unavailable
from agentguard.model.lease import Secret
from agentguard.ports import Parked
from agentguard.state import parked_memory
from agentguard.state.parked_limits import AT_ONCE_BYTES, MAX_KEPT, Undelivered
from agentguard.state.parked_memory import MemoryParkedTasks
from agentguard.state.parked_sealed import SealedStates
from agentguard.state.parked_sqlite import SqliteParkedTasks
from agentguard.state.sealed import HANDLES, TASKS, Sealer
from agentguard.testing import FakeClock

KEY = b"a key of the tests, 32 bytes long"
OTHER = b"another key" * 3
MIB = 1 << 20
sealed = pytest.mark.control("parked tasks are sealed at rest")
bounded = pytest.mark.control("parked tasks are bounded")
once = pytest.mark.control("a parked task goes on once")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


@pytest.fixture
def tasks(file: Path, clock: FakeClock) -> Iterator[SqliteParkedTasks]:
    with closing(SqliteParkedTasks(file, KEY, clock=clock)) as made:
        yield made


def parked(clock: FakeClock, identifier: str = "t1", state: str = "s", *, ends: float = 600) -> Parked:
    return Parked(id=identifier, state=Secret(state), expires_at=clock() + ends)


def change(file: Path, statement: str, *values: object) -> None:
    with closing(sqlite3.connect(file)) as raw:
        raw.execute(statement, values)
        raw.commit()


def kept(file: Path) -> list[str]:
    with closing(sqlite3.connect(file)) as raw:
        return [identifier for (identifier,) in raw.execute("SELECT id FROM parked ORDER BY id")]


# sealed ----------------------------------------------------------------------------------------------------------


@sealed
def test_handle_does_not_open_as_a_task_nor_a_task_as_a_handle() -> None:
    handles, tasks = Sealer(KEY), Sealer(KEY, TASKS)

    assert tasks.open(handles.seal(Secret("handle"), "one"), "one") is None
    assert handles.open(tasks.seal(Secret("state"), "one"), "one") is None
    assert handles.key_name != tasks.key_name


@sealed
def test_state_of_a_task_is_no_handle_whatever_the_id(clock: FakeClock) -> None:
    task = parked(clock)
    text = SealedStates(KEY).seal(task)

    assert SealedStates(KEY).open("t1", text, task.expires_at) is not None
    assert [None, None] == [Sealer(KEY).open(text, owner) for owner in ("t1", f"{task.expires_at!r} t1")]


def test_key_has_one_name_and_another_key_another() -> None:
    assert Sealer(KEY, TASKS).key_name == Sealer(Secret(KEY.decode()), TASKS).key_name
    assert Sealer(KEY, TASKS).key_name != Sealer(OTHER, TASKS).key_name


def test_handles_that_were_sealed_before_there_were_kinds_are_opened() -> None:
    known = bytes.fromhex("01000102030405060708090a0b8dc4e17196107fe6b37881977801f5487377fc4ae98e")

    found = Sealer(KEY, HANDLES).open(known, "one")

    assert found is not None
    assert "handle" == found.reveal()


@sealed
def test_neither_a_state_nor_the_key_stands_in_the_file(tasks: SqliteParkedTasks, file: Path, clock: FakeClock) -> None:
    drive(tasks.park(parked(clock, state="canary of a state")))

    found = b"".join(one.read_bytes() for one in file.parent.iterdir())
    assert b"t1" in found
    assert b"canary" not in found
    assert KEY not in found


@sealed
def test_task_under_another_key_is_left_to_whoever_has_it_and_that_is_said(
    tasks: SqliteParkedTasks, file: Path, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    drive(tasks.park(parked(clock, ends=10)))
    drive(tasks.park(parked(clock, "t2", ends=10)))
    with closing(SqliteParkedTasks(file, OTHER, clock=clock)) as other:
        assert drive(other.take("t1", clock())) is None
        assert "start with that key" in caplog.text
        assert drive(tasks.take("t1", clock())) is not None
        clock.advance(10)

        assert [] == drive(other.lapsed(clock()))
        assert ["t2"] == [one.id for one in drive(tasks.lapsed(clock()))]


def test_task_whose_key_is_lost_is_dropped_a_month_after_its_end(
    tasks: SqliteParkedTasks, file: Path, clock: FakeClock
) -> None:
    with closing(SqliteParkedTasks(file, OTHER, clock=clock)) as other:
        drive(other.park(parked(clock, "lost", ends=0)))
    drive(tasks.park(parked(clock, "own", ends=0)))

    clock.advance(29 * 86_400)
    drive(tasks.park(parked(clock, "later")))
    assert ["later", "lost", "own"] == kept(file)
    clock.advance(2 * 86_400)
    drive(tasks.park(parked(clock, "later")))

    assert ["later", "own"] == kept(file)


@sealed
@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE parked SET expires_at = expires_at + 1000",
        "UPDATE parked SET id = CASE id WHEN 't1' THEN 'x' ELSE 't1' END",
        "UPDATE parked SET state = (SELECT state FROM parked WHERE id = 't2')",
        "UPDATE parked SET state = X'01'",
        "UPDATE parked SET state = X''",
    ],
)
def test_row_that_was_changed_is_not_opened_and_that_is_said(
    tasks: SqliteParkedTasks, file: Path, clock: FakeClock, caplog: pytest.LogCaptureFixture, statement: str
) -> None:
    drive(tasks.park(parked(clock)))
    drive(tasks.park(parked(clock, "t2")))
    change(file, statement)

    assert drive(tasks.take("t1", clock())) is None

    assert "damaged or changed" in caplog.text


@sealed
def test_expired_task_is_not_brought_back_by_whoever_can_write_the_file(
    tasks: SqliteParkedTasks, file: Path, clock: FakeClock
) -> None:
    drive(tasks.park(parked(clock, ends=10)))
    clock.advance(10)
    change(file, "UPDATE parked SET expires_at = ?", clock() + 600)

    assert drive(tasks.take("t1", clock())) is None


def test_key_that_is_too_short_is_refused_before_there_is_a_file(file: Path) -> None:
    with pytest.raises(ConfigurationError, match="fewer than 32 bytes"):
        SqliteParkedTasks(file, b"short")
    assert not file.exists()


# bounded ---------------------------------------------------------------------------------------------------------


@bounded
def test_file_keeps_ten_thousand_tasks_and_replaces_any_of_them(
    tasks: SqliteParkedTasks, file: Path, clock: FakeClock
) -> None:
    drive(tasks.park(parked(clock)))
    change(
        file, "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?) "
        "INSERT INTO parked SELECT 'n' || i, 'k', ?, X'00' FROM n", MAX_KEPT - 1, clock() + 600,
    )  # fmt: skip

    with pytest.raises(Unavailable, match="10000 tasks are parked"):
        drive(tasks.park(parked(clock, "one more")))

    drive(tasks.park(parked(clock, state="newer")))
    drive(tasks.take("t1", clock()))
    drive(tasks.park(parked(clock, "one more")))
    assert MAX_KEPT == len(kept(file))


@bounded
def test_memory_keeps_ten_thousand_tasks_and_replaces_any_of_them(clock: FakeClock) -> None:
    tasks = MemoryParkedTasks()
    for number in range(MAX_KEPT):
        tasks._tasks[f"t{number}"] = parked(clock, f"t{number}")
        tasks._sizes[f"t{number}"] = 1

    with pytest.raises(Unavailable, match="10000 tasks are parked"):
        drive(tasks.park(parked(clock, "one more")))

    drive(tasks.park(parked(clock, state="newer")))
    drive(tasks.take("t1", clock()))
    drive(tasks.park(parked(clock, "one more")))


@bounded
def test_memory_keeps_so_many_bytes_and_no_more(clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parked_memory, "MAX_TOTAL", 100)
    tasks = MemoryParkedTasks()
    drive(tasks.park(parked(clock, state="x" * 80)))

    with pytest.raises(Unavailable, match="100 bytes"):
        drive(tasks.park(parked(clock, "t2", "x" * 21)))

    drive(tasks.park(parked(clock, state="y" * 100)))
    drive(tasks.take("t1", clock()))
    drive(tasks.park(parked(clock, "t2", "x" * 100)))


@bounded
def test_parked_tasks_leave_half_of_the_file_to_the_ledger(file: Path, clock: FakeClock) -> None:
    with closing(SqliteParkedTasks(file, KEY, clock=clock, most=8 * MIB)) as tasks:
        drive(tasks.park(parked(clock, "t1", "x" * (3 * MIB))))

        with pytest.raises(Unavailable, match="take up"):
            drive(tasks.park(parked(clock, "t2", "x" * (2 * MIB))))

        drive(tasks.park(parked(clock, "t1", "y" * (3 * MIB))))
        drive(tasks.take("t1", clock()))
        drive(tasks.park(parked(clock, "t2", "x" * (3 * MIB))))


@bounded
def test_long_states_lapse_a_few_at_a_time_and_none_is_left(tasks: SqliteParkedTasks, clock: FakeClock) -> None:
    for number in range(9):
        drive(tasks.park(parked(clock, f"t{number}", "x" * (3 * MIB), ends=number - 100)))

    found = [[one.id for one in drive(tasks.lapsed(clock()))] for _ in range(3)]

    fit = AT_ONCE_BYTES // (3 * MIB)
    assert [[f"t{number}" for number in range(fit)], [f"t{number}" for number in range(fit, 9)], []] == found


def test_clock_that_is_ahead_does_not_end_tasks_for_the_others(tasks: SqliteParkedTasks, clock: FakeClock) -> None:
    drive(tasks.park(parked(clock)))

    assert [] == drive(tasks.lapsed(clock() + 10_000))

    assert drive(tasks.take("t1", clock())) is not None


@once
def test_expired_task_stays_in_the_file_until_it_lapses(tasks: SqliteParkedTasks, file: Path, clock: FakeClock) -> None:
    drive(tasks.park(parked(clock, ends=10)))
    clock.advance(10)

    assert drive(tasks.take("t1", clock())) is None

    assert ["t1"] == kept(file)


# what nobody had -------------------------------------------------------------------------------------------------


def _cancelled(tasks: SqliteParkedTasks, work: str, now: float) -> None:
    """asyncio's own cancel while the file is held: the work goes on in its thread when the file is free."""
    other = sqlite3.connect(tasks._database.path, isolation_level=None, check_same_thread=False)

    async def cancel() -> None:
        waiting = asyncio.create_task(tasks.take("t1", now) if work == "take" else tasks.lapsed(now))
        await asyncio.sleep(0.2)  # until its thread waits for the file
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        other.execute("ROLLBACK")

    with closing(other):
        other.execute("BEGIN IMMEDIATE")
        asyncio.run(cancel())
    with tasks._database.turn():  # the thread has done its work
        assert [] == kept(tasks._database.path)


@once
def test_task_that_was_taken_for_a_cancelled_caller_is_the_next_ones(
    tasks: SqliteParkedTasks, clock: FakeClock
) -> None:
    drive(tasks.park(parked(clock)))
    _cancelled(tasks, "take", clock())

    found = [drive(tasks.take("t1", clock())) for _ in range(2)]

    assert ["t1", None] == [one.id if one is not None else None for one in found]


@once
def test_tasks_that_lapsed_for_a_cancelled_caller_are_the_next_ones(tasks: SqliteParkedTasks, clock: FakeClock) -> None:
    drive(tasks.park(parked(clock, ends=-1)))
    _cancelled(tasks, "lapsed", clock())

    assert [["t1"], []] == [[one.id for one in drive(tasks.lapsed(clock()))] for _ in range(2)]


@once
def test_what_nobody_had_is_forgotten_when_its_task_is_parked_again(
    tasks: SqliteParkedTasks, file: Path, clock: FakeClock
) -> None:
    tasks._undelivered.put(parked(clock, state="old"))
    drive(tasks.park(parked(clock, state="new")))
    with closing(SqliteParkedTasks(file, KEY, clock=clock)) as other:
        assert drive(other.take("t1", clock())) is not None

    assert drive(tasks.take("t1", clock())) is None


def test_what_nobody_had_expires_and_gives_way_to_what_is_newer(clock: FakeClock) -> None:
    left = Undelivered()
    left.put(parked(clock, "t1", ends=10))
    left.put(parked(clock, "t2", ends=10))
    left.drop("t2")
    clock.advance(10)

    assert left.take("t1", clock()) is None
    assert ["t1"] == [one.id for one in left.lapsed(clock())]
    assert [] == left.lapsed(clock())


FORK = textwrap.dedent("""
    import os, sys
    from agentguard._drive import drive
    from agentguard.model.lease import Secret
    from agentguard.ports import Parked
    from agentguard.state.parked_memory import MemoryParkedTasks
    from agentguard.state.parked_sqlite import SqliteParkedTasks
    key = b"a key of the tests, 32 bytes long"
    one = Parked(id="t1", state=Secret("s"), expires_at=100.0)
    memory, file = MemoryParkedTasks(), SqliteParkedTasks(sys.argv[1], key)
    drive(memory.park(one)), drive(file.park(one))
    file._undelivered.put(Parked(id="left", state=Secret("s"), expires_at=100.0))
    memory._lock.acquire()
    child = os.fork()
    if child == 0:
        found = drive(memory.take("t1", 1.0)), drive(file.take("left", 1.0)), drive(file.take("t1", 1.0))
        os._exit([one is not None for one in found] != [False, False, True])
    assert os.waitpid(child, 0)[1] == 0
    memory._lock.release()
    found = drive(memory.take("t1", 1.0)), drive(file.take("left", 1.0)), drive(file.take("t1", 1.0))
    print([one is not None for one in found])
    file.close()
""")


@once
def test_forked_child_has_what_is_in_the_file_and_nothing_of_its_parents(file: Path) -> None:
    command = [sys.executable, "-W", "error", "-c", FORK, str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=dict(os.environ))

    assert "[True, True, False]\n" == done.stdout, done.stderr


@once
def test_what_was_taken_is_on_the_disk_when_it_is_returned(tasks: SqliteParkedTasks, clock: FakeClock) -> None:
    full, synced = 2, []
    connection = tasks._database._connection
    assert connection is not None
    for work in (tasks.park(parked(clock)), tasks.take("t1", clock()), tasks.lapsed(clock())):
        connection.execute("PRAGMA synchronous=NORMAL")
        drive(work)
        synced += connection.execute("PRAGMA synchronous").fetchone()

    assert [full] * 3 == synced
