"""Shared state in a file, over processes: exact, stopped for all at once, and closed when it cannot tell."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from agentguard import ConfigurationError
from agentguard._drive import drive
from agentguard.errors import Unavailable
from agentguard.model.lease import Secret
from agentguard.ports import (
    ApprovalRequest,
    Candidate,
    Charge,
    Parked,
    Question,
    Reservation,
    Settlement,
    Verdict,
    waits,
)
from agentguard.state.approvals_sqlite import SqliteApprovals
from agentguard.state.budgets_sqlite import SqliteBudgets
from agentguard.state.parked_sqlite import SqliteParkedTasks
from agentguard.state.redemptions_sqlite import SqliteRedemptions
from agentguard.state.shared_file import SharedFile
from agentguard.state.sqlite import SqliteLedger
from agentguard.state.suspensions_sqlite import SqliteSuspensions
from agentguard.testing import FakeClock
from tests.state.alike import Alike
from tests.state.processes import all_have_started

exact = pytest.mark.control("3 budgets are exact over processes")
stopped = pytest.mark.control("9 a stop reaches every process of the host")
closed = pytest.mark.control("2 state that cannot be written denies")
once = pytest.mark.control("a parked task goes on once, in one process of the host")
KEY = b"a key of the tests, 32 bytes long"
CALLS = [[Candidate("s", (Charge("agent:bot/calls", "250"),))]]

SPEND = textwrap.dedent("""
    import sys
    from agentguard._drive import drive
    from agentguard.ports import Candidate, Charge, Reservation
    from agentguard.state.budgets_sqlite import SqliteBudgets
    budgets = SqliteBudgets(sys.argv[1])
    levels = [[Candidate("s", (Charge("agent:bot/calls", "250"),))],
              [Candidate("t", (Charge("task:t/window", "1000", per=3600.0),))]]
    print("ready", flush=True)
    sys.stdin.readline()
    print(sum(isinstance(drive(budgets.reserve(levels, 0.0)), Reservation) for _ in range(200)), flush=True)
    budgets.close()
""")
START = textwrap.dedent("""
    import os, sys
    from agentguard._drive import drive
    from agentguard.state.suspensions_sqlite import SqliteSuspensions
    suspensions = SqliteSuspensions(sys.argv[1])
    print("ready", flush=True)
    sys.stdin.readline()
    number = 0
    while drive(suspensions.start(f"{os.getpid()}-{number}", ["all", "agent:bot"])) == "":
        number += 1
    print(number, flush=True)
    sys.stdin.readline()
    suspensions.close()
""")
HOLD = textwrap.dedent("""
    import sys, time
    from agentguard._drive import drive
    from agentguard.ports import Candidate, Charge
    from agentguard.state.budgets_sqlite import SqliteBudgets
    from agentguard.state.suspensions_sqlite import SqliteSuspensions
    drive(SqliteBudgets(sys.argv[1]).reserve([[Candidate("s", (Charge("agent:bot/calls", "250"),))]], 0.0))
    drive(SqliteSuspensions(sys.argv[1]).start("held", ["all"]))
    print("ready", flush=True)
    time.sleep(60)
""")
TAKE = textwrap.dedent("""
    import sys
    from agentguard._drive import drive
    from agentguard.state.parked_sqlite import SqliteParkedTasks
    tasks = SqliteParkedTasks(sys.argv[1], b"a key of the tests, 32 bytes long")
    print("ready", flush=True)
    sys.stdin.readline()
    print(*[f"t{n}" for n in range(60) if drive(tasks.take(f"t{n}", 100.0)) is not None], flush=True)
    print(*[one.id for one in drive(tasks.lapsed(200.0))], flush=True)
    tasks.close()
""")
PARK = textwrap.dedent("""
    import sys, time
    from agentguard._drive import drive
    from agentguard.model.lease import Secret
    from agentguard.ports import Parked
    from agentguard.state.parked_sqlite import SqliteParkedTasks
    tasks = SqliteParkedTasks(sys.argv[1], b"a key of the tests, 32 bytes long")
    for name in ("kept", "taken"):
        drive(tasks.park(Parked(id=name, state=Secret(name), expires_at=200.0)))
    drive(tasks.take("taken", 100.0))
    print("ready", flush=True)
    time.sleep(60)
""")
FORK = textwrap.dedent("""
    import os, sys
    from agentguard._drive import drive
    from agentguard.ports import Candidate, Charge
    from agentguard.state.budgets_sqlite import SqliteBudgets
    from agentguard.state.suspensions_sqlite import SqliteSuspensions
    budgets, suspensions = SqliteBudgets(sys.argv[1]), SqliteSuspensions(sys.argv[1])
    take = lambda: drive(budgets.reserve([[Candidate("s", (Charge("agent:bot/calls", "250"),))]], 0.0))
    take()
    drive(suspensions.start("parent", ["all"]))
    child = os.fork()
    if child == 0:
        take()
        drive(suspensions.start("child", ["all"]))
        drive(suspensions.suspend("agent:bot", "from the child"))
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    take()
    print(drive(budgets.standing(["agent:bot/calls"])), drive(suspensions.running()))
    print(drive(suspensions.start("later", ["agent:bot"])))
    budgets.close(), suspensions.close()
""")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


@pytest.fixture
def program(file: Path) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []

    def start(text: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-W", "error", "-c", text, str(file)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        assert "ready\n" == process.stdout.readline()
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


# processes ------------------------------------------------------------------------------------------------------


@exact
def test_case_48_eight_processes_spend_exactly_one_budget(
    file: Path, program: Callable[[str], subprocess.Popen[str]]
) -> None:
    with closing(SqliteBudgets(file)) as budgets:
        processes = [program(SPEND) for _ in range(8)]
        for process in processes:
            go(process)

        taken = [int(said(process)) for process in processes]

        assert 250 == sum(taken)
        assert ["250", "250"] == drive(budgets.standing(["agent:bot/calls", "task:t/window"]))


@stopped
def test_case_60_nothing_starts_in_any_process_after_a_stop_returned(
    file: Path, program: Callable[[str], subprocess.Popen[str]]
) -> None:
    with closing(SqliteSuspensions(file)) as suspensions:
        processes = [program(START) for _ in range(4)]
        for process in processes:
            go(process)
        all_have_started(suspensions, processes)

        drive(suspensions.suspend("agent:bot", "misuse"))
        running = drive(suspensions.running())

        counts = [int(said(process)) for process in processes]
        assert sum(counts) == len(running) == len(drive(suspensions.running()))
        assert all(counts)


def test_what_a_killed_process_reserved_stays_counted_and_its_marks_go(
    file: Path, program: Callable[[str], subprocess.Popen[str]]
) -> None:
    holder = program(HOLD)
    with closing(SqliteBudgets(file)) as budgets, closing(SqliteSuspensions(file)) as suspensions:
        assert ["held"] == drive(suspensions.running())

        holder.send_signal(signal.SIGKILL)
        holder.wait()

        assert [] == drive(suspensions.running())
        assert ["1"] == drive(budgets.standing(["agent:bot/calls"]))


@once
def test_of_eight_processes_that_take_the_same_tasks_one_has_each(
    file: Path, program: Callable[[str], subprocess.Popen[str]]
) -> None:
    with closing(SqliteParkedTasks(file, KEY)) as tasks:
        for number in range(60):
            drive(tasks.park(Parked(id=f"t{number}", state=Secret("s"), expires_at=200.0)))
        lapsing = [f"e{number}" for number in range(40)]
        for name in lapsing:
            drive(tasks.park(Parked(id=name, state=Secret("s"), expires_at=100.0)))
        processes = [program(TAKE) for _ in range(8)]
        for process in processes:
            go(process)

        found = [(said(process).split(), said(process).split()) for process in processes]

        assert sorted(f"t{number}" for number in range(60)) == sorted(name for taken, _ in found for name in taken)
        assert sorted(lapsing) == sorted(name for _, lapsed in found for name in lapsed)


@once
def test_what_a_killed_process_parked_is_there_and_what_it_took_is_not(
    file: Path, program: Callable[[str], subprocess.Popen[str]]
) -> None:
    holder = program(PARK)
    holder.send_signal(signal.SIGKILL)
    holder.wait()

    with closing(SqliteParkedTasks(file, KEY)) as tasks:
        kept, taken = drive(tasks.take("kept", 100.0)), drive(tasks.take("taken", 100.0))

    assert kept is not None
    assert ("kept", 200.0, None) == (kept.state.reveal(), kept.expires_at, taken)


def test_forked_child_shares_the_state_and_is_somebody_else(file: Path) -> None:
    command = [sys.executable, "-W", "error", "-c", FORK, str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert "['3'] ['parent']\nagent:bot\n" == done.stdout, done.stderr


def test_one_file_holds_everything_and_survives_a_restart(file: Path) -> None:
    request = ApprovalRequest(call="c", tool="t", arguments="", digest="d", chain="c", purpose="p", step="s")
    asked = Question(id="q", binding="b", request=request, task="t", asked_at=1.0, expires_at=9.0)
    with (
        closing(SqliteLedger(file, b"a key of the tests, 32 bytes long")),
        closing(SqliteBudgets(file)) as budgets,
        closing(SqliteSuspensions(file)) as suspensions,
        closing(SqliteApprovals(file)) as approvals,
    ):
        drive(budgets.reserve(CALLS, 0.0))
        drive(suspensions.suspend("agent:bot", "misuse"))
        drive(approvals.ask(asked))
        drive(approvals.answer("q", Verdict.APPROVED, "ann", 2.0))

    with (
        closing(SqliteBudgets(file)) as budgets,
        closing(SqliteSuspensions(file)) as suspensions,
        closing(SqliteApprovals(file)) as approvals,
    ):
        assert ["1"] == drive(budgets.standing(["agent:bot/calls"]))
        assert "agent:bot" == drive(suspensions.start("c", ["agent:bot"]))
        used = drive(approvals.use("b", 3.0))
        assert used is not None
        assert "ann" == used.by


def test_ledger_of_an_earlier_version_gains_the_tables(file: Path) -> None:
    SqliteLedger(file, b"a key of the tests, 32 bytes long").close()
    with closing(sqlite3.connect(file)) as raw:
        tables = (
            "counters", "entries", "retries", "epochs", "stops", "running", "runners", "questions", "redeemed",
            "parked",
        )  # fmt: skip
        for table in tables:
            raw.execute(f"DROP TABLE {table}")
        raw.execute("PRAGMA user_version = 1")
        raw.commit()

    with closing(SqliteBudgets(file)) as budgets:
        assert isinstance(drive(budgets.reserve(CALLS, 0.0)), Reservation)


def test_file_of_the_version_before_gains_parked_tasks_and_keeps_what_it_has(file: Path) -> None:
    with closing(SqliteRedemptions(file)) as redemptions:
        assert drive(redemptions.redeem("one", time.time() + 600, time.time()))
    with closing(sqlite3.connect(file)) as raw:
        raw.execute("DROP TABLE parked")
        raw.execute("PRAGMA user_version = 3")
        raw.commit()

    with closing(SqliteParkedTasks(file, KEY)) as tasks, closing(SqliteRedemptions(file)) as redemptions:
        drive(tasks.park(Parked(id="t", state=Secret("s"), expires_at=200.0)))

        assert drive(tasks.take("t", 100.0)) is not None
        assert not drive(redemptions.redeem("one", time.time() + 600, time.time()))


# counters -------------------------------------------------------------------------------------------------------


@exact
def test_counters_are_those_of_the_memory_whatever_happens(file: Path) -> None:
    clock = FakeClock()
    with closing(SqliteBudgets(file, clock=clock)) as budgets:
        machine = type("SqliteAlike", (Alike,), {"store": budgets, "clock": clock})
        run_state_machine_as_test(machine, settings=settings(max_examples=60, stateful_step_count=25, deadline=None))


def test_times_of_the_caller_are_not_looked_at(file: Path) -> None:
    clock = FakeClock()
    window = [[Candidate("s", (Charge("agent:bot/calls", "1", per=60.0),))]]
    with closing(SqliteBudgets(file, clock=clock)) as budgets:
        assert isinstance(drive(budgets.reserve(window, 0.0)), Reservation)

        assert not isinstance(drive(budgets.reserve(window, 1e12)), Reservation)


def test_clock_that_was_set_back_keeps_charges_counted(file: Path) -> None:
    clock = FakeClock()
    window = [[Candidate("s", (Charge("agent:bot/calls", "1", per=60.0),))]]
    with closing(SqliteBudgets(file, clock=clock)) as budgets:
        drive(budgets.reserve(window, 0.0))

        clock.now -= 3600

        assert not isinstance(drive(budgets.reserve(window, 0.0)), Reservation)


def test_counters_of_tasks_that_crashed_are_dropped_after_a_month_and_those_of_agents_stay(file: Path) -> None:
    clock = FakeClock()
    levels = [[Candidate("s", (Charge("task:lost/x", "9"), Charge("agent:bot/x", "9")))]]
    with closing(SqliteBudgets(file, clock=clock)) as budgets:
        drive(budgets.reserve(levels, 0.0))
        clock.advance(31 * 86_400)

        drive(budgets.forget("task:another"))

        assert ["", "1"] == drive(budgets.standing(["task:lost/x", "agent:bot/x"]))


# what cannot be written ------------------------------------------------------------------------------------------


@closed
def test_file_that_others_hold_denies_within_the_timeout(file: Path) -> None:
    with (
        closing(SqliteBudgets(file, timeout=0.2)) as budgets,
        closing(SqliteSuspensions(file, timeout=0.2)) as suspensions,
        closing(SqliteParkedTasks(file, KEY, timeout=0.2)) as tasks,
        closing(sqlite3.connect(file, isolation_level=None)) as other,
    ):
        task = Parked(id="t", state=Secret("s"), expires_at=200.0)
        other.execute("BEGIN IMMEDIATE")
        began = time.monotonic()

        with pytest.raises(Unavailable, match="another process held it"):
            drive(budgets.reserve(CALLS, 0.0))
        with pytest.raises(Unavailable, match="another process held it"):
            drive(suspensions.start("c", ["all"]))
        with pytest.raises(Unavailable, match="another process held it"):
            drive(suspensions.suspend("all", "stop"))
        for work in (tasks.park(task), tasks.take("t", 100.0), tasks.lapsed(100.0)):
            with pytest.raises(Unavailable, match="another process held it"):
                drive(work)

        assert time.monotonic() - began < 5
        other.execute("ROLLBACK")
        assert isinstance(drive(budgets.reserve(CALLS, 0.0)), Reservation)
        assert [] == drive(suspensions.standing())
        assert drive(tasks.take("t", 100.0)) is None


@closed
def test_full_file_denies_and_takes_nothing(file: Path) -> None:
    with closing(SqliteBudgets(file, most=300_000)) as budgets:
        with pytest.raises(Unavailable, match="full"):
            for number in range(5000):
                levels = [[Candidate("s", (Charge(f"task:{number}/{'x' * 1000}", "9"), Charge("agent:bot/x", "9999")))]]
                drive(budgets.reserve(levels, 0.0))

        assert [str(number)] == drive(budgets.standing(["agent:bot/x"]))


@closed
@pytest.mark.parametrize("kind", [SqliteBudgets, SqliteSuspensions, SqliteApprovals])
def test_file_of_something_else_and_one_that_others_can_use_are_refused(file: Path, kind: type[SharedFile]) -> None:
    with closing(sqlite3.connect(file)) as other:
        other.execute("CREATE TABLE mine (x)")
    file.chmod(0o600)
    with pytest.raises(ConfigurationError, match="database of something else"):
        kind(file)

    file.chmod(0o666)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        kind(file)


@closed
def test_file_that_was_removed_while_it_was_used_denies(file: Path) -> None:
    with closing(SqliteSuspensions(file)) as suspensions:
        drive(suspensions.start("c", ["all"]))
        os.remove(file)

        with pytest.raises(Unavailable, match="removed or replaced"):
            drive(suspensions.start("d", ["all"]))


@closed
def test_full_file_keeps_the_task_that_is_there(file: Path) -> None:
    with closing(SqliteParkedTasks(file, KEY, most=300_000)) as tasks:
        drive(tasks.park(Parked(id="t", state=Secret("first"), expires_at=200.0)))
        with closing(SqliteBudgets(file, most=300_000)) as budgets, pytest.raises(Unavailable, match="full"):
            for number in range(5000):
                drive(budgets.reserve([[Candidate("s", (Charge(f"task:{number}/{'x' * 1000}", "9"),))]], 0.0))

        with pytest.raises(Unavailable, match="full"):
            drive(tasks.park(Parked(id="t", state=Secret("x" * 100_000), expires_at=200.0)))

        found = drive(tasks.take("t", 100.0))
        assert found is not None
        assert "first" == found.state.reveal()


@closed
def test_name_that_cannot_be_stored_denies(file: Path) -> None:
    with closing(SqliteBudgets(file)) as budgets, pytest.raises(Unavailable, match="surrogate"):
        drive(budgets.reserve([[Candidate("s", (Charge("task:\ud800/x", "9"),))]], 0.0))
    with closing(SqliteParkedTasks(file, KEY)) as tasks:
        for work in (
            tasks.park(Parked(id="\ud800", state=Secret("s"), expires_at=200.0)), tasks.take("\ud800", 100.0)
        ):  # fmt: skip
            with pytest.raises(Unavailable, match="surrogate"):
                drive(work)


@closed
def test_question_that_was_damaged_is_not_taken_for_approved(file: Path) -> None:
    request = ApprovalRequest(call="c", tool="t", arguments="", digest="d", chain="c", purpose="p", step="s")
    with closing(SqliteApprovals(file)) as approvals:
        drive(approvals.ask(Question(id="q", binding="b", request=request, task="t", asked_at=1.0, expires_at=9.0)))
        drive(approvals.answer("q", Verdict.APPROVED, "ann", 2.0))
        with closing(sqlite3.connect(file)) as raw:
            raw.execute("UPDATE questions SET question = X'7B'")
            raw.commit()

        with pytest.raises(Unavailable, match="cannot be read"):
            drive(approvals.use("b", 3.0))


def test_closed_store_denies_and_may_be_closed_again(file: Path) -> None:
    for kind in (SqliteBudgets, SqliteSuspensions, SqliteApprovals):
        made = kind(file)
        assert waits(made)
        made.close()
        made.close()
    with pytest.raises(Unavailable, match="closed"):
        drive(SqliteBudgets.standing(made, ["a/b"]))  # type: ignore[arg-type]  # any of them


def test_call_that_ran_is_settled_without_touching_the_file(file: Path) -> None:
    with closing(SqliteBudgets(file, timeout=0.1)) as budgets:
        taken = drive(budgets.reserve(CALLS, 0.0))
        assert isinstance(taken, Reservation)
        with closing(sqlite3.connect(file, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")

            drive(budgets.settle(taken, Settlement.RAN))
