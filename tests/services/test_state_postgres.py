"""Shared state in PostgreSQL: the contract of the stores, many processes, a lost listener, and a server that stops."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, LiteralString

import anyio
import psycopg
import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test
from msgspec import structs
from psycopg import sql

from agentguard import ConfigurationError
from agentguard._drive import drive
from agentguard.cli.main import main
from agentguard.errors import Unavailable
from agentguard.keys import SigningKey
from agentguard.model.lease import Ending, Lease, LeaseKey, LeaseState, Secret
from agentguard.ports import Candidate, Charge, Exhausted, Ledger, Parked, Reservation, waits
from agentguard.state.approvals_postgres import PostgresApprovals
from agentguard.state.budgets_postgres import PostgresBudgets
from agentguard.state.ledger_postgres import PostgresLedger
from agentguard.state.listener import TRUST
from agentguard.state.parked_limits import MAX_KEPT
from agentguard.state.parked_postgres import PostgresParkedTasks
from agentguard.state.postgres import PostgresStore
from agentguard.state.postgres_schema import NEWEST
from agentguard.state.postgres_session import Rows, Session, _by_host
from agentguard.state.redemptions_postgres import PostgresRedemptions
from agentguard.state.suspensions_postgres import PostgresSuspensions
from agentguard.testing import FakeClock
from tests.services import install, servers
from tests.services.endpoints import Postgres, Services
from tests.services.stack import FOLDER_PREFIX
from tests.state.alike import Alike
from tests.state.contract import (
    ApprovalsContract,
    BudgetsContract,
    ParkedTasksContract,
    RedemptionsContract,
    SuspensionsContract,
)
from tests.state.processes import all_have_started

KEY = b"a key of the tests, 32 bytes long"
TABLES = (
    "scopes", "counters", "entries", "retries", "stops", "running", "questions", "runners", "owners", "leases",
    "redeemed", "parked",
)  # fmt: skip
CALLS = [[Candidate("s", (Charge("agent:bot/calls", "250"),))]]
exact = pytest.mark.control("3 budgets are exact over hosts")
stopped = pytest.mark.control("9 a stop reaches every host")
fresh = pytest.mark.control("9 a read trusts what it heard for one second")
closed = pytest.mark.control("2 state out of reach denies within the deadline")
durable = pytest.mark.control("8 no row in PostgreSQL, no credential")
once = pytest.mark.control("a parked task goes on once, on one host")
sealed = pytest.mark.control("parked tasks are sealed before they are sent")
bounded = pytest.mark.control("parked tasks in PostgreSQL are bounded")

SPEND = textwrap.dedent("""
    import os, sys
    from agentguard._drive import drive
    from agentguard.ports import Candidate, Charge, Reservation
    from agentguard.state.budgets_postgres import PostgresBudgets
    from agentguard.state.postgres import PostgresStore
    store = PostgresStore(os.environ["STATE_DSN"])
    budgets = PostgresBudgets(store)
    names = ["agent:bot/calls", "task:t/calls"]
    if int(sys.argv[1]) % 2:
        names.reverse()
    levels = [[Candidate("s", (Charge(name, "250"),))] for name in names]
    levels.append([Candidate("t", (Charge("task:t/window", "1000", per=3600.0),))])
    print("ready", flush=True)
    sys.stdin.readline()
    print(sum(isinstance(drive(budgets.reserve(levels, 0.0)), Reservation) for _ in range(200)), flush=True)
    store.close()
""")
START = textwrap.dedent("""
    import os, sys
    from agentguard._drive import drive
    from agentguard.state.postgres import PostgresStore
    from agentguard.state.suspensions_postgres import PostgresSuspensions
    store = PostgresStore(os.environ["STATE_DSN"])
    suspensions = PostgresSuspensions(store)
    print("ready", flush=True)
    sys.stdin.readline()
    number = 0
    while drive(suspensions.start(f"{os.getpid()}-{number}", ["all", "agent:bot"])) == "":
        number += 1
    print(number, flush=True)
    sys.stdin.readline()
    suspensions.close(), store.close()
""")
HOLD = textwrap.dedent("""
    import os, sys, time
    from agentguard._drive import drive
    from agentguard.model.lease import Lease, LeaseKey, Secret
    from agentguard.state.ledger_postgres import PostgresLedger
    from agentguard.state.postgres import PostgresStore
    from agentguard.state.suspensions_postgres import PostgresSuspensions
    store = PostgresStore(os.environ["STATE_DSN"])
    key, now = LeaseKey("", "s", "r", ("s", "a"), "t", "https://api.test", (), ""), time.time()
    lease = Lease(id="held", issuer="i", key=key, task="t", issued_at=now, expires_at=now + 600)
    ledger, suspensions = PostgresLedger(store, b"a key of the tests, 32 bytes long"), PostgresSuspensions(store)
    drive(ledger.pending(lease))
    drive(ledger.active(lease, Secret("its handle")))
    drive(suspensions.start("held", ["all"]))
    print("ready", flush=True)
    sys.stdin.readline()
""")
FORK = textwrap.dedent("""
    import os
    from agentguard._drive import drive
    from agentguard.ports import Candidate, Charge
    from agentguard.state.budgets_postgres import PostgresBudgets
    from agentguard.state.postgres import PostgresStore
    from agentguard.state.suspensions_postgres import PostgresSuspensions
    store = PostgresStore(os.environ["STATE_DSN"])
    budgets, suspensions = PostgresBudgets(store), PostgresSuspensions(store)
    take = lambda: drive(budgets.reserve([[Candidate("s", (Charge("agent:bot/calls", "250"),))]], 0.0))
    take()
    drive(suspensions.start("parent", ["all"]))
    assert drive(suspensions.start("read", ["all"], reads=True)) == ""
    child = os.fork()
    if child == 0:
        take()
        assert drive(suspensions.start("child", ["all"])) == ""
        assert drive(suspensions.start("read", ["all"], reads=True)) == ""
        suspensions.close(), store.close()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    take()
    assert drive(suspensions.start("read", ["all"], reads=True)) == ""
    print(drive(budgets.standing(["agent:bot/calls"])), drive(suspensions.running()))
    suspensions.close(), store.close()
""")


@contextmanager
def _database(server: Postgres) -> Iterator[str]:
    """A database of one's own; its connection string."""
    name = f"state_{secrets.token_hex(4)}"
    with psycopg.connect(server.dsn, autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    try:
        yield f"{server.dsn.rpartition('/')[0]}/{name}"
    finally:
        with psycopg.connect(server.dsn, autocommit=True) as admin:
            admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture(scope="module")
def dsn(services: Services) -> Iterator[str]:
    with _database(services.postgres) as made:
        with closing(PostgresStore(made)) as store:
            store.migrate()
        with psycopg.connect(made, autocommit=True) as admin:
            admin.execute("CREATE TABLE public.clock AS SELECT 0::float8 AS now")
        yield made


@pytest.fixture
def bare(services: Services) -> Iterator[str]:
    """A database without our schema."""
    with _database(services.postgres) as made:
        yield made


@pytest.fixture
def admin(dsn: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        for table in TABLES:
            connection.execute(sql.SQL("DELETE FROM agentguard.{}").format(sql.Identifier(table)))
        connection.execute("UPDATE agentguard.epochs SET epoch = 0, revision = revision + 1")
        yield connection


@pytest.fixture
def store(dsn: str, admin: psycopg.Connection[Any]) -> Iterator[PostgresStore]:
    with closing(PostgresStore(dsn)) as made:
        yield made


@pytest.fixture
def suspensions(store: PostgresStore) -> Iterator[PostgresSuspensions]:
    with closing(PostgresSuspensions(store)) as made:
        yield made


@pytest.fixture
def ledger(store: PostgresStore) -> Iterator[PostgresLedger]:
    with closing(PostgresLedger(store, KEY)) as made:
        yield made


@pytest.fixture
def program(dsn: str) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []

    def start(text: str, *arguments: str) -> subprocess.Popen[str]:
        command, env = [sys.executable, "-W", "error", "-c", text, *arguments], {**os.environ, "STATE_DSN": dsn}
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
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


def eventually(holds: Callable[[], bool], seconds: float = 5.0) -> float:
    """Wait until it holds; tell how long that took."""
    began = time.monotonic()
    while not holds():
        assert time.monotonic() - began < seconds
        time.sleep(0.01)
    return time.monotonic() - began


# the contract ---------------------------------------------------------------------------------------------------


class ServersClock(FakeClock):
    """A clock in a table of the server."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        super().__init__()
        self.connection = connection
        self.advance(0)

    def advance(self, seconds: float) -> None:
        super().advance(seconds)
        self.connection.execute("UPDATE public.clock SET now = %s", (self.now,))


class Clocked(PostgresBudgets):
    _clock: ClassVar[LiteralString] = "(SELECT now FROM public.clock)"


class TestPostgresBudgets(BudgetsContract):
    @pytest.fixture
    def clock(self, admin: psycopg.Connection[Any]) -> ServersClock:
        return ServersClock(admin)

    @pytest.fixture
    def budgets(self, store: PostgresStore, clock: ServersClock) -> PostgresBudgets:
        return Clocked(store)

    @exact
    def test_counters_are_those_of_the_memory_whatever_happens(
        self, budgets: PostgresBudgets, clock: ServersClock
    ) -> None:
        machine = type("PostgresAlike", (Alike,), {"store": budgets, "clock": clock})
        run_state_machine_as_test(machine, settings=settings(max_examples=25, stateful_step_count=20, deadline=None))


class TestPostgresSuspensions(SuspensionsContract):
    pass


class RealClock:
    """The time that the server's clock shows too; moving on takes as long."""

    def __call__(self) -> float:
        return time.time()

    def advance(self, seconds: float) -> None:
        time.sleep(seconds)


class TestPostgresRedemptions(RedemptionsContract):
    @pytest.fixture
    def clock(self) -> RealClock:
        return RealClock()

    @pytest.fixture
    def redemptions(self, store: PostgresStore) -> PostgresRedemptions:
        return PostgresRedemptions(store)


class TestPostgresApprovals(ApprovalsContract):
    @pytest.fixture
    def clock(self) -> FakeClock:
        return FakeClock(time.time())

    @pytest.fixture
    def approvals(self, store: PostgresStore) -> PostgresApprovals:
        return PostgresApprovals(store)

    def test_servers_clock_ends_a_question_too(self, approvals: PostgresApprovals, clock: FakeClock) -> None:
        behind = FakeClock(clock.now - 3600)
        self.ask(approvals, self.question(behind, expires_at=behind() + 600))

        assert not self.answer(approvals, behind)
        assert [] == self.waiting(approvals, behind)


class TestPostgresParkedTasks(ParkedTasksContract):
    @pytest.fixture
    def clock(self) -> RealClock:
        return RealClock()

    @pytest.fixture
    def parked_tasks(self, store: PostgresStore) -> PostgresParkedTasks:
        return PostgresParkedTasks(store, KEY)


# budgets --------------------------------------------------------------------------------------------------------


@exact
def test_case_48_eight_processes_spend_exactly_one_budget(
    store: PostgresStore, program: Callable[..., subprocess.Popen[str]]
) -> None:
    processes = [program(SPEND, str(number)) for number in range(8)]
    for process in processes:
        go(process)

    taken = [int(said(process)) for process in processes]

    assert 250 == sum(taken)
    keys = ["agent:bot/calls", "task:t/calls", "task:t/window"]
    assert ["250"] * 3 == drive(PostgresBudgets(store).standing(keys))


def test_windows_slide_by_the_servers_clock(store: PostgresStore, admin: psycopg.Connection[Any]) -> None:
    window = [[Candidate("s", (Charge("agent:bot/calls", "1", per=60.0),))]]
    budgets = PostgresBudgets(store)
    drive(budgets.reserve(window, 0.0))
    assert isinstance(drive(budgets.reserve(window, 1e12)), Exhausted)

    ((age,),) = admin.execute("SELECT extract(epoch FROM now()) - at FROM agentguard.entries").fetchall()
    assert abs(age) < 10
    admin.execute("UPDATE agentguard.entries SET at = at - 61")

    assert isinstance(drive(budgets.reserve(window, 0.0)), Reservation)


def test_counters_of_tasks_that_crashed_are_dropped_after_a_month(
    store: PostgresStore, admin: psycopg.Connection[Any]
) -> None:
    budgets = PostgresBudgets(store)
    drive(budgets.reserve([[Candidate("s", (Charge("task:lost/x", "9"), Charge("agent:bot/x", "9")))]], 0.0))
    admin.execute("UPDATE agentguard.scopes SET touched = touched - 31 * 86400")

    drive(budgets.forget("task:another"))

    assert ["", "1"] == drive(budgets.standing(["task:lost/x", "agent:bot/x"]))


@closed
def test_counter_that_somebody_holds_denies_within_the_deadline(dsn: str, store: PostgresStore) -> None:
    drive(PostgresBudgets(store).reserve(CALLS, 0.0))
    with closing(PostgresStore(dsn, timeout=0.5)) as hurried, psycopg.connect(dsn) as other:
        other.execute("SELECT * FROM agentguard.scopes FOR UPDATE")
        began = time.monotonic()

        with pytest.raises(Unavailable):
            drive(PostgresBudgets(hurried).reserve(CALLS, 0.0))

        assert time.monotonic() - began < 1
    assert ["1"] == drive(PostgresBudgets(store).standing(["agent:bot/calls"]))


@closed
def test_names_that_cannot_be_stored_deny(store: PostgresStore) -> None:
    for name in ("task:\0/x", "task:\ud800/x"):
        with pytest.raises(Unavailable, match="cannot be stored") as raised:
            drive(PostgresBudgets(store).reserve([[Candidate("s", (Charge(name, "9"),))]], 0.0))
        assert raised.value.__context__ is None


@pytest.mark.anyio
async def test_more_callers_than_connections_wait_for_their_turn(store: PostgresStore) -> None:
    budgets, taken = PostgresBudgets(store), []

    async def take() -> None:
        taken.append(await budgets.reserve(CALLS, 0.0))

    async with anyio.create_task_group() as group:
        for _ in range(30):
            group.start_soon(take)

    assert 30 == sum(isinstance(one, Reservation) for one in taken)


# suspensions ----------------------------------------------------------------------------------------------------


@stopped
def test_case_60_no_write_starts_on_any_host_after_a_stop_returned(
    suspensions: PostgresSuspensions, program: Callable[..., subprocess.Popen[str]]
) -> None:
    processes = [program(START) for _ in range(4)]
    for process in processes:
        go(process)
    all_have_started(suspensions, processes)

    drive(suspensions.suspend("agent:bot", "misuse"))
    running = drive(suspensions.running())

    counts = [int(said(process)) for process in processes]
    assert sum(counts) == len(running) == len(drive(suspensions.running()))
    assert all(counts)


@stopped
def test_call_that_starts_waits_for_a_stop_that_is_being_written(dsn: str, suspensions: PostgresSuspensions) -> None:
    with psycopg.connect(dsn) as stopping, ThreadPoolExecutor(1) as pool:
        stopping.execute("SELECT pg_advisory_xact_lock(4278092, 2)")
        stopping.execute("INSERT INTO agentguard.stops VALUES ('all', 'stop', 0, 1)")
        starting = pool.submit(lambda: drive(suspensions.start("w", ["all"])))
        time.sleep(0.2)
        assert not starting.done()

        stopping.commit()

        assert "all" == starting.result(5)


@stopped
def test_stop_waits_for_a_call_that_is_being_marked(dsn: str, suspensions: PostgresSuspensions) -> None:
    with psycopg.connect(dsn) as starting, ThreadPoolExecutor(1) as pool:
        starting.execute("SELECT pg_advisory_xact_lock_shared(4278092, 2)")
        stopping = pool.submit(lambda: drive(suspensions.suspend("all", "stop")))
        time.sleep(0.2)
        assert not stopping.done()

        starting.commit()

        stopping.result(5)


@stopped
def test_write_asks_the_store_and_not_what_it_heard(dsn: str, suspensions: PostgresSuspensions) -> None:
    with closing(PostgresStore(dsn)) as second, closing(PostgresSuspensions(second)) as elsewhere:
        assert "" == drive(elsewhere.start("r", ["all"], reads=True))
        for number in range(20):
            drive(suspensions.suspend("all", "stop"))
            assert "all" == drive(elsewhere.start(f"w{number}", ["all"]))
            drive(suspensions.lift("all"))
            assert "" == drive(elsewhere.start(f"v{number}", ["all"]))


@fresh
def test_read_hears_of_a_stop_on_another_host_within_a_second(dsn: str, suspensions: PostgresSuspensions) -> None:
    with closing(PostgresStore(dsn)) as second, closing(PostgresSuspensions(second)) as elsewhere:
        assert "" == drive(elsewhere.start("r", ["all"], reads=True))

        drive(suspensions.suspend("all", "stop"))

        assert eventually(lambda: drive(elsewhere.start("r", ["all"], reads=True)) == "all") < TRUST


def _cut_listeners(admin: psycopg.Connection[Any]) -> None:
    query = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = %s"
    for (pid,) in admin.execute(query, ("agentguard listener",)).fetchall():
        admin.execute("SELECT pg_terminate_backend(%s)", (pid,))


class Unreachable:
    """A store behind a network that is gone."""

    timeout = 1.0
    asked = 0

    def connect(self, deadline: float) -> Any:
        self.asked += 1
        raise Unavailable("the network is gone")


@fresh
def test_lost_listener_denies_reads_and_catches_up(
    dsn: str, suspensions: PostgresSuspensions, admin: psycopg.Connection[Any]
) -> None:
    assert "" == drive(suspensions.start("r", ["all"], reads=True))
    listener = suspensions._listener
    reachable, unreachable = listener._store, Unreachable()
    listener._store = unreachable  # type: ignore[assignment]  # where the listener makes its next connection
    _cut_listeners(admin)
    eventually(lambda: unreachable.asked > 0)
    with pytest.raises(Unavailable, match="listener is lost"):
        drive(suspensions.start("r", ["all"], reads=True))
    epoch, _ = drive(suspensions.news(0))
    assert "" == drive(suspensions.start("w", ["agent:bot"]))  # a write asks the store on a connection it has
    with closing(PostgresStore(dsn)) as second, closing(PostgresSuspensions(second)) as elsewhere:
        drive(elsewhere.suspend("agent:bot", "while nobody listened"))
    assert ["agent:bot"] == [stop.key for stop in drive(suspensions.news(epoch))[1]]

    listener._store = reachable

    eventually(listener.mirror.fresh)
    assert "agent:bot" == drive(suspensions.start("r", ["agent:bot"], reads=True))
    assert ["agent:bot"] == [stop.key for stop in drive(suspensions.news(epoch))[1]]


@fresh
def test_stop_is_heard_also_where_a_restored_server_gives_it_a_revision_that_was_heard_before(
    suspensions: PostgresSuspensions, admin: psycopg.Connection[Any]
) -> None:
    listener = suspensions._listener
    drive(suspensions.suspend("agent:one", "before the failover"))
    assert "agent:one" == drive(suspensions.suspended(["agent:one"]))
    eventually(lambda: "agent:one" in listener.mirror._stops)
    heard = listener.mirror.revision
    reachable, listener._store = listener._store, Unreachable()  # type: ignore[assignment]  # see above
    _cut_listeners(admin)
    eventually(lambda: not listener.mirror.fresh())
    # What a standby lacked that became the primary, and a stop that was set there.
    admin.execute("UPDATE agentguard.stops SET key = 'agent:two'")

    listener._store = reachable

    eventually(listener.mirror.fresh)
    assert heard == listener.mirror.revision
    assert "agent:two" == drive(suspensions.start("r", ["agent:two"], reads=True))
    assert "" == drive(suspensions.start("r", ["agent:one"], reads=True))


def test_listener_whose_thread_could_not_begin_begins_later(
    store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    with closing(PostgresSuspensions(store)) as suspensions:
        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", full)
            with pytest.raises(RuntimeError):
                drive(suspensions.start("r", ["all"], reads=True))
            suspensions._listener.stop()
            suspensions._listener._stopped.clear()

        assert "" == drive(suspensions.start("r", ["all"], reads=True))


@fresh
def test_listener_that_hears_nothing_is_not_trusted(store: PostgresStore) -> None:
    with closing(PostgresSuspensions(store)) as suspensions:
        assert "" == drive(suspensions.start("r", ["all"], reads=True))
        suspensions._listener.stop()
        suspensions._listener.mirror._at = time.clock_gettime(time.CLOCK_BOOTTIME) - TRUST - 0.01

        with pytest.raises(Unavailable, match=r"last heard from 1\.0 s ago"):
            drive(suspensions.start("r", ["all"], reads=True))


def test_dead_process_leaves_no_marks_and_its_rows_are_adopted_with_their_handles(
    suspensions: PostgresSuspensions, ledger: PostgresLedger, program: Callable[..., subprocess.Popen[str]]
) -> None:
    holder = program(HOLD)
    assert ["held"] == drive(suspensions.running())
    assert [] == drive(ledger.adopt(time.time()))

    holder.send_signal(signal.SIGKILL)
    holder.wait()

    assert [] == drive(suspensions.running())
    (owed,) = drive(ledger.adopt(time.time()))
    assert ("held", LeaseState.ACTIVE) == (owed.lease.id, owed.state)
    assert owed.handle is not None
    assert "its handle" == owed.handle.reveal()


def test_call_that_got_no_answer_leaves_no_mark_for_long(store: PostgresStore) -> None:
    with closing(PostgresSuspensions(store)) as suspensions:
        drive(suspensions.start("first", ["all"]))

        class Silent:
            def run(self, *_: object) -> Any:
                raise TimeoutError

        with pytest.raises(TimeoutError):
            suspensions._start(Silent(), 0.0, "doubtful", ["all"])  # type: ignore[arg-type]  # a session that times out
        store.call(
            lambda session, deadline: session.run(
                sql.SQL("INSERT INTO agentguard.running VALUES ('doubtful', 'x', 0)"), deadline
            )
        )

        drive(suspensions.finish("first"))

        assert [] == drive(suspensions.running())


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # trio waits for its threads
async def test_call_whose_caller_was_cancelled_while_it_was_marked_leaves_no_mark(
    dsn: str, suspensions: PostgresSuspensions, anyio_backend: str
) -> None:
    await suspensions.start("first", ["all"])  # connected
    with psycopg.connect(dsn) as stop:
        stop.execute("SELECT pg_advisory_xact_lock(4278092, 2)")
        starts = asyncio.ensure_future(suspensions.start("given up", ["all"]))
        await asyncio.sleep(0.3)  # the server has been asked
        starts.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starts
        finishes = asyncio.ensure_future(suspensions.finish("given up"))
        await asyncio.sleep(0.1)
    await finishes

    assert ["first"] == await suspensions.running()


def test_call_whose_end_got_no_answer_is_not_shown_as_running_for_long(
    suspensions: PostgresSuspensions, monkeypatch: pytest.MonkeyPatch
) -> None:
    for call in ("first", "second"):
        drive(suspensions.start(call, ["all"]))

    def silent(*_: object) -> Any:
        raise TimeoutError

    with monkeypatch.context() as patched:
        patched.setattr(Session, "run", silent)
        with pytest.raises(Unavailable):
            drive(suspensions.finish("first"))

    drive(suspensions.finish("second"))

    assert [] == drive(suspensions.running())


def test_forked_child_has_connections_and_marks_of_its_own(dsn: str, store: PostgresStore) -> None:
    command = [sys.executable, "-W", "error", "-c", FORK]
    env = {**os.environ, "STATE_DSN": dsn}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)

    assert "['3'] ['parent']\n" == done.stdout, done.stderr


# parked tasks ---------------------------------------------------------------------------------------------------


def parked(identifier: str = "t1", state: str = "s", *, ends: float = 600) -> Parked:
    return Parked(id=identifier, state=Secret(state), expires_at=time.time() + ends)


@once
def test_of_eight_connections_that_take_the_same_tasks_one_has_each(dsn: str, store: PostgresStore) -> None:
    parking = PostgresParkedTasks(store, KEY)
    names, ended = [f"t{number}" for number in range(40)], [f"e{number}" for number in range(40)]
    for name in names:
        drive(parking.park(parked(name)))
    for name in ended:
        drive(parking.park(parked(name, ends=-1)))
    stores = [PostgresStore(dsn, timeout=20) for _ in range(8)]

    def take(one: PostgresStore) -> tuple[list[str], list[str]]:
        tasks = PostgresParkedTasks(one, KEY)
        taken = [name for name in names if drive(tasks.take(name, time.time())) is not None]
        return taken, [parked.id for parked in drive(tasks.lapsed(time.time()))]

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(take, stores))

    assert sorted(names) == sorted(name for taken, _ in found for name in taken)
    assert sorted(ended) == sorted(name for _, lapsed in found for name in lapsed)
    for opened in stores:
        opened.close()


@once
def test_task_that_is_parked_again_while_it_is_taken_is_taken_as_it_is_now(dsn: str, store: PostgresStore) -> None:
    tasks = PostgresParkedTasks(store, KEY)
    drive(tasks.park(parked()))
    with psycopg.connect(dsn) as other, ThreadPoolExecutor(1) as pool:
        other.execute("UPDATE agentguard.parked SET expires_at = 0")
        taking = pool.submit(lambda: drive(tasks.take("t1", time.time())))
        time.sleep(0.2)
        assert not taking.done()

        other.commit()

        assert taking.result(5) is None


@once
def test_task_whose_rows_did_not_arrive_is_not_taken(dsn: str, store: PostgresStore) -> None:
    tasks = PostgresParkedTasks(store, KEY)
    drive(tasks.park(parked()))
    drive(tasks.park(parked("ended", ends=-1)))

    class Lost(Session):
        """A connection that breaks when the server has answered."""

        def run(self, statements: sql.Composable, deadline: float) -> list[Rows]:
            found = super().run(statements, deadline)
            if "DELETE" in statements.as_string(self.connection):
                raise TimeoutError
            return found

    with closing(PostgresStore(dsn)) as second:
        second.connect = lambda deadline: Lost(second._dsn, deadline, 2.0)  # type: ignore[method-assign]  # a fake
        elsewhere = PostgresParkedTasks(second, KEY)
        _denied(lambda: drive(elsewhere.take("t1", time.time())))
        _denied(lambda: drive(elsewhere.lapsed(time.time())))

    assert drive(tasks.take("t1", time.time())) is not None
    # Its row is passed over until the server has seen that the other connection is gone.
    eventually(lambda: ["ended"] == [one.id for one in drive(tasks.lapsed(time.time()))])


@once
def test_either_clock_ends_a_task_for_its_taker_and_both_for_the_others(
    store: PostgresStore, admin: psycopg.Connection[Any]
) -> None:
    tasks = PostgresParkedTasks(store, KEY)
    drive(tasks.park(parked(ends=600)))
    assert drive(tasks.take("t1", time.time() + 3600)) is None
    assert [] == drive(tasks.lapsed(time.time() + 3600))

    drive(tasks.park(parked(ends=-600)))
    assert drive(tasks.take("t1", time.time() - 3600)) is None
    assert [] == drive(tasks.lapsed(time.time() - 3600))

    assert ["t1"] == [one.id for one in drive(tasks.lapsed(time.time()))]


@once
def test_what_is_parked_and_taken_is_on_the_servers_disk(store: PostgresStore, admin: psycopg.Connection[Any]) -> None:
    admin.execute("CREATE TABLE public.commits (kind text, durable text)")
    admin.execute(
        "CREATE FUNCTION public.note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "INSERT INTO public.commits VALUES (tg_op, current_setting('synchronous_commit')); RETURN NULL; END $$"
    )
    admin.execute(
        "CREATE TRIGGER note AFTER INSERT OR DELETE ON agentguard.parked FOR EACH STATEMENT "
        "EXECUTE FUNCTION public.note()"
    )
    try:
        tasks = PostgresParkedTasks(store, KEY)
        drive(tasks.park(parked()))
        drive(tasks.take("t1", time.time()))
        drive(tasks.lapsed(time.time()))
        found = admin.execute("SELECT kind, durable FROM public.commits").fetchall()
    finally:
        admin.execute("DROP TRIGGER note ON agentguard.parked")
        admin.execute("DROP FUNCTION public.note")
        admin.execute("DROP TABLE public.commits")

    assert [("off",)] == admin.execute("SHOW synchronous_commit").fetchall()  # as it is where nobody asks
    assert [("DELETE", "on"), ("INSERT", "on"), ("DELETE", "on"), ("DELETE", "on")] == found


@sealed
def test_server_never_sees_a_state(store: PostgresStore, admin: psycopg.Connection[Any]) -> None:
    drive(PostgresParkedTasks(store, KEY).park(parked(state="a-secret-state")))

    rows = repr(admin.execute("SELECT *, decode(state, 'base64') FROM agentguard.parked").fetchall())

    assert "t1" in rows
    assert "a-secret-state" not in rows
    assert KEY.decode() not in rows


@sealed
def test_task_under_another_key_is_left_to_whoever_has_it(
    store: PostgresStore, admin: psycopg.Connection[Any], caplog: pytest.LogCaptureFixture
) -> None:
    tasks, other = PostgresParkedTasks(store, KEY), PostgresParkedTasks(store, KEY[::-1])
    drive(tasks.park(parked()))
    drive(tasks.park(parked("t2", ends=-1)))
    drive(tasks.park(parked("lost", ends=-31 * 86_400)))

    assert drive(other.take("t1", time.time())) is None
    assert "start with that key" in caplog.text
    assert [] == drive(other.lapsed(time.time()))
    drive(other.park(parked("theirs")))

    assert drive(tasks.take("t1", time.time())) is not None
    assert ["t2"] == [one.id for one in drive(tasks.lapsed(time.time()))]


@sealed
@pytest.mark.parametrize("change", ["expires_at = expires_at + 60", "state = 'no base64'", "state = 'AQ=='"])
def test_row_that_was_changed_is_not_opened(
    store: PostgresStore, admin: psycopg.Connection[Any], caplog: pytest.LogCaptureFixture, change: LiteralString
) -> None:
    tasks = PostgresParkedTasks(store, KEY)
    drive(tasks.park(parked()))
    admin.execute(sql.SQL("UPDATE agentguard.parked SET ") + sql.SQL(change))

    assert drive(tasks.take("t1", time.time())) is None

    assert "damaged or changed" in caplog.text


@bounded
def test_server_keeps_ten_thousand_tasks_and_replaces_any_of_them(
    store: PostgresStore, admin: psycopg.Connection[Any]
) -> None:
    tasks = PostgresParkedTasks(store, KEY)
    drive(tasks.park(parked()))
    admin.execute(
        "INSERT INTO agentguard.parked SELECT 'n' || i, 'k', extract(epoch FROM now()), '' "
        "FROM generate_series(1, %s) AS i", (MAX_KEPT - 1,),
    )  # fmt: skip

    with pytest.raises(Unavailable, match="10000 tasks are parked"):
        drive(tasks.park(parked("one more")))

    drive(tasks.park(parked(state="newer")))
    drive(tasks.take("t1", time.time()))
    drive(tasks.park(parked("one more")))


@bounded
def test_those_who_park_at_once_are_counted_one_after_the_other(dsn: str, store: PostgresStore) -> None:
    tasks = PostgresParkedTasks(store, KEY)
    with psycopg.connect(dsn) as parking, ThreadPoolExecutor(1) as pool:
        parking.execute("SELECT pg_advisory_xact_lock(4278092, 5)")
        waiting = pool.submit(lambda: drive(tasks.park(parked())))
        time.sleep(0.2)
        assert not waiting.done()

        parking.commit()

        waiting.result(5)


@bounded
def test_long_states_lapse_a_few_at_a_time(store: PostgresStore) -> None:
    tasks = PostgresParkedTasks(store, KEY)
    for number in range(6):
        drive(tasks.park(parked(f"t{number}", "x" * (3 << 20), ends=number - 100)))

    found = [[one.id for one in drive(tasks.lapsed(time.time()))] for _ in range(3)]

    assert [["t0", "t1", "t2"], ["t3", "t4", "t5"], []] == found


@closed
def test_task_that_somebody_holds_is_denied_within_the_deadline(dsn: str, store: PostgresStore) -> None:
    for name, ends in {"t1": 600, "held": -2, "ended": -1}.items():
        drive(PostgresParkedTasks(store, KEY).park(parked(name, ends=ends)))
    with closing(PostgresStore(dsn, timeout=0.5)) as hurried, psycopg.connect(dsn) as other:
        other.execute("SELECT * FROM agentguard.parked WHERE id IN ('t1', 'held') FOR UPDATE")

        assert _denied(lambda: drive(PostgresParkedTasks(hurried, KEY).take("t1", time.time()))) < 1
        assert ["ended"] == [one.id for one in drive(PostgresParkedTasks(hurried, KEY).lapsed(time.time()))]

    assert drive(PostgresParkedTasks(store, KEY).take("t1", time.time())) is not None


@closed
@pytest.mark.parametrize("name", ["\0", "\ud800"])
def test_task_whose_name_cannot_be_stored_is_denied(store: PostgresStore, name: str) -> None:
    tasks = PostgresParkedTasks(store, KEY)
    _denied(lambda: drive(tasks.park(parked(name))))
    _denied(lambda: drive(tasks.take(name, time.time())))


def test_schema_of_the_version_before_gains_parked_tasks_and_keeps_what_it_has(bare: str) -> None:
    with closing(PostgresStore(bare)) as store:
        assert drive(PostgresRedemptions(store).redeem("one", time.time() + 600, time.time()))
    with psycopg.connect(bare, autocommit=True) as raw:
        raw.execute("DROP TABLE agentguard.parked")
        raw.execute("UPDATE agentguard.version SET version = 2")

    with closing(PostgresStore(bare)) as store:
        tasks = PostgresParkedTasks(store, KEY)
        drive(tasks.park(parked()))

        assert drive(tasks.take("t1", time.time())) is not None
        assert not drive(PostgresRedemptions(store).redeem("one", time.time() + 600, time.time()))


# the ledger -----------------------------------------------------------------------------------------------------


def lease(identifier: str, *, parent: str = "", ends: float = 600, lasts: bool = False) -> Lease:
    key = LeaseKey("acme", "user:o'hara", "root", ("user:o'hara", "bot"), "pay", "https://api.test", ("a", "b"), "x/1")
    now = time.time()
    return Lease(
        id=identifier, issuer="broker", key=key, task="t", issued_at=now, expires_at=now + ends, parent=parent,
        lasts=lasts,
    )  # fmt: skip


@durable
def test_lease_is_outstanding_from_pending_until_it_is_revoked(ledger: PostgresLedger) -> None:
    assert isinstance(ledger, Ledger)
    assert waits(ledger)
    assert not ledger.suspends
    one = lease("one", lasts=True)
    drive(ledger.pending(one))
    drive(ledger.active(one, Secret("handle")))
    assert [one] == drive(ledger.outstanding(time.time() + 10_000))

    drive(ledger.ended(one, Ending.REVOKED))

    assert [] == drive(ledger.outstanding(time.time()))


def test_lease_that_ends_with_its_parent_is_gone_with_it(ledger: PostgresLedger) -> None:
    parent, child = lease("parent"), lease("child", parent="parent")
    for one in (parent, child):
        drive(ledger.pending(one))
    drive(ledger.ended(child, Ending.WITH_PARENT))
    assert ["parent", "child"] == [one.id for one in drive(ledger.outstanding(time.time()))]

    drive(ledger.ended(parent, Ending.REVOKED))

    assert [] == drive(ledger.outstanding(time.time()))


def test_expired_and_failed_rows_say_so(ledger: PostgresLedger) -> None:
    drive(ledger.pending(lease("short", ends=1)))
    drive(ledger.pending(lease("failing")))
    drive(ledger.failed(lease("failing"), "no answer"))
    drive(ledger.failed(lease("failing"), "no answer", irrevocable=True))
    drive(ledger.ended(lease("short"), Ending.EXPIRES))

    (row,) = drive(ledger.rows(time.time() + 60))

    assert ("failing", LeaseState.IRREVOCABLE, 2) == (row.lease.id, row.state, row.attempts)


@durable
def test_server_never_sees_a_handle(ledger: PostgresLedger, admin: psycopg.Connection[Any]) -> None:
    drive(ledger.active(lease("one"), Secret("a-secret-handle")))

    rows = admin.execute("SELECT * FROM agentguard.leases").fetchall()

    assert "a-secret-handle" not in repr(rows)
    assert rows[0][4]


def test_rows_of_the_dead_are_taken_over_once_by_all_who_ask(
    dsn: str, ledger: PostgresLedger, program: Callable[..., subprocess.Popen[str]]
) -> None:
    holder = program(HOLD)
    holder.kill()
    holder.wait()
    stores = [PostgresStore(dsn) for _ in range(6)]
    ledgers = [PostgresLedger(one, KEY) for one in stores]

    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda one: drive(one.adopt(time.time())), ledgers))

    assert ["held"] == [owed.lease.id for one in found for owed in one]
    for made in ledgers:
        made.close()
    for opened in stores:
        opened.close()


def test_owner_on_another_host_lives_until_it_was_silent_for_a_minute(
    ledger: PostgresLedger, admin: psycopg.Connection[Any], program: Callable[..., subprocess.Popen[str]]
) -> None:
    program(HOLD)
    admin.execute("UPDATE agentguard.owners SET host = 'h2', boot = 'b2' WHERE instance <> %s", (ledger.instance,))
    assert [] == drive(ledger.adopt(time.time() + 10_000))  # the server's clock counts

    admin.execute("UPDATE agentguard.owners SET beat = beat - 61 WHERE boot = 'b2'")

    assert ["held"] == [owed.lease.id for owed in drive(ledger.adopt(time.time()))]


@durable
def test_row_that_another_owner_took_is_not_written_any_more(dsn: str, ledger: PostgresLedger) -> None:
    one = lease("one")
    drive(ledger.pending(one))
    with closing(PostgresStore(dsn)) as second, closing(PostgresLedger(second, KEY)) as other:
        assert ["one"] == [owed.lease.id for owed in drive(other.take("one", time.time()))]

        with pytest.raises(Unavailable, match="belongs to another process"):
            drive(ledger.active(one))


def test_handle_under_another_key_is_not_known_and_its_row_stays(
    dsn: str, ledger: PostgresLedger, caplog: pytest.LogCaptureFixture
) -> None:
    drive(ledger.active(lease("one"), Secret("handle")))
    with closing(PostgresStore(dsn)) as second, closing(PostgresLedger(second, KEY[::-1])) as other:
        (owed,) = drive(other.take("one", time.time()))

    assert owed.handle is None
    assert "sealed under another key" in caplog.text


def configured(folder: Path, dsn: str) -> list[str]:
    """Write a configuration with this state; return the option that names it."""
    (folder / "agentguard.yaml").write_text(
        textwrap.dedent("""
            version: 1
            agents: {bot: {owners: {business: ann@bank.test}, purpose: Refunds}}
            tokens: {local: {issuer: "https://guard.bank.test", key: token.pem}}
            audit: {dir: audit, pseudonym_key: {file: key}}
            state: {postgres: {dsn: {file: dsn}}, key: {file: key}}
        """)
    )
    SigningKey.generate().write_pem_file(folder / "token.pem")
    for name, text in (("key", KEY.hex()), ("dsn", dsn)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o600)
    return ["--config", str(folder / "agentguard.yaml")]


def test_leases_in_postgresql_are_listed_and_ended_from_a_terminal(
    dsn: str, ledger: PostgresLedger, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = [structs.replace(lease(name), issuer="https://guard.bank.test") for name in ("living", "left")]
    drive(ledger.pending(mine[0]))
    with closing(PostgresStore(dsn)) as store, closing(PostgresLedger(store, KEY)) as dead:
        drive(dead.pending(mine[1]))
    said = configured(tmp_path, dsn)

    assert 1 == main(["leases", "list", "--json", *said])
    listed = json.loads(capsys.readouterr().out)
    assert [("living", "alive"), ("left", "dead")] == [(one["id"], one["owner"]) for one in listed["leases"]]
    assert not (tmp_path / "audit").exists()

    assert 0 == main(["leases", "recover", *said])
    assert "1 credential of dead processes found" in capsys.readouterr().out
    assert 0 == main(["leases", "list", *said])
    assert "1 credential outstanding" in capsys.readouterr().out
    assert ["living"] == [one.id for one in drive(ledger.outstanding(time.time()))]

    assert 1 == main(["leases", "revoke", "--task", "t", *said])
    assert "living: only the process that issued it can revoke it" in capsys.readouterr().out


def test_listing_makes_no_schema(bare: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert 2 == main(["leases", "list", *configured(tmp_path, bare)])
    assert "the schema agentguard" in capsys.readouterr().err
    with psycopg.connect(bare) as admin:
        found = admin.execute("SELECT 1 FROM pg_namespace WHERE nspname = 'agentguard'").fetchone()
    assert found is None


def test_rows_of_brokers_that_a_guard_does_not_have_are_left_to_one_that_has_them(
    dsn: str, ledger: PostgresLedger, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(PostgresStore(dsn)) as second, closing(PostgresLedger(second, KEY)) as first:
        for name, issuer, left in (("mine", "here", 600), ("theirs", "there", 600), ("over", "there", -600)):
            drive(first.pending(structs.replace(lease(name), issuer=issuer, expires_at=time.time() + left)))

    found = [sorted(owed.lease.id for owed in drive(ledger.adopt(time.time(), ["here"]))) for _ in range(2)]
    with closing(PostgresStore(dsn)) as third, closing(PostgresLedger(third, KEY)) as other:
        found.append([owed.lease.id for owed in drive(other.adopt(time.time(), ["there"]))])

    assert [["mine", "over"], [], ["theirs"]] == found
    assert 1 == caplog.text.count("whose brokers this guard does not have: there")


def test_beat_waits_for_no_owner_that_another_process_holds_while_it_adopts(
    dsn: str, ledger: PostgresLedger, admin: psycopg.Connection[Any]
) -> None:
    """It holds its own, so each of the two would wait for the other's."""
    drive(ledger.beat(0.0))
    admin.execute(
        "INSERT INTO agentguard.owners (instance, host, boot, namespace, pid, started, beat, closed) "
        "SELECT 'silent', host, boot, namespace, pid, started, beat, 1 FROM agentguard.owners"
    )
    with psycopg.connect(dsn) as adopting:
        adopting.execute("SELECT 1 FROM agentguard.owners WHERE instance = 'silent' FOR UPDATE")
        began = time.monotonic()
        drive(ledger.beat(100.0))
        assert time.monotonic() - began < 1.0
    drive(ledger.beat(200.0))
    assert [(ledger.instance,)] == admin.execute("SELECT instance FROM agentguard.owners").fetchall()


def test_host_that_hangs_leaves_the_next_one_its_share_of_the_time(dsn: str) -> None:
    at = psycopg.conninfo.conninfo_to_dict(dsn)
    with socket.create_server(("127.0.0.1", 0)) as hangs:
        ports = f"{hangs.getsockname()[1]},{at['port']}"
        both = psycopg.conninfo.make_conninfo(dsn, host=f"127.0.0.1,{at['host']}", port=ports)
        with closing(PostgresStore(both)) as store:
            began = time.monotonic()
            session = store.connect(began + 2.0)
            assert 0.9 < time.monotonic() - began < 1.9
            session.close()


def test_hosts_of_a_connection_string_are_tried_one_by_one_unless_they_are_chosen_among() -> None:
    def tried(text: str) -> list[tuple[Any, Any]]:
        found = [psycopg.conninfo.conninfo_to_dict(one) for one in _by_host(text)]
        return [(one.get("host"), one.get("port")) for one in found]

    assert [("a", "1"), ("b", "1")] == tried("host=a,b port=1 dbname=x")
    assert [("a", "1"), ("b", "2")] == tried("postgresql://a:1,b:2/x?target_session_attrs=read-write")
    assert [("a", None), ("b", None)] == tried("host=a,b")
    assert [("a", "1")] == tried("host=a port=1")
    assert [(None, None)] == tried("dbname=x")
    assert [("a,b", "1,2,3")] == tried("host=a,b port=1,2,3")  # libpq says what is wrong
    assert [("a,b", None)] == tried("host=a,b target_session_attrs=prefer-standby")


def test_closed_ledger_leaves_its_rows_to_the_next(dsn: str, ledger: PostgresLedger) -> None:
    with closing(PostgresStore(dsn)) as second:
        first = PostgresLedger(second, KEY)
        drive(first.pending(lease("left")))
        first.close()
        first.close()

    assert ["left"] == [owed.lease.id for owed in drive(ledger.adopt(time.time()))]
    drive(ledger.beat(time.time()))
    assert {ledger.instance} == drive(ledger.living(time.time()))


# the schema, roles, addresses -----------------------------------------------------------------------------------


def test_many_processes_migrate_at_once_and_only_once(bare: str) -> None:
    stores = [PostgresStore(bare, timeout=10) for _ in range(6)]
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda one: one.migrate(), stores))

    with psycopg.connect(bare) as connection:
        assert [(NEWEST,)] == connection.execute("SELECT version FROM agentguard.version").fetchall()
        connection.execute("UPDATE agentguard.version SET version = 99")
        connection.commit()
    with closing(PostgresStore(bare)) as late, pytest.raises(ConfigurationError, match="version 99"):
        drive(PostgresBudgets(late).standing(["a/b"]))
    for store in stores:
        store.close()


@dataclass(frozen=True)
class Role:
    dsn: str
    name: str


@pytest.fixture
def role(dsn: str, services: Services, admin: psycopg.Connection[Any]) -> Iterator[Role]:
    """A role with the privileges that the page names for everyday work, and no others."""
    name, password = f"state_{secrets.token_hex(4)}", secrets.token_urlsafe(12)
    admin.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(name), sql.Literal(password)))
    for statement in (
        "GRANT USAGE ON SCHEMA agentguard TO {}",
        "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA agentguard TO {}",
    ):
        admin.execute(sql.SQL(statement).format(sql.Identifier(name)))
    server = services.postgres
    yield Role(f"postgresql://{name}:{password}@{server.host}:{server.port}/{dsn.rpartition('/')[2]}", name)
    admin.execute(sql.SQL("DROP OWNED BY {}").format(sql.Identifier(name)))
    admin.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))


def test_everyday_role_needs_only_its_tables(role: Role) -> None:
    with closing(PostgresStore(role.dsn)) as store, closing(PostgresSuspensions(store)) as suspensions:
        assert isinstance(drive(PostgresBudgets(store).reserve(CALLS, 0.0)), Reservation)
        assert "" == drive(suspensions.start("r", ["all"], reads=True))
        drive(suspensions.suspend("all", "stop"))
        assert "all" == drive(suspensions.start("w", ["all"]))
        with closing(PostgresLedger(store, KEY)) as ledger:
            drive(ledger.pending(lease("one")))
        tasks = PostgresParkedTasks(store, KEY)
        drive(tasks.park(parked()))
        assert drive(tasks.take("t1", time.time())) is not None
        assert [] == drive(tasks.lapsed(time.time()))


def test_role_that_may_not_make_the_schema_is_told_what_to_run(bare: str, role: Role) -> None:
    elsewhere = f"{role.dsn.rpartition('/')[0]}/{bare.rpartition('/')[2]}"
    with closing(PostgresStore(elsewhere)) as store, pytest.raises(ConfigurationError, match="its owner"):
        drive(PostgresBudgets(store).standing(["a/b"]))
    with closing(PostgresStore(elsewhere, migrate=False)) as store, pytest.raises(ConfigurationError, match="migrate"):
        drive(PostgresBudgets(store).standing(["a/b"]))


@closed
def test_role_without_privileges_is_denied(role: Role, admin: psycopg.Connection[Any]) -> None:
    admin.execute(sql.SQL("REVOKE ALL ON agentguard.stops FROM {}").format(sql.Identifier(role.name)))
    with closing(PostgresStore(role.dsn)) as store, closing(PostgresSuspensions(store)) as suspensions:
        with pytest.raises(Unavailable, match="lacks a privilege"):
            drive(suspensions.start("w", ["all"]))
        with pytest.raises(Unavailable, match="cannot be trusted"):
            drive(suspensions.start("r", ["all"], reads=True))


def _held(error: BaseException) -> str:
    """All that an error shows, and what the frames of the library keep alive for it."""
    assert error.__context__ is None
    trace = traceback.walk_tb(error.__traceback__)
    frames = [frame for frame, _ in trace if "/src/agentguard/" in frame.f_code.co_filename]
    assert len(frames) > 3
    return repr((str(error), error.args, [frame.f_locals for frame in frames]))


@closed
def test_wrong_password_denies_and_is_not_shown(dsn: str, services: Services) -> None:
    wrong = dsn.replace(services.postgres.password, "a-wrong-password")
    with closing(PostgresStore(wrong)) as store, pytest.raises(Unavailable, match="password authentication") as raised:
        drive(PostgresBudgets(store).standing(["a/b"]))
    assert "a-wrong-password" not in _held(raised.value)


@closed
@pytest.mark.parametrize("text", ["host", "postgresql://user:s3cret-word@host:port/x", "host=x s3cret-word"])
def test_connection_string_that_cannot_be_read_is_not_shown(text: str) -> None:
    with closing(PostgresStore(text)) as store:
        with pytest.raises((ConfigurationError, Unavailable)) as raised:
            drive(PostgresBudgets(store).standing(["a/b"]))
        assert "s3cret" not in _held(raised.value)


@closed
def test_address_where_nobody_answers_denies_within_the_deadline() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()  # takes connections and says nothing
        port = silent.getsockname()[1]
        with closing(PostgresStore(f"postgresql://u@127.0.0.1:{port}/x", timeout=0.5)) as store:
            began = time.monotonic()
            with pytest.raises(Unavailable, match="did not answer in time"):
                drive(PostgresBudgets(store).standing(["a/b"]))
            assert time.monotonic() - began < 1

            with ThreadPoolExecutor(12) as pool:  # more than there are connections, one after the other in one lane
                took = list(
                    pool.map(lambda _: _denied(lambda: drive(PostgresBudgets(store).reserve(CALLS, 0.0))), "x" * 12)
                )
            assert max(took) < 1


# a server that stops --------------------------------------------------------------------------------------------


def _stable_port() -> int:
    """A free port that no client is given: while the server is away, a client in it would keep it from coming back."""
    while True:
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", 20_000 + secrets.randbelow(12_000)))
            return int(probe.getsockname()[1])


class Private:
    """A server of one test, which may be stopped and started."""

    def __init__(self, folder: Path) -> None:
        self.password = secrets.token_urlsafe(12)
        self.data = folder / "pg"
        servers._initdb(self.data, self.password)
        self.port = _stable_port()
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def server(self) -> Postgres:
        return Postgres("127.0.0.1", self.port, "admin", self.password, "postgres", self.data / "log")

    def start(self) -> None:
        command = [
            *servers._as_postgres(), str(install.postgres() / "postgres"), "-D", str(self.data / "cluster"),
            "-c", "listen_addresses=127.0.0.1", "-c", f"port={self.port}", "-c", "fsync=off",
            "-c", f"unix_socket_directories={self.data / 'socket'}",
        ]  # fmt: skip
        deadline = time.monotonic() + 30
        while not servers.postgres_answers(self.server):
            assert time.monotonic() < deadline, (self.data / "log").read_text()
            if self.process is None or self.process.poll() is not None:
                with (self.data / "log").open("ab") as log:
                    self.process = subprocess.Popen(
                        command, cwd=self.data, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
                    )
            time.sleep(0.05)

    def processes(self) -> list[int]:
        """The server and its sessions: all that have the first one as their parent."""
        assert self.process is not None
        first = self.process.pid
        children = Path(f"/proc/{first}/task/{first}/children").read_text().split()
        return [first, *map(int, children)]

    def send(self, number: signal.Signals) -> None:
        for pid in self.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def stop(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGINT)
        self.process.wait(30)


@pytest.fixture
def private() -> Iterator[Private]:
    # Not below tmp_path: the server runs as another user, whom each run of pytest that begins locks out there.
    with tempfile.TemporaryDirectory(prefix=FOLDER_PREFIX) as name:
        folder = Path(name)
        folder.chmod(0o711)
        made = Private(folder)
        yield made
        made.send(signal.SIGCONT)
        made.stop()


def _denied(work: Callable[[], object]) -> float:
    began = time.monotonic()
    with pytest.raises(Unavailable) as raised:
        work()
    assert raised.value.__context__ is None
    return time.monotonic() - began


@closed
@fresh
@pytest.mark.slow
def test_case_52_server_that_freezes_or_goes_denies_in_time_and_is_found_again(private: Private) -> None:
    with (
        closing(PostgresStore(private.server.dsn, timeout=1.0)) as store,
        closing(PostgresLedger(store, KEY)) as ledger,
        closing(PostgresSuspensions(store)) as suspensions,
    ):
        budgets, tasks = PostgresBudgets(store), PostgresParkedTasks(store, KEY)
        assert isinstance(drive(budgets.reserve(CALLS, 0.0)), Reservation)
        assert "" == drive(suspensions.start("w", ["all"]))
        assert "" == drive(suspensions.start("r", ["all"], reads=True))

        def all_is_denied() -> None:
            assert _denied(lambda: drive(budgets.reserve(CALLS, 0.0))) < 1.6
            assert _denied(lambda: drive(suspensions.start("w2", ["all"]))) < 1.6
            assert _denied(lambda: drive(suspensions.suspend("all", "stop"))) < 1.6
            assert _denied(lambda: drive(ledger.pending(lease("one")))) < 1.6
            assert _denied(lambda: drive(tasks.park(parked()))) < 1.6
            assert _denied(lambda: drive(tasks.take("t1", time.time()))) < 1.6
            assert _denied(lambda: drive(tasks.lapsed(time.time()))) < 1.6
            assert _denied(lambda: drive(suspensions.start("r2", ["all"], reads=True))) < 0.1

        def all_is_well(calls: str) -> None:
            eventually(lambda: suspensions._listener.mirror.fresh(), 10)
            assert isinstance(drive(budgets.reserve(CALLS, 0.0)), Reservation)
            assert [calls] == drive(budgets.standing(["agent:bot/calls"]))
            assert "" == drive(suspensions.start(f"w{calls}", ["agent:bot"]))
            assert "" == drive(suspensions.start("r", ["agent:bot"], reads=True))

        private.send(signal.SIGSTOP)  # it takes connections and never answers
        all_is_denied()
        private.send(signal.SIGCONT)
        all_is_well("2")

        private.stop()
        eventually(lambda: not suspensions._listener.mirror.fresh())
        all_is_denied()
        private.start()
        all_is_well("3")
