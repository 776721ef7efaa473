"""Forked children and killed processes."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from agentguard._drive import drive
from agentguard.audit.log import FileLog
from agentguard.audit.memory import MemoryLog
from agentguard.audit.verify import verify
from agentguard.errors import AuditUnavailable
from tests.audit.samples import calls, only_file, record, records_in

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def in_child(work: Callable[[], None]) -> None:
    """Run `work` in a forked child that leaves with os._exit, and see that it went well."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # other threads of the test run; 3.12 and later warn
        pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    assert 0 == os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def append_and_close(log: FileLog, times: int) -> None:
    for n in range(times):
        log.append(record(n))
    log.close()


def test_child_writes_its_own_chain_and_the_parent_goes_on_with_its_own(tmp_path: Path):
    log = FileLog(tmp_path)
    parent_file = only_file(tmp_path)
    before = log.append(record(1))

    def child() -> None:
        drive(log.flush(log.append(record(2))))

    in_child(child)
    after = log.append(record(3))
    log.close()

    (child_file,) = set(tmp_path.iterdir()) - {parent_file}
    opened = records_in(child_file)[0]
    assert (before.chain, before.seq, before.hash) == tuple(
        opened[name] for name in ("forked_from", "parent_seq", "parent_hash")
    )
    assert opened["chain"] != before.chain
    assert opened["pid"] != os.getpid()
    assert (["call-1", "call-3"], ["call-2"]) == (calls(records_in(parent_file)), calls(records_in(child_file)))
    assert before.seq + 1 == after.seq
    assert 2 == verify(tmp_path).chains


def test_child_that_records_nothing_makes_no_file(tmp_path: Path):
    log = FileLog(tmp_path)

    in_child(log.close)
    in_child(lambda: None)

    assert 1 == len(list(tmp_path.iterdir()))
    log.close()
    assert 1 == verify(tmp_path).chains


def test_grandchild_writes_a_third_chain(tmp_path: Path):
    log = FileLog(tmp_path)

    def child() -> None:
        log.append(record(1))
        in_child(lambda: append_and_close(log, 1))
        log.append(record(3))
        log.close()

    in_child(child)
    log.close()

    assert (3, 0) == (verify(tmp_path).chains, verify(tmp_path).unclosed)


def test_fork_while_another_thread_holds_the_locks_does_not_hang_the_child(tmp_path: Path):
    log = FileLog(tmp_path)
    with log._lock, log._sync_lock:
        in_child(lambda: drive(log.flush(log.append(record(1)))))

    log.close()
    assert 2 == verify(tmp_path).chains


def test_fork_during_appends_of_other_threads_keeps_both_logs_whole(tmp_path: Path):
    log = FileLog(tmp_path)
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            log.append(record(1))

    thread = threading.Thread(target=work)
    thread.start()
    try:
        for _ in range(5):
            in_child(lambda: append_and_close(log, 20))
    finally:
        stop.set()
        thread.join()
    log.close()

    assert (6, 0) == (verify(tmp_path).chains, verify(tmp_path).unclosed)


def test_position_of_the_parent_is_not_durable_for_the_child(tmp_path: Path):
    log = FileLog(tmp_path)
    position = log.append(record(1))

    def child() -> None:
        for prepare in (lambda: None, lambda: log.append(record(2))):
            prepare()
            with pytest.raises(AuditUnavailable, match="another process"):
                drive(log.flush(position))

    in_child(child)
    log.close()


def test_memory_log_starts_a_chain_in_the_child():
    log = MemoryLog()
    parent = log.append(record(1))

    def child() -> None:
        assert () == log.records
        position = log.append(record(2))
        assert (1, False) == (position.seq, position.chain == parent.chain)

    in_child(child)
    assert ["call-1"] == calls(log.records)


VICTIM = """
import sys, time
from agentguard.audit.log import FileLog
from agentguard.model.record import Event, Record

log = FileLog(sys.argv[1])
n = 0
while True:
    n += 1
    position = log.append(Record(Event.CALL_PERMITTED, {"call": f"call-{n}"}))
    sys.stdout.write(f"{position.seq} {position.hash}\\n")
    sys.stdout.flush()
"""


def test_killed_process_loses_no_record_that_was_appended(tmp_path: Path):
    victim = subprocess.Popen([sys.executable, "-c", VICTIM, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert victim.stdout is not None
    lines = [victim.stdout.readline() for _ in range(300)]
    victim.send_signal(signal.SIGKILL)
    lines += victim.stdout.read().splitlines(keepends=True)
    victim.wait()
    victim.stdout.close()
    said = dict(line.split() for line in lines if line.endswith("\n"))

    path = only_file(tmp_path)
    FileLog.repair(path)
    written = {str(each["seq"]): each["hash"] for each in records_in(path)}
    assert said.items() <= written.items()
    assert len(said) >= 300
    found = verify(path)
    assert (1, True) == (found.unclosed, found.unknown >= 300)


def test_log_of_a_living_process_cannot_be_repaired_or_taken_over(tmp_path: Path):
    log = FileLog(tmp_path)
    path = only_file(tmp_path)

    for other in (FileLog.repair, FileLog.reopen):
        with pytest.raises(AuditUnavailable, match="another process is writing"):
            other(path)

    in_child(lambda: None)  # a child that leaves does not take the lock along
    with pytest.raises(AuditUnavailable, match="another process is writing"):
        FileLog.repair(path)
    log.close()
    assert FileLog.repair(path) is None


def test_forgotten_log_gives_its_file_back(tmp_path: Path):
    log = FileLog(tmp_path)
    log.append(record(1))
    del log
    gc.collect()

    reopened = FileLog.reopen(only_file(tmp_path))
    reopened.close()

    assert json.loads(only_file(tmp_path).read_bytes().splitlines()[-1])["event"] == "log.closed"
