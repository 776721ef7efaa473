"""Cases 53 to 60: killed, cut off, out of disk or cancelled at any point, no credential outlives its task unseen."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from msgspec.structs import replace

from agentguard import CredentialUnavailable, Denied, Guard, Intent, guarded, step
from agentguard._drive import drive
from agentguard.audit.log import FileLog
from agentguard.audit.memory import MemoryLog
from agentguard.audit.repair import repair
from agentguard.audit.verify import verify
from agentguard.credentials.leases import Leases
from agentguard.credentials.revocation import PAUSES, SWEEP
from agentguard.errors import Unavailable
from agentguard.model.lease import Ending, Grant, Lease, LeaseKey, LeaseState, Secret
from agentguard.model.principal import Agent, Chain, Subject
from agentguard.model.record import Event, Record
from agentguard.state.sqlite import SqliteLedger
from agentguard.testing import FakeClock, FakeIssuer, fake_guard
from bench.authority import AUDIENCE, Client, RemoteIssuer, authority
from tests.adversarial.crash_program import KEY, POINTS

pytestmark = pytest.mark.slow  # processes, servers that hang, deadlines that pass

ROOT = Path(__file__).resolve().parents[2]
INTENT = Intent("Pay acme", step("pay", account="acme").times(10**6))
no_trace = pytest.mark.control("8 no credential outlives recovery")
closed = pytest.mark.control("8 no row, no credential")


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with authority() as found:
        yield found


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[SqliteLedger]:
    made = SqliteLedger(tmp_path / "state.db", KEY)
    yield made
    made.close()


def pay_with(work: Callable[[], Any]) -> Callable[[str], Any]:
    @guarded("pay", effect="write", audience=AUDIENCE)
    def pay(account: str) -> Any:
        return work()

    return pay


def lease_of(identifier: str, *, now: float = 0.0, lives: float = 600.0) -> Lease:
    now = now or time.time()
    return Lease(id=identifier, issuer="fake", key=grant().key, task="t", issued_at=now, expires_at=now + lives)


def nothing_left(issuer: FakeIssuer, ledger: SqliteLedger) -> bool:
    """Looked at through another one: a guard closes its ledger."""
    other = SqliteLedger(ledger.path, KEY)
    rows = drive(other.outstanding(time.time()))
    other.close()
    return not issuer.live and not rows


def grant(tool: str = "pay") -> Grant:
    chain = Chain(Subject("alice"), (Agent("bot"),))
    key = LeaseKey("", chain.subject.sub, "t", chain.names(), tool, AUDIENCE, (), "")
    return Grant(key=key, chain=chain, task="t", intent_s256="s", deadline=4e9)


# 53 --------------------------------------------------------------------------------------------------------------


def killed(folder: Path, port: int, point: str, mode: str, kind: str, ttl: float) -> int:
    words = [str(folder), str(port), point, mode, kind, str(ttl)]
    command = [sys.executable, "-m", "tests.adversarial.crash_program", *words]
    return subprocess.run(command, cwd=ROOT, timeout=60, check=False).returncode


class Recovered:
    """What a later process finds, and does."""

    def __init__(self, folder: Path, port: int, *, named: bool) -> None:
        for file in (folder / "audit").glob("*.jsonl"):
            repair(file, time.time_ns)
        self.ledger = SqliteLedger(folder / "state.db", KEY)
        self.log = FileLog(folder / "audit")
        issuer = RemoteIssuer(port, named=named)
        self.leases = Leases(issuer, self.ledger, lambda event, fields: self._record(event, fields), time.time)
        self.rows = drive(self.leases.recover())

    def _record(self, event: Event, fields: Any) -> None:
        self.log.append(Record(event, fields))

    def outstanding(self, *, within: float) -> int:
        until = time.monotonic() + within
        while (left := drive(self.leases.outstanding())) and time.monotonic() < until:
            time.sleep(0.1)
            drive(self.leases.tend())
        return left

    def close(self) -> None:
        drive(self.leases.tend())
        self.log.close()
        self.ledger.close()


def permitted(folder: Path) -> set[str]:
    records = [json.loads(line) for file in folder.glob("*.jsonl") for line in file.read_text().splitlines()]
    return {record["call"] for record in records if record["event"] == Event.CALL_PERMITTED}


@no_trace
@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize(("mode", "kind"), [("sync", "named"), ("async", "opaque")])
def test_case_53_killed_at_any_point_nothing_outlives_recovery(
    tmp_path: Path, port: int, point: str, mode: str, kind: str
) -> None:
    """What its server can end by name is gone at once; what it cannot, by the time that stood in the row."""
    ask = Client(port)
    before = ask("/state")

    status = killed(tmp_path, port, point, mode, kind, ttl=1.0 if kind == "opaque" else 60.0)
    recovered = Recovered(tmp_path, port, named=kind == "named")
    left = recovered.outstanding(within=0.0 if kind == "named" else 6.0)
    after = ask("/state")
    recovered.close()
    found = verify(tmp_path / "audit")
    acted = set(after["actions"]) - set(before["actions"])

    assert -9 == status
    assert 1 == recovered.rows
    assert (0, []) == (left, after["alive"])
    assert 0 == found.outstanding
    assert acted <= permitted(tmp_path / "audit")
    assert (point in ("during execute", "before revoke", "after revoke")) == bool(acted)


@no_trace
def test_case_53_a_run_that_nobody_kills_leaves_nothing_to_recover(tmp_path: Path, port: int) -> None:
    assert 0 == killed(tmp_path, port, "never", "sync", "named", 60.0)

    recovered = Recovered(tmp_path, port, named=True)
    recovered.close()

    assert 0 == recovered.rows
    assert [] == Client(port)("/state")["alive"]


# 54, 55 ----------------------------------------------------------------------------------------------------------


@closed
def test_case_54_a_half_written_end_of_the_write_ahead_log_loses_no_row(tmp_path: Path, port: int) -> None:
    killed(tmp_path, port, "during execute", "sync", "named", 60.0)
    with open(tmp_path / "state.db-wal", "ab") as torn:
        torn.write(os.urandom(1000))

    recovered = Recovered(tmp_path, port, named=True)
    recovered.close()

    assert 1 == recovered.rows
    assert [] == Client(port)("/state")["alive"]


@closed
def test_case_54_a_full_disk_denies_and_nothing_is_issued(tmp_path: Path) -> None:
    """The limit on file sizes makes every write of the system fail, as a full disk does."""
    program = """
        import resource, signal, sys
        from agentguard import Denied, Intent, guarded, step
        from agentguard.state.sqlite import SqliteLedger
        from agentguard.testing import FakeIssuer, fake_guard
        issuer, ran = FakeIssuer(), []
        @guarded("pay", effect="write", audience="https://api.test")
        def pay(account: str) -> None:
            ran.append(account)
        ledger = SqliteLedger(sys.argv[1], b"a key of the tests, 32 bytes long")
        guard = fake_guard(issuer=issuer, ledger=ledger)
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
        with guard.task("bot", on_behalf_of="alice", intent=Intent("Pay", step("pay", account="acme").times(9))):
            try:
                pay("acme")
            except Denied as denied:
                print(denied.reason, denied.decision.miss.text)
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            print(issuer.issued, ran)
            pay("acme")
            print(issuer.issued, ran)
        print(guard.outstanding())
        guard.close()
        ledger.close()
    """
    command = [sys.executable, "-c", textwrap.dedent(program), str(tmp_path / "state.db")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    reason, *rest = done.stdout.splitlines()
    assert "" == done.stderr
    assert reason.startswith("credential_unavailable ")
    assert "state.db" in reason
    assert ["[] []", "['lease-1'] ['acme']", "0"] == rest or ["[] []", "['lease-2'] ['acme']", "0"] == rest


@closed
@pytest.mark.parametrize("what", ["read-only", "locked", "removed"])
def test_case_54_a_ledger_that_cannot_be_written_denies_and_nothing_is_issued(tmp_path: Path, what: str) -> None:
    issuer, ledger = FakeIssuer(), SqliteLedger(tmp_path / "state.db", KEY, timeout=0.2)
    ran: list[int] = []
    pay = pay_with(lambda: ran.append(1))
    other = sqlite3.connect(tmp_path / "state.db", isolation_level=None)
    with fake_guard(issuer=issuer, ledger=ledger) as guard, guard.task("bot", on_behalf_of="alice", intent=INTENT):
        if what == "read-only":
            with ledger._database.read() as raw:
                raw.execute("PRAGMA query_only = 1")
        elif what == "locked":
            other.execute("BEGIN IMMEDIATE")
        else:
            (tmp_path / "state.db").rename(tmp_path / "elsewhere.db")
        with pytest.raises(Denied) as denied:
            pay("acme")
    other.close()
    ledger.close()

    assert "credential_unavailable" == denied.value.reason
    assert ([], []) == (issuer.issued, ran)


@closed
def test_case_54_two_processes_on_one_file_both_issue_and_neither_touches_the_others_rows(
    tmp_path: Path, port: int, ledger: SqliteLedger
) -> None:
    mine = lease_of("mine")
    drive(ledger.pending(mine))

    assert 0 == killed(tmp_path, port, "never", "sync", "named", 60.0)

    assert [mine] == drive(ledger.outstanding(time.time()))


class Forgetful(SqliteLedger):
    """Its disk fails once the credential exists."""

    async def active(self, lease: Lease, handle: Secret | None = None) -> None:
        raise Unavailable("the disk failed")


@no_trace
def test_case_55_issued_but_not_kept_in_the_ledger_is_revoked_at_once_and_the_tool_does_not_run(tmp_path: Path) -> None:
    issuer, ledger = FakeIssuer(), Forgetful(tmp_path / "state.db", KEY)
    ran: list[int] = []
    pay = pay_with(lambda: ran.append(1))

    with fake_guard(issuer=issuer, ledger=ledger) as guard, guard.task("bot", on_behalf_of="alice", intent=INTENT):
        with pytest.raises(Denied):
            pay("acme")
        assert ["lease-1"] == issuer.issued == issuer.revoked

    assert not ran
    assert nothing_left(issuer, ledger)
    ledger.close()


# 56, 57 ----------------------------------------------------------------------------------------------------------


def leases_of(issuer: FakeIssuer, ledger: SqliteLedger, clock: Callable[[], float] = time.time) -> Leases:
    leases = Leases(issuer, ledger, lambda event, fields: None, clock)
    leases.open_task("t")
    return leases


@pytest.mark.anyio
async def test_case_56_a_hundred_at_once_under_one_key_share_one_credential(ledger: SqliteLedger) -> None:
    issuer = FakeIssuer(suspends=True)
    leases, got = leases_of(issuer, ledger), list[str]()

    async def one() -> None:
        got.append((await leases.obtain(grant())).held.issued.lease.id)

    async with anyio.create_task_group() as group:
        for _ in range(100):
            group.start_soon(one)
    await leases.end_task("t")

    assert ["lease-1"] == issuer.issued
    assert ["lease-1"] * 100 == got
    assert not issuer.live
    assert [] == await ledger.outstanding(time.time())


@pytest.mark.anyio
async def test_case_56_a_cancelled_leader_takes_nobody_with_it_and_leaves_nothing(ledger: SqliteLedger) -> None:
    issuer = FakeIssuer(suspends=True)
    leases, got = leases_of(issuer, ledger), list[str]()

    async def one(scope: anyio.CancelScope) -> None:
        with scope:
            got.append((await leases.obtain(grant())).held.issued.lease.id)

    leader = anyio.CancelScope()
    async with anyio.create_task_group() as group:
        group.start_soon(one, leader)
        await anyio.lowlevel.checkpoint()
        for _ in range(20):
            group.start_soon(one, anyio.CancelScope())
        leader.cancel()
    await leases.end_task("t")

    assert 20 == len(got)
    assert 1 == len(set(got))
    assert not issuer.live
    assert [] == await ledger.outstanding(time.time())


def test_case_57_a_failing_refresh_serves_what_is_good_and_then_denies(tmp_path: Path) -> None:
    clock, issuer = FakeClock(), FakeIssuer()
    ledger = SqliteLedger(tmp_path / "state.db", KEY, clock=clock)
    leases = leases_of(issuer, ledger, clock)
    first = drive(leases.obtain(grant()))
    drive(leases.release(first))
    issuer.issue_error = OSError("down")

    clock.advance(20)
    assert "lease-1" == drive(leases.obtain(grant())).held.issued.lease.id
    clock.advance(6)
    with pytest.raises(CredentialUnavailable):
        drive(leases.obtain(grant()))
    issuer.issue_error = None
    assert "lease-1" != drive(leases.obtain(grant())).held.issued.lease.id
    drive(leases.end_task("t"))

    assert not issuer.live
    assert [] == drive(ledger.outstanding(clock()))
    ledger.close()


# 58 --------------------------------------------------------------------------------------------------------------


@no_trace
@pytest.mark.parametrize(
    "error",
    [KeyboardInterrupt(), GeneratorExit(), SystemExit(3), asyncio.CancelledError(), TimeoutError(), ValueError()],
    ids=lambda error: type(error).__name__,
)
def test_case_58_whatever_leaves_the_tool_its_credential_is_revoked(ledger: SqliteLedger, error: BaseException) -> None:
    issuer = FakeIssuer()

    def work() -> None:
        raise error

    with pytest.raises(type(error)):
        with fake_guard(issuer=issuer, ledger=ledger) as guard, guard.task("bot", on_behalf_of="alice", intent=INTENT):
            pay_with(work)("acme")

    assert ["lease-1"] == issuer.revoked
    assert nothing_left(issuer, ledger)


@no_trace
@pytest.mark.anyio
@pytest.mark.parametrize("suspends", [True, False])
async def test_case_58_a_cancelled_task_revokes_shielded(ledger: SqliteLedger, suspends: bool) -> None:
    """Also with an issuer that itself never waits: its ledger does."""
    issuer, started = FakeIssuer(suspends=suspends), anyio.Event()

    @guarded("pay", effect="write", audience=AUDIENCE)
    async def pay(account: str) -> None:
        started.set()
        await anyio.sleep_forever()

    async def task() -> None:
        async with guard.task("bot", on_behalf_of="alice", intent=INTENT):
            await pay("acme")

    with fake_guard(issuer=issuer, ledger=ledger) as guard:
        async with anyio.create_task_group() as group:
            group.start_soon(task)
            await started.wait()
            group.cancel_scope.cancel()

        assert ["lease-1"] == issuer.issued == issuer.revoked
        assert [] == await ledger.outstanding(time.time())


@no_trace
def test_case_58_a_closed_generator_tool_revokes(ledger: SqliteLedger) -> None:
    issuer = FakeIssuer()

    @guarded("pay", effect="write", audience=AUDIENCE)
    def pay(account: str) -> Iterator[str]:
        yield "one"
        yield "two"

    with fake_guard(issuer=issuer, ledger=ledger) as guard:
        with guard.task("bot", on_behalf_of="alice", intent=INTENT):
            parts = pay("acme")
            next(parts)
            assert issuer.live
            parts.close()  # type: ignore[attr-defined]  # a generator

    assert nothing_left(issuer, ledger)


@no_trace
def test_case_58_a_forked_child_ends_nothing_of_its_parents(ledger: SqliteLedger) -> None:
    issuer = FakeIssuer()

    def fork() -> int:
        child = os.fork()
        if not child:
            code = 1
            try:
                code = 10 * len(drive(ledger.adopt(time.time()))) + len(issuer.revoked)
            finally:
                os._exit(code)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    with fake_guard(issuer=issuer, ledger=ledger) as guard, guard.task("bot", on_behalf_of="alice", intent=INTENT):
        assert 0 == pay_with(fork)("acme")
        assert 1 == len(drive(ledger.outstanding(time.time())))

    assert nothing_left(issuer, ledger)


EXITS = {
    "the interpreter ends": "",
    "sys.exit": "sys.exit(3)",
    "an exception": "raise ValueError('mine')",
    "a signal as KeyboardInterrupt": "os.kill(os.getpid(), signal.SIGINT); time.sleep(5)",
}


@no_trace
@pytest.mark.parametrize("how", EXITS)
def test_case_58_a_process_that_ends_with_an_open_task_revokes(tmp_path: Path, port: int, how: str) -> None:
    program = f"""
        import os, signal, sys, time
        from pathlib import Path
        from agentguard import Intent, guarded, step
        from bench.authority import AUDIENCE, RemoteIssuer
        from tests.adversarial.crash_program import KEY, SqliteLedger, act, guard_of
        issuer = RemoteIssuer(int(sys.argv[2]), ttl=60.0)
        guard = guard_of(Path(sys.argv[1]), issuer, SqliteLedger(Path(sys.argv[1]) / "state.db", KEY))
        @guarded("pay", effect="write", audience=AUDIENCE)
        def pay(account: str) -> None:
            act(issuer)
        guard.task("bot", on_behalf_of="alice", intent=Intent("Pay", step("pay", account="acme"))).__enter__()
        pay("acme")
        print(len(issuer.ask("/state")["alive"]), flush=True)
        {EXITS[how]}
    """
    command = [sys.executable, "-c", textwrap.dedent(program), str(tmp_path), str(port)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)

    assert "1\n" == done.stdout
    assert [] == Client(port)("/state")["alive"]


# 59 --------------------------------------------------------------------------------------------------------------


class Lasting(FakeIssuer):
    """A fake broker whose leases live an hour, so that they do not expire while their end is tried."""

    def prepare(self, grant: Grant, now: float) -> Lease:
        return replace(super().prepare(grant, now), expires_at=now + 3600)


@no_trace
def test_case_59_what_cannot_be_revoked_is_irrevocable_said_and_swept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock, issuer, events = FakeClock(), Lasting(), list[Event]()
    ledger = SqliteLedger(tmp_path / "state.db", KEY, clock=clock)
    leases = Leases(issuer, ledger, lambda event, fields: events.append(event), clock)
    leases.open_task("t")
    drive(leases.obtain(grant()))
    issuer.revoke_error = ConnectionError("down")

    with caplog.at_level(logging.ERROR, "agentguard"):
        drive(leases.end_task("t"))
        for pause in PAUSES:
            clock.advance(pause * 1.2)
            drive(leases.tend())
    (irrevocable,) = drive(ledger.rows(clock()))
    issuer.revoke_error = None
    drive(leases.tend())
    assert 1 == drive(leases.outstanding())
    clock.advance(SWEEP * 1.2)
    drive(leases.tend())

    assert LeaseState.IRREVOCABLE is irrevocable.state
    assert [1, 1] == [events.count(one) for one in (Event.CREDENTIAL_REVOKE_FAILED, Event.CREDENTIAL_IRREVOCABLE)]
    assert "could not be revoked in 7 attempts" in caplog.text
    assert Event.CREDENTIAL_REVOKED is events[-1]
    assert 0 == drive(leases.outstanding())
    ledger.close()


@no_trace
def test_case_59_the_next_process_asks_anew_for_what_was_irrevocable(tmp_path: Path) -> None:
    issuer, first = FakeIssuer(), SqliteLedger(tmp_path / "state.db", KEY)
    lease = lease_of("lease-1")
    issuer.live[lease.id] = lease
    drive(first.pending(lease))
    drive(first.failed(lease, "ConnectionError", irrevocable=True))
    first.close()

    second = SqliteLedger(tmp_path / "state.db", KEY)
    leases = leases_of(issuer, second)

    assert 1 == drive(leases.recover())
    assert nothing_left(issuer, second)
    second.close()


# 60 --------------------------------------------------------------------------------------------------------------


@pytest.mark.control("9 nothing starts after revoke-all returned")
def test_case_60_revoke_all_during_fifty_calls_stops_every_later_one(ledger: SqliteLedger) -> None:
    issuer, stopped, late = FakeIssuer(), threading.Event(), list[int]()
    ready = threading.Barrier(51)

    def work() -> None:
        if stopped.is_set():
            late.append(1)
        time.sleep(0.001)

    def run(number: int, guard: Guard) -> str:
        pay = pay_with(work)
        with guard.task("bot", on_behalf_of="alice", intent=INTENT):
            pay("acme")
            ready.wait(30)
            while True:
                before = stopped.is_set()
                try:
                    pay("acme")
                except Denied as denied:
                    return denied.reason
                if before:
                    late.append(1)

    with fake_guard(issuer=issuer, ledger=ledger, audit=MemoryLog()) as guard, ThreadPoolExecutor(50) as pool:
        runs = [pool.submit(run, number, guard) for number in range(50)]
        ready.wait(30)
        time.sleep(0.05)
        guard.revoke_all("test")
        stopped.set()
        reasons = {one.result(30) for one in runs}
        alive = len(issuer.live)  # what was being issued meanwhile was rolled back, and handed to nobody

    assert [] == late
    assert 0 == alive
    assert reasons <= {"suspended", "credential_unavailable"}
    assert nothing_left(issuer, ledger)


@pytest.mark.anyio
async def test_case_60_revoked_twice_and_while_in_use_it_is_revoked_once(ledger: SqliteLedger) -> None:
    issuer = FakeIssuer(suspends=True)
    leases = leases_of(issuer, ledger)
    use = await leases.obtain(grant())

    async with anyio.create_task_group() as group:
        for _ in range(10):
            group.start_soon(leases.revoke, use.held.issued.lease.id, "leaked")
        group.start_soon(leases.end_task, "t")
        group.start_soon(leases.release, use)

    assert ["lease-1"] == issuer.revoked
    assert not use.credential.live
    assert [] == await ledger.outstanding(time.time())


def test_case_60_endings_are_idempotent_in_the_ledger(ledger: SqliteLedger) -> None:
    lease = lease_of("lease-1")
    drive(ledger.pending(lease))
    for ending in (Ending.REVOKED, Ending.REVOKED, Ending.EXPIRES):
        drive(ledger.ended(lease, ending))
    drive(ledger.failed(lease, "late"))

    assert [] == drive(ledger.outstanding(time.time()))
