"""After a crash: calls that were decided and have no outcome are closed as unknown, once; no old file is touched."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from agentguard.audit import unknown
from agentguard.audit.chain import decode
from agentguard.audit.log import FileLog
from agentguard.audit.unknown import close_unknown, recover
from agentguard.audit.verify import verify
from agentguard.model.record import Event, Record
from tests.audit.samples import chained, written
from tests.audit.validity import problems_of_record

PERMITTED = Record(
    Event.CALL_PERMITTED,
    {"call": "c1", "task": "t1", "tool": "refund.create", "agent": "bot", "delegation": ["u:1", "bot"]},
)
ISSUED = Record(Event.CREDENTIAL_ISSUED, {"lease": "l1", "task": "t1"})
OPENED = Record(Event.LOG_OPENED, {"pid": 1, "host": "h", "version": "1"})


def ledger(lease: str) -> str:
    return f"expires ({lease})"


def killed(directory: Path, *records: Record, chain: str = "d" * 32, name: str = "audit-dead.jsonl") -> Path:
    """The log of a process that was killed: nobody holds its lock."""
    directory.mkdir(exist_ok=True)
    return written(directory, chained([OPENED, *records], chain), name)


def recovered(directory: Path) -> list[Record]:
    """What a new process does."""
    log = FileLog(directory)
    found = close_unknown(directory, ledger)
    for each in found:
        log.append(each)
    log.close()
    return found


@pytest.mark.control("unknown outcome is closed")
def test_call_without_an_outcome_is_closed_with_the_fate_of_its_lease(tmp_path: Path) -> None:
    path = killed(tmp_path, PERMITTED, ISSUED)
    before = path.read_bytes()
    assert 1 == verify(tmp_path).unknown

    (found,) = recovered(tmp_path)

    assert "call.unknown" == found.event
    assert {
        "call": "c1", "task": "t1", "tool": "refund.create", "log": "d" * 32, "decision": f"{'d' * 32}:2",
        "decided": decode(before.splitlines(keepends=True)[1])["time"],
        "leases": [{"lease": "l1", "fate": "expires (l1)"}], "agent": "bot", "delegation": ["u:1", "bot"],
    } == dict(found.fields)  # fmt: skip
    assert 0 == verify(tmp_path).unknown
    assert before == path.read_bytes()


def test_call_is_closed_once(tmp_path: Path) -> None:
    killed(tmp_path, PERMITTED)
    assert 1 == len(recovered(tmp_path))

    assert [] == recovered(tmp_path)


@pytest.mark.parametrize("outcome", [Event.CALL_COMPLETED, Event.CALL_FAILED, Event.CALL_CANCELLED, Event.CALL_DENIED])
def test_call_with_an_outcome_is_left_alone(tmp_path: Path, outcome: Event) -> None:
    killed(tmp_path, PERMITTED, Record(outcome, {"call": "c1", "task": "t1", "tool": "refund.create"}))

    assert [] == recovered(tmp_path)


def test_lease_that_ended_or_belongs_to_another_task_is_not_named(tmp_path: Path) -> None:
    other = Record(Event.CREDENTIAL_ISSUED, {"lease": "l2", "task": "t2"})
    killed(tmp_path, PERMITTED, ISSUED, other, Record(Event.CREDENTIAL_REVOKED, {"lease": "l1", "task": "t1"}))

    (found,) = recovered(tmp_path)
    assert [] == found.fields["leases"]


def test_ledger_that_cannot_be_asked_leaves_the_fate_unknown(tmp_path: Path) -> None:
    def down(lease: str) -> str:
        raise ConnectionError

    killed(tmp_path, PERMITTED, ISSUED)

    (found,) = close_unknown(tmp_path, down)
    assert [{"lease": "l1", "fate": "unknown"}] == found.fields["leases"]


@pytest.mark.control("living logs are left alone")
def test_call_of_a_living_process_or_of_this_one_is_left_alone(tmp_path: Path) -> None:
    log = FileLog(tmp_path, max_bytes=4096)
    for n in range(10):
        log.append(Record(Event.CALL_PERMITTED, {"call": f"c{n}", "task": "t", "tool": "x", "text": "x" * 900}))

    assert len(list(tmp_path.iterdir())) > 2
    assert [] == close_unknown(tmp_path, ledger)
    log.close()
    assert [] == close_unknown(tmp_path, ledger)


@pytest.mark.control("living logs are left alone")
@pytest.mark.parametrize("poisoned", [False, True])
def test_call_of_a_living_process_that_rotates_meanwhile_is_left_alone(
    tmp_path: Path, poisoned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, listed = FileLog(tmp_path / "audit", max_bytes=4096), unknown._chains
    log.append(PERMITTED)

    def rotated(directory: Path) -> list[Sequence[Path]]:
        found = listed(directory)
        assert log._segment is not None
        log._segment.poisoned, log._segment.room = poisoned, 0 if poisoned else log._segment.room
        while len(list(directory.iterdir())) < 2:
            log.append(Record(Event.CALL_COMPLETED, {"call": "c2", "text": "x" * 900}))
        log.append(Record(Event.CALL_COMPLETED, {"call": "c1"}))
        return found

    monkeypatch.setattr(unknown, "_chains", rotated)

    assert [] == close_unknown(tmp_path / "audit", ledger)
    log.close()


def test_rotated_files_of_one_chain_are_read_together(tmp_path: Path) -> None:
    log = FileLog(tmp_path / "audit", max_bytes=4096)
    for n in range(12):
        log.append(Record(Event.CALL_PERMITTED, {"call": f"c{n}", "task": "t", "tool": "x", "text": "x" * 900}))
    for n in range(11):
        log.append(Record(Event.CALL_COMPLETED, {"call": f"c{n}", "task": "t", "tool": "x", "text": "x" * 900}))
    assert log._segment is not None
    log._segment.close()  # as a killed process leaves it

    assert ["c11"] == [each.fields["call"] for each in close_unknown(tmp_path / "audit", ledger)]


def test_torn_line_and_lines_that_are_no_records_are_passed_over(tmp_path: Path) -> None:
    path = killed(tmp_path, PERMITTED)
    with path.open("ab") as file:
        file.write(b'{"event":"call.unknown"\n["event":"call."]\n{"event":"call.completed","call":"c1"')

    assert ["c1"] == [each.fields["call"] for each in close_unknown(tmp_path, ledger)]


def test_argument_that_looks_like_an_event_closes_nothing(tmp_path: Path) -> None:
    forged = {"call": "c1", "arguments": {"event": "call.unknown", "call": "c1"}}
    killed(tmp_path, PERMITTED, Record(Event.APPROVAL_ASKED, forged))

    assert 1 == len(close_unknown(tmp_path, ledger))


@pytest.mark.control("recovery is bounded")
def test_chain_that_there_was_no_time_to_read_whole_is_left_for_next_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed(tmp_path, PERMITTED)
    assert [] == close_unknown(tmp_path, ledger, seconds=0)

    first, *rest = chained([OPENED, PERMITTED, Record(Event.CALL_COMPLETED, {"call": "c1"})], "e" * 32)
    written(tmp_path, [first, rest[0]], "audit-e1.jsonl")
    path = written(tmp_path, rest[1:], "audit-e2.jsonl")
    newest = time.time_ns() + 10**9
    os.utime(path, ns=(newest, newest))
    moments = iter([0.0, 1.0, 1.0, 1.0, 1.0, 9.0, 9.0, 9.0])
    monkeypatch.setattr("agentguard.audit.unknown.time.monotonic", lambda: next(moments))

    assert [] == close_unknown(tmp_path, ledger, seconds=5)


def test_record_is_valid(tmp_path: Path) -> None:
    killed(tmp_path, PERMITTED, ISSUED)
    recovered(tmp_path)
    records = [decode(line) for path in tmp_path.iterdir() for line in path.read_bytes().splitlines(keepends=True)]

    (found,) = (each for each in records if each["event"] == "call.unknown")
    assert [] == problems_of_record(found)


def test_nothing_to_recover_in_an_empty_or_missing_directory(tmp_path: Path) -> None:
    (tmp_path / "audit-empty.jsonl").write_bytes(b"")

    assert [] == close_unknown(tmp_path, ledger)
    assert [] == close_unknown(tmp_path / "none", ledger)


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)  # another process works


@pytest.mark.control("unknown outcome is closed")
def test_call_of_a_process_that_was_killed_is_closed(tmp_path: Path) -> None:
    program = (
        "import sys, time\n"
        "from agentguard.audit.log import FileLog\n"
        "from agentguard.model.record import Event, Record\n"
        "log = FileLog(sys.argv[1])\n"
        "log.append(Record(Event.CALL_PERMITTED, {'call': 'c9', 'task': 't', 'tool': 'x'}))\n"
        "print('ready', flush=True)\n"
        "time.sleep(60)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ) as process:
        assert process.stdout is not None
        assert "ready\n" == process.stdout.readline()
        assert [] == close_unknown(tmp_path, ledger)
        process.send_signal(signal.SIGKILL)
        process.wait()
    until(lambda: close_unknown(tmp_path, ledger))

    assert ["c9"] == [each.fields["call"] for each in recovered(tmp_path)]
    assert 0 == verify(tmp_path).unknown


@pytest.mark.control("unknown outcome is closed")
def test_call_of_a_chain_that_went_on_and_died_again_is_closed_too(tmp_path: Path) -> None:
    directory, found = tmp_path / "audit", list[Record]()
    path = killed(directory, PERMITTED)
    for number in (2, 3):
        log = FileLog(directory)

        def append(record: Record, log: FileLog = log) -> None:
            found.append(record)
            log.append(record)

        recover(directory, ledger, append)
        recover(directory, ledger, append)
        log.close()
        again = FileLog.reopen(path)
        again.append(Record(Event.CALL_PERMITTED, {**PERMITTED.fields, "call": f"c{number}"}))
        assert again._segment is not None
        again._segment.close()  # gives the lock back, as the end of a killed process does
    assert ["c1", "c2"] == [record.fields["call"] for record in found]
